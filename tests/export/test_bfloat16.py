"""bfloat16: types as TensorRT wants them, values that torch computes, and who refuses to run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from acd_edge.errors import BackendError
from acd_edge.export.graph import FoldedAcdClip
from acd_edge.export.onnx import onnx_from_folded
from acd_edge.export.precision import WideProducts, halve, narrowed
from acd_edge.runtime.backends import BackendOptions, GraphFile
from acd_edge.runtime.backends.ort import OrtBackend
from tests.export.rtx import build
from tests.export.test_compiler import DEPTH, small_clip


@pytest.fixture(scope="module")
def folded() -> FoldedAcdClip:
    return small_clip()


@pytest.fixture(scope="module")
def path(folded: FoldedAcdClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_from_folded(narrowed(folded, torch.bfloat16), tmp_path_factory.mktemp("bf16") / "model.onnx")


def test_weights_are_bfloat16_to_the_bit(folded: FoldedAcdClip, path: Path) -> None:
    stored = {each.name: each for each in onnx.load(str(path)).graph.initializer}
    weight = stored["blocks.0.mlp.fc1.weight"]
    assert weight.data_type == TensorProto.BFLOAT16
    bits = np.frombuffer(weight.raw_data, np.uint16).reshape(weight.dims)
    wanted = folded.blocks[0].mlp.fc1.weight.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)  # type: ignore[union-attr, operator]
    np.testing.assert_array_equal(bits, wanted)


def test_islands_stay_float32(path: Path) -> None:
    model = onnx.load(str(path))
    kinds = {each.name: each.data_type for each in model.graph.initializer}
    for name in ("blocks.0.norm1.weight", "gates.0.fc1.weight", "adapters.0.delta.branches.0.down"):
        assert kinds[name] == TensorProto.FLOAT
    made = {each.name: each.type.tensor_type.elem_type for each in model.graph.value_info}
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "ReduceL2", "Conv"):  # opset 20 has no Conv of bfloat16
            assert {made[each] for each in node.output} == {TensorProto.FLOAT}
    assert TensorProto.FLOAT16 not in {*kinds.values(), *made.values()}


def test_it_drifts_more_than_float16_and_not_far(folded: FoldedAcdClip) -> None:
    text = torch.randn(1, 2, 2, 128, generator=torch.Generator().manual_seed(1))
    inputs = (torch.from_numpy(np.random.default_rng(9).integers(0, 256, (1, 56, 56, 3), dtype=np.uint8)), text)
    with torch.no_grad(), WideProducts():
        plain = folded(*inputs).anomaly_map
        half, wide = (
            float((module(*inputs).anomaly_map - plain).abs().max())
            for module in (halve(folded), narrowed(folded, torch.bfloat16))
        )
    assert 2 * half < wide < 0.02  # eight bits of fraction against eleven


def test_the_compiler_takes_it(path: Path) -> None:
    built = build(path)
    assert built.fused_attentions == DEPTH
    assert built.summary.precision == "bf16"


def test_onnx_runtime_is_refused_in_one_line(path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(BackendError, match="bf16") as caught:
        OrtBackend(GraphFile(path=path, precision="bf16"), BackendOptions())
    assert "\n" not in str(caught.value)
