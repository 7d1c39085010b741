"""Made pictures that travel with a bundle, so that a device can check itself without anybody's photographs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

PICTURES = 2  # K: a flawless texture, and another with a flaw


def made_pictures(size: int) -> npt.NDArray[np.uint8]:
    """(K, size, size, 3) uint8 RGB, the same on every machine.

    Only arithmetic that every platform rounds alike goes in: whole numbers and a seeded generator.

    >>> made_pictures(28).shape
    (2, 28, 28, 3)
    """
    rows, columns = np.mgrid[0:size, 0:size]
    random = np.random.Generator(np.random.PCG64(20))
    grain = random.integers(-12, 13, size=(PICTURES, size, size, 3))
    weave = 110 + 30 * ((rows // 6 + columns // 6) % 2)
    plate = 90 + (rows + 2 * columns) * 80 // (3 * size)
    plate[_scratch(rows, columns, size)] = 230
    plate[_stain(rows, columns, size)] -= 60
    plain: npt.NDArray[Any] = np.stack([weave, plate])[..., None] + np.array([8, 0, -10]) + grain
    return np.clip(plain, 0, 255).astype(np.uint8)


def _scratch(rows: npt.NDArray[Any], columns: npt.NDArray[Any], size: int) -> npt.NDArray[np.bool_]:
    """A slanting line in the upper left."""
    near = np.abs(3 * rows - 2 * columns - size // 6) < max(3, size // 40)
    inside: npt.NDArray[np.bool_] = near & (columns > size // 8) & (columns < size // 2)
    return inside


def _stain(rows: npt.NDArray[Any], columns: npt.NDArray[Any], size: int) -> npt.NDArray[np.bool_]:
    """A dark disc in the lower right."""
    disc: npt.NDArray[np.bool_] = (rows - 7 * size // 10) ** 2 + (columns - 3 * size // 4) ** 2 < (size // 12) ** 2
    return disc
