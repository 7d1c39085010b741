"""What the benchmarks share: interleaved rounds, their median and spread, and the machine they ran on."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "onnxruntime", "opencv-python-headless", "opencv-python", "Pillow", "torch")
LEAST_ROUNDS = 5
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as acd-edge does: both sides of a comparison start without it


def interleaved(
    sides: Mapping[str, Callable[[], float]], *, rounds: int = LEAST_ROUNDS, warm_up: int = 1
) -> dict[str, list[float]]:
    """Measure every side in turn, round by round, so that a slow minute of the machine hits all alike.

    Args:
        sides: name -> a call that does the work once and returns what was measured.
        rounds: that count.
        warm_up: rounds before them that do not.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm_up + rounds):
        for name, measure in sides.items():
            value = measure()
            if number >= warm_up:
                found[name].append(value)
    return found


def seconds_of(work: Callable[[], object]) -> Callable[[], float]:
    """The call, timed."""

    def timed() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return timed


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(found: Mapping[str, list[float]], ours: str, theirs: str) -> dict[str, float]:
    """Spread of the rounds' own ratios, ours over theirs."""
    return spread([a / b for a, b in zip(found[ours], found[theirs], strict=True)])


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def finish(result: dict[str, object], *, value: float, bar: float) -> None:
    """Print the result as JSON and leave with 1 when it misses its bar."""
    print(json.dumps({**result, "value": value, "bar": bar, "holds": value <= bar, "machine": machine()}, indent=2))
    sys.exit(value > bar)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
