"""Checkpoints: what is written comes back, and what is wrong is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from acd_edge.checkpoint import (
    check_target,
    checkpoint_digest,
    load_checkpoint,
    read_config,
    read_info,
    save_checkpoint,
)
from acd_edge.config import ModelConfig
from acd_edge.errors import AcdEdgeError, CheckpointError, OutputError, WeightsError
from acd_edge.model import AcdClip, build_model

CONFIG = ModelConfig(preset="reference", size=28, groups=3, domain="medical", head_hidden=16, gate_hidden=8)
FUSION = "vision_adapters.2.delta.fusion"
TRAINING = {"steps": 12, "data": ["magnetic_tile"]}


@pytest.fixture(scope="module")
def model() -> AcdClip:
    torch.manual_seed(1)
    return build_model(CONFIG)


@pytest.fixture
def saved(tmp_path: Path, model: AcdClip) -> Path:
    save_checkpoint(tmp_path / "ckpt", model, training=TRAINING)
    return tmp_path / "ckpt"


def test_comes_back(saved: Path, model: AcdClip) -> None:
    again = load_checkpoint(saved)
    assert not again.training
    assert again.config == model.config
    assert again.backbone == model.backbone
    assert set(again.state_dict()) == set(model.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert read_info(saved).training == TRAINING
    assert sorted(path.name for path in saved.iterdir()) == ["adapters.safetensors", "backbone.json", "config.json"]
    assert not any(path.name.startswith(".") for path in saved.parent.iterdir())  # no workplace stays behind


def test_another_size_resizes_the_trained_table(saved: Path, model: AcdClip) -> None:
    again = load_checkpoint(saved, size=42)
    assert (again.config.size, again.vision.grid) == (42, 3)
    assert torch.equal(again.vision.positions, build_model(CONFIG.with_(size=42)).vision.positions)
    assert torch.equal(again.trainable()[FUSION], model.trainable()[FUSION])


def test_reading_the_settings_needs_no_torch(saved: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'safetensors', 'open_clip']));"
        "from pathlib import Path; from acd_edge.checkpoint import read_config;"
        f"print(read_config(Path({str(saved)!r})).groups)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "3\n"


def test_embedded_weights_are_read_back(tmp_path: Path, model: AcdClip) -> None:
    save_checkpoint(tmp_path / "whole", model, training={}, embed=True)
    info = read_info(tmp_path / "whole")
    assert info.embedded
    assert info.backbone.found_at == "backbone.safetensors"
    again = load_checkpoint(tmp_path / "whole")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(WeightsError, match="carries its backbone weights; leave --clip-weights away"):
        load_checkpoint(tmp_path / "whole", clip_weights=tmp_path / "clip.pt")
    tensors = load_file(tmp_path / "whole" / "backbone.safetensors")
    tensors["vision.class_token"] = tensors["vision.class_token"] + 1
    save_file(tensors, tmp_path / "whole" / "backbone.safetensors")
    with pytest.raises(WeightsError, match="is not the backbone this model was made with"):
        load_checkpoint(tmp_path / "whole")


def _config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = json.loads((path / "config.json").read_text())
        change(content)
        (path / "config.json").write_text(json.dumps(content))

    return apply


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = load_file(path / "adapters.safetensors")
        change(content)
        save_file(content, path / "adapters.safetensors")

    return apply


def _backbone(**change: object) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = json.loads((path / "backbone.json").read_text()) | change
        (path / "backbone.json").write_text(json.dumps({name: v for name, v in content.items() if v is not None}))

    return apply


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: (path / "config.json").unlink(), "config.json is missing"),
    (lambda path: (path / "adapters.safetensors").unlink(), "adapters.safetensors is missing"),
    (lambda path: (path / "backbone.json").unlink(), "backbone.json is missing"),
    (lambda path: (path / "config.json").write_text("{"), "config.json cannot be read"),
    (lambda path: (path / "config.json").write_text("[1]"), "must hold an object, got list"),
    (lambda path: (path / "config.json").write_text("[" * 100_000), "config.json cannot be read"),
    (_config(lambda c: c["model"].update(alpha=float("nan"))), "alpha must be a number, got nan"),
    (_config(lambda c: c.update(schema=2)), "has schema 2, this acd-edge reads up to 1; update acd-edge"),
    (_config(lambda c: c.pop("schema")), "schema is a whole number from 1, got None"),
    (_config(lambda c: c.update(extra=1)), "it has model, training, extra"),
    (_config(lambda c: c.update(model=None)), "must hold the objects model and training"),
    (_config(lambda c: c["model"].update(colour="red")), "unknown model setting colour; known are alpha"),
    (_config(lambda c: c["model"].update(groups="3")), "groups must be a whole number above zero, got '3'"),
    (_config(lambda c: c["model"].update(kernels=3)), "config.json: kernels must be odd whole numbers, got 3"),
    (_config(lambda c: c["model"].update(groups=4)), "4 groups do not divide the 6 blocks"),
    (_config(lambda c: c["model"].update(backbone="clip:ViT-B-16")), "backbone.json names compact"),
    (_backbone(sha256="0" * 64), "the model needs 00000000"),
    (_backbone(sha256=None), "a backbone record has name, sha256, found_at"),
    (_backbone(found_at=3), "found_at of a backbone record is a text, got 3"),
    (_tensors(lambda t: t.pop("gates.1.fc2.bias")), "lacks gates.1.fc2.bias"),
    (_tensors(lambda t: t.update(more=torch.zeros(1))), "holds more, which this architecture does not have"),
    (
        _tensors(lambda t: t.update({"gates.0.fc1.bias": torch.zeros(7)})),
        r"gates.0.fc1.bias has shape \(7,\), expected \(8,\)",
    ),
    (
        _tensors(lambda t: t["text_adapters.2.entry.weight"].__setitem__(3, torch.nan)),
        "text_adapters.2.entry.weight holds NaN",
    ),
    (_tensors(lambda t: t["text_norms.0.bias"].__setitem__(0, torch.inf)), "text_norms.0.bias holds NaN or infinity"),
    (lambda path: (path / "adapters.safetensors").write_bytes(b"\x10"), "cannot be read as safetensors"),
    (lambda path: os.truncate(path / "adapters.safetensors", 5000), "cannot be read as safetensors"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_damage_is_refused_by_name(saved: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(saved)
    with pytest.raises(AcdEdgeError, match=message) as error:
        load_checkpoint(saved)
    assert "\n" not in str(error.value)


def test_absent_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_config(tmp_path / "gone")


def test_nan_is_not_written(tmp_path: Path, model: AcdClip) -> None:
    weight = model.get_parameter("gates.0.fc1.weight")
    before = weight.data.clone()
    try:
        weight.data[0, 0] = torch.nan
        with pytest.raises(CheckpointError, match=r"gates\.0\.fc1\.weight holds NaN"):
            save_checkpoint(tmp_path / "ckpt", model, training={})
    finally:
        weight.data = before
    assert not list(tmp_path.iterdir())


def test_output_in_use(saved: Path, model: AcdClip) -> None:
    digest = checkpoint_digest(saved)
    with pytest.raises(OutputError, match="exists already; add --force"):
        save_checkpoint(saved, model, training={})
    assert checkpoint_digest(saved) == digest
    save_checkpoint(saved, model, training={"steps": 13}, force=True)
    assert read_info(saved).training == {"steps": 13}
    assert checkpoint_digest(saved) != digest


def test_a_place_that_takes_nothing_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/deep/ck cannot be written \(.*file: Not a directory\); choose"):
        check_target(tmp_path / "file" / "deep" / "ck", force=False)
    with pytest.raises(OutputError, match="cannot be written"):
        check_target(tmp_path / ("long" * 100), force=False)
    check_target(tmp_path / "new" / "deep" / "ck", force=False)
    assert [place.name for place in tmp_path.iterdir()] == ["file"]


def test_force_never_replaces_something_else(tmp_path: Path, model: AcdClip) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(OutputError, match="is not a checkpoint, so it is not replaced"):
            save_checkpoint(tmp_path / name, model, training={}, force=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_force_never_takes_what_lies_beside_the_checkpoints_files(saved: Path, model: AcdClip) -> None:
    """Any folder with a config.json would pass for a checkpoint, such as a model of somebody else's."""
    save_checkpoint(saved, model, training={}, force=True, texts={"curve.csv": "", "train.json": "{}"})
    save_checkpoint(saved, model, training={}, force=True)  # the control: all of that is a checkpoint's
    (saved / "model.safetensors").write_text("theirs")
    with pytest.raises(OutputError, match=r"also holds model\.safetensors, which is not ours"):
        save_checkpoint(saved, model, training={}, force=True)
    assert (saved / "model.safetensors").read_text() == "theirs"


def test_failure_leaves_what_was_there(saved: Path, model: AcdClip, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = checkpoint_digest(saved)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match="No space left on device; nothing was changed"):
        save_checkpoint(saved, model, training={}, force=True)
    assert checkpoint_digest(saved) == digest
    assert [path.name for path in saved.parent.iterdir()] == ["ckpt"]
