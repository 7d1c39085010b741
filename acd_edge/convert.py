"""Reading the checkpoints of the authors' code, github.com/cockmake/ACD-CLIP: names, settings, weights.

Such a file is a pickle of `{"epoch", "image_adapter", "text_adapter"}`: a number and two state dicts. It is read as
tensors only. What they do not tell, the two scales alpha, is the authors' default unless given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from acd_edge.checkpoint import load_adapters
from acd_edge.config import Domain, ModelConfig
from acd_edge.errors import CheckpointError, WeightsError
from acd_edge.model import AcdClip, build_model
from acd_edge.model._archive import is_torchscript, read_pickle, state_dict_of
from acd_edge.model.weights import check_tensors

__all__ = ["AuthorsCheckpoint", "authors_config", "convert", "read_authors"]

_PARTS = ("image_adapter", "text_adapter")


@dataclass(frozen=True)
class AuthorsCheckpoint:
    """An authors' checkpoint as read.

    Attributes:
        epoch: of its training, or None where the file does not say.
        tensors: both adapters' tensors, their names with `image_adapter.` or `text_adapter.` before them.
    """

    epoch: int | None
    tensors: Mapping[str, Tensor]


def read_authors(path: Path) -> AuthorsCheckpoint:
    """Read an authors' checkpoint, as tensors only.

    Raises:
        CheckpointError: the file is absent, damaged, needs code to be read, or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"no authors' checkpoint at {path}")
    try:
        if is_torchscript(path):
            raise CheckpointError(f"{path} is a TorchScript archive, no authors' checkpoint; is it the CLIP weights?")
        content = read_pickle(path)
        if not isinstance(content, Mapping) or not set(_PARTS) <= set(content):
            held = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise CheckpointError(
                f"{path} holds {held[:200]}; an authors' checkpoint holds epoch, {' and '.join(_PARTS)}"
            )
        parts = {part: state_dict_of(content[part], path) for part in _PARTS}
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    if unknown := sorted(str(key) for key in content if key not in ("epoch", *_PARTS)):
        raise CheckpointError(f"{path} holds {', '.join(unknown)} besides epoch, {' and '.join(_PARTS)}")
    epoch = content.get("epoch")
    tensors = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    return AuthorsCheckpoint(epoch if isinstance(epoch, int) else None, tensors)


def authors_config(
    tensors: Mapping[str, Tensor],
    *,
    backbone: str = "clip:ViT-L-14-336",
    size: int = 518,
    domain: Domain = "industrial",
    alpha: float = 2.0,
    conv_alpha: float = 2.0,
) -> ModelConfig:
    """The model's settings: N, the ranks, kernels and hidden widths from the shapes, the rest as told.

    Raises:
        CheckpointError: a tensor that tells one of them is missing or of another kind.
    """
    groups = _count(tensors, "image_adapter.m_i_w.{}.i_w")
    block = "image_adapter.lora_adapters.0.conv_lora_blocks.{}.conv_lora_A.weight"  # (r', r, k, k)
    branches = [_shape(tensors, block.format(index), 4) for index in range(_count(tensors, block))]
    conv_rank, rank = branches[0][:2]
    return ModelConfig(
        backbone=backbone,
        pretrained="openai",
        size=size,
        groups=groups,
        preset="reference",
        domain=domain,
        rank=rank,
        conv_rank=conv_rank,
        alpha=alpha,
        conv_alpha=conv_alpha,
        kernels=tuple(shape[-1] for shape in branches),
        head_hidden=_shape(tensors, "image_adapter.seg_proj.0.fc.0.weight", 2)[0],
        gate_hidden=_shape(tensors, "image_adapter.vision_text_gate.0.0.weight", 2)[0],
    )


