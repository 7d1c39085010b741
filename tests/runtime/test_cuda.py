"""Both CUDA bindings against made ones, and the real cuda-python where no driver is."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Callable
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from acd_edge.errors import DeviceError, MissingExtra
from acd_edge.runtime import cuda as package
from acd_edge.runtime.backends import GraphFile, trt
from acd_edge.runtime.cuda import DeviceFacts, driver_release, failures, open_cuda, python_api
from acd_edge.runtime.cuda.python_api import PythonCuda, cudart_module


class Error(IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815
    cudaErrorLaunchFailure = 719  # noqa: N815


class Cudart:
    """CUDA's runtime as cuda-python offers it: `(error, *values)`; `refuse[name]` is the error of a function."""

    cudaHostAllocDefault, cudaHostAllocMapped, cudaStreamNonBlocking = 0, 2, 1  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="h2d", cudaMemcpyDeviceToHost="d2h")  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread local")  # noqa: N815

    def __init__(self, *, devices: int = 1, integrated: int = 1) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refuse: dict[str, Error] = {}
        self.values: dict[str, tuple[Any, ...]] = {
            "cudaGetDeviceCount": (devices,),
            "cudaGetDeviceProperties": (
                SimpleNamespace(name=b"Orin", major=8, minor=7, integrated=integrated, totalGlobalMem=8 << 30),
            ),
            "cudaDriverGetVersion": (12060,),
            "cudaMemGetInfo": (1 << 30, 8 << 30),
            "cudaMalloc": (0x7000,),
            "cudaHostGetDevicePointer": (0x9000,),
            "cudaStreamCreateWithFlags": (77,),
            "cudaEventCreate": ("event",),
            "cudaEventElapsedTime": (1.5,),
            "cudaStreamEndCapture": ("graph",),
            "cudaGraphInstantiate": ("executable",),
        }
        self.blocks: list[Any] = []

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, f"words for {error.name}".encode()

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        self.calls.append(("cudaHostAlloc", size, flags))
        if "cudaHostAlloc" in self.refuse:
            return self.refuse["cudaHostAlloc"], None
        self.blocks.append((ctypes.c_ubyte * size)())
        return Error.cudaSuccess, ctypes.addressof(self.blocks[-1])

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            if name in self.refuse:
                return self.refuse[name], *([None] * len(self.values.get(name, ())))
            return Error.cudaSuccess, *self.values.get(name, ())

        return call

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch) -> Cudart:
    made = Cudart()
    monkeypatch.setattr(python_api, "cudart_module", lambda: made)
    monkeypatch.setattr(python_api, "driver_release", lambda: None)
    return made


def use_everything(cuda: PythonCuda) -> None:
    """Call every method once."""
    with cuda.active():
        cuda.free_bytes()
        stream, pointer = cuda.create_stream(), cuda.malloc(8)
        mapped, pinned = cuda.host_buffer((2,), np.float32, mapped=True), cuda.host_buffer((2,), "f4", mapped=False)
        cuda.copy_to_device(pointer, pinned.array, stream)
        cuda.begin_capture(stream)
        graph = cuda.end_capture(stream)
        cuda.launch_graph(graph, stream)
        cuda.copy_to_host(pinned.array, pointer, stream)
        event = cuda.create_event()
        cuda.record_event(event, stream)
        cuda.synchronize(stream)
        cuda.elapsed_ms(event, event)
        cuda.abandon_capture(stream)
        cuda.destroy_event(event)
        cuda.destroy_graph(graph)
        for buffer in (mapped, pinned):
            cuda.free_host(buffer)
        cuda.free(pointer)
        cuda.destroy_stream(stream)


# cuda-python


def test_python_tells_the_device(cudart: Cudart) -> None:
    assert PythonCuda().facts == DeviceFacts(
        name="Orin", compute_capability="8.7", driver="CUDA 12.6", total_bytes=8 << 30, integrated=True
    )


def test_python_makes_no_context_for_the_facts(cudart: Cudart) -> None:
    cuda = PythonCuda()
    assert cudart.names() == ["cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaDriverGetVersion"]
    with cuda.active():
        assert cudart.calls[-1] == ("cudaSetDevice", 0)


