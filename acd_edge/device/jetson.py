"""Which Jetson this is and which JetPack it runs, read from files; None where it is no Jetson."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from acd_edge.device.sysfs import ROOT, read_text

__all__ = ["JETPACKS", "L4T", "JetPack", "Jetson", "debian_packages", "find_jetson", "find_l4t", "jetpack_of"]


class L4T(NamedTuple):
    """A release of Jetson Linux, such as 36.4.3.

    >>> f"{L4T(36, 4, 3)}"
    '36.4.3'
    """

    major: int
    minor: int = 0
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True)
class JetPack:
    """A line of the table: what an image of that JetPack brings.

    Attributes:
        first: the first L4T release of the line; it ends where the next begins.
        name: of JetPack itself.
        python, cuda, tensorrt: versions in the image.
        out_of_scope: why acd-edge does not run there; empty where it does.
    """

    first: L4T
    name: str
    python: str
    cuda: str
    tensorrt: str
    out_of_scope: str = ""


_OLD = "its Python 3.8 is too old, and TensorRT 8.5 has no strongly typed graphs"
_WEAK = "TensorRT 8.6 has no strongly typed graphs"
_ANCIENT = "its Python and TensorRT are too old"

JETPACKS: tuple[JetPack, ...] = (
    JetPack(L4T(0), "4 or older", "3.6", "10.2", "8.2", _ANCIENT),
    JetPack(L4T(34), "5.0", "3.8", "11.4", "8.4", _OLD),
    JetPack(L4T(35, 3), "5.1", "3.8", "11.4", "8.5.2", _OLD),
    JetPack(L4T(36, 0), "6.0", "3.10", "12.2", "8.6.2", _WEAK),
    JetPack(L4T(36, 4), "6.1", "3.10", "12.6", "10.3.0"),
    JetPack(L4T(36, 4, 3), "6.2", "3.10", "12.6", "10.3.0"),
    JetPack(L4T(36, 4, 4), "6.2.1", "3.10", "12.6", "10.3.0"),
    JetPack(L4T(36, 5), "6.2.2", "3.10", "12.6", "10.3.0"),
    JetPack(L4T(38, 2), "7.0", "3.12", "13.0", "10.13"),
    JetPack(L4T(38, 4), "7.1", "3.12", "13.0", "10.13"),
    JetPack(L4T(39, 2), "7.2", "3.12", "13.2", "10.16"),
    JetPack(L4T(39, 2, 1), "7.2.1", "3.12", "13.2", "10.16"),
)
"""L4T release -> JetPack and what its image brings.

