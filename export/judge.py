"""Runs what is verified beside what counts as right, and turns the difference into lines with a limit each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from acd_edge.errors import DataError, SourceError
from acd_edge.export.drift import Apart, Change, Drift, Said, Tally, apart_of
from acd_edge.export.references import Encode, Reference, Says, Source
from acd_edge.export.tolerance import LIMIT_OF, TOLERANCES, Limits, Tolerance
from acd_edge.runtime.bundle import Bundle, threshold_of
from acd_edge.runtime.bundle_files import Golden

__all__ = ["Check", "Comparison", "Judge", "Read", "Shown"]

Pixels = npt.NDArray[np.uint8]
TEXT = "text_features"
MARKED = 0.5
"""From which on a pixel counts as marked, for a product without a calibrated threshold."""
USUAL_PICTURES = 24
"""Pictures that the limit of an AUROC was measured on; with fewer it is wider in proportion."""
FREE_PAIRS = 2
"""Pairs of a good and a defective picture that may change places besides: near scores do within any tolerance."""


class Read(NamedTuple):
    """A decoded picture, (S, S, 3), and the truth of its pixels, (S, S), where it is known."""

    pixels: Pixels
    mask: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One of the user's pictures.

    Attributes:
        name: for messages.
        words: what its product is called in the prompts.
        read: decodes it at the bundle's size, by its rule; raises `SourceError` or `DataError`.
        category: that its figures belong to.
        label: 0 good, 1 defective, None not known.
    """

    name: str
    words: str
    read: Callable[[], Read]
    category: str = ""
    label: int | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report.

    Attributes:
        against: what it was compared with: `golden`, `checkpoint`, `pictures` or `text`; `golden-checkpoint` and
            `text-checkpoint` are the bundle's own arrays against the checkpoint.
        output: of the graph, or what follows from the outputs.
        measure: `cosine`, `difference`, `overlap` or `change`.
        value: None where it is not a finite number.
        limit: least of a cosine or an overlap, largest of the others.
        passed: whether it is inside; what is not finite never is.
        worst: the picture, product or category that has the value, where one has.
    """

    against: str
    output: str
    measure: str
    value: float | None
    limit: float
    passed: bool
    worst: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was compared with one reference.

    Attributes:
        against: as in `Check`.
        title: in words: with what, on how many pictures.
        checks: the lines; what the data do not define has none.
        drift: the figures behind them; None for text.
        thresholds: product's words -> from which on a pixel counts as marked.
        failed: picture -> why it could not be read.
    """

    against: str
    title: str
    checks: tuple[Check, ...]
    drift: Drift | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


class Judge:
    """Compares with one reference after the other.

    Args:
        bundle: what is verified, and what it carries.
        limits: what is allowed.
    """

    def __init__(self, bundle: Bundle, limits: Limits) -> None:
        self._bundle, self._limits = bundle, limits

    def golden(self, subject: Says, golden: Golden) -> Comparison:
        """With the samples that the bundle carries, the outputs of the float32 source."""
        tally = self._tally()
        for name, pixels, features, wanted in _samples(golden):
            tally.add(name, subject(pixels, features), wanted, threshold=MARKED)
        title = f"the graph against the {len(golden.image)} golden samples of the bundle, outputs of its float32 source"
        return self._compared("golden", title, tally.drift(), self._limits.golden)

    def source(self, subject: Says, source: Source, golden: Golden) -> list[Comparison]:
        """With the checkpoint: the graph, the golden samples themselves and the text features of the bundle."""
        mine, stored = self._tally(), self._tally()
        for name, pixels, features, kept in _samples(golden):
            wanted = source.reference.says(pixels, features)
            mine.add(name, subject(pixels, features), wanted, threshold=MARKED)
            stored.add(name, kept, wanted, threshold=MARKED)
        title = f"the graph against {source.reference.name}, on the golden pictures"
        kept_title = f"the golden samples of the bundle against {source.reference.name}"
        text_title = f"the text features of the bundle against {source.reference.name}"
        return [
            self._compared("checkpoint", title, mine.drift(), self._limits.golden),
            self._compared("golden-checkpoint", kept_title, stored.drift(), TOLERANCES["fp32"]),
            self._text("text-checkpoint", text_title, source.encode),
        ]

    def text(self, encode: Encode) -> Comparison:
        """The bundle's text encoder with the text features in the bundle."""
        return self._text("text", "the text encoder against the text features of the bundle", encode)

    def pictures(
        self,
        subject: Says,
        reference: Reference,
        features: Mapping[str, npt.NDArray[np.float32]],
        pictures: Sequence[Shown],
        progress: Callable[[int, int], None],
    ) -> Comparison:
        """With a reference, on the user's pictures; one that cannot be read is listed and the others are compared.

        Args:
            subject: what is verified.
            reference: what counts as right.
            features: words of every product among the pictures -> text features (N, 2, D), for both.
            pictures: at least one.
            progress: is told how many are done.

        Raises:
            DataError: none can be read.
        """
        tally, failed = self._tally(), dict[str, str]()
        thresholds = {shown.words: self._threshold(shown.words) for shown in pictures}
        for done, shown in enumerate(pictures, 1):
            try:
                read = shown.read()
            except (DataError, SourceError) as error:
                failed[shown.name] = str(error)
            else:
                known = features[shown.words]
                found, wanted = subject(read.pixels, known), reference.says(read.pixels, known)
                tally.add(shown.name, found, wanted, threshold=thresholds[shown.words])
                if shown.label is not None:
                    tally.add_label(shown.category, found, wanted, shown.label, read.mask)
            progress(done, len(pictures))
        drift = tally.drift()
        if not drift.pictures:
            first = next(iter(failed.values()))
            raise DataError(f"none of the {len(pictures)} pictures could be read; the first: {first}")
        title = f"the graph against {reference.name}, on {drift.pictures} of your pictures"
        allowed = self._limits.peer if reference.same_bundle else self._limits.source
        return self._compared("pictures", title, drift, allowed, thresholds, failed)

    def _tally(self) -> Tally:
        return Tally(self._bundle.manifest.score_mix, self._bundle.manifest.patch)

    def _threshold(self, words: str) -> float:
        names = [name for name, known in self._bundle.manifest.products.items() if known == words]
        found = (threshold_of(self._bundle.calibration, name) for name in names)
        return next((value for value in found if value is not None), MARKED)

    def _compared(
        self,
        against: str,
        title: str,
        drift: Drift,
        tolerance: Tolerance,
        thresholds: Mapping[str, float] = MappingProxyType({}),
        failed: Mapping[str, str] = MappingProxyType({}),
    ) -> Comparison:
        checks = tuple(_lines(against, drift, tolerance))
        return Comparison(
            against=against, title=title, checks=checks, drift=drift, thresholds=thresholds, failed=failed
        )

    def _text(self, against: str, title: str, encode: Encode) -> Comparison:
        stored, products = self._bundle.text_features, self._bundle.manifest.products
        far = apart_of((name, encode(words), stored[name]) for name, words in products.items())
        exact = TOLERANCES["fp32"]  # the encoder computes in float32, whatever the graph does
        checks = (
            _at_least(against, TEXT, "cosine", far.cosine, exact.cosine),
            _at_most(against, TEXT, "difference", far.difference, self._limits.source.text, far.worst),
        )
        return Comparison(against=against, title=title, checks=checks)


