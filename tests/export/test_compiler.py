"""NVIDIA's compiler takes the graph as it is: parsed, strongly typed, built, one fused attention kernel per block."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from acd_edge.config import ModelConfig
from acd_edge.errors import EngineError
from acd_edge.export import graph
from acd_edge.export.build import build_engine, new_monitor
from acd_edge.export.fold import fold
from acd_edge.export.graph import FoldedAcdClip
from acd_edge.export.onnx import onnx_from_folded, onnx_from_text
from acd_edge.export.precision import halve, narrowed
from acd_edge.export.text import fold_text, store_half
from acd_edge.model.acd import AcdClip
from acd_edge.model.towers import BlockSpec, TextSpec, TextTower, VisionSpec, VisionTower
from acd_edge.runtime.engines import BuildOptions
from acd_edge.runtime.trt_module import trt_log
from tests.export.rtx import build

DEPTH = 4
BLOCK = BlockSpec(width=128, heads=2, hidden=256, activation="quick_gelu")  # 64 channels a head, as in CLIP


def small_model(preset: str = "reference") -> AcdClip:
    """CLIP's blocks and shapes of heads, four of them, at 4 x 4 patches."""
    torch.manual_seed(5)
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    vision = VisionSpec(
        block=BLOCK, depth=DEPTH, patch=14, table=4, patch_bias=False, pre_norm=True, mean=mean, std=std
    )
    text = TextSpec(
        block=BLOCK, depth=2, vocabulary=64, positions=16, context_length=16, causal=True, embed_norm=False,
        pooling="end",
    )  # fmt: skip
    config = ModelConfig(size=56, groups=2, preset=preset)
    return AcdClip(config, VisionTower(vision, config.size), TextTower(text)).eval()


def small_clip(preset: str = "reference") -> FoldedAcdClip:
    return fold(small_model(preset))


@pytest.mark.parametrize("preset", ["reference", "paper"])
def test_fp16_graph_builds_with_one_fused_attention_per_block(preset: str, tmp_path: Path) -> None:
    built = build(onnx_from_folded(halve(small_clip(preset)), tmp_path / "model.onnx"))
    assert built.fused_attentions == DEPTH
    assert (built.summary.precision, built.summary.int8_products) == ("fp16", 0)
    assert built.size > 0


def test_bf16_builds_as_fp16_does(tmp_path: Path) -> None:
    built = build(onnx_from_folded(narrowed(small_clip(), torch.bfloat16), tmp_path / "model.onnx"))
    assert (built.summary.precision, built.fused_attentions) == ("bf16", DEPTH)


def test_fp32_has_no_fused_attention(tmp_path: Path) -> None:
    built = build(onnx_from_folded(small_clip(), tmp_path / "model.onnx"))
    assert (built.summary.precision, built.fused_attentions) == ("fp32", 0)


def test_subtracting_the_maximum_breaks_the_fusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: graph.Attention, x: Tensor, bias: Tensor | None = None) -> Tensor:
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        query, key, value = (part(x).reshape(split).permute(0, 2, 1, 3) for part in (self.query, self.key, self.value))
        logits = query @ key.permute(0, 1, 3, 2)
        mixed = (logits - logits.amax(dim=-1, keepdim=True)).softmax(dim=-1) @ value
        return self.proj(mixed.permute(0, 2, 1, 3).reshape(batch, length, width))

    monkeypatch.setattr(graph.Attention, "forward", forward)
    monkeypatch.setattr("acd_edge.export.trace.TRANSLATIONS", with_maximum())
    assert build(onnx_from_folded(halve(small_clip()), tmp_path / "model.onnx")).fused_attentions < DEPTH


def test_the_text_encoder_builds_for_any_number_of_prompts(tmp_path: Path) -> None:
    encoder = store_half(fold_text(small_model()))
    built = build(onnx_from_text(encoder, tmp_path / "text_encoder.onnx"), BuildOptions(prompts=24))
    assert built.summary.precision == "fp32"  # stored in half, computed in single
    assert built.size > 0


def test_a_cancelled_build_ends_at_its_next_step(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="the compiler comes with the wheel tensorrt-rtx, x86-64 only")
    monitor = new_monitor(trt, lambda _: None)
    monitor.cancelled = True
    path = onnx_from_folded(halve(small_clip()), tmp_path / "model.onnx")
    with pytest.raises(EngineError, match="the build was cancelled"):
        build_engine(trt, path, BuildOptions(), log=trt_log(trt), monitor=monitor)


def with_maximum() -> dict[str, object]:
    from acd_edge.export import translations

    return {**translations.TRANSLATIONS, "amax": translations.reduction("ReduceMax")}
