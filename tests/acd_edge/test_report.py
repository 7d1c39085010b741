"""The table and the page of made-up reports: what they show, and that names cannot break out of the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acd_edge.data.samples import Sample
from acd_edge.errors import OutputError
from acd_edge.metrics import Curve
from acd_edge.report import check_page, page, table, write_page
from acd_edge.report.svg import _score_ticks, curve_chart, score_histogram
from acd_edge.results import CategoryReport, Evidence, Exhibit, Failure, Figures, Report, mean_of
from tests.picture_trees import write_defect

NASTY = '<script>alert("x")</script> & <b>'
LINE = Curve(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.8, 1.0]))
FIGURES = Figures(
    pixel_auroc=0.9, pixel_ap=0.5, pixel_aupro=0.7, pixel_f1_max=0.6, image_auroc=None, image_ap=None, image_f1_max=None
)


@pytest.fixture
def exhibit(tmp_path: Path) -> Exhibit:
    """A defect of 56 x 56 pixels, under a name that HTML must escape."""
    write_defect(tmp_path / "set", "<dent>", "a&b", 200, np.s_[10:20, 12:30])
    image = tmp_path / "set/test/<dent>/a&b.png"
    mask = tmp_path / "set/ground_truth/<dent>/a&b_mask.png"
    sample = Sample(image=image, mask=mask, label=1, category="set")
    return Exhibit(sample=sample, score=0.75, ap=0.5, levels=np.full((28, 28), 200, np.uint8))


def category(figures: Figures = FIGURES, **changes: Any) -> CategoryReport:
    values: dict[str, Any] = {
        "words": "nut", "good": 0, "defective": 3, "regions": 4, "vanished": 0, "figures": figures, "bounds": {}
    }  # fmt: skip
    return CategoryReport(**{**values, **changes})


def report(rows: Mapping[str, CategoryReport], **changes: Any) -> Report:
    values: dict[str, Any] = {"size": 420, "at": "model", "patch": None, "categories": rows}
    return Report(**{**values, **changes}, mean=mean_of(row.figures for row in rows.values()))


def evidence(exhibit: Exhibit) -> Evidence:
    return Evidence(
        pixel_curves={"ROC": LINE, "PR": LINE, "PRO": Curve(LINE.x * 0.3, LINE.y)}, image_curves={},
        good_scores=(), defective_scores=(0.5, 0.75, 0.75), best=(exhibit,), worst=(), alarms=(),
    )  # fmt: skip


def test_table_aligns_and_tells_what_is_missing() -> None:
    rows = {"nut": category(), "a long name": category(replace(FIGURES, pixel_ap=1.0, image_ap=0.25))}
    groups, head, first, second, mean, note = table(report(rows)).splitlines()
    assert [head.rfind("F1-max") + 6, len(first)] == [len(second), len(mean)]
    assert first.split() == ["nut", "nut", "0", "3", "90.00", "50.00", "70.00", "60.00", "-", "-", "-"]
    assert mean.split() == ["mean", "90.00", "75.00", "70.00", "60.00", "-", "25.00", "-"]
    assert groups.index("pixel") < groups.index("image")
    assert note == "per cent, at 420 x 420 pixels"
    assert "mean" not in table(report({"nut": category()}))


def test_table_states_bounds_ceiling_vanished_masks_reasons_and_failures() -> None:
    row = category(
        replace(FIGURES, pixel_ap_ceiling=0.8), vanished=2, not_zero_shot="its pictures were trained on",
        bounds={"pixel_auroc": 1.2e-6, "pixel_ap": 0.0, "pixel_ap_ceiling": 3e-4},
    )  # fmt: skip
    text = table(report({"nut": row}, patch=14, failed=(Failure("x.png", "cannot read x.png"),)))
    assert "nut *" in text
    assert "* nut is not zero-shot: its pictures were trained on" in text
    assert "80.00" in text
    assert "counted in bins; points by which a pixel figure can be off: AUROC 0.0002, ceiling 0.03" in text
    assert "2 masks have no pixel left at 420 x 420 pixels" in text
    assert text.endswith("not measured: x.png")


class Tags(HTMLParser):
    """Collects what a browser would see as elements and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] != tag and self.open[-1] in ("line", "rect", "polyline", "polygon"):
            self.open.pop()
        assert self.open.pop() == tag


