"""Heads on the patch tokens, the Dynamic Fusion Gateway and the maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acd_edge.config import Smoothing


class Head(nn.Module):
    """Linear(C_v, hidden), LeakyReLU, Linear(hidden, D), LayerNorm(D), and the L2 norm."""

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, P, C) -> (B, P, D) of unit norm."""
        return F.normalize(self.norm(self.fc2(F.leaky_relu(self.fc1(tokens)))), dim=-1)


class Gate(nn.Module):
    """Weights of the text levels for one vision level (paper, Eq. 4): Linear, GELU, Linear, softmax over the levels."""

    def __init__(self, dim: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, 2 * groups)

    def forward(self, mean: Tensor) -> Tensor:
        """Mean patch feature (B, D) -> (B, 2, N), each state's weights summing to one over the N text levels."""
        logits = self.fc2(F.gelu(self.fc1(mean))).view(-1, self.groups, 2)  # text level, then state
        return logits.softmax(dim=1).transpose(1, 2)


def fuse(weights: Tensor, text_features: Tensor) -> Tensor:
    """T_i^s = sum_j w_ij^s T_j^s (paper, Eq. 5).

    Args:
        weights: (B, N, 2, N), vision level i, state s, text level j.
        text_features: (B, N, 2, D), text level j, state s.

    Returns:
        (B, N, 2, D), vision level i, state s.
    """
    return torch.einsum("bisj,bjsd->bisd", weights, text_features)


def blur(grid: Tensor, smoothing: Smoothing) -> Tensor:
    """Gaussian on maps (B, C, G, G), reflected at the border (the edge patch is not repeated).

    A grid smaller than half the taps cannot be reflected: it is padded by its own edge there.
    """
    half = smoothing.taps // 2
    steps = torch.arange(-half, half + 1, dtype=grid.dtype, device=grid.device)
    kernel = torch.exp(-(steps**2) / (2 * smoothing.sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(grid, [half] * 4, mode="reflect" if grid.shape[-1] > half else "replicate")
    channels = grid.shape[1]
    across = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    down = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    return F.conv2d(F.conv2d(padded, across, groups=channels), down, groups=channels)


def upsample(grid: Tensor, size: int) -> Tensor:
    """(B, C, G, G) -> (B, C, size, size), bilinear with the corners aligned."""
    return F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=True)
