"""One engine's context, stream and buffers: what one worker needs to run it.

Order of life: logger, runtime, engine (shared, see `trt_engine`), then context, stream, buffers, graph, events. All of
it is released in the reverse order, also when something in between fails.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from acd_edge.errors import AcdEdgeError, BackendError, DeviceError, ShapeError
from acd_edge.runtime.backends import Array, TensorSpec
from acd_edge.runtime.backends.trt_engine import acquire_engine, forget_error, last_error, release_engine
from acd_edge.runtime.cuda import Cuda, HostBuffer
from acd_edge.runtime.stages import Stage

__all__ = ["Session"]

logger = logging.getLogger(__name__)

_TYPES: Mapping[str, str] = MappingProxyType(
    {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
)
"""TensorRT's name of a type -> numpy's; bf16 and fp8 have none there, and no graph of ours has them outside."""
_MIB = 1 << 20


@dataclass(frozen=True)
class Tensor:
    """An input or output with its memory.

    Attributes:
        spec: type and shape; a free side is None.
        largest: shape that the memory holds.
        host: pinned memory of the CPU.
        pointer: what the engine reads or writes; the same memory where `host` is mapped.
    """

    name: str
    is_input: bool
    spec: TensorSpec
    largest: tuple[int, ...]
    host: HostBuffer
    pointer: int

    @property
    def is_mapped(self) -> bool:
        """The device reads and writes the CPU's memory, so that nothing is copied."""
        return self.host.device_pointer is not None

    def view(self, shape: tuple[int, ...]) -> Array:
        """The first bytes of the memory as an array."""
        return self.host.array[: math.prod(shape)].reshape(shape)


