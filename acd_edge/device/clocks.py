"""How fast and how hot the machine is: power mode, clocks, temperatures, fan, throttling. Read-only, without root."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from acd_edge.device.jetson import Jetson, find_jetson
from acd_edge.device.sysfs import ROOT, Runner, listed, read_int, read_text, run_command

__all__ = [
    "Clock", "DeviceState", "PowerMode", "Throttling", "best_power_mode", "clocks", "clocks_locked", "device_state",
    "fan_percent", "power_mode", "power_modes", "temperatures", "throttled_between", "throttling",
]  # fmt: skip

_GPU = re.compile(r"gpu|ga10b|gv11b|gp10b|gb10b")  # names of the GPU below /sys/class/devfreq; Thor's is gpu-gpc-0
_COLDEST = -40.0  # degrees; a powered-down sensor reads -256


@dataclass(frozen=True)
class PowerMode:
    """A mode of nvpmodel; which number is the fastest differs from module to module."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (mode {self.number})"


@dataclass(frozen=True)
class Clock:
    """One clock, in Hz.

    Attributes:
        name: `gpu`, `cpu0` for the cluster that begins with CPU 0, `memory`.
        now: may be below `lowest` while powered down.
        lowest, highest: limits that hold now; both the same where `jetson_clocks` has locked it.
        possible: what the hardware could do; None where it does not tell.
    """

    name: str
    now: int
    lowest: int | None
    highest: int | None
    possible: int | None = None
    governor: str | None = None

    @property
    def locked(self) -> bool:
        """Whether it cannot change."""
        return self.lowest is not None and self.lowest == self.highest


@dataclass(frozen=True)
class Throttling:
    """What slows the module down against its clocks.

    Attributes:
        events: over-current and under-voltage events since boot, by name (`oc1` under-voltage, `oc2` average and `oc3`
            instantaneous over-current on Orin).
        active: thermal alerts that hold now.
    """

    events: Mapping[str, int] = field(default_factory=dict)
    active: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceState:
    """A snapshot; what the machine does not tell is None or empty."""

    jetson: Jetson | None
    power_mode: PowerMode | None
    clocks: tuple[Clock, ...]
    clocks_locked: bool | None
    temperatures: Mapping[str, float]
    fan_percent: float | None
    throttling: Throttling

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "jetson": self.jetson.to_dict() if self.jetson else None,
            "power_mode": asdict(self.power_mode) if self.power_mode else None,
            "clocks_hz": [asdict(clock) for clock in self.clocks],
            "clocks_locked": self.clocks_locked,
            "temperatures_c": dict(self.temperatures),
            "fan_percent": self.fan_percent,
            "throttling": {"events": dict(self.throttling.events), "active": list(self.throttling.active)},
        }


def device_state(root: Path = ROOT, run: Runner = run_command) -> DeviceState:
    """Read everything of this module at once.

    Args:
        root: folder that holds `etc`, `proc`, `sys`, `var`; another one in tests.
        run: runs `nvpmodel -q`.
    """
    found = clocks(root)
    return DeviceState(
        find_jetson(root), power_mode(root, run), found, clocks_locked(found), temperatures(root), fan_percent(root),
        throttling(root),
    )  # fmt: skip


def power_mode(root: Path = ROOT, run: Runner = run_command) -> PowerMode | None:
    """The mode of nvpmodel: from /var/lib/nvpmodel/status, where it keeps the number, else by asking it."""
    modes = {mode.number: mode for mode in power_modes(root)}
    if found := re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status") or ""):
        number = int(found[1])
        return modes.get(number, PowerMode(number, "unnamed"))
    if not modes:
        return None
    asked = run(["nvpmodel", "-q"]) or ""
    name = re.search(r"NV Power Mode: *(\S+)", asked)
    told = re.search(r"^(?:MODE ID: *)?(\d+) *$", asked, re.MULTILINE)
    return PowerMode(int(told[1]), name[1]) if name and told else None


def power_modes(root: Path = ROOT) -> tuple[PowerMode, ...]:
    """Every mode that /etc/nvpmodel.conf defines."""
    found = []
    for line in (read_text(root / "etc/nvpmodel.conf") or "").splitlines():
        if line.lstrip().startswith("<") and "POWER_MODEL" in line:
            number, name = re.search(r"\bID=(\d+)", line), re.search(r"\bNAME=(\S+?)\s*(?:>|$|\s)", line)
            if number and name:
                found.append(PowerMode(int(number[1]), name[1]))
    return tuple(found)


