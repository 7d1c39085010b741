"""Quantiles, and whether two series of latencies differ although frames that follow each other resemble each other.

A slow moment slows several frames, so that a series of n frames says less than n independent ones would. The interval
of the ratio is therefore found with whole blocks of frames drawn again, and the test moves whole blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Comparison", "Interval", "Summary", "block_length", "block_rank_test", "compare_medians", "summarise"]

Doubles = npt.NDArray[np.float64]

CONFIDENCE = 0.95
SIGNIFICANT = 0.05
DRAWS = 2000  # of the bootstrap; the ends of a 95 % interval rest on fifty draws each
_CHUNK = 1 << 22  # numbers drawn at once
_MOST_ENUMERATED = 20_000  # ways to part the blocks that are all gone through
_SHUFFLES = 9_999
_NORMAL_FROM = 20  # blocks on each side, from which on the sum of ranks is normal enough
_SEED = 20_260_101
_WIDER = 2  # blocks as long as the rule says still resemble their neighbours: of two alike runs too many differed


@dataclass(frozen=True)
class Summary:
    """Of one row of a table; milliseconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    def to_dict(self) -> dict[str, float]:
        """For JSON, to a tenth of a microsecond."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def summarise(values: npt.ArrayLike) -> Summary:
    """Mean, quantiles (linear between two values, as numpy's default) and maximum of at least one value.

    >>> summarise([1.0, 2.0, 3.0]).p50
    2.0
    """
    array = np.asarray(values, np.float64)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(array, (50, 90, 95, 99)))
    return Summary(float(array.mean()), p50, p90, p95, p99, float(array.max()))


@dataclass(frozen=True)
class Interval:
    """A value and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two series side by side.

    Attributes:
        a, b: medians.
        ratio: of the medians, b over a.
        p: of the rank test, two-sided.
        method: how p was found.
        block: frames in a block.
        least_p: the smallest p that so many blocks can give.
    """

    a: float
    b: float
    ratio: Interval
    p: float
    method: str
    block: int
    least_p: float

    @property
    def is_decidable(self) -> bool:
        """Whether there are blocks enough for any difference to be significant."""
        return self.least_p < SIGNIFICANT

    @property
    def differs(self) -> bool:
        """Whether both say so: the interval leaves out 1, and the test is significant."""
        return not self.ratio.low <= 1 <= self.ratio.high and self.p < SIGNIFICANT

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "differs": self.differs}


def compare_medians(a: npt.ArrayLike, b: npt.ArrayLike) -> Comparison:
    """The ratio of the medians of two series in order of time, with its interval, and the test of blocks.

    Args:
        a, b: above zero, at least one value each.

    The blocks are twice as long as `block_length` says. That length errs least in the variance; a test at a stated
    level wants blocks that hardly know their neighbours. For pairs of 200 alike frames that remember 0.8 (0.95) of
    the one before, 6.5 % (9 %) differ so, and 10 % (24 %) with blocks of the rule's own length.

    >>> compare_medians([1, 2, 3, 4] * 9, [1, 2, 3, 4] * 9).differs
    False
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    length = max(block_length(first), block_length(second))
    length = length if length == 1 else _WIDER * length
    length = max(1, min(length, len(first) // 2, len(second) // 2))
    rng = np.random.default_rng(_SEED)
    logs = np.log(_medians(second, length, rng)) - np.log(_medians(first, length, rng))
    low, high = np.exp(np.percentile(logs, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))))
    medians = float(np.median(first)), float(np.median(second))
    p, method = block_rank_test(first, second, length)
    ratio = Interval(medians[1] / medians[0], float(low), float(high))
    counts = len(first) // length, len(second) // length
    return Comparison(*medians, ratio, p, method, length, 2 / math.comb(sum(counts), counts[0]))


def block_length(series: Doubles) -> int:
    """Frames in a block, for the circular block bootstrap of the median.

    The rule of Politis and White (2004, with the correction of Patton, Politis and White, 2009) on the series of
    "above the median or not", which is what a median's error is made of.
    """
    n = len(series)
    above = (series > np.median(series)).astype(np.float64)
    variance = above.var()
    if n < 9 or variance == 0:
        return 1
    run = max(5, int(math.log10(n)))
    covariances = _autocovariances(above, math.ceil(math.sqrt(n)) + run)
    reach = _reach(np.abs(covariances / variance), run, 2 * math.sqrt(math.log10(n) / n))
    lags = np.arange(1, reach + 1)
    window = np.where(lags / reach <= 0.5, 1.0, 2 * (1 - lags / reach))  # flat, then falling to zero
    spectrum = covariances[0] + 2 * float(window @ covariances[lags])
    slope = 2 * float((window * lags) @ covariances[lags])
    if spectrum <= 0:
        return 1
    length = (2 * slope**2 / (4 / 3 * spectrum**2)) ** (1 / 3) * n ** (1 / 3)
    return max(1, min(math.ceil(length), math.ceil(min(3 * math.sqrt(n), n / 3))))


def _autocovariances(series: Doubles, lags: int) -> Doubles:
    """For lags 0 to `lags`, each divided by the length of the whole series."""
    centred = series - series.mean()
    n = len(series)
    return np.array([centred[lag:] @ centred[: n - lag] / n for lag in range(min(lags, n - 1) + 1)])


def _reach(correlations: Doubles, run: int, small: float) -> int:
    """Twice the lag after which `run` correlations in a row are small; all lags where there is none."""
    for lag in range(len(correlations) - run):
        if (correlations[lag + 1 : lag + 1 + run] < small).all():
            return min(2 * max(lag, 1), len(correlations) - 1)
    return len(correlations) - 1


def _medians(series: Doubles, length: int, rng: np.random.Generator) -> Doubles:
    """Medians of series put together from blocks of the given one, which is closed to a circle; one for each draw."""
    n = len(series)
    blocks = math.ceil(n / length)
    step = max(1, _CHUNK // (blocks * length))
    found = []
    for done in range(0, DRAWS, step):
        starts = rng.integers(0, n, (min(step, DRAWS - done), blocks, 1))
        places = (starts + np.arange(length)) % n
        found.append(np.median(series[places.reshape(len(starts), -1)[:, :n]], axis=1))
    return np.concatenate(found)


def block_rank_test(a: Doubles, b: Doubles, length: int = 1) -> tuple[float, str]:
    """Test by ranks whether one of two series tends to be larger: Mann and Whitney's, with whole blocks exchanged.

    With blocks of one it is their test. The statistic is the rank sum of `a`; under the hypothesis any choice of as
    many blocks out of all could have been `a`. Frames that fill no block are left out at the ends.

    Args:
        a, b: in order of time.
        length: frames in a block.

    Returns:
        The two-sided p, and how it was found: all choices gone through, some drawn, or by the normal distribution
        with the exact variance of the choices (ties are in it; no correction for continuity).
    """
    counts = len(a) // length, len(b) // length
    pooled = np.concatenate([a[: counts[0] * length], b[: counts[1] * length]])
    sums = _mid_ranks(pooled).reshape(-1, length).sum(axis=1)
    k, away = len(sums), float(abs(sums[: counts[0]].sum() - counts[0] * sums.mean()))
    name = "Mann-Whitney" if length == 1 else f"Mann-Whitney over blocks of {length}"
    if math.comb(k, counts[0]) <= _MOST_ENUMERATED:
        drawn = np.array([sums[list(chosen)].sum() for chosen in combinations(range(k), counts[0])])
        return _share(drawn, counts[0] * sums.mean(), away), f"{name}, exact"
    if min(counts) >= _NORMAL_FROM:
        spread = math.sqrt(counts[0] * counts[1] / k * float(sums.var(ddof=1)))
        return (math.erfc(away / spread / math.sqrt(2)) if spread else 1.0), f"{name}, normal"
    drawn = np.concatenate(list(_shuffled_sums(sums, counts[0])))
    far = int((np.abs(drawn - counts[0] * sums.mean()) >= away * (1 - 1e-12)).sum())
    return (far + 1) / (len(drawn) + 1), f"{name}, {_SHUFFLES:,} permutations"


def _share(drawn: Doubles, middle: float, away: float) -> float:
    return float((np.abs(drawn - middle) >= away * (1 - 1e-12)).mean())


def _shuffled_sums(sums: Doubles, count: int) -> Iterator[Doubles]:
    rng = np.random.default_rng(_SEED)
    step = max(1, _CHUNK // len(sums))
    for done in range(0, _SHUFFLES, step):
        rows = np.tile(sums, (min(step, _SHUFFLES - done), 1))
        yield rng.permuted(rows, axis=1)[:, :count].sum(axis=1)


def _mid_ranks(values: Doubles) -> Doubles:
    """Ranks from 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: Doubles = (last - (counts - 1) / 2)[places.reshape(-1)]
    return ranks
