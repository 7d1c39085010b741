"""pycuda against a made one, and which binding is taken."""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from acd_edge.errors import ConfigError, DeviceError, MissingExtra
from acd_edge.runtime.cuda import DeviceFacts, open_cuda, pycuda_api, python_api
from acd_edge.runtime.cuda.pycuda_api import PyCuda


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


def test_a_device_that_fails_is_told_and_not_passed_over(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    def no_driver() -> Any:
        raise DeviceError("there is no NVIDIA driver")

    monkeypatch.setattr(python_api, "cudart_module", no_driver)
    with pytest.raises(DeviceError, match="driver"):
        open_cuda()
    assert driver.log == []
