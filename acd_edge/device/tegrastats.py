"""Lines of NVIDIA's `tegrastats`, as JetPack 6 and 7 print them on Orin and Thor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from acd_edge.device.power import TotalPower, total_power

__all__ = ["Load", "RailReading", "TegraStats", "parse_tegrastats"]

_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_SWAP = re.compile(r"\bSWAP (\d+)/(\d+)MB")
_CPUS = re.compile(r"\bCPU \[([^\]]*)\]")
_LOAD = re.compile(r"(\d+)%(?:@(\d+))?")
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d+)%)?(?:@\[?(\d+))?")
_MEMORY = re.compile(r"\bEMC_FREQ (?:(\d+)%)?(?:@(\d+))?")
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
_POWER = re.compile(r"\b([A-Z]\w*) (-?\d+)mW/(-?\d+)mW(?:/(-?\d+)mW)?")
_THROTTLED = re.compile(r"\b([\w-]*thrott\w*(?: due to [\w-]+)?)", re.IGNORECASE)
_COLDEST = -40.0  # degrees; a powered-down sensor reads -256


class Load(NamedTuple):
    """How busy something is and how fast it runs; None where the line does not tell, as without root."""

    percent: int | None
    mhz: int | None


UNKNOWN = Load(None, None)


class RailReading(NamedTuple):
    """Milliwatts of a rail: now, the mean since tegrastats began, and from JetPack 7.2 on the largest."""

    now_mw: int
    mean_mw: int
    peak_mw: int | None = None


@dataclass(frozen=True)
class TegraStats:
    """One line, in megabytes, megahertz, degrees Celsius and milliwatts.

    Attributes:
        cpus: one for each core; None is a core that is off.
        gpu: the first graphics cluster's clock; Thor's line has no per cent.
        throttled: words about throttling in the line, if any.
    """

    ram_used_mb: int
    ram_total_mb: int
    swap_used_mb: int | None = None
    swap_total_mb: int | None = None
    cpus: tuple[Load | None, ...] = ()
    gpu: Load = UNKNOWN
    memory: Load = UNKNOWN
    temperatures: Mapping[str, float] = field(default_factory=dict)
    rails: Mapping[str, RailReading] = field(default_factory=dict)
    throttled: tuple[str, ...] = ()

    @property
    def total(self) -> TotalPower | None:
        """The whole's power now, see `total_power`."""
        return total_power({label: reading.now_mw / 1000 for label, reading in self.rails.items()})


def parse_tegrastats(line: str) -> TegraStats | None:
    """Read one line; None where it is none.

    >>> stats = parse_tegrastats("RAM 974/7546MB (lfb 6x4MB) GR3D_FREQ 12% gpu@50.875C VDD_IN 4548mW/4550mW")
    >>> stats.gpu.percent, stats.temperatures["gpu"], stats.total.watts
    (12, 50.875, 4.548)
    """
    ram = _RAM.search(line)
    if ram is None:
        return None
    swap = _SWAP.search(line)
    cpus = _CPUS.search(line)
    found = [(name.lower(), float(value)) for name, value in _TEMPERATURE.findall(line)]
    return TegraStats(
        int(ram[1]),
        int(ram[2]),
        int(swap[1]) if swap else None,
        int(swap[2]) if swap else None,
        tuple(_core(text) for text in cpus[1].split(",")) if cpus else (),
        _load(_GPU.search(line)),
        _load(_MEMORY.search(line)),
        {name: value for name, value in found if value > _COLDEST},
        {
            label: RailReading(int(now), int(mean), int(peak) if peak else None)
            for label, now, mean, peak in _POWER.findall(line)
            if label != "NC"
        },
        tuple(_THROTTLED.findall(line)),
    )


def _core(text: str) -> Load | None:
    return _load(_LOAD.match(text.strip())) if text.strip() != "off" else None


def _load(found: re.Match[str] | None) -> Load:
    if found is None:
        return UNKNOWN
    return Load(*(None if number is None else int(number) for number in found.groups()))
