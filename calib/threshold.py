"""A decision threshold from the scores of good parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from acd_edge.errors import ConfigError, DataError
from acd_edge.runtime.bundle_files import CALIBRATION_SCHEMA


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The threshold of one product, and what may be said of it.

    Attributes:
        threshold: a score of at least this is anomalous.
        false_alarm_rate: what was asked for, the share of good parts that may be called anomalous.
        expected_false_alarm_rate: what the sample supports: the chance that the next good part is called anomalous.
        good: number of good parts.
        low, median, high: of their scores.
    """

    threshold: float
    false_alarm_rate: float
    expected_false_alarm_rate: float
    good: int
    low: float
    median: float
    high: float

    @property
    def supported(self) -> bool:
        """Whether the sample is large enough for the rate that was asked for."""
        return self.expected_false_alarm_rate <= self.false_alarm_rate

    @property
    def needed(self) -> int:
        """Good parts that the rate needs at least."""
        return needed_parts(self.false_alarm_rate)


def needed_parts(false_alarm_rate: float) -> int:
    """Good parts without which no order statistic promises the rate: 1 / rate - 1, rounded up.

    >>> needed_parts(0.01), needed_parts(0.05)
    (99, 19)
    """
    return max(1, math.ceil(1 / false_alarm_rate - 1 - 1e-9))


def calibrate(scores: Sequence[float], *, false_alarm_rate: float = 0.01) -> Calibration:
    """Choose a threshold from the scores of good parts.

    The n sorted scores and the next good part's are exchangeable, so that one falls above the k-th smallest with
    probability (n + 1 - k) / (n + 1). The smallest k whose probability is at most the rate is taken, and the threshold
    is the next number above that score. When n is too small even for k = n, the largest score is taken and
    `expected_false_alarm_rate`, 1 / (n + 1), says what that is worth.

    Args:
        scores: of good parts, at least two.
        false_alarm_rate: above 0 and below 1.

    Raises:
        ConfigError: the rate is no share.
        DataError: fewer than two scores, or one that is not finite.

    >>> found = calibrate([0.1, 0.2, 0.3, 0.4], false_alarm_rate=0.4)  # k = 3: one in five exceeds 0.3 ... 2 / 5
    >>> 0.3 < found.threshold < 0.3000001, found.expected_false_alarm_rate
    (True, 0.4)
    """
    if not 0 < false_alarm_rate < 1:
        raise ConfigError(f"the false-alarm rate is above 0 and below 1, got {false_alarm_rate}")
    if len(scores) < 2:
        raise DataError(f"a threshold needs at least two good parts, got {len(scores)}")
    ordered = np.sort(np.asarray(scores, np.float64))
    if not np.isfinite(ordered).all():
        raise DataError("a score of the good parts is not finite; the bundle's precision does not suit this machine")
    count = len(ordered)
    rank = max(1, min(count, math.ceil((1 - false_alarm_rate) * (count + 1) - 1e-9)))
    return Calibration(
        threshold=float(np.nextafter(ordered[rank - 1], np.inf)),
        false_alarm_rate=false_alarm_rate,
        expected_false_alarm_rate=(count + 1 - rank) / (count + 1),
        good=count,
        low=float(ordered[0]),
        median=float(np.median(ordered)),
        high=float(ordered[-1]),
    )


def with_product(calibration: dict[str, Any], product: str, found: Calibration) -> dict[str, Any]:
    """The content of `calibration.json` with one product's threshold new or replaced."""
    return {"schema": CALIBRATION_SCHEMA, "products": {**calibration.get("products", {}), product: asdict(found)}}
