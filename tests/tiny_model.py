"""A model with every part of the real ones in a few thousand weights: DINOv2-like vision, BERT-like text."""

from __future__ import annotations

import torch

from acd_edge.config import ModelConfig
from acd_edge.model.acd import AcdClip
from acd_edge.model.towers import BlockSpec, TextSpec, TextTower, VisionSpec, VisionTower

TINY_PATCH = 14
TINY_SIZE = 84

TINY_VISION = VisionSpec(
    block=BlockSpec(width=32, heads=2, hidden=64, activation="gelu", layer_scale=True),
    depth=6,
    patch=TINY_PATCH,
    table=5,
    patch_bias=True,
    pre_norm=False,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
TINY_TEXT = TextSpec(
    block=BlockSpec(width=24, heads=2, hidden=48, activation="gelu", post_norm=True),
    depth=6,
    vocabulary=64,
    positions=32,
    context_length=16,
    causal=False,
    embed_norm=True,
    pooling="mean",
)


def tiny_model(config: ModelConfig, vision: VisionSpec = TINY_VISION, text: TextSpec = TINY_TEXT) -> AcdClip:
    """A model of random weights, the same for the same torch seed, in evaluation mode."""
    model = AcdClip(config, VisionTower(vision, config.size), TextTower(text))
    for name, parameter in model.named_parameters():
        if name.endswith(("class_token", "positions")):
            torch.nn.init.normal_(parameter, std=0.5)
        if name.endswith(("scale1", "scale2")):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()
