"""A graph may read its weights from the bundle's own files only, whoever sealed the bundle."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from acd_edge.errors import BundleError
from acd_edge.runtime.bundle import Bundle, write_bundle
from acd_edge.runtime.graph_files import FIELDS, external_files, op_types
from tests.tiny_bundle import (
    tiny_features,
    tiny_golden,
    tiny_graph,
    tiny_manifest,
    tiny_text_encoder,
    tiny_tokenizer,
    write_tiny_bundle,
)


def external(name: str, location: str) -> TensorProto:
    """A scalar that lies in another file."""
    tensor = numpy_helper.from_array(np.array([7], np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def as_initializer(model: onnx.ModelProto, location: str) -> None:
    model.graph.initializer.append(external("secret", location))


def as_constant(model: onnx.ModelProto, location: str) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["secret"], value=external("t", location)))


def in_a_branch(model: onnx.ModelProto, location: str) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["s"], ["o"])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [1])],
        [external("s", location)],
    )
    node = helper.make_node("If", ["zero"], ["secret"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)


def as_sparse(model: onnx.ModelProto, location: str) -> None:
    model.graph.sparse_initializer.add(values=external("v", location), dims=[1])


def in_a_function(model: onnx.ModelProto, location: str) -> None:
    inner = helper.make_node("Constant", [], ["o"], value=external("t", location))
    model.functions.append(
        helper.make_function("own", "f", [], ["o"], [inner], [helper.make_opsetid("", 20)]),
    )


def in_training(model: onnx.ModelProto, location: str) -> None:
    model.training_info.add().algorithm.initializer.append(external("secret", location))


WAYS: list[Callable[[onnx.ModelProto, str], None]] = [
    *(as_initializer, as_constant, in_a_branch, as_sparse, in_a_function, in_training)
]


def sealed(path: Path, model: bytes, **files: bytes) -> Path:
    """A bundle whose digests are right, whatever its graph does."""
    write_bundle(
        path,
        tiny_manifest(),
        files={"model.onnx": model, **files},
        text_features=tiny_features(),
        golden=tiny_golden(),
    )
    return path


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "model.onnx.data2", "./model.onnx.data", "a/b"])
def test_a_file_outside_the_bundle_is_refused(
    tmp_path: Path, way: Callable[[onnx.ModelProto, str], None], location: str
) -> None:
    (tmp_path / "secret").write_bytes(bytes(4))
    model = tiny_graph()
    way(model, location)
    path = sealed(tmp_path / "b", model.SerializeToString(), **{"model.onnx.data": bytes(4), "a/b": bytes(4)})
    with pytest.raises(BundleError, match=rf"outside itself: model\.onnx reads .* from '{re.escape(location)}'"):
        Bundle.open(path)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_bundle_s_own_file_is_allowed(tmp_path: Path, way: Callable[[onnx.ModelProto, str], None]) -> None:
    model = tiny_graph()
    way(model, "model.onnx.data")
    Bundle.open(sealed(tmp_path / "b.acd", model.SerializeToString(), **{"model.onnx.data": bytes(4)})).close()


def test_an_address_in_memory_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime reads a tensor at any address where the location is this text, so a listed file does not help."""
    marker = "*/_ORT_MEM_ADDR_/*"
    model = tiny_graph()
    as_initializer(model, marker)
    with pytest.raises(BundleError, match="outside itself"):
        Bundle.open(sealed(tmp_path / "b", model.SerializeToString(), **{marker: bytes(4)}))


def test_the_text_encoder_is_looked_at_too(tmp_path: Path) -> None:
    encoder = tiny_text_encoder()
    as_initializer(encoder, "../secret")
    files = {"text_encoder.onnx": encoder.SerializeToString(), "tokenizer.json": tiny_tokenizer().encode()}
    with pytest.raises(BundleError, match=r"text_encoder\.onnx reads"):
        Bundle.open(sealed(tmp_path / "b", tiny_graph().SerializeToString(), **files))


def test_a_location_that_stands_twice_counts_twice(tmp_path: Path) -> None:
    """Readers take the last one."""
    pair = onnx.StringStringEntryProto(key="location", value="model.onnx.data").SerializeToString()
    pair += onnx.StringStringEntryProto(value="../secret").SerializeToString()
    tensor = external("secret", "x")
    tensor.ClearField("external_data")
    raw = tensor.SerializeToString() + b"\x6a" + bytes([len(pair)]) + pair  # field 13, in bytes
    graph = b"\x2a" + bytes([len(raw)]) + raw  # field 5
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + bytes([len(graph)]) + graph)  # field 7
    assert onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer[0].external_data[0].value
    assert external_files(tmp_path / "m.onnx") == {"model.onnx.data", "../secret"}


@pytest.mark.parametrize(
    "content", [b"x", b"\x3a\x05a", b"\xff" * 12, b"\x3b", b"\x3d\x00", b"\xba\x80\x80\x80\x10\x00"]
)
def test_what_is_no_graph_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx is no ONNX graph") as caught:
        Bundle.open(sealed(tmp_path / "b", content))
    assert "\n" not in str(caught.value)


def test_the_table_is_onnx_s_own() -> None:
    """Every field of ONNX's messages through which a tensor can be reached."""
    messages: dict[str, dict[int, str]] = {}
    _collect(onnx.ModelProto.DESCRIPTOR, messages)
    leading = {"TensorProto"}
    while more := {name for name, fields in messages.items() if set(fields.values()) & leading} - leading:
        leading |= more
    want = {name: {n: held for n, held in messages[name].items() if held in leading} for name in leading}
    pairs = {n: held for n, held in messages["TensorProto"].items() if n == TensorProto.EXTERNAL_DATA_FIELD_NUMBER}
    assert {name: dict(fields) for name, fields in FIELDS.items()} == {**want, "TensorProto": pairs}


def _collect(descriptor: Any, messages: dict[str, dict[int, str]]) -> None:
    messages[descriptor.name] = {f.number: f.message_type.name for f in descriptor.fields if f.message_type}
    for field in descriptor.fields:
        if field.message_type and field.message_type.name not in messages:
            _collect(field.message_type, messages)


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    with suppress(BundleError):
        external_files(path)


def test_exported_graphs_pass(tmp_path: Path) -> None:
    assert external_files(write_tiny_bundle(tmp_path / "b") / "model.onnx") == set()


def test_operators_of_a_graph_and_of_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny_graph(), path)
    assert op_types(path) == {node.op_type for node in tiny_graph().graph.node}
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    branch = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"])], "inner", [], [output])
    chosen = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    onnx.save(helper.make_model(helper.make_graph([chosen], "outer", [], [])), path)
    assert op_types(path) == {"If", "Softmax"}
    path.write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"model\.onnx is no ONNX graph"):
        op_types(path)
