"""The heat of a 1080p overlay: Pillow's mixing in bytes against the same formula in numpy's float32.

python benchmarks/overlay.py [--rounds 9]

One thread. The bar: at most half of the time.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from acd_edge.runtime.overlay import draw_overlay, heat_colours
from benchmarks.common import LEAST_ROUNDS, finish, interleaved, ratio, seconds_of, spread
from tests.heat_oracle import heated_in_floats

BAR = 0.5
HEIGHT, WIDTH = 1080, 1920


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS + 4)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    coarse = Image.fromarray(rng.random((30, 30), np.float32))
    heat = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    sides = {
        "ours": seconds_of(lambda: draw_overlay(rgb, heat, score=0.5)),  # white line and strip too
        "floats": seconds_of(lambda: heated_in_floats(rgb, heat, heat_colours(heat))),
    }
    found = interleaved(sides, rounds=given.rounds)
    share = ratio(found, "ours", "floats")
    milliseconds = {name: spread([1000 * value for value in values]) for name, values in found.items()}
    finish(
        {"what": "overlay of a 1080p frame", "rounds": given.rounds, "milliseconds": milliseconds, "ratio": share},
        value=share["median"],
        bar=BAR,
    )


if __name__ == "__main__":
    main()