Sources: NVIDIA's JetPack archive (developer.nvidia.com/embedded/jetpack-archive) for the names; for the versions
inside, the release tables of jetson-containers (dusty-nv) and Jetson-Orin-Wheels (Shattered217), and TensorRT 10.16's
release notes. 7.0 and 7.1 are Thor's, 7.2 is Orin's and Thor's.
"""

_MODULES: Mapping[str, str] = MappingProxyType(
    {  # part number in /proc/device-tree/compatible -> module
        "p3767-0000": "Orin NX 16GB", "p3767-0001": "Orin NX 8GB",
        "p3767-0003": "Orin Nano 8GB", "p3767-0004": "Orin Nano 4GB", "p3767-0005": "Orin Nano 8GB",
        "p3701": "AGX Orin", "p3834": "Thor",
        "p3668": "Xavier NX", "p2888": "AGX Xavier", "p3448": "Nano", "p3310": "TX2",
    }
)  # fmt: skip
_FAMILIES = ("Orin Nano", "Orin NX", "AGX Orin", "Thor", "Xavier NX", "AGX Xavier")  # as the model's name spells them


@dataclass(frozen=True)
class Jetson:
    """One module and the release that it runs.

    Attributes:
        model: as the device tree names the board, such as `NVIDIA Jetson Orin Nano Developer Kit`.
        module: such as `Orin Nano 8GB`; None on a board that tells neither part number nor a known name.
        l4t: release of Jetson Linux; None where only the device tree tells that this is one.
        jetpack: the table's line of that release.
        jetpack_package: version of the package nvidia-jetpack; None where it is not installed, which is usual.
    """

    model: str
    module: str | None
    l4t: L4T | None
    jetpack: JetPack | None
    jetpack_package: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """For JSON."""
        return {
            "model": self.model,
            "module": self.module,
            "l4t": str(self.l4t) if self.l4t else None,
            "jetpack": self.jetpack.name if self.jetpack else None,
            "jetpack_package": self.jetpack_package,
        }


def find_jetson(root: Path = ROOT) -> Jetson | None:
    """Read what this machine is, or None where it is no Jetson.

    Args:
        root: folder that holds `etc`, `proc`, `var`; another one in tests.
    """
    compatible = read_text(root / "proc/device-tree/compatible") or ""
    packages = debian_packages(("nvidia-l4t-core", "nvidia-jetpack"), root)
    l4t = find_l4t(root, packages)
    if l4t is None and "nvidia,tegra" not in compatible:
        return None
    model = read_text(root / "proc/device-tree/model") or "NVIDIA Jetson, model not told"
    jetpack = jetpack_of(l4t) if l4t else None
    return Jetson(model, _module(compatible, model), l4t, jetpack, packages.get("nvidia-jetpack"))


def find_l4t(root: Path = ROOT, packages: Mapping[str, str] | None = None) -> L4T | None:
    """Read the L4T release from /etc/nv_tegra_release, else from the package nvidia-l4t-core.

    Args:
        root: see `find_jetson`.
        packages: what `debian_packages` gave, to read that long file once.
    """
    text = read_text(root / "etc/nv_tegra_release") or ""
    if found := re.search(r"R(\d+) \(release\), REVISION: (\d+)(?:\.(\d+))?", text):
        return L4T(*(int(number or 0) for number in found.groups()))
    if packages is None:
        packages = debian_packages(("nvidia-l4t-core",), root)
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", packages.get("nvidia-l4t-core", ""))
    return L4T(*(int(number or 0) for number in found.groups())) if found else None


def jetpack_of(l4t: L4T) -> JetPack:
    """The line of the table that holds a release; a newer one than the table knows is the last line's.

    >>> jetpack_of(L4T(36, 4, 7)).name, jetpack_of(L4T(35, 4, 1)).name
    ('6.2.1', '5.1')
    """
    return [line for line in JETPACKS if line.first <= l4t][-1]


def debian_packages(names: tuple[str, ...], root: Path = ROOT) -> dict[str, str]:
    """Versions of installed Debian packages, without running dpkg.

    Args:
        names: exact names.
        root: see `find_jetson`.
    """
    found = {}
    for name, text in _paragraphs(names, root):
        status = re.search(r"^Status: (.*)$", text, re.MULTILINE)
        version = re.search(r"^Version: (\S+)$", text, re.MULTILINE)
        if version and (status is None or status[1].endswith(" installed")):
            found[name] = version[1]
    return found


def _paragraphs(names: tuple[str, ...], root: Path) -> list[tuple[str, str]]:
    """Paragraphs of dpkg's status file and of the files in status.d, where slim images keep them."""
    texts = [read_text(root / "var/lib/dpkg/status") or ""]
    texts += [read_text(root / "var/lib/dpkg/status.d" / name) or "" for name in names]
    wanted = {f"Package: {name}": name for name in names}
    found = []
    for text in texts:
        for paragraph in text.split("\n\n"):
            first = paragraph.lstrip("\n").partition("\n")[0].strip()
            if first in wanted:
                found.append((wanted[first], paragraph))
    return found


def _module(compatible: str, model: str) -> str | None:
    part = next((name for number, name in _MODULES.items() if number in compatible), None)
    return part or next((name for name in _FAMILIES if name.lower() in model.lower()), None)
