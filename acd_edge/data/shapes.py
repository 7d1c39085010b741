"""Random fields and outlines that textures and defects are made of.

All are drawn from a `numpy.random.Generator`, so that a seed gives the same pixels, and stay under a millisecond or
two at 392 px: noise is a few random numbers enlarged by OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from acd_edge.lazy import require

cv2 = require("cv2", "cpu")

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Rng = np.random.Generator
T = TypeVar("T")


def weighted(rng: Rng, choices: Sequence[tuple[T, float]]) -> T:
    """One of the choices, drawn by weight."""
    weights = np.array([weight for _, weight in choices])
    return choices[int(rng.choice(len(choices), p=weights / weights.sum()))][0]


def value_noise(rng: Rng, size: int, cells: float, stretch: float = 1.0) -> Floats:
    """Smooth noise in about [0, 1], (size, size), with `cells` bumps down and `cells * stretch` across."""
    rows, columns = max(2, round(cells)) + 3, max(2, round(cells * stretch)) + 3
    rows, columns = min(rows, size), min(columns, size)
    grid = rng.random((rows, columns), dtype=np.float32)
    field: Floats = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return field


def fractal_noise(rng: Rng, size: int, cells: float, octaves: int = 3, stretch: float = 1.0) -> Floats:
    """Sum of `octaves` noises, each twice as fine and half as strong, scaled to [0, 1]."""
    field = value_noise(rng, size, cells, stretch)
    for octave in range(1, octaves):
        field += value_noise(rng, size, cells * 2**octave, stretch) * np.float32(0.5**octave)
    return unit_range(field)


def unit_range(field: Floats) -> Floats:
    """Scale to [0, 1]; a constant field becomes zeros."""
    low, high = float(field.min()), float(field.max())
    return ((field - low) / max(high - low, 1e-6)).astype(np.float32)


def blob(rng: Rng, size: int, centre_xy: tuple[float, float], radius: float, ragged: float = 0.35) -> Floats:
    """Signed distance-like field of an irregular ellipse, in pixels: positive inside, about `radius` at the centre.

    Args:
        rng: source of the outline.
        size: side of the field.
        centre_xy: centre in pixels.
        radius: mean radius in pixels.
        ragged: share of the radius by which the outline wanders.
    """
    steps = np.arange(size, dtype=np.float32)
    dx, dy = steps[None, :] - np.float32(centre_xy[0]), steps[:, None] - np.float32(centre_xy[1])
    turn, squash = rng.uniform(0, np.pi), rng.uniform(0.45, 1.0)
    across = dx * np.float32(np.cos(turn)) + dy * np.float32(np.sin(turn))
    along = dy * np.float32(np.cos(turn) / squash) - dx * np.float32(np.sin(turn) / squash)
    distance = cv2.magnitude(across, along)
    wander = fractal_noise(rng, size, max(2.0, size / max(radius, 2.0)), 3) - np.float32(0.5)
    field: Floats = np.float32(radius) * (1 + np.float32(2 * ragged) * wander) - distance
    return field


def soft(field: Floats, edge: float) -> Floats:
    """Turn a signed field into an opacity in [0, 1] that rises over `edge` pixels around its zero."""
    return np.asarray(np.clip(field / np.float32(max(edge, 1e-3)) + np.float32(0.5), 0, 1), np.float32)


def foreground(image: Bytes) -> Bytes:
    """0/1 mask (H, W) of an object before an even backdrop; all ones where the picture has none.

    A backdrop is taken to be there when most of the border has one colour, and the object fills at least a tenth.
    """
    whole = np.ones(image.shape[:2], np.uint8)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.int16)
    colour = np.median(border, axis=0)
    if (np.abs(border - colour).max(axis=1) <= 12).mean() < 0.8:
        return whole
    small = cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA).astype(np.int16)
    apart = (np.abs(small - colour).max(axis=2) > 16).astype(np.uint8)
    apart = cv2.morphologyEx(apart, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    apart = cv2.morphologyEx(apart, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    apart = cv2.erode(apart, np.ones((3, 3), np.uint8))
    if not 0.1 <= apart.mean() <= 0.9:
        return whole
    mask: Bytes = cv2.resize(apart, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return mask


def point_in(rng: Rng, region: Bytes) -> tuple[float, float]:
    """A random pixel (x, y) where `region` is set; the middle where 64 draws find none."""
    for y, x in rng.integers((0, 0), region.shape, (64, 2)):
        if region[y, x]:
            return float(x), float(y)
    return region.shape[1] / 2, region.shape[0] / 2
