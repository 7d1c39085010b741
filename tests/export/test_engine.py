"""Building, keeping and verifying engines on a machine without a GPU, with a TensorRT that records and can fail."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acd_edge.errors import AcdEdgeError, DeviceError, EngineError, OutputError
from acd_edge.export import engine as engine_module
from acd_edge.export.build import new_monitor
from acd_edge.export.engine import MODEL, compile_bundle, ensure_engine
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.engines import BuildOptions, all_engines, cache_root
from acd_edge.runtime.trt_module import trt_log
from tests.fake_builder import FakeBuilderRT, layers
from tests.fake_gpu import DESKTOP, JETSON, FakeCuda
from tests.tiny_bundle import write_tiny_bundle, write_true_bundle


class RoomyCuda(FakeCuda):
    """As much memory as a test says."""

    room = 8 << 30

    def free_bytes(self) -> int:
        return self.room


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def cuda() -> RoomyCuda:
    return RoomyCuda()


@pytest.fixture
def trt(cuda: RoomyCuda) -> FakeBuilderRT:
    return FakeBuilderRT(cuda)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_true_bundle(tmp_path / "tiny"))


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def compiled(bundle: Bundle, trt: FakeBuilderRT, cuda: RoomyCuda, lines: list[str]) -> Callable[..., Any]:
    def run(options: BuildOptions = BuildOptions(), **more: Any) -> Any:  # noqa: B008
        return compile_bundle(bundle, options, cuda=cuda, trt=trt, progress=lines.append, **more)

    return run


def left(cache: Path) -> list[str]:
    """Everything in the cache but the timing cache."""
    return sorted(
        str(each.relative_to(cache)) for each in cache.rglob("*") if each.is_file() and "timing" not in str(each)
    )


def test_a_bundle_becomes_two_verified_engines(
    compiled: Callable[..., Any], trt: FakeBuilderRT, bundle: Bundle, lines: list[str]
) -> None:
    model, text = compiled()
    assert [each.state for each in (model, text)] == ["verified", "verified"]
    assert (model.record.part, text.record.part) == ("model", "text encoder")
    assert model.record.key.graph == bundle.model_file.digest
    assert model.record.precision == "fp32"
    assert model.record.inputs["image"].dtype == "uint8"
    assert model.record.inputs["image"].shape == (1, 56, 56, 3)
    assert text.record.inputs["input_ids"].profile == ((1, 12), (16, 12), (64, 12))
    assert text.record.outputs["prompt_features"].shape == (-1, 2, 8)
    assert model.record.tools["tensorrt"] == trt.__version__
    assert model.plan_bytes() in trt.plans
    assert json.loads((model.folder / "verify.json").read_text())["passed"]
    assert any("this may take minutes" in line for line in lines)


def test_the_builder_is_asked_for_what_the_options_say(compiled: Callable[..., Any], trt: FakeBuilderRT) -> None:
    compiled(BuildOptions(workspace_mib=512, optimization_level=1), parts=[MODEL], verify=False)
    assert trt.asked == [
        "network 2",
        "parse_from_file",
        "timing cache b''",
        "build [('builder_optimization_level', 1), ('max_aux_streams', 0), ('profiling_verbosity', 'detailed'), "
        "('tf32', False), ('workspace', 536870912)]",
    ]


def test_the_value_of_strongly_typed_is_the_releases_own(bundle: Bundle, cuda: RoomyCuda) -> None:
    eleven = FakeBuilderRT(cuda, __version__="11.4.0.106")
    compile_bundle(bundle, cuda=cuda, trt=eleven, parts=[MODEL], verify=False)
    assert eleven.asked[0] == "network 1"


def test_what_is_there_is_used_and_force_builds_anew(
    compiled: Callable[..., Any], trt: FakeBuilderRT, lines: list[str]
) -> None:
    first = compiled()
    assert trt.built == 2
    lines.clear()
    assert compiled() == first
    assert trt.built == 2
    assert lines == [
        "model: the engine is there already, verified",
        "text encoder: the engine is there already, verified",
    ]
    again = compiled(force=True)
    assert trt.built == 4
    assert again[0].record.plan_sha256 != first[0].record.plan_sha256
    assert again[0].state == "verified"


@pytest.mark.parametrize(
    "spoil", [lambda plan: plan.write_bytes(b"cut"), lambda plan: plan.unlink()], ids=["cut", "gone"]
)
def test_an_engine_whose_plan_is_not_its_own_is_built_anew(
    compiled: Callable[..., Any], trt: FakeBuilderRT, lines: list[str], spoil: Callable[[Path], Any]
) -> None:
    spoil(compiled(parts=[MODEL])[0].plan_path)
    (engine,) = compiled(parts=[MODEL])
    assert (engine.state, trt.built) == ("verified", 2)
    assert engine.plan_bytes() in trt.plans
    assert any("engine.plan was altered" in line or "engine.plan is missing" in line for line in lines)


def test_a_rebuild_says_what_differs(
    compiled: Callable[..., Any], bundle: Bundle, trt: FakeBuilderRT, lines: list[str]
) -> None:
    compiled(parts=[MODEL])
    compiled(BuildOptions(workspace_mib=512), parts=[MODEL])
    assert "model: build the engine anew, since the workspace was 1024 MiB, is 512 MiB" in lines
    moved = RoomyCuda(JETSON)
    compile_bundle(bundle, cuda=moved, trt=FakeBuilderRT(moved), parts=[MODEL], progress=lines.append)
    assert any("the driver was 560.35.3, is 540.4.0" in line and "the GPU was Made GPU" in line for line in lines)


def test_the_timing_cache_of_the_device_is_used_again(compiled: Callable[..., Any], trt: FakeBuilderRT) -> None:
    compiled()
    assert [each for each in trt.asked if "timing" in each] == ["timing cache b''", "timing cache b'measured'"]
    trt.fail.add("cache")  # it is refused: a new one is begun
    trt.asked.clear()
    compiled(force=True, parts=[MODEL])
    assert [each for each in trt.asked if "timing" in each] == ["timing cache b'measured'", "timing cache b''"]


def test_an_engine_that_computes_something_else_is_kept_as_failed(
    compiled: Callable[..., Any], trt: FakeBuilderRT, bundle: Bundle, cuda: RoomyCuda
) -> None:
    trt.drift = 0.5
    assert [each.state for each in compiled()] == ["failed", "failed"]
    with pytest.raises(EngineError, match=r"failed its verification.*acd-edge verify"):
        ensure_engine(bundle, cuda=cuda, trt=trt)
    trt.drift = 0.0
    assert [each.state for each in compiled(force=True)] == ["verified", "verified"]
    assert [each.state for each in ensure_engine(bundle, cuda=cuda, trt=trt)] == ["verified", "verified"]


def test_without_verification_an_engine_is_never_verified(compiled: Callable[..., Any]) -> None:
    assert [each.state for each in compiled(verify=False)] == ["never verified"] * 2
    assert [each.state for each in compiled()] == ["verified"] * 2  # without building again


def test_ensure_builds_what_is_missing_and_uses_any_options(
    compiled: Callable[..., Any], bundle: Bundle, trt: FakeBuilderRT, cuda: RoomyCuda
) -> None:
    compiled(BuildOptions(optimization_level=5), parts=[MODEL])
    assert trt.built == 1
    model, text = ensure_engine(bundle, cuda=cuda, trt=trt)
    assert trt.built == 2
    assert model.record.key.options.optimization_level == 5
    assert text.record.key.options == BuildOptions()
    assert (model.state, text.state) == ("verified", "verified")


def test_ensure_verifies_what_was_never_verified(
    compiled: Callable[..., Any], bundle: Bundle, trt: FakeBuilderRT, cuda: RoomyCuda
) -> None:
    compiled(verify=False)
    assert [each.state for each in ensure_engine(bundle, cuda=cuda, trt=trt)] == ["verified"] * 2
    assert trt.built == 2


def test_of_two_compiles_at_once_the_later_one_finds_the_engine_of_the_first(
    bundle: Bundle, trt: FakeBuilderRT, cuda: RoomyCuda, cache: Path
) -> None:
    """Else both took the memory at once, and the second ended with 'Directory not empty'."""
    waits = threading.Event()
    trt.on_step = lambda _: None if waits.wait(10) else pytest.fail("the second did not wait")
    found: list[Any] = []

    def compile_it() -> None:
        def progress(line: str) -> None:
            if "another acd-edge builds" in line:
                waits.set()

        found.append(compile_bundle(bundle, cuda=cuda, trt=trt, parts=[MODEL], progress=progress))

    threads = [threading.Thread(target=compile_it) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert (found[0][0].state, trt.built) == ("verified", 1)
    assert len(left(cache)) == 3  # the lock leaves no file


def test_a_disk_without_locks_builds_all_the_same(
    compiled: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none)
    assert compiled(parts=[MODEL])[0].state == "verified"


def test_ensure_takes_the_parts_that_are_used(bundle: Bundle, trt: FakeBuilderRT, cuda: RoomyCuda) -> None:
    (engine,) = ensure_engine(bundle, parts=["text encoder"], cuda=cuda, trt=trt)
    assert (engine.record.part, trt.built) == ("text encoder", 1)


def test_a_text_encoder_that_failed_does_not_end_a_run_of_the_model(
    compiled: Callable[..., Any], bundle: Bundle, trt: FakeBuilderRT, cuda: RoomyCuda, lines: list[str]
) -> None:
    """TensorRT 10.11 to 11.1 are said to get such a graph wrong; the bundle's own products do without it."""
    compiled(parts=[MODEL])
    trt.drift = 0.5
    (model,) = ensure_engine(bundle, cuda=cuda, trt=trt, progress=lines.append)
    assert (model.record.part, model.state) == ("model", "verified")
    assert any("text encoder's engine failed" in line and "do not need it" in line for line in lines)
    with pytest.raises(EngineError, match="text encoder's engine failed its verification"):
        ensure_engine(bundle, parts=["text encoder"], cuda=cuda, trt=trt)


