"""A training run on disk: what it was asked, its state for resuming, and the checkpoint it leaves.

While a run is unfinished its state lies beside the checkpoint, in `<checkpoint>.training`: `run.json` says what was
asked, `state.safetensors` holds weights, moments and the step. Both are replaced whole, so that an interruption leaves
the last saved step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from acd_edge.checkpoint import check_target, save_checkpoint
from acd_edge.config import ModelConfig
from acd_edge.data.samples import Sample
from acd_edge.errors import CheckpointError
from acd_edge.train.config import TrainConfig
from acd_edge.train.loop import StepLosses, Trainer

SAVE_EVERY = 50  # steps between two saved states


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """All that decides a training, but for the weights of the backbone.

    Attributes:
        model: what is trained.
        recipe: how.
        data: folders and lists of the pictures, as given.
        words: category -> phrases for the prompts.
    """

    model: ModelConfig
    recipe: TrainConfig
    data: tuple[str, ...]
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        words = {category: list(phrases) for category, phrases in sorted(self.words.items())}
        return {"model": self.model.to_dict(), "recipe": self.recipe.to_dict(), "data": list(self.data), "words": words}


class RunFolder:
    """The folder `<checkpoint>.training` of an unfinished run."""

    def __init__(self, checkpoint: Path) -> None:
        self.path = checkpoint.with_name(checkpoint.name + ".training")

    @property
    def exists(self) -> bool:
        """Whether a run was left unfinished."""
        return (self.path / "state.safetensors").is_file()

    def save(self, run: TrainRun, trainer: Trainer) -> None:
        """Replace the saved state by the trainer's."""
        from safetensors.torch import save_file

        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "run.json").write_text(json.dumps(run.to_dict(), indent=2) + "\n", encoding="utf-8")
        fresh = self.path / "state.safetensors.new"
        save_file({name: tensor.contiguous() for name, tensor in trainer.state().items()}, fresh)
        os.replace(fresh, self.path / "state.safetensors")

    def load(self, run: TrainRun, trainer: Trainer) -> None:
        """Take the saved state into the trainer.

        Raises:
            CheckpointError: there is none, or it was asked something else; the first difference is named.
        """
        from safetensors.torch import load_file

        if not self.exists:
            raise CheckpointError(f"there is no unfinished run in {self.path}; leave --resume away")
        try:
            asked = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            state = load_file(self.path / "state.safetensors")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {self.path} ({error}); train anew without --resume") from error
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
    report: Callable[[int, StepLosses], None] = lambda done, losses: None,
) -> None:
    """Train and write the checkpoint; Ctrl-C writes a usable one of the steps done, and the state to resume from.

    Args:
        run: what is asked.
        samples: the pictures of `run.data`.
        checkpoint: the folder to write.
        clip_weights, trust: as `build_model`.
        resume: go on with the state that an unfinished run left beside the checkpoint.
        force: replace a checkpoint that is there.
        report: called after each step.

    Raises:
        OutputError: the checkpoint exists and `force` was not given.
        CheckpointError: there is no state to resume from, or it is of another run.
    """
    folder = RunFolder(checkpoint)
    check_target(checkpoint, force=force or resume)
    trainer = new_trainer(run, samples, clip_weights=clip_weights, trust=trust)
    if resume:
        folder.load(run, trainer)

    def after_step(done: int, losses: StepLosses) -> None:
        if done % SAVE_EVERY == 0 and done < run.recipe.steps:
            folder.save(run, trainer)
        report(done, losses)

    try:
        trainer.run(after_step)
    except KeyboardInterrupt:
        if trainer.done:
            folder.save(run, trainer)
            _write(run, samples, trainer, checkpoint, force=force or resume)
        raise
    _write(run, samples, trainer, checkpoint, force=force or resume)
    folder.remove()


def new_trainer(
    run: TrainRun, samples: Sequence[Sample], *, clip_weights: Path | None = None, trust: bool = False
) -> Trainer:
    """A trainer before its first step; the seed decides its weights and its batches. Raises as `build_model`."""
    import torch

    from acd_edge.data.sampling import Batches
    from acd_edge.model import build_model
    from acd_edge.model.weights import tokenizer_for

    recipe = run.recipe
    torch.manual_seed(recipe.seed)
    model = build_model(run.model, clip_weights=clip_weights, trust=trust)
    batches = Batches(
        samples,
        size=run.model.size,
        batch=recipe.batch,
        seed=recipe.seed,
        synthetic=recipe.synthetic,
        textures=recipe.textures,
        spoiled=recipe.spoiled,
        generic=recipe.generic,
        augment=recipe.augment,
    )
    return Trainer(model, tokenizer_for(run.model), batches, recipe, run.words)


def _write(run: TrainRun, samples: Sequence[Sample], trainer: Trainer, checkpoint: Path, *, force: bool) -> None:
    trainer.finish()
    asked = run.to_dict()
    training = {
        "steps_done": trainer.done,
        "recipe": asked["recipe"],
        "data": [Path(place).name for place in run.data],
        "pictures": len(samples),
        "words": asked["words"],
        "tools": {name: version(name) for name in ("acd-edge", "torch", "numpy")},
    }
    save_checkpoint(checkpoint, trainer.model, training=training, force=force)


def _first_difference(left: Any, right: Any, name: str = "") -> str:
    """`name = left value` of the first leaf that differs, or nothing."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted({*left, *right}):
            if found := _first_difference(left.get(key), right.get(key), f"{name}.{key}".lstrip(".")):
                return found
        return ""
    return "" if left == right else f"{name} = {left!r}, now it is {right!r}"
