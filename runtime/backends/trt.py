"""TensorRT: runs the engine of a graph that `acd-edge compile` built and verified on this machine. It builds none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, final

from acd_edge.errors import AcdEdgeError, DeviceError, EngineError
from acd_edge.runtime.backends import Array, BackendOptions, GraphFile, TensorSpec
from acd_edge.runtime.backends.trt_session import Session
from acd_edge.runtime.cuda import Cuda, DeviceFacts, open_cuda
from acd_edge.runtime.engines import Engine, EngineKey, gpu_name, newest_engine, stale_engine
from acd_edge.runtime.stages import Stage
from acd_edge.runtime.trt_module import load_tensorrt

__all__ = ["TrtBackend", "compile_command", "preload", "usable_engine", "why_not"]

logger = logging.getLogger(__name__)
_told: set[str] = set()


@final
class TrtBackend:
    """One worker's context, stream, buffers and CUDA graph of an engine; see `Session`.

    Attributes:
        name: with the precision as it was read from the engine, such as `tensorrt (fp16)`.
        details: for a log: releases, memory, CUDA graph or why there is none.
        engine: what runs.

    Raises:
        MissingExtra, DeviceError, BackendError: TensorRT, its CUDA binding or the device is not to be used.
        EngineError: there is no engine of this graph for this machine, or it failed its verification.
    """

    def __init__(self, graph: GraphFile, options: BackendOptions) -> None:
        trt = load_tensorrt()
        cuda = open_cuda(options.cuda)
        self._open(trt, cuda, usable_engine(graph, trt.__version__, cuda.facts))

    @classmethod
    def of_engine(cls, engine: Engine, *, cuda: Cuda | None = None, trt: Any = None) -> TrtBackend:
        """Run one engine whatever its state, as its verification must."""
        backend = cls.__new__(cls)
        backend._open(trt or load_tensorrt(), cuda or open_cuda(), engine)
        return backend

    def _open(self, trt: Any, cuda: Cuda, engine: Engine) -> None:
        self.engine = engine
        self._session = Session(trt, engine.record.plan_sha256, engine.plan_bytes, cuda)
        self.name = f"tensorrt ({engine.record.precision})"
        self.details = (
            f"TensorRT {trt.__version__} on {cuda.facts.name} by {cuda.name}, "
            f"{'in memory shared with the CPU' if self._session.is_mapped else 'with copies'}, "
            f"{f'no CUDA graph: {self._session.no_graph}' if self._session.no_graph else 'as a CUDA graph'}"
        )
        logger.info("%s", self.details)

    @property
    def uses_graph(self) -> bool:
        """Whether a run is one launch of a CUDA graph."""
        return not self._session.no_graph

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """See `Backend`."""
        return self._session.inputs

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """See `Backend`."""
        return self._session.run(feed)

    def close(self) -> None:
        """See `Backend`."""
        self._session.close()

    def tell_stages(self, wanted: bool) -> None:
        """See `acd_edge.runtime.stages.TellsStages`."""
        self._session.tell_stages(wanted)

    @property
    def stage_ms(self) -> Mapping[Stage, float]:
        """See `acd_edge.runtime.stages.TellsStages`."""
        return self._session.stage_ms


def preload() -> None:
    """Import the library, in a thread beside other work; what is wrong with it is told later."""
    try:
        load_tensorrt()
    except AcdEdgeError as error:
        logger.debug("%s", error)


def usable_engine(graph: GraphFile, tensorrt: str, device: DeviceFacts) -> Engine:
    """The engine that runs a graph here; one that was never verified is told once as a warning.

    Raises:
        EngineError: there is none that fits, or it failed its verification; the message names the command that helps.
    """
    engine = newest_engine(graph.digest, tensorrt, device)
    if engine is None or engine.state == "failed":
        raise EngineError(_no_engine(graph, tensorrt, device, engine))
    if engine.state == "never verified":
        _warn_once(f"the TensorRT engine was never verified on this machine; do it with: {_verify_command(graph)}")
    return engine


def why_not(graph: GraphFile, options: BackendOptions) -> str | None:
    """Why `auto` passes over TensorRT: None where a verified engine is ready, empty where no GPU can be used."""
    try:
        tensorrt = load_tensorrt().__version__
        device = open_cuda(options.cuda).facts
    except DeviceError as error:
        logger.info("TensorRT is installed and cannot be used: %s", error)
        return ""
    except AcdEdgeError as error:
        return str(error)
    engine = newest_engine(graph.digest, tensorrt, device)
    if engine is not None and engine.state == "verified":
        return None
    if engine is not None and engine.state == "never verified":
        return f"the TensorRT engine was never verified; do it with: {_verify_command(graph)}"
    return _no_engine(graph, tensorrt, device, engine)


def compile_command(graph: GraphFile) -> str:
    """What the user types to get an engine of a graph."""
    return f"acd-edge compile {graph.bundle}".rstrip()


def _verify_command(graph: GraphFile) -> str:
    return f"acd-edge verify {graph.bundle} --backend tensorrt".replace("  ", " ")


def _no_engine(graph: GraphFile, tensorrt: str, device: DeviceFacts, failed: Engine | None) -> str:
    if failed is not None:
        return (
            f"the TensorRT engine failed its verification on this machine; see how: {_verify_command(graph)}, "
            f"or build it again: {compile_command(graph)} --force"
        )
    wanted = EngineKey(graph=graph.digest, tensorrt=tensorrt, gpu=gpu_name(device), driver=device.driver)
    stale = stale_engine(wanted)
    if stale is None:
        return f"there is no TensorRT engine of this bundle on this machine; make one with: {compile_command(graph)}"
    own = stale[0].record.key
    differences = EngineKey(
        graph=wanted.graph, tensorrt=wanted.tensorrt, gpu=wanted.gpu, driver=wanted.driver, options=own.options
    ).differences(own)
    return (
        f"the TensorRT engine of this bundle does not fit this machine ({'; '.join(differences)}); "
        f"make a new one with: {compile_command(graph)}"
    )


def _warn_once(message: str) -> None:
    if message not in _told:
        _told.add(message)
        logger.warning("%s", message)
