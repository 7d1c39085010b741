"""The linear layers that INT8 is for, in groups that read the same tensor, and what they read on pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from acd_edge.export.graph import FoldedAcdClip

__all__ = ["GROUPS", "layer_groups", "watch_groups"]

GROUPS: Mapping[str, tuple[str, ...]] = {
    "attn.qkv": ("attn.query", "attn.key", "attn.value"),
    "attn.proj": ("attn.proj",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
"""Layers of a block by what they read: they share its scale, and are quantised together or not at all."""


def layer_groups(folded: FoldedAcdClip) -> dict[str, tuple[str, ...]]:
    """Every group, from the first block to the last: name -> names of its layers."""
    return {
        f"blocks.{index}.{group}": tuple(f"blocks.{index}.{layer}" for layer in layers)
        for index in range(len(folded.blocks))
        for group, layers in GROUPS.items()
    }


@torch.no_grad()
def watch_groups(
    folded: FoldedAcdClip,
    pictures: Iterable[npt.NDArray[np.uint8]],
    see: Callable[[str, npt.NDArray[np.float32]], None],
) -> None:
    """Run a float32 module on pictures (S, S, 3), one at a time; `see` gets what each group reads, (1, T, C)."""
    hooks = [
        folded.get_submodule(layers[0]).register_forward_pre_hook(
            lambda _, inputs, group=group: see(group, inputs[0].numpy())
        )
        for group, layers in layer_groups(folded).items()
    ]
    try:
        for picture in pictures:
            folded.levels(folded.embed(torch.from_numpy(np.array(picture[None]))))
    finally:
        for hook in hooks:
            hook.remove()
