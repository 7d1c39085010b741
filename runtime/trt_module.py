"""TensorRT's Python module, where it comes from, and the one logger that a process may give it."""

from __future__ import annotations

import logging
import platform
import sys
from collections import deque
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from acd_edge.errors import EngineError, MissingExtra

__all__ = ["Message", "TrtLog", "check_release", "load_tensorrt", "release_of", "trt_log"]

logger = logging.getLogger(__name__)

OLDEST = (10, 0)
SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")  # where JetPack's apt package puts it
Message = tuple[int, str]
"""Severity, 0 internal error to 4 verbose, and text."""
_ERROR, _WARNING, _INFO = 1, 2, 3
_KEPT = 4096  # messages; verbose ones are kept only where a test asks


class TrtLog(Protocol):
    """What the builder and the backend see of the logger; the object itself is TensorRT's `ILogger`.

    Attributes:
        messages: the latest ones.
        last: the last error among them, on one line.
        verbose: keep TensorRT's most verbose messages too, and all of them.
    """

    messages: deque[Message]
    last: str
    verbose: bool

    def clear(self) -> None:
        """Forget the messages."""


def load_tensorrt() -> Any:
    """Import TensorRT, or say where it comes from on this machine.

    Raises:
        MissingExtra: it is not installed, cannot be loaded, or lies where this virtual environment does not look.
        EngineError: see `check_release`.
    """
    try:
        trt = import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name == "tensorrt":
            raise MissingExtra(f"TensorRT is not installed for this Python; {where_from()}") from error
        raise MissingExtra(f"TensorRT is incomplete, it lacks {error.name}; {where_from()}") from error
    except Exception as error:  # a shared library or a numpy of another release, and pybind11 says what it likes
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingExtra(f"TensorRT is installed and cannot be loaded ({first}); {where_from()}") from error
    if not hasattr(trt, "__version__"):  # the folder that a package leaves when it is removed imports too
        place = next(iter(getattr(trt, "__path__", [])), "a module of that name")
        raise MissingExtra(f"{place} is not TensorRT, or what is left of it; remove it, then: {where_from()}")
    check_release(trt)
    return trt


def where_from() -> str:
    """What to do about a missing TensorRT, on this machine."""
    if platform.machine() not in ("aarch64", "arm64"):
        return "install it with: pip install 'acd-edge[tensorrt]'"
    if sys.prefix != sys.base_prefix and (SYSTEM_PACKAGES / "tensorrt").is_dir():
        return (
            f"JetPack's lies in {SYSTEM_PACKAGES}, which this virtual environment does not see: make it with "
            "python3 -m venv --system-site-packages, with the system's Python"
        )
    return (
        "on a Jetson it comes with JetPack: sudo apt install python3-libnvinfer, and a virtual environment made with "
        "--system-site-packages"
    )


def release_of(trt: Any) -> tuple[int, ...]:
    """The release as numbers, such as (10, 3, 0)."""
    parts = str(trt.__version__).split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def check_release(trt: Any) -> None:
    """Refuse a release without strongly typed networks.

    Raises:
        EngineError: it is older than TensorRT 10.
    """
    if release_of(trt) < OLDEST:
        raise EngineError(
            f"TensorRT {trt.__version__} is too old: it chooses precisions by itself, which this project does not "
            "leave to it; JetPack 6.1 brings TensorRT 10.3"
        )


_LOGS: dict[Any, TrtLog] = {}


def trt_log(trt: Any) -> TrtLog:
    """The process's logger for TensorRT: the library keeps the first one that it gets and ignores any other.

    Args:
        trt: the module that it is for.
    """
    if trt not in _LOGS:
        _LOGS[trt] = _new_log(trt)
    return _LOGS[trt]


def _new_log(trt: Any) -> TrtLog:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: deque[Message] = deque(maxlen=_KEPT)
            self.last = ""
            self.verbose = False

        def log(self, severity: Any, msg: str) -> None:
            level = int(severity)
            if level > _INFO and not self.verbose:
                return
            self.messages.append((level, msg))
            if level <= _ERROR:
                self.last = " ".join(msg.split())
            logger.log(logging.INFO if level <= _WARNING else logging.DEBUG, "TensorRT: %s", msg)

        def clear(self) -> None:
            self.last = ""
            self.messages = deque(maxlen=None if self.verbose else _KEPT)

    return cast(TrtLog, Log())
