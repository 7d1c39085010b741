"""What the figures need to know of scores and labels, and the figures, each with how far it can be off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

FPR_LIMIT = 0.3
"""Where AUPRO ends: beyond it a segmentation says nothing (Bergmann et al., MVTec-AD)."""
CURVE_POINTS = 240


class Measure(NamedTuple):
    """A figure, and how far it can be from that of the values themselves: 0 where each value is known."""

    value: float
    within: float


class Curve(NamedTuple):
    """Points of a curve, few enough to draw: x ascending, both float64 (M,)."""

    x: Doubles
    y: Doubles


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The distinct anomalous scores from the highest down; in bins, the bins that hold one.

    Attributes:
        here: anomalous values at each step, at least one, (K,).
        above: normal values above it, (K,).
        level: normal values at it, (K,).
        normal: normal values in all.
        overlap: what the step adds to the mean overlap of the regions, (K,), 1 in all; None without regions.
        mixed: whether the values at a step may differ among themselves, (K,); None where they never do.
    """

    here: Counts
    above: Counts
    level: Counts
    normal: int
    overlap: Doubles | None = None
    mixed: npt.NDArray[np.bool_] | None = None

    @property
    def anomalous(self) -> int:
        """Anomalous values in all."""
        return int(self.here.sum())

    def auroc(self) -> Measure:
        """See `acd_edge.metrics.auroc`; off by at most half the share of pairs at one step."""
        below_twice = self.here * (2 * (self.normal - self.above - self.level) + self.level)
        twice_all = 2 * self.normal * self.anomalous
        tied = float((self.here * self.level * self._may_differ()).sum()) if self.mixed is not None else 0.0
        return Measure(float(below_twice.sum()) / twice_all, tied / twice_all)

    def average_precision(self) -> Measure:
        """See `acd_edge.metrics.average_precision`.

        Of p anomalous and n normal values at one step, after P and N above it, the i-th anomalous one has a precision
        of at least (P + i) / (P + i + N + n), were all n before it, and at most (P + p) / (P + p + N).
        """
        hits = np.cumsum(self.here)
        seen = hits + self.above + self.level
        value = float((hits / seen * self.here).sum()) / self.anomalous
        if self.mixed is None:
            return Measure(value, 0.0)
        mixed = self.mixed
        p, total, misses = self.here[mixed], hits[mixed], (self.above + self.level)[mixed]
        taken = hits[mixed] / seen[mixed] * p
        highest = p * total / (total + self.above[mixed])
        # sum of 1 / (q + i) for i = 1 .. p is at most log((q + p + 1/2) / (q + 1/2)), since 1 / x is convex
        lowest = p - misses * np.log1p(p / (total - p + misses + 0.5))
        low, high = float((taken - lowest).sum()), float((highest - taken).sum())
        return Measure(value, max(low, high, 0.0) / self.anomalous)

    def f1_max(self) -> Measure:
        """See `acd_edge.metrics.f1_max`; the edges of bins are thresholds too, so the true one is never lower."""
        hits, anomalous = np.cumsum(self.here), self.anomalous
        value = float((2 * hits / (hits + self.above + self.level + anomalous)).max())
        if self.mixed is None:
            return Measure(value, 0.0)
        spared = self.above + np.where(self.mixed, 0, self.level)
        return Measure(value, float((2 * hits / (hits + spared + anomalous)).max()) - value)

    def aupro(self, fpr_limit: float = FPR_LIMIT) -> Measure:
        """See `acd_edge.metrics.aupro`; inside a step the curve is taken straight, and may be any that rises."""
        overlap = self._overlap()
        after = np.cumsum(overlap)
        before = after - overlap
        left = np.minimum(self.above / self.normal, fpr_limit)
        rate = (self.above + self.level) / self.normal
        right = np.minimum(rate, fpr_limit)
        came_from = np.concatenate([[0.0], right[:-1]])
        wide, whole = right - left, self.level / self.normal
        share = np.divide(wide, whole, out=np.zeros_like(wide), where=whole > 0)  # of the step, left of the limit
        flat = float((before * (left - came_from)).sum()) + (fpr_limit - float(right[-1]))
        sloped = wide * (before + overlap * share / 2)
        value = (flat + float(sloped.sum())) / fpr_limit
        if self.mixed is None:
            return Measure(value, 0.0)
        may = self._may_differ()
        low, high = ((sloped - wide * before) * may).sum(), ((wide * after - sloped) * may).sum()
        return Measure(value, float(max(low, high)) / fpr_limit)

    def roc(self) -> Curve:
        """True positive rate over false positive rate, from (0, 0) to (1, 1)."""
        return self._rising(self.here / self.anomalous, 1.0)

    def pro(self, fpr_limit: float = FPR_LIMIT) -> Curve:
        """Mean overlap of the regions over the false positive rate, up to the limit."""
        return self._rising(self._overlap(), fpr_limit)

    def precision_recall(self) -> Curve:
        """Precision over recall, at each step."""
        hits = np.cumsum(self.here)
        precision = hits / (hits + self.above + self.level)
        recall = hits / self.anomalous
        return _thinned(np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision]))

    def _rising(self, gains: Doubles, limit: float) -> Curve:
        after = np.cumsum(gains)
        rates = np.stack([self.above, self.above + self.level], axis=1).ravel() / self.normal
        heights = np.stack([after - gains, after], axis=1).ravel()
        x, y = np.concatenate([[0.0], rates, [1.0]]), np.concatenate([[0.0], heights, [1.0]])
        inside = int(np.searchsorted(x, limit, side="right"))
        if inside == x.size:
            return _thinned(x, y)
        x0, x1, y0, y1 = x[inside - 1], x[inside], y[inside - 1], y[inside]
        cut = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        return _thinned(np.append(x[:inside], limit), np.append(y[:inside], cut))

    def _overlap(self) -> Doubles:
        assert self.overlap is not None, "the pool was given no regions"
        return self.overlap

    def _may_differ(self) -> npt.NDArray[np.bool_]:
        return np.ones(self.here.shape, bool) if self.mixed is None else self.mixed


def _thinned(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Curve:
    """Half of the points even along x, half along the curve's length, and both ends."""
    if x.size <= CURVE_POINTS:
        return Curve(x, y)
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    half = CURVE_POINTS // 2
    along_x = np.searchsorted(x, np.linspace(x[0], x[-1], half))
    along_curve = np.searchsorted(length, np.linspace(0, length[-1], half))
    chosen = np.unique(np.clip(np.concatenate([along_x, along_curve, [0, x.size - 1]]), 0, x.size - 1))
    return Curve(x[chosen], y[chosen])
