"""Pictures for a measurement without a camera or files of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from acd_edge.runtime.preprocess import Pixels

__all__ = ["COUNT", "SIZE_WH", "describe_made", "write_made"]

COUNT = 8
SIZE_WH = (1920, 1080)
_QUALITY = 90


def describe_made() -> str:
    """What the pictures are, for the report."""
    width, height = SIZE_WH
    return f"{COUNT} made pictures, {width} x {height} JPEG (quality {_QUALITY}), decoded from memory each time"


def write_made(folder: Path) -> list[Path]:
    """Write the pictures; read again at once they come out of the page cache, not from the disk."""
    paths = [folder / f"made-{index}.jpg" for index in range(COUNT)]
    for index, path in enumerate(paths):
        Image.fromarray(_made(index)).save(path, quality=_QUALITY)
    return paths


def _made(seed: int) -> Pixels:
    """Shades, an edge and fine grain, so that decoding costs about what a camera's picture of a surface costs."""
    rng = np.random.default_rng(seed)
    width, height = SIZE_WH
    coarse = Image.fromarray(rng.integers(60, 200, (9, 16, 3), np.uint8)).resize(SIZE_WH, Image.Resampling.BICUBIC)
    base = np.asarray(coarse, np.int16)
    grain = rng.integers(-12, 13, (height, width, 1), np.int16)
    edge = np.where(np.arange(width)[None, :, None] > width * (seed + 1) / (COUNT + 1), 25, 0).astype(np.int16)
    return np.clip(base + grain + edge, 0, 255).astype(np.uint8)
