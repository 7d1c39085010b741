"""AUROC and average precision, exact, ties handled as scikit-learn handles them, for very many pixels too.

Both follow from how many normal values lie above each anomalous one, so the two are sorted apart: neither an index of
all pixels nor a joint sort is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from acd_edge.errors import DataError, ShapeError

Floats = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.int64]

EXACT_VALUES = 2**28
"""Values that a `Pool` keeps, 4 bytes each: one gigabyte, and twice that while sorting."""
BINS = 2**16


def auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Chance that an anomalous value is above a normal one, ties counting half; None where either is absent.

    Args:
        scores: any shape.
        labels: the same shape, nonzero where anomalous.

    >>> auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    pool = Pool()
    pool.add(np.asarray(scores), np.asarray(labels))
    return pool.auroc()


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Precision at each threshold, weighted by the recall it adds; None without anomalous or without normal values.

    >>> round(average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
    0.8333
    """
    pool = Pool()
    pool.add(np.asarray(scores), np.asarray(labels))
    return pool.average_precision()


class Pool:
    """Scores and labels gathered piece by piece.

    Values are kept as they come up to `limit`. Beyond it they are counted in 65,536 equal bins over [0, 1], where two
    values of one bin are a tie: `auroc_bound` says how far that can be off, and is 0 while exact.
    """

    def __init__(self, limit: int = EXACT_VALUES) -> None:
        self._limit = limit
        self._kept: tuple[list[Floats], list[Floats]] = ([], [])
        self._bins: Counts | None = None
        self._counts = [0, 0]
        self._steps: tuple[Counts, Counts, Counts] | None = None

    def add(self, scores: Floats, labels: npt.NDArray[Any]) -> None:
        """Add scores and their labels (nonzero: anomalous), of one shape.

        Raises:
            ShapeError: the shapes differ.
            DataError: a score is not a finite number.
        """
        if scores.shape != labels.shape:
            raise ShapeError(f"scores {scores.shape} and labels {labels.shape} differ in shape")
        if not np.isfinite(scores).all():
            raise DataError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are not finite numbers")
        self._steps = None
        anomalous = labels.astype(bool)
        for side, values in enumerate((scores[~anomalous], scores[anomalous])):
            self._counts[side] += values.size
            if self._bins is None:
                self._kept[side].append(values)
            else:
                self._bins[side] += _histogram(values)
        if self._bins is None and sum(self._counts) > self._limit:
            self._bins = np.stack([sum(map(_histogram, kept), np.zeros(BINS, np.int64)) for kept in self._kept])
            self._kept = ([], [])

    @property
    def is_exact(self) -> bool:
        """Whether every value is still known."""
        return self._bins is None

    def auroc(self) -> float | None:
        """See the function `auroc`."""
        if 0 in self._counts:
            return None
        here, above, level = self._positive_steps()
        normal, anomalous = self._counts
        below_twice = here * (2 * (normal - above - level) + level)
        return float(below_twice.sum()) / (2 * normal * anomalous)

    def auroc_bound(self) -> float:
        """Largest possible error of `auroc` from binning: half the share of pairs that fell into one bin."""
        if self._bins is None or 0 in self._counts:
            return 0.0
        tied = (self._bins[0].astype(np.float64) * self._bins[1]).sum()
        return float(tied) / (2 * self._counts[0] * self._counts[1])

    def average_precision(self) -> float | None:
        """See the function `average_precision`."""
        if 0 in self._counts:
            return None
        here, above, level = self._positive_steps()
        hits = np.cumsum(here)
        precision = hits / (hits + above + level)
        return float((precision * here).sum()) / self._counts[1]

    def _positive_steps(self) -> tuple[Counts, Counts, Counts]:
        """For each distinct anomalous value from the top: how many have it, normal values above it, and equal to it."""
        if self._steps is None:
            self._steps = self._exact_steps() if self._bins is None else _binned_steps(self._bins)
        return self._steps

    def _exact_steps(self) -> tuple[Counts, Counts, Counts]:
        for side, kept in enumerate(self._kept):
            joined = np.concatenate(kept)
            kept[:] = [joined]  # the pieces go before the sort
            joined.sort()
            assert joined.size == self._counts[side]
        (normal,), (anomalous,) = self._kept
        values, here = np.unique(anomalous, return_counts=True)
        values, here = values[::-1], here[::-1].astype(np.int64)
        first = np.searchsorted(normal, values, side="left")
        last = np.searchsorted(normal, values, side="right")
        return here, (normal.size - last).astype(np.int64), (last - first).astype(np.int64)


def _histogram(values: Floats) -> Counts:
    if values.size and (values.min() < 0 or values.max() > 1):
        raise DataError(f"so many scores are counted in bins over 0 to 1, got {values.min():.6g} to {values.max():.6g}")
    bins = np.minimum((values.astype(np.float64) * BINS).astype(np.int64), BINS - 1)
    return np.bincount(bins, minlength=BINS).astype(np.int64)


def _binned_steps(bins: Counts) -> tuple[Counts, Counts, Counts]:
    normal, anomalous = bins[:, ::-1]
    used = np.flatnonzero(anomalous)
    above = np.cumsum(normal) - normal
    return anomalous[used], above[used], normal[used]
