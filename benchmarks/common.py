"""What the benchmarks share: interleaved rounds, medians with their spread, the machine, the result's file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def interleaved(calls: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every call in every round: all calls in turn, so that a slow minute of the machine meets each of them.

    The order turns from round to round, and the first `warm_up` rounds do not count.
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + warm_up):
        names = list(calls)[number % len(calls) :] + list(calls)[: number % len(calls)]
        for name in names:
            began = time.perf_counter()
            calls[name]()
            if number >= warm_up:
                took[name].append(time.perf_counter() - began)
    return took


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Median, smallest and largest."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def ratios(slow: list[float], fast: list[float], digits: int = 3) -> dict[str, float]:
    """How many times faster, round by round."""
    return spread([one / other for one, other in zip(slow, fast, strict=True)], digits)


def machine(*packages: str) -> dict[str, str]:
    """Where a figure was taken, and with what."""
    described = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return described | {package: _version(package) for package in packages}


def save(name: str, result: Mapping[str, Any]) -> Path:
    """Print a result and write it to `benchmarks/results/<name>.json`."""
    text = json.dumps(result, indent=2)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
