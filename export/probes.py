"""What the blocks of a written graph make: where their ends are, and a copy of the graph that gives them out.

Needs `onnx`, imported late.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acd_edge.lazy import require
from acd_edge.runtime.graph_files import external_files

__all__ = ["OUTSIDE", "block_ends", "read_graph", "with_probes", "write_widened"]

OUTSIDE = "outputs"
"""What is computed outside every block, such as the class score."""
PROBE = "probe/"
_BLOCK = re.compile(r"(?:[a-z_]+\.\d+|[a-z_]+)(?=[./])")
_NARROW = ("FLOAT16", "BFLOAT16")


def read_graph(path: Path, *, weights: bool = False) -> Any:
    """An ONNX model, without its external data unless asked for."""
    return require("onnx", "export").load(os.fspath(path), load_external_data=weights)


def block_of(node: str) -> str:
    """The part of the network that a node belongs to, from its name, which follows the module path.

    >>> block_of("blocks.4.attn.query/MatMul"), block_of("embed.norm/Cast_1"), block_of("Slice_2")
    ('blocks.4', 'embed', 'outputs')
    """
    found = _BLOCK.match(node)
    return found.group() if found else OUTSIDE


def block_ends(model: Any) -> dict[str, list[str]]:
    """Block -> names of the values that leave it, in the order of computation.

    Of the nodes outside every block only the graph's outputs count: the others cut and join what blocks made.
    """
    graph = model.graph
    made_by = {value: block_of(node.name) for node in graph.node for value in node.output}
    results = {output.name for output in graph.output}
    leaving = set(results)
    for node in graph.node:
        leaving.update(value for value in node.input if made_by.get(value, block_of(node.name)) != block_of(node.name))
    ends: dict[str, list[str]] = {}
    for node in graph.node:
        block = block_of(node.name)
        kept = [value for value in node.output if value in (results if block == OUTSIDE else leaving)]
        if kept:
            ends.setdefault(block, []).extend(kept)
    return ends


def with_probes(source: Path, values: Sequence[str], folder: Path) -> tuple[Path, dict[str, str]]:
    """Write a copy of a graph that also gives out inner values, as float32; its weights are copied.

    Args:
        source: the graph; its data lie beside it.
        values: names; those that are outputs already stay as they are.
        folder: where the copy goes.

    Returns:
        its path, and value -> name of the output that holds it.
    """
    onnx = require("onnx", "export")
    model = read_graph(source)
    outputs = {output.name for output in model.graph.output}
    names = {value: value if value in outputs else f"{PROBE}{value}" for value in values}
    known = {info.name: info.type.tensor_type for info in model.graph.value_info}
    kind = onnx.TensorProto.FLOAT
    for value, name in names.items():
        if value in outputs:
            continue
        model.graph.node.append(onnx.helper.make_node("Cast", [value], [name], name=name, to=kind))
        shape = [dim.dim_value or None for dim in known[value].shape.dim] if value in known else None
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    for file in external_files(source):
        shutil.copyfile(source.parent / file, folder / file)  # onnx refuses hard links, ONNX Runtime the symbolic ones
    target = folder / source.name
    target.write_bytes(model.SerializeToString(deterministic=True))
    return target, names


def write_widened(source: Path, folder: Path) -> Path:
    """Write the same graph with every narrow float type made float32: the weights as they were rounded, computed wide.

    INT8 stays INT8, so that its rounding is on both sides.
    """
    onnx = require("onnx", "export")
    model = read_graph(source, weights=True)
    narrow = {getattr(onnx.TensorProto, name) for name in _NARROW}
    wide = onnx.TensorProto.FLOAT
    for tensor in model.graph.initializer:
        if tensor.data_type in narrow:
            array = onnx.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in narrow:
                attribute.i = wide
    for info in model.graph.value_info:
        if info.type.tensor_type.elem_type in narrow:
            info.type.tensor_type.elem_type = wide
    target = folder / source.name
    onnx.save_model(
        model, os.fspath(target), save_as_external_data=True, location=f"{source.name}.data", size_threshold=1024
    )
    return target


def values_of(ends: Mapping[str, Sequence[str]], blocks: Sequence[str]) -> list[str]:
    """The values of some blocks, in order."""
    return [value for block in blocks for value in ends[block]]
