"""How far one computation of a graph is from another, gathered picture by picture. numpy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from acd_edge.errors import ShapeError
from acd_edge.metrics import Pool, auroc

__all__ = ["OUTPUTS", "Apart", "Change", "Drift", "Said", "Tally", "apart_of", "score_of"]

Floats = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
OUTPUTS = ("anomaly_map", "class_score", "fusion_weights")


class Said(NamedTuple):
    """What a graph said of one picture: (S, S), one number, (N, 2, N)."""

    anomaly_map: Floats
    class_score: float
    fusion_weights: Floats

    @classmethod
    def of(cls, found: Mapping[str, Floats]) -> Said:
        """From a backend's outputs for a batch of one."""
        return cls(found["anomaly_map"][0], float(found["class_score"][0]), found["fusion_weights"][0])


def score_of(said: Said, mix: tuple[float, float]) -> float:
    """The detector's mix, a * class_score + b * max(anomaly_map); NaN where either is.

    >>> score_of(Said(np.array([[0.25, 0.5]]), 1.0, np.zeros(1)), (0.5, 0.5))
    0.75
    """
    return mix[0] * said.class_score + mix[1] * float(said.anomaly_map.max())


@dataclass(frozen=True, kw_only=True)
class Apart:
    """How far one output is from the reference.

    Attributes:
        cosine: of all pictures' values as one vector; 1 where both are zero, None where a value is not finite.
        difference: the largest between two values; None where a value is not finite.
        worst: the picture that has it, or the first that is not finite.
    """

    cosine: float | None
    difference: float | None
    worst: str


@dataclass(frozen=True)
class Change:
    """An AUROC of the reference and of what is verified.

    Attributes:
        before, after: of the reference, and of what is verified.
        step: the least by which it can change: a pair's share.
        pictures: that it was measured on.
    """

    before: float
    after: float
    step: float
    pictures: int


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What a comparison over pictures found.

    Attributes:
        pictures: how many.
        outputs: name of the output -> how far it is.
        score: the largest change of a score; None where one is not finite.
        worst_score: the picture that has it.
        overlap: of the pixels that either map has at or above its threshold, the share that both have; over all
            pictures at once. None where there are fewer than a patch of them.
        marked: pixels that either map has there; marked_pictures: those with any.
        pixel_auroc, image_auroc: category -> its change; without those that have no figure.
        labelled: whether there were labels at all.
    """

    pictures: int
    outputs: Mapping[str, Apart]
    score: float | None
    worst_score: str
    overlap: float | None
    marked: int
    marked_pictures: int
    pixel_auroc: Mapping[str, Change] = field(default_factory=dict)
    image_auroc: Mapping[str, Change] = field(default_factory=dict)
    labelled: bool = False


class Tally:
    """Gathers a comparison.

    Args:
        mix: (a, b) of the score.
        patch: side of a patch in pixels; an overlap of less than one patch says nothing.
    """

    def __init__(self, mix: tuple[float, float], patch: int) -> None:
        self._mix, self._patch = mix, patch
        self._outputs = {name: _Vector() for name in OUTPUTS}
        self._score = _Vector()
        self._both = self._either = self._pictures = self._marked_pictures = 0
        self._categories: dict[str, _Labelled] = {}

    def add(self, name: str, found: Said, wanted: Said, *, threshold: float = 0.5) -> None:
        """Count a picture.

        Raises:
            ShapeError: the two do not have the same shapes.
        """
        for output, vector in self._outputs.items():
            vector.add(name, getattr(found, output), getattr(wanted, output), output)
        self._score.add(name, score_of(found, self._mix), score_of(wanted, self._mix), "score")
        mine, theirs = found.anomaly_map >= threshold, wanted.anomaly_map >= threshold
        either = int((mine | theirs).sum())
        self._both += int((mine & theirs).sum())
        self._either += either
        self._marked_pictures += either > 0
        self._pictures += 1

    def add_label(self, category: str, found: Said, wanted: Said, label: int, mask: Bytes | None) -> None:
        """Count its truth: 0 good or 1 defective, and the mask (S, S) where every pixel's label is known."""
        sides = (wanted, found)
        if not all(np.isfinite(score_of(said, self._mix)) and np.isfinite(said.anomaly_map).all() for said in sides):
            return  # the picture fails by itself; an AUROC of NaN has no meaning
        self._categories.setdefault(category, _Labelled()).add(sides, self._mix, label, mask)

    def drift(self) -> Drift:
        """What was found so far."""
        pixels = {name: row.pixels() for name, row in self._categories.items()}
        images = {name: row.images() for name, row in self._categories.items()}
        return Drift(
            pictures=self._pictures,
            outputs={name: vector.apart() for name, vector in self._outputs.items()},
            score=self._score.apart().difference,
            worst_score=self._score.apart().worst,
            overlap=self._both / self._either if self._either >= self._patch**2 else None,
            marked=self._either,
            marked_pictures=self._marked_pictures,
            pixel_auroc={name: pair for name, pair in pixels.items() if pair is not None},
            image_auroc={name: pair for name, pair in images.items() if pair is not None},
            labelled=bool(self._categories),
        )


