"""What NVIDIA's real parser refuses, and what is made of its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from acd_edge.errors import EngineError
from tests.export.rtx import build

CONSTANTS = {
    "scale": np.float32(0.1),
    "no_scale": np.float32(0),
    "zero": np.int8(0),
    "three": np.int8(3),
    "weight": np.eye(8, dtype=np.float32),
    "weight_int8": np.eye(8, dtype=np.int8),
}


def quantised(scale: str, zero: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", ["x", scale, zero], ["q"]),
        helper.make_node("DequantizeLinear", ["q", scale, zero], ["d"]),
        helper.make_node("MatMul", ["d", "weight"], ["y"]),
    ]


def written(path: Path, nodes: list[onnx.NodeProto], kind: int, result: int, shape: list[Any]) -> Path:
    graph = helper.make_graph(
        nodes,
        "refused",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", result, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in CONSTANTS.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


FLOAT, UINT8, INT8, INT32 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32
TURNED = [
    helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
    helper.make_node("Cast", ["t"], ["y"], to=FLOAT),
]
REFUSED: dict[str, tuple[list[onnx.NodeProto], int, int, list[Any], str]] = {
    "zero point": (quantised("scale", "three"), FLOAT, FLOAT, [8, 8], "quantised asymmetrically.*--int8"),
    "scale": (quantised("no_scale", "zero"), FLOAT, FLOAT, [8, 8], "a quantisation scale is zero"),
    "uint8": (TURNED, UINT8, FLOAT, [8, 8], "computes with uint8"),
    "foreign": ([helper.make_node("Foo", ["x"], ["y"], domain="com.microsoft")], FLOAT, FLOAT, [8, 8], "operator Foo"),
    "integer": ([helper.make_node("MatMulInteger", ["x", "weight_int8"], ["y"])], INT8, INT32, [8, 8], "MatMulInteger"),
    "free side": ([helper.make_node("Relu", ["x"], ["y"])], FLOAT, FLOAT, [8, "N"], "only the first side of an input"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_parsers_words_become_ours(case: str, tmp_path: Path) -> None:
    nodes, kind, result, shape, words = REFUSED[case]
    with pytest.raises(EngineError, match=words):
        build(written(tmp_path / "model.onnx", nodes, kind, result, shape))


def test_the_same_graph_quantised_symmetrically_is_taken(tmp_path: Path) -> None:
    built = build(written(tmp_path / "model.onnx", quantised("scale", "zero"), FLOAT, FLOAT, [8, 8]))
    assert built.size > 0


def test_a_file_that_is_no_graph_is_an_empty_network(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"xx")
    with pytest.raises(EngineError, match=r"TensorRT finds nothing in .*model\.onnx; export the bundle again"):
        build(path)
    with pytest.raises(EngineError, match="the graph is not where it was"):
        build(tmp_path / "absent.onnx")
