"""Checkpoints: folders with what was trained, and the digest of the frozen weights it was trained on.

`config.json` holds the model's settings and what is known of its training, `adapters.safetensors` everything outside
the towers, `backbone.json` which backbone weights belong to it, and `backbone.safetensors`, where they were embedded,
those weights. Looking at a checkpoint needs no torch.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import acd_edge
from acd_edge.backbone import BackboneRecord
from acd_edge.config import ModelConfig
from acd_edge.errors import CheckpointError, ConfigError, OutputError, WeightsError
from acd_edge.runtime.staging import check_only_ours, check_place, staged_folder

if TYPE_CHECKING:
    from torch import Tensor

    from acd_edge.model import AcdClip

__all__ = [
    "CheckpointInfo",
    "builtin_checkpoint",
    "check_target",
    "checkpoint_digest",
    "has_builtin_weights",
    "load_checkpoint",
    "read_config",
    "read_info",
    "save_checkpoint",
    "write_tensors",
]

SCHEMA = 1
CONFIG, ADAPTERS, BACKBONE, EMBEDDED = "config.json", "adapters.safetensors", "backbone.json", "backbone.safetensors"
CURVE, SETTINGS, RECORD_FILE = "curve.csv", "train.json", "trained_on.json"  # what a training adds
_FILES = frozenset({CONFIG, ADAPTERS, BACKBONE, EMBEDDED, CURVE, SETTINGS, RECORD_FILE})


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says about itself.

    Attributes:
        config: the model's settings.
        training: how it came about; free form.
        backbone: which backbone weights it needs.
        embedded: those weights are in the checkpoint.
    """

    config: ModelConfig
    training: Mapping[str, Any]
    backbone: BackboneRecord
    embedded: bool


def builtin_checkpoint() -> Path:
    """The checkpoint that the package carries."""
    return Path(acd_edge.__file__).absolute().parent / "builtin" / "checkpoint"


def has_builtin_weights(path: Path) -> bool:
    """Whether a checkpoint's adapters are those that the package carries, byte for byte, wherever it lies."""
    own, given = builtin_checkpoint() / ADAPTERS, path / ADAPTERS
    return own.is_file() and given.is_file() and filecmp.cmp(own, given, shallow=False)


def read_config(path: Path) -> ModelConfig:
    """The model's settings in a checkpoint; as `read_info`."""
    return read_info(path).config


def read_info(path: Path) -> CheckpointInfo:
    """What a checkpoint holds, without its weights.

    Raises:
        CheckpointError: the folder is no checkpoint, is incomplete, of a newer schema, or has an unknown key.
    """
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {path}; it is a folder with {CONFIG}, {ADAPTERS} and {BACKBONE}")
    if missing := [name for name in (CONFIG, ADAPTERS, BACKBONE) if not (path / name).is_file()]:
        raise CheckpointError(f"{path} is no complete checkpoint: {', '.join(missing)} is missing")
    content = _read_json(path / CONFIG)
    schema = content.pop("schema", None)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise CheckpointError(f"{path / CONFIG}: schema is a whole number from 1, got {schema!r}")
    if schema > SCHEMA:
        raise CheckpointError(f"{path} has schema {schema}, this acd-edge reads up to {SCHEMA}; update acd-edge")
    if sorted(content) != ["model", "training"] or not all(isinstance(value, dict) for value in content.values()):
        held = ", ".join(content) or "nothing"
        raise CheckpointError(f"{path / CONFIG} must hold the objects model and training beside schema; it has {held}")
    try:
        config = ModelConfig.from_dict(content["model"])
    except ConfigError as error:
        raise CheckpointError(f"{path / CONFIG}: {error}") from error
    record = BackboneRecord.from_dict(_read_json(path / BACKBONE))
    if record.name != config.backbone:
        raise CheckpointError(f"{path}: {BACKBONE} names {record.name}, {CONFIG} names {config.backbone}")
    embedded = (path / EMBEDDED).is_file()
    return CheckpointInfo(config=config, training=content["training"], backbone=record, embedded=embedded)


