"""The TensorRT backend against a GPU that records: order of calls, release, CUDA graph, choice of the engine."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from acd_edge.errors import AcdEdgeError, BackendError, DeviceError, EngineError, ShapeError
from acd_edge.runtime import Detector
from acd_edge.runtime.backends.trt import TrtBackend
from acd_edge.runtime.stages import TellsStages
from acd_edge.runtime.trt_module import trt_log
from tests.fake_gpu import DataType, FakeCuda, IoTensor, Plan
from tests.made_machine import PLAN, PROMPTS, TEXT_PLAN, Machine
from tests.tiny_bundle import DIM, GROUPS, LENGTH, SIZE, WORDS


def picture(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def plain(calls: list[str]) -> list[str]:
    """Names of the calls, without their arguments."""
    return [call.split(" ")[0] if not call.startswith("del ") else call for call in calls]


# what a run computes and in which order


def test_says_what_onnx_runtime_says(bundle: Path, machine: Machine) -> None:
    machine.engine(bundle)
    with Detector.load(bundle, backend="tensorrt") as ours, Detector.load(bundle, backend="onnxruntime") as theirs:
        for seed in range(3):
            mine, other = ours.predict(picture(seed)), theirs.predict(picture(seed))
            assert mine.score == pytest.approx(other.score, abs=1e-6)  # rounding of a mean over three channels
            np.testing.assert_allclose(mine.model_map, other.model_map, atol=1e-6)
        assert ours.predict(picture(0)).score != ours.predict(picture(1)).score
        assert ours.backend_name == "tensorrt (fp16)"
    assert machine.released()


def test_prepares_in_the_right_order(bundle: Path, machine: Machine) -> None:
    machine.engine(bundle)
    with Detector.load(bundle, backend="tensorrt"):
        calls = plain(machine.calls)
    made = ["logger", "runtime", "deserialize", "context", "create_stream", "set_tensor_address", "execute"]
    assert [calls.index(call) for call in made] == sorted(calls.index(call) for call in made)
    last_address = max(index for index, call in enumerate(calls) if call == "set_tensor_address")
    first_execute, begin, end = calls.index("execute"), calls.index("begin_capture"), calls.index("end_capture")
    assert last_address < first_execute, "an enqueue came before an address"
    warmed_up = calls[first_execute:begin]
    assert warmed_up[-1] == "synchronize", "no plain run was finished before the capture"
    assert calls[begin + 1 : end] == ["execute"], "something else than the enqueue lies in the capture"


def test_a_run_copies_and_launches_on_one_stream(bundle: Path, machine: Machine) -> None:
    machine.engine(bundle)
    with Detector.load(bundle, backend="tensorrt") as detector:
        stream = next(iter(machine.cuda.queues))
        machine.calls.clear()
        detector.predict(picture())
        assert machine.calls == [
            *[f"copy_to_device on {stream}"] * 2,
            f"launch_graph on {stream}",
            *[f"copy_to_host on {stream}"] * 3,
            f"synchronize {stream}",
        ]


def test_a_jetson_copies_nothing(bundle: Path, jetson: Machine) -> None:
    jetson.engine(bundle)
    with Detector.load(bundle, backend="tensorrt") as detector:
        white = detector.predict(np.full((SIZE, SIZE, 3), 255, np.uint8))
        assert white.model_map.min() == white.model_map.max() == 1.0
        assert plain(jetson.calls).count("malloc") == 0
        assert "host_buffer mapped" in jetson.calls
        assert not [call for call in jetson.calls if call.startswith("copy")]
        assert "memory shared with the CPU" in detector.backend.details  # type: ignore[attr-defined]
    assert jetson.released()


def test_outputs_are_fresh(bundle: Path, machine: Machine) -> None:
    machine.engine(bundle)
    with Detector.load(bundle, backend="tensorrt") as detector:
        first = detector.predict(picture(0)).model_map
        kept = first.copy()
        detector.predict(picture(1))
        np.testing.assert_array_equal(first, kept)


def test_tells_copying_from_computing(bundle: Path, machine: Machine) -> None:
    machine.engine(bundle)
    with Detector.load(bundle, backend="tensorrt") as detector:
        backend = detector.backend
        assert isinstance(backend, TellsStages)
        detector.predict(picture())
        assert backend.stage_ms == {}
        assert "create_event" not in machine.calls
        backend.tell_stages(True)
        detector.predict(picture())
        assert backend.stage_ms == {"copy": 2.0, "infer": 1.0}  # the made clock ticks once an event
        backend.tell_stages(False)
        machine.calls.clear()
        detector.predict(picture())
        assert not [call for call in machine.calls if call.startswith("record_event")]
    assert machine.released()


# CUDA graphs and where there are none


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize(
    ("cuda", "trt_fails", "reason"),
    [
        (FakeCuda(name="pycuda", supports_graphs=False), set(), "pycuda has none"),
        (FakeCuda(), {"capture"}, "refuses to run the engine"),
        (FakeCuda(fail={"begin_capture": 0}), set(), "made failure of begin_capture"),
        (FakeCuda(fail={"end_capture": 0}), set(), "made failure of end_capture"),
    ],
    ids=["pycuda", "execute", "begin", "end"],
)
def test_enqueues_where_no_graph_can_be(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cuda: FakeCuda,
    trt_fails: set[str], reason: str,
) -> None:  # fmt: skip
    machine = Machine(monkeypatch, cuda)
    machine.trt.fail = trt_fails
    machine.engine(bundle)
    with caplog.at_level(logging.INFO, "acd_edge"), Detector.load(bundle, backend="tensorrt") as detector:
        assert not detector.backend.uses_graph  # type: ignore[attr-defined]
        assert reason in detector.backend.details  # type: ignore[attr-defined]
        machine.calls.clear()
        result = detector.predict(np.full((SIZE, SIZE, 3), 255, np.uint8))
        assert result.model_map.max() == 1.0
        assert [call for call in plain(machine.calls) if "copy" not in call] == ["execute", "synchronize"]
    assert len([record for record in caplog.records if "without a CUDA graph" in record.message]) == 1
    assert machine.released()


# release


def test_releases_in_the_reverse_order(bundle: Path, machine: Machine) -> None:
    machine.engine(bundle)
    detector = Detector.load(bundle, backend="tensorrt")
    machine.calls.clear()
    detector.close()
    calls = plain(machine.calls)
    assert calls[0] == "synchronize"
    assert calls[1] == "destroy_graph"
    assert set(calls[2:-4]) == {"free", "free_host"}
    assert calls[-4:] == ["destroy_stream", "del context", "del engine", "del runtime"]
    machine.calls.clear()
    detector.close()
    assert machine.calls == []
    with pytest.raises(BackendError, match="closed"):
        detector.predict(picture())


def loads(bundle: Path) -> AcdEdgeError:
    """The error that loading ends in, without the frames that it passed."""
    try:
        Detector.load(bundle, backend="tensorrt").close()
    except AcdEdgeError as error:
        return error.with_traceback(None)
    raise AssertionError("it loaded")


@pytest.mark.usefixtures("_cache")
@pytest.mark.parametrize(
    ("call", "after"),
    [
        *[(call, after) for call in ("host_buffer", "malloc", "copy_to_device") for after in (0, 1)],
        *[("create_stream", 0), ("synchronize", 0)],  # called once
    ],
)
def test_a_failing_constructor_leaves_nothing(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    machine = Machine(monkeypatch, FakeCuda(fail={call: after}))
    machine.engine(bundle)
    assert isinstance(loads(bundle), DeviceError)
    assert machine.released()
    assert plain(machine.calls)[-3:] == ["del context", "del engine", "del runtime"]


@pytest.mark.parametrize(
    ("fails", "says", "error", "words"),
    [
        ("runtime", "", DeviceError, "the NVIDIA driver does not fit it"),
        ("deserialize", "The engine plan file is not compatible", EngineError, "is not compatible.*build it again"),
        ("deserialize", "Requested amount of GPU memory (600) could not be allocated", DeviceError, "no memory"),
        ("deserialize", "Cuda Runtime (cudaError 35: insufficient driver)", DeviceError, "cannot use the GPU.*doctor"),
        ("context", "", DeviceError, "no memory for the engine's context: it takes 27 MiB, 3 MiB are free"),
        ("execute", "", BackendError, "TensorRT 10.3.0 refuses to run the engine"),
        ("address", "", BackendError, "refuses the address of image"),
    ],
)
def test_refusals_are_one_line(
    bundle: Path, machine: Machine, fails: str, says: str, error: type[Exception], words: str
) -> None:
    machine.engine(bundle)
    machine.trt.fail, machine.trt.says = {fails}, says
    found = loads(bundle)
    assert type(found) is error
    assert "\n" not in str(found)
    with pytest.raises(type(found), match=words):
        raise found
    assert machine.released()


def test_the_real_library_without_a_driver_is_one_line(bundle: Path, machine: Machine) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="NVIDIA's compiler is not installed")
    engine = machine.engine(bundle)
    builder = rtx.Builder(trt_log(rtx))  # loads the library as a build in the same process would
    with pytest.raises((DeviceError, EngineError)) as caught:
        TrtBackend.of_engine(engine, cuda=machine.cuda, trt=rtx)
    assert "TensorRT says" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert machine.released()
    del builder


def test_a_failure_in_the_middle_settles_the_stream(bundle: Path, machine: Machine) -> None:
    machine.engine(bundle)
    detector = Detector.load(bundle, backend="tensorrt")
    machine.cuda.fail["copy_to_host"] = 1  # one output is on its way when the second is refused
    with pytest.raises(DeviceError):
        detector.predict(picture())
    assert not any(machine.cuda.queues.values()), "work was left in flight"
    del machine.cuda.fail["copy_to_host"]
    assert detector.predict(np.full((SIZE, SIZE, 3), 255, np.uint8)).model_map.max() == 1.0
    detector.close()
    assert machine.released()


def test_a_broken_device_does_not_keep_the_rest(bundle: Path, machine: Machine) -> None:
    machine.engine(bundle)
    detector = Detector.load(bundle, backend="tensorrt")
    machine.cuda.fail.update(free=0, free_host=0, destroy_graph=0, destroy_stream=0, synchronize=0)
    machine.calls.clear()
    detector.close()
    assert plain(machine.calls)[-3:] == ["del context", "del engine", "del runtime"]


def test_a_device_that_is_gone_keeps_nothing_of_ours(
    bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error that stays, CUDA refuses to make the device current, too."""
    machine.engine(bundle)
    detector = Detector.load(bundle, backend="tensorrt")

    def gone() -> None:
        raise DeviceError("CUDA refused cudaSetDevice")

    monkeypatch.setattr(machine.cuda, "active", gone)
    machine.calls.clear()
    detector.close()
    assert plain(machine.calls)[-3:] == ["del context", "del engine", "del runtime"]


