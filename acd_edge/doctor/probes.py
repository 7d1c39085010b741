"""What libraries really do here: each is imported and made to work, in a process of its own.

A probe yields what it knows so far; the process prints each as a line of JSON, so that one that dies on the way has
told everything before. `acd_edge.doctor.reports` starts them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import IO, Any

from acd_edge.errors import AcdEdgeError, MissingExtra

__all__ = ["PROBES", "TINY_MODEL", "main"]

Told = dict[str, Any]

TINY_MODEL = (
    b'\x08\x08:8\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x04tinyZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x04'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x04B\x04\n\x00\x10\r"
)
"""y = x + x on four float32 numbers, as an ONNX model of opset 13; 70 bytes, so that no onnx is needed to make it."""

_ELSEWHERE = "AzureExecutionProvider"  # sends a model's work to a server; it runs no graph here
_OPERATORS = {"MatMul", "Softmax"}  # what our graphs have of those in the table; `compile` looks at the graph itself
_DIED = "the process ended while it was tried"
_REASONS = (re.compile(r"with error: (.+)"), re.compile(r"FAIL : (.+)"), re.compile(r"[Ee]rror: (.+)"))
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def probe_numpy() -> Iterator[Told]:
    """Import numpy, without which nothing else here works, and multiply two matrices."""
    numpy = import_module("numpy")
    told: Told = {"version": str(numpy.__version__), "file": str(numpy.__file__)}
    yield told
    _ = numpy.ones((4, 4), "float32") @ numpy.ones((4, 4), "float32")
    yield told


def probe_opencv() -> Iterator[Told]:
    """Import OpenCV, hand it an array, and read what it was built with."""
    import_module("numpy")
    cv2 = import_module("cv2")
    told: Told = {"version": str(cv2.__version__), "file": str(cv2.__file__)}
    yield told
    text = str(cv2.getBuildInformation())
    told |= {key: _built_with(text, name) for key, name in (("gstreamer", "GStreamer"), ("ffmpeg", "FFMPEG"))}
    told |= {"v4l": _built_with(text, "v4l/v4l2"), "cuda": _built_with(text, "NVIDIA CUDA")}
    yield told
    picture = import_module("numpy").zeros((4, 4, 3), "uint8")
    cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    yield told


def _built_with(text: str, name: str) -> bool:
    return bool(re.search(rf"^\s*{re.escape(name)}:\s+YES", text, re.MULTILINE))


def probe_onnxruntime() -> Iterator[Told]:
    """Import ONNX Runtime and run a tiny model on each provider that it lists: the list is that of its build."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: it reports itself over the network
    numpy, ort = import_module("numpy"), import_module("onnxruntime")
    told: Told = {"version": str(ort.__version__), "file": str(ort.__file__), "providers": {}}
    yield told
    for name in ort.get_available_providers():
        if name == _ELSEWHERE:
            continue
        told["providers"][name] = {"usable": False, "why": _DIED}
        yield told
        told["providers"][name] = _try_provider(ort, numpy, name)
        yield told


def _try_provider(ort: Any, numpy: Any, name: str) -> Told:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    with _heard() as heard:
        try:
            session = ort.InferenceSession(TINY_MODEL, options, providers=[name])
            if session.get_providers()[0] != name:
                return {"usable": False, "why": _reason(heard()) or "it fell back to the CPU"}
            (result,) = session.run(None, {"x": numpy.arange(4, dtype="float32")})
        except Exception as error:  # noqa: BLE001  # a provider fails in its own ways; what matters is that it does
            return {"usable": False, "why": _reason(heard()) or _first_line(error)}
    right = result.tolist() == [0, 2, 4, 6]
    return {"usable": right, "why": "" if right else f"wrong result: 2 x [0, 1, 2, 3] gave {result.tolist()}"}


def probe_tensorrt() -> Iterator[Told]:
    """Import TensorRT and make a Builder, which loads the driver."""
    trt = import_module("tensorrt")
    told: Told = {"version": str(trt.__version__), "file": str(trt.__file__), "builder": False, "why": _DIED}
    yield told
    from acd_edge.runtime.releases import known_bad

    told["known_bad"] = [
        {"text": str(each), "severity": each.severity, "pattern": each.pattern}
        for each in known_bad(told["version"], _OPERATORS)
    ]
    yield told
    with _heard() as heard:
        try:
            builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        except Exception as error:  # noqa: BLE001  # a null factory is a TypeError of pybind11, others are others
            why = _reason(heard())
            told |= {"why": why or _first_line(error), "null": "nullptr" in str(error)}
            yield told
            return
    told |= {"builder": builder is not None, "why": ""}
    yield told


