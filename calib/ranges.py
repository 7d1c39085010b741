"""The range of a tensor that becomes 127 steps of INT8, from a stream of its values.

Symmetric: only magnitudes count. A stream is kept as a histogram of fixed size, so that memory does not grow with the
pictures; where a larger value comes, the histogram's end doubles and neighbouring bins join, which loses nothing but
resolution.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from acd_edge.errors import ConfigError, DataError

__all__ = ["BINS", "DEFAULT_METHOD", "DEFAULT_PERCENTILE", "METHODS", "Magnitudes", "Method", "entropy_range"]

Method = Literal["percentile", "minmax", "entropy"]
METHODS: tuple[Method, ...] = ("percentile", "minmax", "entropy")
DEFAULT_METHOD: Method = "percentile"
DEFAULT_PERCENTILE = 99.99999  # vision transformers need what comes once in a million values (docs/precision.md)
BINS = 8192  # at least half of them are below the largest value
LEVELS = 128  # magnitudes that INT8 tells apart, 0 among them
STRIDE = BINS // 256  # ranges that the entropy method tries lie so many bins apart


class Magnitudes:
    """How often which magnitude came.

    Attributes:
        counts: (BINS,) int64, equal steps from 0 to `top`.
        top: end of the last bin.
        largest: the largest magnitude.

    >>> seen = Magnitudes()
    >>> seen.add(np.array([-3.0, 1.0, 2.0]))
    >>> seen.range("minmax")
    3.0
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.top = 0.0
        self.largest = 0.0

    @property
    def total(self) -> int:
        """Values counted."""
        return int(self.counts.sum())

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count values of any shape.

        Raises:
            DataError: one is NaN or infinite.
        """
        sizes = np.abs(values.reshape(-1)).astype(np.float32, copy=False)
        if not sizes.size:
            return
        largest = float(sizes.max())
        if not np.isfinite(largest):
            raise DataError("a value is NaN or infinite, so there is no range to calibrate; is the model whole?")
        self.largest = max(self.largest, largest)
        self._reach(largest)
        if self.top == 0.0:  # zeros only, so far
            self.counts[0] += sizes.size
            return
        # divided first: the reciprocal of a subnormal end is infinite
        bins = np.minimum(sizes / np.float32(self.top) * np.float32(BINS), np.float32(BINS - 1)).astype(np.int32)
        self.counts += np.bincount(bins, minlength=BINS)

    def range(self, method: Method = DEFAULT_METHOD, percentile: float = DEFAULT_PERCENTILE) -> float:
        """The magnitude that is to become 127; above it values saturate.

        Args:
            method: `minmax` the largest; `percentile` what `percentile` per cent of the values do not exceed, to the
                end of its bin; `entropy` see `entropy_range`.
            percentile: in (0, 100]; of that method only.

        Raises:
            ConfigError: an unknown method, or a percentile that is none.
            DataError: nothing was counted.
        """
        if method not in METHODS:
            raise ConfigError(f"unknown calibration method {method!r}; known are {', '.join(METHODS)}")
        if not 0 < percentile <= 100:
            raise ConfigError(f"a percentile is above 0 and at most 100, got {percentile}")
        if not self.total:
            raise DataError("nothing was calibrated on: there was no picture")
        if method == "minmax":
            return self.largest
        if method == "entropy":
            return min(entropy_range(self.counts) * self.top / BINS, self.largest)
        last = int(np.searchsorted(np.cumsum(self.counts), self.total * (percentile / 100)))
        return min((last + 1) * self.top / BINS, self.largest)

    def _reach(self, largest: float) -> None:
        """Double the end until `largest` lies below it, joining bins in pairs."""
        if largest > 0 and self.top == 0.0:
            self.top = largest
        while self.top < largest:
            joined = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([joined, np.zeros(BINS // 2, np.int64)])
            self.top *= 2


def entropy_range(counts: npt.NDArray[np.int64]) -> int:
    """How many bins to keep so that INT8's few levels tell most of what the histogram tells.

    For each end, the distribution P of the kept bins, with everything beyond in the last, is compared with Q: the kept
    bins pooled to 128 levels and spread again over those that are not empty. The end with the smallest Kullback-Leibler
    divergence of P from Q wins (S. Migacz, "8-bit Inference with TensorRT", GTC 2017, slides 38-40).
    """
    ends = range(LEVELS, len(counts) + 1, STRIDE)
    return min(ends, key=lambda end: (_divergence(counts, end), end))


def _divergence(counts: npt.NDArray[np.int64], end: int) -> float:
    kept = counts[:end].astype(np.float64)
    levels = np.arange(end) * LEVELS // end
    filled = kept > 0
    pooled = np.bincount(levels, kept, LEVELS)
    share = np.maximum(np.bincount(levels, filled, LEVELS), 1)
    q = np.where(filled, (pooled / share)[levels], 0.0)
    p = kept
    p[-1] += counts[end:].sum()
    if not q.any():
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    both = p > 0
    return float(np.sum(p[both] * np.log(p[both] / np.maximum(q[both], 1e-9))))
