"""What the layers of an engine tell, in the words of several releases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acd_edge.errors import EngineError
from acd_edge.export.layers import LayerSummary, layers_from_json, summary_of
from tests.export.rtx import layers_from_log

# A line of the verbose log as TensorRT-RTX 1.7 writes it, shortened.
LOG = (
    "Name: {name}, LayerType: {kind}, Inputs: [ {{ Name: x, Dimensions: [1,17,128], Datatype: {dtype}, Format: (Linear)"
    " Row major linear format }}], Constants: [ {{ Name: w, Dimensions: [1,128,384], Datatype: Half, Format: (Linear) "
    "Row major linear format }}], Outputs: [ {{ Name: y, Datatype: Half, Format: (Linear) Row major linear format }}], "
    "TacticName: {tactic}, StreamId: 0, Metadata: [ONNX Layer: blocks.0.attn.proj/MatMul]"
)


def layer(name: str, kind: str, types: list[str], tactic: str = "", key: str = "Format/Datatype") -> dict[str, Any]:
    return {
        "Name": name, "LayerType": kind, "TacticName": tactic,
        "Inputs": [{"Name": "x", "Dimensions": [1, 17, 128], key: each} for each in types],
        "Outputs": [{"Name": "y", key: "Half"}],
    }  # fmt: skip


def summary(*layers: dict[str, Any] | str) -> LayerSummary:
    return summary_of(layers_from_json(json.dumps({"Layers": list(layers), "Bindings": ["image"]})))


CAST = layer("__myl_CastTran_myl0_0", "kgen", ["UInt8"])
NORM = layer("__myl_CastMeanSubMul_myl0_2", "kgen", ["Float"])
MHA = layer("_gemm_mha_v2_myl0_7", "kgen", ["Half", "Half", "Half"])
QKV = layer("blocks.0.attn.value/MatMul+blocks.0.attn.key/MatMul_myl0_3", "gemm", ["Half"])
FUSED = layer("__myl_FcAddMulSigmMul_myl0_10", "fusion", ["Half", "Half"], "sm80_xmma_gemm_f16f16")
INT8 = layer("__myl_FcCastAdd_myl0_9", "fusion", ["Int8", "Half"], "sm80_xmma_gemm_i8i8_i8i32_f32")
SINGLE = layer("heads.0.fc1/MatMul", "MatrixMultiply", ["Float"])


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([CAST, NORM, NORM, NORM, QKV, MHA, FUSED, SINGLE], LayerSummary("fp16", 8, 1, 0)),
        ([CAST, NORM, QKV, MHA, INT8, INT8], LayerSummary("int8", 6, 1, 2)),
        ([SINGLE, NORM, CAST], LayerSummary("fp32", 3, 0, 0)),
        ([layer("conv", "CaskConvolution", ["Row major linear FP16 format"])], LayerSummary("fp16", 1, 0, 0)),
        ([layer("a", "gemm", ["BFloat16"], key="Datatype")], LayerSummary("bf16", 1, 0, 0)),
        ([layer("a", "gemm", ["Half"], key="Datatype") | {"Format": "x"}], LayerSummary("fp16", 1, 0, 0)),
        ([CAST, NORM], LayerSummary("fp32", 2, 0, 0)),  # no product at all: what most layers read
        (["names", "only"], LayerSummary("unknown", 2, 0, 0)),
        ([], LayerSummary("unknown", 0, 0, 0)),
    ],
)
def test_precision_is_that_of_the_products(layers: list[Any], expected: LayerSummary) -> None:
    assert summary(*layers) == expected


def test_control_characters_between_names_are_read() -> None:
    text = json.dumps({"Layers": [QKV | {"Metadata": "[ONNX Layer: a]|[ONNX Layer: b]"}]}).replace("|", "\x1e")
    assert summary_of(layers_from_json(text)).precision == "fp16"


def test_moving_and_adding_are_no_products() -> None:
    found = layers_from_json(json.dumps({"Layers": [CAST, NORM, layer("__myl_MoveConc_myl0_5", "kgen", ["Half"])]}))
    assert not any(each.is_product for each in found)


def test_the_log_says_the_same() -> None:
    lines = [
        "some other message",
        "Engine Layer Information:\n" + LOG.format(name="_gemm_mha_v2_myl0_7", kind="kgen", dtype="Half", tactic="t"),
        LOG.format(name="a+b_myl0_3", kind="gemm", dtype="Int8", tactic="__myelin"),
    ]
    found = layers_from_log(lines)
    assert [(each.name, each.kind, each.tactic, each.inputs) for each in found] == [
        ("_gemm_mha_v2_myl0_7", "kgen", "t", ("fp16",)),
        ("a+b_myl0_3", "gemm", "__myelin", ("int8",)),
    ]
    assert summary_of(found) == LayerSummary("int8", 2, 1, 1)


@pytest.mark.parametrize("text", ["", "[]", '{"Bindings": []}', '{"Layers": 3}', '{"Layers": [3]}'])
def test_what_is_no_list_of_layers(text: str) -> None:
    with pytest.raises(EngineError, match="no list of layers"):
        layers_from_json(text)
