"""A report as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from acd_edge.report.columns import columns_of, notes_of, per_cent
from acd_edge.results import Figures, Report

_FACTS = ("category", "product", "good", "defective")
_WORDY = 2  # columns of words, which start left; numbers end right
_GAP = "  "


def table(report: Report) -> str:
    """Figures in per cent, a category a line, the mean last where there are several; notes below.

    A category that does not count as zero-shot has an asterisk, and its reason among the notes.
    """
    columns = columns_of(report)
    rows = [[_marked(name, row.not_zero_shot), row.words, str(row.good), str(row.defective),
             *_cells(row.figures, report)] for name, row in report.categories.items()]  # fmt: skip
    if len(rows) > 1:
        rows.append(["mean", "", "", "", *_cells(report.mean, report)])
    head = [*_FACTS, *(column.title for column in columns)]
    widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    groups = [*("" for _ in _FACTS), *(column.group for column in columns)]
    lines = [_groups(groups, widths), *(_line(row, widths) for row in [head, *rows])]
    reasons = [f"* {name} is not zero-shot: {row.not_zero_shot}"
               for name, row in report.categories.items() if row.not_zero_shot]  # fmt: skip
    failures = [f"not measured: {failure.picture}" for failure in report.failed]
    return "\n".join([*lines, *notes_of(report), *reasons, *failures])


def _marked(name: str, not_zero_shot: str | None) -> str:
    return f"{name} *" if not_zero_shot else name


def _cells(figures: Figures, report: Report) -> list[str]:
    return [per_cent(getattr(figures, column.figure)) for column in columns_of(report)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [cell.ljust(width) if place < _WORDY else cell.rjust(width)
               for place, (cell, width) in enumerate(zip(cells, widths, strict=True))]  # fmt: skip
    return _GAP.join(aligned).rstrip()


def _groups(groups: Sequence[str], widths: Sequence[int]) -> str:
    """The line above the head: each group's name over its columns, with a rule up to its last one."""
    line, place = "", 0
    while place < len(groups):
        stop = place + 1
        while stop < len(groups) and groups[stop] == groups[place]:
            stop += 1
        width = sum(widths[place:stop]) + len(_GAP) * (stop - place - 1)
        name = groups[place]
        line += (f" {name} ".center(width, "-") if name else "").ljust(width) + _GAP
        place = stop
    return line.rstrip()
