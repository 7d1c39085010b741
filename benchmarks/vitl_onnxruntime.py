"""The exported fp32 graph in ONNX Runtime against eager torch that does what the authors' code does.

ViT-L/14 at 518 x 518, N = 3, seeded weights, two threads each, one picture at a time, in turn. The baseline computes
and averages the attention weights in every block and leaves the adapters unfolded. The bar: at least 2.7 times faster.

python benchmarks/vitl_onnxruntime.py [--rounds 5] [--folder FOLDER]    (about 5 GB; FOLDER keeps weights and bundle)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

import numpy as np
import open_clip
import torch

from acd_edge.runtime import Detector
from acd_edge.runtime.backends import BackendOptions
from acd_edge.runtime.preprocess import resize
from benchmarks.common import LEAST_ROUNDS, finish, interleaved, ratio, seconds_of, spread
from tests.oracle import VIT_L_14_336, Oracle, seeded_adapter, seeded_clip, seeded_picture, sentences

THREADS, GROUPS, SIZE, SEED, BAR = 2, 3, 518, 7, 2.7
AGREE = 1e-5  # the two must compute the same, or the comparison means nothing


def bundle_of(folder: Path) -> Path:
    """Weights, checkpoint and fp32 bundle; made once a folder."""
    clip, adapter, bundle = folder / "clip.pt", folder / "adapter.pth", folder / "bundle"
    if not bundle.is_dir():
        torch.save(seeded_clip(VIT_L_14_336, SEED), clip)
        torch.save(seeded_adapter(VIT_L_14_336, GROUPS, SEED), adapter)
        acd_edge("convert", adapter, "--clip-weights", clip, "-o", folder / "ckpt", "--force")
        acd_edge("export", folder / "ckpt", "--fp32", "-o", bundle)
    return bundle


def acd_edge(*arguments: object) -> None:
    """Run one command in its own process."""
    subprocess.run([sys.executable, "-m", "acd_edge", *map(str, arguments)], check=True, stdout=sys.stderr)


def eager(folder: Path) -> Callable[[], torch.Tensor]:
    """The baseline on the benchmark's picture: the normalised pixels are made once, outside."""
    clip = torch.load(folder / "clip.pt", weights_only=True)
    oracle = Oracle(clip, seeded_adapter(VIT_L_14_336, GROUPS, SEED), size=SIZE)
    prompts, states = sentences("object")
    text = oracle.text_features(open_clip.tokenize(prompts), states)
    pixels = oracle.pixels(seeded_picture(SIZE, SIZE, SEED))
    return lambda: oracle.decode(*oracle.levels(pixels), text)[0]


def exported(bundle: Path) -> Callable[[], np.ndarray]:
    """The graph on the same picture."""
    detector = Detector.load(bundle, options=BackendOptions(threads=THREADS))
    pixels = resize(seeded_picture(SIZE, SIZE, SEED), SIZE)[None]
    return lambda: detector.infer(pixels)["anomaly_map"]


def measure(folder: Path, rounds: int) -> dict[str, object]:
    """Check that both give one map, then time them."""
    torch.set_num_threads(THREADS)
    baseline, graph = eager(folder), exported(bundle_of(folder))
    apart = float(np.abs(baseline().numpy() - graph()).max())
    if apart > AGREE:
        raise SystemExit(f"the two maps differ by {apart}: nothing was timed")
    took = interleaved({"eager": seconds_of(baseline), "exported": seconds_of(graph)}, rounds=rounds)
    return {
        "what": f"ViT-L/14 at {SIZE} x {SIZE}, N = {GROUPS}, seeded weights, {THREADS} threads each",
        "rounds": rounds,
        "largest_map_difference": apart,
        "seconds": {name: spread(values) for name, values in took.items()},
        "times_faster": ratio(took, "eager", "exported"),
    }


def main() -> None:
    """Measure, print the result, and fail below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        bundle_of(folder)
        result = measure(folder, options.rounds)
    faster = result["times_faster"]["median"]  # type: ignore[index]
    finish(result, value=1 / faster, bar=1 / BAR)


if __name__ == "__main__":
    main()
