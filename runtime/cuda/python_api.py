"""CUDA through cuda-python: the runtime's functions, each of which returns `(error, *values)`."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import import_module
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from acd_edge.errors import DeviceError, MissingExtra
from acd_edge.lazy import require
from acd_edge.runtime.cuda import DeviceFacts, HostBuffer, driver_release
from acd_edge.runtime.cuda.failures import device_error

_DEVICE = 0


@final
class PythonCuda:
    """Device 0; see `Cuda`.

    Raises:
        MissingExtra: cuda-python is not installed.
        DeviceError: there is no driver or no device.
    """

    name = "cuda-python"
    supports_graphs = True

    def __init__(self) -> None:
        self._cudart = cudart_module()
        if not self._call("cudaGetDeviceCount"):
            raise device_error("cudaGetDeviceCount", "cudaErrorNoDevice")
        self._facts = self._read_facts()  # makes no context: who only asks for facts takes no memory of the device

    @property
    def facts(self) -> DeviceFacts:
        """See `Cuda`."""
        return self._facts

    def active(self) -> AbstractContextManager[None]:
        """See `Cuda`; the runtime's context is the process's, so nothing has to be undone."""
        self._call("cudaSetDevice", _DEVICE)
        return nullcontext()

    def free_bytes(self) -> int:
        """See `Cuda`."""
        free, _ = self._call("cudaMemGetInfo")
        return int(free)

    def malloc(self, size: int) -> int:
        """See `Cuda`."""
        return int(self._call("cudaMalloc", max(size, 1)))

    def free(self, pointer: int) -> None:
        """See `Cuda`."""
        self._call("cudaFree", pointer)

    def host_buffer(self, shape: Sequence[int], dtype: DTypeLike, *, mapped: bool) -> HostBuffer:
        """See `Cuda`."""
        cudart, kind = self._cudart, np.dtype(dtype)
        flags = cudart.cudaHostAllocMapped if mapped else cudart.cudaHostAllocDefault
        size = max(math.prod(shape) * kind.itemsize, 1)
        pointer = int(self._call("cudaHostAlloc", size, flags))
        memory = (ctypes.c_ubyte * size).from_address(pointer)
        array = np.frombuffer(memoryview(memory), kind, math.prod(shape)).reshape(tuple(shape))
        try:
            seen = int(self._call("cudaHostGetDevicePointer", pointer, 0)) if mapped else None
        except DeviceError:
            self._call("cudaFreeHost", pointer)
            raise
        return HostBuffer(array, seen, pointer)

    def free_host(self, buffer: HostBuffer) -> None:
        """See `Cuda`."""
        self._call("cudaFreeHost", buffer.keeper)

    def copy_to_device(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        """See `Cuda`."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", pointer, array.ctypes.data, array.nbytes, kind, stream)

    def copy_to_host(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        """See `Cuda`."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, pointer, array.nbytes, kind, stream)

    def create_stream(self) -> int:
        """See `Cuda`."""
        return int(self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """See `Cuda`."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """See `Cuda`."""
        self._call("cudaStreamSynchronize", stream)

    def create_event(self) -> Any:
        """See `Cuda`."""
        return self._call("cudaEventCreate")

    def record_event(self, event: Any, stream: int) -> None:
        """See `Cuda`."""
        self._call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """See `Cuda`."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def destroy_event(self, event: Any) -> None:
        """See `Cuda`."""
        self._call("cudaEventDestroy", event)

    def begin_capture(self, stream: int) -> None:
        """See `Cuda`."""
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> Any:
        """See `Cuda`."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        try:
            self._call("cudaGraphUpload", executable, stream)
        except DeviceError:
            self._call("cudaGraphExecDestroy", executable)
            raise
        return executable

    def abandon_capture(self, stream: int) -> None:
        """See `Cuda`."""
        with suppress(DeviceError):
            self._call("cudaGraphDestroy", self._call("cudaStreamEndCapture", stream))
        self._cudart.cudaGetLastError()

    def launch_graph(self, graph: Any, stream: int) -> None:
        """See `Cuda`."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """See `Cuda`."""
        self._call("cudaGraphExecDestroy", graph)

    def _read_facts(self) -> DeviceFacts:
        found = self._call("cudaGetDeviceProperties", _DEVICE)
        version = int(self._call("cudaDriverGetVersion"))
        return DeviceFacts(
            name=found.name.decode(errors="replace").strip("\0 "),
            compute_capability=f"{found.major}.{found.minor}",
            driver=driver_release() or f"CUDA {version // 1000}.{version % 1000 // 10}",
            total_bytes=int(found.totalGlobalMem),
            integrated=bool(found.integrated),
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        """The values that a function returns besides its error: none, one, or a tuple."""
        try:
            error, *values = getattr(self._cudart, name)(*arguments)
        except RuntimeError as refused:  # the driver's library, which the binding loads late, is absent
            said = f"{name}: {str(refused).splitlines()[0]}"
            raise device_error(said, "cudaErrorInsufficientDriver") from refused
        if int(error):
            described = self._cudart.cudaGetErrorString(error)[1]
            words = described.decode(errors="replace") if isinstance(described, bytes) else str(described)
            raise device_error(name, error.name, words)
        return values[0] if len(values) == 1 else tuple(values) or None


def cudart_module() -> Any:
    """The functions of CUDA's runtime: `cuda.bindings.runtime`, or `cuda.cudart` as cuda-python 12.6.0 calls it.

    Raises:
        MissingExtra: neither is installed.
    """
    try:
        return import_module("cuda.bindings.runtime")
    except ModuleNotFoundError as error:
        if error.name not in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
            raise
    try:
        return import_module("cuda.cudart")
    except ModuleNotFoundError as error:
        if error.name == "cuda.cudart":  # another package of that name
            raise MissingExtra(
                "the installed package 'cuda' is not NVIDIA's binding; pip install 'acd-edge[jetson]'"
            ) from error
    return require("cuda.bindings.runtime", "jetson")
