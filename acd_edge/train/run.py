"""A training run on disk: what it was asked, its state for resuming, and the checkpoint it leaves.

While a run is unfinished its state lies beside the checkpoint, in `<checkpoint>.training`: `run.json` says what was
asked, `state.safetensors` holds weights, moments and the step, `curve.csv` the losses so far. The first two are
replaced whole, so that an interruption leaves the last saved step. The checkpoint holds the curve too, and
`train.json`, the settings in the form that `--config` reads.

Of several processes each trains, and the first one writes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from acd_edge.checkpoint import CURVE, RECORD_FILE, SETTINGS, check_target, save_checkpoint, write_tensors
from acd_edge.config import ModelConfig
from acd_edge.data.samples import Sample
from acd_edge.data.zero_shot import TrainingRecord, training_record
from acd_edge.errors import CheckpointError, OutputError
from acd_edge.runtime.staging import check_place
from acd_edge.train.config import TrainConfig
from acd_edge.train.curve import CsvCurve, TensorBoardCurve
from acd_edge.train.engine import DeviceName, Engine, StoppedTogether, open_engine
from acd_edge.train.loop import StepLosses, Trainer
from acd_edge.train.stem import Room, store_for

Report = Callable[[int, StepLosses], None]
STATE = "state.safetensors"
SAVE_EVERY = 50  # steps between two saved states


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """All that decides a training, but for the weights of the backbone.

    Attributes:
        model: what is trained.
        recipe: how.
        data: folders and lists of the pictures, as given.
        words: category -> phrases for the prompts.
        bit_depth: that the pictures are read with.

    The recipe's number of steps is known: see `TrainConfig.for_pictures`.
    """

    model: ModelConfig
    recipe: TrainConfig
    data: tuple[str, ...]
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    bit_depth: int = 16

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.settings(), "data": list(self.data), "bit_depth": self.bit_depth}

    def settings(self) -> dict[str, Any]:
        """All but the data and how they are read, in the form of a settings file (`acd_edge.train.settings`)."""
        words = {category: list(phrases) for category, phrases in sorted(self.words.items())}
        return {"model": self.model.to_dict(), "recipe": self.recipe.to_dict(), "words": words}


class RunFolder:
    """The folder `<checkpoint>.training` of an unfinished run."""

    def __init__(self, checkpoint: Path) -> None:
        self.path = checkpoint.with_name(checkpoint.name + ".training")

    @property
    def exists(self) -> bool:
        """Whether a run was left unfinished."""
        return (self.path / STATE).is_file()

    def check(self, *, resume: bool, force: bool) -> None:
        """Refuse to start anew over an unfinished run, or where none can be kept; with `force` one is forgotten.

        Raises:
            OutputError: there is one, and neither flag was given, or the folder is a file or cannot be written.
        """
        if self.exists and not resume:
            if not force:
                raise OutputError(
                    f"{self.path} holds an unfinished run; go on with --resume, or forget it with --force"
                )
            self.remove()
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise OutputError(f"{self.path} is no folder, and the run is to be kept there; move it away")
        check_place(self.path / STATE)

    def save(self, run: TrainRun, trainer: Trainer) -> None:
        """Replace the saved state by the trainer's.

        Raises:
            OutputError: the place cannot be written; the state before is as it was.
        """
        asked, state = self.path / "run.json", self.path / STATE
        fresh = {place: place.with_name(f"{place.name}.new") for place in (asked, state)}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            fresh[asked].write_text(json.dumps(run.to_dict(), indent=2) + "\n", encoding="utf-8")
            write_tensors(fresh[state], trainer.state())
            for place, new in fresh.items():
                os.replace(new, place)
        except OSError as error:
            for new in fresh.values():
                new.unlink(missing_ok=True)
            raise OutputError(f"{self.path} cannot be written: {error}") from error

    def load(self, run: TrainRun, trainer: Trainer) -> None:
        """Take the saved state into the trainer.

        Raises:
            CheckpointError: there is none, or it was asked something else; the first difference is named.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not self.exists:
            raise CheckpointError(f"there is no unfinished run in {self.path}; leave --resume away")
        try:
            asked = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            state = load_file(self.path / STATE)
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {self.path} ({error}); train anew with --force") from error
        if isinstance(asked, dict):
            asked.setdefault("bit_depth", 16)  # what it was before one could say it
        if difference := _first_difference(asked, run.to_dict()):
            raise CheckpointError(f"{self.path} was started with {difference}; give the same, or leave --resume away")
        trainer.load_state(state)

    def remove(self) -> None:
        """Forget the run, once its checkpoint is written."""
        shutil.rmtree(self.path, ignore_errors=True)


