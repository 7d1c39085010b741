"""Which engine the TensorRT backend runs, what it says where it runs none, and what `auto` takes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from acd_edge.errors import AcdEdgeError, BackendError, DeviceError, EngineError
from acd_edge.runtime import Detector
from acd_edge.runtime.backends import BACKENDS, BackendOptions, choice, open_backend, preload, trt
from acd_edge.runtime.bundle import Bundle
from tests.fake_gpu import FakeCuda
from tests.made_machine import Machine
from tests.tiny_bundle import write_tiny_bundle

# which engine, and what is said of it


def test_says_which_command_makes_an_engine(bundle: Path, machine: Machine) -> None:
    with pytest.raises(EngineError, match=f"no TensorRT engine.*acd-edge compile {bundle}$"):
        Detector.load(bundle, backend="tensorrt")
    with pytest.raises(EngineError, match=r"acd-edge compile$"):
        Detector.load(backend="tensorrt")
    assert "runtime" not in machine.calls


def test_names_what_differs_in_a_stale_engine(bundle: Path, machine: Machine) -> None:
    machine.engine(bundle, driver="540.3", tensorrt="8.9")
    with pytest.raises(
        EngineError, match=r"does not fit.*TensorRT was 8\.9, is 10\.3\.0; the driver was 540\.3, is 560"
    ):
        Detector.load(bundle, backend="tensorrt")
    machine.engine(bundle)
    Detector.load(bundle, backend="tensorrt").close()


def test_refuses_an_engine_that_failed(bundle: Path, machine: Machine) -> None:
    machine.engine(bundle, passed=False)
    with pytest.raises(EngineError, match=f"failed its verification.*acd-edge verify {bundle}.*acd-edge compile"):
        Detector.load(bundle, backend="tensorrt")


def test_warns_once_of_an_engine_never_verified(
    bundle: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.engine(bundle, passed=None)
    for _ in range(2):
        Detector.load(bundle, backend="tensorrt").close()
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"acd-edge verify {bundle}" in warnings[0]


def test_an_altered_plan_is_never_deserialised(bundle: Path, machine: Machine) -> None:
    engine = machine.engine(bundle)
    engine.plan_path.write_bytes(b"another plan, of someone else")
    with pytest.raises(EngineError, match="altered"):
        Detector.load(bundle, backend="tensorrt")
    assert "deserialize" not in machine.calls


@pytest.mark.parametrize(
    "options",
    [BackendOptions(device="cpu"), BackendOptions(threads=2), BackendOptions(openvino_precision="bf16")],
    ids=["cpu", "threads", "bf16"],
)
def test_refuses_what_it_has_no_use_for(bundle: Path, machine: Machine, options: BackendOptions) -> None:
    machine.engine(bundle)
    with pytest.raises(AcdEdgeError, match="so it takes no"):
        Detector.load(bundle, backend="tensorrt", options=options)


# auto


def chosen(bundle: Path, **options: Any) -> str:
    with Detector.load(bundle, options=BackendOptions(**options)) as detector:
        return detector.backend_name


@pytest.fixture
def _tensorrt_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = choice.is_installed
    monkeypatch.setattr(choice, "is_installed", lambda name: name == "tensorrt" or real(name))


@pytest.mark.usefixtures("_tensorrt_is_installed")
class TestAuto:
    def test_takes_a_verified_engine(self, bundle: Path, machine: Machine) -> None:
        machine.engine(bundle)
        assert chosen(bundle) == "tensorrt (fp16)"
        assert chosen(bundle, device="gpu") == "tensorrt (fp16)"

    @pytest.mark.parametrize("options", [{"device": "cpu"}, {"threads": 1}])
    def test_passes_over_what_cannot_do_as_asked(self, bundle: Path, machine: Machine, options: Any) -> None:
        machine.engine(bundle)
        assert chosen(bundle, **options) == "onnxruntime"

    @pytest.mark.parametrize(
        ("engine", "words"),
        [
            (None, "make one with: acd-edge compile"),
            ({"passed": None}, "never verified; do it with: acd-edge verify"),
            ({"passed": False}, "failed its verification"),
            ({"driver": "540.3"}, "the driver was 540.3, is 560.35.3"),
        ],
        ids=["none", "never verified", "failed", "stale"],
    )
    def test_tells_in_one_line_why_it_does_not(
        self, bundle: Path, machine: Machine, caplog: pytest.LogCaptureFixture, engine: Any, words: str
    ) -> None:
        if engine is not None:
            machine.engine(bundle, **engine)
        assert [chosen(bundle), chosen(bundle)] == ["onnxruntime"] * 2
        warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert words in warnings[0]
        assert "\n" not in warnings[0]
        assert "deserialize" not in machine.calls

    @pytest.mark.parametrize("spoil", ["plan", "deserialize"])
    def test_passes_over_an_engine_that_cannot_be_loaded(
        self, bundle: Path, machine: Machine, caplog: pytest.LogCaptureFixture, spoil: str
    ) -> None:
        """Its stamp says verified, and its plan was cut or is none to TensorRT: a line must not stop for that."""
        engine = machine.engine(bundle)
        if spoil == "plan":
            engine.plan_path.write_bytes(b"cut")
        else:
            machine.trt.fail, machine.trt.says = {spoil}, "Version tag does not match"
        assert chosen(bundle) == "onnxruntime"
        (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert "onnxruntime runs the graph, not TensorRT: " in warning
        assert "acd-edge compile BUNDLE --force" in warning
        assert machine.released()
        with pytest.raises(EngineError):
            Detector.load(bundle, backend="tensorrt")

    def test_says_nothing_where_there_is_no_gpu(
        self, bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def no_device(which: str = "auto") -> FakeCuda:
            raise DeviceError("no NVIDIA GPU is visible")

        monkeypatch.setattr(trt, "open_cuda", no_device)
        assert chosen(bundle) == "onnxruntime"
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    def test_is_an_error_where_only_tensorrt_is_installed(
        self, bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(choice, "is_installed", lambda name: name == "tensorrt")
        with pytest.raises(BackendError, match=r"only TensorRT.*make one with: acd-edge compile"):
            Detector.load(bundle)

    def test_takes_openvino_only_without_onnx_runtime(
        self, bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Bundle.open(bundle) as opened:
            graph = opened.model_file
        monkeypatch.setattr(choice, "is_installed", lambda name: name != "tensorrt")
        assert choice.choose_backend(graph, BackendOptions()) == "onnxruntime"
        monkeypatch.setattr(choice, "is_installed", lambda name: name == "openvino")
        assert choice.choose_backend(graph, BackendOptions()) == "openvino"


def test_the_graph_of_another_bundle_has_no_engine(tmp_path: Path, bundle: Path, machine: Machine) -> None:
    machine.engine(bundle)
    other = write_tiny_bundle(tmp_path / "other", text_encoder=True)
    with Bundle.open(other) as opened, Bundle.open(bundle) as own:
        assert opened.model_file.digest == own.model_file.digest  # the same graph: the engine serves both
        open_backend(opened.model_file, backend="tensorrt").close()
        text = opened.text_encoder_file
        assert text is not None
        with pytest.raises(EngineError, match="no TensorRT engine"):
            open_backend(text, backend="tensorrt")


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_preloading_never_fails(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    preload(backend)
    for library in BACKENDS:
        monkeypatch.setitem(sys.modules, library, None)
    preload(backend)  # what is missing is told when the graph is opened
