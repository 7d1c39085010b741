"""What the figures cost, against the inference that gives the maps: the built-in model on made pictures.

python benchmarks/eval_cost.py [--bundle B] [--pictures 4] [--rounds 5]

The bar: at most 10 %. Both are processor time, so that a busy machine does not count; inference runs on one thread and
is halved, as if two threads were twice as fast, which is in its favour. Counting a picture (pixels, regions, score) and
the figures at the end are both in it, shared out over the pictures: of few pictures that are kept exactly, and of a
category as long as lgg_brain_mri's, in bins.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from common import LEAST_ROUNDS, finish, spread
from numpy.typing import NDArray

from acd_edge.data import Sample
from acd_edge.evaluate import _Tally, predictor_from_detector
from acd_edge.metrics import EXACT_VALUES
from acd_edge.runtime import Detector
from acd_edge.runtime.backends import BackendOptions

BAR = 0.10
THREADS = 1
AS_IF_THREADS = 2
LONG = 1462
"""Pictures over which the end of a binned category is shared out."""


def made_pictures(count: int, size: int) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Coarse noise of the model's size, and masks with a handful of regions on 5 % of the pixels."""
    rng = np.random.default_rng(0)
    tiles = -(-size // 20)
    pictures = [rng.integers(0, 256, (tiles, tiles, 3), np.uint8).repeat(20, 0).repeat(20, 1) for _ in range(count)]
    masks = [(rng.random((tiles, tiles)) < 0.05).repeat(20, 0).repeat(20, 1).astype(np.uint8) for _ in range(count)]
    return [picture[:size, :size] for picture in pictures], [mask[:size, :size] for mask in masks]


def one_round(
    detector: Detector, pictures: list[NDArray[np.uint8]], masks: list[NDArray[np.uint8]]
) -> dict[str, float]:
    """Seconds of the processor for a picture, of inference and of both kinds of figures, picture by picture in turn."""
    size = detector.bundle.manifest.size
    predict = predictor_from_detector(detector)
    tallies = {"exact": _tally(size, EXACT_VALUES), "binned": _tally(size, 0)}
    spent = dict.fromkeys(("inference", *tallies), 0.0)
    for index, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        sample = Sample(image=Path(f"{index}.png"), mask=Path("mask.png"), label=1, category="made")
        began = time.process_time()
        found = predict(picture, "object")
        spent["inference"] += (time.process_time() - began) / AS_IF_THREADS
        for name, tally in tallies.items():
            began = time.process_time()
            tally.add(sample, mask, *found)
            spent[name] += time.process_time() - began
    seconds = {name: value / len(pictures) for name, value in spent.items()}
    for name, tally in tallies.items():
        began = time.process_time()
        tally.report("made", None)
        seconds[f"end of {name}"] = time.process_time() - began
    seconds["exact"] += seconds["end of exact"] / len(pictures)
    seconds["binned"] += seconds["end of binned"] / LONG
    return seconds


def _tally(size: int, exact_pixels: int) -> _Tally:
    return _Tally(size, at="model", patch=None, gallery=None, exact_pixels=exact_pixels)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    options = parser.parse_args()
    with Detector.load(options.bundle, options=BackendOptions(threads=THREADS)) as detector:
        pictures, masks = made_pictures(options.pictures, detector.bundle.manifest.size)
        one_round(detector, pictures[:2], masks[:2])
        rounds = [one_round(detector, pictures, masks) for _ in range(options.rounds)]
        about = {"bundle": detector.bundle.manifest.name, "size": detector.bundle.manifest.size}
    shares = {name: spread([found[name] / found["inference"] for found in rounds]) for name in ("exact", "binned")}
    result: dict[str, object] = {
        "what": "pixel and image figures, as a share of the built-in model's inference; exact and in bins",
        **about,
        "threads": f"{THREADS}, its time divided by {AS_IF_THREADS}",
        "rounds": options.rounds,
        "pictures": options.pictures,
        "milliseconds": {name: spread([round(1e3 * found[name], 2) for found in rounds]) for name in rounds[0]},
        "share": shares,
    }
    finish(result, value=max(share["median"] for share in shares.values()), bar=BAR)


if __name__ == "__main__":
    main()
