"""How long `acd-edge --help` takes, against `python -c "import click, numpy"`. The bar: at most twice as long.

python benchmarks/help_page.py
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time

ROUNDS = 15
CALLS = {
    "acd-edge --help": ["-m", "acd_edge", "--help"],
    "import click, numpy": ["-c", "import click, numpy"],
}
BAR = 2.0


def seconds(arguments: list[str]) -> float:
    """Wall time of one process from start to end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def measure() -> dict[str, object]:
    """Both calls in turn, after a warm-up round that does not count."""
    took: dict[str, list[float]] = {name: [] for name in CALLS}
    for number in range(ROUNDS + 1):
        for name, arguments in CALLS.items():
            spent = seconds(arguments)
            if number:
                took[name].append(spent)
    ratios = [ours / theirs for ours, theirs in zip(*took.values(), strict=True)]
    return {
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "rounds": ROUNDS,
        "median_ms": {name: round(1e3 * statistics.median(values), 1) for name, values in took.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "bar": BAR,
    }


if __name__ == "__main__":
    found = measure()
    print(json.dumps(found, indent=2))
    sys.exit(found["ratio"] > BAR)  # type: ignore[operator]
