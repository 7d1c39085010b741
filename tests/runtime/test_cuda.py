"""Both CUDA bindings against made ones, and the real cuda-python where no driver is."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Callable
from enum import IntEnum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from acd_edge.errors import ConfigError, DeviceError, MissingExtra
from acd_edge.runtime import cuda as package
from acd_edge.runtime.backends import GraphFile, trt
from acd_edge.runtime.cuda import DeviceFacts, driver_release, failures, open_cuda, pycuda_api, python_api
from acd_edge.runtime.cuda.pycuda_api import PyCuda
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


# pycuda


class PyError(Exception):
    """`pycuda.driver.Error`."""


class Driver(ModuleType):
    """`pycuda.driver`; contexts are counted, since a call without one fails there."""

    Error = PyError

    def __init__(self, *, devices: int = 1) -> None:
        super().__init__("pycuda.driver")
        self.log: list[str] = []
        self.depth = 0
        self.host_alloc_flags = SimpleNamespace(DEVICEMAP=2)
        self.device_attribute = SimpleNamespace(INTEGRATED="integrated")
        self.Context = SimpleNamespace(pop=self._pop)
        driver = self

        class Device:
            def __init__(self, index: int) -> None:
                assert index == 0

            count = staticmethod(lambda: devices)
            name = staticmethod(lambda: "Orin")
            compute_capability = staticmethod(lambda: (8, 7))
            total_memory = staticmethod(lambda: 8 << 30)
            get_attribute = staticmethod(lambda attribute: int(attribute == "integrated"))
            retain_primary_context = staticmethod(lambda: SimpleNamespace(push=driver._push))

        class Stream:
            def __init__(self, flags: int) -> None:
                driver.need(f"stream {flags}")
                self.handle = 77

            def synchronize(self) -> None:
                driver.need("synchronize")

            def __del__(self) -> None:
                driver.log.append("del stream")

        class Event:
            def record(self, stream: Any) -> None:
                driver.need(f"record {stream.handle}")

            def time_since(self, other: Any) -> float:
                return 1.5

        self.Device, self.Stream, self.Event = Device, Stream, Event

    def init(self) -> None:
        self.log.append("init")

    def need(self, call: str) -> None:
        self.log.append(call)
        if not self.depth:
            raise PyError(f"{call} failed: invalid device context")

    def _push(self) -> None:
        self.depth += 1

    def _pop(self) -> None:
        self.depth -= 1

    def get_driver_version(self) -> int:
        return 12060

    def mem_get_info(self) -> tuple[int, int]:
        self.need("cuMemGetInfo")
        return 1 << 30, 8 << 30

    def mem_alloc(self, size: int) -> Any:
        self.need(f"mem_alloc {size}")
        if size > 1 << 20:
            raise PyError("cuMemAlloc failed: out of memory")
        driver = self

        class Allocation:
            def __int__(self) -> int:
                return 0x7000

            def free(self) -> None:
                driver.need("mem_free")

        return Allocation()

    def pagelocked_empty(self, shape: Any, dtype: Any, *, order: str, mem_flags: int) -> Any:
        self.need(f"pagelocked {mem_flags}")
        driver = self

        class Allocation:
            def get_device_pointer(self) -> int:
                return 0x9000

            def free(self) -> None:
                driver.need("free_host")

        class Pinned(np.ndarray[Any, Any]):
            base = Allocation()  # type: ignore[assignment]

        return np.empty(shape, dtype, order=order).view(Pinned)  # type: ignore[call-overload]

    def memcpy_htod_async(self, pointer: int, array: Any, stream: Any) -> None:
        self.need(f"htod {pointer:#x} {stream.handle}")

    def memcpy_dtoh_async(self, array: Any, pointer: int, stream: Any) -> None:
        self.need(f"dtoh {pointer:#x} {stream.handle}")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", made)
    monkeypatch.setattr(pycuda_api, "driver_release", lambda: "540.4.0")
    return made


def test_pycuda_does_the_same_without_graphs(driver: Driver) -> None:
    cuda = open_cuda("pycuda")
    assert isinstance(cuda, PyCuda)
    assert not cuda.supports_graphs
    assert cuda.facts == DeviceFacts(
        name="Orin", compute_capability="8.7", driver="540.4.0", total_bytes=8 << 30, integrated=True
    )
    with cuda.active():
        assert cuda.free_bytes() == 1 << 30
        stream, pointer = cuda.create_stream(), cuda.malloc(8)
        buffer = cuda.host_buffer((2,), np.float32, mapped=True)
        assert (stream, pointer, buffer.device_pointer) == (77, 0x7000, 0x9000)
        cuda.copy_to_device(pointer, buffer.array, stream)
        cuda.copy_to_host(buffer.array, pointer, stream)
        event = cuda.create_event()
        cuda.record_event(event, stream)
        cuda.synchronize(stream)
        assert cuda.elapsed_ms(event, event) == 1.5
        cuda.destroy_event(event)
        cuda.free_host(buffer)
        cuda.free(pointer)
        cuda.destroy_stream(stream)
    assert driver.log == [
        "init", "cuMemGetInfo", "stream 1", "mem_alloc 8", "pagelocked 2", "htod 0x7000 77", "dtoh 0x7000 77",
        "record 77", "synchronize", "free_host", "mem_free", "del stream",
    ]  # fmt: skip
    assert driver.depth == 0


def test_pycuda_makes_its_context_current_only_inside(driver: Driver) -> None:
    cuda = PyCuda()
    with pytest.raises(DeviceError, match="invalid device context"):
        cuda.malloc(8)  # the control: the made driver sees a context that is missing
    with contextlib.suppress(ZeroDivisionError), cuda.active(), cuda.active():
        assert driver.depth == 2
        _ = 1 / 0
    assert driver.depth == 0


def test_pycuda_refusals_are_one_line(driver: Driver) -> None:
    cuda = PyCuda()
    with cuda.active(), pytest.raises(DeviceError, match=r"memory is exhausted.*cuMemAlloc"):
        cuda.malloc(2 << 20)
    for call in (cuda.begin_capture, cuda.end_capture):
        with pytest.raises(DeviceError, match="knows no CUDA graphs"):
            call(77)


def test_pycuda_without_a_driver_or_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = import_module

    def without_libcuda(name: str) -> Any:
        if name == "pycuda.driver":
            raise ImportError("libcuda.so.1: cannot open shared object file")
        return real(name)

    monkeypatch.setattr(pycuda_api, "import_module", without_libcuda)
    with pytest.raises(DeviceError, match=r"no NVIDIA driver.*libcuda\.so\.1"):
        PyCuda()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(MissingExtra, match="pip install pycuda"):
        PyCuda()


# which


def test_auto_takes_the_first_that_is_installed(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    def missing() -> Any:
        raise MissingExtra("not installed")

    monkeypatch.setattr(python_api, "cudart_module", missing)
    assert open_cuda().name == "pycuda"
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.delitem(sys.modules, "pycuda.driver")
    with pytest.raises(MissingExtra, match="cuda-python or pycuda"):
        open_cuda()
    with pytest.raises(ConfigError, match="unknown CUDA binding 'hip'"):
        open_cuda("hip")  # type: ignore[arg-type]


def test_a_device_that_fails_is_told_and_not_passed_over(cudart: Cudart, driver: Driver) -> None:
    cudart.refuse["cudaGetDeviceCount"] = Error.cudaErrorInsufficientDriver
    with pytest.raises(DeviceError, match="driver"):
        open_cuda()


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