def test_the_precision_is_read_back_and_a_mismatch_drops_the_engine(
    compiled: Callable[..., Any], trt: FakeBuilderRT, cache: Path
) -> None:
    trt.inspector = layers("Half")
    with pytest.raises(EngineError, match=r"model is fp32 and the engine computes in fp16: TensorRT 10\.3\.0 did not"):
        compiled()
    assert left(cache) == []


def test_an_engine_that_tells_no_types_is_kept_with_a_word(
    compiled: Callable[..., Any], trt: FakeBuilderRT, lines: list[str]
) -> None:
    trt.inspector = '{"Layers": ["a", "b"]}'
    assert compiled(parts=[MODEL])[0].record.precision == "unknown"
    trt.inspector = "no JSON"
    assert compiled(parts=[MODEL], force=True)[0].record.precision == "unknown"
    assert any("does not tell what the engine computes in" in line for line in lines)


@pytest.mark.parametrize(("kind", "told"), [("Half", True), ("Float", False)])
def test_attention_that_is_no_single_kernel_is_told(
    kind: str,
    told: bool,
    tmp_path: Path,
    trt: FakeBuilderRT,
    cuda: RoomyCuda,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "op_types", lambda _: {"MatMul", "Softmax"})
    trt.inspector = layers(kind)
    precision = {"Half": "fp16", "Float": "fp32"}[kind]
    half = Bundle.open(write_tiny_bundle(tmp_path / precision, precision=precision))
    assert compile_bundle(half, cuda=cuda, trt=trt, progress=lines.append)[0].record.precision == precision
    assert any("no attention became one kernel" in line for line in lines) is told


