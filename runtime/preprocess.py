"""Bringing a picture to the model's input size; one implementation for training, evaluation, calibration and device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acd_edge.errors import ConfigError, ShapeError

Pixels = NDArray[np.uint8]


def _pillow_bicubic(rgb: Pixels, size: int) -> Pixels:
    if rgb.shape[:2] == (size, size):
        return rgb  # Pillow would copy it twice
    picture = Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture)


RESIZE_RULES: Mapping[str, Callable[[Pixels, int], Pixels]] = MappingProxyType({"pillow-bicubic": _pillow_bicubic})
"""Name in the manifest -> function. `pillow-bicubic` antialiases and is Pillow's own, bit for bit."""
DEFAULT_RESIZE = "pillow-bicubic"


def check_picture(rgb: NDArray[np.generic]) -> Pixels:
    """Refuse anything but a uint8 RGB picture (H, W, 3)."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ShapeError(f"picture: want uint8 RGB (height, width, 3), got {rgb.dtype} {rgb.shape}")
    return rgb  # type: ignore[return-value]  # the type was just checked


def resize(rgb: Pixels, size: int, rule: str = DEFAULT_RESIZE) -> Pixels:
    """Stretch a picture to a square; the aspect is not kept.

    Args:
        rgb: (H, W, 3), any size.
        size: side S of the result in pixels.
        rule: key of `RESIZE_RULES`, as the manifest names it.

    Returns:
        (S, S, 3); the picture itself where it has that size.

    >>> resize(np.zeros((1, 7, 3), np.uint8), 4).shape
    (4, 4, 3)
    """
    try:
        shrink = RESIZE_RULES[rule]
    except KeyError:
        raise ConfigError(f"unknown resize rule {rule!r}; known are {', '.join(RESIZE_RULES)}") from None
    return shrink(check_picture(rgb), size)
