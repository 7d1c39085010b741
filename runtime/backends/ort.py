"""ONNX Runtime, on the CPU or on an NVIDIA GPU by CUDA."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from acd_edge.errors import BackendError, DeviceError, MissingExtra
from acd_edge.lazy import load_library
from acd_edge.runtime.backends import Array, BackendOptions, GraphFile, TensorSpec

_TYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "tensor(uint8)": np.dtype(np.uint8),
        "tensor(int64)": np.dtype(np.int64),
        "tensor(float)": np.dtype(np.float32),
        "tensor(float16)": np.dtype(np.float16),
    }
)
_ERRORS_ONLY, _FATAL_ONLY, _WARNINGS = 3, 4, 2  # severities of its log; the last is its default
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
_CUDA_EXACT = {"use_tf32": "0"}  # else products of float32 are rounded to 10 bits on Ampere and later

logger = logging.getLogger(__name__)


class OrtBackend:
    """One session, run on the CPU in one pool of `threads`, or on the GPU where ONNX Runtime can really use it.

    Attributes:
        name: `onnxruntime`, or `onnxruntime (CUDA)`.
    """

    def __init__(self, graph: GraphFile, options: BackendOptions) -> None:
        ort = _onnxruntime()
        session = _cuda_session(ort, graph, options)
        self.name = "onnxruntime" if session is None else "onnxruntime (CUDA)"
        self._session: Any = _cpu_session(ort, graph, options) if session is None else session
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
        _onnxruntime()


def _onnxruntime() -> ModuleType:
    """Import ONNX Runtime with its telemetry off, unless the user has set it.

    Since 1.29 the wheels for Linux report the process and each graph that is loaded (file name, digests) to Microsoft
    over the network, and leave an identity for this machine in ~/.cache/Microsoft and a file `.ses` among the temporary
    ones. The variable counts at the import only; where somebody else imported the library before, nothing changes.
    """
    os.environ.setdefault(TELEMETRY_OFF, "1")
    return load_library("onnxruntime", "cpu", having="InferenceSession")


def _cpu_session(ort: Any, graph: GraphFile, options: BackendOptions) -> Any:
    path = graph.path
    if graph.precision == "bf16":
        raise BackendError(f"{path.parent} is a bf16 bundle, which ONNX Runtime's CPU cannot run; export --fp32")
    chosen = session_options(ort, options.threads)
    more = _int8_kernels(chosen) if graph.precision == "int8" else {}
    try:
        return ort.InferenceSession(os.fspath(path), chosen, providers=[_CPU], **more)
    except Exception as error:  # the library's errors share no base but Exception
        raise BackendError(f"ONNX Runtime {ort.__version__} cannot load {path}: {_first_line(error)}") from error


def _cuda_session(ort: Any, graph: GraphFile, options: BackendOptions) -> Any | None:
    """A session that computes on the GPU; None where that is not asked for, or only would be nice.

    Raises:
        DeviceError: `gpu` was asked for and ONNX Runtime cannot use one.
    """
    if options.device == "cpu":
        return None
    if _CUDA not in ort.get_available_providers():  # what it was built with, whatever the machine has
        reason = "it was built for the CPU only; pip install 'acd-edge[gpu]' in place of 'acd-edge[cpu]'"
    else:
        session, reason = _try_cuda(ort, graph, options)
        if session is not None:
            return session
        logger.info("ONNX Runtime has CUDA and cannot use it: %s", reason)
    if options.device == "gpu":
        raise DeviceError(
            f"device gpu was asked for and ONNX Runtime {ort.__version__} cannot use one: {reason}. "
            "On a Jetson: --backend tensorrt"
        )
    return None


def _try_cuda(ort: Any, graph: GraphFile, options: BackendOptions) -> tuple[Any | None, str]:
    """The session, or why there is none: left to itself, the library takes the CPU and says so on stdout."""
    chosen = session_options(ort, options.threads)
    with _silenced(ort):
        try:
            if hasattr(ort, "preload_dlls"):  # finds CUDA in NVIDIA's wheels
                ort.preload_dlls()
            session = ort.InferenceSession(
                os.fspath(graph.path), chosen, providers=[(_CUDA, _CUDA_EXACT), _CPU], enable_fallback=0
            )
            session.disable_fallback()
        except Exception as error:  # noqa: BLE001  # as above
            return None, _first_line(error)
    if _CUDA not in session.get_providers():
        return None, "CUDA, cuDNN or a driver that fits them is missing; see what acd-edge doctor says"
    return session, ""


@contextmanager
def _silenced(ort: Any) -> Iterator[None]:
    """Keep what the library prints and logs about a failing provider off our streams; the caller tells it."""
    printed = io.StringIO()
    ort.set_default_logger_severity(_FATAL_ONLY)
    try:
        with redirect_stdout(printed):
            yield
    finally:
        ort.set_default_logger_severity(_WARNINGS)
        if said := printed.getvalue().strip():
            logger.debug("ONNX Runtime: %s", said)


def session_options(ort: Any, threads: int | None) -> Any:
    """Options for one picture at a time: all cores in one operator, one operator after the other."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or core_count()
    if options.intra_op_num_threads > _processors():  # else those that wait keep the others from working: minutes a run
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    return options


def _int8_kernels(options: Any) -> dict[str, list[str]]:
    """Make int8 products of Q/DQ around MatMul; the arguments that the session takes besides.

    By itself the library first joins MatMul and Add to Gemm, for which it has no int8 kernel without a Q behind it, and
    dequantises every weight in every run. Its kernels for AVX2 without VNNI add each two products in 16 bits, which
    saturates with weights beyond 64; `x64quantprecision` makes it take others where that could happen.
    """
    options.add_session_config_entry("session.x64quantprecision", "1")
    return {"disabled_optimizers": ["MatMulAddFusion"]}


def _processors() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
