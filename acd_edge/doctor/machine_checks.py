"""Rules about the machine, the Jetson, this Python and the cameras."""

from __future__ import annotations

from collections.abc import Iterator

from acd_edge.device.clocks import Clock, best_power_mode
from acd_edge.device.jetson import JETPACKS
from acd_edge.doctor.checks import Check
from acd_edge.doctor.facts import Facts
from acd_edge.doctor.reports import Report

__all__ = [
    "camera_checks", "hidden_packages_fix", "jetson_checks", "machine_checks", "other_file_fix", "python_checks",
]  # fmt: skip

GIB = 1 << 30
COMPILE_BYTES = 4 * GIB
"""What `compile` reckons for ViT-L/14 in fp16 on a Jetson: four times 600 MiB of weights, 1 GiB workspace, 0.5 GiB."""
HOT = 85.0  # degrees; from 99 on Orin lowers its clocks (Jetson Linux guide), and a cabinet gets warmer in summer
JETPACK_PAGE = "https://developer.nvidia.com/embedded/jetpack"
SWAPFILE = (
    "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"
)


def machine_checks(facts: Facts) -> Iterator[Check]:
    """System, processor and memory."""
    machine = facts.machine
    yield Check("machine", "system", "ok", f"{machine.system}, Linux {machine.kernel}, {machine.architecture}")
    cores = f"{machine.cpus} core{'s' if machine.cpus > 1 else ''}"
    yield Check("machine", "processor", "ok", f"{cores}, {machine.processor}" if machine.processor else cores)
    memory = machine.memory
    if memory is None:
        yield Check("machine", "memory", "note", "/proc/meminfo does not tell")
        return
    text = f"{_gib(memory.available)} of {_gib(memory.total)} free, swap {_gib(memory.swap)}"
    text += " (zram, which is memory too)" if memory.swap > memory.swap_on_disk == 0 else ""
    if facts.compiles and memory.available + memory.swap_on_disk < COMPILE_BYTES:
        text += f"; building an engine may take {_gib(COMPILE_BYTES)}"
        yield Check("machine", "memory", "note", text, SWAPFILE, "little-memory")
    else:
        yield Check("machine", "memory", "ok", text)


def jetson_checks(facts: Facts) -> Iterator[Check]:
    """Module and release, power mode, clocks, heat, power; nothing on other machines."""
    if facts.jetson is None:
        return
    module = f" ({facts.jetson.module})" if facts.jetson.module else ""
    yield Check("jetson", "board", "ok", f"{facts.jetson.model}{module}")
    yield _jetpack(facts)
    yield from _power_mode(facts)
    yield from _clocks(facts)
    yield from _heat(facts)
    if facts.power is not None:
        rails = " + ".join(facts.power.rails)
        yield Check("jetson", "power", "ok", f"{facts.power.watts:.1f} W now, {rails}")


def _jetpack(facts: Facts) -> Check:
    assert facts.jetson is not None
    l4t, line = facts.jetson.l4t, facts.jetson.jetpack
    if l4t is None or line is None:
        text = "no L4T release is told; in a container, look on the host"
        return Check("jetson", "JetPack", "note", text, "cat /etc/nv_tegra_release", "no-l4t")
    text = f"{line.name} (L4T {l4t})"
    if line.out_of_scope:
        text += f": {line.out_of_scope}"
        return Check("jetson", "JetPack", "bad", text, f"install 6.2.2 or 7.2: {JETPACK_PAGE}", "jetpack-out-of-scope")
    if (l4t.major, l4t.minor) > (JETPACKS[-1].first.major, JETPACKS[-1].first.minor):
        text = f"L4T {l4t}, newer than JetPack {line.name}, the newest known here"
        return Check("jetson", "JetPack", "note", text, "verify engines before you trust them", "newer-jetpack")
    return Check("jetson", "JetPack", "ok", f"{text}: Python {line.python}, CUDA {line.cuda}, TensorRT {line.tensorrt}")


def _power_mode(facts: Facts) -> Iterator[Check]:
    mode, best = facts.state.power_mode, best_power_mode(facts.power_modes)
    if mode is None:
        yield Check("jetson", "power mode", "note", "not told", "sudo nvpmodel -q", "no-power-mode")
    elif best is not None and best.number != mode.number:
        text = f"{mode}, slower than {best.name}"
        yield Check("jetson", "power mode", "note", text, f"sudo nvpmodel -m {best.number}", "power-mode")
    else:
        yield Check("jetson", "power mode", "ok", str(mode))


def _clocks(facts: Facts) -> Iterator[Check]:
    gpu = next((clock for clock in facts.state.clocks if clock.name == "gpu"), None)
    if gpu is None:
        return
    if facts.state.clocks_locked:
        yield Check("jetson", "clocks", "ok", f"{_mhz(gpu)}, locked")
    else:
        text = f"{_mhz(gpu)}, not locked: latency will vary"
        yield Check("jetson", "clocks", "note", text, "sudo jetson_clocks", "clocks")