def probe_cuda() -> Iterator[Told]:
    """Open the GPU as the TensorRT backend does."""
    from acd_edge.runtime.cuda import driver_release, open_cuda

    told: Told = {"kernel_driver": driver_release()}
    yield told
    cuda = open_cuda()
    told |= {"binding": cuda.name, "graphs": cuda.supports_graphs}
    yield told
    facts = cuda.facts
    told |= {name: getattr(facts, name) for name in ("name", "compute_capability", "driver", "integrated")}
    with cuda.active():  # pycuda has a context nowhere else
        told |= {"total_bytes": facts.total_bytes, "free_bytes": cuda.free_bytes()}
    yield told


def probe_openvino() -> Iterator[Told]:
    """Import OpenVINO and list its devices."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it reports each import over the network
    openvino = import_module("openvino")
    told: Told = {"version": str(openvino.__version__).partition("-")[0], "devices": {}}
    yield told
    core = openvino.Core()
    for device in core.available_devices:
        told["devices"][device] = {
            "name": str(core.get_property(device, "FULL_DEVICE_NAME")).strip(),
            "precisions": [str(each) for each in core.get_property(device, "OPTIMIZATION_CAPABILITIES")],
        }
        yield told


def probe_engines() -> Iterator[Told]:
    """List the engine cache; no engine is read or run."""
    from acd_edge.runtime.engines import all_engines, cache_problem, cache_root

    cache = cache_root()
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    told: Told = {"cache": str(cache), "free_bytes": shutil.disk_usage(there).free, "engines": []}
    told["problem"] = cache_problem()
    yield told
    for engine in all_engines():
        record, key = engine.record, engine.record.key
        told["engines"].append(
            {"folder": str(engine.folder), "state": engine.state, "made_at": record.made_at, "bytes": record.plan_bytes}
            | {
                "precision": record.precision,
                "part": record.part,
                "bundle": record.bundle,
                "graph": key.graph,
                "tensorrt": key.tensorrt,
                "driver": key.driver,
            }
        )
    yield told


PROBES: Mapping[str, tuple[str, Callable[[], Iterator[Told]]]] = MappingProxyType(
    {
        "numpy": ("numpy", probe_numpy),
        "opencv": ("cv2", probe_opencv),
        "onnxruntime": ("onnxruntime", probe_onnxruntime),
        "tensorrt": ("tensorrt", probe_tensorrt),
        "cuda": ("", probe_cuda),
        "openvino": ("openvino", probe_openvino),
        "engines": ("", probe_engines),
    }
)
"""Name -> module whose absence means that the library is not installed, and the probe."""


def main(name: str) -> None:
    """Run a probe and print what it tells, a line of JSON each; what libraries print goes to stderr instead."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module, probe = PROBES[name]
    told: Told = _place(module)
    try:
        _tell(out, told, "died")
        for told in probe():
            _tell(out, told, "died")
        _tell(out, told, "ok")
    except MissingExtra as error:
        _tell(out, told, "absent", str(error))
    except ModuleNotFoundError as error:
        is_absent = error.name == module
        _tell(out, {} if is_absent else told, "absent" if is_absent else "broken", _first_line(error))
    except AcdEdgeError as error:
        _tell(out, told, "broken", str(error))
    except BaseException as error:  # noqa: BLE001  # whatever a broken library raises is the result
        _tell(out, told, "broken", f"{type(error).__name__}: {_first_line(error)}")
    out.flush()
    os._exit(0)  # without the clean-up of a library that may hang or abort in it


def _place(module: str) -> Told:
    """The file that a module would be taken from, without its being imported: it may be the wrong one."""
    with suppress(ImportError, ValueError):
        spec = find_spec(module) if module else None
        return {"file": spec.origin} if spec is not None and spec.origin else {}
    return {}


def _tell(out: IO[str], told: Told, state: str, error: str = "") -> None:
    print(json.dumps({"state": state, "values": told, "error": error}), file=out, flush=True)


@contextmanager
def _heard() -> Iterator[Callable[[], str]]:
    """Keep what is written to stdout and stderr inside, C libraries included; the function gives it so far."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stream:

        def heard() -> str:
            stream.seek(0)
            return stream.read()

        kept = {number: os.dup(number) for number in (1, 2)}
        try:
            for number in kept:
                os.dup2(stream.fileno(), number)
            yield heard
        finally:
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)


def _reason(text: str) -> str:
    """The reason among a library's log lines: what a loader said, else what an error said, else nothing."""
    plain = _COLOUR.sub("", text)
    found = next((match for match in (pattern.search(plain) for pattern in _REASONS) if match), None)
    return found[1].strip().rstrip(".") if found else ""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
