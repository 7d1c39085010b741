"""INT8 in the graph: symmetric Q/DQ on the inputs of the blocks' linear layers, weights stored as int8 per channel.

What is quantised are the matrices that hold nine tenths of the weights: query, key, value, projection and both of the
MLP, in every block. Attention products, patch embedding, adapters, heads, gates and everything after them keep the type
of the graph that they stand in: float16 with its islands for TensorRT, float32 for a CPU.

The pass is our own and works on the typed module before it is traced, because there is then one description of the
arithmetic: torch computes it exactly on any CPU (so that the drift that is reported is that of INT8, not of a processor
that saturates), the graph says the same node by node, and ONNX Runtime is not needed to export. ONNX Runtime's
quantiser gives a graph of the same kind with the right options; by default NVIDIA's parser refuses what it writes
(`tests/export/test_int8.py` shows both). ModelOpt turns our float32 islands into float16 and wants other releases of
onnx and ONNX Runtime than ours.

The rules of TensorRT's explicit quantisation that shape it: int8 with zero point 0, one scale for a tensor of
activations, one for each output channel of a weight, scales above zero, the type of a DequantizeLinear's output is
its scale's (up to opset 22).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from acd_edge.calib.ranges import DEFAULT_METHOD, DEFAULT_PERCENTILE, Magnitudes, Method
from acd_edge.errors import ConfigError, ExportError
from acd_edge.export.graph import Affine, FoldedAcdClip, constant
from acd_edge.export.groups import layer_groups, watch_groups
from acd_edge.export.trace import state_of

__all__ = [
    "BASES", "Base", "Int8Plan", "QuantAffine", "dequantize_linear", "observe_inputs", "quantised", "quantize_linear",
]  # fmt: skip

LEVELS = 127
SMALLEST_SCALE: Mapping[torch.dtype, float] = {
    torch.float16: 2.0**-14,  # the smallest normal one: below it scales lose digits, and at last are zero
    torch.float32: 2.0**-126,
}
Pixels = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


Base = Literal["fp16", "fp32"]
BASES: tuple[Base, ...] = ("fp16", "fp32")


@dataclass(frozen=True, kw_only=True)
class Int8Plan:
    """How a graph is quantised.

    Attributes:
        magnitudes: group -> what its layers read, from `observe_inputs`.
        method, percentile: how a range is made of that.
        base: type of everything else; fp16 is for TensorRT, fp32 for a CPU.
        leave_out: groups that keep the base's type.
        smoothing: of `acd_edge.export.smooth`; the magnitudes are those of the smoothed model.
        pictures: what the manifest says of the pictures that were observed.
    """

    magnitudes: Mapping[str, Magnitudes]
    method: Method = DEFAULT_METHOD
    percentile: float = DEFAULT_PERCENTILE
    base: Base = "fp16"
    leave_out: frozenset[str] = frozenset()
    smoothing: Mapping[str, FloatArray] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if strange := sorted(self.leave_out - set(self.magnitudes)):
            raise ConfigError(f"{strange[0]} is no group of layers of this model, so it cannot be left out of INT8")

    def record(self) -> dict[str, Any]:
        """What the manifest keeps."""
        percentile = {"percentile": self.percentile} if self.method == "percentile" else {}
        return {
            "base": self.base,
            "method": self.method,
            **percentile,
            **self.pictures,
            "groups": len(self.magnitudes) - len(self.leave_out),
            "left_out": sorted(self.leave_out),
            "smoothed": bool(self.smoothing),
        }

    def ranges(self) -> dict[str, float]:
        """Group -> the magnitude that becomes 127, of those that are quantised."""
        wanted = {name: seen for name, seen in self.magnitudes.items() if name not in self.leave_out}
        return {name: seen.range(self.method, self.percentile) for name, seen in wanted.items()}


def quantize_linear(x: Tensor, scale: Tensor) -> Tensor:
    """ONNX's QuantizeLinear with int8 and zero point 0: divided in float32, rounded half to even, saturated."""
    if has_torch_function((x, scale)):
        return handle_torch_function(quantize_linear, (x, scale), x, scale)
    return (x.float() / scale.float()).round().clamp(-LEVELS - 1, LEVELS).to(torch.int8)


