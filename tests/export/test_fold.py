"""Folding changes no number: float64 shows it to the rounding, and a planted error breaks it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from acd_edge.config import ABLATIONS, DOMAINS, PRESETS, Domain, ModelConfig
from acd_edge.export.count import count_multiply_adds, count_parameters, fold_counts
from acd_edge.export.fold import fold, fold_adapter
from acd_edge.export.text import fold_text
from acd_edge.model.acd import AcdClip
from acd_edge.model.adapters import Adapter
from tests.tiny_model import TINY_PATCH, TINY_SIZE, TINY_TEXT, TINY_VISION, tiny_model

# CLIP's shape beside the DINOv2 one of tiny_model: pre-norm after the positions, QuickGELU, no LayerScale, causal text
CLIP_VISION = replace(
    TINY_VISION,
    block=replace(TINY_VISION.block, activation="quick_gelu", layer_scale=False),
    patch_bias=False,
    pre_norm=True,
)
CLIP_TEXT = replace(
    TINY_TEXT,
    block=replace(TINY_TEXT.block, activation="quick_gelu", post_norm=False),
    causal=True,
    embed_norm=False,
    pooling="end",
)
TOLERANCE = 1e-10  # float64 leaves 1e-15 at these sizes


def random_model(config: ModelConfig, *, clip: bool = False) -> AcdClip:
    """A tiny model in float64 whose norms, biases and blend weights are no round numbers."""
    torch.manual_seed(1)
    model = tiny_model(config, CLIP_VISION, CLIP_TEXT) if clip else tiny_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.double()


def random_inputs(config: ModelConfig, batch: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    image = torch.randint(0, 256, (batch, config.size, config.size, 3), dtype=torch.uint8)
    text = torch.randn(batch, config.groups, 2, TINY_TEXT.block.width, dtype=torch.float64)
    return image, nn.functional.normalize(text, dim=-1)


def differences(model: AcdClip, folded: nn.Module, inputs: tuple[Tensor, Tensor]) -> list[float]:
    image, text = inputs
    with torch.no_grad():
        want, got = model(model.normalise(image), text), folded(image, text)
    return [float((a - b).abs().max()) for a, b in zip(want, got, strict=True)]


def one_per_cent_off(tensor: Tensor) -> Tensor:
    """Not one factor for all: `reference` rescales delta, which takes such a factor out again."""
    return tensor * (1 + 0.01 * torch.randn(tensor.shape, dtype=tensor.dtype))


@pytest.mark.parametrize("clip", [False, True], ids=["dino", "clip"])
@pytest.mark.parametrize("row", ABLATIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_folded_equals_unfolded(preset: str, row: str, clip: bool) -> None:
    config = ModelConfig(preset=preset, size=TINY_SIZE, groups=2, **ABLATIONS[row])  # type: ignore[arg-type]
    model = random_model(config, clip=clip)
    assert max(differences(model, fold(model), random_inputs(config))) < TOLERANCE


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("preset", PRESETS)
def test_folded_equals_unfolded_for_any_n_and_domain(preset: str, groups: int, domain: Domain) -> None:
    config = ModelConfig(preset=preset, size=TINY_SIZE, groups=groups, domain=domain)
    model = random_model(config)
    assert max(differences(model, fold(model), random_inputs(config))) < TOLERANCE


@pytest.mark.parametrize("size", [TINY_PATCH * 2, TINY_PATCH * 9])
def test_folded_equals_unfolded_at_other_sizes(size: int) -> None:
    """Two patches a side are fewer than the Gaussian reflects; nine are more."""
    config = ModelConfig(preset="reference", size=size, groups=2)
    model = random_model(config)
    assert max(differences(model, fold(model), random_inputs(config))) < TOLERANCE


def test_one_branch_alone_folds_where_projections_are_shared() -> None:
    config = ModelConfig(preset="paper", size=TINY_SIZE, groups=2, kernels=(3,))
    model = random_model(config)
    assert max(differences(model, fold(model), random_inputs(config))) < TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        "embed.weight",
        "embed.positions",
        "embed.first",
        "blocks.0.attn.query.weight",
        "blocks.3.attn.proj.bias",
        "blocks.2.mlp.fc2.weight",
        "adapters.0.delta.up",
        "adapters.1.entry.weight",
        "heads.1.fc1.weight",
        "heads.0.detect.fc2.weight",
        "gates.0.fc2.weight",
        "decoder.rise",
    ],
)
def test_one_per_cent_off_anywhere_is_seen(name: str) -> None:
    config = ModelConfig(preset="reference", size=TINY_SIZE, groups=2)
    model = random_model(config)
    folded = fold(model)
    tensor = {**dict(folded.named_parameters()), **dict(folded.named_buffers())}[name]
    tensor.data = one_per_cent_off(tensor)
    assert max(differences(model, folded, random_inputs(config))) > 1e3 * TOLERANCE


def test_the_adapters_do_something() -> None:
    config = ModelConfig(preset="reference", size=TINY_SIZE, groups=2)
    model = random_model(config)
    folded = fold(model)
    for adapter in folded.adapters:
        entry = adapter.entry
        entry.weight.data = torch.zeros_like(entry.weight)  # type: ignore[union-attr, arg-type]
        entry.keep.data = torch.ones_like(entry.keep)  # type: ignore[union-attr, arg-type]
    assert max(differences(model, folded, random_inputs(config))) > 1e-4


@pytest.mark.parametrize("clip", [False, True], ids=["bert", "clip"])
@pytest.mark.parametrize("preset", PRESETS)
def test_folded_text_equals_unfolded(preset: str, clip: bool) -> None:
    model = random_model(ModelConfig(preset=preset, size=TINY_SIZE, groups=3), clip=clip)
    length = model.text.context_length
    ids = torch.randint(1, 63, (4, length))
    mask = (torch.arange(length) < torch.tensor([3, 7, length, 5])[:, None]).long()
    ids = torch.where(mask.bool(), ids, 0)
    ids[torch.arange(4), mask.sum(dim=1) - 1] = 63  # the highest id ends the text
    folded = fold_text(model)
    with torch.no_grad():
        want, got = model.encode_prompts(ids, mask), folded(ids, mask)
        up = dict(folded.named_parameters())["adapters.0.delta.up"]
        up.data = one_per_cent_off(up)
        off = folded(ids, mask)
    assert float((want - got).abs().max()) < TOLERANCE
    assert float((want - off).abs().max()) > 1e3 * TOLERANCE


def test_the_adapter_of_vit_l_needs_29_times_fewer_multiply_adds() -> None:
    """2 C x C per token become 2 r x C: (4 r + 2 C) C + 34 x 2 r r' against 4 r C + 34 x 2 r r'."""
    with torch.device("meta"):
        adapter = Adapter(1024, ModelConfig(preset="reference"), grid=True)
        tokens = torch.empty(1, 37 * 37, 1024)
    before, after = count_multiply_adds(adapter, tokens), count_multiply_adds(fold_adapter(adapter), tokens)
    convolutions = (9 + 25) * 2 * 16 * 8
    assert before == 1369 * ((4 * 16 + 2 * 1024) * 1024 + convolutions)
    assert after == 1369 * (4 * 16 * 1024 + convolutions)
    assert before / after > 29


def test_the_report_counts_what_runs() -> None:
    config = ModelConfig(preset="reference", size=TINY_SIZE, groups=2)
    model = random_model(config)
    counts = fold_counts(model, fold(model))
    grid, width = 6, TINY_VISION.block.width
    block = (grid**2 + 1) * (4 * width**2 + 2 * width * 64) + 2 * (grid**2 + 1) ** 2 * width
    assert count_multiply_adds(model.vision.blocks[0], torch.empty(1, grid**2 + 1, width).double()) == block
    assert counts["macs_after"] < counts["macs_before"]
    assert counts["adapter_macs_after"] < counts["adapter_macs_before"]
    assert counts["parameters_after"] < counts["parameters_before"]
    assert count_parameters(model) == sum(
        p.numel() for n, p in model.named_parameters() if n.split(".")[0] not in ("text", "text_adapters", "text_norms")
    )
