"""What `Detector` costs besides the library: a frame that is S x S already, against the bare session call.

python benchmarks/backend_overhead.py [--bundle B] [--backend onnxruntime|openvino] [--frames 5] [--rounds 9]

Two figures. `call` is `predict` against the session's own call, in turn; it has the machine's noise in it. `share` is
what `predict` spends outside the library's call, over that call; it hardly has. The bar: a share of at most 3 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from common import LEAST_ROUNDS, finish, interleaved, ratio, spread

from acd_edge.runtime import Detector
from acd_edge.runtime.backends import Array, Backend, BackendOptions, GraphFile

BAR = 0.03
THREADS = 2


def bare_onnxruntime(graph: GraphFile, feed: Mapping[str, Array]) -> Callable[[], object]:
    """What a user of ONNX Runtime would write."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    session = ort.InferenceSession(str(graph.path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, dict(feed))


def bare_openvino(graph: GraphFile, feed: Mapping[str, Array]) -> Callable[[], object]:
    """What a user of OpenVINO would write."""
    import openvino

    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(graph.path), "CPU", config).create_infer_request()
    return lambda: request.infer(dict(feed))


BARE = {"onnxruntime": bare_onnxruntime, "openvino": bare_openvino}


class Timed:
    """A backend that notes the time spent in the library's own call, `session.run` or `request.infer`."""

    def __init__(self, backend: Backend, holder: str, method: str) -> None:
        self.seconds = 0.0
        self._inner = getattr(backend, holder)
        self._method = getattr(self._inner, method)
        setattr(backend, holder, self)
        setattr(self, method, self._timed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _timed(self, *arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        found = self._method(*arguments, **named)
        self.seconds += time.perf_counter() - began
        return found


HOLDERS = {"onnxruntime": ("_session", "run"), "openvino": ("_request", "infer")}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle")
    parser.add_argument("--backend", choices=BARE, default="onnxruntime")
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS + 4)
    options = parser.parse_args()
    with Detector.load(options.bundle, backend=options.backend, options=BackendOptions(threads=THREADS)) as detector:
        size = detector.bundle.manifest.size
        pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        feed = {"image": pixels[None], "text_features": detector.bundle.text_features["object"][None]}
        bare = BARE[options.backend](detector.bundle.model_file, feed)
        library = Timed(detector.backend, *HOLDERS[options.backend])
        shares: list[float] = []

        def ours() -> float:
            library.seconds = 0.0
            seconds = _clocked(lambda: detector.predict(pixels), options.frames)
            shares.append((seconds - library.seconds) / library.seconds)
            return seconds

        found = interleaved(
            {"detector": ours, "bare": lambda: _clocked(bare, options.frames)}, rounds=options.rounds, warm_up=1
        )
        share, bare_s = spread(shares[1:]), spread(found["bare"])
        result: dict[str, object] = {
            "what": "Detector.predict of a frame that is S x S already, over the library's own call",
            "bundle": detector.bundle.manifest.name,
            "backend": detector.backend_name,
            "size": size,
            "threads": THREADS,
            "rounds": options.rounds,
            "bare_ms_a_frame": {
                name: round(each * 1e3 / options.frames, 2) for name, each in spread(found["bare"]).items()
            },
            "call": ratio(found, "detector", "bare"),
            "share": share,
            "outside_ms_a_frame": round(share["median"] * bare_s["median"] * 1e3 / options.frames, 3),
        }
    finish(result, value=share["median"], bar=BAR)


def _clocked(work: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
