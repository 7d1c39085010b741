"""The example pictures are what their script makes, and stay small."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
SHIPPED = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.jpg"))
SAME = 1.5  # mean levels of 255: JPEG encoders of other releases round differently, another defect is ten times that


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "make_examples.py"))


def pixels(path: Path) -> npt.NDArray[np.int16]:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int16)


def test_script_makes_the_shipped_pictures(script: dict[str, Any], tmp_path: Path) -> None:
    write: Callable[[Path], int] = script["write"]
    assert write(tmp_path) < 1_000_000
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg")) == SHIPPED
    for path in SHIPPED:
        assert np.abs(pixels(tmp_path / path) - pixels(EXAMPLES / path)).mean() < SAME, path
    crack, good = pixels(tmp_path / "brick/defect/crack.jpg"), pixels(EXAMPLES / "brick/good/001.jpg")
    assert np.abs(crack - good).mean() > SAME  # the comparison sees another picture


def test_pictures_are_few_and_small() -> None:
    assert sum((EXAMPLES / path).stat().st_size for path in SHIPPED) < 1_000_000
    for texture in ("brick", "grass", "gravel"):
        kinds = {path.split("/")[1] for path in SHIPPED if path.startswith(texture)}
        assert kinds == {"good", "defect"}


def test_every_defect_is_drawn_and_nothing_else(script: dict[str, Any]) -> None:
    """A defect changes its own place only: far from it the picture is the bare texture."""
    texture, crack = script["texture"], script["crack"]
    wall = texture("brick", left=40, top=60, turns=1)
    changed = np.abs(crack(wall, np.random.default_rng(7), start=(60, -4), angle=0.95, steps=64) - wall).max(axis=-1)
    assert changed.max() > 0.3
    assert 0.002 < (changed > 0.02).mean() < 0.1
