"""Watts in a line of NVIDIA's `tegrastats`, as JetPack 6 and 7 print it on Orin and Thor."""

from __future__ import annotations

import re

from acd_edge.device.power import TotalPower, total_power

__all__ = ["power_of_tegrastats"]

_NOW = re.compile(r"\b([A-Z]\w*) (-?\d+)mW/")  # the mean since it began follows, from JetPack 7.2 on the largest too


def power_of_tegrastats(line: str) -> TotalPower | None:
    """The whole's power now, see `total_power`; None where the line does not tell it.

    >>> power_of_tegrastats("RAM 974/7546MB (lfb 6x4MB) GR3D_FREQ 12% gpu@50.875C VDD_IN 4548mW/4550mW")
    TotalPower(watts=4.548, rails=('VDD_IN',))
    """
    return total_power({label: int(milliwatts) / 1000 for label, milliwatts in _NOW.findall(line)})
