"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from acd_edge.errors import BackendError, MissingExtra
from acd_edge.lazy import require
from acd_edge.runtime.backends import Array, BackendOptions, GraphFile, TensorSpec

_TYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "tensor(uint8)": np.dtype(np.uint8),
        "tensor(int64)": np.dtype(np.int64),
        "tensor(float)": np.dtype(np.float32),
        "tensor(float16)": np.dtype(np.float16),
    }
)
_ERRORS_ONLY = 3


class OrtBackend:
    """One session on the CPU, run in one pool of `threads`."""

    name = "onnxruntime"

    def __init__(self, graph: GraphFile, options: BackendOptions) -> None:
        ort = require("onnxruntime", "cpu")
        path = graph.path
        if graph.precision == "bf16":
            raise BackendError(f"{path.parent} is a bf16 bundle, which ONNX Runtime's CPU cannot run; export --fp32")
        try:
            self._session: Any = ort.InferenceSession(
                os.fspath(path), session_options(ort, options.threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library's errors share no base but Exception
            raise BackendError(f"ONNX Runtime {ort.__version__} cannot load {path}: {_first_line(error)}") from error
        self._inputs = MappingProxyType({entry.name: _spec(entry) for entry in self._session.get_inputs()})
        self._outputs = [entry.name for entry in self._session.get_outputs()]

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """See `Backend`."""
        return self._inputs

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """See `Backend`."""
        if self._session is None:
            raise BackendError("the backend was closed; load the bundle again")
        try:
            found = self._session.run(self._outputs, dict(feed))
        except Exception as error:  # as above
            raise BackendError(f"ONNX Runtime failed while running the graph: {_first_line(error)}") from error
        return dict(zip(self._outputs, found, strict=True))

    def close(self) -> None:
        """See `Backend`."""
        self._session = None


def preload() -> None:
    """Import the library, in a thread beside other work; the session's own import then costs nothing."""
    with suppress(MissingExtra):
        require("onnxruntime", "cpu")


def session_options(ort: Any, threads: int | None) -> Any:
    """Options for one picture at a time: all cores in one operator, one operator after the other."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or core_count()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    return options


def core_count() -> int:
    """Physical cores that this process may use; a second thread on a core only slows a matrix product."""
    with suppress(AttributeError, OSError):
        usable = os.sched_getaffinity(0)
        siblings = {
            Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in usable
        }
        return len(siblings)
    return os.cpu_count() or 1


def _spec(entry: Any) -> TensorSpec:
    if entry.type not in _TYPES:
        raise BackendError(f"the graph's input {entry.name} has type {entry.type}; this is no graph of acd-edge")
    return TensorSpec(_TYPES[entry.type], tuple(side if isinstance(side, int) else None for side in entry.shape))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
