"""CUDA through pycuda: the driver's interface, without CUDA graphs.

The primary context is retained, as `pycuda.autoprimaryctx` does: it is the one that TensorRT and CUDA's runtime use, so
memory and streams are shared with them (`pycuda.autoinit` would make a second one). It is made current where it is
needed, since a context that is current in one thread is not in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from acd_edge.errors import DeviceError, MissingExtra
from acd_edge.runtime.cuda import DeviceFacts, HostBuffer, driver_release
from acd_edge.runtime.cuda.failures import device_error, error_from_words

_DEVICE = 0
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which pycuda takes and does not name
_Value = TypeVar("_Value")


@final
class PyCuda:
    """Device 0; see `Cuda`.

    Raises:
        MissingExtra: pycuda is not installed.
        DeviceError: there is no driver or no device.
    """

    name = "pycuda"
    supports_graphs = False

    def __init__(self) -> None:
        self._driver = _driver_module()
        self._try("cuInit", self._driver.init)
        if not self._try("cuDeviceGetCount", self._driver.Device.count):
            raise device_error("cuDeviceGetCount", "cudaErrorNoDevice")
        device = self._try("cuDeviceGet", self._driver.Device, _DEVICE)
        self._context = self._try("cuDevicePrimaryCtxRetain", device.retain_primary_context)
        self._facts = self._read_facts(device)
        self._streams: dict[int, Any] = {}
        self._allocations: dict[int, Any] = {}

    @property
    def facts(self) -> DeviceFacts:
        """See `Cuda`."""
        return self._facts

    @contextmanager
    def active(self) -> Iterator[None]:
        """See `Cuda`."""
        self._try("cuCtxPushCurrent", self._context.push)
        try:
            yield
        finally:
            self._driver.Context.pop()

    def free_bytes(self) -> int:
        """See `Cuda`."""
        free, _ = self._try("cuMemGetInfo", self._driver.mem_get_info)
        return int(free)

    def malloc(self, size: int) -> int:
        """See `Cuda`."""
        allocation = self._try("cuMemAlloc", self._driver.mem_alloc, max(size, 1))
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, pointer: int) -> None:
        """See `Cuda`."""
        self._try("cuMemFree", self._allocations.pop(pointer).free)

    def host_buffer(self, shape: Sequence[int], dtype: DTypeLike, *, mapped: bool) -> HostBuffer:
        """See `Cuda`."""
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        empty = self._driver.pagelocked_empty
        array = self._try("cuMemHostAlloc", empty, tuple(shape), np.dtype(dtype), order="C", mem_flags=flags)
        allocation = array.base
        try:
            seen = int(self._try("cuMemHostGetDevicePointer", allocation.get_device_pointer)) if mapped else None
        except DeviceError:
            allocation.free()
            raise
        return HostBuffer(array, seen, allocation)

    def free_host(self, buffer: HostBuffer) -> None:
        """See `Cuda`."""
        self._try("cuMemFreeHost", buffer.keeper.free)

    def copy_to_device(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        """See `Cuda`."""
        self._try("cuMemcpyHtoDAsync", self._driver.memcpy_htod_async, pointer, array, self._streams[stream])

    def copy_to_host(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        """See `Cuda`."""
        self._try("cuMemcpyDtoHAsync", self._driver.memcpy_dtoh_async, array, pointer, self._streams[stream])

    def create_stream(self) -> int:
        """See `Cuda`."""
        stream = self._try("cuStreamCreate", self._driver.Stream, _NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """See `Cuda`; pycuda destroys a stream with its object."""
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        """See `Cuda`."""
        self._try("cuStreamSynchronize", self._streams[stream].synchronize)

    def create_event(self) -> Any:
        """See `Cuda`."""
        return self._try("cuEventCreate", self._driver.Event)

    def record_event(self, event: Any, stream: int) -> None:
        """See `Cuda`."""
        self._try("cuEventRecord", event.record, self._streams[stream])

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """See `Cuda`."""
        return float(self._try("cuEventElapsedTime", end.time_since, start))

    def destroy_event(self, event: Any) -> None:
        """See `Cuda`; pycuda destroys an event with its object."""

    def begin_capture(self, stream: int) -> None:
        """Not with pycuda."""
        raise DeviceError("pycuda knows no CUDA graphs; install cuda-python for them")

    def end_capture(self, stream: int) -> Any:
        """Not with pycuda."""
        self.begin_capture(stream)

    def abandon_capture(self, stream: int) -> None:
        """There is none."""

    def launch_graph(self, graph: Any, stream: int) -> None:
        """Not with pycuda."""
        self.begin_capture(stream)

    def destroy_graph(self, graph: Any) -> None:
        """There is none."""

    def _read_facts(self, device: Any) -> DeviceFacts:
        major, minor = self._try("cuDeviceGetAttribute", device.compute_capability)
        version = int(self._driver.get_driver_version())
        integrated = device.get_attribute(self._driver.device_attribute.INTEGRATED)
        return DeviceFacts(
            name=str(device.name()),
            compute_capability=f"{major}.{minor}",
            driver=driver_release() or f"CUDA {version // 1000}.{version % 1000 // 10}",
            total_bytes=int(device.total_memory()),
            integrated=bool(integrated),
        )

    def _try(self, call: str, function: Callable[..., _Value], /, *arguments: Any, **named: Any) -> _Value:
        """Call pycuda; what it raises becomes a `DeviceError`."""
        try:
            return function(*arguments, **named)
        except self._driver.Error as error:
            raise error_from_words(call, str(error)) from error


def _driver_module() -> Any:
    """`pycuda.driver`; without a driver its import fails.

    Raises:
        MissingExtra: pycuda is not installed.
        DeviceError: the driver's library is absent.
    """
    try:
        return import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        if error.name not in ("pycuda", "pycuda.driver"):
            raise
        raise MissingExtra(
            "pycuda is not installed; pip install pycuda, which compiles it with nvcc, or take --cuda cuda-python"
        ) from error
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise device_error(f"import pycuda.driver ({reason})", "cudaErrorInsufficientDriver") from error
