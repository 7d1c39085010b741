"""Watts out of sysfs and out of tegrastats, and energy out of watts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from acd_edge.device.power import (
    PowerSampler,
    Sample,
    energy_joules,
    find_rails,
    mean_watts,
    power_reader,
    read_rails,
    total_power,
)  # fmt: skip
from acd_edge.device.tegrastats import power_of_tegrastats
from tests.fake_jetson import agx_orin, laptop, orin_nano, thor, write

# Rails in sysfs.


@pytest.mark.parametrize(
    ("build", "labels", "whole", "watts"),
    [
        (orin_nano, {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}, ("VDD_IN",), 4984 * 960 / 1e6),
        (
            agx_orin,
            {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"},
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # VDDQ_VDD2_1V8AO would count twice
            (19000 * 160 + 19000 * 60 + 4968 * 980) / 1e6,
        ),
        (thor, {"VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"}, ("VIN",), 20.986),
    ],
)
def test_the_whole_is_one_rail_or_the_sum_of_independent_ones(
    build: Callable[[Path], Path], labels: set[str], whole: tuple[str, ...], watts: float, tmp_path: Path
) -> None:
    root = build(tmp_path)
    found = read_rails(find_rails(root))
    total = total_power(found)
    assert set(found) == labels  # no NC, no sum of shunt voltages
    assert total is not None
    assert total.rails == whole
    assert total.watts == pytest.approx(watts)
    read = power_reader(root)
    assert read is not None
    assert read() == pytest.approx(watts)


def test_a_monitor_below_its_driver_counts_once(tmp_path: Path) -> None:
    root = orin_nano(tmp_path)
    below = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon"
    below.mkdir(parents=True)
    (below / "hwmon1").symlink_to(root / "sys/class/hwmon/hwmon1")
    assert len(find_rails(root)) == 3


def test_no_monitor_gives_no_reader_and_a_silent_one_no_watts(tmp_path: Path) -> None:
    assert power_reader(laptop(tmp_path / "a")) is None
    root = orin_nano(tmp_path / "b")
    read = power_reader(root)
    assert read is not None
    write(root, {"sys/class/hwmon/hwmon1/curr1_input": "busy"})
    assert read() is None
    assert total_power(read_rails(find_rails(root))) is None


# tegrastats. The lines are of the shape that such boards print in public.

NANO_6 = (
    "11-15-2024 08:38:09 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) CPU [15%@729,11%@729,14%@729,13%@729,"
    "off,off] EMC_FREQ 43%@2133 GR3D_FREQ 63%@[621] NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 "
    "cpu@53.968C soc2@52.437C soc0@50.75C gpu@53.343C tj@53.968C soc1@51.656C VDD_IN 12479mW/12480mW "
    "VDD_CPU_GPU_CV 4667mW/4667mW VDD_SOC 2817mW/2817mW"
)
AGX_6 = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C GPU@-256C "
    "tj@44.343C VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
NX_7 = (
    "10-01-2026 20:36:35 RAM 2432/15598MB (lfb 4x4MB) SWAP 0/6144MB (cached 0MB) CPU [55%@1036,9%@1036,off,0%@729] "
    "GR3D_FREQ 0% cv0@56.281C/56.281C cpu@57.156C/58C gpu@55.343C/55.343C tj@59.687C/59.687C "
    "VDD_IN 7280mW/7281mW/7300mW"
)
THOR_7 = (
    "07-23-2026 15:29:26 RAM 9101/125811MB (lfb 19x4MB) SWAP 0/2048MB (cached 0MB) CPU [39%@2160,20%@2160] EMC_FREQ "
    "7%@3200 GR3D_FREQ @[314,314,314] NVENC0_FREQ @1556 VIC 59%@423 OFA_FREQ @1556 PVA0_FREQ off APE 300 "
    "cpu@34.843C/34.843C tj@35.906C/35.906C gpu@35.906C/35.906C VDD_GPU -392mW/4925mW/4925mW "
    "VDD_CPU_SOC_MSS 8710mW/8710mW/8710mW VIN_SYS_5V0 6767mW/6767mW/6767mW"
)


@pytest.mark.parametrize(
    ("line", "watts", "rails"),
    [
        (NANO_6, 12.479, ("VDD_IN",)),
        (AGX_6, 2.340 + 0.390 + 4.025, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),  # no rail has the total
        (NX_7, 7.280, ("VDD_IN",)),  # with a third number
        (THOR_7, -0.392 + 8.710 + 6.767, ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")),  # and a rail below zero
    ],
)
def test_a_line_of_tegrastats_tells_the_watts_now(line: str, watts: float, rails: tuple[str, ...]) -> None:
    found = power_of_tegrastats(line)
    assert found is not None
    assert found.watts == pytest.approx(watts)
    assert found.rails == rails


@pytest.mark.parametrize("line", ["", "RAM", "tegrastats: command not found", "GR3D_FREQ 3%", "VDD_SOC 2mW/2mW"])
def test_other_lines_are_none(line: str) -> None:
    assert power_of_tegrastats(line) is None


# Energy.


def ramp(start: float, end: float, steps: int, watts: Callable[[float], float]) -> list[Sample]:
    times = [start + (end - start) * step / steps for step in range(steps + 1)]
    return [Sample(seconds, watts(seconds)) for seconds in times]


def test_energy_is_the_integral_of_the_power() -> None:
    linear = ramp(0, 10, 7, lambda seconds: 3 + 2 * seconds)  # trapezoids are exact on it, whatever the steps
    assert energy_joules(linear, 2, 8) == pytest.approx(3 * 6 + (8**2 - 2**2), rel=1e-12)


def test_energy_of_a_curve_tends_to_its_integral() -> None:
    """The control of the rule: halving the step divides the error by four, as trapezoids do."""
    want, errors = 5 * (1 - math.cos(2)) / 2 + 2.5, []
    for steps in (50, 100):
        found = energy_joules(ramp(0, 1, steps, lambda s: 5 * math.sin(2 * s) + 2.5), 0, 1)
        assert found is not None
        errors.append(abs(found - want))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.01)


def test_nothing_is_extrapolated() -> None:
    samples = [Sample(1, 5), Sample(2, 5)]
    assert energy_joules(samples, 1, 2) == 5
    assert energy_joules(samples, 0.9, 2) is None
    assert energy_joules(samples, 1, 2.1) is None
    assert energy_joules(samples[:1], 1, 1) is None


def test_the_mean_is_over_time() -> None:
    samples = [Sample(0, 2), Sample(9, 2), Sample(10, 12)]
    assert mean_watts(samples) == pytest.approx((2 * 9 + 7) / 10)
    assert mean_watts(samples) != pytest.approx(16 / 3)
    assert mean_watts(samples[:1]) is None


def test_the_sampler_keeps_its_clock_and_leaves_out_silence() -> None:
    """No sleep: the fake wait lets it read five times, the monitor is silent once, the end reads once more."""
    ticks = itertools.count(step=0.5)
    answers = iter([4.0, None, 5.0, 6.0, 7.0, 8.0])
    turns = iter([False] * 4 + [True])
    with PowerSampler(
        lambda: next(answers), interval_s=9, clock=lambda: next(ticks), wait=lambda _: next(turns)
    ) as sampler:
        sampler._thread.join(10)
    assert [sample.watts for sample in sampler.samples] == [4, 5, 6, 7, 8]
    assert [sample.seconds for sample in sampler.samples] == [0.25, 1.75, 2.75, 3.75, 4.75]


def test_the_sampler_stops_by_itself_on_an_error() -> None:
    with pytest.raises(RuntimeError, match="the run failed"), PowerSampler(lambda: 1.0, interval_s=60) as sampler:
        raise RuntimeError("the run failed")
    assert not sampler._thread.is_alive()
