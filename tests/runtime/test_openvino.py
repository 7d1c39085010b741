"""OpenVINO against ONNX Runtime, and what is peculiar to it: precisions read back, int8 without VNNI, no telemetry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from acd_edge.errors import BackendError, DeviceError, ShapeError, UsageError
from acd_edge.runtime import Bundle, Detector
from acd_edge.runtime.backends import BackendOptions, GraphFile, open_backend, preload
from acd_edge.runtime.backends import ov as ov_module
from acd_edge.runtime.backends.ort import _int8_kernels, core_count
from acd_edge.runtime.backends.ov import OpenVinoBackend, adds_int8_exactly
from acd_edge.runtime.text import TextEncoder
from tests.tiny_bundle import SIZE, unit_features

preload("openvino")  # without its telemetry, before the next line imports it
openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")

ONE_THREAD = BackendOptions(threads=1)
FP32_PARITY = 1e-5  # six blocks of float32 rounding in another order of summation; measured 1e-6


def noise(seed: int, height: int = 70, width: int = 90) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def detector(bundle: Path, backend: str = "openvino", **options: Any) -> Detector:
    return Detector.load(bundle, backend=backend, options=BackendOptions(**{"threads": 1, **options}))


def feed_of(size: int, seed: int, features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    return {"image": noise(seed, size, size)[None], "text_features": features[None]}


def test_the_tiny_bundle_gives_what_onnx_runtime_gives(bundle: Path) -> None:
    with detector(bundle) as ours, detector(bundle, "onnxruntime") as theirs:
        assert ours.backend_name == "openvino (f32)"
        mine, want, other = ours.predict(noise(1)), theirs.predict(noise(1)), theirs.predict(noise(2))
    np.testing.assert_allclose(mine.model_map, want.model_map, rtol=0, atol=1e-6)  # one mean and one division
    assert mine.score == pytest.approx(want.score, abs=1e-6)
    assert np.abs(mine.model_map - other.model_map).max() > 0.1  # the control: another picture is seen


def test_a_real_fold_gives_what_onnx_runtime_gives(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="folding needs torch")
    from acd_edge.config import ModelConfig
    from acd_edge.export.fold import fold
    from acd_edge.export.onnx import onnx_from_folded
    from tests.tiny_model import TINY_SIZE, TINY_TEXT, tiny_model

    torch.manual_seed(3)
    folded = fold(tiny_model(ModelConfig(preset="reference", size=TINY_SIZE, groups=2)))
    graph = GraphFile(path=onnx_from_folded(folded, tmp_path / "model.onnx"))
    features = np.random.default_rng(1).normal(size=(2, 2, TINY_TEXT.block.width)).astype(np.float32)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    ours, theirs = (open_backend(graph, backend=name, options=ONE_THREAD) for name in ("openvino", "onnxruntime"))
    feed = feed_of(TINY_SIZE, 1, features)
    found, want = ours.run(feed), theirs.run(feed)
    other = theirs.run({**feed, "image": 255 - feed["image"]})
    assert list(found) == list(want)
    for name in want:
        np.testing.assert_allclose(found[name], want[name], rtol=0, atol=FP32_PARITY, err_msg=name)
        assert np.abs(found[name] - other[name]).max() > 10 * FP32_PARITY  # the control
    ours.close()


def test_any_number_of_prompts(talking_bundle: Path) -> None:
    with Bundle.open(talking_bundle) as opened:
        graph = opened.text_encoder_file
        assert graph is not None
        encoders = [
            TextEncoder(graph, opened.tokenizer_path, opened.manifest, backend=name)
            for name in ("openvino", "onnxruntime")
        ]
        for sentences in (["a brick."], ["a road.", "the broken metal nut.", "a photo of brick."]):
            mine, want = (encoder.encode(sentences) for encoder in encoders)
            np.testing.assert_allclose(mine, want, rtol=0, atol=1e-6)  # unit vectors of a few sums
        assert np.abs(encoders[0].encode(["a nut."]) - encoders[1].encode(["a road."])).max() > 0.1  # the control
        for encoder in encoders:
            encoder.close()


def test_two_detectors_in_turn(bundle: Path) -> None:
    with detector(bundle) as one, detector(bundle, threads=2) as two:
        two.set_product("metal_nut")
        first = one.predict(noise(1))
        second = two.predict(noise(2))
        assert one.predict(noise(1)).score == first.score != second.score
    with pytest.raises(BackendError, match="was closed"):
        one.predict(noise(1))
    one.close()  # twice is fine


def test_results_are_the_callers_own(bundle: Path) -> None:
    with detector(bundle) as ours:
        first = ours.infer(np.zeros((1, SIZE, SIZE, 3), np.uint8))["anomaly_map"]
        ours.infer(np.full((1, SIZE, SIZE, 3), 255, np.uint8))
    assert first.max() == 0
    first += 1  # and may be written


def test_feeds_of_odd_layout_are_read_right_and_odd_shapes_are_refused(bundle: Path) -> None:
    turned = noise(3, SIZE, SIZE)[None]
    turned.flags.writeable = False
    with detector(bundle) as ours:
        want = ours.infer(np.array(turned.transpose(0, 2, 1, 3)))["anomaly_map"]
        np.testing.assert_array_equal(ours.infer(turned.transpose(0, 2, 1, 3))["anomaly_map"], want)
        assert np.abs(ours.infer(turned)["anomaly_map"] - want).max() > 0.1  # the control
        with pytest.raises(ShapeError, match="image: want uint8"):
            ours.infer(np.zeros((1, SIZE, SIZE + 1, 3), np.uint8))
        with pytest.raises(BackendError, match="OpenVINO failed while running") as caught:  # past our own check
            ours._backend.run({"image": turned[:, :5], "text_features": unit_features(1)[None]})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("asked", "want"), [(1, 1), (None, core_count())])
def test_threads_streams_and_precision_reach_the_library(
    bundle: Path, asked: int | None, want: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[dict[str, Any]] = []
    compile_model = openvino.Core.compile_model

    def recorded(core: Any, model: Any, device: str, config: dict[str, Any]) -> Any:
        configs.append(config)
        return compile_model(core, model, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", recorded)
    detector(bundle, threads=asked).close()
    assert configs == [
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": want,
        }
    ]


class FakeCore:
    """The CPU of another machine: what it can, and what the compiled model says it does."""

    available_devices: tuple[str, ...] = ("CPU",)
    able: tuple[str, ...] = ("FP32", "BF16", "INT8")
    runs = "bfloat16"
    kernels: tuple[tuple[str, str], ...] = (("FullyConnected", "brgemm_avx512_bf16"), ("Input", "unknown_u8"))
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}

    def get_property(self, *names: str) -> Any:
        if names == ("INFERENCE_PRECISION_HINT",):
            return SimpleNamespace(to_string=lambda: self.runs)
        return {"OPTIMIZATION_CAPABILITIES": list(self.able), "FULL_DEVICE_NAME": "Some Processor"}[names[1]]

    def read_model(self, path: str) -> FakeCore:
        return self

    def compile_model(self, model: FakeCore, device: str, config: dict[str, Any]) -> FakeCore:
        self.config = config
        return self

    def create_infer_request(self) -> str:
        return f"with {self.config['INFERENCE_PRECISION_HINT']}"

    def get_runtime_model(self) -> Any:
        def text(value: str) -> Any:
            return SimpleNamespace(astype=lambda kind: value)

        def node(layer: str, kernel: str) -> Any:
            return SimpleNamespace(get_rt_info=lambda: {"layerType": text(layer), "primitiveType": text(kernel)})

        return SimpleNamespace(get_ordered_ops=lambda: [node(*pair) for pair in self.kernels])


@pytest.fixture
def fake_core(monkeypatch: pytest.MonkeyPatch) -> type[FakeCore]:
    class Mine(FakeCore):
        pass

    monkeypatch.setattr(ov_module, "_cores", [])
    monkeypatch.setattr(ov_module, "_openvino", lambda: SimpleNamespace(Core=Mine, __version__="2026.4.1-x"))
    return Mine


BF16 = BackendOptions(openvino_precision="bf16")
GRAPH = GraphFile(path=Path("model.onnx"))


def test_bf16_where_the_processor_has_it(fake_core: type[FakeCore]) -> None:
    assert OpenVinoBackend(GRAPH, BF16).name == "openvino (bf16)"
    fake_core.kernels += (("FullyConnected", "brgemm_avx512_amx_I8"),)
    assert OpenVinoBackend(GRAPH, BF16).name == "openvino (int8, bf16)"


def test_bf16_is_never_quietly_f32(fake_core: type[FakeCore]) -> None:
    fake_core.runs = "float32"
    with pytest.raises(BackendError, match=r"asked for bf16 and would run as openvino \(f32\)"):
        OpenVinoBackend(GRAPH, BF16)
    fake_core.able = ("FP32", "INT8")
    with pytest.raises(DeviceError, match=r"Some Processor has no bf16 .*leave --openvino-precision out"):
        OpenVinoBackend(GRAPH, BF16)
    assert OpenVinoBackend(GRAPH, ONE_THREAD).name == "openvino (f32)"  # the control


def test_a_gpu_is_one_that_openvino_sees(fake_core: type[FakeCore]) -> None:
    gpu = BackendOptions(device="gpu")
    with pytest.raises(DeviceError, match="no Intel GPU here, only CPU"):
        OpenVinoBackend(GRAPH, gpu)
    fake_core.available_devices = ("CPU", "GPU.0")
    fake_core.runs = "float32"
    assert OpenVinoBackend(GRAPH, gpu).name == "openvino (f32)"
    with pytest.raises(UsageError, match="takes no threads"):
        OpenVinoBackend(GRAPH, BackendOptions(device="gpu", threads=2))


def test_a_bf16_bundle_is_refused(fake_core: type[FakeCore]) -> None:
    with pytest.raises(BackendError, match=r"bf16 bundle, which is for TensorRT.*--openvino-precision bf16"):
        OpenVinoBackend(GraphFile(path=Path("b/model.onnx"), precision="bf16"), BF16)


def quantised_product(path: Path, top: int) -> tuple[dict[str, NDArray[Any]], NDArray[np.floating[Any]]]:
    """A Q/DQ product whose weights reach `top`; its feed and what it means, in float64."""
    rng = np.random.default_rng(0)
    weight = rng.integers(top - 7, top + 1, (384, 16)).astype(np.int8)
    values = {"w": weight, "sw": np.full(16, 0.01, np.float32), "zw": np.zeros(16, np.int8),
              "sx": np.float32(0.02), "zx": np.int8(0), "bias": np.zeros(16, np.float32)}  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 384])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 16])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))
    whole = rng.integers(100, 128, (1, 8, 384))
    return {"x": (whole * 0.02).astype(np.float32)}, whole @ weight.astype(np.int64) * (0.02 * 0.01)


def test_int8_is_right_also_without_vnni(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    feed, want = quantised_product(path, top=127)
    int8 = open_backend(GraphFile(path=path, precision="int8"), backend="openvino", options=ONE_THREAD)
    np.testing.assert_allclose(int8.run(feed)["y"], want, rtol=1e-5)  # sums of 384 floats
    if not adds_int8_exactly():
        assert int8.name == "openvino (f32)"
        careless = open_backend(GraphFile(path=path), backend="openvino", options=ONE_THREAD)
        assert careless.name == "openvino (int8, f32)"
        assert careless.run(feed)["y"].max() < 0.5 * want.min()  # the control: left alone, it saturates


def test_int8_in_onnx_runtime_multiplies_int8_and_does_not_saturate(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    feed, want = quantised_product(path, top=127)
    int8 = open_backend(GraphFile(path=path, precision="int8"), backend="onnxruntime", options=ONE_THREAD)
    np.testing.assert_allclose(int8.run(feed)["y"], want, rtol=1e-5)  # as above
    kept = tmp_path / "optimised.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(kept)
    more = _int8_kernels(options)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], **more)
    assert "MatMulIntegerToFloat" in {node.op_type for node in onnx.load(str(kept)).graph.node}


@pytest.mark.parametrize(
    ("flags", "machine", "want"),
    [("avx2 fma", "x86_64", False), ("avx2 avx512_vnni", "x86_64", True), ("avx_vnni", "AMD64", True),
     ("", "x86_64", False), ("", "aarch64", True)],
)  # fmt: skip
def test_which_processors_add_int8_exactly(tmp_path: Path, flags: str, machine: str, want: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nmodel name : avx512_vnni\nflags\t\t: {flags}\n")
    assert adds_int8_exactly(cpuinfo, machine) is want
    assert adds_int8_exactly(tmp_path / "none", machine) is (machine == "aarch64")


def test_a_graph_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"OpenVINO [\d.]+ cannot load .*Could not open the file") as caught:
        open_backend(GraphFile(path=tmp_path / "none.onnx"), backend="openvino")
    assert "\n" not in str(caught.value)


def test_importing_openvino_tells_nobody(tmp_path: Path) -> None:
    code = (
        "import sys; from acd_edge.runtime.backends import preload; preload('openvino'); "
        "assert 'openvino' in sys.modules; "
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "HOME": str(tmp_path)})
    assert not list(tmp_path.iterdir())  # plain `import openvino` makes ~/intel with an identity


CLOSE_AND_STOP = """
import signal, sys
from acd_edge.runtime import Detector
from acd_edge.stop import Stopped, leave_at_once, raising
leave_at_once()
first, second = (Detector.load(sys.argv[1], product="brick road", backend="openvino") for _ in range(2))
first.close(), second.close()
try:
    with raising():
        signal.raise_signal(signal.SIGTERM)
except Stopped as stopped:
    print(stopped)
"""


def test_ctrl_c_after_closing_in_any_order_does_not_crash(talking_bundle: Path) -> None:
    """With a core for each graph, closed in the order of opening, it was a segmentation fault."""
    code = [sys.executable, "-c", CLOSE_AND_STOP, str(talking_bundle)]
    done = subprocess.run(code, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Terminated\n"), done.stderr