def test_python_calls_what_the_real_module_has(cudart: Cudart) -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    use_everything(PythonCuda())
    used = {name: len(arguments) for name, *arguments in cudart.calls}
    assert len(used) > 25
    for name, count in used.items():
        signature = getattr(real, name).__doc__.splitlines()[0]
        inside = signature[signature.index("(") + 1 : signature.rindex(")")]
        assert count == len([each for each in inside.split(",") if each.strip()]), signature
    for name in ("cudaHostAllocMapped", "cudaHostAllocDefault", "cudaStreamNonBlocking"):
        assert getattr(real, name) == getattr(Cudart, name)
    assert real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert real.cudaMemcpyKind.cudaMemcpyHostToDevice
    for name in failures._ADVICE:
        assert hasattr(real.cudaError_t, name), name


class Passed(Cudart):
    """Hands every call to the real module too, which must take the arguments and find no driver."""

    def __init__(self, real: Any) -> None:
        super().__init__()
        self.real = real
        self.handles = {
            "h2d": real.cudaMemcpyKind.cudaMemcpyHostToDevice,
            "d2h": real.cudaMemcpyKind.cudaMemcpyDeviceToHost,
            "thread local": real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
            "event": real.cudaEvent_t(),
            "graph": real.cudaGraph_t(),
            "executable": real.cudaGraphExec_t(),
        }
        self.said: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        made, real = super().__getattr__(name), getattr(self.real, name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            with contextlib.suppress(RuntimeError):  # 12.6.0 looks for the driver once it has taken the arguments
                error, *_ = real(*(self.handles[each] if isinstance(each, str) else each for each in arguments))
                self.said.add(error.name)
            return made(*arguments)

        return call


def test_the_real_module_takes_our_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cudart_module() if find_spec("cuda") else pytest.skip("cuda-python is not installed")
    with contextlib.suppress(RuntimeError):
        if not int(real.cudaGetDeviceCount()[0]):
            pytest.skip("there is a device, which made pointers would disturb")
    passed = Passed(real)
    monkeypatch.setattr(python_api, "cudart_module", lambda: passed)
    use_everything(PythonCuda())
    assert passed.said <= {"cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaSuccess"}
    assert len(passed.names()) > 25


def test_python_maps_pinned_memory(cudart: Cudart) -> None:
    cuda = PythonCuda()
    mapped = cuda.host_buffer((2, 3), np.float16, mapped=True)
    assert (mapped.device_pointer, mapped.array.shape) == (0x9000, (2, 3))
    assert mapped.array.dtype == np.float16
    mapped.array[:] = 1
    assert bytes(cudart.blocks[0]) == np.ones(6, np.float16).tobytes()  # a view, not a copy
    pinned = cuda.host_buffer((4,), np.uint8, mapped=False)
    assert pinned.device_pointer is None
    flags = [call[1:] for call in cudart.calls if call[0] == "cudaHostAlloc"]
    assert flags == [(12, Cudart.cudaHostAllocMapped), (4, Cudart.cudaHostAllocDefault)]
    cuda.free_host(mapped)
    assert cudart.calls[-1] == ("cudaFreeHost", mapped.keeper)


def test_python_frees_what_cannot_be_mapped(cudart: Cudart) -> None:
    cudart.refuse["cudaHostGetDevicePointer"] = Error.cudaErrorLaunchFailure
    with pytest.raises(DeviceError, match="cudaErrorLaunchFailure, words for"):
        PythonCuda().host_buffer((4,), np.uint8, mapped=True)
    assert cudart.names()[-1] == "cudaFreeHost"


def test_python_captures_thread_locally_and_drops_the_recording(cudart: Cudart) -> None:
    cuda = PythonCuda()
    cudart.calls.clear()
    cuda.begin_capture(77)
    cuda.launch_graph(cuda.end_capture(77), 77)
    assert cudart.calls == [
        ("cudaStreamBeginCapture", 77, "thread local"),
        ("cudaStreamEndCapture", 77),
        ("cudaGraphInstantiate", "graph", 0),
        ("cudaGraphDestroy", "graph"),
        ("cudaGraphUpload", "executable", 77),
        ("cudaGraphLaunch", "executable", 77),
    ]


@pytest.mark.parametrize("refused", ["cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphUpload"])
def test_python_leaves_no_graph_behind(cudart: Cudart, refused: str) -> None:
    cuda = PythonCuda()
    cudart.refuse[refused] = Error.cudaErrorLaunchFailure
    with pytest.raises(DeviceError):
        cuda.end_capture(77)
    made = {
        "cudaGraphInstantiate": ["cudaGraphDestroy"],
        "cudaGraphUpload": ["cudaGraphDestroy", "cudaGraphExecDestroy"],
    }
    assert [name for name in cudart.names() if "Destroy" in name] == made.get(refused, [])
    cuda.abandon_capture(77)  # never raises, and clears the last error
    assert cudart.names()[-1] == "cudaGetLastError"


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        ("cudaGetDeviceCount", Error.cudaErrorInsufficientDriver, "no NVIDIA driver.*or it is too old.*nvidia-smi"),
        ("cudaGetDeviceCount", Error.cudaErrorNoDevice, "no NVIDIA GPU is visible.*CUDA_VISIBLE_DEVICES"),
        ("cudaMalloc", Error.cudaErrorMemoryAllocation, "memory is exhausted"),
        (
            "cudaSetDevice",
            Error.cudaErrorLaunchFailure,
            "refused cudaSetDevice: cudaErrorLaunchFailure, words for",
        ),
    ],
)
def test_python_refusals_are_one_line(cudart: Cudart, function: str, error: Error, words: str) -> None:
    cudart.refuse[function] = error
    with pytest.raises(DeviceError, match=words) as caught:
        use_everything(PythonCuda())
    assert "\n" not in str(caught.value)


