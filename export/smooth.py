"""Even out the channels that a layer reads, so that one scale for the whole tensor serves them all; exact.

A few channels of a vision transformer are a hundred times larger than the others, and with one scale of 127 steps for a
tensor the others are lost. Dividing channel c of the input by s_c and multiplying row c of the matrix by s_c changes no
result (SmoothQuant, Xiao et al. 2023, arXiv:2211.10438, equations 3 and 4):

    s_c = max |x_c| ** alpha / max |W_c,:| ** (1 - alpha)

The division costs nothing where it goes into what stands before: the LayerNorm before query, key and value, the one
before the MLP, and the value projection before the output projection (attention mixes tokens, never channels). After
the MLP's activation it is one more product for each value, which compilers join with the activation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from acd_edge.errors import ExportError
from acd_edge.export.graph import Affine, Block, FoldedAcdClip, Norm, constant
from acd_edge.export.groups import layer_groups, watch_groups

__all__ = ["ALPHA", "smoothed", "smoothing_factors"]

ALPHA = 0.8  # of 0.5, 0.65 and 0.8 the one with the least drift on the built-in model (docs/precision.md)
FLOOR = 1e-3  # of the largest channel: one that hardly ever speaks must not be blown up

FloatArray = npt.NDArray[np.float32]
Factors = Mapping[str, FloatArray]
"""Group -> s, (C,) above zero."""


@torch.no_grad()
def smoothing_factors(
    folded: FoldedAcdClip, pictures: Iterable[npt.NDArray[np.uint8]], alpha: float = ALPHA
) -> dict[str, FloatArray]:
    """The s of every group of layers, from the largest magnitude of each channel over pictures (S, S, 3)."""
    largest: dict[str, FloatArray] = {}

    def see(group: str, x: FloatArray) -> None:
        seen = np.abs(x).reshape(-1, x.shape[-1]).max(axis=0)
        largest[group] = np.maximum(largest.get(group, seen), seen)

    watch_groups(folded, pictures, see)
    return {
        group: _factors(largest[group], _rows(folded, layers), alpha) for group, layers in layer_groups(folded).items()
    }


def smoothed(folded: FoldedAcdClip, factors: Factors) -> FoldedAcdClip:
    """A copy that computes the same, with evened inputs of the layers in the groups of `factors`.

    Raises:
        ExportError: a block normalises after its sums: its LayerNorms feed the stream too, not the layers alone.
    """
    copied = copy.deepcopy(folded)
    for group, s in factors.items():
        _, index, kind = group.split(".", 2)
        block = copied.blocks[int(index)]
        assert isinstance(block, Block)
        if block.post_norm:
            raise ExportError(f"blocks.{index} normalises after its sums, so {group} cannot be evened for INT8")
        scale = torch.from_numpy(s).to(block.attn.proj.weight.dtype)
        for name in layer_groups(copied)[group]:
            layer = copied.get_submodule(name)
            layer.weight = constant(layer.weight * scale[:, None])  # type: ignore[operator]
        _divide(block, kind, scale)
    return copied


def _divide(block: Block, kind: str, scale: Tensor) -> None:
    """Make what stands before the layers give its channels divided by `scale`."""
    if kind == "mlp.fc2":
        block.mlp.evening = constant(1 / scale)
        return
    before: dict[str, Norm | Affine] = {"attn.qkv": block.norm1, "mlp.fc1": block.norm2, "attn.proj": block.attn.value}
    giver = before[kind]
    giver.weight, giver.bias = constant(giver.weight / scale), constant(giver.bias / scale)


def _rows(folded: FoldedAcdClip, layers: Iterable[str]) -> FloatArray:
    """The largest weight that each input channel meets in any of the layers."""
    each = [folded.get_parameter(f"{name}.weight").abs().amax(dim=1).numpy() for name in layers]
    largest: FloatArray = np.max(each, axis=0)
    return largest


def _factors(inputs: FloatArray, rows: FloatArray, alpha: float) -> FloatArray:
    inputs, rows = np.maximum(inputs, inputs.max() * FLOOR), np.maximum(rows, rows.max() * FLOOR)
    if not inputs.max() or not rows.max():
        return np.ones_like(inputs)
    s = inputs**alpha / rows ** (1 - alpha)
    return (s / np.exp(np.log(s).mean())).astype(np.float32)  # around 1, so that float16 keeps its distance
