"""What runs a graph: one small protocol, one module for each library, one check of what goes in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from acd_edge.errors import ConfigError, EngineError, ShapeError, UsageError
from acd_edge.runtime.cuda import Binding

__all__ = [
    "BACKENDS", "DEVICES", "Array", "Backend", "BackendOptions", "Device", "GraphFile", "OpenVinoPrecision",
    "TensorSpec", "check_feed", "check_options", "open_backend", "preload",
]  # fmt: skip

Array = NDArray[Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of one input or output; a None in the shape is free."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def fits(self, array: Array) -> bool:
        """Whether an array may be fed as it is."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(want in (None, got) for want, got in zip(self.shape, array.shape, strict=True))
        )

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join('any' if side is None else str(side) for side in self.shape)})"


class Backend(Protocol):
    """One loaded graph, used from one thread.

    A protocol and not a base class: an implementation owes nothing to us but these four names.
    """

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What `run` wants, by name."""

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return fresh arrays, one for each output; `feed` has passed `check_feed`."""

    def close(self) -> None:
        """Free what the library holds; twice is fine."""

    @property
    def name(self) -> str:
        """What the user reads, such as `onnxruntime`."""


Device = Literal["auto", "cpu", "gpu"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "gpu")
OpenVinoPrecision = Literal["f32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class GraphFile:
    """A graph to load, and what its bundle says of it.

    Attributes:
        path: the ONNX file; its external data lies beside it.
        precision: the manifest's, for a clear refusal where a library cannot run it.
        digest: sha256 over the graph and its external data, which names an engine made of it; empty where unknown.
        bundle: what the user would name it by in a command that a message proposes; empty for the built-in one.
    """

    path: Path
    precision: str = "fp32"
    digest: str = ""
    bundle: str = ""


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """How a graph is to be run; what a library does not know of, it refuses.

    Attributes:
        threads: CPU threads of one run; None is one for each core.
        device: `gpu` is an error where the graph would run on a CPU; `auto` takes what is there.
        openvino_precision: what OpenVINO computes in; bf16 is faster where the processor has it, and less exact.
        cuda: the binding that the TensorRT backend uses, see `acd_edge.runtime.cuda`.
    """

    threads: int | None = None
    device: Device = "auto"
    openvino_precision: OpenVinoPrecision = "f32"
    cuda: Binding = "auto"

    def __post_init__(self) -> None:
        known: Mapping[str, tuple[str, ...]] = {
            "device": DEVICES,
            "openvino_precision": get_args(OpenVinoPrecision),
            "cuda": get_args(Binding),
        }
        for name, values in known.items():
            if (value := getattr(self, name)) not in values:
                raise ConfigError(f"unknown {name} {value!r}; known are {', '.join(values)}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self.threads}")


class _Opener(Protocol):
    def __call__(self, graph: GraphFile, options: BackendOptions) -> Backend: ...


BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "tensorrt": "acd_edge.runtime.backends.trt:TrtBackend",
        "onnxruntime": "acd_edge.runtime.backends.ort:OrtBackend",
        "openvino": "acd_edge.runtime.backends.ov:OpenVinoBackend",
    }
)
"""Name -> where its class is, in the order in which `auto` prefers them; see `choice`."""


def open_backend(
    graph: GraphFile,
    *,
    backend: str = "auto",
    options: BackendOptions = BackendOptions(),  # frozen
) -> Backend:
    """Load a graph.

    Args:
        graph: what to load.
        backend: key of `BACKENDS`, or `auto`.
        options: how to run it.

    Raises:
        MissingExtra: the library is not installed.
        UsageError: the backend has no use for an option.
        BackendError: the library refuses the graph.
        EngineError: `tensorrt` has no engine that may run it.
        DeviceError: the device is not there, or has not enough memory.
    """
    opened = _opened_auto(graph, options) if backend == "auto" else _opened(backend, graph, options)
    logger.info("%s runs %s", opened.name, graph.path.name)
    return opened


def _opened_auto(graph: GraphFile, options: BackendOptions) -> Backend:
    from acd_edge.runtime.backends.choice import choose_backend

    try:
        return _opened(choose_backend(graph, options), graph, options)
    except EngineError as error:  # its plan was altered since, or TensorRT does not take it
        return _opened(choose_backend(graph, options, no_engine=str(error)), graph, options)


def _opened(backend: str, graph: GraphFile, options: BackendOptions) -> Backend:
    module, _, attribute = _place(backend).partition(":")
    check_options(backend, options)
    return cast(_Opener, getattr(import_module(module), attribute))(graph, options)


def check_options(backend: str, options: BackendOptions) -> None:
    """Refuse options that a backend has no use for, instead of ignoring them.

    Raises:
        UsageError: the first of them.

    >>> check_options("tensorrt", BackendOptions(device="cpu"))
    Traceback (most recent call last):
        ...
    acd_edge.errors.UsageError: backend tensorrt runs on an NVIDIA GPU, so it takes no device cpu; leave one of the two
    """
    for unfit, reason in _UNFIT.get(backend, ()):
        if asked := unfit(options):
            raise UsageError(f"backend {backend} {reason}, so it takes no {asked}; leave one of the two")


def _device(unfit: Device) -> _Unfit:
    return lambda options: f"device {unfit}" if options.device == unfit else None


def _threads(options: BackendOptions) -> str | None:
    return None if options.threads is None else f"threads {options.threads}"


def _bf16(options: BackendOptions) -> str | None:
    return None if options.openvino_precision == "f32" else f"openvino-precision {options.openvino_precision}"


def _cuda(options: BackendOptions) -> str | None:
    return None if options.cuda == "auto" else f"cuda {options.cuda}"


_Unfit = Callable[[BackendOptions], str | None]
_UNFIT: Mapping[str, tuple[tuple[_Unfit, str], ...]] = MappingProxyType(
    {
        "tensorrt": (
            (_device("cpu"), "runs on an NVIDIA GPU"),
            (_threads, "runs on an NVIDIA GPU"),
            (_bf16, "computes in the types of the graph"),
        ),
        "onnxruntime": ((_bf16, "computes in the types of the graph"), (_cuda, "has its own way to CUDA")),
        "openvino": ((_cuda, "has no use for CUDA"),),
    }
)
"""Backend -> what it cannot take, and why."""


def preload(backend: str) -> None:
    """Import the library of a backend; a missing one is told later, by `open_backend`."""
    if backend == "auto":
        from acd_edge.runtime.backends.choice import likely_backend

        backend = likely_backend()
    module, _, _ = _place(backend).partition(":")
    import_module(module).preload()


def check_feed(feed: Mapping[str, Array], inputs: Mapping[str, TensorSpec]) -> None:
    """Refuse a feed whose names, types or shapes are not the inputs'; one check for all backends.

    >>> check_feed({"x": np.zeros(3)}, {"x": TensorSpec(np.dtype("uint8"), (None, 2))})
    Traceback (most recent call last):
        ...
    acd_edge.errors.ShapeError: x: want uint8 (any, 2), got float64 (3,)
    """
    if odd := sorted(set(feed) ^ set(inputs)):
        raise ShapeError(f"inputs: want {', '.join(sorted(inputs))}, got {', '.join(sorted(feed))}; odd: {odd[0]}")
    for name, spec in inputs.items():
        if not spec.fits(array := feed[name]):
            raise ShapeError(f"{name}: want {spec}, got {array.dtype} {array.shape}")


def _place(backend: str) -> str:
    try:
        return BACKENDS[backend]
    except KeyError:
        raise ConfigError(f"unknown backend {backend!r}; known are auto, {', '.join(BACKENDS)}") from None
