"""The folded model as plain modules, in the shape that the graph gets.

Every matrix is stored (in, out), so that a layer is one MatMul and one Add. Modules marked `island` keep float32 in a
narrower graph; what they take is widened to the type of their own parameters (`widen`), so that the same code serves
float64, float32, bfloat16 and float16.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NARROW = frozenset({torch.float16, torch.bfloat16})
UNIT_EPS = 1e-12  # of torch.nn.functional.normalize, as in the unfolded heads


class Outputs(NamedTuple):
    """What the graph returns, under the names and in the order of the graph's outputs."""

    anomaly_map: Tensor
    class_score: Tensor
    fusion_weights: Tensor


def constant(values: Tensor) -> nn.Parameter:
    """A parameter that is not trained."""
    return nn.Parameter(values.detach(), requires_grad=False)


def widen(x: Tensor) -> Tensor:
    """Float16 and bfloat16 become float32; wider types stay."""
    return x.float() if x.dtype in NARROW else x


def unit(x: Tensor) -> Tensor:
    """The L2 norm over the last axis made one; `x` is wide."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(UNIT_EPS)


class Affine(nn.Module):
    """x W + b with W (in, out); a parameter that is stored narrower than x is widened first."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = constant(weight)
        self.bias = constant(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return x @ self.weight.to(x.dtype) + self.bias.to(x.dtype)


class Norm(nn.Module):
    """LayerNorm over the last axis, computed wide; `narrow` gives the input's type back."""

    island = True

    def __init__(self, norm: nn.LayerNorm, *, narrow: bool = True) -> None:
        super().__init__()
        self.weight, self.bias = constant(norm.weight), constant(norm.bias)
        self.eps, self.narrow = norm.eps, narrow

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        y = F.layer_norm(widen(x), self.weight.shape, self.weight, self.bias, self.eps)
        return y.to(x.dtype) if self.narrow else y


class Attention(nn.Module):
    """Self-attention as MatMul, Softmax, MatMul; the scale is in the query projection."""

    def __init__(self, query: Affine, key: Affine, value: Affine, proj: Affine, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.proj = query, key, value, proj
        self.heads = heads

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); `bias` is added to the logits, broadcast to (B, heads, T, T)."""
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        query = self.query(x).reshape(split).permute(0, 2, 1, 3)
        key = self.key(x).reshape(split).permute(0, 2, 3, 1)  # (B, heads, C / heads, T)
        value = self.value(x).reshape(split).permute(0, 2, 1, 3)
        logits = query @ key
        if bias is not None:
            logits = logits + bias
        mixed = logits.softmax(dim=-1) @ value
        return self.proj(mixed.permute(0, 2, 1, 3).reshape(batch, length, width))


class Mlp(nn.Module):
    """Affine, activation, affine; `evening`, where there is one, divides the channels in between (export/smooth.py)."""

    def __init__(self, fc1: Affine, fc2: Affine, activation: Literal["gelu", "quick_gelu"]) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2
        self.activation = activation
        self.evening: nn.Parameter | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        hidden = self.fc1(x)
        hidden = F.gelu(hidden) if self.activation == "gelu" else hidden * torch.sigmoid(1.702 * hidden)
        return self.fc2(hidden if self.evening is None else hidden * self.evening)


class Block(nn.Module):
    """One transformer block; LayerScale is in the projections."""

    def __init__(self, norm1: Norm, attn: Attention, norm2: Norm, mlp: Mlp, *, post_norm: bool) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp
        self.post_norm = post_norm

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); `bias` as in `Attention`."""
        if self.post_norm:
            x = self.norm1(x + self.attn(x, bias))
            return self.norm2(x + self.mlp(x))
        x = x + self.attn(self.norm1(x), bias)
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    """uint8 pixels to tokens; mean, std and 1/255 are in the weights, each patch's bias in its position.

    Args:
        weight: (patch * patch * 3, C), rows in the order row, column, channel of the patch.
        positions: (G * G, C) with every bias included.
        first: the class token with its position, (1, 1, C).
    """

    def __init__(self, weight: Tensor, positions: Tensor, first: Tensor, norm: Norm | None, patch: int) -> None:
        super().__init__()
        self.weight, self.positions = constant(weight), constant(positions)
        self.first = constant(first)
        self.norm = norm
        self.patch = patch

    def forward(self, image: Tensor) -> Tensor:
        """(B, S, S, 3) -> (B, 1 + G*G, C)."""
        batch, size = image.shape[:2]
        grid = size // self.patch
        pixels = image.to(self.weight.dtype).reshape(batch, grid, self.patch, grid, self.patch * 3)
        patches = pixels.permute(0, 1, 3, 2, 4).reshape(batch, grid * grid, -1) @ self.weight + self.positions
        tokens = torch.cat([self.first.expand(batch, 1, -1), patches], dim=1)
        return tokens if self.norm is None else self.norm(tokens)


class Lora(nn.Module):
    """delta = X A B, the scale in B."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.down, self.up = constant(down), constant(up)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return tokens @ self.down @ self.up


class ConvBranch(nn.Module):
    """The two k x k convolutions of one branch, zero padding, in the type of their own kernels."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.down, self.up = constant(down), constant(up)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, r, G, G) -> (B, r, G, G)."""
        padding, own = self.down.shape[-1] // 2, grid.to(self.down.dtype)
        return F.conv2d(F.conv2d(own, self.down, padding=padding), self.up, padding=padding).to(grid.dtype)


class ConvLora(nn.Module):
    """Conv-LoRA with one matrix in and one out: `up` holds W_up, the scales and the 1 x 1 fusion of every branch.

    Args:
        down: (C, K r), or (C, r) where the branches share it; up: (K r, C).
    """

    def __init__(self, down: Tensor, branches: list[ConvBranch], up: Tensor) -> None:
        super().__init__()
        self.down, self.up = constant(down), constant(up)
        self.branches = nn.ModuleList(branches)
        self.shared = len(branches) > 1 and down.shape[1] < up.shape[0]

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, G*G, C) -> (B, G*G, C)."""
        batch, patches, _ = tokens.shape
        grid = round(patches**0.5)
        low = (tokens @ self.down).permute(0, 2, 1).reshape(batch, -1, grid, grid)
        lows = [low] * len(self.branches) if self.shared else low.chunk(len(self.branches), dim=1)
        high = torch.cat([branch(part) for branch, part in zip(self.branches, lows, strict=True)], dim=1)
        return high.reshape(batch, -1, patches).permute(0, 2, 1) @ self.up


class Entry(nn.Module):
    """delta added, or rescaled per token to the norm of X and blended: keep X + weight delta |X| / |delta|."""

    island = True

    def __init__(self, weight: Tensor | None) -> None:
        super().__init__()
        self.weight = None if weight is None else constant(weight)
        self.keep = None if weight is None else constant(1 - weight)

    def forward(self, tokens: Tensor, delta: Tensor) -> Tensor:
        """Both (B, T, C) -> (B, T, C)."""
        if self.weight is None or self.keep is None:
            return tokens + delta
        wide, change = widen(tokens), widen(delta)
        ratio = wide.norm(dim=-1, keepdim=True) / change.norm(dim=-1, keepdim=True)
        return (self.keep * wide + self.weight * (change * ratio)).to(tokens.dtype)


class Adapter(nn.Module):
    """Tokens in, tokens out."""

    def __init__(self, delta: ConvLora | Lora, entry: Entry) -> None:
        super().__init__()
        self.delta, self.entry = delta, entry

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.entry(tokens, self.delta(tokens))


class HeadEnd(nn.Module):
    """The second linear of a head, its LayerNorm and the L2 norm; wide from the LayerNorm on."""

    def __init__(self, fc2: Affine, norm: Norm) -> None:
        super().__init__()
        self.fc2, self.norm = fc2, norm

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, P, hidden) -> (B, P, D) of unit norm."""
        return unit(self.norm(self.fc2(hidden)))


