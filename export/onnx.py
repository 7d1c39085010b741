"""From a folded module to an ONNX file with external data, and the checks that every written graph passes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from acd_edge.errors import ExportError
from acd_edge.export.graph import FoldedAcdClip, Outputs
from acd_edge.export.text import OUTPUTS, FoldedTextEncoder
from acd_edge.export.trace import Value, state_of, trace_module
from acd_edge.export.translations import FREE_AXIS, TYPES
from acd_edge.lazy import require

__all__ = ["OPSET", "check_onnx", "onnx_from_folded", "onnx_from_text", "write_onnx"]

OPSET = 20  # TensorRT 10.3 (JetPack 6) reads 9 to 20
IR_VERSION = 9  # the one of ONNX 1.15, which brought opset 20
ALIGNMENT = 4096  # of each tensor in the data file, so that it can be mapped
SMALL = 1024  # bytes; what is smaller stays inside the graph


def onnx_from_folded(folded: FoldedAcdClip, path: Path, *, batch: int = 1) -> Path:
    """Write `model.onnx` and its data file for a folded model, in the types that its parameters have.

    Args:
        folded: from `fold`, `narrowed` for a narrower type, or `quantised` for INT8.
        path: of the graph; the weights go to `<path>.data` beside it.
        batch: pictures per run; static, since TensorRT makes fewest kernels of it.

    Raises:
        ExportError: the graph fails ONNX's own checks.
    """
    levels, size, dim = len(folded.heads), folded.size, folded.feature_dim
    image = torch.empty(batch, size, size, 3, dtype=torch.uint8, device="meta")
    text_features = torch.empty(batch, levels, 2, dim, device="meta")
    inputs = {"image": image, "text_features": text_features}
    return write_onnx(folded, path, inputs, Outputs._fields, name="acd_clip")


def onnx_from_text(encoder: FoldedTextEncoder, path: Path) -> Path:
    """Write the graph of a text encoder for any number of prompts, in one file (its weights inside).

    Raises:
        ExportError: the graph fails ONNX's own checks.
    """
    prompts = torch.empty(FREE_AXIS, encoder.context_length, dtype=torch.int64, device="meta")
    inputs = {"input_ids": prompts, "attention_mask": prompts}
    return write_onnx(encoder, path, inputs, OUTPUTS, name="text_encoder", free_axis="prompts", inline=True)


def write_onnx(
    module: nn.Module,
    path: Path,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    name: str,
    free_axis: str = "",
    inline: bool = False,
) -> Path:
    """Trace a module and write it.

    Args:
        module: anything that `acd_edge.export.trace` can read.
        path: of the graph.
        inputs: name -> tensor of the wanted type and shape.
        outputs: a name for each tensor that the module returns.
        name: of the graph.
        free_axis: name of the first axis, where inputs of `FREE_AXIS` rows leave it open.
        inline: weights go into the file (below 2 GB) instead of `<path>.data`.

    Raises:
        ExportError: the module cannot be traced, or the graph fails ONNX's own checks.
    """
    onnx = require("onnx", "export")
    trace = trace_module(module, inputs, outputs)
    used = {value for node in trace.nodes for value in node.input}
    with nullcontext() if inline else Path(f"{path}.data").open("wb") as data:
        weights = [_initializer(n, tensor, data) for n, tensor in state_of(module).items() if n in used]
    constants = [_initializer(n, tensor, None) for n, tensor in trace.constants.items() if n in used]
    inner = [n for n in trace.values if n not in outputs]
    graph = onnx.helper.make_graph(
        trace.nodes,
        name,
        [_value(n, Value(tensor.dtype, tuple(tensor.shape)), free_axis) for n, tensor in inputs.items()],
        [_value(n, trace.values[n], free_axis) for n in outputs],
        initializer=[*weights, *constants],
        value_info=[_value(n, trace.values[n], free_axis) for n in inner],
    )
    opset = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="acd-edge")
    path.write_bytes(model.SerializeToString(deterministic=True))
    check_onnx(path)
    return path


def check_onnx(path: Path) -> None:
    """ONNX's checker with full shape and type inference.

    Raises:
        ExportError: it found something.
    """
    onnx = require("onnx", "export")
    try:
        onnx.checker.check_model(os.fspath(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path.name} fails ONNX's checks: {' '.join(str(error).split())}") from error


def _value(name: str, value: Value, free_axis: str) -> Any:
    onnx = require("onnx", "export")
    shape = [free_axis if free_axis and size == FREE_AXIS else size for size in value.shape]
    kind = getattr(onnx.TensorProto, TYPES[value.dtype])
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def _initializer(name: str, tensor: Tensor, data: BinaryIO | None) -> Any:
    """The entry of one tensor; its bytes go to the data file, if there is one and they are not few."""
    onnx = require("onnx", "export")
    raw = _bytes_of(tensor)
    proto = onnx.TensorProto(name=name, dims=tensor.shape, data_type=getattr(onnx.TensorProto, TYPES[tensor.dtype]))
    if data is None or raw.nbytes <= SMALL:
        proto.raw_data = raw.tobytes()
        return proto
    data.write(bytes(-data.tell() % ALIGNMENT))
    proto.data_location = onnx.TensorProto.EXTERNAL
    place = {"location": Path(data.name).name, "offset": str(data.tell()), "length": str(raw.nbytes)}
    proto.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in place.items())
    data.write(raw.data)
    return proto


def _bytes_of(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """As they lie in memory, little endian; numpy has no bfloat16, so the values never pass through it."""
    plain: npt.NDArray[np.uint8] = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return plain
