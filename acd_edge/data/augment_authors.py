"""What the authors' code does to its training pictures, on bytes instead of normalised numbers.

Read from the data set of github.com/cockmake/ACD-CLIP, commit 2026067. Their geometry works on the normalised picture,
where what comes in from outside is zero: that is the mean colour, which is written here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from acd_edge.data.shapes import Bytes, Floats, Rng, cv2

MEAN_COLOUR = (123, 117, 104)  # CLIP's mean, and within one ImageNet's
_LUMA = np.asarray((0.299, 0.587, 0.114), np.float32)


def colours(rng: Rng, image: Bytes) -> Bytes:
    """Specks with a chance of 0.3; brightness, contrast and saturation by a factor from 0.5 to 1.5, 0.7 each."""
    values: Floats = image.astype(np.float32)
    if rng.random() < 0.3:
        values = _specks(rng, values)
    if rng.random() < 0.7:
        values = np.clip(values * _factor(rng), 0, 255)
    if rng.random() < 0.7:
        values = _towards(values, np.float32((values @ _LUMA).mean()), _factor(rng))
    if rng.random() < 0.7:
        values = _towards(values, (values @ _LUMA)[..., None], _factor(rng))
    return values.astype(np.uint8)


def geometry(rng: Rng, image: Bytes, mask: Bytes) -> tuple[Bytes, Bytes]:
    """Turn by up to 30 degrees and shift by up to 15 %, each with a chance of 0.5; mirror either way, 0.5 each.

    Picture (H, W, 3) and mask (H, W) alike; what comes in from outside has the mean colour and is good.
    """
    height, width = mask.shape
    if rng.random() < 0.5:
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-30, 30), 1.0)
        image, mask = _moved(image, turn, MEAN_COLOUR), _moved(mask, turn, (0, 0, 0))
    if rng.random() < 0.5:
        right, down = round(rng.uniform(-0.15, 0.15) * width), round(rng.uniform(-0.15, 0.15) * height)
        shift = np.asarray([[1, 0, right], [0, 1, down]], np.float32)
        image, mask = _moved(image, shift, MEAN_COLOUR), _moved(mask, shift, (0, 0, 0))
    for axis in (1, 0):
        if rng.random() < 0.5:
            image, mask = np.flip(image, axis), np.flip(mask, axis)
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def _specks(rng: Rng, values: Floats) -> Floats:
    """One pixel in 740 is multiplied by a random number in each channel."""
    struck = rng.standard_normal(values.shape[:2], dtype=np.float32) > 3
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    return np.clip(np.where(struck[..., None], noise * values, values), 0, 255)


def _factor(rng: Rng) -> np.float32:
    return np.float32(rng.uniform(0.5, 1.5))


def _towards(values: Floats, middle: Floats | np.float32, factor: np.float32) -> Floats:
    return np.clip(middle + factor * (values - middle), 0, 255)


def _moved(pixels: Bytes, matrix: Any, fill: tuple[int, int, int]) -> Bytes:
    size = (pixels.shape[1], pixels.shape[0])
    moved = cv2.warpAffine(
        pixels, matrix, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
    )
    return np.asarray(moved, np.uint8)
