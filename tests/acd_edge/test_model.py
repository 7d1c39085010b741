"""The model against the paper's equations written out, and the presets against each other."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from acd_edge.config import ABLATIONS, DOMAINS, PRESETS, ModelConfig, Smoothing
from acd_edge.errors import ConfigError
from acd_edge.model.acd import AcdClip
from acd_edge.model.adapters import ConvBranch, ConvLora, Entry, Lora
from acd_edge.model.heads import blur, fuse
from acd_edge.model.towers import resize_positions
from tests.tiny_model import TINY_SIZE, tiny_model

EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-12}  # float64: rounding only


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(7)


def model_of(**settings: Any) -> AcdClip:
    return tiny_model(ModelConfig(**{"preset": "reference", "size": TINY_SIZE, "groups": 3, **settings})).double()


def inputs(model: AcdClip) -> tuple[Tensor, Tensor]:
    image = torch.randint(0, 256, (2, TINY_SIZE, TINY_SIZE, 3), dtype=torch.uint8)
    text = F.normalize(torch.randn(2, model.config.groups, 2, model.feature_dim, dtype=torch.float64), dim=-1)
    return model.normalise(image), text


@pytest.mark.parametrize(("preset", "row", "groups"), list(itertools.product(PRESETS, ABLATIONS, (1, 2, 3, 6))))
def test_every_config_predicts(preset: str, row: str, groups: int) -> None:
    model = model_of(preset=preset, groups=groups, **ABLATIONS[row])
    pixels, text = inputs(model)
    found = model(pixels, text)
    assert found.anomaly_map.shape == (2, TINY_SIZE, TINY_SIZE)
    assert found.class_score.shape == (2,)
    assert found.fusion_weights.shape == (2, groups, 2, groups)
    assert found.anomaly_map.min() > 0
    assert found.anomaly_map.max() < 1
    torch.testing.assert_close(found.fusion_weights.sum(dim=-1), torch.ones(2, groups, 2).double(), **EXACT)
    is_static = torch.equal(found.fusion_weights[0, :, 0], torch.eye(groups).double())
    assert is_static == (ABLATIONS[row]["fusion"] == "static" or groups == 1)


def test_conv_lora_of_the_paper_is_its_equations() -> None:
    config = ModelConfig(preset="paper", rank=4, conv_rank=3)
    adapter = ConvLora(10, config).double()
    tokens = torch.randn(2, 25, 10, dtype=torch.float64)
    low = (tokens @ adapter.down[0]).transpose(1, 2).reshape(2, 4, 5, 5)
    branches = []
    for kernel, branch in zip(config.kernels, adapter.branches, strict=True):
        assert isinstance(branch, ConvBranch)
        z = F.conv2d(low, branch.down.weight, padding=kernel // 2) / kernel
        b = F.conv2d(z, branch.up.weight, padding=kernel // 2) / kernel
        branches.append(b.flatten(2).transpose(1, 2) @ adapter.up[0])
    grid = torch.cat(branches, dim=-1).transpose(1, 2).reshape(2, 20, 5, 5)
    expected = F.conv2d(grid, adapter.fusion[:, :, None, None]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(adapter(tokens), expected, **EXACT)
    adapter.scales = (1.0, 1.0)
    assert not torch.allclose(adapter(tokens), expected, atol=1e-3)


@pytest.mark.parametrize(("preset", "scale"), [("paper", 2 / 16), ("reference", 2 / 4)])
def test_lora_scale(preset: str, scale: float) -> None:
    lora = Lora(8, ModelConfig(preset=preset)).double()
    tokens = torch.randn(1, 3, 8, dtype=torch.float64)
    torch.testing.assert_close(lora(tokens), tokens @ lora.down @ lora.up * scale, **EXACT)


def test_blend_keeps_the_norm_of_what_it_blends_in() -> None:
    entry = Entry(6, "blend", 0.25).double()
    tokens, delta = torch.randn(2, 1, 5, 6, dtype=torch.float64)
    rescaled = (entry(tokens, delta) - 0.75 * tokens) / 0.25
    torch.testing.assert_close(rescaled.norm(dim=-1), tokens.norm(dim=-1), **EXACT)
    torch.testing.assert_close(entry(tokens, 100 * delta), entry(tokens, delta), **EXACT)
    add = Entry(6, "add", 0.25)
    torch.testing.assert_close(add(tokens, delta), tokens + delta, **EXACT)


def test_map_of_the_paper_is_a_softmax_of_cosines() -> None:
    model = model_of(preset="paper")
    pixels, text = inputs(model)
    levels = model.encode_image(pixels)
    found = model.decode(levels, text)
    fused = fuse(found.fusion_weights, text)
    probabilities = []
    for level in range(3):
        cosine = F.cosine_similarity(levels.segment[level][:, :, None], fused[:, level, None], dim=-1)  # (B, P, 2)
        probabilities.append((cosine / 0.1).softmax(dim=-1)[..., 1])
    grid = torch.stack(probabilities).mean(dim=0).reshape(2, 1, 6, 6)
    expected = F.interpolate(grid, size=TINY_SIZE, mode="bilinear", align_corners=True)[:, 0]
    torch.testing.assert_close(found.anomaly_map, expected, **EXACT)


def test_class_score_takes_the_unfused_text() -> None:
    for preset, chosen in (("paper", slice(2, 3)), ("reference", slice(0, 3))):
        model = model_of(preset=preset)
        pixels, text = inputs(model)
        levels = model.encode_image(pixels)
        each = torch.stack([levels.detect[i][:, None] @ text[:, i].transpose(1, 2) for i in range(3)])[:, :, 0]
        expected = each[chosen].mean(dim=0).softmax(dim=-1)[:, 1]
        torch.testing.assert_close(model.decode(levels, text).class_score, expected, **EXACT)


def test_adapters_replace_patches_and_leave_the_class_token() -> None:
    model = model_of(groups=1)
    pixels, _ = inputs(model)
    plain = model.vision.embed(pixels)
    for block in model.vision.blocks:
        plain = block(plain)
    patches = model.vision_adapters[0](plain[:, 1:])
    torch.testing.assert_close(model.encode_image(pixels).segment[0], model.segment_heads[0](patches), **EXACT)
    assert not torch.allclose(patches, plain[:, 1:], atol=1e-3)


def test_domains_smooth_differently_and_training_not_at_all() -> None:
    maps = []
    for domain in DOMAINS:
        torch.manual_seed(7)
        model = model_of(domain=domain)
        torch.manual_seed(8)
        pixels, text = inputs(model)
        levels = model.encode_image(pixels)
        maps += [model.decode(levels, text).anomaly_map, model.decode(levels, text, smooth=False).anomaly_map]
    assert torch.equal(maps[1], maps[3])
    assert maps[2].std() < maps[0].std() < maps[1].std()


def test_blur_is_a_separable_gaussian_with_reflected_border() -> None:
    grid = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    steps = torch.arange(-3, 4, dtype=torch.float64)
    weights = torch.exp(-(steps**2) / 2)
    weights = weights / weights.sum()
    mirror = [abs(i) if i < 9 else 16 - i for i in range(-3, 12)]
    padded = grid[0, 0][mirror][:, mirror]
    expected = sum(
        weights[i] * weights[j] * padded[i : i + 9, j : j + 9] for i, j in itertools.product(range(7), range(7))
    )
    torch.testing.assert_close(blur(grid, Smoothing(taps=7, sigma=1.0))[0, 0], expected, **EXACT)
    tiny = torch.full((1, 1, 2, 2), 3.0, dtype=torch.float64)  # too small to mirror: constant stays constant
    torch.testing.assert_close(blur(tiny, Smoothing(taps=9, sigma=1.5)), tiny, **EXACT)


def test_text_padding_changes_nothing_and_words_do() -> None:
    model = model_of()
    ids = torch.randint(1, 60, (4, 16))
    mask = (torch.arange(16) < 9).long().expand(4, -1)
    features = model.encode_prompts(ids, mask)
    torch.testing.assert_close(features, model.encode_prompts(ids[:, :9], mask[:, :9]), **EXACT)
    ids[:, 3] = (ids[:, 3] + 1) % 60 + 1
    assert not torch.allclose(features, model.encode_prompts(ids, mask), atol=1e-4)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(4, 3).double(), **EXACT)


def test_positions_keep_the_class_token_and_a_constant() -> None:
    table = torch.cat([torch.zeros(1, 4), torch.ones(25, 4)])
    resized = resize_positions(table, 7)
    assert resized.shape == (50, 4)
    assert resized[0].abs().max() == 0
    torch.testing.assert_close(resized[1:], torch.ones(49, 4))
    assert resize_positions(table, 5) is table


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "papers"}, "preset must be one of paper, reference"),
        ({"groups": 0}, "groups must be a whole number above zero"),
        ({"kernels": (2,)}, "kernels must be odd"),
        ({"domain": "space"}, "domain must be one of industrial, medical"),
        ({"width": 3}, "unknown model setting width"),
        ({"kernels": 3}, "kernels must be odd whole numbers, got 3"),
        ({"kernels": None}, "kernels must be odd whole numbers, got None"),
        ({"kernels": [True]}, "kernels must be odd"),
        ({"preset": ["paper"]}, "preset must be one of paper, reference"),
        ({"backbone": None}, "backbone must be 'compact' or"),
        ({"pretrained": 3}, "pretrained must be a tag of open_clip's, got 3"),
        ({"alpha": 10**400}, "alpha must be a number"),
    ],
)
def test_config_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(settings)


def test_config_survives_json() -> None:
    config = ModelConfig(preset="paper", groups=2, kernels=(1, 7), **ABLATIONS["gateway"])  # type: ignore[arg-type]
    assert ModelConfig.from_dict(config.to_dict()) == config