def test_a_timing_cache_that_is_refused_is_not_the_reason_of_what_fails_later(
    compiled: Callable[..., Any], trt: FakeBuilderRT
) -> None:
    compiled(parts=[MODEL])
    trt.fail, trt.says = {"cache", "build"}, "Something else"
    with pytest.raises(EngineError, match=r"cannot build this graph \(TensorRT: Something else\)"):
        compiled(parts=[MODEL], force=True)


FAILURES = [
    ("builder", "CUDA initialization failure with error: 35", DeviceError, "driver is absent, or does not fit"),
    ("runtime", "", DeviceError, "driver is absent, or does not fit its CUDA; see acd-edge doctor"),
    ("parse", "Non-zero zero point is not supported.", EngineError, "quantised asymmetrically.*MatMul blocks.0/MatMul"),
    ("parse", "No importer registered for op: Foo", EngineError, "does not take the operator Foo"),
    ("empty", "", EngineError, "TensorRT finds nothing in .*model.onnx"),
    ("build", "Could not find any implementation for node {ForeignNode[a...b]}", EngineError, "ran out of memory at"),
    ("build", "", EngineError, "gave no engine and no reason"),
    ("deserialize", "Version tag does not match", EngineError, "cannot be loaded: the engine is of another TensorRT"),
]


