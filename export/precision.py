"""Typed precision: which parts of the folded model compute narrow, which stay float32 islands, and the range audit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from acd_edge.errors import ExportError
from acd_edge.export.graph import NARROW, ConvBranch, FoldedAcdClip, Outputs, constant
from acd_edge.export.trace import state_of, trace_module, watch_module

__all__ = [
    "PRECISIONS", "RANGE_LIMIT", "Precision", "WideProducts", "audit_ranges", "check_ranges", "halve", "narrowed",
]  # fmt: skip

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
_PRODUCTS = frozenset({"matmul", "__matmul__", "conv2d"})
RANGE_LIMIT = 65504 / 8  # an eighth of the largest float16: pictures that nobody has tried may reach higher


def narrowed(folded: FoldedAcdClip, dtype: torch.dtype) -> FoldedAcdClip:
    """A copy in float16 or bfloat16 with float32 islands: LayerNorms, L2 and token norms, gates, all after the heads.

    The types are in the module, so that torch on a CPU computes what the typed graph means. The islands' parameters
    are shared with `folded`. In bfloat16 the small convolutions stay float32 too: ONNX's Conv of opset 20 lacks it.
    """
    shared = {id(tensor): tensor for tensor in state_of(folded).values()}
    typed = copy.deepcopy(folded, shared)
    _narrow(typed, dtype)
    return typed


def halve(folded: FoldedAcdClip) -> FoldedAcdClip:
    """`narrowed` to float16."""
    return narrowed(folded, torch.float16)


def _narrow(module: nn.Module, dtype: torch.dtype) -> None:
    if getattr(module, "island", False) or (isinstance(module, ConvBranch) and dtype == torch.bfloat16):
        return
    for name, parameter in module.named_parameters(recurse=False):
        setattr(module, name, constant(parameter.to(dtype)))
    for child in module.children():
        _narrow(child, dtype)


class WideProducts(TorchFunctionMode):
    """Within it, products of narrow tensors are summed in float32 and rounded once, as tensor cores do.

    torch's own float16 products on a CPU do the same, 25 times slower where the processor has no float16 arithmetic.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in _PRODUCTS and (narrow := args[0].dtype) in NARROW:
            return func(args[0].float(), args[1].float(), *args[2:], **(kwargs or {})).to(narrow)
        return func(*args, **(kwargs or {}))


def audit_ranges(folded: FoldedAcdClip, image: Tensor, text_features: Tensor) -> tuple[dict[str, float], Outputs]:
    """How large each value becomes that `halve` would hold in float16.

    Args:
        folded: in float32, where nothing overflows.
        image: (B, S, S, 3) uint8; text_features: (B, N, 2, D).

    Returns:
        name of the weight or the graph's value -> its largest magnitude, and what the model said.
    """
    inputs = {"image": image, "text_features": text_features}
    seen: dict[str, float] = {}

    def watch(name: str, value: Tensor) -> None:
        seen[name] = float(value.abs().max()) if value.is_floating_point() else 0.0

    outputs: Outputs = watch_module(folded, inputs, watch)
    typed = halve(folded)
    trace = trace_module(typed, inputs, Outputs._fields)
    ranges = {n: float(t.abs().max()) for n, t in state_of(typed).items() if t.dtype == torch.float16}
    for node in trace.nodes:
        for made in node.output:
            if trace.values[made].dtype == torch.float16:
                # a cast exists in the half model only: what it writes is what it reads
                ranges[made] = seen[made] if made in seen else _read_by(node, seen, ranges)
    return ranges, outputs


def check_ranges(ranges: Mapping[str, float], limit: float = RANGE_LIMIT) -> None:
    """Refuse a model that comes near the end of float16.

    Raises:
        ExportError: with the names of the values beyond `limit`, the largest first.
    """
    beyond = sorted((name for name, value in ranges.items() if not value < limit), key=lambda n: -ranges[n])
    if beyond:
        named = ", ".join(f"{name} reaches {ranges[name]:,.0f}" for name in beyond[:3])
        more = f" and {len(beyond) - 3} more" if len(beyond) > 3 else ""
        raise ExportError(
            f"float16 ends at 65,504 and this model comes too near: {named}{more}; export with --bf16 or --fp32"
        )


def _read_by(node: Any, seen: Mapping[str, float], ranges: Mapping[str, float]) -> float:
    source = node.input[0]
    if source == "image":
        return 255.0
    return seen[source] if source in seen else ranges[source]