def test_page_needs_nothing_else_and_escapes_every_name(exhibit: Exhibit) -> None:
    row = category(words=NASTY, not_zero_shot=NASTY, evidence=evidence(exhibit), bounds={"pixel_auroc": 1e-6})
    found = report({NASTY: row, "other": category()}, patch=14, failed=(Failure(NASTY, NASTY),))
    text = page(found, title=NASTY, about={NASTY: NASTY})
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "b" in tags.seen  # the control: elements are seen
    assert NASTY not in text
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in tags.links)
    assert "http" not in re.sub(r"base64,[^\"]+|http-equiv", "", text)
    assert "default-src 'none'" in text
    assert (tags.seen.count("img"), tags.seen.count("svg")) == (2, 4)
    assert "&lt;dent&gt;/a&amp;b.png" in text
    assert "1 picture could not be measured" in text
    assert "prefers-color-scheme: dark" in text


def test_page_shows_the_tables_figures_and_dashes() -> None:
    text = page(report({"nut": category()}), title="t", about={})
    for shown in ("90.00", "50.00", "70.00", "60.00"):
        assert text.count(f">{shown}</td>") == 1
    assert text.count(">-</td>") == 3
    assert "ceiling" not in text
    assert "not zero-shot" not in text


def test_a_picture_that_is_gone_leaves_the_page_whole(exhibit: Exhibit) -> None:
    exhibit.sample.image.unlink()
    text = page(report({"nut": category(evidence=evidence(exhibit))}), title="t", about={})
    assert "cannot read" in text
    assert "<img" not in text


def test_charts_stay_inside_their_frame() -> None:
    for drawn in (
        curve_chart("ROC", LINE),
        curve_chart("PRO", Curve(LINE.x * 0.3, LINE.y)),
        score_histogram([0.2], [0.9, 0.3]),
    ):
        (points,) = re.findall(r'<polyline class="curve" points="([^"]+)"', drawn) or [""]
        for pair in points.split():
            across, down = map(float, pair.split(","))
            assert 46 <= across <= 288
            assert 10 <= down <= 210
        for left, wide in re.findall(r'<rect class="\w+" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn):
            assert 45 <= float(left) <= float(left) + float(wide) <= 289


@pytest.mark.parametrize(
    "scores", [[], [0.5], [0.5, 0.5], [0.0, 1.0], [0.3, 0.31], [-3.0, 40.0], [0.812, 0.8127], [1e-9, 2e-9]]
)
def test_score_axis_holds_every_score(scores: list[float]) -> None:
    ticks = _score_ticks(scores)
    assert 3 <= len(ticks) <= 7
    assert all(ticks[0] - 1e-9 <= score <= ticks[-1] + 1e-9 for score in scores)
    assert score_histogram(scores, scores).count("<rect") >= min(len(scores), 1)


def test_page_is_written_whole_and_a_taken_place_is_refused_first(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "page.html"
    check_page(place, force=False)
    assert list(tmp_path.iterdir()) == []
    write_page(place, "one")
    with pytest.raises(OutputError, match="exists already; add --force"):
        check_page(place, force=False)
    check_page(place, force=True)
    write_page(place, "two")
    assert place.read_text() == "two"
    assert [path.name for path in place.parent.iterdir()] == ["page.html"]
    with pytest.raises(OutputError, match="is a folder"):
        check_page(tmp_path, force=True)
    with pytest.raises(OutputError, match=r"cannot be written \(.*Not a directory\); choose another place"):
        check_page(place / "below.html", force=False)
