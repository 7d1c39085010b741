"""One labelled picture, and its pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from acd_edge.errors import DataError
from acd_edge.runtime.picture import read_picture
from acd_edge.runtime.preprocess import resize

Part = Literal["train", "valid", "test"]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled picture.

    Attributes:
        image: the picture's file.
        mask: the file of its defect mask; None for a good picture, and for a defect whose place is not known.
        label: 0 good, 1 defective.
        category: what the picture shows; it names the product, as in `metal_nut`.
        part: which part of its data set it was published in.
        data_set: the name of a published set (`acd_edge.data.sets`), or of the folder or list it came from.
        bit_depth: bits that its picture uses where that has 16, see `read_picture`; a mask is no camera's.
    """

    image: Path
    mask: Path | None
    label: int
    category: str
    part: Part = "test"
    data_set: str = ""
    bit_depth: int = 16

    @property
    def has_mask(self) -> bool:
        """Whether every pixel's label is known."""
        return self.label == 0 or self.mask is not None


def categories_of(samples: Iterable[Sample]) -> list[str]:
    """The categories in their order of appearance."""
    return list(dict.fromkeys(sample.category for sample in samples))


def read_sample(sample: Sample, size: int) -> tuple[Bytes, Bytes]:
    """Decode a sample at the model's size.

    Returns:
        the picture, uint8 RGB (size, size, 3), stretched by the device's own resize rule; its mask, uint8
        (size, size), 1 where defective, by nearest pixel. A defect without a mask file has an empty mask.

    Raises:
        DataError: a file cannot be decoded, the mask is of another size, or it is empty.
    """
    picture, mask = read_full(sample)
    return resize(picture, size), nearest(mask, (size, size))


def read_full(sample: Sample) -> tuple[Bytes, Bytes]:
    """Decode a sample at its own size: uint8 RGB (H, W, 3) and 0/1 mask (H, W). Raises as `read_sample`."""
    picture = read_pixels(sample.image, bit_depth=sample.bit_depth)
    if sample.mask is None:
        return picture, np.zeros(picture.shape[:2], np.uint8)
    mask = binary_mask(read_pixels(sample.mask))
    if misfit := misfit_of(sample, picture, mask):
        raise DataError(misfit[1])
    return picture, mask


def misfit_of(sample: Sample, picture: Bytes, mask: Bytes) -> tuple[Literal["size mismatch", "empty mask"], str] | None:
    """What keeps a picture (H, W, 3) and its 0/1 mask from being a pair, and a sentence that names both files."""
    if mask.shape != picture.shape[:2]:
        (height, width), (rows, columns) = picture.shape[:2], mask.shape
        sizes = f"mask {sample.mask} is {columns}x{rows}, its picture {sample.image} {width}x{height}"
        return "size mismatch", sizes
    if sample.label == 1 and not mask.any():
        empty = f"mask {sample.mask} is empty, but {sample.image} is labelled defective; move the pair away"
        return "empty mask", empty
    return None


def read_pixels(path: Path, *, bit_depth: int = 16) -> Bytes:
    """A picture file as upright uint8 RGB (H, W, 3); `bit_depth` as in `read_picture`.

    Raises:
        DataError: it cannot be decoded.
    """
    try:
        return read_picture(path, bit_depth=bit_depth)
    except OSError as error:  # SourceError is one
        raise DataError(f"cannot read {path}: {error}") from error


def binary_mask(pixels: Bytes) -> Bytes:
    """Turn a mask picture (H, W, 3) into 0 and 1: above 127, or above 0 where no pixel is (masks of class numbers).

    >>> binary_mask(np.array([[[0] * 3, [3] * 3]], np.uint8)).tolist()
    [[0, 1]]
    >>> binary_mask(np.array([[[9] * 3, [255] * 3]], np.uint8)).tolist()
    [[0, 1]]
    """
    brightest = pixels.max(axis=2)
    return np.asarray(brightest > (127 if brightest.max(initial=0) > 127 else 0), np.uint8)


def nearest(mask: Bytes, size_hw: tuple[int, int]) -> Bytes:
    """Resize (H, W) by the nearest pixel centre, as Pillow does.

    >>> nearest(np.array([[0, 1, 2, 3]], np.uint8), (1, 2)).tolist()
    [[1, 3]]
    """
    (rows, columns), (height, width) = size_hw, mask.shape
    down = (np.arange(rows) * 2 + 1) * height // (2 * rows)
    across = (np.arange(columns) * 2 + 1) * width // (2 * columns)
    return np.ascontiguousarray(mask[down[:, None], across])