def checkpoint_digest(path: Path) -> str:
    """sha256 that changes with any of the three files: of their digests, joined."""
    digests = (hashlib.sha256((path / name).read_bytes()).hexdigest() for name in (CONFIG, ADAPTERS, BACKBONE))
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def save_checkpoint(
    path: Path,
    model: AcdClip,
    *,
    training: Mapping[str, Any],
    force: bool = False,
    embed: bool = False,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the folder to make.
        model: built by `build_model` or `load_checkpoint`, which say where its backbone is from.
        training: what is known of how it came about, as JSON.
        force: replace a checkpoint that is there; anything else that is there, also in its folder, is never replaced.
        embed: copy the backbone's weights in, read again from where they were found.
        texts: what a training adds, name to content; nothing here reads it.

    Raises:
        OutputError: the place is in use or cannot be written.
        CheckpointError: a weight is NaN or infinite.
    """
    if model.backbone is None:
        raise CheckpointError("the model does not know its backbone; make it with build_model or load_checkpoint")
    state = {name: tensor.detach().float().cpu().contiguous() for name, tensor in model.adapter_state().items()}
    _check_finite(state, str(path))
    content = {"schema": SCHEMA, "model": model.config.to_dict(), "training": dict(training)}
    check_target(path, force=force)
    with staged_folder(path) as folder:
        _write_json(folder / CONFIG, content)
        for name, text in (texts or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        write_tensors(folder / ADAPTERS, state)
        record = _embed(folder / EMBEDDED, model.config, model.backbone) if embed else model.backbone
        _write_json(folder / BACKBONE, record.to_dict())


def load_checkpoint(
    path: Path, *, size: int | None = None, clip_weights: Path | None = None, trust: bool = False
) -> AcdClip:
    """The model of a checkpoint, in evaluation mode.

    Args:
        path: the checkpoint's folder.
        size: another input side S in pixels; the position table is resized once, from the one that was trained.
        clip_weights: where the recorded CLIP weights are now.
        trust: as `build_model`.

    Raises:
        CheckpointError: the checkpoint is incomplete, or a tensor is missing, unknown, of another shape, or NaN.
        WeightsError: the backbone weights are gone, or are not the recorded ones.
    """
    from acd_edge.model import AcdClip
    from acd_edge.model.weights import load_towers, read_embedded

    info = read_info(path)
    config = info.config if size is None else info.config.with_(size=size)
    if info.embedded:
        if clip_weights is not None:
            raise WeightsError(f"{path} carries its backbone weights; leave --clip-weights away")
        vision, text = read_embedded(config, path / EMBEDDED, info.backbone).build(config.size)
        record = info.backbone
    else:
        weights = clip_weights or _recorded_place(info)
        vision, text, record = load_towers(config, weights, trust=trust, sha256=info.backbone.sha256)
    model = AcdClip(config, vision, text)
    model.backbone = record
    load_adapters(model, _read_adapters(path / ADAPTERS), str(path / ADAPTERS))
    return model.eval()


def load_adapters(model: AcdClip, state: Mapping[str, Tensor], source: str) -> None:
    """Give a model everything outside its towers.

    Raises:
        CheckpointError: a tensor is missing, unknown, of another shape or type, or not finite; its name is in it.
    """
    from acd_edge.model.weights import check_tensors

    expected = {name: tuple(tensor.shape) for name, tensor in model.adapter_state().items()}
    try:
        check_tensors(expected, state, source)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)


def _read_adapters(path: Path) -> dict[str, Tensor]:
    from acd_edge.model._archive import read_tensors

    try:
        return read_tensors(path)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error


def _recorded_place(info: CheckpointInfo) -> Path | None:
    """Where the CLIP weights were found; None for the compact backbone, whose packages are looked up."""
    if info.config.backbone == "compact":
        return None
    place = Path(info.backbone.found_at)
    if not place.is_file():
        raise WeightsError(
            f"the backbone weights of this checkpoint (sha256 {info.backbone.sha256[:12]}...) were at {place}, "
            "where nothing is now; give them with --clip-weights FILE"
        )
    return place


def _embed(target: Path, config: ModelConfig, record: BackboneRecord) -> BackboneRecord:
    """Write the backbone's weights into a checkpoint; their record there."""
    from acd_edge.model.weights import embedded_tensors, read_backbone, sha256_of

    place = None if config.backbone == "compact" else Path(record.found_at)
    tensors = embedded_tensors(read_backbone(config, place, trust=True, sha256=record.sha256))
    write_tensors(target, tensors)
    return BackboneRecord(name=record.name, sha256=sha256_of(target), found_at=EMBEDDED)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the place cannot be written; safetensors has an error of its own for that, a full disk included.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _check_finite(state: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{name} holds NaN or infinity; nothing was written to {where}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold an object, got {type(content).__name__}")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def check_target(path: Path, *, force: bool) -> None:
    """Refuse a place that is in use or cannot be written, before the work is done.

    Raises:
        OutputError: nothing can be made there, or something is there, and `force` is not given or it is no checkpoint.
    """
    if os.path.lexists(path):
        if not force:
            raise OutputError(f"{path} exists already; add --force to replace it, or choose another place with -o")
        if not path.is_dir() or (any(path.iterdir()) and not (path / CONFIG).is_file()):
            raise OutputError(f"{path} is not a checkpoint, so it is not replaced; choose another place with -o")
        check_only_ours(path, _FILES)
    check_place(path)
