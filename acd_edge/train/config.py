"""How a model is trained, as a frozen dataclass that is written beside the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from acd_edge.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A recipe. The defaults are the authors' where they have one: Adam, rates, decay, batch.

    Attributes:
        steps: optimiser steps.
        batch: pictures per step.
        vision_rate, text_rate: learning rates of the two sides.
        schedule: `epochs` multiplies the rates by `decay` at each of `epochs` equal parts of the run (the authors'
            way); `cosine` warms up over a twentieth of the run and falls to a hundredth.
        weight_decay: of AdamW; 0 is Adam.
        blend_clip: gradients of the blend weights are clipped to this norm, each by itself.
        synthetic: share of pictures that are good ones for synthetic defects.
        textures: share of procedural pictures, for the same.
        spoiled: share of those two that get a synthetic defect.
        augment: flips, crops, colours.
        generic: share of pictures described as `object` or by a random noun instead of by their product's words.
        average: decay of the weight average that becomes the checkpoint; 0 takes the last weights.
        seed: of everything.
    """

    steps: int = 500
    batch: int = 6
    vision_rate: float = 1e-3
    text_rate: float = 5e-4
    schedule: Literal["epochs", "cosine"] = "epochs"
    epochs: int = 20
    decay: float = 0.9
    weight_decay: float = 0.0
    blend_clip: float = 1.0
    synthetic: float = 0.3
    textures: float = 0.1
    spoiled: float = 0.75
    augment: bool = True
    generic: float = 0.25
    average: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "epochs"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} must be above zero, got {value}")
        for name in ("synthetic", "textures", "spoiled", "generic", "average"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ConfigError(f"{name} is a share between 0 and 1, got {value}")
        if self.schedule not in ("epochs", "cosine"):
            raise ConfigError(f"schedule must be epochs or cosine, got {self.schedule!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: a key is unknown or a value is refused.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown training setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return cls(**values)
