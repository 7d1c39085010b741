"""How a model is trained, as a frozen dataclass that is written beside the checkpoint; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from acd_edge.config import is_number, is_whole
from acd_edge.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
Kept = Literal["fp32", "bf16", "fp16", "off"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "schedule": ("epochs", "cosine"),
    "order": ("balanced", "shuffled"),
    "pictures": ("all", "test"),
    "augmentation": ("ours", "authors"),
    "precision": get_args(Precision),
    "cache": get_args(Kept),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A recipe.

    Adam, decay and batch are the authors' by default. The mixture of pictures and the weight average are those of the
    built-in model; the rates are a third of the authors', at which one of three whole trainings failed
    (docs/evaluations.md).

    Attributes:
        steps: optimiser steps; None takes as many as `epochs` rounds through the pictures need.
        batch: pictures per step, over all processes.
        accumulate: parts that a process works its share of a batch off in; the step is the same, the memory less.
        vision_rate, text_rate: learning rates of the two sides.
        schedule: `epochs` multiplies the rates by `decay` at each of `epochs` equal parts of the run (the authors'
            way); `cosine` warms up over a twentieth of the run and falls to a hundredth.
        weight_decay: of AdamW; 0 is Adam.
        blend_clip: gradients of the blend weights are clipped to this norm, each by itself.
        pictures: `all` that have a label, or only what lies under `test/` (the authors' way).
        order: `balanced` draws good and defective ones evenly, and categories evenly; `shuffled` goes through the
            pictures in a random order, each once per round (the authors' way).
        synthetic: share of pictures that are good ones for synthetic defects.
        textures: share of procedural pictures, for the same.
        spoiled: share of those two that get a synthetic defect.
        backdrop: share of those two that are cut out and set before a backdrop first.
        augment: flips, crops, colours.
        augmentation: whose: `ours`, or the authors' (`acd_edge.data.augment_authors`).
        generic: share of pictures described as `object` or by a random noun instead of by their product's words.
        average: decay of the weight average that becomes the checkpoint; 0 takes the last weights.
        precision: of the towers, adapters and heads in each step; `bf16` and `fp16` are torch's autocast, with scaled
            gradients for `fp16`. Weights, maps and losses stay fp32.
        cache: type in which the stream before the first adapter is kept, where a picture comes again with the same
            pixels (`augment` off); `fp32` changes no loss, `off` keeps nothing.
        seed: of everything.
    """

    steps: int | None = 500
    batch: int = 6
    accumulate: int = 1
    vision_rate: float = 3e-4
    text_rate: float = 1.5e-4
    schedule: Literal["epochs", "cosine"] = "epochs"
    epochs: int = 20
    decay: float = 0.9
    weight_decay: float = 0.0
    blend_clip: float = 1.0
    pictures: Literal["all", "test"] = "all"
    order: Literal["balanced", "shuffled"] = "balanced"
    synthetic: float = 0.4
    textures: float = 0.25
    spoiled: float = 0.7
    backdrop: float = 0.35
    augment: bool = True
    augmentation: Literal["ours", "authors"] = "ours"
    generic: float = 0.5
    average: float = 0.99
    precision: Precision = "fp32"
    cache: Kept = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "epochs", "accumulate"):
            value = getattr(self, name)
            if value is None and name == "steps":
                continue
            if not is_whole(value) or value < 1:
                raise ConfigError(f"{name} must be a whole number above zero, got {value!r}")
        for name in ("synthetic", "textures", "spoiled", "backdrop", "generic", "average"):
            if not is_number(value := getattr(self, name)) or not 0 <= value <= 1:
                raise ConfigError(f"{name} is a share between 0 and 1, got {value!r}")
        if self.synthetic + self.textures > 1:
            raise ConfigError(f"synthetic {self.synthetic} and textures {self.textures} together exceed 1")
        for name in ("vision_rate", "text_rate", "decay", "weight_decay", "blend_clip"):
            if not is_number(value := getattr(self, name)) or not value >= 0:
                raise ConfigError(f"{name} must be a number from zero, got {value!r}")
        if not is_whole(self.seed) or not 0 <= self.seed < 2**64:
            raise ConfigError(f"seed must be a whole number from zero, below 2^64, got {self.seed!r}")
        if not isinstance(self.augment, bool):
            raise ConfigError(f"augment must be true or false, got {self.augment!r}")
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"{name} must be {' or '.join(known)}, got {value!r}")
        if self.accumulate > self.batch:
            raise ConfigError(f"accumulate = {self.accumulate} parts do not fit into a batch of {self.batch}")

    @property
    def length(self) -> int:
        """Optimiser steps of the run.

        Raises:
            ConfigError: they follow from the number of pictures, which `for_pictures` has not been told.
        """
        if self.steps is None:
            raise ConfigError("steps is null: it follows from the pictures, see TrainConfig.for_pictures")
        return self.steps

    def for_pictures(self, count: int) -> TrainConfig:
        """The recipe with its number of steps, for `count` pictures."""
        if self.steps is not None:
            return self
        return replace(self, steps=self.epochs * -(-count // self.batch))

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
