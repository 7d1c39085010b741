"""What a model is, as frozen dataclasses; nothing here imports torch.

Two presets fill what the paper leaves open: `paper` follows its equations, `reference` the authors' code
(github.com/cockmake/ACD-CLIP, commit 2026067). A preset is data (`Preset`), never a branch elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from acd_edge.errors import ConfigError

Domain = Literal["industrial", "medical"]
DOMAINS: tuple[Domain, ...] = ("industrial", "medical")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How one reading of the paper fills its gaps.

    Attributes:
        shared_projections: W_down and W_up serve all branches of a Conv-LoRA (paper, Eq. 1-3), or each has its own.
        entry: `add` delta to the tokens, or `blend` it after rescaling it per token to their norm.
        rank_scaling: LoRA's scale is alpha / r (`linear`) or alpha / sqrt(r) (`root`).
        map_average: levels are averaged as probabilities (patch grid) or as logits (before the softmax).
        normalise_fused: the fused text is L2-normalised again, so that the map is a true cosine.
        tau: divisor of the cosines; the authors multiply by 10.
        smooth: a Gaussian on the patch grid at inference.
        class_levels: the classification uses the `last` level or the mean over `all`.
        score_mix: domain -> (weight of the class score, weight of the map's maximum).
        openai_activation: what stands in for the activation of OpenAI's weights, which were trained with QuickGELU.
    """

    shared_projections: bool
    entry: Literal["add", "blend"]
    rank_scaling: Literal["linear", "root"]
    map_average: Literal["probabilities", "logits"]
    normalise_fused: bool
    tau: float
    smooth: bool
    class_levels: Literal["last", "all"]
    score_mix: Mapping[Domain, tuple[float, float]]
    openai_activation: Literal["gelu", "quick_gelu"]


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "paper": Preset(
            shared_projections=True,
            entry="add",
            rank_scaling="linear",
            map_average="probabilities",
            normalise_fused=True,
            tau=0.1,
            smooth=False,
            class_levels="last",
            score_mix=MappingProxyType({"industrial": (0.9, 0.1), "medical": (0.9, 0.1)}),
            openai_activation="quick_gelu",
        ),
        "reference": Preset(
            shared_projections=False,
            entry="blend",
            rank_scaling="root",
            map_average="logits",
            normalise_fused=False,
            tau=0.1,
            smooth=True,
            class_levels="all",
            score_mix=MappingProxyType({"industrial": (0.9, 0.1), "medical": (0.5, 0.5)}),
            openai_activation="gelu",
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """A Gaussian on the patch grid: `taps` wide, `sigma` in patches, reflected at the border."""

    taps: int
    sigma: float


SMOOTHING: Mapping[Domain, Smoothing] = MappingProxyType(
    {"industrial": Smoothing(taps=7, sigma=1.0), "medical": Smoothing(taps=9, sigma=1.5)}
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One ACD-CLIP model. Widths, depths and patch sizes are the backbone's and stand nowhere here.

    Attributes:
        backbone: `compact`, or `clip:<open_clip name>`.
        pretrained: open_clip's tag of the CLIP weights; it names their activation, mean and std too. Unused by
            `compact`.
        size: side S of the square input, in pixels, a multiple of the patch.
        groups: N, the number of levels; it divides the depth of both towers. The default was chosen as the preset was.
        preset: key of `PRESETS`; the default was chosen by leave-one-set-out (docs/evaluations.md).
        domain: default domain of use; a property of use that `export --domain` may change.
        vision_adapter, fusion: the ablation rows of the paper's Table 2.
        rank, conv_rank: r and r' of the adapters.
        alpha, conv_alpha: their scales. `conv_alpha` serves `reference` only.
        kernels: sizes of the Conv-LoRA branches, odd.
        head_hidden, gate_hidden: widths of the hidden layers.
        blend: initial value of the blend weights of `reference`.
    """

    backbone: str = "compact"
    pretrained: str = "openai"
    size: int = 518
    groups: int = 2
    preset: str = "paper"
    domain: Domain = "industrial"
    vision_adapter: Literal["conv_lora", "lora"] = "conv_lora"
    fusion: Literal["gateway", "static"] = "gateway"
    rank: int = 16
    conv_rank: int = 8
    alpha: float = 2.0
    conv_alpha: float = 2.0
    kernels: tuple[int, ...] = (3, 5)
    head_hidden: int = 256
    gate_hidden: int = 256
    blend: float = 0.2

    def __post_init__(self) -> None:
        _one_of("preset", self.preset, PRESETS)
        _one_of("domain", self.domain, DOMAINS)
        _one_of("vision_adapter", self.vision_adapter, ("conv_lora", "lora"))
        _one_of("fusion", self.fusion, ("gateway", "static"))
        for name in ("size", "groups", "rank", "conv_rank", "head_hidden", "gate_hidden"):
            value = getattr(self, name)
            if not is_whole(value) or value < 1:
                raise ConfigError(f"{name} must be a whole number above zero, got {value!r}")
        for name in ("alpha", "conv_alpha", "blend"):
            if not is_number(value := getattr(self, name)):
                raise ConfigError(f"{name} must be a number, got {value!r}")
        kernels = self.kernels if isinstance(self.kernels, (list, tuple)) else ()
        if not kernels or any(not is_whole(k) or k < 1 or k % 2 == 0 for k in kernels):
            raise ConfigError(f"kernels must be odd whole numbers, got {self.kernels!r}")
        object.__setattr__(self, "kernels", tuple(kernels))
        backbone = self.backbone if isinstance(self.backbone, str) else ""
        if backbone != "compact" and not backbone.startswith("clip:"):
            raise ConfigError(f"backbone must be 'compact' or 'clip:<open_clip name>', got {self.backbone!r}")
        if not isinstance(self.pretrained, str):
            raise ConfigError(f"pretrained must be a tag of open_clip's, got {self.pretrained!r}")

    @property
    def rules(self) -> Preset:
        """The preset's choices."""
        return PRESETS[self.preset]

    @property
    def smoothing(self) -> Smoothing | None:
        """The Gaussian of the domain, or None where the preset has none."""
        return SMOOTHING[self.domain] if self.rules.smooth else None

    @property
    def score_mix(self) -> tuple[float, float]:
        """(weight of the class score, weight of the map's maximum)."""
        return self.rules.score_mix[self.domain]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return {**asdict(self), "kernels": list(self.kernels)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: a key is unknown or a value is refused.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown model setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return cls(**values)

    def with_(self, **changes: Any) -> ModelConfig:
        """A copy with some values changed, checked again."""
        return replace(self, **changes)


ABLATIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "baseline": {"vision_adapter": "lora", "fusion": "static"},
        "conv_lora": {"vision_adapter": "conv_lora", "fusion": "static"},
        "gateway": {"vision_adapter": "lora", "fusion": "gateway"},
        "both": {"vision_adapter": "conv_lora", "fusion": "gateway"},
    }
)
"""Rows of the paper's Table 2, as settings of `ModelConfig`."""


def is_whole(value: object) -> bool:
    """Whether it is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it is a finite number that a float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _one_of(name: str, value: object, known: Any) -> None:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
