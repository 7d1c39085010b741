"""The pictures of a folder that INT8 ranges are measured on: which they are, their digest, and reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from acd_edge.errors import ConfigError, SourceError
from acd_edge.runtime.picture import PICTURE_SUFFIXES
from acd_edge.runtime.preprocess import DEFAULT_RESIZE, Pixels, resize
from acd_edge.runtime.sources import PictureSource, ReadOptions
from acd_edge.runtime.sources.walk import Walk

__all__ = ["DEFAULT_COUNT", "MASK_FOLDERS", "CalibrationPictures", "find_pictures", "pictures_below"]

DEFAULT_COUNT = 128
MASK_FOLDERS = frozenset({"ground_truth", "ground truth", "masks", "anomaly_mask"})
"""Folders of data sets whose pictures are masks, in small letters; other names could be those of products."""

_NOWHERE = PurePosixPath()  # nothing is written
_CHUNK = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class CalibrationPictures:
    """Some or all pictures of a folder.

    Attributes:
        paths: sorted; spread evenly over the folder where it holds more.
        found: how many pictures the folder holds, without masks.
        masks: how many lie in `MASK_FOLDERS` below it and are left out.
        bit_depth: bits that their 16-bit files really use, see `read_picture`.
    """

    paths: tuple[Path, ...]
    found: int
    masks: int = 0
    bit_depth: int = 16

    @property
    def sha256(self) -> str:
        """Of the sorted digests of the files that are used: the same pictures give it under any name."""
        return hashlib.sha256(b"".join(sorted(_digest(path) for path in self.paths))).hexdigest()

    def read(self, size: int, rule: str = DEFAULT_RESIZE) -> Iterator[Pixels]:
        """Each picture as the graph gets it, (S, S, 3), read as `run` reads it, one at a time.

        Raises:
            SourceError: a picture is damaged; ranges of half a folder would not be those of the digest.
        """
        options = ReadOptions(bit_depth=self.bit_depth)
        for path in self.paths:
            for frame in PictureSource(path, _NOWHERE, options).frames():
                yield resize(frame.rgb, size, rule)


def find_pictures(folder: Path, count: int = DEFAULT_COUNT, bit_depth: int = 16) -> CalibrationPictures:
    """Choose up to `count` pictures below a folder, to be read with that bit depth.

    Raises:
        SourceError: it is no folder, holds no picture, or a folder below it may not be read.
        ConfigError: `count` is below one.
    """
    if count < 1:
        raise ConfigError(f"calibration wants one picture or more, got {count}")
    paths, masks = _listed(folder)
    chosen = tuple(paths[index * len(paths) // count] for index in range(count)) if len(paths) > count else paths
    return CalibrationPictures(paths=chosen, found=len(paths), masks=masks, bit_depth=bit_depth)


def pictures_below(folder: Path) -> tuple[Path, ...]:
    """Every picture below a folder but masks, sorted.

    Raises:
        SourceError: see `find_pictures`.
    """
    return _listed(folder)[0]


def _listed(folder: Path) -> tuple[tuple[Path, ...], int]:
    """The pictures, and how many masks were left out."""
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder; name one with pictures of what the camera will see")
    walk = Walk(folder)
    every = sorted(path for path in walk.files() if path.suffix.lower() in PICTURE_SUFFIXES)
    if walk.errors:
        raise walk.errors[0]
    paths = tuple(path for path in every if not _is_mask(path.relative_to(folder)))
    if not paths:
        masks = f" but {len(every)} in folders of masks" if every else ""
        raise SourceError(f"{folder} holds no picture{masks}; name a folder with pictures of what the camera will see")
    return paths, len(every) - len(paths)


def _is_mask(below: Path) -> bool:
    return any(part.lower() in MASK_FOLDERS for part in below.parts[:-1])


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.digest()
