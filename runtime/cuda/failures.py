"""CUDA's error codes in words that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from acd_edge.errors import DeviceError

_NO_DRIVER = (
    "there is no NVIDIA driver that this CUDA can use, or it is too old; see what nvidia-smi says, and in a container "
    "start it with --gpus all or --runtime nvidia"
)
_NO_DEVICE = (
    "no NVIDIA GPU is visible; see what nvidia-smi says, and unset CUDA_VISIBLE_DEVICES if it hides it, "
    "or run on the CPU: --backend onnxruntime"
)
_EXHAUSTED = "the GPU's memory is exhausted; end what else uses it, or take a bundle of a smaller --size or precision"
_MISMATCH = "the NVIDIA driver and its libraries are of different releases; reboot, or install both again"
_ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "cudaErrorInsufficientDriver": _NO_DRIVER,
        "cudaErrorInitializationError": _NO_DRIVER,
        "cudaErrorStubLibrary": _NO_DRIVER,
        "cudaErrorNoDevice": _NO_DEVICE,
        "cudaErrorMemoryAllocation": _EXHAUSTED,
        "cudaErrorSystemDriverMismatch": _MISMATCH,
        "cudaErrorCompatNotSupportedOnDevice": _MISMATCH,
        "cudaErrorDevicesUnavailable": "the GPU is busy or in exclusive use; end what uses it",
        "cudaErrorIllegalAddress": "the GPU read or wrote a wrong address; start again, and verify: acd-edge verify",
    }
)
_DRIVER_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "out of memory": "cudaErrorMemoryAllocation",
        "no cuda-capable device": "cudaErrorNoDevice",
        "initialization error": "cudaErrorInitializationError",
        "system driver mismatch": "cudaErrorSystemDriverMismatch",
        "stub library": "cudaErrorStubLibrary",
    }
)
"""What the driver's interface, which pycuda uses, says -> the runtime's name of it."""


def device_error(call: str, name: str, words: str = "") -> DeviceError:
    """The error of a CUDA call that failed.

    Args:
        call: the function, such as `cudaMalloc`, perhaps with what it was asked for.
        name: CUDA's name of the error, such as `cudaErrorMemoryAllocation`.
        words: CUDA's own description.

    >>> str(device_error("cudaGetDeviceCount", "cudaErrorNoDevice"))[:51]
    'no NVIDIA GPU is visible; see what nvidia-smi says,'
    """
    said = f"{call}: {name}"
    if name in _ADVICE:
        return DeviceError(f"{_ADVICE[name]} ({said})")
    return DeviceError(f"CUDA refused {said}{f', {words}' if words else ''}")


def error_from_words(call: str, words: str) -> DeviceError:
    """The same for a binding whose errors are words, such as `cuMemAlloc failed: out of memory`."""
    lower = words.lower()
    name = next((name for part, name in _DRIVER_WORDS.items() if part in lower), "")
    return device_error(call, name) if name else device_error(call, words)
