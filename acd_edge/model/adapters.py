"""The adapters that stand after each group of frozen blocks, and how what they compute enters the stream."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from acd_edge.config import ModelConfig


class Lora(nn.Module):
    """delta = X A B scale, with scale alpha / r (`paper`) or alpha / sqrt(r) (`reference`)."""

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.scale = lora_scale(config)
        self.down = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(width, config.rank)))
        self.up = nn.Parameter(nn.init.normal_(torch.empty(config.rank, width), std=0.02))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return tokens @ self.down @ self.up * self.scale


class ConvBranch(nn.Module):
    """Two k x k convolutions on the patch grid in the low-rank space, r -> r' -> r channels, zero padding."""

    def __init__(self, rank: int, conv_rank: int, kernel: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(rank, conv_rank, kernel, padding=kernel // 2, bias=False)
        self.up = nn.Conv2d(conv_rank, rank, kernel, padding=kernel // 2, bias=False)
        nn.init.kaiming_uniform_(self.down.weight)
        nn.init.kaiming_uniform_(self.up.weight)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, r, G, G) -> (B, r, G, G)."""
        return self.up(self.down(grid))


class ConvLora(nn.Module):
    """Conv-LoRA (paper, Eq. 1-3): low-rank projections around convolutions on the patch grid; linear throughout.

    `paper` shares W_down and W_up between the branches and scales branch k by 1/k twice; `reference` gives each branch
    its own projections and scales it by (alpha / sqrt(r)) (alpha_c / r').

    Attributes:
        down: (K, C, r), or (1, C, r) when shared; up: (K, r, C), or (1, r, C).
        scales: one factor per branch, everything included.
        fusion: the 1 x 1 convolution K C -> C as a matrix (C, K C).
    """

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        shared = config.rules.shared_projections
        projections = 1 if shared else len(config.kernels)
        self.down = nn.Parameter(torch.empty(projections, width, config.rank))
        self.up = nn.Parameter(torch.empty(projections, config.rank, width).normal_(std=0.02))
        self.branches = nn.ModuleList(ConvBranch(config.rank, config.conv_rank, k) for k in config.kernels)
        self.fusion = nn.Parameter(torch.empty(width, len(config.kernels) * width))
        for matrix in self.down.data:
            nn.init.kaiming_uniform_(matrix)
        nn.init.kaiming_uniform_(self.fusion, a=5**0.5)
        reference = lora_scale(config) * config.conv_alpha / config.conv_rank
        self.scales = tuple(k**-2.0 if shared else reference for k in config.kernels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, G*G, C) -> (B, G*G, C)."""
        batch, patches, _ = tokens.shape
        grid = round(patches**0.5)
        outputs = []
        for index, branch in enumerate(self.branches):
            low = (tokens @ self.down[index % len(self.down)]).transpose(1, 2).reshape(batch, -1, grid, grid)
            high = branch(low).flatten(2).transpose(1, 2) @ self.up[index % len(self.up)]
            outputs.append(high * self.scales[index])
        return torch.cat(outputs, dim=-1) @ self.fusion.T


class Entry(nn.Module):
    """How delta enters the stream.

    `add` gives X + delta; `blend` rescales delta per token to the norm of X, without an epsilon as the authors do, and
    gives (1 - w) X + w delta with a learned weight w per channel.
    """

    def __init__(self, width: int, way: Literal["add", "blend"], start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), start)) if way == "blend" else None

    def forward(self, tokens: Tensor, delta: Tensor) -> Tensor:
        """(B, T, C), (B, T, C) -> (B, T, C)."""
        if self.weight is None:
            return tokens + delta
        rescaled = delta * (tokens.norm(dim=-1, keepdim=True) / delta.norm(dim=-1, keepdim=True))
        return (1 - self.weight) * tokens + self.weight * rescaled


class Adapter(nn.Module):
    """A delta and its entry: tokens in, tokens out."""

    def __init__(self, width: int, config: ModelConfig, *, grid: bool) -> None:
        """`grid`: the tokens are patches, so that Conv-LoRA is possible."""
        super().__init__()
        convolve = grid and config.vision_adapter == "conv_lora"
        self.delta: ConvLora | Lora = ConvLora(width, config) if convolve else Lora(width, config)
        self.entry = Entry(width, config.rules.entry, config.blend)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.entry(tokens, self.delta(tokens))


def lora_scale(config: ModelConfig) -> float:
    """LoRA's alpha / r or alpha / sqrt(r), as the preset says."""
    return config.alpha / (config.rank if config.rules.rank_scaling == "linear" else config.rank**0.5)
