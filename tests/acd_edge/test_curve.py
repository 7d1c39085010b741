"""Learning curves on disk."""

from __future__ import annotations

import csv
from contextlib import closing
from pathlib import Path

import pytest

from acd_edge.errors import CheckpointError, OutputError
from acd_edge.train.config import TrainConfig
from acd_edge.train.curve import COLUMNS, CsvCurve, TensorBoardCurve
from acd_edge.train.loop import StepLosses

RECIPE = TrainConfig(steps=20)
LOSSES = [StepLosses(1 / step, 0.1, 1 / step - 0.1) for step in range(1, 6)]


def write(path: Path, steps: range) -> None:
    curve = CsvCurve(path, RECIPE, steps.start)
    for index in steps:
        curve(index + 1, LOSSES[index])
    curve.close()


def rows(path: Path) -> list[list[str]]:
    with path.open() as file:
        return list(csv.reader(file))


def test_rows_of_lost_steps_are_replaced(tmp_path: Path) -> None:
    """Killed at step 5 with a state of step 2: the rows of 3 to 5 are void, and a row cut in its middle is no harm."""
    path = tmp_path / "run" / "curve.csv"
    write(path, range(5))
    whole = rows(path)
    assert whole[0] == list(COLUMNS)
    assert [float(row[1]) for row in whole[1:]] == [losses.total for losses in LOSSES]  # every digit
    assert [float(row[4]) for row in whole[1:]] == pytest.approx([RECIPE.vision_rate * 0.9**step for step in range(5)])
    path.write_text(path.read_text()[:-20])
    CsvCurve(path, RECIPE, 2).close()
    assert rows(path) == whole[:3]
    write(path, range(2, 5))
    assert [row[:-1] for row in rows(path)] == [row[:-1] for row in whole]
    assert [child.name for child in path.parent.iterdir()] == ["curve.csv"]


@pytest.mark.parametrize("content", [None, "", "step,loss\n1,2\n", ",".join(COLUMNS) + "\n1,2,3\n3,2,1\n"])
def test_a_curve_of_other_steps_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "curve.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match="train anew with --force"):
        CsvCurve(path, RECIPE, 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.with_name("curve.csv.new").symlink_to("/dev/full")
    with (
        pytest.raises(OutputError, match=r"curve\.csv cannot be written: No space left"),
        closing(CsvCurve(path, RECIPE)) as curve,
    ):
        curve(1, LOSSES[0])


@pytest.mark.parametrize("of", [CsvCurve, TensorBoardCurve])
def test_a_place_below_a_file_is_told(tmp_path: Path, of: type[CsvCurve | TensorBoardCurve]) -> None:
    if of is TensorBoardCurve:
        pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        of(tmp_path / "file" / "below" / "x", RECIPE)(1, LOSSES[0])


def test_nothing_is_made_before_the_first_step(tmp_path: Path) -> None:
    CsvCurve(tmp_path / "run" / "curve.csv", RECIPE).close()
    assert not (tmp_path / "run").exists()
