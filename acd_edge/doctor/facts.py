"""Everything that the rules look at, gathered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from acd_edge.device.clocks import DeviceState, PowerMode, device_state, power_modes
from acd_edge.device.jetson import Jetson
from acd_edge.device.power import TotalPower, find_rails, read_rails, total_power
from acd_edge.device.sysfs import ROOT, Runner, run_command
from acd_edge.doctor.machine import Machine, find_machine
from acd_edge.doctor.reports import Report, run_probes

__all__ = ["Facts", "gather"]


@dataclass(frozen=True)
class Facts:
    """One machine, its state, and how libraries behave on it.

    Attributes:
        reports: by the name of the probe, see `acd_edge.doctor.probes.PROBES`.
    """

    machine: Machine
    state: DeviceState
    reports: Mapping[str, Report]
    power_modes: tuple[PowerMode, ...] = ()
    power: TotalPower | None = None
    rails: Mapping[str, float] = field(default_factory=dict)

    @property
    def jetson(self) -> Jetson | None:
        """None on any other machine."""
        return self.state.jetson

    @property
    def nvidia_driver(self) -> str:
        """Release of the kernel's driver on a PC, or what CUDA tells of it; empty where there is none."""
        values = self.report("cuda").values
        return str(values.get("kernel_driver") or values.get("driver") or "")

    @property
    def compiles(self) -> bool:
        """Whether engines are built on this machine: TensorRT is there, or belongs there."""
        return self.jetson is not None or self.report("tensorrt").state != "absent"

    @property
    def engines(self) -> tuple[Mapping[str, Any], ...]:
        """Engines in the cache, as the probe lists them."""
        return tuple(self.report("engines").values.get("engines", ()))

    def report(self, name: str) -> Report:
        """What a probe told; `absent` where it was not run."""
        return self.reports.get(name, Report("absent"))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        python = {**asdict(self.machine.python), "for_system": sorted(self.machine.python.for_system)}
        python["environment"] = str(self.machine.python.environment) if self.machine.python.environment else None
        machine = {**asdict(self.machine), "python": python, "groups": sorted(self.machine.groups)}
        return {
            "machine": machine,
            "device": self.state.to_dict(),
            "power_watts": dict(self.rails),
            "libraries": {name: asdict(report) for name, report in self.reports.items()},
        }


def gather(
    root: Path = ROOT,
    run: Runner = run_command,
    reports: Mapping[str, Report] | None = None,
) -> Facts:
    """Look at everything; it takes as long as the slowest library, and no longer than a probe's time limit.

    Args:
        root, run: see `acd_edge.device.clocks.device_state`.
        reports: taken instead of running the probes.
    """
    rails = read_rails(find_rails(root))
    return Facts(
        machine=find_machine(root),
        state=device_state(root, run),
        reports=run_probes() if reports is None else reports,
        power_modes=power_modes(root),
        power=total_power(rails),
        rails=rails,
    )
