"""A long run as a series of windows, and what drifted from its first quarter to its last."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from acd_edge.bench.facts import current_rss_mb
from acd_edge.bench.measure import Measurement
from acd_edge.bench.statistics import compare_medians
from acd_edge.bench.stopwatch import FrameTimes
from acd_edge.device.clocks import clocks, temperatures, throttled_between, throttling
from acd_edge.device.power import Sample, mean_watts
from acd_edge.device.sysfs import ROOT

__all__ = ["Soak", "drift", "soak_interval"]

_LEAST_INTERVAL = 5.0  # seconds; each window is written to the disk
_MOST_WINDOWS = 720
_FEWEST = 8  # frames in a quarter, below which nothing is said of drift


def soak_interval(minutes: float) -> float:
    """Seconds of a window: at least 5, and so long that there are at most 720 of them.

    >>> soak_interval(10), soak_interval(24 * 60)
    (5.0, 120.0)
    """
    return max(_LEAST_INTERVAL, minutes * 60 / _MOST_WINDOWS)


@final
class Soak:
    """Gathers windows; give its `each` to `measure`.

    Args:
        interval_s: length of a window.
        write: called with all windows so far at the end of each, so that an interruption leaves them.
        watts: samples of a power meter that go on growing.
        root: folder that holds `sys` and `proc`; another one in tests.

    Attributes:
        windows: rows of the series, for JSON.
        interval_s: see above.
    """

    def __init__(
        self,
        interval_s: float,
        *,
        write: Callable[[Measurement], object],
        watts: Sequence[Sample] = (),
        root: Path = ROOT,
    ) -> None:
        self.windows: list[dict[str, Any]] = []
        self.interval_s, self._write, self._watts, self._root = interval_s, write, watts, root
        self._throttling = throttling(root)
        self._seen_watts = 0
        self._since: float | None = None
        self._latencies: array[float] = array("d")

    def each(self, measured: Measurement, times: FrameTimes) -> None:
        """Count a frame; at the end of a window read the machine and write."""
        if self._since is None:
            self._since = measured.began
        self._latencies.append(times.end_to_end)
        if measured.ended - self._since >= self.interval_s:
            self._close(measured)
            self._write(measured)

    def finish(self, measured: Measurement) -> None:
        """Close the last window, which may be shorter."""
        if self._latencies:
            self._close(measured)

    def _close(self, measured: Measurement) -> None:
        assert self._since is not None
        now, seconds = throttling(self._root), measured.ended - self._since
        p50, p95 = np.percentile(np.asarray(self._latencies), (50, 95))
        self.windows.append(
            {
                "from_s": round(self._since - measured.began, 2),
                "seconds": round(seconds, 2),
                "frames": len(self._latencies),
                "p50_ms": round(float(p50), 3),
                "p95_ms": round(float(p95), 3),
                "max_ms": round(max(self._latencies), 3),
                "temperatures_c": temperatures(self._root),
                "clocks_mhz": {clock.name: round(clock.now / 1e6) for clock in clocks(self._root)},
                "watts": self._new_watts(),
                "throttled": throttled_between(self._throttling, now),
                "rss_mb": current_rss_mb(self._root),
            }
        )
        self._throttling, self._since, self._latencies = now, measured.ended, array("d")

    def _new_watts(self) -> float | None:
        fresh = self._watts[max(0, self._seen_watts - 1) :]
        self._seen_watts = len(self._watts)
        watts = mean_watts(fresh)
        return None if watts is None else round(watts, 3)


def drift(latencies: Sequence[float], windows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The last quarter against the first: latency with its interval, the hottest sensor, how often it was throttled.

    Args:
        latencies: in order of time, evenly kept.
        windows: of the soak.

    Returns:
        For JSON; None where a quarter has fewer than eight frames.
    """
    count = len(latencies) // 4
    if count < _FEWEST:
        return None
    found = compare_medians(latencies[:count], latencies[-count:])
    quarter = max(1, len(windows) // 4)
    first, last = _hottest(windows[:quarter]), _hottest(windows[-quarter:])
    return {
        "latency": found.to_dict(),
        "hottest_first_c": first,
        "hottest_last_c": last,
        "throttled_windows": sum(bool(window["throttled"]) for window in windows),
        "windows": len(windows),
    }


def _hottest(windows: Sequence[dict[str, Any]]) -> float | None:
    """The hottest sensor at any time."""
    return max((value for window in windows for value in window["temperatures_c"].values()), default=None)