def convert(
    authors: AuthorsCheckpoint, config: ModelConfig, *, clip_weights: Path | None, trust: bool = False, source: str = ""
) -> AcdClip:
    """The model that an authors' checkpoint and its CLIP weights describe, in evaluation mode.

    Args:
        authors: see `read_authors`.
        config: see `authors_config`.
        clip_weights: file of the CLIP weights; without it they come from open_clip's cache.
        trust: as `build_model`.
        source: what to call the checkpoint in messages.

    Raises:
        CheckpointError: a tensor is missing, unknown, of another shape for this backbone, or NaN; by the authors' name.
    """
    source = source or "the authors' checkpoint"
    model = build_model(config, clip_weights=clip_weights, trust=trust)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.adapter_state().items()}
    names = authors_names(config.groups, len(config.kernels))
    expected = {theirs: _their_shape(ours, shapes[ours]) for ours, many in names.items() for theirs in many}
    try:
        check_tensors(expected, authors.tensors, source)
    except WeightsError as error:
        raise CheckpointError(f"{error} (with {config.backbone})") from error
    state = {
        ours: torch.stack([authors.tensors[theirs].float() for theirs in many]).reshape(shapes[ours])
        for ours, many in names.items()
    }
    load_adapters(model, state, source)
    return model


def authors_names(groups: int, branches: int) -> dict[str, tuple[str, ...]]:
    """Our name of every tensor outside the towers -> the authors' names of what it is stacked from.

    >>> authors_names(1, 2)["vision_adapters.0.delta.down"][1]
    'image_adapter.lora_adapters.0.conv_lora_blocks.1.lora_A'
    """
    names: dict[str, tuple[str, ...]] = {}
    for level in range(groups):
        names |= _adapter_names(level, branches)
        for kind in ("weight", "bias"):
            names[f"text_norms.{level}.{kind}"] = (f"text_adapter.layer_norms.{level}.{kind}",)
            for ours, theirs in (("segment_heads", "seg"), ("detect_heads", "det")):
                names[f"{ours}.{level}.fc1.{kind}"] = (f"image_adapter.{theirs}_proj.{level}.fc.0.{kind}",)
                names[f"{ours}.{level}.fc2.{kind}"] = (f"image_adapter.{theirs}_proj.{level}.fc.2.{kind}",)
                names[f"{ours}.{level}.norm.{kind}"] = (f"image_adapter.{theirs}_layer_norms.{level}.{kind}",)
            for ours, index in (("fc1", 0), ("fc2", 2)):
                names[f"gates.{level}.{ours}.{kind}"] = (f"image_adapter.vision_text_gate.{level}.{index}.{kind}",)
    return names


def _adapter_names(level: int, branches: int) -> dict[str, tuple[str, ...]]:
    """Both adapters of a level and their blend weights."""
    lora = f"image_adapter.lora_adapters.{level}"
    blocks = [f"{lora}.conv_lora_blocks.{index}" for index in range(branches)]
    delta = f"vision_adapters.{level}.delta"
    names: dict[str, tuple[str, ...]] = {
        f"{delta}.down": tuple(f"{block}.lora_A" for block in blocks),
        f"{delta}.up": tuple(f"{block}.lora_B" for block in blocks),
        f"{delta}.fusion": (f"{lora}.fusion_conv.weight",),
        f"vision_adapters.{level}.entry.weight": (f"image_adapter.m_i_w.{level}.i_w",),
        f"text_adapters.{level}.delta.down": (f"text_adapter.lora_adapters.{level}.lora_A",),
        f"text_adapters.{level}.delta.up": (f"text_adapter.lora_adapters.{level}.lora_B",),
        f"text_adapters.{level}.entry.weight": (f"text_adapter.m_t_w.{level}.i_w",),
    }
    for index, block in enumerate(blocks):
        names[f"{delta}.branches.{index}.down.weight"] = (f"{block}.conv_lora_A.weight",)
        names[f"{delta}.branches.{index}.up.weight"] = (f"{block}.conv_lora_B.weight",)
    return names


def _their_shape(ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the authors keep: a matrix per branch, a kernel (C, K C, 1, 1), blend weights (1, 1, C)."""
    if ours.startswith("vision") and ours.endswith((".delta.down", ".delta.up")):
        return shape[1:]
    if ours.endswith(".fusion"):
        return (*shape, 1, 1)
    return (1, 1, *shape) if ours.endswith(".entry.weight") else shape


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many of the names `pattern` gives for 0, 1, 2, ... are there; at least one."""
    count = 0
    while pattern.format(count) in tensors:
        count += 1
    if not count:
        raise CheckpointError(f"the authors' checkpoint lacks {pattern.format(0)}")
    return count


def _shape(tensors: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(f"the authors' checkpoint lacks {name}")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions:
        raise CheckpointError(f"{name} of the authors' checkpoint has shape {shape}, expected {dimensions} dimensions")
    return shape
