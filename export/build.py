"""From a graph to a plan: TensorRT's builder, the same way on every release from 10.3 to 11.x and on TensorRT-RTX.

The module is a parameter. Nothing in here needs a GPU before the compiler does: TensorRT-RTX builds on a CPU.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from acd_edge.errors import DeviceError, EngineError
from acd_edge.export.layers import UNKNOWN, LayerSummary, layers_from_json, summary_of
from acd_edge.export.trt_log import explain, is_null_factory
from acd_edge.runtime.engines import BuildOptions, TensorRecord
from acd_edge.runtime.trt_module import TrtLog

__all__ = ["Built", "Inspected", "Monitor", "build_engine", "inspect_plan", "new_monitor"]

USUAL_PROMPTS = 16  # sentences of one product in the default ensemble: what kernels are chosen for
_WAKE = 0.2  # seconds between looks at Ctrl-C while TensorRT works
_INTERVAL = 5.0  # seconds between two lines of progress
_FREE = -1  # a side without a length, in TensorRT's shapes
_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}  # where numpy's name is not TensorRT's
_T = TypeVar("_T")

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Built:
    """What the builder gave.

    Attributes:
        plan: the engine, serialised; TensorRT's own memory, with the buffer protocol.
        timing_cache: what it measured, for the next build on this device; empty where none was asked for.
        seconds: of the build.
    """

    plan: memoryview
    timing_cache: bytes
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What a plan says of itself."""

    summary: LayerSummary
    inputs: dict[str, TensorRecord]
    outputs: dict[str, TensorRecord]


class Monitor(Protocol):
    """TensorRT's `IProgressMonitor` with our switch: once `cancelled` is set, the build ends at its next step."""

    cancelled: bool


def build_engine(
    trt: Any,
    graph_path: Path,
    options: BuildOptions,
    *,
    log: TrtLog,
    monitor: Monitor | None = None,
    timing_cache: bytes | None = None,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    progress: Progress = lambda _: None,
) -> Built:
    """Parse a graph as strongly typed and build its engine.

    The build runs in a thread of its own, so that Ctrl-C is noticed while TensorRT works; an exception inside one of
    its callbacks would end the process.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        graph_path: the ONNX file; its external data lies beside it.
        options: how to build.
        log: see `trt_log`; it must outlive every object of TensorRT.
        monitor: see `new_monitor`; without one the build cannot be cancelled.
        timing_cache: of earlier builds, perhaps empty; None keeps none.
        within: makes the device current in the thread that builds.
        progress: is told when Ctrl-C was seen.

    Raises:
        EngineError: TensorRT refuses the graph or the options, or fails; with what to do.
        DeviceError: TensorRT cannot start on this driver.
    """
    log.clear()

    def work() -> Built:
        with within():
            return _build(trt, graph_path, options, log, monitor, timing_cache)

    return _interruptible(work, monitor, progress)


