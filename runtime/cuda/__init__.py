"""What the TensorRT backend and the engine builder need of CUDA: one small protocol, two bindings behind it.

`cuda-python` is the default, `pycuda` the alternative, which knows no CUDA graphs. Both share the device's primary
context with TensorRT. Device 0 is used; `CUDA_VISIBLE_DEVICES` chooses which one that is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, cast

from numpy.typing import DTypeLike, NDArray

from acd_edge.errors import ConfigError, MissingExtra

__all__ = ["BINDINGS", "Binding", "Cuda", "DeviceFacts", "HostBuffer", "driver_release", "open_cuda"]

Binding = Literal["auto", "cuda-python", "pycuda"]
BINDINGS: Mapping[str, str] = MappingProxyType(
    {
        "cuda-python": "acd_edge.runtime.cuda.python_api:PythonCuda",
        "pycuda": "acd_edge.runtime.cuda.pycuda_api:PyCuda",
    }
)
"""Name -> where its class is. `auto` takes the first that is installed."""


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """The GPU, as far as an engine depends on it.

    Attributes:
        name: as the driver calls it, such as `Orin`.
        compute_capability: such as `8.7`.
        driver: the exact release, such as `540.4.0`, where the kernel tells it; else the CUDA version that the driver
            knows, such as `CUDA 12.6`.
        total_bytes: memory of the device; of the whole machine where `integrated`.
        integrated: it shares its memory with the CPU, as on a Jetson.
    """

    name: str
    compute_capability: str
    driver: str
    total_bytes: int
    integrated: bool


@dataclass(frozen=True, eq=False)
class HostBuffer:
    """Pinned memory of the CPU as an array.

    Attributes:
        array: what the CPU reads and writes; it must not be touched after `Cuda.free_host`.
        device_pointer: the same bytes as the device sees them, where the buffer is mapped; else None.
        keeper: what the binding needs to free it.
    """

    array: NDArray[Any]
    device_pointer: int | None
    keeper: Any = None


class Cuda(Protocol):
    """One device. Every method but `facts` raises `DeviceError` where CUDA refuses.

    Pointers, streams, events and graphs are integers or the binding's own handles: opaque, and freed by a method of
    the same object. Work with it inside `active()`, which makes the device current in the calling thread.
    """

    name: str
    supports_graphs: bool

    @property
    def facts(self) -> DeviceFacts:
        """The device."""

    def active(self) -> AbstractContextManager[None]:
        """Make the device current in this thread; nests."""

    def free_bytes(self) -> int:
        """Memory of the device that is free now."""

    def malloc(self, size: int) -> int:
        """Memory of the device, at least one byte; a pointer, aligned to 256 bytes."""

    def free(self, pointer: int) -> None:
        """Give back what `malloc` gave."""

    def host_buffer(self, shape: Sequence[int], dtype: DTypeLike, *, mapped: bool) -> HostBuffer:
        """Pinned memory of the CPU, which the device sees too where `mapped`."""

    def free_host(self, buffer: HostBuffer) -> None:
        """Give it back."""

    def copy_to_device(self, pointer: int, array: NDArray[Any], stream: int) -> None:
        """Enqueue the copy of a contiguous array, which stays untouched until the stream is synchronised."""

    def copy_to_host(self, array: NDArray[Any], pointer: int, stream: int) -> None:
        """Enqueue the copy into a contiguous array."""

    def create_stream(self) -> int:
        """A stream of its own, which does not wait for the default one; an integer as TensorRT wants it."""

    def destroy_stream(self, stream: int) -> None:
        """Destroy it."""

    def synchronize(self, stream: int) -> None:
        """Wait until all that was enqueued is done."""

    def create_event(self) -> Any:
        """An event that takes the time."""

    def record_event(self, event: Any, stream: int) -> None:
        """Enqueue the event."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Between two events that have happened."""

    def destroy_event(self, event: Any) -> None:
        """Destroy it."""

    def begin_capture(self, stream: int) -> None:
        """Record what this thread enqueues on the stream from now on instead of doing it (thread-local mode)."""

    def end_capture(self, stream: int) -> Any:
        """Stop recording and return an executable graph, ready for `launch_graph`."""

    def abandon_capture(self, stream: int) -> None:
        """Stop a recording that went wrong, drop what it holds and clear CUDA's last error; never raises."""

    def launch_graph(self, graph: Any, stream: int) -> None:
        """Enqueue everything that was recorded."""

    def destroy_graph(self, graph: Any) -> None:
        """Destroy it."""


class _Opener(Protocol):
    def __call__(self) -> Cuda: ...


def open_cuda(which: Binding = "auto") -> Cuda:
    """Open device 0.

    Args:
        which: the binding; `auto` takes cuda-python, or pycuda where only that is installed.

    Raises:
        MissingExtra: the binding (for `auto`: every one) is not installed.
        DeviceError: there is no driver, the driver is too old, or there is no device.
    """
    if which != "auto":
        return _opener(which)()
    missing: list[MissingExtra] = []
    for name in BINDINGS:
        try:
            return _opener(name)()
        except MissingExtra as error:  # noqa: PERF203  # two bindings, and the next is tried
            missing.append(error)
    raise MissingExtra(
        "CUDA is used through cuda-python or pycuda, and neither is installed; "
        "install one with: pip install 'acd-edge[jetson]' (on a PC: 'acd-edge[tensorrt]')"
    ) from missing[0]


def _opener(which: str) -> _Opener:
    try:
        module, _, attribute = BINDINGS[which].partition(":")
    except KeyError:
        raise ConfigError(f"unknown CUDA binding {which!r}; known are auto, {', '.join(BINDINGS)}") from None
    return cast(_Opener, getattr(import_module(module), attribute))


def driver_release(root: Path = Path("/")) -> str | None:
    """The exact release of the NVIDIA kernel driver, or None where neither /sys nor /proc tells it.

    Args:
        root: where `sys` and `proc` lie.
    """
    found = _first_line(root / "sys/module/nvidia/version")
    if re.fullmatch(r"\d+(\.\d+)+", found):
        return found
    words = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _first_line(root / "proc/driver/nvidia/version") + " ")
    return words.group(1) if words else None


def _first_line(path: Path) -> str:
    try:
        return (path.read_text(encoding="utf-8", errors="replace").splitlines() or [""])[0].strip()
    except OSError:
        return ""
