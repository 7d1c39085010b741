"""A GPU and a TensorRT that record every call and compute with numpy, for machines without either.

A stream is a queue: what is enqueued happens at `synchronize`, so that reading or freeing too early is seen.
While a stream is captured nothing may wait for the device or allocate, as with the real thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from acd_edge.errors import DeviceError
from acd_edge.runtime.cuda import DeviceFacts, HostBuffer

DESKTOP = DeviceFacts(
    name="Made GPU", compute_capability="8.9", driver="560.35.3", total_bytes=16 << 30, integrated=False
)
JETSON = DeviceFacts(name="Orin", compute_capability="8.7", driver="540.4.0", total_bytes=8 << 30, integrated=True)

Array = NDArray[Any]
Job = Callable[[], None]
Compute = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class FakeCuda:
    """Records calls by name; `fail[name]` is how many calls of a method succeed before one is refused."""

    def __init__(
        self,
        facts: DeviceFacts = DESKTOP,
        *,
        name: str = "cuda-python",
        supports_graphs: bool = True,
        fail: Mapping[str, int] | None = None,
        calls: list[str] | None = None,
    ) -> None:
        self.facts, self.name, self.supports_graphs = facts, name, supports_graphs
        self.fail = dict(fail or {})
        self.calls: list[str] = [] if calls is None else calls
        self.memory: dict[int, Array] = {}  # pointer -> bytes
        self.queues: dict[int, list[Job]] = {}
        self.capturing: dict[int, list[Job]] = {}
        self.graphs: dict[int, list[Job]] = {}
        self._next = 0x1000
        self._clock = 0.0

    def active(self) -> Any:
        return self._active()

    @contextmanager
    def _active(self) -> Iterator[None]:
        yield

    def free_bytes(self) -> int:
        return 3 << 20

    def malloc(self, size: int) -> int:
        self._note("malloc", waits=True)
        return self._new(np.full(size, 0xAB, np.uint8))

    def free(self, pointer: int) -> None:
        self._note("free", waits=True)
        assert not any(self.queues.values()), "memory is freed while work is in flight"
        del self.memory[pointer]

    def host_buffer(self, shape: Sequence[int], dtype: DTypeLike, *, mapped: bool) -> HostBuffer:
        self._note("host_buffer mapped" if mapped else "host_buffer", waits=True)
        array = np.empty(tuple(shape), dtype)
        pointer = self._new(array.reshape(-1).view(np.uint8))
        return HostBuffer(array, pointer if mapped else None, pointer)

    def free_host(self, buffer: HostBuffer) -> None:
        self._note("free_host", waits=True)
        assert not any(self.queues.values()), "memory is freed while work is in flight"
        del self.memory[buffer.keeper]

    def copy_to_device(self, pointer: int, array: Array, stream: int) -> None:
        self._note(f"copy_to_device on {stream}")
        self.enqueue(stream, lambda: self._store(pointer, array))

    def copy_to_host(self, array: Array, pointer: int, stream: int) -> None:
        self._note(f"copy_to_host on {stream}")
        self.enqueue(stream, lambda: np.copyto(array, self.read(pointer, array.shape, array.dtype)))

    def create_stream(self) -> int:
        self._note("create_stream")
        stream = self._handle()
        self.queues[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        self._note("destroy_stream")
        del self.queues[stream]

    def synchronize(self, stream: int) -> None:
        jobs, self.queues[stream] = self.queues[stream], []  # a device that is out of order does none of them
        self._note(f"synchronize {stream}", waits=True)
        for job in jobs:
            job()

    def create_event(self) -> Any:
        self._note("create_event")
        return SimpleNamespace(at=None)

    def record_event(self, event: Any, stream: int) -> None:
        self._note(f"record_event on {stream}")

        def happen() -> None:
            self._clock += 1.0
            event.at = self._clock

        self.enqueue(stream, happen)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return float(end.at - start.at)

    def destroy_event(self, event: Any) -> None:
        self._note("destroy_event")

    def begin_capture(self, stream: int) -> None:
        self._note("begin_capture")
        assert not self.queues[stream], "work is in flight when the capture begins"
        self.capturing[stream] = []

    def end_capture(self, stream: int) -> Any:
        jobs = self.capturing.pop(stream)
        self._note("end_capture")
        graph = self._handle()
        self.graphs[graph] = jobs
        return graph

    def abandon_capture(self, stream: int) -> None:
        self.calls.append("abandon_capture")
        self.capturing.pop(stream, None)

    def launch_graph(self, graph: Any, stream: int) -> None:
        self._note(f"launch_graph on {stream}")
        for job in self.graphs[graph]:
            self.enqueue(stream, job)

    def destroy_graph(self, graph: Any) -> None:
        self._note("destroy_graph")
        del self.graphs[graph]

    def enqueue(self, stream: int, job: Job) -> None:
        """What the device does later."""
        self.capturing.get(stream, self.queues[stream]).append(job)

    def read(self, pointer: int, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Memory of the device as an array."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        return self.memory[pointer][:size].view(kind).reshape(tuple(shape))

    def _store(self, pointer: int, array: Array) -> None:
        np.copyto(self.read(pointer, array.shape, array.dtype), array)

    def _note(self, call: str, *, waits: bool = False) -> None:
        self.calls.append(call)
        if waits and self.capturing:
            self.capturing.clear()
            raise DeviceError(f"{call} while a stream is captured")
        name = call.split(" ", maxsplit=1)[0]
        if name in self.fail:
            if self.fail[name] == 0:
                raise DeviceError(f"made failure of {name}")
            self.fail[name] -= 1

    def _new(self, memory: Array) -> int:
        pointer = self._handle()
        self.memory[pointer] = memory
        return pointer

    def _handle(self) -> int:
        self._next += 0x100
        return self._next


class DataType(Enum):
    """TensorRT's, as far as a graph of ours can meet them."""

    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8


