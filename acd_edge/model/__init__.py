"""The torch model: frozen towers, adapters, gateway, maps."""

from __future__ import annotations

from pathlib import Path

from acd_edge.config import ModelConfig
from acd_edge.model.acd import AcdClip, Levels, Prediction

__all__ = ["AcdClip", "Levels", "Prediction", "build_model"]


def build_model(config: ModelConfig, *, clip_weights: Path | None = None, trust: bool = False) -> AcdClip:
    """A model in evaluation mode with the backbone's frozen weights and freshly initialised adapters.

    Args:
        config: which backbone, preset, size and N.
        clip_weights: a file with the CLIP weights; without it they come from open_clip's hub cache.
        trust: accept an OpenAI archive whose digest is not one of OpenAI's.

    Raises:
        ConfigError: N does not divide a tower, or the size is no multiple of the patch.
        WeightsError: the weights are absent, altered or of another architecture.
    """
    from acd_edge.model.weights import load_towers

    vision, text, record = load_towers(config, clip_weights=clip_weights, trust=trust)
    model = AcdClip(config, vision, text).eval()
    model.backbone = record
    return model
