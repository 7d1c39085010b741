"""What a patch grid allows: the truth averaged per patch, brought up as the model brings up its map."""

from __future__ import annotations

import numpy as np
import pytest

from acd_edge.ceiling import patch_ceiling
from acd_edge.errors import ShapeError


def test_is_the_models_own_upsampling_of_the_patch_means() -> None:
    torch = pytest.importorskip("torch")
    from acd_edge.model.heads import upsample

    mask = (np.random.default_rng(0).random((56, 56)) < 0.3).astype(np.uint8)
    means = torch.nn.functional.avg_pool2d(torch.from_numpy(mask)[None, None].float(), 14)
    expected = upsample(means, 56)[0, 0].numpy()
    assert patch_ceiling(mask, 14) == pytest.approx(expected, abs=1e-6)  # float32 against float64
    moved = torch.nn.functional.interpolate(means, size=(56, 56), mode="bilinear", align_corners=False)[0, 0].numpy()
    assert np.abs(moved - expected).max() > 1e-2


def test_one_patch_is_one_value_and_a_patch_of_one_pixel_the_mask() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[0] = 1
    assert patch_ceiling(mask, 4).tolist() == [[0.25] * 4] * 4
    assert patch_ceiling(mask, 1).tolist() == mask.tolist()


@pytest.mark.parametrize("shape", [(28, 30), (30, 30)])
def test_refuses_what_is_no_square_of_patches(shape: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="14 x 14 patches"):
        patch_ceiling(np.zeros(shape, np.uint8), 14)