class Heads(nn.Module):
    """Segmentation and detection head of one level behind one joint first linear; without `detect`, only the first."""

    def __init__(self, fc1: Affine, segment: HeadEnd, detect: HeadEnd | None) -> None:
        super().__init__()
        self.fc1, self.segment, self.detect = fc1, segment, detect

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, P, C) -> unit features (B, P, D), and the mean (B, D) of the detection head's."""
        hidden = F.leaky_relu(self.fc1(patches))
        if self.detect is None:
            return self.segment(hidden), None
        first, second = hidden.chunk(2, dim=-1)
        return self.segment(first), self.detect(second).mean(dim=1)


class Gate(nn.Module):
    """Mean patch feature (B, D) -> weights of the text levels (B, 2, N)."""

    island = True

    def __init__(self, fc1: Affine, fc2: Affine) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, mean: Tensor) -> Tensor:
        """(B, D) -> (B, 2, N), each state's weights summing to one."""
        logits = self.fc2(F.gelu(self.fc1(mean)))
        return logits.reshape(len(mean), -1, 2).permute(0, 2, 1).softmax(dim=-1)


class MapDecoder(nn.Module):
    """Unit patch features and text to the map and the class score, one channel throughout.

    Args:
        rise: (S, G), blur and upsampling along one side; both are separable, so that a map is rise X rise^T.
        factor: 1 / tau, divided by N where logits are averaged.
        average: what is averaged over the levels.
        normalise: the fused text is L2-normalised again.
    """

    island = True

    def __init__(
        self, rise: Tensor, factor: float, average: Literal["probabilities", "logits"], *, normalise: bool
    ) -> None:
        super().__init__()
        self.rise = nn.Buffer(rise)
        self.factor, self.average, self.normalise = factor, average, normalise

    def forward(self, segment: list[Tensor], text_features: Tensor, weights: Tensor | None) -> Tensor:
        """N features (B, P, D), text (B, N, 2, D), weights (B, N, 2, N) or None for static fusion -> (B, S, S)."""
        contrast = self.contrast(text_features, weights) * self.factor  # (B, N, D)
        columns = contrast.unsqueeze(-1)  # (B, N, D, 1)
        odds = [features @ columns.select(1, level) for level, features in enumerate(segment)]  # each (B, P, 1)
        if self.average == "probabilities":
            return self.raise_grid(torch.stack([each.sigmoid() for each in odds], dim=0).mean(dim=0))
        return self.raise_grid(sum(odds[1:], odds[0])).sigmoid()

    def contrast(self, text_features: Tensor, weights: Tensor | None) -> Tensor:
        """Fused abnormal minus fused normal text of every vision level, (B, N, D)."""
        states = []
        for state in (0, 1):
            text = text_features.select(2, state)
            fused = text if weights is None else weights.select(2, state) @ text
            states.append(unit(fused) if self.normalise else fused)
        return states[1] - states[0]

    def raise_grid(self, values: Tensor) -> Tensor:
        """(B, G*G, 1) on the patch grid -> (B, S, S)."""
        grid = self.rise.shape[1]
        return self.rise @ values.reshape(-1, grid, grid) @ self.rise.permute(1, 0)


