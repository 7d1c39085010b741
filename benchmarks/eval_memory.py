"""Peak memory of an evaluation: 2,000 pictures at 518 px in one category, made maps, ceiling and page included.

python benchmarks/eval_memory.py [--pictures 2000] [--size 518]

The bar: 2 GB, the whole process, with the built-in model loaded and run once before. A second run of as many pictures
as are just kept exactly shows the other large case: sorting them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np
from common import finish
from numpy.typing import NDArray
from PIL import Image

from acd_edge.data import Sample
from acd_edge.evaluate import evaluate
from acd_edge.metrics import EXACT_VALUES
from acd_edge.report import page, table, write_page
from acd_edge.runtime import Detector

BAR_GB = 2.0
SIDE = 128  # of the files, which are stretched to the model's size
PATCH = 14


def write_samples(folder: Path, pictures: int) -> list[Sample]:
    """Eight files, half of them defective, listed as often as it takes."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(8):
        image, mask = folder / f"{index}.png", folder / f"{index}_mask.png"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(image)
        Image.fromarray((rng.random((SIDE // 8, SIDE // 8)) < 0.1).repeat(8, 0).repeat(8, 1)).save(mask)
        samples.append(Sample(image=image, mask=mask if index % 2 else None, label=index % 2, category="made"))
    return list(islice(cycle(samples), pictures))


def measure(folder: Path, pictures: int, size: int) -> None:
    """Evaluate made maps, all different, with everything that can be asked for."""
    with Detector.load() as detector:
        detector.predict(np.zeros((64, 64, 3), np.uint8))
        rng, calls = np.random.default_rng(1), count()
        bases = [rng.random((size, size), dtype=np.float32) for _ in range(5)]

        def predict(pixels: NDArray[np.uint8], words: str) -> tuple[NDArray[np.float32], float]:
            turn = next(calls)
            mixed = bases[turn % 5] * np.float32(1 - turn / 1e4) + bases[turn // 5 % 5] ** 2 * np.float32(turn / 1e4)
            return mixed, float(mixed[0, 0])

        report = evaluate(predict, write_samples(folder, pictures), size=size, patch=PATCH, gallery=3)
        write_page(folder / "page.html", page(report, title="made", about={}))
        print(table(report))


def peak_bytes(pictures: int, size: int) -> tuple[int, float, str]:
    """Largest resident size of a process that measures, its seconds, and its table."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--inside", folder, "--pictures", str(pictures), "--size", str(size)]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {command}")
    return usage.ru_maxrss * 1024, time.perf_counter() - began, text


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        measure(options.inside, options.pictures, options.size)
        return
    peaks = {}
    result: dict[str, object] = {
        "what": "peak resident size in GB of evaluating made maps, with the built-in model loaded, ceiling and page",
        "size": options.size,
    }
    for name, pictures in (("binned", options.pictures), ("exact", EXACT_VALUES // options.size**2)):
        peak, seconds, text = peak_bytes(pictures, options.size)
        peaks[name] = peak / 1e9
        result[name] = {
            "pictures": pictures,
            "peak_gb": round(peak / 1e9, 3),
            "seconds": round(seconds, 1),
            "table": text.splitlines(),
        }
    finish(result, value=max(peaks.values()), bar=BAR_GB)


if __name__ == "__main__":
    main()