def inspect_plan(trt: Any, plan: memoryview | bytes, log: TrtLog) -> Inspected:
    """Load a plan on the device and read back what it is.

    Raises:
        EngineError: TensorRT cannot load it.
        DeviceError: TensorRT cannot start on this driver.
    """
    log.clear()
    runtime = _started(lambda: trt.Runtime(log), trt, log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        said = explain(log.messages) or "TensorRT does not say why"
        raise EngineError(f"the engine was built and cannot be loaded: {said}")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    return Inspected(
        summary=_summary(trt, engine),
        inputs={name: _tensor(engine, name, is_input=True) for name in inputs},
        outputs={name: _tensor(engine, name, is_input=False) for name in names if name not in inputs},
    )


def _summary(trt: Any, engine: Any) -> LayerSummary:
    """What the inspector says; a list that cannot be read leaves the precision unknown, and verification to judge."""
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        return summary_of(layers_from_json(text))
    except EngineError as error:
        logger.warning("%s", error)
        return LayerSummary(precision=UNKNOWN, layers=int(engine.num_layers), fused_attentions=0, int8_products=0)


def new_monitor(trt: Any, progress: Progress, clock: Callable[[], float] = time.monotonic) -> Monitor:
    """A monitor that tells now and then what TensorRT does and how far it is, and that can cancel.

    Args:
        trt: the module that it is for.
        progress: is told a line at most every five seconds, from whatever thread TensorRT uses.
        clock: in seconds.
    """

    class Tell(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._steps: dict[str, int] = {}
            self._told_at = clock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if clock() - self._told_at >= _INTERVAL:
                self._told_at = clock()
                steps = max(self._steps.get(phase_name, 0), step + 1)
                self._tell(f"TensorRT: {phase_name}, {100 * (step + 1) // steps} %")
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def _tell(self, line: str) -> None:
            try:
                progress(line)
            except Exception:  # noqa: BLE001  # an exception that leaves a callback of TensorRT ends the process
                self.cancelled = True

    return cast(Monitor, Tell())


def _build(
    trt: Any, graph_path: Path, options: BuildOptions, log: TrtLog, monitor: Monitor | None, timing_cache: bytes | None
) -> Built:
    builder = _started(lambda: trt.Builder(log), trt, log)
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED  # 1 in TensorRT 10, 0 in 11
    network = builder.create_network(1 << int(flag))
    parser = _parsed(trt, network, graph_path, log)
    config = _configured(trt, builder.create_builder_config(), options)
    if monitor is not None:
        config.progress_monitor = monitor
    _add_profile(builder, network, config, options)
    if timing_cache is not None:
        _use_timing_cache(config, timing_cache)
    log.clear()  # a timing cache of another release was an error to it, and is none to us
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - start
    if plan is None:
        raise EngineError(explain(log.messages) or f"TensorRT {trt.__version__} gave no engine and no reason")
    del parser  # it owns the weights that the network points to, so it lives until here
    return Built(plan=memoryview(plan), timing_cache=_measured(config, timing_cache), seconds=seconds)


def _started(make: Callable[[], _T], trt: Any, log: TrtLog) -> _T:
    """An object of TensorRT's; its library answers null where the driver does not fit, and pybind a TypeError."""
    try:
        return make()
    except TypeError as error:
        if not is_null_factory(error):
            raise
        raise DeviceError(
            f"TensorRT {trt.__version__} cannot start: the NVIDIA driver is absent, or does not fit its CUDA; "
            f"see acd-edge doctor{f' (TensorRT: {log.last})' if log.last else ''}"
        ) from error


def _parsed(trt: Any, network: Any, graph_path: Path, log: TrtLog) -> Any:
    """The parser, after it has read the graph; by its path, since the weights lie in a file beside it."""
    parser = trt.OnnxParser(network, log)
    done = parser.parse_from_file(os.fspath(graph_path))
    errors = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    if done and errors:
        logger.warning("TensorRT read the graph, and says: %s", "; ".join(errors))
    if not done:
        said = explain([(1, each) for each in errors] or log.messages)
        raise EngineError(said or f"TensorRT cannot read {graph_path}; export the bundle again")
    if network.num_inputs == 0 or network.num_outputs == 0:  # as some releases answer to a file that is no graph
        raise EngineError(f"TensorRT finds nothing in {graph_path}; export the bundle again")
    return parser


def _parser_error(error: Any) -> str:
    place = f"{error.node_operator()} {error.node_name()}".strip()
    return f"{place}: {error.desc()}" if place else str(error.desc())


def _configured(trt: Any, config: Any, options: BuildOptions) -> Any:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.builder_optimization_level = options.optimization_level
    config.max_aux_streams = 0  # least memory, one stream, the same order in every run
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the engine does not tell its types
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is fp32: TF32 has ten bits of mantissa
    return config


def _add_profile(builder: Any, network: Any, config: Any, options: BuildOptions) -> None:
    """Say how long the free first side of inputs may be: the prompts of the text encoder."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    shapes = {each.name: tuple(each.shape) for each in inputs}
    free = {name: shape for name, shape in shapes.items() if _FREE in shape}
    if not free:
        return
    profile = builder.create_optimization_profile()
    counts = (1, min(USUAL_PROMPTS, options.prompts), options.prompts)
    for name, (_, *inner) in free.items():
        if _FREE in inner:
            raise EngineError(f"only the first side of an input may be free, got {free[name]} for {name}; export again")
        profile.set_shape(name, *((count, *inner) for count in counts))
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"TensorRT refuses the range of {', '.join(free)}: 1 to {options.prompts} prompts")


def _use_timing_cache(config: Any, content: bytes) -> None:
    """Give it what was measured before; where it is of another release or device, or damaged, start a new one."""
    for each in (content, b""):
        cache = config.create_timing_cache(each)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _measured(config: Any, timing_cache: bytes | None) -> bytes:
    cache = None if timing_cache is None else config.get_timing_cache()
    return b"" if cache is None else bytes(memoryview(cache.serialize()))


def _tensor(engine: Any, name: str, *, is_input: bool) -> TensorRecord:
    shape = tuple(int(side) for side in engine.get_tensor_shape(name))
    profile: tuple[tuple[int, ...], ...] = ()
    if is_input and _FREE in shape:
        profile = tuple(tuple(int(side) for side in each) for each in engine.get_tensor_profile_shape(name, 0))
    kind = engine.get_tensor_dtype(name).name
    return TensorRecord(dtype=_TYPES.get(kind, kind.lower()), shape=shape, profile=profile)


def _interruptible(work: Callable[[], _T], monitor: Monitor | None, progress: Progress) -> _T:
    """Do the work in a thread; the first Ctrl-C cancels and waits for TensorRT's next step, the second leaves."""
    results: list[_T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def target() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # it is raised again below
            errors.append(error)
        finally:
            done.set()

    with _noted_signals() as asked:
        threading.Thread(target=target, name="build", daemon=True).start()
        while not done.wait(_WAKE):
            if len(asked) > 1 or (asked and monitor is None):
                break
            if asked and monitor is not None and not monitor.cancelled:
                monitor.cancelled = True
                progress("stopping at TensorRT's next step; Ctrl-C again leaves at once")
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Inside, a request to end is noted in the list that this gives; at the end its handler gets it, and raises."""
    asked: list[int] = []
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handlers = {number: each for number, each in found.items() if callable(each)}
    if threading.current_thread() is not threading.main_thread():
        handlers = {}  # Python runs handlers in the main thread only
    for number in handlers:
        signal.signal(number, lambda got, _: asked.append(got))
    try:
        yield asked
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for got in asked[:1]:
        handlers[signal.Signals(got)](got, None)
