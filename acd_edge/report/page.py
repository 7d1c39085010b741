"""A report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from pathlib import Path

import acd_edge
from acd_edge.errors import OutputError
from acd_edge.report.columns import Column, columns_of, notes_of, per_cent
from acd_edge.report.gallery import gallery
from acd_edge.report.style import STYLE
from acd_edge.report.svg import curve_chart, score_histogram
from acd_edge.results import CategoryReport, Evidence, Figures, Report
from acd_edge.runtime.staging import check_place, staged_folder

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_AREA = {"ROC": ("auroc", "AUROC"), "PR": ("ap", "AP"), "PRO": ("aupro", "AUPRO")}


def check_page(path: Path, *, force: bool) -> None:
    """Refuse a place in use, or that cannot be written, before the work is done.

    Raises:
        OutputError: something is there and `force` is not given, it is a folder, or its folder cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give --html the name of the page, such as {path / 'report.html'}")
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path} exists already; add --force to replace it, or choose another --html page")
    check_place(path)


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    with staged_folder(path, pack=lambda folder, _: folder / "page.html") as folder:
        (folder / "page.html").write_text(text, encoding="utf-8")


def page(report: Report, *, title: str, about: Mapping[str, str]) -> str:
    """The page's HTML.

    Args:
        report: made with a gallery; without it there are no charts and no pictures.
        title: what was measured.
        about: facts that stand under the title, such as the model's place.
    """
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in about.items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in notes_of(report))
    sections = "".join(
        _section(place, name, row, report) for place, (name, row) in enumerate(report.categories.items())
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="acd-edge {escape(acd_edge.__version__)}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1><dl>{facts}</dl></header>"
        f'<main>{_table(report)}<ul class="notes">{notes}</ul>{_failures(report)}{sections}</main></body></html>\n'
    )


def _table(report: Report) -> str:
    columns = columns_of(report)
    rows = [
        _row(f'<a href="#category-{place}">{escape(name)}</a>{_badge(row, short=True)}', row, row.figures, columns)
        for place, (name, row) in enumerate(report.categories.items())
    ]
    if len(rows) > 1:
        rows.append(_row("mean", None, report.mean, columns))
    heads = "".join(f"<th{_starts(columns, place)}>{column.title}</th>" for place, column in enumerate(columns))
    return (
        f'<div class="scroll"><table><thead><tr><th colspan="4"></th>{_groups(columns)}</tr><tr><th>category</th>'
        f'<th class="words">product</th><th>good</th><th>defective</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _groups(columns: tuple[Column, ...]) -> str:
    names = dict.fromkeys(column.group for column in columns)
    spans = {name: sum(column.group == name for column in columns) for name in names}
    return "".join(f'<th class="starts" colspan="{span}">{name}</th>' for name, span in spans.items())


def _starts(columns: tuple[Column, ...], place: int) -> str:
    return ' class="starts"' if place == 0 or columns[place].group != columns[place - 1].group else ""


def _row(name: str, row: CategoryReport | None, figures: Figures, columns: tuple[Column, ...]) -> str:
    facts = ("", "", "") if row is None else (escape(row.words), str(row.good), str(row.defective))
    cells = "".join(
        _figure(getattr(figures, column.figure), starts=bool(_starts(columns, place)))
        for place, column in enumerate(columns)
    )
    kind = ' class="mean"' if row is None else ""
    counts = f"<td>{facts[1]}</td><td>{facts[2]}</td>"
    return f'<tr{kind}><td>{name}</td><td class="words">{facts[0]}</td>{counts}{cells}</tr>'


def _figure(value: float | None, *, starts: bool) -> str:
    kinds = f"figure{' starts' if starts else ''}"
    return f'<td class="{kinds}" style="--share:{value or 0:.4f}">{per_cent(value)}</td>'


def _badge(row: CategoryReport, *, short: bool = False) -> str:
    if row.not_zero_shot is None:
        return ""
    reason = "" if short else f": {escape(row.not_zero_shot)}"
    return f' <span class="badge">not zero-shot{reason}</span>'


def _failures(report: Report) -> str:
    if not report.failed:
        return ""
    lines = "".join(f"<li>{escape(failure.reason)}</li>" for failure in report.failed)
    count = len(report.failed)
    return (
        f'<details class="failed" open><summary>{count} picture{"s" * (count > 1)} could not be measured</summary>'
        f"<ul>{lines}</ul></details>"
    )


def _section(place: int, name: str, row: CategoryReport, report: Report) -> str:
    facts = f"{row.good} good and {row.defective} defective pictures, {row.regions} defects"
    called = f"product “{escape(row.words)}”"
    head = f"<h2>{escape(name)}</h2><p class='facts'>{called}, {facts}{_badge(row)}</p>"
    shown = "" if row.evidence is None else _charts(row) + _galleries(row.evidence, row.words)
    return f'<section id="category-{place}">{head}{shown}</section>'


def _charts(row: CategoryReport) -> str:
    evidence = row.evidence
    assert evidence is not None
    charts = []
    for group, curves in (("pixel", evidence.pixel_curves), ("image", evidence.image_curves)):
        for name, curve in curves.items():
            figure, title = _AREA[name]
            value = per_cent(getattr(row.figures, f"{group}_{figure}"))
            charts.append(_captioned(f"{group} {name}", f"{title} {value}", curve_chart(name, curve)))
    if evidence.good_scores or evidence.defective_scores:
        histogram = score_histogram(evidence.good_scores, evidence.defective_scores)
        charts.append(_captioned("scores", "share of the pictures", histogram))
    return f'<div class="charts">{"".join(charts)}</div>'


def _captioned(name: str, remark: str, chart: str) -> str:
    return f"<figure><figcaption>{escape(name)} <span>{escape(remark)}</span></figcaption>{chart}</figure>"


def _galleries(evidence: Evidence, words: str) -> str:
    by = "pixel AP" if any(exhibit.ap is not None for exhibit in evidence.best) else "score"
    line = "left the true outline in green, right the heat map; white encloses what is more likely abnormal than not"
    return (
        gallery("Best heat maps", f"highest {by} of a picture: {line}", evidence.best, words)
        + gallery("Worst heat maps", f"lowest {by} of a picture", evidence.worst, words)
        + gallery(
            "Good pictures with the highest scores", "false alarms at any threshold below", evidence.alarms, words
        )
    )
