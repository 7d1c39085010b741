"""ACD-CLIP: two frozen towers, adapters after each group of blocks, a gateway between the levels, maps and a score."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acd_edge.backbone import BackboneRecord
from acd_edge.config import ModelConfig
from acd_edge.errors import ConfigError
from acd_edge.model.adapters import Adapter
from acd_edge.model.heads import Gate, Head, blur, fuse, upsample
from acd_edge.model.towers import TextTower, VisionTower


class Levels(NamedTuple):
    """What the vision side makes of a batch: `segment` (N, B, G*G, D) of unit norm, `detect` (N, B, D)."""

    segment: Tensor
    detect: Tensor


class Prediction(NamedTuple):
    """The graph's outputs.

    `anomaly_map` (B, S, S) and `class_score` (B,) are abnormal probabilities; `fusion_weights` (B, N, 2, N) are the
    gateway's, for vision level i, state, text level j.
    """

    anomaly_map: Tensor
    class_score: Tensor
    fusion_weights: Tensor


class AcdClip(nn.Module):
    """The trainable model of design section 4; `acd_edge.model.build_model` makes one with loaded towers.

    Args:
        config: its `size` must be the one that `vision` was built for.
        vision, text: the frozen towers; N divides both depths.

    Raises:
        ConfigError: N does not divide a tower's depth.
    """

    def __init__(self, config: ModelConfig, vision: VisionTower, text: TextTower) -> None:
        super().__init__()
        for name, depth in (("vision", vision.depth), ("text", text.depth)):
            if depth % config.groups:
                fits = [n for n in range(1, 13) if vision.depth % n == 0 and text.depth % n == 0]
                raise ConfigError(
                    f"{config.groups} groups do not divide the {depth} blocks of the {name} tower of {config.backbone};"
                    f" it can have {', '.join(map(str, fits))}"
                )
        self.config = config
        self.backbone: BackboneRecord | None = None  # which weights the towers hold, where they were loaded
        self.vision = vision.requires_grad_(False)
        self.text = text.requires_grad_(False)
        groups, dim = range(config.groups), text.width
        self.vision_adapters = nn.ModuleList(Adapter(vision.width, config, grid=True) for _ in groups)
        self.text_adapters = nn.ModuleList(Adapter(text.width, config, grid=False) for _ in groups)
        self.text_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in groups)
        self.segment_heads = nn.ModuleList(Head(vision.width, config.head_hidden, dim) for _ in groups)
        self.detect_heads = nn.ModuleList(Head(vision.width, config.head_hidden, dim) for _ in groups)
        gated = groups if config.fusion == "gateway" else range(0)
        self.gates = nn.ModuleList(Gate(dim, config.gate_hidden, config.groups) for _ in gated)

    @property
    def feature_dim(self) -> int:
        """D, the width of the text tower, which the heads map to."""
        return self.text.width

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters outside the towers, by name."""
        return {n: p for n, p in self.named_parameters() if not n.startswith(("vision.", "text."))}

    def adapter_state(self) -> dict[str, Tensor]:
        """Everything that a checkpoint holds: the state without the towers."""
        return {n: t for n, t in self.state_dict().items() if not n.startswith(("vision.", "text."))}

    def normalise(self, image: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 RGB -> (B, 3, S, S) normalised pixels."""
        return self.vision.normalise(image)

    def encode_image(self, pixels: Tensor) -> Levels:
        """Levels of normalised pixels (B, 3, S, S)."""
        return self.levels_from(self.vision.embed(pixels), start=0)

    def levels_from(self, tokens: Tensor, start: int) -> Levels:
        """Levels of the stream (B, 1 + G*G, C) after `start` blocks, at most the first group's, before any adapter."""
        step = self.vision.depth // self.config.groups
        segment, detect = [], []
        for level in range(self.config.groups):
            for block in self.vision.blocks[max(start, level * step) : (level + 1) * step]:
                tokens = block(tokens)
            patches = self.vision_adapters[level](tokens[:, 1:])
            tokens = torch.cat([tokens[:, :1], patches], dim=1)
            segment.append(self.segment_heads[level](patches))
            detect.append(self.detect_heads[level](patches).mean(dim=1))
        return Levels(torch.stack(segment), torch.stack(detect))

    def encode_prompts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Features of prompts, every level of unit norm: ids and mask (P, L) int64 -> (P, N, D)."""
        return self.prompts_from(self.text.embed(ids), ids, mask, start=0)

    def prompts_from(self, tokens: Tensor, ids: Tensor, mask: Tensor, start: int) -> Tensor:
        """`encode_prompts` from the stream (P, L, C) after `start` blocks, at most the first group's."""
        step, bias = self.text.depth // self.config.groups, self.text.attention_bias(mask)
        features = []
        for level in range(self.config.groups):
            for block in self.text.blocks[max(start, level * step) : (level + 1) * step]:
                tokens = block(tokens, bias)
            tokens = self.text_adapters[level](tokens)
            features.append(self.text.pool(self.text_norms[level](tokens), ids, mask))
        return F.normalize(torch.stack(features, dim=1), dim=-1)

    def fusion_weights(self, segment: Tensor) -> Tensor:
        """w_ij^s of every vision level: (N, B, P, D) -> (B, N, 2, N); static fusion takes text level i for level i."""
        count, batch = segment.shape[:2]
        if not self.gates:
            eye = torch.eye(count, dtype=segment.dtype, device=segment.device)
            return eye[None, :, None, :].expand(batch, count, 2, count)
        means = segment.mean(dim=2)
        return torch.stack([gate(mean) for gate, mean in zip(self.gates, means, strict=True)], dim=1)

    def map_logits(self, segment: Tensor, text_features: Tensor, weights: Tensor) -> Tensor:
        """Abnormal minus normal logit of every level on the patch grid: (B, N, G, G).

        A two-way softmax is the sigmoid of this difference (paper, Eq. 6).
        """
        fused = fuse(weights, text_features)  # (B, N, 2, D)
        if self.config.rules.normalise_fused:
            fused = F.normalize(fused, dim=-1)
        odds = torch.einsum("nbpd,bnd->bnp", segment, fused[:, :, 1] - fused[:, :, 0])
        grid = self.vision.grid
        return odds.reshape(*odds.shape[:2], grid, grid) / self.config.rules.tau

    def anomaly_map(self, logits: Tensor, *, smooth: bool) -> Tensor:
        """Map (B, S, S) from the level logits (B, N, G, G); `smooth` applies the domain's Gaussian (inference)."""
        size = self.vision.grid * self.vision.patch
        if self.config.rules.map_average == "probabilities":
            grid = logits.sigmoid().mean(dim=1, keepdim=True)
            return upsample(grid, size)[:, 0]
        grid = logits.mean(dim=1, keepdim=True)
        if smooth and (smoothing := self.config.smoothing):
            grid = blur(grid, smoothing)
        return upsample(grid, size)[:, 0].sigmoid()

    def class_logits(self, detect: Tensor, text_features: Tensor) -> Tensor:
        """(N, B, D) and unfused (B, N, 2, D) -> (B, 2), normal and abnormal, without a temperature."""
        each = torch.einsum("nbd,bnsd->bns", detect, text_features)
        return each[:, -1] if self.config.rules.class_levels == "last" else each.mean(dim=1)

    def decode(self, levels: Levels, text_features: Tensor, *, smooth: bool = True) -> Prediction:
        """Prediction from the levels and text features (B, N, 2, D)."""
        weights = self.fusion_weights(levels.segment)
        logits = self.map_logits(levels.segment, text_features, weights)
        score = self.class_logits(levels.detect, text_features).softmax(dim=-1)[:, 1]
        return Prediction(self.anomaly_map(logits, smooth=smooth), score, weights)

    def forward(self, pixels: Tensor, text_features: Tensor) -> Prediction:
        """Inference on normalised pixels (B, 3, S, S) with text features (B, N, 2, D)."""
        return self.decode(self.encode_image(pixels), text_features)