def _mhz(gpu: Clock) -> str:
    highest = gpu.possible or gpu.highest
    return f"GPU at {gpu.now / 1e6:.0f} MHz" + (f" of {highest / 1e6:.0f}" if highest else "")


def _heat(facts: Facts) -> Iterator[Check]:
    heat, throttling = facts.state.temperatures, facts.state.throttling
    if heat:
        name = max(heat, key=lambda zone: heat[zone])
        text = f"{heat[name]:.0f} °C at most ({name})"
        text += "" if facts.state.fan_percent is None else f", fan at {facts.state.fan_percent:.0f} %"
        if heat[name] >= HOT:
            yield Check("jetson", "heat", "note", text, "sudo jetson_clocks --fan", "hot")
        else:
            yield Check("jetson", "heat", "ok", text)
    events = {name: count for name, count in throttling.events.items() if count}
    told = [
        *throttling.active,
        *(f"{count} over-current or under-voltage events ({name}) since boot" for name, count in events.items()),
    ]
    if told:
        fix = "a stronger power supply or better cooling; else a lower power mode"
        yield Check("jetson", "throttling", "note", ", ".join(told), fix, "throttling")
    elif throttling.events:
        yield Check("jetson", "throttling", "ok", "none since boot")


def python_checks(facts: Facts) -> Iterator[Check]:
    """The interpreter, and whether it can see what JetPack brings."""
    python = facts.machine.python
    where = f"{python.environment}" if python.environment else python.executable
    kind = "no environment" if not python.environment else "with" if python.sees_system else "without"
    kind += "" if kind.startswith("no ") else " the system's packages"
    text = f"{python.version}, {where}, {kind}"
    line = facts.jetson.jetpack if facts.jetson else None
    if line and not line.out_of_scope and python.minor != line.python:
        text += f"; JetPack's TensorRT and OpenCV are for Python {line.python}"
        yield Check("python", "python", "bad", text, _new_environment(facts), "other-python")
    elif facts.jetson and not python.sees_system and python.for_system:
        text += f"; JetPack's {' and '.join(sorted(python.for_system))} cannot be imported"
        yield Check("python", "python", "bad", text, hidden_packages_fix(facts), "hidden-packages")
    else:
        yield Check("python", "python", "ok", text)
    numpy = facts.report("numpy")
    if numpy.state not in ("ok", "absent"):
        old = "'numpy<2'" if line and line.python == "3.10" else "numpy"
        fix = other_file_fix(numpy) or f"pip install --force-reinstall {old}"
        text = f"installed, and does not work: {numpy.error}; nothing else can"
        yield Check("python", "numpy", "bad", text, fix, "numpy-broken")
    names = ("numpy", "torch")
    told = [f"{name} {python.distributions[name]}" for name in names if name in python.distributions]
    if told:
        yield Check("python", "packages", "ok", ", ".join(told))


def other_file_fix(report: Report) -> str:
    """Takes away what was taken for a library, where it lies on PYTHONPATH or in the current folder; else empty."""
    return f"unset PYTHONPATH  # or rename {report.other_file}" if report.other_file else ""


def hidden_packages_fix(facts: Facts) -> str:
    """Opens a virtual environment of the system's Python to its packages, in place; any other one is made anew."""
    python, line = facts.machine.python, facts.jetson.jetpack if facts.jetson else None
    if python.environment is None or python.base != "/usr" or (line and python.minor != line.python):
        return _new_environment(facts)
    settings = f"{python.environment}/pyvenv.cfg"
    return f"sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' {settings}"


def _new_environment(facts: Facts) -> str:
    """Makes an environment of the system's Python that sees the system's packages."""
    line = facts.jetson.jetpack if facts.jetson else None
    python = f"/usr/bin/python{line.python if line else 3}"
    return f"{python} -m venv --system-site-packages .venv  # and install acd-edge[jetson] into it"


def camera_checks(facts: Facts) -> Iterator[Check]:
    """Cameras of V4L, and whether this user may read them."""
    if not facts.machine.cameras:
        yield Check("pictures", "camera", "note", "none (no /dev/video*); streams need none")
    for camera in facts.machine.cameras:
        if not camera.allowed:
            fix = "sudo usermod -aG video $USER  # and log in again"
            text = f"{camera.path}, {camera.name}: this user may not read it"
            yield Check("pictures", "camera", "missing", text, fix, "camera-permission")
        elif facts.jetson and camera.name.startswith("vi-output"):  # how NVIDIA's driver calls a sensor on CSI
            text = f"{camera.path}, {camera.name}: --source 'gst:nvarguscamerasrc ! …' (docs/jetson.md)"
            yield Check("pictures", "camera", "ok", text)
        else:
            yield Check("pictures", "camera", "ok", f"{camera.path}, {camera.name}: --camera {camera.number}")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
