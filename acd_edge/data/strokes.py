"""Thin defects drawn as lines: cracks, scratches, threads. Each returns an opacity in [0, 1] of (size, size)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from acd_edge.data.shapes import Floats, Rng, cv2, point_in, value_noise

_FINE = 4  # OpenCV draws at sixteenths of a pixel (shift bits), so that thin lines are smooth


def crack(rng: Rng, region: npt.NDArray[np.uint8]) -> Floats:
    """A wandering, branching line, 1 to 4 px wide, that fades and breaks along its way."""
    size = region.shape[0]
    canvas = np.zeros((size, size), np.uint8)
    heading = rng.uniform(0, 2 * np.pi)
    start = np.array(point_in(rng, region))
    for side in (heading, heading + np.pi + rng.normal(0, 0.3)) if rng.random() < 0.6 else (heading,):
        _walk(rng, canvas, start, side, rng.uniform(0.15, 0.7) * size, rng.uniform(1, 3.2), 2)
    return _worn(rng, canvas)


def scratch(rng: Rng, region: npt.NDArray[np.uint8]) -> Floats:
    """One to six nearly parallel, nearly straight lines."""
    size = region.shape[0]
    canvas = np.zeros((size, size), np.uint8)
    turn = rng.uniform(0, np.pi)
    start = np.array(point_in(rng, region))
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 6]))):
        angle, length = turn + rng.normal(0, 0.08), rng.uniform(0.06, 0.6) * size
        bow, steps = rng.normal(0, 0.12), np.linspace(-0.5, 0.5, 12)
        along = np.array([np.cos(angle), np.sin(angle)])
        path = start + np.outer(steps * length, along) + np.outer(bow * length * steps**2, [-along[1], along[0]])
        _line(canvas, path, int(rng.choice([1, 1, 2, 2, 3, 4])))
        start = start + rng.normal(0, 0.04, 2) * size
    return _worn(rng, canvas)


def thread(rng: Rng, region: npt.NDArray[np.uint8]) -> Floats:
    """A straight band along an axis, across all or part of the picture, as a wrong thread or a roller's line."""
    size = region.shape[0]
    canvas = np.zeros((size, size), np.uint8)
    x, y = point_in(rng, region)
    reach = rng.uniform(0.1, 1.2) * size / 2
    path = np.array([[x - reach, y], [x, y + rng.normal(0, 1.5)], [x + reach, y + rng.normal(0, 2)]])
    if rng.random() < 0.5:
        path = path[:, ::-1] - np.array([y - x, x - y])
    _line(canvas, path, int(rng.choice([1, 2, 3, 5, 8])))
    return _worn(rng, canvas)


def _walk(
    rng: Rng, canvas: npt.NDArray[np.uint8], start: npt.NDArray[np.float64], heading: float, length: float,
    width: float, depth: int,
) -> None:  # fmt: skip
    """Draw a random walk of `length` px from `start`; up to `depth` orders of branches leave it."""
    step = max(2.0, canvas.shape[0] / 70)
    count = max(3, int(length / step))
    wobble = rng.uniform(0.15, 0.55)
    turns = rng.normal(0, wobble, count)
    angles = heading + 0.6 * np.cumsum(turns - turns.mean()) * rng.uniform(0.3, 1) + rng.normal(0, wobble, count)
    path = start + np.cumsum(step * np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=0)
    path = np.concatenate([start[None], path])
    pieces = max(1, count // 8)
    for piece in range(pieces):
        part = path[piece * count // pieces : (piece + 1) * count // pieces + 1]
        thick = width * rng.uniform(0.6, 1.3) * (1 - 0.5 * piece / pieces)
        _line(canvas, part, max(1, round(thick)))
    for _ in range(int(rng.integers(0, 4)) if depth else 0):
        fork = int(rng.integers(1, len(path)))
        away = angles[min(fork, count - 1)] + rng.choice([-1, 1]) * rng.uniform(0.4, 1.3)
        _walk(rng, canvas, path[fork], away, length * rng.uniform(0.15, 0.5), width * 0.7, depth - 1)


def _line(canvas: npt.NDArray[np.uint8], path: npt.NDArray[np.float64], width: int) -> None:
    points = np.round(path * 2**_FINE).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(canvas, [points], False, 255, width, cv2.LINE_AA, _FINE)


def _worn(rng: Rng, canvas: npt.NDArray[np.uint8]) -> Floats:
    """Soften a drawing, and let its strength change along the way."""
    line = canvas.astype(np.float32) / 255
    if rng.random() < 0.6:
        line = cv2.GaussianBlur(line, (0, 0), rng.uniform(0.4, 1.0))
        line = line / max(float(line.max()), 1e-3)
    strength = np.clip(value_noise(rng, canvas.shape[0], rng.uniform(3, 12)) * rng.uniform(1.2, 2.5), 0.25, 1)
    return np.asarray(line * strength, np.float32)
