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
from acd_edge.runtime.sources.base import Frame, Kind, ReadOptions, Source
from acd_edge.runtime.sources.live import LiveSource, is_live
from acd_edge.runtime.sources.video import VIDEO_SUFFIXES, VideoSource

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
        rgb = read_picture(self.path, bit_depth=self.options.bit_depth, max_pixels=self.options.max_pixels)
        yield Frame(self.name, 0, rgb)


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
        try:
            sources.extend(_open_one(text, options, skip))
        except SourceError as error:  # noqa: PERF203  # one bad name does not stop the others
            errors.append(error)
    if sum(source.kind == "live" for source in sources) > 1:
        raise UsageError("one live source at a time, since it never ends; start a process for each")
    return sources, errors


def _open_one(text: str, options: ReadOptions, skip: Path | None) -> Iterable[Source]:
    if is_live(text):
        return [LiveSource(text, timeout=options.timeout)]
    path = Path(text)
    if path.is_dir():
        return _open_all(text, path, _files_below(path, _inside(skip, path)), options)
    if path.exists():
        return [_open_file(path, PurePosixPath(path.name), options)]
    if glob.has_magic(text):
        root = _glob_root(text)
        return _open_all(text, root, _matches(text, _inside(skip, root)), options)
    raise SourceError(f"{text} does not exist")


def _open_all(text: str, root: Path, paths: Iterable[Path], options: ReadOptions) -> list[Source]:
    known = PICTURE_SUFFIXES | VIDEO_SUFFIXES
    found = sorted({path for path in paths if path.suffix.lower() in known})
    if not found:
        raise SourceError(f"{text} holds no picture and no video")
    return [_open_file(path, PurePosixPath(path.relative_to(root).as_posix()), options) for path in found]


def _open_file(path: Path, shown: PurePosixPath, options: ReadOptions) -> Source:
    output = shown.with_suffix("")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSource(path, output)
    return PictureSource(path, output, options)


def _matches(pattern: str, skip: Path | None) -> Iterator[Path]:
    for match in map(Path, glob.iglob(pattern, recursive=True)):
        if match.is_dir():
            yield from _files_below(match, skip)
        elif not _is_below(match, skip):
            yield match


def _files_below(folder: Path, skip: Path | None) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not _is_below(Path(parent, name), skip)]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _inside(skip: Path | None, root: Path) -> Path | None:
    """The output folder where it lies below what is read; one that is or holds the input hides nothing of it."""
    return skip if skip is not None and skip.resolve() != root.resolve() and _is_below(skip, root) else None


def _is_below(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


def _glob_root(pattern: str) -> Path:
    """The folder before the first wildcard."""
    plain = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)
