"""A clock that stands still, sources and a machine made of files, for the tests of `bench`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from acd_edge.runtime.sources import Frame, Kind


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def costing(self, milliseconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that takes so long."""

        def slow(*args: Any, **others: Any) -> Any:
            self.now += milliseconds / 1e3
            return function(*args, **others)

        return slow


class MadeSource:
    """Gray frames that take a while to come; `limit` of them, then the end."""

    name = "made"
    output = PurePosixPath("made")

    def __init__(self, clock: Clock, *, kind: Kind = "video", cost_ms: float = 7, limit: int = 10_000) -> None:
        self.clock, self.kind, self.cost_ms, self.limit = clock, kind, cost_ms, limit
        self.given = 0

    def frames(self) -> Iterator[Frame]:
        for index in range(1 if self.kind == "picture" else self.limit):
            self.clock.now += self.cost_ms / 1e3
            self.given += 1
            captured = self.clock.now - 0.020 if self.kind == "live" else None
            yield Frame(self.name, index, np.full((20, 30, 3), 90, np.uint8), captured)


def write(root: Path, **files: object) -> None:
    """Files below a root, by their place with `__` for `/`."""
    for place, content in files.items():
        path = root / place.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def jetson_root(root: Path, *, milliamperes: int = 1000) -> Path:
    """The files of an Orin Nano that `bench` reads: power monitor at 5 V, heat, a GPU's clock, throttling counters."""
    write(
        root,
        **{
            "proc__device-tree__model": "NVIDIA Jetson Orin Nano Developer Kit",
            "proc__device-tree__compatible": "nvidia,p3768-0000+p3767-0003\0nvidia,tegra234",
            "etc__nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64",
            "var__lib__nvpmodel__status": "pmode:0002",
            "etc__nvpmodel.conf": "< POWER_MODEL ID=2 NAME=MAXN_SUPER >",
            "sys__class__hwmon__hwmon1__name": "ina3221",
            "sys__class__hwmon__hwmon1__in1_label": "VDD_IN",
            "sys__class__hwmon__hwmon1__in1_input": 5000,
            "sys__class__hwmon__hwmon1__curr1_input": milliamperes,
            "sys__class__thermal__thermal_zone0__type": "gpu-thermal",
            "sys__class__thermal__thermal_zone0__temp": 51500,
            "sys__class__devfreq__17000000.gpu__cur_freq": 1020000000,
            "sys__class__devfreq__17000000.gpu__min_freq": 1020000000,
            "sys__class__devfreq__17000000.gpu__max_freq": 1020000000,
            "sys__class__hwmon__hwmon2__oc3_event_cnt": 4,
            "proc__loadavg": "3.20 1.00 0.50 1/200 4711",
            "proc__meminfo": "MemTotal:        7802400 kB",
            "proc__self__status": "VmHWM:\t  204800 kB\nVmRSS:\t  102400 kB",
        },
    )
    return root
