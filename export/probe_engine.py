"""Engines of graphs that are looked into: built, run and forgotten, never put into the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from acd_edge.export.build import build_engine, new_monitor
from acd_edge.runtime.backends import Backend, GraphFile
from acd_edge.runtime.backends.trt_session import Session
from acd_edge.runtime.cuda import Cuda
from acd_edge.runtime.engines import BuildOptions, read_timing_cache
from acd_edge.runtime.trt_module import trt_log

__all__ = ["engine_opener"]


def engine_opener(
    trt: Any, cuda: Cuda, options: BuildOptions, *, progress: Callable[[str], None]
) -> Callable[[GraphFile], Backend]:
    """What builds an engine of any graph with given options, and loads it.

    The timing cache of the device is read, so that the same kernels are chosen where they fit, and not written.

    Args:
        trt: the module `tensorrt`.
        cuda: the device.
        options: those of the engine that is examined.
        progress: is told what TensorRT does.
    """

    def load(graph: GraphFile) -> Backend:
        built = build_engine(
            trt,
            graph.path,
            options,
            log=trt_log(trt),
            monitor=new_monitor(trt, progress),
            timing_cache=read_timing_cache(trt.__version__, cuda.facts),
            within=cuda.active,
            progress=progress,
        )
        return _PlanBackend(trt, cuda, bytes(built.plan))

    return load


class _PlanBackend(Session):
    """Runs a plan that lies in memory; see `Backend`."""

    name = "tensorrt"

    def __init__(self, trt: Any, cuda: Cuda, plan: bytes) -> None:
        super().__init__(trt, hashlib.sha256(plan).hexdigest(), lambda: plan, cuda)