def apart_of(pairs: Iterable[tuple[str, Floats, Floats]]) -> Apart:
    """How far arrays are from those of the reference: (name, found, wanted) each.

    >>> apart_of([("a", np.ones(2), np.ones(2)), ("b", np.ones(2), np.array([1, 0.5]))]).worst
    'b'
    """
    vector = _Vector()
    for name, found, wanted in pairs:
        vector.add(name, found, wanted, name)
    return vector.apart()


class _Vector:
    """Values of one output, as one long vector that is not kept."""

    def __init__(self) -> None:
        self._product = self._mine = self._theirs = 0.0
        self._difference = -1.0
        self._worst = self._odd = ""

    def add(self, name: str, found: Floats | float, wanted: Floats | float, output: str) -> None:
        mine, theirs = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
        if mine.shape != theirs.shape:
            raise ShapeError(f"{output}: the reference has shape {theirs.shape}, the graph gave {mine.shape}")
        with np.errstate(invalid="ignore"):  # infinity less infinity is told below
            difference = float(np.abs(mine - theirs).max(initial=0.0))
        if not math.isfinite(difference):
            self._odd = self._odd or name
            return
        if difference > self._difference:
            self._difference, self._worst = difference, name
        self._product += float((mine * theirs).sum())
        self._mine += float((mine * mine).sum())
        self._theirs += float((theirs * theirs).sum())

    def apart(self) -> Apart:
        if self._odd:
            return Apart(cosine=None, difference=None, worst=self._odd)
        lengths = math.sqrt(self._mine * self._theirs)
        same = 1.0 if self._mine == self._theirs else 0.0  # both zero, or one of them
        cosine = min(1.0, self._product / lengths) if lengths else same
        return Apart(cosine=cosine, difference=max(self._difference, 0.0), worst=self._worst)


class _Labelled:
    """Scores and pixels of one category, of the reference and of what is verified."""

    def __init__(self) -> None:
        self._pixels = (Pool(), Pool())
        self._scores: tuple[list[float], list[float]] = ([], [])
        self._labels: list[int] = []

    def add(self, sides: tuple[Said, Said], mix: tuple[float, float], label: int, mask: Bytes | None) -> None:
        self._labels.append(label)
        for said, pool, scores in zip(sides, self._pixels, self._scores, strict=True):
            scores.append(score_of(said, mix))
            if mask is not None:
                pool.add(np.asarray(said.anomaly_map, np.float32), mask)

    def pixels(self) -> Change | None:
        before, after = (pool.steps() for pool in self._pixels)
        if before is None or after is None:
            return None
        return Change(
            before.auroc().value, after.auroc().value, 1 / (before.normal * before.anomalous), len(self._labels)
        )

    def images(self) -> Change | None:
        before, after = (auroc(scores, self._labels) for scores in self._scores)
        if before is None or after is None:
            return None
        pictures, defective = len(self._labels), sum(self._labels)
        return Change(before, after, 1 / (defective * (pictures - defective)), pictures)
