"""The two frozen towers: transformer blocks with an embedding before and a pooling after.

One block serves CLIP (pre-norm, causal text), DINOv2 (pre-norm, LayerScale) and BERT (post-norm, padding mask), so that
adapters, folding and export see one shape of model. Widths, depths and patch sizes are in the specs, and only there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acd_edge.errors import ConfigError

Activation = Literal["gelu", "quick_gelu"]


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """One transformer block.

    Attributes:
        width: channels C.
        heads: attention heads; C is a multiple.
        hidden: width of the MLP.
        activation: `gelu` (exact) or `quick_gelu` (x sigmoid(1.702 x)).
        eps: of the LayerNorms.
        post_norm: normalise after each residual sum (BERT) instead of before each branch.
        layer_scale: each branch is multiplied by a learned vector (DINOv2).
    """

    width: int
    heads: int
    hidden: int
    activation: Activation
    eps: float = 1e-5
    post_norm: bool = False
    layer_scale: bool = False


@dataclass(frozen=True, kw_only=True)
class VisionSpec:
    """A ViT with one class token and a square table of positions.

    Attributes:
        patch: side of a patch in pixels.
        table: side of the position table in patches, before any resizing.
        patch_bias: the patch embedding has a bias.
        pre_norm: a LayerNorm follows the positions (CLIP).
        mean, std: normalisation of the pixels in [0, 1], RGB.
    """

    block: BlockSpec
    depth: int
    patch: int
    table: int
    patch_bias: bool
    pre_norm: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """A text transformer.

    Attributes:
        vocabulary, positions: sizes of the two tables.
        context_length: tokens per prompt, L.
        causal: a token sees only those before it (CLIP); otherwise padding is masked (BERT).
        embed_norm: a LayerNorm follows the embeddings (BERT).
        pooling: `end` takes the token with the highest id (CLIP's end of text), `mean` averages the unmasked ones.
    """

    block: BlockSpec
    depth: int
    vocabulary: int
    positions: int
    context_length: int
    causal: bool
    embed_norm: bool
    pooling: Literal["end", "mean"]


class Attention(nn.Module):
    """Multi-head self-attention with one packed projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"a width of {width} does not divide into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attend: (B, T, C) -> (B, T, C); `bias` is added to the logits, broadcast to (B, heads, T, T)."""
        batch, length, width = tokens.shape
        packed = self.qkv(tokens).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4)  # each (B, heads, T, C / heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(attended.transpose(1, 2).reshape(batch, length, width))


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x), the activation that OpenAI trained CLIP with."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.fc1 = nn.Linear(spec.width, spec.hidden)
        self.act = QuickGelu() if spec.activation == "quick_gelu" else nn.GELU()
        self.fc2 = nn.Linear(spec.hidden, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """One transformer block as its spec says."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.post_norm = spec.post_norm
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.eps)
        self.attn = Attention(spec.width, spec.heads)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.eps)
        self.mlp = Mlp(spec)
        self.scale1 = nn.Parameter(torch.ones(spec.width)) if spec.layer_scale else None
        self.scale2 = nn.Parameter(torch.ones(spec.width)) if spec.layer_scale else None

    def forward(self, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); `bias` as in `Attention`."""
        if self.post_norm:
            tokens = self.norm1(tokens + self.attn(tokens, bias))
            return self.norm2(tokens + self.mlp(tokens))
        tokens = tokens + _scaled(self.attn(self.norm1(tokens), bias), self.scale1)
        return tokens + _scaled(self.mlp(self.norm2(tokens)), self.scale2)


class VisionTower(nn.Module):
    """A ViT for square pictures of one size; its position table has been resized to that size's grid.

    Attributes:
        width, depth, patch: of the backbone.
        grid: G, patches per side.
    """

    def __init__(self, spec: VisionSpec, size: int) -> None:
        super().__init__()
        if size % spec.patch:
            near = max(1, round(size / spec.patch)) * spec.patch
            raise ConfigError(f"size {size} is not a multiple of the patch, {spec.patch} pixels; {near} is the nearest")
        self.spec = spec
        self.width, self.depth, self.patch = spec.block.width, spec.depth, spec.patch
        self.grid = size // spec.patch
        self.patch_embed = nn.Conv2d(3, self.width, spec.patch, stride=spec.patch, bias=spec.patch_bias)
        self.class_token = nn.Parameter(torch.zeros(self.width))
        self.positions = nn.Parameter(torch.zeros(1 + self.grid**2, self.width))  # class token first
        self.norm_pre = nn.LayerNorm(self.width, eps=spec.block.eps) if spec.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(spec.block) for _ in range(spec.depth))

    def embed(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels -> (B, 1 + G*G, C), the class token first."""
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)  # (B, G*G, C)
        class_token = self.class_token.expand(len(patches), 1, -1)
        return self.norm_pre(torch.cat([class_token, patches], dim=1) + self.positions)

    def normalise(self, image: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 RGB -> (B, 3, S, S) as the backbone was trained."""
        kind = self.positions.dtype
        pixels = image.permute(0, 3, 1, 2).to(kind) / 255
        mean = pixels.new_tensor(self.spec.mean).view(3, 1, 1)
        std = pixels.new_tensor(self.spec.std).view(3, 1, 1)
        return (pixels - mean) / std


class TextTower(nn.Module):
    """A text transformer; `bias` carries its causal or padding mask through the blocks."""

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        self.spec = spec
        self.width, self.depth = spec.block.width, spec.depth
        self.context_length = spec.context_length
        self.tokens = nn.Embedding(spec.vocabulary, self.width)
        self.positions = nn.Parameter(torch.zeros(spec.positions, self.width))
        self.norm_embed = nn.LayerNorm(self.width, eps=spec.block.eps) if spec.embed_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(spec.block) for _ in range(spec.depth))

    def embed(self, ids: Tensor) -> Tensor:
        """(P, L) int64 -> (P, L, C)."""
        return self.norm_embed(self.tokens(ids) + self.positions[: ids.shape[1]])

    def attention_bias(self, mask: Tensor) -> Tensor:
        """What is added to the attention logits: (1, 1, L, L) causal, or (P, 1, 1, L) from `mask` (P, L), 1 = token."""
        kind = self.positions.dtype
        if self.spec.causal:
            length = mask.shape[1]
            future = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(1)
            open_ = torch.zeros(length, length, dtype=kind, device=mask.device)
            return open_.masked_fill(future, float("-inf"))[None, None]
        # the lowest number rather than -inf: exact after the softmax, and free of NaN in every runtime
        return ((1 - mask.to(kind)) * torch.finfo(torch.float16).min)[:, None, None, :]

    def pool(self, tokens: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """(P, L, C) -> (P, C): the end-of-text token, or the mean over the unmasked tokens."""
        if self.spec.pooling == "end":
            return tokens[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]
        weight = mask.to(tokens.dtype).unsqueeze(-1)
        return (tokens * weight).sum(dim=1) / weight.sum(dim=1)


def resize_positions(table: Tensor, grid: int) -> Tensor:
    """Resize a position table (1 + g*g, C) to (1 + grid*grid, C): bicubic, antialiased, the class token untouched.

    The way of open_clip and of the authors; it is done once, from the table as trained.
    """
    side = round((len(table) - 1) ** 0.5)
    if side == grid:
        return table
    square = table[1:].float().view(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1].float(), resized.flatten(2)[0].T]).to(table.dtype)


def _scaled(branch: Tensor, scale: Tensor | None) -> Tensor:
    return branch if scale is None else branch * scale
