"""Process start to first result, against a bare script that opens the same graph and runs it once.

python benchmarks/startup.py [--bundle B] [--rounds 7]

The bar: at most 1.5 times as long. Both processes get two threads; the disk is warm.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import finish, interleaved, ratio, spread
from PIL import Image

from acd_edge.runtime import builtin_bundle
from acd_edge.runtime.manifest import manifest_from_json

BAR = 1.5
THREADS = 2
BARE = """
import numpy, cv2, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {threads}
session = onnxruntime.InferenceSession({graph!r}, options, providers=["CPUExecutionProvider"])
picture = cv2.resize(cv2.imread({picture!r}), ({size}, {size}))[None]
text = numpy.load({features!r})["features"][:1]
found = session.run(None, {{"image": picture, "text_features": text}})
print(float(found[1][0]))
"""


def seconds(command: list[str]) -> float:
    """From start to the first line of output."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline()
    took = time.perf_counter() - began
    if process.wait() or not line:
        raise SystemExit(f"failed: {command}")
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=builtin_bundle())
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    bundle: Path = options.bundle
    size = manifest_from_json((bundle / "manifest.json").read_bytes()).size
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder) / "picture.png")
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)).save(picture)
        graph, features = str(bundle / "model.onnx"), str(bundle / "text_features.npz")
        bare = BARE.format(threads=THREADS, graph=graph, picture=picture, features=features, size=size)
        ours = [sys.executable, "-m", "acd_edge", "run", picture, "--bundle", str(bundle), "--threads", str(THREADS)]
        found = interleaved(
            {"ours": lambda: seconds(ours), "bare": lambda: seconds([sys.executable, "-c", bare])},
            rounds=options.rounds,
        )
    times = ratio(found, "ours", "bare")
    result: dict[str, object] = {
        "what": "acd-edge run, start to first result, against a bare script with the same graph",
        "threads": THREADS,
        "rounds": options.rounds,
        "seconds": {name: spread(values) for name, values in found.items()},
        "ratio": times,
    }
    finish(result, value=times["median"], bar=BAR)


if __name__ == "__main__":
    main()
