"""Small data sets in MVTec's layout, written by the tests that read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 56


def write_png(path: Path, pixels: np.ndarray) -> Path:
    """Write uint8 pixels and the folders above them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_defect(category: Path, kind: str, stem: str, brightness: int, box: tuple[slice, slice]) -> None:
    """A dark picture with a bright box, and the box as its mask."""
    picture, mask = np.full((SIDE, SIDE, 3), 40, np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    picture[box], mask[box] = brightness, 255
    write_png(category / "test" / kind / f"{stem}.png", picture)
    write_png(category / "ground_truth" / kind / f"{stem}_mask.png", mask)


def write_good(category: Path, part: str, stem: str, brightness: int = 40) -> None:
    """A plain picture."""
    write_png(category / part / "good" / f"{stem}.png", np.full((SIDE, SIDE, 3), brightness, np.uint8))


def fill_12_bits(tree: Path) -> None:
    """Write a tree's pictures again as a camera with 12 bits does, grey in 16-bit files; masks stay."""
    for path in tree.rglob("*.png"):
        if "ground_truth" not in path.parts:
            grey = np.asarray(Image.open(path).convert("L"), np.float64)
            Image.fromarray(np.rint(grey / 255 * 4095).astype(np.uint16)).save(path)


def write_category(category: Path) -> Path:
    """Two good pictures to train, one to test, two kinds of defects; whiter is more anomalous."""
    write_good(category, "train", "000")
    write_good(category, "train", "001", 60)
    write_good(category, "test", "000", 50)
    write_defect(category, "dent", "000", 200, np.s_[10:20, 12:30])
    write_defect(category, "spot", "000", 250, np.s_[40:44, 4:9])
    return category
