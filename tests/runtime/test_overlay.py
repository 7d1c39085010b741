"""The heat of an overlay against its formula in float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from acd_edge.runtime.overlay import draw_overlay, heat_colours
from tests.heat_oracle import heated_in_floats

HEIGHT, WIDTH = 480, 640
ROUNDINGS = 2  # gray levels: two mixtures and an opacity are rounded to a byte, each by half of one


@pytest.fixture
def rgb() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def test_heat_is_its_formula(rgb: npt.NDArray[np.uint8]) -> None:
    across = np.linspace(0, 0.499, WIDTH, dtype=np.float32)  # below the white line
    heat = np.broadcast_to(across, (HEIGHT, WIDTH)).copy()
    drawn = draw_overlay(rgb, heat, score=0.5)[:HEIGHT].astype(int)
    assert np.abs(drawn - heated_in_floats(rgb, heat, heat_colours(heat))).max() <= ROUNDINGS
    mirrored = heat[:, ::-1].copy()
    assert np.abs(drawn - heated_in_floats(rgb, mirrored, heat_colours(mirrored))).max() > 20 * ROUNDINGS


def test_the_strongest_heat_leaves_a_third_of_the_picture(rgb: npt.NDArray[np.uint8]) -> None:
    heat = np.ones((HEIGHT, WIDTH), np.float32)
    drawn = draw_overlay(rgb, heat, score=0.5)[:HEIGHT].astype(int)
    assert np.abs(drawn - heated_in_floats(rgb, heat, heat_colours(heat))).max() <= ROUNDINGS
    assert drawn.std() > 5  # the defect itself stays visible


def test_the_frame_is_not_changed(rgb: npt.NDArray[np.uint8]) -> None:
    before = rgb.copy()
    draw_overlay(rgb, np.ones((HEIGHT, WIDTH), np.float32), score=0.5)
    assert (rgb == before).all()
