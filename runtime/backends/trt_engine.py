"""An engine in memory: TensorRT's logger and runtime, and one deserialised engine for all its users.

A deserialised engine holds the weights and may serve several contexts, so two backends of one engine share it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from acd_edge.errors import DeviceError, EngineError
from acd_edge.runtime.trt_module import TrtLog, trt_log

__all__ = ["LoadedEngine", "acquire_engine", "forget_error", "last_error", "release_engine"]


@dataclass
class LoadedEngine:
    """A deserialised engine with what it needs to live, in the order in which it was made.

    Attributes:
        digest: of the plan.
        users: backends that hold it.
    """

    digest: str
    log: Any
    runtime: Any
    engine: Any
    users: int = field(default=0, compare=False)

    def drop(self) -> None:
        """Let go in the reverse order."""
        self.engine = None
        self.runtime = None
        self.log = None


_loaded: dict[tuple[int, str], LoadedEngine] = {}
_lock = threading.Lock()


def acquire_engine(trt: Any, digest: str, plan: Callable[[], bytes]) -> LoadedEngine:
    """The engine of a plan, deserialised unless another backend has done so; give it back with `release_engine`.

    Args:
        trt: the module `tensorrt`.
        digest: sha256 of the plan.
        plan: reads it; called only when it is needed.

    Raises:
        EngineError: the plan cannot be read, or is not for this TensorRT or device.
        DeviceError: TensorRT finds no driver that fits it.
    """
    with _lock:
        key = (id(trt), digest)
        if key not in _loaded:
            _loaded[key] = _deserialised(trt, digest, plan())
        _loaded[key].users += 1
        return _loaded[key]


def release_engine(trt: Any, loaded: LoadedEngine) -> None:
    """Give an engine back; the last user frees it."""
    with _lock:
        loaded.users -= 1
        if loaded.users == 0:
            _loaded.pop((id(trt), loaded.digest), None)
            loaded.drop()


def _deserialised(trt: Any, digest: str, plan: bytes) -> LoadedEngine:
    forget_error(trt)
    log = trt_log(trt)
    try:
        runtime = trt.Runtime(log)
    except TypeError as error:  # "factory function returned nullptr"
        raise DeviceError(
            f"TensorRT {trt.__version__} cannot start: the NVIDIA driver does not fit it, or there is none; "
            f"see acd-edge doctor{_said(log)}"
        ) from error
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None and "memory" in log.last.lower():
        raise DeviceError(f"the GPU has no memory for the engine{_said(log)}; end what else uses it")
    if engine is None and "cudaError" in log.last:
        raise DeviceError(f"TensorRT {trt.__version__} cannot use the GPU{_said(log)}; see acd-edge doctor")
    if engine is None:
        raise EngineError(
            f"TensorRT {trt.__version__} cannot load the engine{_said(log)}; build it again on this machine: "
            "acd-edge compile BUNDLE --force"
        )
    return LoadedEngine(digest, log, runtime, engine)


def forget_error(trt: Any) -> None:
    """What TensorRT said before has nothing to do with what comes."""
    trt_log(trt).last = ""


def last_error(trt: Any) -> str:
    """TensorRT's last error message, for the end of one of ours; empty where it said nothing."""
    return _said(trt_log(trt))


def _said(log: TrtLog) -> str:
    return f" (TensorRT says: {log.last[:300]})" if log.last else ""
