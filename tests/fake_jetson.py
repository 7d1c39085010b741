"""Folders that look like the /etc, /proc, /sys and /var of a machine, from what such machines print in public."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

RELEASE = (
    "# R{major} (release), REVISION: {revision}, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
)
DPKG = """Package: bash
Status: install ok installed
Version: 5.1-6

Package: nvidia-l4t-core
Status: install ok installed
Priority: standard
Version: {core}-20250107174145
Description: NVIDIA Core Package

Package: nvidia-jetpack
Status: {status}
Version: 6.2+b77
"""
NANO_MODES = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
NANO_MODES += (
    "CPU_ONLINE CORE_0 1\nGPU MAX_FREQ -1\n\n< POWER_MODEL ID=3 NAME=7W >\n# mandatory\n< PM_CONFIG DEFAULT=1 >\n"
)
THOR_MODES = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n< POWER_MODEL ID=2 NAME=90W >\n"
AGX_MODES = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=MODE_15W >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n"
MEMINFO = (
    "MemTotal: {total} kB\nMemFree: 100000 kB\nMemAvailable: {free} kB\nSwapTotal: {swap} kB\nSwapFree: {swap} kB\n"
)
ORIN_GPU, THOR_GPU = "17000000.gpu", "gpu-gpc-0"


def write(root: Path, files: Mapping[str, object]) -> Path:
    """Write files by their path below `root`, each with a line end."""
    for name, text in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{text}\n")
    return root


def hwmon(number: int, name: str, **files: object) -> dict[str, object]:
    """Files of one chip."""
    return {f"sys/class/hwmon/hwmon{number}/{file}": text for file, text in {"name": name, **files}.items()}


def ina3221(number: int, *rails: tuple[str, int, int]) -> dict[str, object]:
    """A monitor with rails (label, mV, mA), its shunt voltages and their sum, as the driver shows them."""
    files: dict[str, object] = {"in7_label": "sum of shunt voltages", "in7_input": 800, "curr4_input": 1400}
    for channel, (label, millivolts, milliamperes) in enumerate(rails, start=1):
        files |= {f"in{channel}_label": label, f"in{channel}_input": millivolts, f"in{channel + 3}_input": 40}
        files |= {f"curr{channel}_input": milliamperes}
    return hwmon(number, "ina3221", **files)


def devfreq(name: str, now: int, lowest: int, highest: int, steps: str) -> dict[str, object]:
    """Files of one clock, in Hz."""
    place = f"sys/class/devfreq/{name}"
    values = {"cur_freq": now, "min_freq": lowest, "max_freq": highest, "available_frequencies": steps}
    return {f"{place}/{file}": value for file, value in values.items()} | {f"{place}/governor": "nvhost_podgov"}


def cpufreq(number: int, now: int, lowest: int, highest: int, possible: int) -> dict[str, object]:
    """Files of one CPU cluster, in kHz."""
    place = f"sys/devices/system/cpu/cpufreq/policy{number}"
    values = {"scaling_cur_freq": now, "scaling_min_freq": lowest, "scaling_max_freq": highest}
    return {f"{place}/{file}": value for file, value in values.items()} | {
        f"{place}/cpuinfo_max_freq": possible,
        f"{place}/scaling_governor": "schedutil",
    }


def zones(**degrees: float) -> dict[str, object]:
    """Thermal zones by name."""
    files: dict[str, object] = {}
    for number, (name, value) in enumerate(degrees.items()):
        files[f"sys/class/thermal/thermal_zone{number}/type"] = f"{name}-thermal"
        files[f"sys/class/thermal/thermal_zone{number}/temp"] = int(value * 1000)
    return files


def memory(total_gib: float, free_gib: float, swap_gib: float) -> dict[str, object]:
    """/proc/meminfo."""
    total, free, swap = (int(value * 2**20) for value in (total_gib, free_gib, swap_gib))
    return {"proc/meminfo": MEMINFO.format(total=total, free=free, swap=swap)}


def board(major: int, revision: str, model: str, compatible: str) -> dict[str, object]:
    """What names a board and its release."""
    return {
        "etc/nv_tegra_release": RELEASE.format(major=major, revision=revision),
        "proc/device-tree/model": f"{model}\0",
        "proc/device-tree/compatible": compatible.replace(" ", "\0"),
    }


NANO = board(36, "4.3", "NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3768-0000+p3767-0005 nvidia,tegra234")


def orin_nano(root: Path, *, mode: int = 2, swap_gib: float = 3.7) -> Path:
    """An Orin Nano 8GB with JetPack 6.2."""
    return write(
        root,
        {
            **NANO,
            "var/lib/dpkg/status": DPKG.format(core="36.4.3", status="install ok installed"),
            "etc/nvpmodel.conf": NANO_MODES,
            "var/lib/nvpmodel/status": f"pmode:{mode:04}",
            **devfreq(ORIN_GPU, 306_000_000, 306_000_000, 1_020_000_000, "306000000 612000000 1020000000"),
            **cpufreq(0, 1_728_000, 729_600, 1_728_000, 1_728_000),
            **cpufreq(4, 1_728_000, 729_600, 1_728_000, 1_728_000),
            **zones(cpu=48.5, gpu=47.9, cv0=-256.0, tj=49.0),
            **hwmon(0, "pwmfan", pwm1=76),
            **ina3221(1, ("VDD_IN", 4984, 960), ("VDD_CPU_GPU_CV", 4976, 120), ("VDD_SOC", 4976, 304)),
            **hwmon(2, "soctherm_oc", oc1_event_cnt=0, oc2_event_cnt=0, oc3_event_cnt=27),
            "sys/class/thermal/cooling_device0/type": "gpu-throttle-alert",
            "sys/class/thermal/cooling_device0/cur_state": 0,
            **memory(7.4, 5.5, swap_gib),
        },
    )


def agx_orin(root: Path) -> Path:
    """An AGX Orin with JetPack 7.2 and its clocks locked; its two monitors lie where the driver keeps them too."""
    return write(
        root,
        {
            **board(39, "2.0", "NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3737-0000+p3701-0005 nvidia,tegra234"),
            "etc/nvpmodel.conf": AGX_MODES,
            "var/lib/nvpmodel/status": "pmode:0000",
            **devfreq(ORIN_GPU, 1_300_500_000, 1_300_500_000, 1_300_500_000, "306000000 1300500000"),
            **cpufreq(0, 2_201_600, 2_201_600, 2_201_600, 2_201_600),
            **ina3221(3, ("VDD_GPU_SOC", 19000, 160), ("VDD_CPU_CV", 19000, 60), ("VIN_SYS_5V0", 4968, 980)),
            **ina3221(4, ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 4960, 60)),
            **memory(61.4, 50, 30),
        },
    )


def thor(root: Path) -> Path:
    """A Thor with JetPack 7.0; its GPU sleeps."""
    return write(
        root,
        {
            **board(38, "2.2", "NVIDIA Jetson AGX Thor Developer Kit", "nvidia,p4071-0000+p3834-0008 nvidia,tegra264"),
            "etc/nvpmodel.conf": THOR_MODES,
            "var/lib/nvpmodel/status": "pmode:0001",
            **devfreq(THOR_GPU, 315_000_000, 315_000_000, 1_575_000_000, "315000000 1575000000"),
            **devfreq("gpu-nvd-0", 1_556_000_000, 300_000_000, 1_700_000_000, "300000000 1700000000"),
            **devfreq("bwmgr", 665_000_000, 665_000_000, 4_266_000_000, "665000000 4266000000"),
            **hwmon(4, "ina238", label="VIN", power1_input=20_986_000),
            **ina3221(5, ("VDD_GPU", 19864, 20), ("VDD_CPU_SOC_MSS", 19856, 300), ("VIN_SYS_5V0", 4968, 1200)),
            **zones(cpu=34.5, tj=36.0),
            **memory(122.8, 110, 2),
        },
    )


def jetpack_5(root: Path) -> Path:
    """An Orin NX that was never updated."""
    compatible = "nvidia,p3768-0000+p3767-0000 nvidia,p3767-0000 nvidia,tegra234"
    return write(root, {**board(35, "4.1", "NVIDIA Orin NX Developer Kit", compatible), **memory(15.2, 12, 7)})


def laptop(root: Path) -> Path:
    """No Jetson."""
    return write(root, {**cpufreq(0, 1_400_000, 400_000, 4_000_000, 4_000_000), **memory(16, 9, 2)})
