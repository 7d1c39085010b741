"""`acd-edge data`: what a data set is, and whether its files are whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acd_edge.cli.once import OnceGroup
from acd_edge.errors import DataError

if TYPE_CHECKING:
    from acd_edge.data.check import CategoryRow, DataReport
    from acd_edge.data.reading import Part

DATA_HELP = "Data set as published, MVTec-layout folder, or .jsonl list (docs/data.md); repeatable."
LAYOUT_HELP = "The data set's name, where its folder does not tell it: visa, kvasir, ... (docs/data.md)."


@click.group(cls=OnceGroup)
def command() -> None:
    """Look into data sets before training or evaluating on them."""


@command.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--root", type=click.Path(path_type=Path), help="What the paths in a .jsonl list are relative to.")
@click.option("--layout", metavar="NAME", help=LAYOUT_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def check(path: Path, root: Path | None, layout: str | None, as_json: bool) -> None:
    """Read every file of the data set at PATH, a folder or a .jsonl list, and name all that is wrong.

    Named with its path: a missing mask or picture, a mask of another size than its picture, a file that cannot be
    read, a mask that is empty though its picture is labelled defective, a class without pictures. Then the exit status
    is 1.
    """
    from acd_edge.data.check import check_data

    report = check_data(path, root, layout=layout, progress=Progress("pictures read"))
    click.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) if as_json else table(report))
    if report.findings:
        count = len(report.findings)
        raise DataError(f"{path}: {count} thing{'s' * (count > 1)} to mend, listed above")


def table(report: DataReport) -> str:
    """The set, a category a line, and every finding."""
    parts: list[Part] = [
        part for part in ("train", "valid", "test") if any(part in row.parts for row in report.categories.values())
    ]
    head = ["category", "words", *(f"{part} {label}" for part in parts for label in ("good", "bad")), "metrics"]
    rows = [head, *(_row(name, row, parts) for name, row in report.categories.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    title = f"{report.title}: data set {report.data_set}, layout {report.layout}, {report.domain}"
    return "\n".join([title, *lines, *(f"{each.kind}: {each.message}" for each in report.findings)])


def _row(name: str, row: CategoryRow, parts: Sequence[Part]) -> list[str]:
    counts = [
        str(number) for part in parts
        for number in ((row.parts[part].good, row.parts[part].defective) if part in row.parts else (0, 0))
    ]  # fmt: skip
    return [name, row.words, *counts, ", ".join(row.metrics) or "none"]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    sides: list[Callable[[str, int], str]] = [str.ljust, str.ljust, *[str.rjust] * (len(row) - 3), str.ljust]
    return [side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)]


class Progress:
    """A line on stderr every few seconds, and at the end.

    The time that is left follows from what was done since the first call: what came before that, such as reading a
    model, does not come again.

    Args:
        what: what is counted.
        at_end: say at the end how many there were, however short it took.
        every_s: seconds between two lines.
    """

    def __init__(self, what: str, *, at_end: bool = True, every_s: float = 5.0) -> None:
        self._what, self._at_end, self._every_s = what, at_end, every_s
        self._began: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        """Tell how far it is, when it is time to."""
        now = time.monotonic()
        if self._began is None:
            self._began, self._next = (now, done), now + self._every_s
        if now < self._next and not (self._at_end and done == total):
            return
        self._next = now + self._every_s
        began, first = self._began
        left = (now - began) * (total - done) / max(done - first, 1)
        click.echo(f"{done}/{total} {self._what}" + (f", about {left:.0f} s left" if done < total else ""), err=True)