class FoldedAcdClip(nn.Module):
    """The whole graph: image uint8 (B, S, S, 3) and text_features (B, N, 2, D) to `Outputs`.

    Build it with `acd_edge.export.fold`. Without `gates` the fusion is static.
    """

    def __init__(
        self,
        embed: PatchEmbedding,
        blocks: list[Block],
        adapters: list[Adapter],
        heads: list[Heads],
        gates: list[Gate],
        decoder: MapDecoder,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.adapters = nn.ModuleList(adapters)
        self.heads = nn.ModuleList(heads)
        self.gates = nn.ModuleList(gates)
        self.decoder = decoder
        self._feature_dim = heads[0].segment.fc2.bias.shape[0]
        self.static = None if gates else nn.Buffer(static_weights(len(heads), decoder.rise.dtype))

    @property
    def size(self) -> int:
        """S in pixels."""
        return int(self.decoder.rise.shape[0])

    @property
    def feature_dim(self) -> int:
        """D."""
        return self._feature_dim

    def forward(self, image: Tensor, text_features: Tensor) -> Outputs:
        """The graph's inputs to its outputs."""
        segment, detect = self.levels(self.embed(image))
        if self.static is None:
            each = [gate(features.mean(dim=1)) for gate, features in zip(self.gates, segment, strict=True)]
            weights = gated = torch.stack(each, dim=1)
        else:
            weights, gated = self.static.expand(len(image), -1, -1, -1), None
        return Outputs(self.decoder(segment, text_features, gated), class_score(detect, text_features), weights)

    def levels(self, tokens: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """N patch features (B, P, D), and the mean detection features (B, D) of the last levels that classify."""
        step = len(self.blocks) // len(self.adapters)
        segment, detect = [], []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if (index + 1) % step:
                continue
            patches = self.adapters[index // step](tokens.narrow(1, 1, tokens.shape[1] - 1))
            features, mean = self.heads[index // step](patches)
            segment.append(features)
            detect += [] if mean is None else [mean]
            if index + 1 < len(self.blocks):
                tokens = torch.cat([tokens.narrow(1, 0, 1), patches], dim=1)
        return segment, detect


def static_weights(levels: int, dtype: torch.dtype) -> Tensor:
    """Text level i for vision level i: (1, N, 2, N)."""
    return torch.eye(levels, dtype=dtype).reshape(1, levels, 1, levels).repeat(1, 1, 2, 1)


def class_score(detect: list[Tensor], text_features: Tensor) -> Tensor:
    """Abnormal probability (B,) from the unfused text of the same levels, the last ones where some do not classify."""
    levels, count = text_features.shape[1], len(detect)
    contrast = text_features.select(2, 1) - text_features.select(2, 0)  # (B, N, D)
    if count < levels:
        contrast = contrast.narrow(1, levels - count, count)
    return (torch.stack(detect, dim=1) * contrast).sum(dim=-1).mean(dim=-1).sigmoid()
