"""Which ONNX node each torch function means, opset 20; `acd_edge.export.trace` looks them up as a module runs.

A translation is told the recorder that writes nodes down, the tensors that the call made and the call's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acd_edge.errors import ExportError
from acd_edge.lazy import require

if TYPE_CHECKING:
    from acd_edge.export.trace import Recorder

__all__ = ["FREE_AXIS", "TRANSLATIONS", "TYPES", "Translation", "reduction"]

TYPES: Mapping[torch.dtype, str] = {
    torch.float16: "FLOAT16",
    torch.bfloat16: "BFLOAT16",
    torch.float32: "FLOAT",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int64: "INT64",
    torch.bool: "BOOL",
}

FREE_AXIS = 8191  # a prime that no width, length or grid of ours equals: the size of a free first axis while tracing

Made = Sequence[Tensor]
Translation = Callable[..., None]


def _one(kind: str, **attributes: Any) -> Translation:
    """One tensor in, one out, without arguments that matter."""

    def translate(to: Recorder, made: Made, x: Tensor, *_: Any, **__: Any) -> None:
        to.add(kind, [x], made, **attributes)

    return translate


def _two(kind: str, *, swapped: bool = False) -> Translation:
    """Two operands, one of which may be a number."""

    def translate(to: Recorder, made: Made, a: Any, b: Any) -> None:
        like = a if isinstance(a, Tensor) else b
        operands = [each if isinstance(each, Tensor) else to.scalar(each, like) for each in (a, b)]
        to.add(kind, operands[::-1] if swapped else operands, made)

    return translate


def reduction(kind: str) -> Translation:
    """Over one axis."""

    def translate(to: Recorder, made: Made, x: Tensor, *, dim: int, keepdim: bool = False, **_: Any) -> None:
        to.add(kind, [x, to.integers([dim % x.ndim])], made, keepdims=int(keepdim))

    return translate


def _cast(to: Recorder, made: Made, x: Tensor, *_: Any) -> None:
    onnx = require("onnx", "export")
    to.add("Cast", [x], made, to=getattr(onnx.TensorProto, TYPES[made[0].dtype]))


def _quantize(to: Recorder, made: Made, x: Tensor, scale: Tensor) -> None:
    to.add("QuantizeLinear", [x, scale, to.zero_point(scale)], made)


def _dequantize(to: Recorder, made: Made, q: Tensor, scale: Tensor) -> None:
    axis = {"axis": q.ndim - 1} if scale.ndim else {}
    to.add("DequantizeLinear", [q, scale, to.zero_point(scale)], made, **axis)


def _softmax(to: Recorder, made: Made, x: Tensor, *, dim: int) -> None:
    to.add("Softmax", [x], made, axis=dim)


def _layer_norm(
    to: Recorder, made: Made, x: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor, eps: float
) -> None:
    to.add("LayerNormalization", [x, weight, bias], made, axis=-len(shape), epsilon=eps)


def _clamp_min(to: Recorder, made: Made, x: Tensor, low: float) -> None:
    to.add("Clip", [x, to.scalar(low, x)], made)


def _conv2d(to: Recorder, made: Made, x: Tensor, weight: Tensor, *, padding: int) -> None:
    to.add("Conv", [x, weight], made, kernel_shape=list(weight.shape[2:]), pads=[padding] * 4)


def _reshape(to: Recorder, made: Made, x: Tensor, *_: Any) -> None:
    shape = [0 if size == FREE_AXIS and not axis else size for axis, size in enumerate(made[0].shape)]
    if FREE_AXIS in shape:
        raise ExportError(f"{to.path[-1]} moves the free axis to shape {tuple(made[0].shape)}")
    to.add("Reshape", [x, to.integers(shape)], made)


def _permute(to: Recorder, made: Made, x: Tensor, *order: int) -> None:
    to.add("Transpose", [x], made, perm=list(order))


def _expand(to: Recorder, made: Made, x: Tensor, *_: int) -> None:
    if made[0].shape == x.shape:
        to.alias(made[0], x)
    else:
        to.add("Expand", [x, to.integers(list(made[0].shape))], made)


def _unsqueeze(to: Recorder, made: Made, x: Tensor, dim: int) -> None:
    to.add("Unsqueeze", [x, to.integers([dim % made[0].ndim])], made)


def _select(to: Recorder, made: Made, x: Tensor, dim: int, index: int) -> None:
    to.add("Gather", [x, to.integers(index)], made, axis=dim)


def _narrow(to: Recorder, made: Made, x: Tensor, dim: int, start: int, length: int) -> None:
    to.add("Slice", [x, to.integers([start]), to.integers([start + length]), to.integers([dim])], made)


def _chunk(to: Recorder, made: Made, x: Tensor, _: int, *, dim: int) -> None:
    to.add("Split", [x, to.integers([each.shape[dim] for each in made])], made, axis=dim % x.ndim)


def _cat(to: Recorder, made: Made, parts: Sequence[Tensor], *, dim: int) -> None:
    to.add("Concat", list(parts), made, axis=dim)


def _stack(to: Recorder, made: Made, parts: Sequence[Tensor], *, dim: int) -> None:
    raised = [part.unsqueeze(dim) for part in parts]
    for part, wide in zip(parts, raised, strict=True):
        _unsqueeze(to, [wide], part, dim)
    to.add("Concat", raised, made, axis=dim)


def _embedding(to: Recorder, made: Made, ids: Tensor, table: Tensor, **_: Any) -> None:
    to.add("Gather", [table, ids], made, axis=0)


def _argmax(to: Recorder, made: Made, x: Tensor, *, dim: int, keepdim: bool) -> None:
    to.add("ArgMax", [x], made, axis=dim, keepdims=int(keepdim))


TRANSLATIONS: Mapping[str, Translation] = {
    "__matmul__": _two("MatMul"),
    "matmul": _two("MatMul"),
    "__add__": _two("Add"),
    "add": _two("Add"),
    "__radd__": _two("Add"),
    "__sub__": _two("Sub"),
    "sub": _two("Sub"),
    "__rsub__": _two("Sub", swapped=True),
    "__mul__": _two("Mul"),
    "mul": _two("Mul"),
    "__rmul__": _two("Mul"),
    "__truediv__": _two("Div"),
    "div": _two("Div"),
    "norm": reduction("ReduceL2"),
    "mean": reduction("ReduceMean"),
    "sum": reduction("ReduceSum"),
    "sigmoid": _one("Sigmoid"),
    "gelu": _one("Gelu"),
    "leaky_relu": _one("LeakyRelu", alpha=0.01),
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "clamp_min": _clamp_min,
    "conv2d": _conv2d,
    "quantize_linear": _quantize,
    "dequantize_linear": _dequantize,
    "to": _cast,
    "float": _cast,
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "unsqueeze": _unsqueeze,
    "select": _select,
    "narrow": _narrow,
    "chunk": _chunk,
    "cat": _cat,
    "stack": _stack,
    "embedding": _embedding,
    "argmax": _argmax,
    "__eq__": _two("Equal"),
}