def dequantize_linear(q: Tensor, scale: Tensor) -> Tensor:
    """ONNX's DequantizeLinear; a scale of one axis belongs to the last axis of `q`. The result has its type."""
    if has_torch_function((q, scale)):
        return handle_torch_function(dequantize_linear, (q, scale), q, scale)
    return (q.float() * scale.float()).to(scale.dtype)


class QuantAffine(nn.Module):
    """x W + b with both factors in INT8, (B, T, in) -> (B, T, out).

    The bias has three axes: one of a single axis would be drawn into a Gemm by ONNX Runtime, whose float bias then
    keeps the product out of INT8.

    Args:
        weight: (in, out) in its full precision; bias: (out,) in the graph's type.
        in_scale: of x, (), in the graph's type; layers that read the same tensor share it.
    """

    def __init__(self, weight: Tensor, bias: Tensor, in_scale: nn.Parameter) -> None:
        super().__init__()
        scale = scale_of(weight.abs().amax(dim=0), bias.dtype)
        self.weight = constant((weight / scale.to(weight.dtype)).round().clamp(-LEVELS, LEVELS).to(torch.int8))
        self.weight_scale, self.in_scale = constant(scale), in_scale
        self.bias = constant(bias.reshape(1, 1, -1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in) -> (B, T, out)."""
        x = dequantize_linear(quantize_linear(x, self.in_scale), self.in_scale)
        return x @ dequantize_linear(self.weight, self.weight_scale) + self.bias


def scale_of(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """The step whose 127-fold is `magnitude`, in a type and never below its smallest normal number."""
    return (magnitude.float() / LEVELS).to(dtype).clamp_min(SMALLEST_SCALE[dtype])


def observe_inputs(folded: FoldedAcdClip, pictures: Iterable[Pixels]) -> dict[str, Magnitudes]:
    """What the layers of each group read, over pictures.

    Args:
        folded: in float32, from `fold`.
        pictures: (S, S, 3) each; one is in memory at a time.
    """
    seen = {group: Magnitudes() for group in layer_groups(folded)}
    watch_groups(folded, pictures, lambda group, x: seen[group].add(x))
    return seen


def quantised(typed: FoldedAcdClip, source: FoldedAcdClip, ranges: Mapping[str, float]) -> FoldedAcdClip:
    """A copy whose layers in the groups of `ranges` are `QuantAffine`.

    Args:
        typed: in the type that the graph is to have, as it is or from `halve`.
        source: the same model in full precision, whose weights are rounded once.
        ranges: group -> the magnitude that becomes 127.

    Raises:
        ExportError: a range is of no group, or not above zero.
    """
    groups = layer_groups(typed)
    for group, magnitude in ranges.items():
        if group not in groups or not 0 < magnitude < float("inf"):
            raise ExportError(f"no INT8 range for {group}: {magnitude}; calibrate on pictures of this model's kind")
    shared = {id(tensor): tensor for tensor in state_of(typed).values()}
    copied = copy.deepcopy(typed, shared)
    for group, magnitude in ranges.items():
        _quantise_group(copied, source, groups[group], magnitude)
    return copied


def _quantise_group(copied: FoldedAcdClip, source: FoldedAcdClip, layers: tuple[str, ...], magnitude: float) -> None:
    kind = _affine(copied, layers[0]).bias.dtype
    in_scale = constant(scale_of(torch.tensor(magnitude), kind))
    for name in layers:
        parent, _, child = name.rpartition(".")
        layer = QuantAffine(_affine(source, name).weight, _affine(copied, name).bias, in_scale)
        setattr(copied.get_submodule(parent), child, layer)


def _affine(folded: FoldedAcdClip, name: str) -> Affine:
    found = folded.get_submodule(name)
    assert isinstance(found, Affine)
    return found
