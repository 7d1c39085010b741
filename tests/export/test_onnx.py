"""The written graph: its signature, types, names and operators, and its numbers against the module it was made from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from acd_edge.config import ABLATIONS, PRESETS, ModelConfig
from acd_edge.errors import ExportError
from acd_edge.export.fold import fold
from acd_edge.export.graph import FoldedAcdClip, Norm
from acd_edge.export.onnx import OPSET, check_onnx, onnx_from_folded, onnx_from_text, write_onnx
from acd_edge.export.precision import RANGE_LIMIT, WideProducts, audit_ranges, check_ranges, halve
from acd_edge.export.text import FoldedTextEncoder, fold_text, store_half
from acd_edge.model.acd import AcdClip
from tests.tiny_model import TINY_SIZE, TINY_TEXT, tiny_model

LEVELS, DIM = 2, TINY_TEXT.block.width
# What TensorRT 10.3 imports (operators.md of its parser), cut to what the graph needs.
ALLOWED = {
    "Add", "Cast", "Clip", "Concat", "Conv", "Div", "Gather", "Gelu", "Identity", "LayerNormalization", "LeakyRelu",
    "MatMul", "Mul", "ReduceL2", "ReduceMean", "ReduceSum", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Sub",
    "Transpose", "Unsqueeze",
}  # fmt: skip
FP32_PARITY = 1e-5  # six blocks of float32 rounding in another order of summation; measured 4e-7


def model_of(preset: str = "reference", row: str = "both") -> AcdClip:
    torch.manual_seed(3)
    config = ModelConfig(preset=preset, size=TINY_SIZE, groups=LEVELS, **ABLATIONS[row])  # type: ignore[arg-type]
    return tiny_model(config)


def inputs_of(batch: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    image = torch.randint(0, 256, (batch, TINY_SIZE, TINY_SIZE, 3), dtype=torch.uint8)
    return image, nn.functional.normalize(torch.randn(batch, LEVELS, 2, DIM), dim=-1)


def run(path: Path, image: Tensor, text: Tensor) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image.numpy(), "text_features": text.numpy()})


@pytest.fixture(scope="module")
def folded() -> FoldedAcdClip:
    return fold(model_of())


@pytest.fixture(scope="module")
def fp16_path(folded: FoldedAcdClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_from_folded(halve(folded), tmp_path_factory.mktemp("fp16") / "model.onnx")


@pytest.fixture(scope="module")
def fp16_graph(fp16_path: Path) -> onnx.GraphProto:
    return onnx.load(str(fp16_path)).graph


@pytest.mark.parametrize("row", ABLATIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_onnx_runtime_equals_torch(preset: str, row: str, tmp_path: Path) -> None:
    folded, inputs = fold(model_of(preset, row)), inputs_of()
    path = onnx_from_folded(folded, tmp_path / "model.onnx")
    with torch.no_grad():
        want = folded(*inputs)
    for mine, theirs in zip(run(path, *inputs), want, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=0, atol=FP32_PARITY)
    assert {node.op_type for node in onnx.load(str(path)).graph.node} <= ALLOWED


def test_another_weight_in_the_file_is_seen(folded: FoldedAcdClip, tmp_path: Path) -> None:
    path, inputs = onnx_from_folded(folded, tmp_path / "model.onnx"), inputs_of()
    data = np.fromfile(f"{path}.data", np.float32)
    (data * (1 + 0.01 * np.random.default_rng(0).normal(size=data.shape))).astype(np.float32).tofile(f"{path}.data")
    with torch.no_grad():
        want = folded(*inputs)
    assert np.abs(run(path, *inputs)[0] - want.anomaly_map.numpy()).max() > 10 * FP32_PARITY


def test_a_static_batch_of_two(folded: FoldedAcdClip, tmp_path: Path) -> None:
    path, inputs = onnx_from_folded(folded, tmp_path / "model.onnx", batch=2), inputs_of(2)
    with torch.no_grad():
        want = folded(*inputs)
    np.testing.assert_allclose(run(path, *inputs)[0], want.anomaly_map.numpy(), rtol=0, atol=FP32_PARITY)


def signature(values: Any) -> dict[str, tuple[int, list[int]]]:
    return {
        each.name: (each.type.tensor_type.elem_type, [dim.dim_value for dim in each.type.tensor_type.shape.dim])
        for each in values
    }


def test_signature_and_opset(fp16_path: Path, fp16_graph: onnx.GraphProto) -> None:
    assert signature(fp16_graph.input) == {
        "image": (TensorProto.UINT8, [1, TINY_SIZE, TINY_SIZE, 3]),
        "text_features": (TensorProto.FLOAT, [1, LEVELS, 2, DIM]),
    }
    assert signature(fp16_graph.output) == {
        "anomaly_map": (TensorProto.FLOAT, [1, TINY_SIZE, TINY_SIZE]),
        "class_score": (TensorProto.FLOAT, [1]),
        "fusion_weights": (TensorProto.FLOAT, [1, LEVELS, 2, LEVELS]),
    }
    model = onnx.load(str(fp16_path), load_external_data=False)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)] == [("", 20)]
    check_onnx(fp16_path)


def test_operators_and_names(fp16_graph: onnx.GraphProto) -> None:
    assert {node.op_type for node in fp16_graph.node} <= ALLOWED
    assert fp16_graph.node[0].op_type == "Cast"
    assert list(fp16_graph.node[0].input) == ["image"]
    names = [node.name for node in fp16_graph.node]
    assert len(set(names)) == len(names)
    counts = Counter(node.op_type for node in fp16_graph.node if node.name.startswith("blocks.4.attn"))
    assert counts == {"MatMul": 6, "Add": 4, "Reshape": 4, "Transpose": 4, "Softmax": 1}  # no Gemm, no max, no scale
    assert {"blocks.5.mlp.fc1/MatMul", "adapters.1.delta.branches.1/Conv", "heads.0.segment.norm/LayerNormalization",
            "gates.1/Softmax"} <= set(names)  # fmt: skip
    assert {"blocks.5.mlp.fc1.weight", "adapters.0.delta.up"} <= {each.name for each in fp16_graph.initializer}


def types_of(graph: onnx.GraphProto) -> dict[str, int]:
    values = [*graph.input, *graph.output, *graph.value_info]
    known = {each.name: each.type.tensor_type.elem_type for each in values}
    return known | {each.name: each.data_type for each in graph.initializer}


def test_fp16_is_strongly_typed_with_fp32_islands(fp16_graph: onnx.GraphProto, folded: FoldedAcdClip) -> None:
    types = types_of(fp16_graph)
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    for node in fp16_graph.node:
        if node.op_type == "Cast":
            assert node.input[0] in {"image"} | {each for other in fp16_graph.node for each in other.output}, node.name
            continue
        kinds = {types[each] for each in [*node.input, *node.output] if types[each] in floats}
        assert len(kinds) == 1, f"{node.name} mixes types"
        if node.op_type in ("LayerNormalization", "ReduceL2", "Clip") or node.name.startswith(("gates", "decoder")):
            assert kinds == {TensorProto.FLOAT}, node.name
        if node.op_type in ("Softmax", "Conv") and not node.name.startswith("gates"):
            assert kinds == {TensorProto.FLOAT16}, node.name
    weights = {n for n, _ in folded.named_parameters() if n.startswith(("blocks", "adapters", "heads", "embed"))}
    islands = {f"{n}.{p}" for n, m in folded.named_modules() if isinstance(m, Norm) for p in ("weight", "bias")}
    islands |= {n for n in weights if ".entry." in n}
    assert {n for n in weights if types[n] == TensorProto.FLOAT} == islands
    inferred = types_of(onnx.shape_inference.infer_shapes(onnx.helper.make_model(fp16_graph), strict_mode=True).graph)
    assert all(types[name] == kind for name, kind in inferred.items())


def test_the_half_module_shares_its_islands_and_leaves_the_folded_one_alone(folded: FoldedAcdClip) -> None:
    half = halve(folded)
    assert half.blocks[0].attn.query.weight.dtype == torch.float16  # type: ignore[union-attr]
    assert folded.blocks[0].attn.query.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert half.blocks[0].norm1.weight is folded.blocks[0].norm1.weight  # type: ignore[union-attr]


def test_wide_products_are_torch_s_own_half_products_in_less_time(folded: FoldedAcdClip) -> None:
    half, inputs = halve(folded), inputs_of()
    with torch.no_grad():
        plain, full = half(*inputs), folded(*inputs)
        with WideProducts():
            wide = half(*inputs)
    off = float((plain.anomaly_map - full.anomaly_map).abs().max())
    assert 0 < float((wide.anomaly_map - plain.anomaly_map).abs().max()) < 2 * off  # other orders of summation
    assert 0 < off < 5e-3


def test_the_audit_names_an_overflow(folded: FoldedAcdClip) -> None:
    ranges, outputs = audit_ranges(folded, *inputs_of())
    with torch.no_grad():
        assert torch.equal(outputs.anomaly_map, folded(*inputs_of()).anomaly_map)
    assert max(ranges.values()) < RANGE_LIMIT
    assert {"embed/Cast", "blocks.0.attn/Softmax", "blocks.0.norm1/Cast_1", "heads.1.fc1/Add"} <= set(ranges)
    assert not any("LayerNormalization" in name or name.startswith("decoder") for name in ranges)  # islands
    check_ranges(ranges)

    planted = fold(model_of())
    dict(planted.named_parameters())["blocks.1.mlp.fc1.bias"].data[3] = 9000.0
    with pytest.raises(ExportError, match=r"blocks\.1\.mlp.*--fp32"):
        check_ranges(audit_ranges(planted, *inputs_of())[0])
    with pytest.raises(ExportError, match="nan"):
        check_ranges({"blocks.0/Add": float("nan")})


def test_an_unknown_function_is_refused_by_name(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cos()

    with pytest.raises(ExportError, match="cos"):
        write_onnx(Odd(), tmp_path / "odd.onnx", {"x": torch.zeros(2)}, ["y"], name="odd")


def test_text_encoder_takes_any_number_of_prompts(tmp_path: Path) -> None:
    encoder = fold_text(model_of())
    path = onnx_from_text(store_half(encoder), tmp_path / "text_encoder.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["input_ids", "attention_mask"]
    for count in (1, 5):
        ids = torch.randint(1, 60, (count, encoder.context_length))
        mask = (torch.arange(encoder.context_length) < 6).long().expand(count, -1).contiguous()
        (got,) = session.run(["prompt_features"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.no_grad():
            exact, stored = encoder(ids, mask).numpy(), store_half(encoder)(ids, mask).numpy()
        assert got.shape == (count, LEVELS, DIM)
        np.testing.assert_allclose(got, stored, rtol=0, atol=FP32_PARITY)
        np.testing.assert_allclose(got, exact, rtol=0, atol=2e-3)  # weights rounded to 11 bits
        np.testing.assert_allclose(np.linalg.norm(got, axis=-1), 1, atol=1e-5)
    halves = {each.name for each in onnx.load(str(path)).graph.initializer if each.data_type == TensorProto.FLOAT16}
    assert "table" in halves
    assert "blocks.0.attn.query.weight" in halves
    assert isinstance(encoder, FoldedTextEncoder)
    assert encoder.table.dtype == torch.float32  # the original keeps its type
