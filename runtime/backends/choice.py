"""What `auto` takes: the first backend that is installed, can do what was asked, and has what it needs."""

from __future__ import annotations

import logging
import platform
from importlib.util import find_spec

from acd_edge.errors import BackendError, MissingExtra, UsageError
from acd_edge.runtime.backends import BACKENDS, BackendOptions, GraphFile, check_options

__all__ = ["choose_backend", "is_installed", "likely_backend"]

_EXTRAS = {"onnxruntime": "cpu", "openvino": "openvino"}

logger = logging.getLogger(__name__)
_told: set[str] = set()


def choose_backend(graph: GraphFile, options: BackendOptions, *, no_engine: str = "") -> str:
    """The backend that `auto` runs a graph with; it never builds anything.

    TensorRT where there is a verified engine of this graph for this machine; else ONNX Runtime, with one line that says
    which command makes the engine where TensorRT is installed; OpenVINO only where ONNX Runtime is not installed.

    Args:
        graph, options: what is to be run, and how.
        no_engine: why the engine that is there cannot be loaded, where that was tried.

    Raises:
        UsageError: no backend takes these options together.
        BackendError: only TensorRT is installed, and there is no engine that may be used.
        MissingExtra: nothing is installed that runs a graph.
    """
    able = _able(options)
    here = [name for name in able if is_installed(name)]
    reason: str | None = ""
    if "tensorrt" in here:
        from acd_edge.runtime.backends.trt import why_not  # and the cache of engines with it

        reason = no_engine or why_not(graph, options)
        if reason is None:
            return "tensorrt"
        here.remove("tensorrt")
    if not here and reason:
        raise BackendError(f"only TensorRT is installed here to run a graph, and {reason}")
    if not here:
        raise MissingExtra(
            f"nothing that is installed runs a graph as asked, {' or '.join(able)} could; {_where(able)}"
        )
    if reason and reason not in _told:
        _told.add(reason)
        logger.warning("%s runs the graph, not TensorRT: %s", here[0], reason)
    return here[0]


def likely_backend() -> str:
    """The first that is installed; what `auto` takes is told only when the graph is known."""
    return next((name for name in BACKENDS if is_installed(name)), "onnxruntime")


def is_installed(backend: str) -> bool:
    """Whether the library of a backend is there; it is not imported."""
    try:
        return find_spec(backend) is not None  # the libraries' modules have the backends' names
    except ValueError:  # a module that was made by hand
        return True


def _where(able: list[str]) -> str:
    """How to come by one of these, the easiest first; TensorRT where a Jetson brings it, or nothing else will do."""
    from acd_edge.runtime.trt_module import where_from

    hints = [f"for {name}: pip install 'acd-edge[{extra}]'" for name, extra in _EXTRAS.items() if name in able][:1]
    if "tensorrt" in able and (not hints or platform.machine() == "aarch64"):
        hints.append(f"for tensorrt: {where_from()}")
    return "; ".join(hints)


def _able(options: BackendOptions) -> list[str]:
    """Backends that take these options, in the order of preference."""
    able: list[str] = []
    refused: list[UsageError] = []
    for name in BACKENDS:
        try:
            check_options(name, options)
        except UsageError as error:  # noqa: PERF203  # three backends
            refused.append(error)
        else:
            able.append(name)
    if not able:
        raise UsageError("; ".join(map(str, refused)))
    return able
