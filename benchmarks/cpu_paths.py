"""The ways to run one model on this CPU, side by side: library, precision of the graph, precision of the arithmetic.

Two threads each, one picture at a time, in turn. The built-in model at 336 and 518 against its fp32 graph in ONNX
Runtime, with the pixel AUROC of every faster path on pictures of training sets that no INT8 range was measured on; with
--vitl also ViT-L/14 at 518, N = 3, seeded weights, against eager torch that does what the authors' code does.

python benchmarks/cpu_paths.py --data SET [--data SET ...] --folder FOLDER [--vitl FOLDER]
                               [--size 336] [--rounds 7] [--pictures 60] [--vitl-int8] [--fp16-base]

FOLDER keeps bundles, calibration pictures and the result of each part, so that a second call goes on where the first
ended; --again measures anew. --vitl takes the folder of benchmarks/vitl_onnxruntime.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

import numpy as np
import numpy.typing as npt

from acd_edge.data.samples import Sample, categories_of, load_data
from acd_edge.errors import AcdEdgeError
from acd_edge.evaluate import evaluate, predictor_from_detector
from acd_edge.runtime import Detector
from acd_edge.runtime.backends import BackendOptions, OpenVinoPrecision
from acd_edge.runtime.preprocess import resize
from acd_edge.runtime.prompts import DEFAULT_PRODUCT
from benchmarks.common import LEAST_ROUNDS, interleaved, machine, ratio, seconds_of, spread
from benchmarks.vitl_onnxruntime import acd_edge, bundle_of, eager
from tests.oracle import seeded_picture

THREADS, SEED = 2, 7
SIZES = (336, 518)
CALIBRATED_ON = 8  # pictures of each set
EXACT = 1e-5  # a map this near to fp32's is the same but for the order of sums
MOST_LOST = 0.1  # points of pixel AUROC
BARS = {336: 2.7, 518: 2.5}  # times faster than the fp32 graph in ONNX Runtime, inside MOST_LOST
VITL_BARS = {"exact": 2.9, "best": 9.5}  # times faster than eager torch
BASELINE = "onnxruntime fp32"
Map = npt.NDArray[np.float32]
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Side:
    """One way to run the model."""

    bundle: str
    backend: str
    precision: OpenVinoPrecision = "f32"

    def load(self, folder: Path) -> Detector:
        """The bundle on its backend."""
        options = BackendOptions(threads=THREADS, device="cpu", openvino_precision=self.precision)
        return Detector.load(folder / self.bundle, backend=self.backend, options=options)


SIDES: Mapping[str, Side] = {
    BASELINE: Side("fp32", "onnxruntime"),
    "onnxruntime fp16 graph": Side("fp16", "onnxruntime"),
    "onnxruntime int8": Side("int8-fp32", "onnxruntime"),
    "openvino f32": Side("fp32", "openvino"),
    "openvino f32, fp16 graph": Side("fp16", "openvino"),
    "openvino bf16": Side("fp32", "openvino", "bf16"),
    "openvino int8, f32": Side("int8-fp32", "openvino"),
    "openvino int8, f32, fp16 base": Side("int8-fp16", "openvino"),
    "openvino int8, bf16": Side("int8-fp32", "openvino", "bf16"),
}
VITL_SIDES = tuple(name for name in SIDES if "fp16" not in name)
PRECISIONS = {"fp32": ["--fp32"], "fp16": ["--fp16"], "int8-fp32": ["--int8", "--fp32"], "int8-fp16": ["--int8"]}


def opened(folder: Path, names: Sequence[str] = tuple(SIDES)) -> tuple[dict[str, Detector], dict[str, str]]:
    """The sides that this machine has, and why it has not the others."""
    tried = {name: attempt(SIDES[name], folder) for name in names}
    here = {name: found for name, found in tried.items() if isinstance(found, Detector)}
    return here, {name: str(found) for name, found in tried.items() if name not in here}


def attempt(side: Side, folder: Path) -> Detector | AcdEdgeError:
    """A side, or why it is not here."""
    try:
        return side.load(folder)
    except AcdEdgeError as error:
        return error


def bundles_in(folder: Path, checkpoint: Path | None, extra: Sequence[str], calib: Path, kinds: Sequence[str]) -> Path:
    """Export what is not there yet."""
    for kind in kinds:
        if not (folder / kind).is_dir():
            arguments = [*PRECISIONS[kind], *extra, *(["--calib", calib] if "int8" in kind else [])]
            acd_edge("export", *([checkpoint] if checkpoint else []), *arguments, "-o", folder / kind)
    return folder


def split(data: Sequence[Path], count: int, calib: Path) -> list[Sample]:
    """Pictures to judge on, spread over the sets and over good and defective, none of which is copied to `calib`."""
    chosen: list[Sample] = []
    calib.mkdir(parents=True, exist_ok=True)
    for path in data:
        samples = [sample for sample in load_data([path], split="train") if sample.has_mask]
        to_calibrate = {sample.image for sample in spaced(samples, CALIBRATED_ON)}
        for image in to_calibrate:
            shutil.copy(image, calib / f"{path.name}-{image.parent.name}-{image.name}")
        for label in (0, 1):
            others = [each for each in samples if each.label == label and each.image not in to_calibrate]
            chosen += spaced(others, count // len(data) // 2)
    return chosen


def spaced(samples: list[Sample], count: int) -> list[Sample]:
    """So many of a list, evenly."""
    return [samples[index * len(samples) // count] for index in range(min(count, len(samples)))]


def picture(size: int) -> npt.NDArray[np.uint8]:
    """What is timed on, (1, S, S, 3)."""
    return resize(seeded_picture(size, size, SEED), size)[None]


def timed(
    detectors: Mapping[str, Detector], size: int, rounds: int, more: Mapping[str, Callable[[], object]] = {}
) -> dict[str, list[float]]:
    """Seconds of one picture's graph, for every side in turn, after what is timed besides."""
    pixels = picture(size)
    calls: dict[str, Callable[[], object]] = {
        name: partial(detector.infer, pixels) for name, detector in detectors.items()
    }
    return interleaved({name: seconds_of(call) for name, call in {**more, **calls}.items()}, rounds=rounds)