@pytest.mark.parametrize(("fail", "says", "kind", "words"), FAILURES, ids=lambda value: str(value)[:24])
def test_failures_are_one_line_and_leave_nothing(
    fail: str,
    says: str,
    kind: type[AcdEdgeError],
    words: str,
    compiled: Callable[..., Any],
    trt: FakeBuilderRT,
    cache: Path,
) -> None:
    trt.fail, trt.says = {fail}, says
    with pytest.raises(kind, match=words) as caught:
        compiled()
    assert "\n" not in str(caught.value)
    assert left(cache) == []


def test_a_profile_that_is_refused(compiled: Callable[..., Any], trt: FakeBuilderRT) -> None:
    trt.fail = {"profile"}
    with pytest.raises(EngineError, match="refuses the range of input_ids, attention_mask: 1 to 64 prompts"):
        compiled()


def test_a_full_disk_leaves_no_half_engine(
    compiled: Callable[..., Any], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device; nothing was changed"):
        compiled()
    assert left(cache) == []


def test_too_little_memory_or_disk_is_told_before_the_build(
    bundle: Bundle, trt: FakeBuilderRT, cuda: RoomyCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda.room = 1 << 30
    with pytest.raises(
        DeviceError, match=r"may take 1,536 MiB and 1,024 MiB are free; lower --workspace \(now 1024 MiB"
    ):
        compile_bundle(bundle, cuda=cuda, trt=trt)
    assert compile_bundle(bundle, BuildOptions(workspace_mib=256), cuda=cuda, trt=trt)[0].state == "verified"
    shared = RoomyCuda(JETSON)
    shared.room = 100 << 20
    monkeypatch.setattr(engine_module, "_available", lambda: 2 << 30)  # the system would give up its cache
    assert compile_bundle(bundle, cuda=shared, trt=FakeBuilderRT(shared), parts=[MODEL])[0].state == "verified"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1})())
    with pytest.raises(OutputError, match=r"0 MiB left and an engine .* set ACD_EDGE_CACHE"):
        compile_bundle(bundle, cuda=RoomyCuda(DESKTOP), trt=trt, force=True)


def test_a_release_known_to_fail_on_the_graph_is_refused(bundle: Bundle, cuda: RoomyCuda) -> None:
    with pytest.raises(EngineError, match="too old: it chooses precisions by itself"):
        compile_bundle(bundle, cuda=cuda, trt=FakeBuilderRT(cuda, __version__="8.6.1"))


