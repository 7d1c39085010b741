"""Learning curves: a CSV that is always written, and TensorBoard where it is asked for."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from acd_edge.errors import CheckpointError, OutputError
from acd_edge.lazy import require
from acd_edge.train.config import TrainConfig
from acd_edge.train.loop import StepLosses, rate_factor

COLUMNS = ("step", "loss", "map", "class", "vision_rate", "text_rate", "seconds")


class CsvCurve:
    """One row a step: losses, learning rates, and the seconds since the step before.

    Args:
        path: the file; made with its folder at the first row of a new run.
        recipe: gives the rates.
        done: steps that were done before. Their rows are kept, and later ones, of steps that were lost, are removed.

    Raises:
        CheckpointError: the rows that are there are not those of `done` steps.
        OutputError: the file cannot be written, here or at a row.
    """

    def __init__(self, path: Path, recipe: TrainConfig, done: int = 0) -> None:
        self.path, self.recipe = path, recipe
        self._kept = _rows(path, done) if done else []
        self._file: Any = None
        self._before = time.monotonic()
        if done:
            self._begin()

    def __call__(self, done: int, losses: StepLosses) -> None:
        """Add the row of step number `done`, from one."""
        if self._file is None:
            self._begin()
        now = time.monotonic()
        rates = rates_at(self.recipe, done - 1)
        self._write([done, *map(repr, (*losses, *rates)), f"{now - self._before:.3f}"])
        self._before = now

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            with suppress(OSError):  # every row was written, or told of, before
                self._file.close()

    def _begin(self) -> None:
        fresh = self.path.with_name(self.path.name + ".new")
        with _told(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = fresh.open("w", newline="", encoding="utf-8")
            for row in [list(COLUMNS), *self._kept]:
                self._write(row)
            os.replace(fresh, self.path)  # the open file goes on under its name

    def _write(self, row: list[Any]) -> None:
        with _told(self.path):
            csv.writer(self._file, lineterminator="\n").writerow(row)
            self._file.flush()


class TensorBoardCurve:
    """The same figures as scalars in TensorBoard's event files.

    Args:
        folder: where they go.
        recipe: gives the rates.
        done: steps that were done before; what the folder holds of later ones is marked as void.

    Raises:
        MissingExtra: tensorboard is not installed.
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, recipe: TrainConfig, done: int = 0) -> None:
        require("tensorboard", "tensorboard")
        writer: Any = require("torch.utils.tensorboard", "train").SummaryWriter
        self._recipe = recipe
        with _told(folder):
            self._writer = writer(str(folder), purge_step=done + 1 if done else None)

    def __call__(self, done: int, losses: StepLosses) -> None:
        """Add the scalars of step number `done`, from one."""
        vision, text = rates_at(self._recipe, done - 1)
        figures = {"loss/total": losses.total, "loss/map": losses.on_map, "loss/class": losses.on_class}
        for name, value in (figures | {"rate/vision": vision, "rate/text": text}).items():
            self._writer.add_scalar(name, value, done)

    def close(self) -> None:
        """End the files."""
        self._writer.close()


def rates_at(recipe: TrainConfig, index: int) -> tuple[float, float]:
    """Learning rates of the vision and of the text side at step `index`, from zero."""
    factor = rate_factor(recipe, index)
    return recipe.vision_rate * factor, recipe.text_rate * factor


@contextmanager
def _told(place: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror or error}") from error


def _rows(path: Path, done: int) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(f"cannot read {path} ({error}); train anew with --force") from error
    kept = rows[:done]
    if tuple(head) != COLUMNS or [row[:1] for row in kept] != [[str(step)] for step in range(1, done + 1)]:
        raise CheckpointError(f"{path} does not hold the {done} steps that were done; train anew with --force")
    return kept
