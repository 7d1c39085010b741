"""Which figures are shown, in which order, under which names; the same in the table and on the page."""

from __future__ import annotations

import math
from typing import NamedTuple

from acd_edge.results import Report


class Column(NamedTuple):
    """A figure of `acd_edge.results.Figures`, and what it is called below the heading of its group."""

    figure: str
    group: str
    title: str


COLUMNS = (
    Column("pixel_auroc", "pixel", "AUROC"),
    Column("pixel_ap", "pixel", "AP"),
    Column("pixel_aupro", "pixel", "AUPRO"),
    Column("pixel_f1_max", "pixel", "F1-max"),
    Column("image_auroc", "image", "AUROC"),
    Column("image_ap", "image", "AP"),
    Column("image_f1_max", "image", "F1-max"),
)
CEILING = Column("pixel_ap_ceiling", "ceiling", "pixel AP")


def columns_of(report: Report) -> tuple[Column, ...]:
    """The columns of a report: the ceiling's only where it was asked for."""
    return COLUMNS if report.patch is None else (*COLUMNS, CEILING)


def per_cent(value: float | None) -> str:
    """Two digits behind the point, `-` for no figure.

    >>> per_cent(0.98765), per_cent(None)
    ('98.77', '-')
    """
    return "-" if value is None else f"{100 * value:.2f}"


def rounded_up(bound: float) -> float:
    """One digit that is not below the bound.

    >>> rounded_up(0.00012), rounded_up(0.03)
    (0.0002, 0.03)
    """
    power = math.floor(math.log10(bound))
    return float(f"{math.ceil(bound / 10.0**power - 1e-9)}e{power}")


def notes_of(report: Report) -> list[str]:
    """Plain sentences on what the figures are: size, approximation, what vanished."""
    side = f"{report.size} x {report.size} pixels"
    where = f"at {side}" if report.at == "model" else f"maps of {side} enlarged to each picture's own size"
    notes = [f"per cent, {where}"]
    if report.patch is not None:
        notes.append(f"ceiling: the truth averaged over patches of {report.patch} pixels, scored as a map")
    if bounds := {name: bound for name, bound in report.bounds.items() if bound}:
        titles = {column.figure: column.title for column in COLUMNS} | {CEILING.figure: "ceiling"}
        parts = ", ".join(f"{titles[name]} {rounded_up(100 * bound):g}" for name, bound in bounds.items())
        notes.append(f"many pixels, counted in bins; points by which a pixel figure can be off: {parts}")
    if vanished := sum(row.vanished for row in report.categories.values()):
        notes.append(f"{vanished} masks have no pixel left at {side}; --at native compares with all of them")
    return notes