def test_a_report_that_wants_verification_first_is_told_and_kept(
    bundle: Bundle, trt: FakeBuilderRT, cuda: RoomyCuda, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "op_types", lambda _: {"MatMul", "Softmax"})
    engine, *_ = compile_bundle(bundle, cuda=cuda, trt=trt, progress=lines.append)
    assert any("used after verification only: TensorRT 10.3, vision transformers" in line for line in lines)
    assert any("issues/4723" in note for note in engine.record.notes)
    monkeypatch.setattr(engine_module, "op_types", lambda _: {"Attention"})
    with pytest.raises(EngineError, match=r"ONNX's Attention operator.*use another release"):
        compile_bundle(bundle, cuda=cuda, trt=FakeBuilderRT(cuda, __version__="11.0.0"))


def test_ctrl_c_cancels_at_the_next_step_and_leaves_nothing(
    bundle: Bundle, cuda: RoomyCuda, trt: FakeBuilderRT, cache: Path, lines: list[str]
) -> None:
    steps: list[str] = []

    def on_step(phase: str) -> None:
        steps.append(phase)
        if len(steps) == 1:
            os.kill(os.getpid(), signal.SIGINT)  # the build's own thread goes on until the main one has seen it
            seen.wait(10)

    seen = threading.Event()
    trt.on_step = on_step

    def progress(line: str) -> None:
        lines.append(line)
        if "stopping" in line:
            seen.set()

    with pytest.raises(KeyboardInterrupt):
        compile_bundle(bundle, cuda=cuda, trt=trt, progress=progress)
    assert len(steps) == 1
    assert "stopping at TensorRT's next step; Ctrl-C again leaves at once" in lines
    assert left(cache) == []


def test_ctrl_c_between_any_two_steps_leaves_no_half_engine(
    bundle: Bundle, cuda: RoomyCuda, trt: FakeBuilderRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    compile_bundle(bundle, cuda=cuda, trt=trt, progress=steps.append)
    for last, step in enumerate(steps):
        monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / f"cache{last}"))
        told: list[str] = []

        def stop(line: str, told: list[str] = told, last: int = last) -> None:
            told.append(line)
            if len(told) > last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            compile_bundle(bundle, cuda=cuda, trt=trt, progress=stop)
        gc.collect()
        assert not any((cuda.memory, cuda.queues, cuda.graphs)), step
        kept = left(cache_root())
        assert not [name for name in kept if "/." in name], step
        for engine in all_engines():
            assert engine.state in ("never verified", "verified"), step
            assert engine.plan_bytes(), step
        after = compile_bundle(bundle, cuda=cuda, trt=trt)  # and nothing is locked
        assert [each.state for each in after] == ["verified", "verified"]


def test_the_monitor_tells_how_far_it_is_at_most_every_five_seconds(trt: FakeBuilderRT) -> None:
    told: list[str] = []
    now = [0.0]
    monitor: Any = new_monitor(trt, told.append, clock=lambda: now[0])
    monitor.phase_start("Tactic timing", None, 40)
    for step in range(40):
        now[0] += 0.3125
        assert monitor.step_complete("Tactic timing", step)
    monitor.phase_finish("Tactic timing")
    assert told == ["TensorRT: Tactic timing, 40 %", "TensorRT: Tactic timing, 80 %"]


def test_a_progress_that_fails_does_not_leave_the_callback(trt: FakeBuilderRT) -> None:
    def broken(_: str) -> None:
        raise BrokenPipeError

    now = [0.0]
    monitor: Any = new_monitor(trt, broken, clock=lambda: now[0])
    now[0] = 9.0
    assert monitor.step_complete("phase", 0) is False


def test_the_builder_and_the_backend_share_the_processes_logger(
    compiled: Callable[..., Any], trt: FakeBuilderRT
) -> None:
    compiled()
    assert trt.cuda.calls.count("logger") == 1
    assert trt_log(trt) is trt_log(trt)
    assert cache_root().name == "cache"