def train(
    run: TrainRun,
    samples: Sequence[Sample],
    checkpoint: Path,
    *,
    clip_weights: Path | None = None,
    trust: bool = False,
    resume: bool = False,
    force: bool = False,
    device: DeviceName = "auto",
    room: Room | None = None,
    tensorboard: Path | None = None,
    report: Report = lambda done, losses: None,
    remember: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train and write the checkpoint; Ctrl-C writes a usable one of the steps done, and the state to resume from.

    Args:
        run: what is asked.
        samples: the pictures of `run.data`.
        checkpoint: the folder to write.
        clip_weights, trust: as `build_model`.
        resume: go on with the state that an unfinished run left beside the checkpoint.
        force: replace a checkpoint that is there, and forget an unfinished run.
        device: where to compute; `auto` takes a GPU where there is one.
        room: where decoded pictures, or the stems of those that come again, are kept; 2 GiB of memory unless given.
        tensorboard: folder for TensorBoard's event files.
        report: called after each step, in the first process.
        remember: called after each picture whose digest was taken, with their number, before the first step.

    Raises:
        OutputError: the checkpoint exists, or an unfinished run, and `force` was not given.
        CheckpointError: there is no state to resume from, or it is of another run.
        DeviceError: the device is not there.
        MissingExtra: TensorBoard, or accelerate for several processes, is not installed.
    """
    folder = RunFolder(checkpoint)
    check_target(checkpoint, force=force or resume)
    folder.check(resume=resume, force=force)
    with ExitStack() as opened:
        engine = opened.enter_context(open_engine(device))
        trainer = new_trainer(run, samples, clip_weights=clip_weights, trust=trust, engine=engine, room=room)
        if resume:
            folder.load(run, trainer)
        if engine.rank:
            _follow(trainer, engine)
            return
        reports: list[Report] = [opened.enter_context(closing(CsvCurve(folder.path / CURVE, run.recipe, trainer.done)))]
        if tensorboard:
            reports.append(opened.enter_context(closing(TensorBoardCurve(tensorboard, run.recipe, trainer.done))))
        record = training_record(samples, run.words, remember)
        _run(run, samples, record, trainer, checkpoint, [*reports, report], force=force or resume)


def _follow(trainer: Trainer, engine: Engine) -> None:
    """Train in a process that does not write: it stays until the one that writes is done, or a launcher ends both."""
    try:
        trainer.run(lambda done, losses: None)
    except StoppedTogether:
        engine.wait()
        raise


def _run(
    run: TrainRun,
    samples: Sequence[Sample],
    record: TrainingRecord,
    trainer: Trainer,
    checkpoint: Path,
    reports: Sequence[Report],
    *,
    force: bool,
) -> None:
    """Train in the process that writes."""
    folder = RunFolder(checkpoint)

    def after_step(done: int, losses: StepLosses) -> None:
        curve, *others = reports
        curve(done, losses)  # before the state: a saved step has its row
        if done % SAVE_EVERY == 0 and done < run.recipe.length:
            folder.save(run, trainer)
        for report in others:
            report(done, losses)

    try:
        trainer.run(after_step)
    except KeyboardInterrupt as stop:
        if trainer.done:
            folder.save(run, trainer)
            _write(run, samples, record, trainer, checkpoint, force=force)
        if isinstance(stop, StoppedTogether):
            trainer.engine.wait()
        raise
    _write(run, samples, record, trainer, checkpoint, force=force)
    folder.remove()


def new_trainer(
    run: TrainRun,
    samples: Sequence[Sample],
    *,
    clip_weights: Path | None = None,
    trust: bool = False,
    engine: Engine | None = None,
    room: Room | None = None,
) -> Trainer:
    """A trainer before its first step; the seed decides its weights and its batches. Raises as `build_model`."""
    import torch

    from acd_edge.data.sampling import Batches, Mix
    from acd_edge.model import build_model
    from acd_edge.model.weights import tokenizer_for

    recipe, room = run.recipe, room or Room()
    torch.manual_seed(recipe.seed)
    model = build_model(run.model, clip_weights=clip_weights, trust=trust)
    batches = Batches(
        samples,
        size=run.model.size,
        batch=recipe.batch,
        seed=recipe.seed,
        mix=Mix(
            synthetic=recipe.synthetic,
            textures=recipe.textures,
            spoiled=recipe.spoiled,
            backdrop=recipe.backdrop,
            generic=recipe.generic,
        ),
        augment=recipe.augment,
        style=recipe.augmentation,
        order=recipe.order,
        cache_bytes=room.memory,
    )
    store = None if recipe.augment else store_for(model, recipe.cache, len(samples), room)
    return Trainer(model, tokenizer_for(run.model), batches, recipe, run.words, engine=engine, store=store)


def _write(
    run: TrainRun, samples: Sequence[Sample], record: TrainingRecord, trainer: Trainer, checkpoint: Path, *, force: bool
) -> None:
    trainer.finish()
    asked = run.to_dict()
    training = {
        "steps_done": trainer.done,
        "recipe": asked["recipe"],
        "data": list(record.data_sets),
        "pictures": len(samples),
        "bit_depth": run.bit_depth,
        "trained_on": record.summary(),
        "words": asked["words"],
        "tools": {name: version(name) for name in ("acd-edge", "torch", "numpy")},
    }
    texts = {
        SETTINGS: json.dumps(run.settings(), indent=2) + "\n",
        CURVE: (RunFolder(checkpoint).path / CURVE).read_text(encoding="utf-8"),
        RECORD_FILE: record.to_json(),
    }
    save_checkpoint(checkpoint, trainer.model, training=training, force=force, texts=texts)


def _first_difference(left: Any, right: Any, name: str = "") -> str:
    """`name = left value` of the first leaf that differs, or nothing."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted({*left, *right}):
            if found := _first_difference(left.get(key), right.get(key), f"{name}.{key}".lstrip(".")):
                return found
        return ""
    return "" if left == right else f"{name} = {left!r}, now it is {right!r}"
