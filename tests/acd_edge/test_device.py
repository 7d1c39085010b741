"""Which Jetson, which JetPack, clocks and temperatures, out of folders that look like theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from acd_edge.bench.facts import machine_facts
from acd_edge.device.clocks import (
    PowerMode,
    Throttling,
    best_power_mode,
    clocks,
    clocks_locked,
    device_state,
    fan_percent,
    power_mode,
    power_modes,
    temperatures,
    throttled_between,
    throttling,
)
from acd_edge.device.jetson import JETPACKS, L4T, debian_packages, find_jetson, find_l4t, jetpack_of
from acd_edge.device.sysfs import run_command
from acd_edge.doctor.machine import find_machine
from tests.fake_jetson import DPKG, agx_orin, board, devfreq, jetpack_5, laptop, orin_nano, thor, write


def nothing(_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("build", "module", "l4t", "jetpack", "scope"),
    [
        (orin_nano, "Orin Nano 8GB", (36, 4, 3), "6.2", ""),
        (agx_orin, "AGX Orin", (39, 2, 0), "7.2", ""),
        (thor, "Thor", (38, 2, 2), "7.0", ""),
        (jetpack_5, "Orin NX 16GB", (35, 4, 1), "5.1", "Python 3.8"),
    ],
)
def test_a_jetson_is_told(
    build: Callable[[Path], Path], module: str, l4t: tuple[int, ...], jetpack: str, scope: str, tmp_path: Path
) -> None:
    found = find_jetson(build(tmp_path))
    assert found is not None
    assert found.jetpack is not None
    assert (found.module, found.l4t, found.jetpack.name) == (module, l4t, jetpack)
    assert scope in found.jetpack.out_of_scope
    assert bool(scope) == bool(found.jetpack.out_of_scope)
    assert json.loads(json.dumps(found.to_dict()))["l4t"] == ".".join(map(str, l4t))


def test_a_laptop_is_no_jetson(tmp_path: Path) -> None:
    state = device_state(laptop(tmp_path), nothing)
    assert state.jetson is None
    assert state.power_mode is None
    assert state.clocks_locked is None
    assert [clock.name for clock in state.clocks] == ["cpu0"]


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"proc/cpuinfo": "processor\t: 0\nmodel\t\t: 85\nmodel name\t: AMD  EPYC\n"}, "AMD EPYC"),
        ({"proc/cpuinfo": "processor\t: 0\nModel\t\t: Pi 5\n", "proc/device-tree/model": "x"}, "Pi 5"),
        ({"proc/cpuinfo": "processor\t: 0\n", "proc/device-tree/model": "NVIDIA Jetson\0"}, "NVIDIA Jetson"),
    ],
)
def test_bench_and_doctor_call_a_processor_the_same(files: dict[str, object], name: str, tmp_path: Path) -> None:
    root = write(tmp_path, files)
    assert (machine_facts(root)["cpu"], find_machine(root).processor) == (name, name)


def test_an_empty_machine_tells_nothing(tmp_path: Path) -> None:
    state = device_state(tmp_path, nothing)
    assert json.loads(json.dumps(state.to_dict())) == {
        "jetson": None, "power_mode": None, "clocks_hz": [], "clocks_locked": None, "temperatures_c": {},
        "fan_percent": None, "throttling": {"events": {}, "active": []},
    }  # fmt: skip


def test_a_jetson_without_release_file_is_told_by_its_package_and_its_tree(tmp_path: Path) -> None:
    only_package = write(tmp_path / "a", {"var/lib/dpkg/status": DPKG.format(core="36.4.4", status="x")})
    assert find_l4t(only_package) == (36, 4, 4)
    slim = write(
        tmp_path / "b", {"var/lib/dpkg/status.d/nvidia-l4t-core": "Package: nvidia-l4t-core\nVersion: 36.5.0-2"}
    )
    assert find_l4t(slim) == (36, 5, 0)
    only_tree = write(tmp_path / "c", {"proc/device-tree/compatible": "nvidia,tegra234"})
    found = find_jetson(only_tree)
    assert found is not None
    assert (found.l4t, found.jetpack, found.module) == (None, None, None)


def test_a_carrier_board_without_part_number_is_told_by_its_name(tmp_path: Path) -> None:
    found = find_jetson(write(tmp_path, board(36, "4.0", "Somebody's Jetson Orin NX carrier", "nvidia,tegra234")))
    assert found is not None
    assert found.module == "Orin NX"


def test_removed_packages_do_not_count(tmp_path: Path) -> None:
    names = ("nvidia-jetpack", "bash", "absent")
    removed = write(
        tmp_path / "a", {"var/lib/dpkg/status": DPKG.format(core="1.2", status="deinstall ok config-files")}
    )
    kept = write(tmp_path / "b", {"var/lib/dpkg/status": DPKG.format(core="1.2", status="install ok installed")})
    assert debian_packages(names, removed) == {"bash": "5.1-6"}
    assert debian_packages(names, kept) == {"bash": "5.1-6", "nvidia-jetpack": "6.2+b77"}


def test_the_table_is_in_order_and_ends_open() -> None:
    assert list(JETPACKS) == sorted(JETPACKS, key=lambda line: line.first)
    assert jetpack_of(L4T(36, 3)).tensorrt == "8.6.2"
    assert jetpack_of(L4T(36, 4)).tensorrt == "10.3.0"
    assert jetpack_of(L4T(99)).name == JETPACKS[-1].name


# Power modes, clocks, heat.


def test_the_fastest_mode_is_told_by_its_name(tmp_path: Path) -> None:
    modes = power_modes(orin_nano(tmp_path))
    assert [mode.name for mode in modes] == ["15W", "25W", "MAXN_SUPER", "7W"]
    assert best_power_mode(modes) == PowerMode(2, "MAXN_SUPER")
    assert best_power_mode(tuple(mode for mode in modes if mode.number != 2)) == PowerMode(1, "25W")
    assert best_power_mode((PowerMode(5, "MODE_30W"), PowerMode(9, "MAXN"))) == PowerMode(9, "MAXN")
    assert best_power_mode(()) is None


@pytest.mark.parametrize(
    ("status", "printed", "want"),
    [
        ("pmode:0001", None, PowerMode(1, "25W")),
        ("pmode:0009", None, PowerMode(9, "unnamed")),
        (None, "NV Power Mode: 7W\n3\n", PowerMode(3, "7W")),
        (None, "NV Power Mode: MAXN_SUPER\nMODE ID: 2\n", PowerMode(2, "MAXN_SUPER")),
        (None, "NVPM ERROR: Error opening /etc/nvpmodel.conf", None),
        (None, None, None),
    ],
)
def test_the_mode_is_read_from_its_file_or_asked_for(
    status: str | None, printed: str | None, want: PowerMode | None, tmp_path: Path
) -> None:
    root = orin_nano(tmp_path)
    (root / "var/lib/nvpmodel/status").unlink()
    if status:
        write(root, {"var/lib/nvpmodel/status": status})
    assert power_mode(root, lambda command: printed if command[0] == "nvpmodel" else None) == want


def test_clocks_and_whether_they_are_locked(tmp_path: Path) -> None:
    free, locked = clocks(orin_nano(tmp_path / "a")), clocks(agx_orin(tmp_path / "b"))
    assert [(clock.name, clock.now) for clock in free] == [
        ("gpu", 306_000_000), ("cpu0", 1_728_000_000), ("cpu4", 1_728_000_000),
    ]  # fmt: skip
    assert free[0].possible == 1_020_000_000
    assert clocks_locked(free) is False
    assert clocks_locked(locked) is True


def test_thor_has_several_gpu_clocks_and_tells_its_memory(tmp_path: Path) -> None:
    found = {clock.name: clock.highest for clock in clocks(thor(tmp_path))}
    assert found == {"gpu": 1_575_000_000, "memory": 4_266_000_000}


def test_a_list_of_clocks_that_is_no_list_of_numbers_tells_what_it_can(tmp_path: Path) -> None:
    (clock,) = clocks(write(tmp_path, devfreq("17000000.gpu", 7, 5, 9, "5 <unknown> 8")))
    assert (clock.now, clock.possible) == (7, 8)


def test_sensors_that_sleep_are_left_out(tmp_path: Path) -> None:
    root = orin_nano(tmp_path)
    assert temperatures(root) == {"cpu": 48.5, "gpu": 47.9, "tj": 49.0}
    assert fan_percent(root) == pytest.approx(29.8)


def test_throttling_is_what_happened_in_between(tmp_path: Path) -> None:
    before = throttling(orin_nano(tmp_path))
    assert before == Throttling({"oc1": 0, "oc2": 0, "oc3": 27})
    assert throttled_between(before, before) == []
    write(tmp_path, {"sys/class/hwmon/hwmon2/oc3_event_cnt": 30, "sys/class/thermal/cooling_device0/cur_state": 1})
    assert throttled_between(before, throttling(tmp_path)) == ["3 events of oc3", "gpu-throttle-alert"]


def test_a_command_that_hangs_or_fails_tells_nothing() -> None:
    assert run_command(["sleep", "5"], timeout=0.05) is None
    assert run_command(["false"]) is None
    assert run_command(["echo", "here"]) == "here\n"
