"""The `reference` preset against numbers of the authors' own code (see tests/golden/README.md).

Every comparison is within 2e-6: float32 sums of at most a few thousand terms in another order. Each has a control, the
same computation with one thing done wrongly, which must be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from acd_edge.config import SMOOTHING, ModelConfig
from acd_edge.convert import authors_names
from acd_edge.model.acd import AcdClip
from acd_edge.model.adapters import ConvLora, Lora
from acd_edge.model.towers import BlockSpec, TextSpec, TextTower, VisionSpec, VisionTower
from acd_edge.train.losses import dice_loss, focal_loss, map_loss

GOLDEN = Path(__file__).parent.parent / "golden"
TOLERANCE = 2e-6
Arrays = dict[str, npt.NDArray[Any]]


def load(name: str) -> Arrays:
    with np.load(GOLDEN / name, allow_pickle=False) as file:
        return dict(file)


def tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))


def largest(ours: Tensor, golden: npt.NDArray[Any]) -> float:
    assert tuple(ours.shape) == golden.shape
    return float(np.abs(ours.detach().numpy() - golden).max())


@pytest.fixture
def conv_lora() -> tuple[ConvLora, Arrays]:
    golden = load("conv_lora.npz")
    config = ModelConfig(
        preset="reference",
        rank=int(golden["lora_rank"]),
        alpha=float(golden["lora_alpha"]),
        conv_rank=int(golden["conv_rank"]),
        conv_alpha=float(golden["conv_alpha"]),
        kernels=tuple(int(k) for k in golden["kernels"]),
    )
    adapter = ConvLora(golden["tokens"].shape[-1], config)
    prefix, theirs = "vision_adapters.0.delta.", "image_adapter.lora_adapters.0."
    state = {
        ours.removeprefix(prefix): torch.stack([tensor(golden[f"weight.{n.removeprefix(theirs)}"]) for n in names])
        for ours, names in authors_names(1, len(config.kernels)).items()
        if ours.startswith(prefix)
    }
    shapes = {name: value.shape for name, value in adapter.state_dict().items()}
    adapter.load_state_dict({name: value.reshape(shapes[name]) for name, value in state.items()})
    return adapter, golden


def run_conv_lora(adapter: ConvLora, golden: Arrays) -> float:
    delta = adapter(tensor(golden["tokens"]).transpose(0, 1))  # the authors keep the sequence first
    return largest(delta.transpose(0, 1), golden["delta"])


def test_conv_lora(conv_lora: tuple[ConvLora, Arrays]) -> None:
    assert run_conv_lora(*conv_lora) < TOLERANCE


def _swap_branches(adapter: ConvLora) -> None:
    adapter.down.data = adapter.down.data.flip(0)


def _transpose_kernels(adapter: ConvLora) -> None:
    for parameter in adapter.branches.parameters():
        parameter.data = parameter.data.transpose(2, 3).contiguous()


def _scale_by_rank(adapter: ConvLora) -> None:
    adapter.scales = tuple(scale * 1.01 for scale in adapter.scales)


@pytest.mark.parametrize("wrong", [_swap_branches, _transpose_kernels, _scale_by_rank])
def test_conv_lora_control(conv_lora: tuple[ConvLora, Arrays], wrong: Callable[[ConvLora], None]) -> None:
    wrong(conv_lora[0])
    assert run_conv_lora(*conv_lora) > 100 * TOLERANCE


@pytest.mark.parametrize(("preset", "equal"), [("reference", True), ("paper", False)])  # alpha / r is the control
def test_text_lora(preset: str, equal: bool) -> None:
    golden = load("text_lora.npz")
    config = ModelConfig(rank=int(golden["rank"]), alpha=float(golden["alpha"]), preset=preset)
    adapter = Lora(golden["tokens"].shape[-1], config)
    adapter.load_state_dict({"down": tensor(golden["weight.lora_A"]), "up": tensor(golden["weight.lora_B"])})
    difference = largest(adapter(tensor(golden["tokens"])), golden["delta"])
    assert difference < TOLERANCE if equal else difference > 100 * TOLERANCE


class Gateway:
    """A model of which only the gateway and the map head are used, with golden gates."""

    def __init__(self) -> None:
        self.golden = load("gateway.npz")
        count, _, patches, dim = self.golden["visual"].shape
        block = BlockSpec(width=dim, heads=1, hidden=1, activation="gelu")
        side = round(patches**0.5)
        patch = int(self.golden["map_train"].shape[-1]) // side
        pixels = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        vision = VisionSpec(
            block=BlockSpec(width=1, heads=1, hidden=1, activation="gelu"),
            depth=count,
            patch=patch,
            table=side,
            patch_bias=False,
            pre_norm=False,
            mean=pixels[0],
            std=pixels[1],
        )
        text = TextSpec(
            block=block,
            depth=count,
            vocabulary=1,
            positions=1,
            context_length=1,
            causal=True,
            embed_norm=False,
            pooling="end",
        )
        self.config = ModelConfig(preset="reference", groups=count, size=patch * side)
        self.model = AcdClip(self.config, VisionTower(vision, patch * side), TextTower(text))
        state = {
            ours: tensor(self.golden[f"weight.{names[0].removeprefix('image_adapter.vision_text_gate.')}"])
            for ours, names in authors_names(count, 2).items()
            if ours.startswith("gates.")
        }
        self.model.load_state_dict(state, strict=False)
        self.visual = tensor(self.golden["visual"])
        self.text = tensor(self.golden["text"]).permute(1, 0, 3, 2)  # (N, B, D, 2) -> (B, N, 2, D)

    def map(self, domain: str | None) -> Tensor:
        """The abnormal map, smoothed as the domain wants, or not at all."""
        self.model.config = self.config.with_(domain=domain or "industrial")
        weights = self.model.fusion_weights(self.visual)
        logits = self.model.map_logits(self.visual, self.text, weights)
        return self.model.anomaly_map(logits, smooth=domain is not None).detach()


@pytest.fixture(scope="module")
def gateway() -> Gateway:
    return Gateway()


@pytest.mark.parametrize("domain", [None, "industrial", "medical"])
def test_gateway(gateway: Gateway, domain: str | None) -> None:
    golden = gateway.golden[f"map_{domain}" if domain else "map_train"]
    ours = gateway.map(domain)
    if domain is None:
        ours = torch.stack([1 - ours, ours], dim=1)
    assert largest(ours, golden) < TOLERANCE


def test_gateway_control_domains(gateway: Gateway) -> None:
    assert largest(gateway.map("medical"), gateway.golden["map_industrial"]) > 1e-3
    assert SMOOTHING["medical"] != SMOOTHING["industrial"]


@pytest.mark.parametrize("wrong", ["states", "levels", "axis"])
def test_gateway_control_gate(gateway: Gateway, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if wrong == "states":
        monkeypatch.setattr(gateway, "text", gateway.text.flip(2))
    elif wrong == "levels":
        monkeypatch.setattr(gateway, "text", gateway.text.flip(1))
    else:  # a softmax over the states instead of the levels
        original = AcdClip.fusion_weights
        monkeypatch.setattr(AcdClip, "fusion_weights", lambda *a: original(*a) / original(*a).sum(2, keepdim=True))
    assert largest(gateway.map("industrial"), gateway.golden["map_industrial"]) > 1e-3


def test_losses() -> None:
    golden = load("losses.npz")
    probabilities, mask = tensor(golden["probabilities"]), tensor(golden["mask"])[:, 0]
    assert largest(focal_loss(probabilities, mask), golden["focal"]) < TOLERANCE
    assert largest(dice_loss(probabilities[:, 1], mask), golden["dice_abnormal"]) < TOLERANCE
    assert largest(dice_loss(probabilities[:, 0], 1 - mask), golden["dice_normal"]) < TOLERANCE
    assert largest(map_loss(probabilities[:, 1], mask), golden["total"]) < TOLERANCE
    # controls: the states swapped, the target of the other state
    assert largest(focal_loss(probabilities.flip(1), mask), golden["focal"]) > 1e-3
    assert largest(dice_loss(probabilities[:, 1], 1 - mask), golden["dice_abnormal"]) > 1e-3
    assert largest(map_loss(probabilities[:, 0], mask), golden["total"]) > 1e-3
