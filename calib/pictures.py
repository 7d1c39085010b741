"""The pictures of a folder that INT8 ranges are measured on: which they are, their digest, and reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from acd_edge.errors import ConfigError, SourceError
from acd_edge.runtime.preprocess import DEFAULT_RESIZE, Pixels, resize
from acd_edge.runtime.sources import PictureSource, open_sources

__all__ = ["DEFAULT_COUNT", "CalibrationPictures", "find_pictures", "pictures_below"]

DEFAULT_COUNT = 128
_NOWHERE = PurePosixPath()  # nothing is written
_CHUNK = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class CalibrationPictures:
    """Some or all pictures of a folder.

    Attributes:
        paths: sorted; spread evenly over the folder where it holds more.
        found: how many pictures the folder holds.
    """

    paths: tuple[Path, ...]
    found: int

    @property
    def sha256(self) -> str:
        """Of the sorted digests of the files that are used: the same pictures give it under any name."""
        return hashlib.sha256(b"".join(sorted(_digest(path) for path in self.paths))).hexdigest()

    def read(self, size: int, rule: str = DEFAULT_RESIZE) -> Iterator[Pixels]:
        """Each picture as the graph gets it, (S, S, 3), read as `run` reads it, one at a time.

        Raises:
            SourceError: a picture is damaged; ranges of half a folder would not be those of the digest.
        """
        for path in self.paths:
            for frame in PictureSource(path, _NOWHERE).frames():
                yield resize(frame.rgb, size, rule)


def find_pictures(folder: Path, count: int = DEFAULT_COUNT) -> CalibrationPictures:
    """Choose up to `count` pictures below a folder.

    Raises:
        SourceError: it is no folder, or holds no picture.
        ConfigError: `count` is below one.
    """
    if count < 1:
        raise ConfigError(f"calibration wants one picture or more, got {count}")
    paths = pictures_below(folder)
    chosen = tuple(paths[index * len(paths) // count] for index in range(count)) if len(paths) > count else paths
    return CalibrationPictures(paths=chosen, found=len(paths))


def pictures_below(folder: Path) -> tuple[Path, ...]:
    """Every picture below a folder, sorted.

    Raises:
        SourceError: it is no folder, or holds no picture.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder; name one with pictures of what the camera will see")
    sources, errors = open_sources([str(folder)])
    if errors:
        raise errors[0]
    paths = tuple(source.path for source in sources if isinstance(source, PictureSource))
    if not paths:
        raise SourceError(f"{folder} holds no picture")
    return paths


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.digest()
