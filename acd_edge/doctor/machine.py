"""Facts that need no library: system, memory, disk, this Python and what is installed for it."""

from __future__ import annotations

import grp
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from acd_edge.device.sysfs import ROOT, listed, processor_name, read_int, read_text

__all__ = ["DISTRIBUTIONS", "Camera", "Machine", "Memory", "Python", "find_machine"]

DISTRIBUTIONS = (
    *("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-training"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "cuda-python", "cuda-bindings", "pycuda"),
    *("openvino", "torch", "numpy"),
)
"""Packages of pip that matter here; a library of the system has no such name."""


@dataclass(frozen=True)
class Memory:
    """In bytes; `swap_on_disk` leaves out zram, which is compressed memory."""

    total: int
    available: int
    swap: int
    swap_on_disk: int


@dataclass(frozen=True)
class Python:
    """The interpreter that runs this.

    Attributes:
        environment: the virtual environment, or None.
        base: the installation that it was made from, `/usr` for the system's.
        sees_system: whether packages of the system can be imported.
        for_system: modules of interest among the system's packages, which an environment may hide.
        distributions: what pip installed, see `DISTRIBUTIONS`.
        pip: the command that installs into this Python.
    """

    version: str
    executable: str
    environment: Path | None
    sees_system: bool
    for_system: frozenset[str]
    distributions: Mapping[str, str]
    base: str = "/usr"
    pip: str = "pip"

    @property
    def minor(self) -> str:
        """Such as 3.10."""
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True)
class Camera:
    """A video device of Linux."""

    path: str
    name: str
    allowed: bool

    @property
    def number(self) -> str:
        """What `--camera` takes."""
        return self.path.removeprefix("/dev/video")


@dataclass(frozen=True)
class Machine:
    """One machine; what it does not tell is empty or None."""

    system: str
    kernel: str
    architecture: str
    processor: str
    cpus: int
    python: Python
    memory: Memory | None
    cuda_toolkit: str | None = None
    groups: frozenset[str] = frozenset()
    cameras: tuple[Camera, ...] = ()


def find_machine(root: Path = ROOT) -> Machine:
    """Read everything.

    Args:
        root: folder that holds `dev`, `etc`, `proc`, `sys`, `usr`; another one in tests.
    """
    release = read_text(root / "etc/os-release") or ""
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', release, re.MULTILINE)
    return Machine(
        system=name[1] if name else platform.system(),
        kernel=platform.release(),
        architecture=platform.machine(),
        processor=processor_name(root),
        cpus=_usable_cpus(),
        python=_python(root),
        memory=_memory(root),
        groups=_groups(),
        cuda_toolkit=_cuda_toolkit(root),
        cameras=_cameras(root),
    )


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _groups() -> frozenset[str]:
    """Names of this user's groups; `root` where that is who it is."""
    found = {"root"} if os.geteuid() == 0 else set()
    for number in os.getgroups():
        with suppress(KeyError):
            found.add(grp.getgrgid(number).gr_name)
    return frozenset(found)


def _python(root: Path) -> Python:
    environment = Path(sys.prefix) if sys.prefix != sys.base_prefix else None
    active = os.environ.get("VIRTUAL_ENV")
    return Python(
        version=platform.python_version(),
        executable=sys.executable,
        environment=environment,
        sees_system=any(folder.endswith("/dist-packages") for folder in sys.path),  # Debian's name, and so Ubuntu's
        for_system=_system_modules(root),
        distributions=_distributions(),
        base=sys.base_prefix,
        pip="pip" if environment is None or active == str(environment) else f"{environment}/bin/pip",
    )


def _system_modules(root: Path) -> frozenset[str]:
    folders = listed(root / "usr/lib", "python3*/dist-packages")
    names = ("tensorrt", "cv2", "onnxruntime")
    return frozenset(name for name in names for folder in folders if listed(folder, f"{name}*"))


def _distributions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # noqa: PERF203  # there is no other way to ask
            continue
    return found


def _memory(root: Path) -> Memory | None:
    text = read_text(root / "proc/meminfo") or ""
    told = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
    if "MemTotal" not in told:
        return None
    swap = told.get("SwapTotal", 0)
    return Memory(told["MemTotal"], told.get("MemAvailable", 0), swap, swap - _zram(root))


def _zram(root: Path) -> int:
    lines = (read_text(root / "proc/swaps") or "").splitlines()[1:]
    return sum(int(line.split()[2]) * 1024 for line in lines if "zram" in line and len(line.split()) > 2)


def _cuda_toolkit(root: Path) -> str | None:
    try:
        told = json.loads(read_text(root / "usr/local/cuda/version.json") or "{}")
        return str(told["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return None


def _cameras(root: Path) -> tuple[Camera, ...]:
    found = []
    for path in listed(root / "dev", "video*"):
        second = (read_int(root / "sys/class/video4linux" / path.name / "index") or 0) > 0  # such as UVC's metadata
        if path.name.removeprefix("video").isdecimal() and not second:
            name = read_text(root / "sys/class/video4linux" / path.name / "name") or "no name"
            found.append(Camera(f"/dev/{path.name}", name, os.access(path, os.R_OK | os.W_OK)))
    return tuple(found)
