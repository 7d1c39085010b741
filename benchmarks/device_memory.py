"""Peak memory of the device's process, against the size of the graph's weights.

python benchmarks/device_memory.py BUNDLE [--rounds 5]

The bar: at most 1.6 times, for the ViT-L/14@518 fp32 bundle. The figure is the largest resident size that the kernel
saw of `acd-edge run` on one 1080p picture, pages of mapped files included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import LEAST_ROUNDS, finish, spread
from PIL import Image

BAR = 1.6
THREADS = 2


def peak_bytes(command: list[str]) -> int:
    """Largest resident size of one process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {command}")
    return usage.ru_maxrss * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    options = parser.parse_args()
    weights = sum(path.stat().st_size for path in options.bundle.iterdir() if path.name.startswith("model.onnx"))
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder) / "picture.png")
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)).save(picture)
        command = [sys.executable, "-m", "acd_edge", "run", picture, "--bundle", str(options.bundle)]
        peaks = [peak_bytes([*command, "--threads", str(THREADS)]) for _ in range(options.rounds)]
    times = spread([peak / weights for peak in peaks])
    result: dict[str, object] = {
        "what": "peak resident size of acd-edge run, against the size of the graph and its external data",
        "threads": THREADS,
        "rounds": options.rounds,
        "weights_mb": round(weights / 1e6, 1),
        "peak_mb": spread([round(peak / 1e6, 1) for peak in peaks]),
        "ratio": times,
    }
    finish(result, value=times["median"], bar=BAR)


if __name__ == "__main__":
    main()
