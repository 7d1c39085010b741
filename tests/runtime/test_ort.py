"""ONNX Runtime on CUDA, against a made module: asking for a GPU and getting the CPU is an error. And its telemetry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from acd_edge.errors import BackendError, ConfigError, DeviceError, MissingExtra
from acd_edge.runtime.backends import BackendOptions, GraphFile, open_backend
from acd_edge.runtime.backends.ort import session_options

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class Ort:
    """A module `onnxruntime` with CUDA built in.

    Args:
        works: `yes`; `silent`: the provider is dropped without a word, as where cuDNN is absent; `raises`.
    """

    __version__ = "1.31.1"
    __spec__ = None

    def __init__(self, works: str, *, built_with: tuple[str, ...] = (CUDA, CPU)) -> None:
        self.works, self.built_with = works, built_with
        self.sessions: list[Any] = []
        self.severities: list[int] = []
        self.SessionOptions = lambda: SimpleNamespace(add_session_config_entry=lambda *_: None)
        self.ExecutionMode = SimpleNamespace(ORT_SEQUENTIAL=0)
        ort = self

        class InferenceSession:
            def __init__(self, path: str, options: Any, *, providers: list[Any], **kwargs: Any) -> None:
                self.settings = dict(each for each in providers if not isinstance(each, str))
                providers = [each if isinstance(each, str) else each[0] for each in providers]
                self.providers, self.options, self.fallback = providers, options, True
                if CUDA in providers:
                    assert kwargs == {"enable_fallback": 0}
                    print("*************** EP Error ***************")  # noqa: T201  # as the real one does
                    if ort.works == "raises":
                        raise RuntimeError("CUDA failure 35: driver is insufficient\nmore")
                    if ort.works == "silent":
                        self.providers = [CPU]
                ort.sessions.append(self)

            def get_providers(self) -> list[str]:
                return self.providers

            def disable_fallback(self) -> None:
                self.fallback = False

            def get_inputs(self) -> list[Any]:
                return [SimpleNamespace(name="x", type="tensor(float)", shape=[1])]

            def get_outputs(self) -> list[Any]:
                return [SimpleNamespace(name="y")]

        self.InferenceSession = InferenceSession

    def get_available_providers(self) -> list[str]:
        return list(self.built_with)

    def set_default_logger_severity(self, severity: int) -> None:
        self.severities.append(severity)


def opened(monkeypatch: pytest.MonkeyPatch, ort: Ort, *, precision: str = "fp32", **options: Any) -> Any:
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    graph = GraphFile(path=Path("model.onnx"), precision=precision)
    return open_backend(graph, backend="onnxruntime", options=BackendOptions(**options))


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_uses_cuda_where_it_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: Any
) -> None:
    ort = Ort("yes")
    backend = opened(monkeypatch, ort, device=device, threads=2)
    assert backend.name == "onnxruntime (CUDA)"
    [session] = ort.sessions
    assert session.providers == [CUDA, CPU]
    assert session.settings == {CUDA: {"use_tf32": "0"}}  # else an fp32 bundle would not be computed in float32
    assert not session.fallback, "a failing run would go on on the CPU"
    assert session.options.intra_op_num_threads == 2
    assert capsys.readouterr().out == "", "stdout is for results"
    assert ort.severities == [4, 2]


@pytest.mark.parametrize(
    ("ort", "words"),
    [
        (Ort("silent"), "CUDA, cuDNN or a driver"),
        (Ort("raises"), "CUDA failure 35: driver is insufficient"),
        (Ort("yes", built_with=(CPU,)), r"built for the CPU only; pip install 'acd-edge\[gpu\]'"),
    ],
    ids=["silent", "raises", "cpu build"],
)
def test_a_gpu_that_is_not_used_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ort: Ort, words: str
) -> None:
    with pytest.raises(DeviceError, match=words) as caught:
        opened(monkeypatch, ort, device="gpu")
    assert "\n" not in str(caught.value)
    assert opened(monkeypatch, ort).name == "onnxruntime"  # nobody asked for a GPU
    assert ort.sessions[-1].providers == [CPU]
    assert capsys.readouterr().out == ""


def test_the_cpu_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = Ort("yes")
    assert opened(monkeypatch, ort, device="cpu").name == "onnxruntime"
    assert [session.providers for session in ort.sessions] == [[CPU]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "cuda"}, "unknown device 'cuda'; known are auto, cpu, gpu"),
        ({"openvino_precision": "fp16"}, "unknown openvino_precision 'fp16'; known are f32, bf16"),
        ({"cuda": "cupy"}, "unknown cuda 'cupy'"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
    ids=str,
)
def test_options_check_themselves(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BackendOptions(**values)


def test_bf16_is_refused_on_the_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(monkeypatch, Ort("yes"), precision="bf16").name == "onnxruntime (CUDA)"
    with pytest.raises(BackendError, match="bf16"):
        opened(monkeypatch, Ort("yes"), precision="bf16", device="cpu")


@pytest.mark.parametrize(("threads", "spins"), [(None, True), (1, True), (3, False)])
def test_more_threads_than_processors_do_not_wait_on_a_processor(
    monkeypatch: pytest.MonkeyPatch, threads: int | None, spins: bool
) -> None:
    """256 threads that spin on two processors took five minutes for the tiny graph."""
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    options = session_options(ort, threads)
    if spins:
        with pytest.raises(RuntimeError, match="allow_spinning"):
            options.get_session_config_entry("session.intra_op.allow_spinning")
    else:
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


IMPORT = "from acd_edge.runtime.backends import preload; preload('onnxruntime'); import onnxruntime"


def imported(tmp_path: Path, code: str, more: Mapping[str, str]) -> tuple[str, list[str]]:
    """What a fresh process prints, and the files that it left in its home and among the temporary ones."""
    (tmp_path / "home").mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}  # CI turns it off
    places = dict.fromkeys(("HOME", "TMPDIR"), str(tmp_path / "home"))
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **places, **more}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), [each.name for each in (tmp_path / "home").rglob("*") if each.is_file()]


def test_the_library_leaves_nothing_and_calls_nobody(tmp_path: Path) -> None:
    """Its wheels for Linux else make an identity for the machine, and `.ses` among the temporary files."""
    assert imported(tmp_path, IMPORT, {}) == ("", [])


@pytest.mark.parametrize(("more", "seen"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")], ids=["unset", "set"])
def test_telemetry_is_off_before_the_import_unless_the_user_set_it(
    tmp_path: Path, more: dict[str, str], seen: str
) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        "import os; print(os.environ['ORT_DISABLE_TELEMETRY']); InferenceSession = 1"
    )
    assert imported(tmp_path, IMPORT, {"PYTHONPATH": str(tmp_path), **more})[0] == seen


def test_what_is_left_of_a_removed_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two builds were installed, one was removed: a folder stays, which imports as a module of nothing."""
    left = ModuleType("onnxruntime")
    left.__path__ = ["/site-packages/onnxruntime"]
    with pytest.raises(MissingExtra, match=r"/site-packages/onnxruntime has no InferenceSession.*acd-edge\[cpu\]"):
        opened(monkeypatch, left)  # type: ignore[arg-type]


def test_a_library_that_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libgomp: static TLS block\\nmore')")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtra, match=r"cannot be loaded \(libgomp: static TLS block\); install it again"):
        open_backend(GraphFile(path=Path("model.onnx")), backend="onnxruntime")
