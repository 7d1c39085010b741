"""What a grid of patches can reach at best: the truth itself, told once a patch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from acd_edge.errors import ShapeError

Floats = npt.NDArray[np.float32]


def patch_ceiling(mask: npt.NDArray[np.uint8], patch: int) -> Floats:
    """The map of a model that knows each patch's share of defect, and nothing finer.

    The truth is averaged per patch and brought back to the mask's size as the model brings up its own grid: bilinear,
    corners aligned. Its average precision is what the patch grid allows without smoothing or guessing shapes; a
    model can pass it only by telling within a patch what the grid does not say.

    Args:
        mask: 0 and 1, (S, S), at the model's size.
        patch: side of a patch in pixels; it divides S.

    Returns:
        float32 (S, S) in 0 to 1.

    Raises:
        ShapeError: the mask is no square of whole patches.

    >>> patch_ceiling(np.array([[1, 1], [0, 0]], np.uint8), 1).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    >>> patch_ceiling(np.eye(2, dtype=np.uint8), 2).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    size = mask.shape[0]
    if mask.shape != (size, size) or size % patch:
        raise ShapeError(f"the ceiling needs a square mask of whole {patch} x {patch} patches, got {mask.shape}")
    grid = size // patch
    shares = mask.reshape(grid, patch, grid, patch).mean(axis=(1, 3), dtype=np.float64)
    spread = _stretching(grid, size)
    return np.asarray(spread @ shares @ spread.T, np.float32).clip(0, 1)


def _stretching(grid: int, size: int) -> npt.NDArray[np.float64]:
    """The matrix (size, grid) of linear interpolation with the corners aligned."""
    places = np.arange(size) * ((grid - 1) / max(size - 1, 1))
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(grid)))