def test_a_type_without_a_numpy_type_is_refused(bundle: Path, machine: Machine) -> None:
    plan = machine.trt.plans[PLAN]
    machine.trt.plans[PLAN] = Plan(
        {**plan.tensors, "anomaly_map": IoTensor(DataType.BF16, (1, SIZE, SIZE))}, plan.compute
    )
    machine.engine(bundle)
    with pytest.raises(BackendError, match="anomaly_map has type BF16"):
        Detector.load(bundle, backend="tensorrt")
    assert machine.released()


# several workers


def test_two_backends_share_weights_and_nothing_else(bundle: Path, machine: Machine) -> None:
    engine = machine.engine(bundle)
    backends = [TrtBackend.of_engine(engine, cuda=machine.cuda, trt=machine.trt) for _ in range(2)]
    calls = plain(machine.calls)
    assert (calls.count("deserialize"), calls.count("context"), calls.count("create_stream")) == (1, 2, 2)
    assert calls.count("malloc") == 10
    features = np.zeros((1, GROUPS, 2, DIM), np.float32)
    found: dict[int, float] = {}

    def work(index: int) -> None:
        for _ in range(20):
            pixels = np.full((1, SIZE, SIZE, 3), 255 * index, np.uint8)
            found[index] = float(
                backends[index].run({"image": pixels, "text_features": features})["anomaly_map"].mean()
            )
            assert found[index] == float(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: 0.0, 1: 1.0}
    backends[0].close()
    assert "del engine" not in machine.calls
    backends[1].close()
    assert plain(machine.calls)[-2:] == ["del engine", "del runtime"]
    assert machine.released()


