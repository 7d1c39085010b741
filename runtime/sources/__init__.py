"""Where frames come from: pictures, folders, globs, videos, cameras, streams."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from acd_edge.errors import SourceError, UsageError
from acd_edge.runtime.picture import PICTURE_SUFFIXES, read_picture
from acd_edge.runtime.preprocess import Pixels
from acd_edge.runtime.quiet import quietly
from acd_edge.runtime.sources.base import Frame, Kind, ReadOptions, Source
from acd_edge.runtime.sources.live import LiveSource, is_live
from acd_edge.runtime.sources.video import VIDEO_SUFFIXES, VideoSource
from acd_edge.runtime.sources.walk import Walk, glob_root

__all__ = ["Frame", "Kind", "LiveSource", "PictureSource", "ReadOptions", "Source", "VideoSource", "open_sources"]


@dataclass(frozen=True)
class PictureSource:
    """One picture file."""

    path: Path
    output: PurePosixPath
    options: ReadOptions = field(default_factory=ReadOptions)
    kind: Literal["picture"] = "picture"

    @property
    def name(self) -> str:
        """See `Source`."""
        return str(self.path)

    def frames(self) -> Iterator[Frame]:
        """See `Source`."""
        yield Frame(self.name, 0, quietly(self._read))

    def _read(self) -> Pixels:
        return read_picture(self.path, bit_depth=self.options.bit_depth, max_pixels=self.options.max_pixels)


def open_sources(
    texts: Sequence[str], options: ReadOptions | None = None, *, skip: Path | None = None
) -> tuple[list[Source], list[SourceError]]:
    """Find what the user named; nothing is read yet.

    Args:
        texts: paths, globs, camera indices, devices, addresses.
        options: how to read them.
        skip: the output folder; where it lies below a folder or glob, its pictures are not input again.

    Returns:
        The sources in order, folders and globs sorted, and an error for each text that names nothing.

    Raises:
        UsageError: more than one live source; each wants a process of its own.
    """
    options = options or ReadOptions()
    sources: list[Source] = []
    errors: list[SourceError] = []
    for text in texts:
        found, failed = _open_one(text, options, skip)
        sources += found
        errors += failed
    if sum(source.kind == "live" for source in sources) > 1:
        raise UsageError("one live source at a time, since it never ends; start a process for each")
    return sources, errors


def _open_one(text: str, options: ReadOptions, skip: Path | None) -> tuple[Sequence[Source], list[SourceError]]:
    if is_live(text):
        return [LiveSource(text, timeout=options.timeout, max_pixels=options.max_pixels)], []
    path = Path(text)
    if not text:
        return [], [SourceError("a source has an empty name; is a variable of your shell unset?")]
    if os.path.isdir(text):  # unlike Path's, these take every odd name
        walk = Walk(path, skip)
        return _open_all(text, walk, walk.files(), options)
    if os.path.lexists(text):
        return [_open_file(path, PurePosixPath(path.name), options)], []
    if glob.has_magic(text):
        root = glob_root(text)
        if ".." in path.parts[len(root.parts) :]:  # outputs mirror these names, and would leave their folder
            return [], [SourceError(f"{text} goes up ('..') behind a wildcard; name the folder itself")]
        walk = Walk(root, skip)
        return _open_all(text, walk, walk.matches(text), options)
    return [], [SourceError(f"{text} does not exist")]


def _open_all(
    text: str, walk: Walk, paths: Iterable[Path], options: ReadOptions
) -> tuple[list[Source], list[SourceError]]:
    known = PICTURE_SUFFIXES | VIDEO_SUFFIXES
    found = sorted({path for path in paths if path.suffix.lower() in known})
    if not found and not walk.errors:
        return [], [SourceError(f"{text} holds no picture and no video")]
    named = [_open_file(path, PurePosixPath(path.relative_to(walk.root).as_posix()), options) for path in found]
    return named, walk.errors


def _open_file(path: Path, shown: PurePosixPath, options: ReadOptions) -> Source:
    output = shown.with_suffix("")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSource(path, output, options.max_pixels)
    return PictureSource(path, output, options)
