"""What an evaluation found: figures for people and programs, and what a page shows beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from acd_edge.data.samples import Sample
from acd_edge.metrics import Curve

At = Literal["model", "native"]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Areas and maxima in 0 to 1; None where the data do not give one (docs/evaluation.md defines each).

    Image figures need good and defective pictures; pixel figures need masks; the ceiling is measured when it is asked
    for.
    """

    pixel_auroc: float | None
    pixel_ap: float | None
    pixel_aupro: float | None
    pixel_f1_max: float | None
    image_auroc: float | None
    image_ap: float | None
    image_f1_max: float | None
    pixel_ap_ceiling: float | None = None


@dataclass(frozen=True)
class Failure:
    """A picture that could not be measured, and why."""

    picture: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A picture for the gallery.

    Attributes:
        sample: where it lies.
        score: what the model gave it.
        ap: average precision of its own pixels; None without a mask.
        levels: its map at the model's size, in 255ths, which is what drawing tells apart.
    """

    sample: Sample
    score: float
    ap: float | None
    levels: Bytes


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a page shows of a category.

    Attributes:
        pixel_curves, image_curves: `ROC`, `PR` and, of pixels, `PRO`; empty where there is no such figure.
        good_scores, defective_scores: of the pictures.
        best, worst: defective pictures, by the AP of their pixels; by score where there are no masks.
        alarms: the good pictures with the highest scores.
    """

    pixel_curves: Mapping[str, Curve]
    image_curves: Mapping[str, Curve]
    good_scores: tuple[float, ...]
    defective_scores: tuple[float, ...]
    best: tuple[Exhibit, ...]
    worst: tuple[Exhibit, ...]
    alarms: tuple[Exhibit, ...]


@dataclass(frozen=True, kw_only=True)
class CategoryReport:
    """Figures of one category.

    Attributes:
        words: what the prompts called the product.
        good, defective: pictures that were measured.
        regions: connected defects in their masks.
        vanished: masks that lost their last pixel when they were brought to the model's size.
        figures: see `Figures`.
        bounds: pixel figure -> how far it can be off; 0 unless there were too many pixels to keep each.
        not_zero_shot: why the figures do not count as zero-shot; None where nothing is known against it.
        evidence: for a page, where it was asked for.
    """

    words: str
    good: int
    defective: int
    regions: int
    vanished: int
    figures: Figures
    bounds: Mapping[str, float]
    not_zero_shot: str | None = None
    evidence: Evidence | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the figures stand beside the counts, the evidence is left out."""
        return {
            **asdict(self.figures),
            "words": self.words,
            "good": self.good,
            "defective": self.defective,
            "regions": self.regions,
            "vanished": self.vanished,
            "bounds": dict(self.bounds),
            "not_zero_shot": self.not_zero_shot,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `evaluate` found: the categories by name, and the mean over those that have a figure.

    Attributes:
        size: S.
        at: where pixels were compared, at S x S (`model`) or at each picture's own size (`native`).
        patch: side of the patches of the ceiling, in pixels; None where it was not asked for.
        failed: what could not be measured.
    """

    size: int
    at: At
    patch: int | None
    categories: Mapping[str, CategoryReport]
    mean: Figures
    failed: tuple[Failure, ...] = field(default=())

    @property
    def bounds(self) -> dict[str, float]:
        """How far each figure of any category can be off, at most."""
        rows = [row.bounds for row in self.categories.values()]
        return {name: max(row.get(name, 0.0) for row in rows) for name in (rows[0] if rows else ())}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "size": self.size,
            "at": self.at,
            "patch": self.patch,
            "categories": {name: row.to_dict() for name, row in self.categories.items()},
            "mean": asdict(self.mean),
            "bounds": self.bounds,
            "failed": [asdict(failure) for failure in self.failed],
        }


def mean_of(rows: Iterable[Figures]) -> Figures:
    """Mean of each figure over the rows that have it."""
    given = list(rows)
    means: dict[str, float | None] = {}
    for each in fields(Figures):
        values = [value for row in given if (value := getattr(row, each.name)) is not None]
        means[each.name] = sum(values) / len(values) if values else None
    return Figures(**means)
