"""OpenVINO on the CPU, and on an Intel GPU where there is one."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from acd_edge.errors import BackendError, DeviceError, MissingExtra, UsageError
from acd_edge.lazy import load_library
from acd_edge.runtime.backends import Array, BackendOptions, GraphFile, TensorSpec
from acd_edge.runtime.backends.ort import core_count

_SHORT_NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}  # OpenVINO's long names of types
_PRODUCTS = frozenset({"FullyConnected", "FullyConnectedQuantizedLegacy", "MatMul", "Convolution"})
_INT8_KERNELS = ("_i8", "_u8")  # how the name of a kernel that multiplies int8 ends, as in jit_gemm_i8, in any case
_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})  # instructions that add up int8 products in 32 bits
_X86 = frozenset({"x86_64", "AMD64"})
_UNREAD_LINES = ("Exception from ", "Check '", "FrontEnd API failed")  # where in OpenVINO's sources, not what
_cores: list[tuple[Any, Any]] = []  # the library, and its core


class OpenVinoBackend:
    """One compiled graph and one request, run in one stream of `threads`.

    Attributes:
        name: with the precision as the compiled model tells it, such as `openvino (f32)` or `openvino (int8, f32)`.
    """

    def __init__(self, graph: GraphFile, options: BackendOptions) -> None:
        ov = _openvino()
        if graph.precision == "bf16":
            raise BackendError(
                f"{graph.path.parent} is a bf16 bundle, which is for TensorRT; with OpenVINO run an fp32 or fp16 "
                f"bundle with --openvino-precision bf16"
            )
        core = _core(ov)
        device = _device(core, options)
        try:
            model = core.read_model(os.fspath(graph.path))
            compiled: Any = core.compile_model(model, device, _config(device, graph, options))
            precisions = _precisions(compiled)
            self._request: Any = compiled.create_infer_request()
        except Exception as error:  # the library raises plain RuntimeError, and pybind11 what it likes
            raise BackendError(
                f"OpenVINO {ov.__version__.split('-')[0]} cannot load {graph.path}: {_what(error)}"
            ) from error
        self.name = f"openvino ({', '.join(precisions)})"
        if precisions[-1] != options.openvino_precision:
            raise BackendError(f"OpenVINO was asked for {options.openvino_precision} and would run as {self.name}")
        # the names of the file, by position: compiling drops nodes that do nothing, and may keep their names instead
        self._inputs = MappingProxyType(
            {port.get_any_name(): _spec(kept) for port, kept in zip(model.inputs, compiled.inputs, strict=True)}
        )
        self._outputs = [port.get_any_name() for port in model.outputs]

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """See `Backend`."""
        return self._inputs

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """See `Backend`."""
        if self._request is None:
            raise BackendError("the backend was closed; load the bundle again")
        try:
            # the arrays are read in place, so they must lie in one piece
            self._request.infer({name: np.ascontiguousarray(array) for name, array in feed.items()}, share_inputs=True)
        except Exception as error:  # as above
            raise BackendError(f"OpenVINO failed while running the graph: {_what(error)}") from error
        # the request writes over its own tensors next time: hand out copies
        return {name: self._request.get_output_tensor(at).data.copy() for at, name in enumerate(self._outputs)}

    def close(self) -> None:
        """See `Backend`."""
        self._request = None  # the last reference to the compiled model


def preload() -> None:
    """Import the library, in a thread beside other work; the backend's own import then costs nothing."""
    with suppress(MissingExtra):
        _openvino()


def _openvino() -> ModuleType:
    with _no_telemetry():
        return load_library("openvino", "openvino", having="Core")


def _core(ov: Any) -> Any:
    """OpenVINO's core, one for the process and never freed.

    Its CPU plugin gives the thread another stack for signals, and takes it back with the core. Of two cores the one
    that goes last leaves the stack of the other, freed before, so that the next Ctrl-C crashes (OpenVINO 2026.4).
    """
    for library, core in _cores:
        if library is ov:
            return core
    _cores.append((ov, ov.Core()))
    return _cores[-1][1]


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Hide `openvino_telemetry`: `import openvino` else makes ~/intel and reports each import over the network.

    OpenVINO then takes the stub it has for machines where that package is not installed. Where somebody else has
    imported OpenVINO before, nothing changes.
    """
    name = "openvino_telemetry"
    hides = name not in sys.modules
    if hides:
        sys.modules[name] = None  # type: ignore[assignment]  # makes its import fail
    try:
        yield
    finally:
        if hides:
            sys.modules.pop(name, None)


def _device(core: Any, options: BackendOptions) -> str:
    """`CPU` or `GPU`, checked against what is there and what it can compute."""
    device = "GPU" if options.device == "gpu" else "CPU"
    there = core.available_devices
    if not any(name.partition(".")[0] == device for name in there):
        wanted = "Intel GPU" if device == "GPU" else "CPU"
        advice = "; an NVIDIA GPU is for --backend tensorrt" if device == "GPU" else ""
        raise DeviceError(f"OpenVINO finds no {wanted} here, only {', '.join(there) or 'nothing'}{advice}")
    if device == "GPU" and options.threads is not None:
        raise UsageError(f"OpenVINO on a GPU takes no threads, got {options.threads}; leave it out")
    able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    if options.openvino_precision == "bf16" and "BF16" not in able:
        raise DeviceError(
            f"{core.get_property(device, 'FULL_DEVICE_NAME').strip()} has no bf16 arithmetic (OpenVINO names "
            f"{', '.join(able)}); leave --openvino-precision out to run in f32"
        )
    return device


def _config(device: str, graph: GraphFile, options: BackendOptions) -> dict[str, Any]:
    """One picture at a time, in exactly the precision asked: OpenVINO else takes bf16 or f16 where it can."""
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": options.openvino_precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if device == "CPU":
        config["INFERENCE_NUM_THREADS"] = options.threads or core_count()
        if graph.precision == "int8" and not adds_int8_exactly():
            config["LP_TRANSFORMS_MODE"] = "NO"  # Q/DQ is computed as written, in f32
    return config


def adds_int8_exactly(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = "") -> bool:
    """Whether int8 products may be left to OpenVINO on this processor.

    On x86 without VNNI its kernels add each two products in 16 bits (`vpmaddubsw`), which saturates: 384 products of
    127 x 127 and the like gave 44 instead of 1205 (OpenVINO 2026.4, AVX2). They are not faster than f32 there either.

    Args:
        cpuinfo: where Linux lists the processor's instructions; other systems are taken to have none.
        machine: name of the architecture, this machine's if empty.
    """
    if (machine or platform.machine()) not in _X86:
        return True
    with suppress(OSError):
        flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
        return not _VNNI.isdisjoint(flags.split())
    return False


def _precisions(compiled: Any) -> list[str]:
    """What the compiled model computes in: `int8` where a layer's kernel does, then the type of all else."""
    long_name = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    kernels = {
        node.get_rt_info()["primitiveType"].astype(str).lower()
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) in _PRODUCTS
    }
    int8 = any(kernel.endswith(_INT8_KERNELS) for kernel in kernels)
    return [*(["int8"] if int8 else []), _SHORT_NAMES.get(long_name, long_name)]


def _spec(port: Any) -> TensorSpec:
    sides = (None if side.is_dynamic else int(side.get_length()) for side in port.get_partial_shape())
    return TensorSpec(np.dtype(port.get_element_type().to_dtype()), tuple(sides))


def _what(error: Exception) -> str:
    """The line of OpenVINO's message that says what is wrong; the others name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_UNREAD_LINES)] or lines or [type(error).__name__]
    return telling[-1][:300]