def best_power_mode(modes: tuple[PowerMode, ...]) -> PowerMode | None:
    """The fastest mode by its name: MAXN_SUPER, else MAXN, else the most watts; neither number nor order tells it.

    >>> best_power_mode((PowerMode(0, "15W"), PowerMode(1, "25W"), PowerMode(3, "7W"))).name
    '25W'
    """

    def rank(mode: PowerMode) -> tuple[int, int]:
        watts = re.search(r"(\d+)W", mode.name)
        return (("MAXN" in mode.name) + ("MAXN_SUPER" in mode.name), int(watts[1]) if watts else 0)

    return max(modes, key=rank, default=None)


def clocks(root: Path = ROOT) -> tuple[Clock, ...]:
    """Clocks of GPU, of each CPU cluster and, where told without root, of the memory."""
    found = [*_devfreq("gpu", root, _GPU), *_devfreq("memory", root, re.compile("bwmgr|emc"))]
    for policy in listed(root / "sys/devices/system/cpu/cpufreq", "policy*"):
        now = read_int(policy / "scaling_cur_freq")
        if now is not None:
            limits = (read_int(policy / f"{name}_freq") for name in ("scaling_min", "scaling_max", "cpuinfo_max"))
            low, high, possible = (None if value is None else value * 1000 for value in limits)  # kHz there
            governor = read_text(policy / "scaling_governor")
            found.append(Clock(f"cpu{policy.name[len('policy') :]}", now * 1000, low, high, possible, governor))
    return tuple(found)


def _devfreq(name: str, root: Path, pattern: re.Pattern[str]) -> list[Clock]:
    """The first device that fits; on Thor the graphics clusters come before the video engine by their names."""
    for folder in listed(root / "sys/class/devfreq", "*"):
        now = read_int(folder / "cur_freq")
        if pattern.search(folder.name) and now is not None:
            told = (read_text(folder / "available_frequencies") or "").split()
            steps = [int(step) for step in told if step.isdecimal()]
            lowest, highest = read_int(folder / "min_freq"), read_int(folder / "max_freq")
            governor = read_text(folder / "governor")
            return [Clock(name, now, lowest, highest, max(steps, default=None), governor)]
    return []


def clocks_locked(found: tuple[Clock, ...]) -> bool | None:
    """Whether `jetson_clocks` holds GPU and CPU at one speed; None where there is no such GPU clock."""
    if not any(clock.name == "gpu" for clock in found):
        return None
    return all(clock.locked for clock in found if clock.name != "memory")


def temperatures(root: Path = ROOT) -> dict[str, float]:
    """Degrees Celsius by the name of the thermal zone; sensors that are powered down are left out."""
    found = {}
    for zone in listed(root / "sys/class/thermal", "thermal_zone*"):
        name, value = read_text(zone / "type"), read_int(zone / "temp")
        if name and value is not None and value / 1000 > _COLDEST:
            found[name.removesuffix("-thermal")] = value / 1000
    return found


def fan_percent(root: Path = ROOT) -> float | None:
    """How hard the fan is driven; None where there is none that tells."""
    for chip in listed(root / "sys/class/hwmon", "hwmon*"):
        if read_text(chip / "name") == "pwmfan" and (value := read_int(chip / "pwm1")) is not None:
            return round(value / 255 * 100, 1)
    return None


def throttling(root: Path = ROOT) -> Throttling:
    """Soctherm's counters and thermal alerts (Jetson Linux guide, "Platform Power and Performance")."""
    events = {}
    for chip in listed(root / "sys/class/hwmon", "hwmon*"):
        for path in listed(chip, "oc*_event_cnt"):
            if (value := read_int(path)) is not None:
                events[path.name.partition("_")[0]] = value
    active = []
    for device in listed(root / "sys/class/thermal", "cooling_device*"):
        name = read_text(device / "type") or ""
        if name.endswith("throttle-alert") and (read_int(device / "cur_state") or 0) > 0:
            active.append(name)
    return Throttling(events, tuple(active))


def throttled_between(before: Throttling, after: Throttling) -> list[str]:
    """What slowed the module down between two readings, in words; empty where nothing did.

    >>> throttled_between(Throttling({"oc3": 2}), Throttling({"oc3": 5}, ("gpu-throttle-alert",)))
    ['3 events of oc3', 'gpu-throttle-alert']
    """
    counts = {name: value - before.events.get(name, 0) for name, value in after.events.items()}
    told = [f"{count} events of {name}" for name, count in counts.items() if count > 0]
    return [*told, *sorted({*before.active, *after.active})]