def test_a_driver_that_cannot_be_loaded_is_one_line(cudart: Cudart, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise RuntimeError("Failed to dlopen libcuda.so.1\n")

    monkeypatch.setattr(cudart, "cudaGetDeviceCount", absent, raising=False)
    with pytest.raises(DeviceError, match=r"no NVIDIA driver.*nvidia-smi.*dlopen libcuda"):
        PythonCuda()


def test_python_without_a_device(cudart: Cudart) -> None:
    cudart.values["cudaGetDeviceCount"] = (0,)
    with pytest.raises(DeviceError, match="no NVIDIA GPU is visible"):
        PythonCuda()


def test_the_real_module_without_a_driver_is_one_line() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    error, count = real.cudaGetDeviceCount()
    if not int(error) and count:
        assert open_cuda("cuda-python").facts.total_bytes > 0
        return
    with pytest.raises(DeviceError) as caught:
        open_cuda("auto")
    assert "nvidia-smi" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_finds_both_layouts_of_the_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    newer, older = ModuleType("cuda.bindings.runtime"), ModuleType("cuda.cudart")
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", newer)
    monkeypatch.setitem(sys.modules, "cuda.cudart", older)
    assert cudart_module() is newer
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert cudart_module() is older
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert cudart_module() is older
    monkeypatch.setitem(sys.modules, "cuda.cudart", None)
    with pytest.raises(MissingExtra, match="not NVIDIA's"):
        cudart_module()
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(MissingExtra, match=re.escape("acd-edge[jetson]")):
        cudart_module()


@pytest.mark.parametrize(
    ("file", "text", "release"),
    [
        ("sys/module/nvidia/version", "550.54.14\n", "550.54.14"),
        ("proc/driver/nvidia/version",
         "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC", "550.54.14"),
        ("proc/driver/nvidia/version",
         "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (made)", "540.4.0"),
        ("proc/driver/nvidia/version", "something else", None),
        ("etc/other", "", None),
    ],
)  # fmt: skip
def test_reads_the_drivers_release(tmp_path: Path, file: str, text: str, release: str | None) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert driver_release(tmp_path) == release


def test_bindings_are_a_table() -> None:
    assert list(package.BINDINGS) == ["cuda-python", "pycuda"]
    assert trt.compile_command(GraphFile(path=Path("x"), bundle="line.acd")) == "acd-edge compile line.acd"