class Drift:
    """A detector's predictor that also keeps how far each map is from the baseline's."""

    def __init__(self, detector: Detector, wanted: list[Map]) -> None:
        self._predict, self._wanted = predictor_from_detector(detector), wanted
        self.apart: list[Map] = []
        self.maps: list[Map] = []

    def __call__(self, pixels: npt.NDArray[np.uint8], words: str) -> tuple[Map, float]:
        """See `acd_edge.evaluate.Predictor`."""
        said = self._predict(pixels, words)
        self.maps.append(said[0])
        if self._wanted:
            self.apart.append(np.abs(said[0] - self._wanted[len(self.apart)]))
        return said


def judged(detectors: Mapping[str, Detector], size: int, samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Pixel AUROC in per cent, points lost against the baseline, and how far the maps are from the baseline's.

    Args:
        detectors: the baseline first.
    """
    wanted: list[Map] = []
    found: dict[str, dict[str, float]] = {}
    for name, detector in detectors.items():
        drift = Drift(detector, wanted)
        report = evaluate(drift, samples, size=size, words=dict.fromkeys(categories_of(samples), DEFAULT_PRODUCT))
        auroc = 100 * float(report.mean.pixel_auroc or 0)
        wanted = wanted or drift.maps
        found[name] = {
            "pixel_auroc": auroc,
            "points_lost": found[BASELINE]["pixel_auroc"] - auroc if found else 0.0,
            "largest_map_difference": float(max((apart.max() for apart in drift.apart), default=0)),
            "mean_map_difference": float(np.mean(drift.apart)) if drift.apart else 0.0,
        }
        print(f"{size}: {name}: {auroc:.3f}", file=sys.stderr)
    return found


def rows_of(
    detectors: Mapping[str, Detector], took: Mapping[str, list[float]], against: str
) -> dict[str, dict[str, Any]]:
    """What every side took, and how many times faster than `against` it was in the same rounds."""
    fold = detectors[BASELINE].bundle.manifest.fold
    return {
        name: {
            "runs_as": detector.backend_name,
            "seconds": spread(took[name]),
            "times_faster": ratio(took, against, name),
            "gflops": 2 * fold["macs_after"] / spread(took[name])["median"] / 1e9,
        }
        for name, detector in detectors.items()
    }


def close(detectors: Mapping[str, Detector]) -> None:
    """Free them all."""
    for detector in detectors.values():
        detector.close()


def built_in(size: int, samples: list[Sample], calib: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One size of the built-in model."""
    folder = options.folder / str(size)
    kinds = [kind for kind in PRECISIONS if kind != "int8-fp16" or options.fp16_base]
    detectors, refused = opened(bundles_in(folder, None, ["--size", str(size)], calib, kinds))
    took = timed(detectors, size, options.rounds)
    rows = rows_of(detectors, took, BASELINE)
    faster = {name: each for name, each in detectors.items() if rows[name]["times_faster"]["median"] > 1}
    for name, figures in judged({BASELINE: detectors[BASELINE], **faster}, size, samples).items():
        rows[name] |= figures
    close(detectors)
    inside = {name: row["times_faster"]["median"] for name, row in rows.items() if lost(row) <= MOST_LOST}
    return {
        "what": f"built-in model at {size}, {THREADS} threads, {options.rounds} rounds, {len(samples)} pictures judged",
        "paths": rows,
        "refused": refused,
        "bars": {"best": best_of(inside, BARS[size])},
    }


def vitl(calib: Path, options: argparse.Namespace) -> dict[str, Any]:
    """ViT-L/14 at 518 against eager torch; seeded weights, so that drift is all that can be said of its maps."""
    import torch

    torch.set_num_threads(THREADS)
    folder: Path = options.vitl
    bundle = bundle_of(folder)
    if not (folder / "fp32").exists():
        (folder / "fp32").symlink_to(bundle.name)
    if options.vitl_int8:
        bundles_in(folder, folder / "ckpt", ["--calib-count", "4"], calib, ["int8-fp32"])
    detectors, refused = opened(folder, VITL_SIDES)
    size, theirs = detectors[BASELINE].bundle.manifest.size, eager(folder)
    took = timed(detectors, size, max(LEAST_ROUNDS, options.rounds - 2), {"eager": theirs})
    rows = rows_of(detectors, took, "eager")
    wanted, pixels = theirs().numpy(), picture(size)
    drift = {name: float(np.abs(each.infer(pixels)["anomaly_map"] - wanted).max()) for name, each in detectors.items()}
    close(detectors)
    for name, row in rows.items():
        row["largest_map_difference"] = drift[name]
    faster = {name: row["times_faster"]["median"] for name, row in rows.items()}
    exact = {name: value for name, value in faster.items() if drift[name] <= EXACT}
    return {
        "what": f"ViT-L/14 at {size}, N = 3, seeded weights, {THREADS} threads, against eager torch",
        "eager_seconds": spread(took["eager"]),
        "paths": rows,
        "refused": refused,
        "bars": {"exact": best_of(exact, VITL_BARS["exact"]), "best": best_of(faster, VITL_BARS["best"])},
    }


def lost(row: Mapping[str, Any]) -> float:
    """Points of pixel AUROC; what is no faster than the baseline was not judged."""
    return float(row.get("points_lost", np.inf))


def best_of(faster: Mapping[str, float], bar: float) -> dict[str, Any]:
    """The fastest, and whether it is fast enough."""
    best = max(faster, key=faster.__getitem__)
    return {"path": best, "value": faster[best], "bar": bar, "holds": faster[best] >= bar}


def this_machine() -> dict[str, Any]:
    """The machine, what its processor can multiply, and how fast two threads do one large float32 product."""
    from threadpoolctl import threadpool_limits

    flags = Path("/proc/cpuinfo").read_text().split()
    a = np.random.default_rng(0).random((1536, 1536), np.float32)
    with threadpool_limits(THREADS):
        took = [seconds_of(lambda: a @ a)() for _ in range(20)]
    return {
        **machine(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "large_product_gflops": 2 * len(a) ** 3 / min(took) / 1e9,
    }


def part(name: str, measure: Callable[[], dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """One part's result: kept, or measured now and kept."""
    kept: Path = options.folder / f"{name}.json"
    if options.again or not kept.is_file():
        began = time.perf_counter()
        result = {**measure(), "machine": this_machine(), "minutes": round((time.perf_counter() - began) / 60, 1)}
        kept.write_text(json.dumps(result, indent=2) + "\n")
    return json.loads(kept.read_text())


def main() -> None:
    """Measure, print the results as JSON, and leave with 1 below a bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--vitl", type=Path)
    parser.add_argument("--vitl-int8", action="store_true", help="export it in INT8 too: minutes, and 8 GB")
    parser.add_argument("--fp16-base", action="store_true", help="export INT8 on fp16 too, which is for TensorRT")
    parser.add_argument("--size", type=int, action="append", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS + 2)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    calib = options.folder / "calib"
    samples = split(options.data, options.pictures, calib)
    results = {
        f"built-in-{size}": part(f"built-in-{size}", partial(built_in, size, samples, calib, options), options)
        for size in options.size or SIZES
    }
    if options.vitl:
        results["vitl"] = part("vitl", lambda: vitl(calib, options), options)
    print(json.dumps(results, indent=2))
    sys.exit(any(not bar["holds"] for result in results.values() for bar in result["bars"].values()))


if __name__ == "__main__":
    main()
