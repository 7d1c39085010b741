"""What a frame costs besides the backend's own call: decoded 1080p frames in memory, JSON out, nothing saved.

python benchmarks/run_overhead.py [--bundle B] [--frames 8] [--rounds 5]

The bar: at most 8 % of the backend's call.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Mapping
from contextlib import redirect_stdout

import click
import numpy as np
from common import LEAST_ROUNDS, finish, spread
from numpy.typing import NDArray

from acd_edge.runtime import Detector
from acd_edge.runtime.backends import Array, Backend, BackendOptions
from acd_edge.runtime.sinks import Record, json_line
from acd_edge.runtime.sources import Frame

BAR = 0.08
THREADS = 2


class Timed:
    """A backend that notes the time spent in the one it wraps."""

    def __init__(self, inner: Backend) -> None:
        self.inner, self.inputs, self.name, self.seconds = inner, inner.inputs, inner.name, 0.0

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run the inner one."""
        began = time.perf_counter()
        found = self.inner.run(feed)
        self.seconds += time.perf_counter() - began
        return found

    def close(self) -> None:
        """Close the inner one."""
        self.inner.close()


def made_frames(count: int) -> list[NDArray[np.uint8]]:
    """Noise of 1080p with some structure, unlike each other."""
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (27, 48, 3), np.uint8).repeat(40, 0).repeat(40, 1) for _ in range(count)]
    return [base // 2 + rng.integers(0, 128, base.shape, np.uint8) for base in coarse]


def one_round(detector: Detector, backend: Timed, frames: list[NDArray[np.uint8]]) -> float:
    """Share of everything else in the backend's time, over all frames."""
    backend.seconds = 0.0
    began = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        for index, rgb in enumerate(frames):
            frame = Frame("memory", index, rgb)
            click.echo(json_line(Record(frame, detector.predict(frame.rgb), None)))
    return (time.perf_counter() - began - backend.seconds) / backend.seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    options = parser.parse_args()
    detector = Detector.load(options.bundle, options=BackendOptions(threads=THREADS))
    backend = detector._backend = Timed(detector._backend)
    frames = made_frames(options.frames)
    one_round(detector, backend, frames[:2])
    shares = [one_round(detector, backend, frames) for _ in range(options.rounds)]
    result: dict[str, object] = {
        "what": "everything but the backend's call, as a share of it; 1080p frames in memory, --json, no --save",
        "bundle": detector.bundle.manifest.name,
        "size": detector.bundle.manifest.size,
        "threads": THREADS,
        "rounds": options.rounds,
        "backend_ms_a_frame": round(backend.seconds * 1e3 / len(frames), 1),
        "share": spread(shares),
    }
    finish(result, value=spread(shares)["median"], bar=BAR)


if __name__ == "__main__":
    main()