# the text encoder


def test_a_new_product_needs_no_other_library(
    talking_bundle: Path, jetson: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Detector.load(talking_bundle, product="brick road", backend="onnxruntime") as detector:
        theirs = detector.predict(picture()).score
    for plan in (PLAN, TEXT_PLAN):
        jetson.engine(talking_bundle, plan=plan)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with Detector.load(talking_bundle, product="brick road") as detector:  # auto: both engines are verified
        assert detector.predict(picture()).score == pytest.approx(theirs, abs=1e-5)
        known = detector.predict(picture()).score
        detector.set_product("metal_nut")
        assert detector.predict(picture()).score != known
    assert jetson.released()


def test_a_free_axis_gets_buffers_for_the_longest(talking_bundle: Path, machine: Machine) -> None:
    engine = machine.engine(talking_bundle, plan=TEXT_PLAN)
    backend = TrtBackend.of_engine(engine, cuda=machine.cuda, trt=machine.trt)
    assert backend.inputs["input_ids"].shape == (None, LENGTH)
    assert "a shape is free" in backend.details
    rng = np.random.default_rng(0)
    found = {}
    for count in (3, PROMPTS, 1):
        ids = rng.integers(2, len(WORDS), (count, LENGTH))
        found[count] = backend.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})["prompt_features"]
        assert found[count].shape == (count, GROUPS, DIM)
        np.testing.assert_allclose(np.linalg.norm(found[count], axis=2), 1, atol=1e-5)
    calls = plain(machine.calls)
    assert calls.count("malloc") == 3
    assert calls.count("set_tensor_address") == 3
    shaped = max(index for index, call in enumerate(calls) if call == "infer_shapes")
    assert shaped < max(index for index, call in enumerate(calls) if call == "execute")
    ids = np.ones((PROMPTS + 1, LENGTH), np.int64)
    with pytest.raises(ShapeError, match="at most"):
        backend.run({"input_ids": ids, "attention_mask": ids})
    backend.close()
    assert machine.released()