def _samples(golden: Golden) -> Iterator[tuple[str, Pixels, npt.NDArray[np.float32], Said]]:
    for index, pixels in enumerate(golden.image):
        wanted = Said(golden.anomaly_map[index], float(golden.class_score[index]), golden.fusion_weights[index])
        yield f"sample {index}", pixels, golden.text_features[index], wanted


def _lines(against: str, drift: Drift, tolerance: Tolerance) -> Iterator[Check]:
    for output, far in drift.outputs.items():
        yield from _of_output(against, output, far, tolerance, getattr(tolerance, LIMIT_OF[output]))
    yield _at_most(against, "score", "difference", drift.score, tolerance.score, drift.worst_score)
    if drift.overlap is not None:
        least = least_overlap(tolerance.edge, drift.marked, drift.marked_pictures)
        yield _at_least(against, "marked pixels", "overlap", drift.overlap, least)
    for output, rows in (("pixel AUROC", drift.pixel_auroc), ("image AUROC", drift.image_auroc)):
        if rows:
            yield _of_auroc(against, output, rows, tolerance)


def least_overlap(edge: float, marked: int, pictures: int) -> float:
    """The overlap of areas whose outline moved by `edge` pixels: small ones lose more of themselves than large ones.

    Args:
        edge: in pixels.
        marked: pixels in all, as if they were one disc of the same size in each picture.
        pictures: that have any.

    >>> round(least_overlap(0.2, 10_000, 1), 4), round(least_overlap(0.2, 400, 1), 4)
    (0.9929, 0.9646)
    """
    outlines = 2 * math.sqrt(math.pi * marked * pictures)
    return max(0.0, 1 - edge * outlines / marked)


def _of_output(against: str, output: str, far: Apart, tolerance: Tolerance, limit: float) -> Iterator[Check]:
    yield _at_least(against, output, "cosine", far.cosine, tolerance.cosine)
    yield _at_most(against, output, "difference", far.difference, limit, far.worst)


def _of_auroc(against: str, output: str, rows: Mapping[str, Change], tolerance: Tolerance) -> Check:
    """The category that changed most beyond what is allowed of it."""
    limits = {name: auroc_limit(tolerance.auroc, row) for name, row in rows.items()}
    changes = {name: abs(row.after - row.before) for name, row in rows.items()}
    worst = max(rows, key=lambda name: changes[name] - limits[name])
    return _at_most(against, output, "change", changes[worst], limits[worst], worst)


def auroc_limit(limit: float, row: Change) -> float:
    """How far an AUROC may change: with few pictures a single one weighs more, and a pair is a large step.

    >>> auroc_limit(0.001, Change(0.9, 0.9, 0.0, 48)), auroc_limit(0.001, Change(0.9, 0.9, 0.01, 12))
    (0.001, 0.022)
    """
    return limit * max(1.0, USUAL_PICTURES / row.pictures) + FREE_PAIRS * row.step


def _at_most(against: str, output: str, measure: str, value: float | None, limit: float, worst: str) -> Check:
    passed = value is not None and value <= limit
    return Check(against=against, output=output, measure=measure, value=value, limit=limit, passed=passed, worst=worst)


def _at_least(against: str, output: str, measure: str, value: float | None, limit: float) -> Check:
    passed = value is not None and value >= limit
    return Check(against=against, output=output, measure=measure, value=value, limit=limit, passed=passed)