class Session:
    """Runs one engine; used from one thread at a time, and from several only with a session each.

    Args:
        trt: the module `tensorrt`.
        digest, plan: see `acquire_engine`; sessions of one plan share the engine.
        cuda: the device.

    Attributes:
        inputs: type and shape of every input.
        no_graph: why runs are enqueued one by one; empty where they are launched as a CUDA graph.

    Raises:
        DeviceError: the device has not enough memory for it, or CUDA fails.
        BackendError: the engine is not one of ours, or TensorRT refuses a call.
    """

    def __init__(self, trt: Any, digest: str, plan: Callable[[], bytes], cuda: Cuda) -> None:
        self._trt, self._cuda = trt, cuda
        self._context: Any = None
        self._graph: Any = None
        self._events: list[Any] = []
        self._is_told = False
        self._stage_ms: dict[Stage, float] = {}
        self.no_graph = ""
        forget_error(trt)
        with cuda.active(), ExitStack() as undo:
            self._loaded = acquire_engine(trt, digest, plan)
            undo.callback(release_engine, trt, self._loaded)
            self._make_context(undo)
            self._stream = cuda.create_stream()
            _later(undo, cuda.destroy_stream, self._stream)
            self._tensors = self._make_tensors(undo)
            with self._settled():
                self._bind()
                self._warm_up()
                self._capture(undo)
            self._undo: ExitStack | None = undo.pop_all()
        self.inputs: Mapping[str, TensorSpec] = MappingProxyType(
            {tensor.name: tensor.spec for tensor in self._tensors if tensor.is_input}
        )

    @property
    def is_mapped(self) -> bool:
        """Whether the device works in the CPU's memory."""
        return all(tensor.is_mapped for tensor in self._tensors)

    @property
    def stage_ms(self) -> Mapping[Stage, float]:
        """Milliseconds of `copy` and `infer` in the last run, while `tell_stages` is on."""
        return MappingProxyType(dict(self._stage_ms))

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Fresh arrays of the outputs.

        Raises:
            BackendError: the session was closed, or TensorRT refuses.
            ShapeError: a free side is longer than the engine was built for.
            DeviceError: CUDA fails.
        """
        if self._undo is None:
            raise BackendError("the backend was closed; load the bundle again")
        with self._cuda.active(), self._settled():
            shapes = self._shapes(feed)
            self._mark(0)
            for tensor in self._sided(is_input=True):
                self._send(tensor, feed[tensor.name])
            self._mark(1)
            self._enqueue()
            self._mark(2)
            for tensor in self._sided(is_input=False):
                self._fetch(tensor, shapes[tensor.name])
            self._mark(3)
            self._cuda.synchronize(self._stream)
            self._read_events()
            return {t.name: t.view(shapes[t.name]).copy() for t in self._sided(is_input=False)}

    def tell_stages(self, wanted: bool) -> None:
        """Record events around copies and enqueue from the next run on, or no more."""
        with self._cuda.active():
            if wanted and not self._events and self._undo is not None:
                for _ in range(4):
                    event = self._cuda.create_event()
                    _later(self._undo, self._cuda.destroy_event, event)
                    self._events.append(event)
        self._is_told = wanted
        self._stage_ms = {}

    def close(self) -> None:
        """Release everything in the reverse order of its making, a shared engine by its last user; twice is fine."""
        undo, self._undo = self._undo, None
        if undo is None:
            return
        with ExitStack() as current:
            with suppress(DeviceError):  # a device that is out of order keeps nothing else from being dropped
                current.enter_context(self._cuda.active())
            self._settle()
            undo.close()

    def _make_context(self, undo: ExitStack) -> None:
        context = self._loaded.engine.create_execution_context()
        if context is None:
            need, free = self._loaded.engine.device_memory_size_v2 // _MIB, self._cuda.free_bytes() // _MIB
            raise DeviceError(
                f"the GPU has no memory for the engine's context: it takes {need} MiB, {free} MiB are free; end what "
                f"else uses it, or take a bundle of a smaller --size{last_error(self._trt)}"
            )
        self._context = context
        _later(undo, self._drop_context)

    def _drop_context(self) -> None:
        self._context = None

    def _make_tensors(self, undo: ExitStack) -> list[Tensor]:
        """Memory for each input and output; a free side gets the engine's longest."""
        trt, loaded = self._trt, self._loaded  # no local holds the engine: it must go when it is released
        names = [loaded.engine.get_tensor_name(index) for index in range(loaded.engine.num_io_tensors)]
        is_input = {name: loaded.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        specs = {
            name: _spec(name, loaded.engine.get_tensor_dtype(name), loaded.engine.get_tensor_shape(name))
            for name in names
        }
        for name in names:
            if is_input[name] and None in specs[name].shape:
                longest = tuple(loaded.engine.get_tensor_profile_shape(name, 0)[2])
                self._must(self._context.set_input_shape(name, longest), f"the shape {longest} of {name}")
        self._infer_shapes()
        largest = {name: tuple(self._context.get_tensor_shape(name)) for name in names}
        return [self._tensor(name, is_input[name], specs[name], largest[name], undo) for name in names]

    def _infer_shapes(self) -> None:
        missing = self._context.infer_shapes()
        self._must(not missing, f"to tell shapes, it lacks those of {missing}")

    def _tensor(self, name: str, is_input: bool, spec: TensorSpec, largest: tuple[int, ...], undo: ExitStack) -> Tensor:
        cuda = self._cuda
        host = cuda.host_buffer((math.prod(largest),), spec.dtype, mapped=cuda.facts.integrated)
        _later(undo, cuda.free_host, host)
        host.array.fill(0)
        pointer = host.device_pointer
        if pointer is None:
            pointer = cuda.malloc(host.array.nbytes)
            _later(undo, cuda.free, pointer)
        return Tensor(name, is_input, spec, largest, host, pointer)

    def _bind(self) -> None:
        """Tell the context where everything lies; that never changes again, as a captured graph demands."""
        for tensor in self._tensors:
            self._must(self._context.set_tensor_address(tensor.name, tensor.pointer), f"the address of {tensor.name}")

    def _warm_up(self) -> None:
        """Run once on zeros: it flushes what TensorRT puts off to the first run, which a capture must not hold."""
        for tensor in self._sided(is_input=True):
            self._send(tensor, tensor.view(tensor.largest))
        self._enqueue()
        self._cuda.synchronize(self._stream)

    def _capture(self, undo: ExitStack) -> None:
        """Record the enqueue as a CUDA graph where that can be; else say why not, and enqueue every time."""
        self.no_graph = self._why_no_graph() or self._recorded()
        if self.no_graph:
            logger.info("every run is enqueued, without a CUDA graph: %s", self.no_graph)
        else:
            _later(undo, self._destroy_graph)

    def _why_no_graph(self) -> str:
        if not self._cuda.supports_graphs:
            return f"{self._cuda.name} has none"
        if any(None in tensor.spec.shape for tensor in self._tensors):
            return "a shape is free"
        return ""

    def _recorded(self) -> str:
        """Capture; the reason where it fails. Nothing in here waits for the device, since that would break it off."""
        cuda, stream = self._cuda, self._stream
        try:
            cuda.begin_capture(stream)
            self._enqueue()
            self._graph = cuda.end_capture(stream)
        except AcdEdgeError as error:
            cuda.abandon_capture(stream)
            forget_error(self._trt)
            return str(error)
        except BaseException:
            cuda.abandon_capture(stream)
            raise
        return ""

    def _destroy_graph(self) -> None:
        graph, self._graph = self._graph, None
        self._cuda.destroy_graph(graph)

    def _sided(self, *, is_input: bool) -> Iterator[Tensor]:
        return (tensor for tensor in self._tensors if tensor.is_input is is_input)

    def _shapes(self, feed: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor for this feed; the context is told those of inputs with a free side."""
        free = [tensor for tensor in self._sided(is_input=True) if None in tensor.spec.shape]
        for tensor in free:
            shape = feed[tensor.name].shape
            if any(side > most for side, most in zip(shape, tensor.largest, strict=True)):
                raise ShapeError(f"{tensor.name}: the engine takes at most {tensor.largest}, got {shape}")
            self._must(self._context.set_input_shape(tensor.name, tuple(shape)), f"the shape {shape} of {tensor.name}")
        if not free:
            return {tensor.name: tensor.largest for tensor in self._tensors}
        self._infer_shapes()
        return {tensor.name: tuple(self._context.get_tensor_shape(tensor.name)) for tensor in self._tensors}

    def _send(self, tensor: Tensor, array: Array) -> None:
        view = tensor.view(array.shape)
        if view is not array:
            np.copyto(view, array, casting="no")
        if not tensor.is_mapped:
            self._cuda.copy_to_device(tensor.pointer, view, self._stream)

    def _fetch(self, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if not tensor.is_mapped:
            self._cuda.copy_to_host(tensor.view(shape), tensor.pointer, self._stream)

    def _enqueue(self) -> None:
        if self._graph is not None:
            self._cuda.launch_graph(self._graph, self._stream)
            return
        self._must(self._context.execute_async_v3(self._stream), "to run the engine")

    def _mark(self, index: int) -> None:
        if self._is_told:
            self._cuda.record_event(self._events[index], self._stream)

    def _read_events(self) -> None:
        if self._is_told:
            start, sent, done, fetched = self._events
            elapsed = self._cuda.elapsed_ms
            self._stage_ms = {"copy": elapsed(start, sent) + elapsed(done, fetched), "infer": elapsed(sent, done)}

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """After a failure wait for what was enqueued: the next run, or the release, finds nothing in flight."""
        try:
            yield
        except BaseException:
            self._settle()
            raise

    def _settle(self) -> None:
        with suppress(DeviceError):
            self._cuda.synchronize(self._stream)

    def _must(self, done: object, what: str) -> None:
        if not done:
            raise BackendError(f"TensorRT {self._trt.__version__} refuses {what}{last_error(self._trt)}")


def _later(undo: ExitStack, release: Callable[..., object], *arguments: object) -> None:
    """Have something released; a device that is out of order must not keep the rest from it."""

    def quietly() -> None:
        with suppress(DeviceError):
            release(*arguments)

    undo.callback(quietly)


def _spec(name: str, kind: Any, shape: Iterable[int]) -> TensorSpec:
    if kind.name not in _TYPES:
        raise BackendError(f"the engine's {name} has type {kind.name}; this is no engine of acd-edge, compile again")
    return TensorSpec(np.dtype(_TYPES[kind.name]), tuple(None if side < 0 else int(side) for side in shape))
