"""Watts while frames are measured: the machine's own monitors, or tegrastats where those may not be read."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, final

from acd_edge.bench.stopwatch import Clock
from acd_edge.device.power import (
    PowerSampler,
    Sample,
    energy_joules,
    find_rails,
    mean_watts,
    power_reader,
    total_power,
)
from acd_edge.device.sysfs import ROOT
from acd_edge.device.tegrastats import power_of_tegrastats

__all__ = ["IDLE_S", "TegraStatsWatts", "WattMeter", "energy_facts", "idle_watts", "watt_meter"]

IDLE_S = 5.0
_TEGRASTATS = ("tegrastats", "--interval", "100")


class WattMeter(NamedTuple):
    """Reads the watts of the whole, and says of which rails by which way."""

    read: Callable[[], float | None]
    source: str


@final
class TegraStatsWatts:
    """The newest total of a running tegrastats.

    Args:
        command: what to run.
        spawn: starts it; another one in tests.
    """

    def __init__(self, command: Sequence[str] = _TEGRASTATS, *, spawn: Callable[..., Any] = subprocess.Popen) -> None:
        self._command, self._spawn = command, spawn
        self._newest: float | None = None
        self._process: Any = None

    def read(self) -> float | None:
        """Watts of the last line, or None before the first, and after the last when it has ended."""
        return self._newest

    def _follow(self, lines: Any) -> None:
        for line in lines:
            if (total := power_of_tegrastats(line)) is not None:
                self._newest = total.watts
        self._newest = None

    def __enter__(self) -> TegraStatsWatts:
        self._process = self._spawn(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        threading.Thread(target=self._follow, args=(self._process.stdout,), name="tegrastats", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()


@contextmanager
def watt_meter(root: Path = ROOT, *, which: Callable[[str], str | None] = shutil.which) -> Iterator[WattMeter | None]:
    """The machine's meter, or None where it has none; sysfs first, since it starts no process."""
    read = power_reader(root)
    if read is not None:
        total = total_power({rail.label: 0.0 for rail in find_rails(root)})
        yield WattMeter(read, f"power monitors in sysfs: {' + '.join(total.rails if total else ())}")
    elif which(_TEGRASTATS[0]):
        with TegraStatsWatts() as stats:
            yield WattMeter(stats.read, "tegrastats")
    else:
        yield None


def idle_watts(
    meter: WattMeter,
    seconds: float = IDLE_S,
    *,
    clock: Clock = time.perf_counter,
    wait: Callable[[float], object] = time.sleep,
) -> float | None:
    """What the machine draws while this program waits; None where the meter stays silent."""
    with PowerSampler(meter.read, clock=clock) as sampler:
        wait(seconds)
    return mean_watts(sampler.samples)


def energy_facts(
    samples: Sequence[Sample], began: float, ended: float, frames: int, *, idle: float | None, source: str
) -> dict[str, Any] | None:
    """Watts and joules of the frames that counted, for JSON; None where the samples do not reach over them.

    Energy per frame is the integral of P - P_idle over the measuring, by the number of its frames.
    """
    whole = energy_joules(samples, began, ended)
    if whole is None or idle is None or frames < 1:
        return None
    seconds = ended - began
    return {
        "source": source,
        "idle_watts": round(idle, 3),
        "mean_watts": round(whole / seconds, 3),
        "joules_per_frame_above_idle": round((whole - idle * seconds) / frames, 4),
        "joules_per_frame": round(whole / frames, 4),
        "samples": len(samples),
    }
