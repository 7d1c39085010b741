"""What a measurement was taken on and of: machine, versions, bundle, backend, memory."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import acd_edge
from acd_edge.device.jetson import debian_packages
from acd_edge.device.sysfs import ROOT, processor_name, read_text
from acd_edge.errors import AcdEdgeError
from acd_edge.runtime.bundle import builtin_bundle
from acd_edge.runtime.bundle_files import MANIFEST
from acd_edge.runtime.cuda import Binding, driver_release, open_cuda
from acd_edge.runtime.engines import Engine

if TYPE_CHECKING:
    from acd_edge.runtime.backends import BackendOptions
    from acd_edge.runtime.bundle import Bundle
    from acd_edge.runtime.detector import Detector

__all__ = [
    "bundle_facts",
    "current_rss_mb",
    "gpu_facts",
    "machine_facts",
    "needs_cuda",
    "peak_rss_mb",
    "subject_facts",
    "versions",
]

_PACKAGES = (
    *("numpy", "Pillow", "opencv-python-headless", "opencv-python", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt_cu12", "tensorrt_cu13", "cuda-python", "cuda-bindings", "pycuda"),
)
_DEBIAN = ("libnvinfer10", "libnvinfer11", "python3-libnvinfer", "cuda-cudart-12-6", "cuda-cudart-13-2", "libopencv")
_ON_CUDA = ("tensorrt", "cuda")  # in the name of a backend
_MIB = 1 << 20


def machine_facts(root: Path = ROOT) -> dict[str, Any]:
    """Processor, memory and system; what the machine does not tell is None.

    Args:
        root: folder that holds `proc` and `etc`; another one in tests.
    """
    memory = _after(read_text(root / "proc/meminfo"), "MemTotal")
    load = read_text(root / "proc/loadavg")
    system = _after((read_text(root / "etc/os-release") or "").replace("=", ":"), "PRETTY_NAME")
    return {
        "cpu": processor_name(root) or None,
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mb": round(int(memory.split()[0]) / 1024) if memory else None,
        "load_before": float(load.split()[0]) if load else None,
        "system": system.strip('"') if system else platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
    }


def versions(root: Path = ROOT) -> dict[str, str]:
    """Versions of Python, of the packages that compute, of the NVIDIA driver, and of JetPack's Debian packages."""
    found = {"acd-edge": acd_edge.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    for name in ("tensorrt", "cv2"):  # the system's, which pip does not know
        module = sys.modules.get(name)
        if module is not None and name not in found and hasattr(module, "__version__"):
            found.setdefault(name, str(module.__version__))
    if driver := driver_release(root):
        found["nvidia driver"] = driver
    return {**found, **debian_packages(_DEBIAN, root)}


def subject_facts(detector: Detector, options: BackendOptions, *, asked_backend: str, since: str) -> dict[str, Any]:
    """The bundle, and what runs it.

    Args:
        detector: what is measured.
        options, asked_backend: how it was asked for.
        since: when the process began to load, UTC in ISO 8601; an engine that is no older was built by it.
    """
    from acd_edge.runtime.backends.ort import core_count

    backend = detector.backend
    runs_on_cpu = options.device != "gpu" and not needs_cuda(backend.name)  # OpenVINO's name does not tell its device
    return {
        **bundle_facts(detector.bundle),
        "product": detector.product,
        "backend": backend.name,
        "asked_backend": asked_backend,
        "device": options.device,
        "threads": (options.threads or core_count()) if runs_on_cpu else None,
        "engine": _engine_facts(getattr(backend, "engine", None), getattr(backend, "details", ""), since),
    }


def _engine_facts(engine: object, details: str, since: str) -> dict[str, Any] | None:
    """Of a backend that runs an engine of the cache; its precision as it was read back from the engine."""
    if not isinstance(engine, Engine):
        return None
    record = engine.record
    return {
        "sha256": record.plan_sha256,
        "precision": record.precision,
        "state": engine.state,
        "tensorrt": record.key.tensorrt,
        "driver": record.key.driver,
        "gpu": record.key.gpu,
        "options": asdict(record.key.options),
        "layers": record.layers,
        "fused_attentions": record.fused_attentions,
        "int8_products": record.int8_products,
        "made_at": record.made_at,
        "built_now": record.made_at >= since,
        "details": details,
    }


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """Name, digests and kind of a bundle; of its place only the last part, which tells nothing of the machine.

    The bundle's digest is that of its manifest, which holds those of all its files; the graph's is what an engine is
    named by.
    """
    manifest = bundle.manifest
    return {
        "bundle": "built-in" if bundle.path.absolute() == builtin_bundle() else bundle.path.resolve().name,
        "name": manifest.name,
        "bundle_sha256": hashlib.sha256((bundle.root / MANIFEST).read_bytes()).hexdigest(),
        "graph_sha256": bundle.model_file.digest,
        "size": manifest.size,
        "precision": manifest.precision,
        "preset": manifest.preset,
        "domain": manifest.domain,
        "groups": manifest.groups,
    }


def needs_cuda(backend: str) -> bool:
    """Whether a backend computes on an NVIDIA GPU, by its name.

    >>> needs_cuda("onnxruntime (CUDA)"), needs_cuda("openvino (f32)")
    (True, False)
    """
    return any(word in backend.lower() for word in _ON_CUDA)


def gpu_facts(backend: str, binding: Binding = "auto") -> dict[str, Any] | None:
    """The GPU and its memory now, where the backend computes on one and a binding of CUDA is there to ask; else None.

    Memory in use is that of all programs together, now, which is no peak; on a Jetson, whose GPU has none of its own,
    of the whole machine.
    """
    if not needs_cuda(backend):
        return None
    try:
        cuda = open_cuda(binding)
        with cuda.active():
            free = cuda.free_bytes()
    except AcdEdgeError:
        return None
    facts = cuda.facts
    return {
        "name": facts.name,
        "compute_capability": facts.compute_capability,
        "driver": facts.driver,
        "integrated": facts.integrated,
        "memory_mb": round(facts.total_bytes / _MIB),
        "memory_used_mb": round((facts.total_bytes - free) / _MIB),
    }


def peak_rss_mb(root: Path = ROOT) -> float | None:
    """Most memory that this process ever held at once (VmHWM), in MiB; None where the system does not tell."""
    told = _after(read_text(root / "proc/self/status"), "VmHWM")
    return round(int(told.split()[0]) / 1024, 1) if told else None


def current_rss_mb(root: Path = ROOT) -> float | None:
    """Memory that this process holds now (VmRSS), in MiB; None where the system does not tell."""
    told = _after(read_text(root / "proc/self/status"), "VmRSS")
    return round(int(told.split()[0]) / 1024, 1) if told else None


def _after(text: str | None, key: str) -> str | None:
    """What stands after a key, in lines of `key: value`."""
    told = (line.partition(":") for line in (text or "").splitlines())
    return next((value.strip() for name, _, value in told if name.strip() == key and value.strip()), None)
