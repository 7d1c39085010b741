"""Fold a trained model into the fewest matrices that give the same numbers (design section 5).

Nothing is approximated: each rule below is an identity of linear algebra. What does not fold is left as it is: the two
k x k convolutions (composed, they differ at the border) and the adapter as a whole (the rescaling per token stands
between it and the next block).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from acd_edge.export import graph
from acd_edge.export.graph import Affine, FoldedAcdClip, Norm
from acd_edge.model import AcdClip
from acd_edge.model import adapters as source_adapters
from acd_edge.model import heads as source_heads
from acd_edge.model.towers import Block, VisionTower

__all__ = ["fold", "fold_adapter", "fold_block"]

T = TypeVar("T")


@torch.no_grad()
def fold(model: AcdClip) -> FoldedAcdClip:
    """The vision side of a model as one plain module in the graph's signature.

    It takes the model's type (float64 for exact comparisons) and shares memory with it where a matrix is unchanged.

    >>> fold(model)(image, text_features).anomaly_map.shape  # doctest: +SKIP
    torch.Size([1, 518, 518])
    """
    levels = range(model.config.groups)
    classify = levels[-1:] if model.config.rules.class_levels == "last" else levels
    return FoldedAcdClip(
        fold_embedding(model.vision),
        [fold_block(block) for block in _blocks(model.vision)],
        [fold_adapter(adapter) for adapter in _each(model.vision_adapters, source_adapters.Adapter)],
        [_fold_heads(model, level, detect=level in classify) for level in levels],
        [_fold_gate(gate) for gate in _each(model.gates, source_heads.Gate)],
        _fold_decoder(model),
    ).eval()


def fold_embedding(tower: VisionTower) -> graph.PatchEmbedding:
    """Normalisation into the patch embedding, its bias into the positions, the class token plus its position."""
    spec, conv = tower.spec, tower.patch_embed
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (spec.mean, spec.std))
    kernel = conv.weight.double() / (255 * std).view(3, 1, 1)  # (C, 3, p, p)
    offset = -(conv.weight.double() * (mean / std).view(3, 1, 1)).sum(dim=(1, 2, 3))
    if conv.bias is not None:
        offset = offset + conv.bias.double()
    kind = conv.weight.dtype
    return graph.PatchEmbedding(
        kernel.permute(2, 3, 1, 0).reshape(-1, tower.width).to(kind),
        (tower.positions[1:].double() + offset).to(kind),
        (tower.class_token + tower.positions[0]).reshape(1, 1, -1),
        Norm(tower.norm_pre) if isinstance(tower.norm_pre, nn.LayerNorm) else None,
        tower.patch,
    )


def fold_block(block: Block) -> graph.Block:
    """The attention scale into the query projection, LayerScale into the projections before it."""
    width = block.attn.proj.in_features
    scale = (width // block.attn.heads) ** -0.5
    weights, biases = block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)
    query, key, value = (_affine(w, b, s) for w, b, s in zip(weights, biases, (scale, 1.0, 1.0), strict=True))
    proj = _affine(block.attn.proj.weight, block.attn.proj.bias, block.scale1)
    attn = graph.Attention(query, key, value, proj, block.attn.heads)
    fc2 = _affine(block.mlp.fc2.weight, block.mlp.fc2.bias, block.scale2)
    activation = "gelu" if isinstance(block.mlp.act, nn.GELU) else "quick_gelu"
    mlp = graph.Mlp(_affine(block.mlp.fc1.weight, block.mlp.fc1.bias), fc2, activation)  # type: ignore[arg-type]
    return graph.Block(Norm(block.norm1), attn, Norm(block.norm2), mlp, post_norm=block.post_norm)


def fold_adapter(adapter: source_adapters.Adapter) -> graph.Adapter:
    """Every scale, W_up and the 1 x 1 fusion into one matrix, the W_down of all branches side by side."""
    delta = adapter.delta
    low_rank = fold_conv_lora(delta) if isinstance(delta, source_adapters.ConvLora) else fold_lora(delta)
    return graph.Adapter(low_rank, graph.Entry(adapter.entry.weight))


def fold_lora(lora: source_adapters.Lora) -> graph.Lora:
    """The scale into B."""
    return graph.Lora(lora.down, lora.up * lora.scale)


def fold_conv_lora(lora: source_adapters.ConvLora) -> graph.ConvLora:
    """(scale_k W_up_k)(slice k of the fusion) is one r x C matrix; those of all branches stack."""
    count = len(lora.branches)
    slices = lora.fusion.T.chunk(count)  # each (C, C), rows: the branch's channels
    ups = [lora.up[k % len(lora.up)] * lora.scales[k] @ slices[k] for k in range(count)]
    branches = _each(lora.branches, source_adapters.ConvBranch)
    convolutions = [graph.ConvBranch(branch.down.weight, branch.up.weight) for branch in branches]
    return graph.ConvLora(torch.cat(list(lora.down), dim=1), convolutions, torch.cat(ups))


def _fold_heads(model: AcdClip, level: int, *, detect: bool) -> graph.Heads:
    segment = _each(model.segment_heads, source_heads.Head)[level]
    if not detect:
        return graph.Heads(_affine(segment.fc1.weight, segment.fc1.bias), _head_end(segment), None)
    other = _each(model.detect_heads, source_heads.Head)[level]
    weight, bias = torch.cat([segment.fc1.weight, other.fc1.weight]), torch.cat([segment.fc1.bias, other.fc1.bias])
    return graph.Heads(_affine(weight, bias), _head_end(segment), _head_end(other))


def _head_end(head: source_heads.Head) -> graph.HeadEnd:
    return graph.HeadEnd(_affine(head.fc2.weight, head.fc2.bias), Norm(head.norm, narrow=False))


def _fold_gate(gate: source_heads.Gate) -> graph.Gate:
    return graph.Gate(_affine(gate.fc1.weight, gate.fc1.bias), _affine(gate.fc2.weight, gate.fc2.bias))


def _fold_decoder(model: AcdClip) -> graph.MapDecoder:
    rules, kind = model.config.rules, model.vision.positions.dtype
    levels = model.config.groups if rules.map_average == "logits" else 1
    return graph.MapDecoder(
        rise_matrix(model).to(kind), 1 / (rules.tau * levels), rules.map_average, normalise=rules.normalise_fused
    )


def rise_matrix(model: AcdClip) -> Tensor:
    """Blur and upsampling along one side, (S, G) in float64.

    Both are separable and keep a constant, so that a map whose rows are all alike shows one side of them: column g is
    what becomes of the map that is one in row g and zero elsewhere.
    """
    grid, size = model.vision.grid, model.vision.grid * model.vision.patch
    smoothing = model.config.smoothing if model.config.rules.map_average == "logits" else None
    columns = []
    for row in torch.eye(grid, dtype=torch.float64):
        values = row.view(1, 1, grid, 1).expand(1, 1, grid, grid)
        values = values if smoothing is None else source_heads.blur(values, smoothing)
        columns.append(source_heads.upsample(values, size)[0, 0, :, 0])
    return torch.stack(columns, dim=1)


def _affine(weight: Tensor, bias: Tensor, scale: Tensor | float | None = None) -> Affine:
    """From torch's (out, in); `scale` multiplies the outputs."""
    if scale is None or (isinstance(scale, float) and scale == 1.0):
        return Affine(weight.T, bias)
    return Affine(weight.T * scale, bias * scale)


def _blocks(tower: VisionTower) -> list[Block]:
    return _each(tower.blocks, Block)


def _each(modules: nn.ModuleList, kind: type[T]) -> list[T]:
    return [module for module in modules if isinstance(module, kind)]