class TensorIOMode(Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


@dataclass(frozen=True)
class IoTensor:
    """An input or output; -1 is free, and `profile` its least, usual and largest shape."""

    dtype: DataType
    shape: tuple[int, ...]
    is_input: bool = False
    profile: tuple[tuple[int, ...], ...] = ()


@dataclass
class Plan:
    """What deserialising some bytes gives."""

    tensors: Mapping[str, IoTensor]
    compute: Compute
    infer: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, tuple[int, ...]]] | None = None


@dataclass
class FakeTensorRT:
    """The module `tensorrt`, as far as the backend uses it.

    `fail` names what is refused: `runtime` (a null factory), `deserialize`, `context` (no memory), `execute`,
    `capture` (execute under capture), `address`, `shape`. No object here keeps another alive, so that a wrong order of
    release shows.
    """

    cuda: FakeCuda
    plans: dict[bytes, Plan] = field(default_factory=dict)
    fail: set[str] = field(default_factory=set)
    says: str = ""
    __version__: str = "10.3.0"
    __spec__: Any = None

    def __post_init__(self) -> None:
        fake = self
        self.DataType, self.TensorIOMode, self.Severity = DataType, TensorIOMode, Severity

        class ILogger:
            Severity = fake.Severity

            def __init__(self) -> None:
                fake.cuda.calls.append("logger")

            def log(self, severity: Any, msg: str) -> None:
                raise NotImplementedError

        class Runtime:
            def __init__(self, logger: ILogger) -> None:
                if "runtime" in fake.fail:
                    raise TypeError("pybind11::init(): factory function returned nullptr")
                self.logger = logger
                fake.cuda.calls.append("runtime")

            def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
                fake.cuda.calls.append("deserialize")
                if "deserialize" in fake.fail:
                    self.logger.log(Severity.ERROR, fake.says)
                    return None
                return FakeEngine(fake, fake.plans[bytes(plan)])

            def __del__(self) -> None:
                fake.cuda.calls.append("del runtime")

        self.ILogger, self.Runtime = ILogger, Runtime

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class FakeEngine:
    def __init__(self, trt: FakeTensorRT, plan: Plan) -> None:
        self.trt, self.plan = trt, plan
        self.device_memory_size_v2 = 27 << 20

    @property
    def num_io_tensors(self) -> int:
        return len(self.plan.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.plan.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if self.plan.tensors[name].is_input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.plan.tensors[name].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.plan.tensors[name].shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        assert self.plan.tensors[name].is_input, "profiles are of inputs"
        return list(self.plan.tensors[name].profile)

    def create_execution_context(self) -> FakeContext | None:
        self.trt.cuda.calls.append("context")
        return None if "context" in self.trt.fail else FakeContext(self)

    def __del__(self) -> None:
        self.trt.cuda.calls.append("del engine")


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.plan, self.trt = engine.plan, engine.trt
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.trt.cuda.calls.append(f"set_input_shape {name} {shape}")
        if "shape" in self.trt.fail:
            return False
        self.shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        self.trt.cuda.calls.append("infer_shapes")
        free = [n for n, each in self.plan.tensors.items() if each.is_input and -1 in each.shape]
        return [name for name in free if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        tensors, infer = self.plan.tensors, self.plan.infer
        if name in self.shapes:
            return self.shapes[name]
        return tuple(infer(self.shapes)[name]) if infer is not None else tensors[name].shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.trt.cuda.calls.append(f"set_tensor_address {name}")
        self.addresses[name] = memory
        return "address" not in self.trt.fail

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda = self.trt.cuda
        cuda.calls.append(f"execute on {stream_handle}")
        assert set(self.addresses) == set(self.plan.tensors), "an address is missing"
        assert stream_handle != 0, "the default stream"
        if "execute" in self.trt.fail or ("capture" in self.trt.fail and stream_handle in cuda.capturing):
            return False
        plan, shapes = self.plan, {name: self.get_tensor_shape(name) for name in self.plan.tensors}
        kinds = {name: _NUMPY[each.dtype] for name, each in plan.tensors.items()}
        addresses = dict(self.addresses)

        def work() -> None:
            views = {name: cuda.read(addresses[name], shapes[name], kinds[name]) for name in plan.tensors}
            found = plan.compute({name: views[name] for name, each in plan.tensors.items() if each.is_input})
            for name, array in found.items():
                np.copyto(views[name], array)

        cuda.enqueue(stream_handle, work)
        return True

    def __del__(self) -> None:
        self.trt.cuda.calls.append("del context")


_NUMPY: Mapping[DataType, DTypeLike] = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.UINT8: np.uint8,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.BOOL: np.bool_,
}
