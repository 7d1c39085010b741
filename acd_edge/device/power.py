"""Watts of a Jetson: its power monitors in sysfs, a thread that samples them, and energy out of them.

The monitors (INA3221, on Thor an INA238 too) are shown by Linux's hwmon: `inN_label` names a rail, `inN_input` is its
voltage in mV, `currN_input` its current in mA (kernel.org, hwmon/ina3221). They average over milliseconds and see the
module's input or the board's, never the wall's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from acd_edge.device.sysfs import ROOT, listed, read_int, read_text

__all__ = [
    "TOTALS", "PowerSampler", "Rail", "Sample", "TotalPower", "energy_joules", "find_rails",
    "mean_watts", "power_reader", "read_rails", "total_power",
]  # fmt: skip

_CHIPS = ("ina3221", "ina238")  # names that their drivers give to hwmon

TOTALS: tuple[tuple[str, ...], ...] = (
    ("VDD_IN",),  # Orin NX, Orin Nano, Xavier NX: what goes into the module
    ("VIN",),  # Thor: what goes into the board
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin; VDDQ_VDD2_1V8AO is fed from VIN_SYS_5V0 already
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor's tegrastats, which leaves VIN out
    ("POM_5V_IN",),  # the first Nano
)
"""Rails whose sum is the whole, the first set of which all are there. Other rails lie behind one of these."""


class TotalPower(NamedTuple):
    """Power of the whole module or board, and the rails that it is the sum of."""

    watts: float
    rails: tuple[str, ...]


class Sample(NamedTuple):
    """One reading: seconds on the sampler's clock, watts."""

    seconds: float
    watts: float


@dataclass(frozen=True)
class Rail:
    """One supply rail and where its numbers lie: `power` in microwatts, or `voltage` in mV and `current` in mA."""

    label: str
    voltage: Path | None = None
    current: Path | None = None
    power: Path | None = None

    def watts(self) -> float | None:
        """Read it now; None while the monitor does not answer."""
        if self.power is not None:
            microwatts = read_int(self.power)
            return None if microwatts is None else microwatts / 1e6
        if self.voltage is None or self.current is None:
            return None
        millivolts, milliamperes = read_int(self.voltage), read_int(self.current)
        return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


def find_rails(root: Path = ROOT) -> tuple[Rail, ...]:
    """Rails of every monitor, by label; unconnected channels (`NC`) and the sum of shunt voltages are none.

    Args:
        root: folder that holds `sys`; another one in tests.
    """
    found: dict[str, Rail] = {}
    for chip in _monitors(root):
        for rail in _rails_of(chip):
            found.setdefault(rail.label, rail)
    return tuple(found.values())


def _monitors(root: Path) -> list[Path]:
    below_driver = listed(root / "sys/bus/i2c/drivers/ina3221", "*/hwmon/hwmon*")
    by_name = [chip for chip in listed(root / "sys/class/hwmon", "hwmon*") if read_text(chip / "name") in _CHIPS]
    return [*below_driver, *by_name]  # the same chips by two ways: `find_rails` keeps the first of each label


def _rails_of(chip: Path) -> list[Rail]:
    found = []
    for path in listed(chip, "in*_label"):
        number = path.name[len("in") : -len("_label")]
        label = read_text(path)
        voltage, current = chip / f"in{number}_input", chip / f"curr{number}_input"
        if label and label != "NC" and voltage.is_file() and current.is_file():
            found.append(Rail(label, voltage, current))
    label = read_text(chip / "label")
    if not found and label and (chip / "power1_input").is_file():  # a monitor of one channel
        found.append(Rail(label, power=chip / "power1_input"))
    return found


def read_rails(rails: Iterable[Rail]) -> dict[str, float]:
    """Watts by label now; a rail that does not answer is left out."""
    read = ((rail.label, rail.watts()) for rail in rails)
    return {label: watts for label, watts in read if watts is not None}


def total_power(watts: Mapping[str, float]) -> TotalPower | None:
    """The whole's power out of its rails', see `TOTALS`; None where no set of rails is complete.

    >>> total_power({"VDD_IN": 5.0, "VDD_CPU_GPU_CV": 1.0, "VDD_SOC": 1.5})
    TotalPower(watts=5.0, rails=('VDD_IN',))
    """
    for labels in TOTALS:
        if all(label in watts for label in labels):
            return TotalPower(sum(watts[label] for label in labels), labels)
    return None


def power_reader(root: Path = ROOT) -> Callable[[], float | None] | None:
    """A function that reads the whole's watts now, or None where no monitor tells them."""
    found = {rail.label: rail for rail in find_rails(root)}
    labels = next((labels for labels in TOTALS if all(label in found for label in labels)), None)
    if labels is None:
        return None
    rails = [found[label] for label in labels]

    def read() -> float | None:
        values = [rail.watts() for rail in rails]
        return None if None in values else sum(value for value in values if value is not None)

    return read


class PowerSampler:
    """A thread that reads watts until the `with` block ends.

    Attributes:
        samples: what was read so far, oldest first.
    """

    def __init__(
        self,
        read: Callable[[], float | None],
        *,
        interval_s: float = 0.05,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """Sample every `interval_s` seconds of `clock`; `wait` returns True when it is time to stop."""
        self.samples: list[Sample] = []
        self._read = read
        self._interval_s = interval_s
        self._clock = clock
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)

    def sample(self) -> None:
        """Read once. The time is the middle of the reading, which takes a millisecond over I2C."""
        before = self._clock()
        watts = self._read()
        if watts is not None:
            self.samples.append(Sample((before + self._clock()) / 2, watts))

    def _run(self) -> None:
        self.sample()
        while not self._wait(self._interval_s):
            self.sample()

    def __enter__(self) -> PowerSampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            self.sample()  # so that the last frame lies between two samples


def energy_joules(samples: Sequence[Sample], start: float, end: float) -> float | None:
    """The integral of the power over [start, end] by the trapezoidal rule, in joules.

    Args:
        samples: in order of time; power between two of them is taken as linear.
        start, end: seconds on the samples' clock.

    Returns:
        None where the samples do not reach over the whole interval: nothing is extrapolated.

    >>> energy_joules([Sample(0, 4), Sample(2, 8)], 0, 2)
    12.0
    """
    if end <= start or len(samples) < 2 or samples[0].seconds > start or samples[-1].seconds < end:
        return None
    inner = [sample for sample in samples if start < sample.seconds < end]
    path = [Sample(start, _at(samples, start)), *inner, Sample(end, _at(samples, end))]
    steps = pairwise(path)
    return float(sum((later.watts + sooner.watts) / 2 * (later.seconds - sooner.seconds) for sooner, later in steps))


def mean_watts(samples: Sequence[Sample]) -> float | None:
    """The average over time, not over samples; None with fewer than two."""
    if len(samples) < 2:
        return None
    start, end = samples[0].seconds, samples[-1].seconds
    joules = energy_joules(samples, start, end)
    return None if joules is None else joules / (end - start)


def _at(samples: Sequence[Sample], seconds: float) -> float:
    """Watts at a time that the samples reach over."""
    for sooner, later in pairwise(samples):
        if sooner.seconds <= seconds <= later.seconds:
            span = later.seconds - sooner.seconds
            part = (seconds - sooner.seconds) / span if span else 0.0
            return sooner.watts + part * (later.watts - sooner.watts)
    raise AssertionError("the samples reach over it")
