"""The text tower with its adapters as one plain module, for text features on a device without torch.

Matrices are stored in float16 and widened where they are used: half the bytes, and the arithmetic of float32.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acd_edge.export.fold import fold_adapter, fold_block
from acd_edge.export.graph import Adapter, Affine, Block, Norm, constant, unit
from acd_edge.model import AcdClip
from acd_edge.model.adapters import Adapter as SourceAdapter
from acd_edge.model.towers import Block as SourceBlock

OUTPUTS = ("prompt_features",)
MASKED = -65504.0  # added to the logits of masked tokens: their weight is exactly zero, and nothing is infinite


class FoldedTextEncoder(nn.Module):
    """input_ids and attention_mask (P, L) int64 -> prompt features (P, N, D), each of unit norm.

    Args:
        table: token embeddings (V, C); positions: (L, C).
        pooling: `end`, the token with the highest id, goes with a causal mask, `mean` with one of the padding.
    """

    def __init__(
        self,
        table: Tensor,
        positions: Tensor,
        norm_embed: Norm | None,
        blocks: list[Block],
        adapters: list[Adapter],
        norms: list[Norm],
        pooling: Literal["end", "mean"],
        *,
        causal: bool,
    ) -> None:
        super().__init__()
        self.table, self.positions = constant(table), constant(positions)
        self.norm_embed = norm_embed
        self.blocks = nn.ModuleList(blocks)
        self.adapters = nn.ModuleList(adapters)
        self.norms = nn.ModuleList(norms)
        self.pooling = pooling
        length = len(positions)
        future = torch.full((length, length), MASKED, dtype=positions.dtype).triu(1)
        self.future = nn.Buffer(future.reshape(1, 1, length, length)) if causal else None
        self.steps = nn.Buffer(torch.arange(length).reshape(1, length))

    @property
    def context_length(self) -> int:
        """L, tokens per prompt."""
        return len(self.positions)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Both (P, L) -> (P, N, D)."""
        kind = self.positions.dtype
        tokens = F.embedding(input_ids, self.table).to(kind) + self.positions
        tokens = tokens if self.norm_embed is None else self.norm_embed(tokens)
        mask = attention_mask.to(kind)
        bias = ((1 - mask) * MASKED).unsqueeze(1).unsqueeze(1) if self.future is None else self.future
        weights = self.pool_weights(input_ids, mask)
        step = len(self.blocks) // len(self.adapters)
        features = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, bias)
            if (index + 1) % step == 0:
                tokens = self.adapters[index // step](tokens)
                features.append(weights @ self.norms[index // step](tokens))  # (P, 1, C)
        return unit(torch.cat(features, dim=1))

    def pool_weights(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Share of every token in the pooled feature, (P, 1, L)."""
        if self.pooling == "end":
            mask = (self.steps == input_ids.argmax(dim=1, keepdim=True)).to(mask.dtype)
        return (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(1)


@torch.no_grad()
def fold_text(model: AcdClip) -> FoldedTextEncoder:
    """The text side of a model: attention scales and LoRA scales are in the matrices. It takes the model's type."""
    tower, spec = model.text, model.text.spec
    return FoldedTextEncoder(
        tower.tokens.weight,
        tower.positions[: spec.context_length],
        Norm(tower.norm_embed) if isinstance(tower.norm_embed, nn.LayerNorm) else None,
        [fold_block(block) for block in tower.blocks if isinstance(block, SourceBlock)],
        [fold_adapter(adapter) for adapter in model.text_adapters if isinstance(adapter, SourceAdapter)],
        [Norm(norm) for norm in model.text_norms if isinstance(norm, nn.LayerNorm)],
        spec.pooling,
        causal=spec.causal,
    ).eval()


def store_half(encoder: FoldedTextEncoder) -> FoldedTextEncoder:
    """A copy whose matrices are stored in float16; biases, norms, positions and adapters keep their type."""
    stored = copy.deepcopy(encoder)
    stored.table.data = stored.table.data.to(torch.float16)
    for module in stored.blocks.modules():
        if isinstance(module, Affine):
            module.weight.data = module.weight.data.to(torch.float16)
    return stored
