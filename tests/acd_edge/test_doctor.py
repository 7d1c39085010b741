"""The doctor's rules, on machines that are not here; each finding has a machine that shows it and one that does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from click.testing import CliRunner

from acd_edge.cli import cli
from acd_edge.cli import doctor as doctor_command
from acd_edge.device.clocks import Throttling
from acd_edge.doctor.checks import GROUPS, Check, Mark
from acd_edge.doctor.facts import Facts, gather
from acd_edge.doctor.machine import Camera, Memory, Python
from acd_edge.doctor.reports import Report
from acd_edge.doctor.verdict import Verdict, examine, usable_backends
from acd_edge.runtime.backends import BACKENDS
from tests.fake_jetson import agx_orin, board, jetpack_5, laptop, orin_nano, thor, write

GIB = 1 << 30
VENV = Path("/opt/me/.venv")

# Libraries as they answer where all is well.

JETPACK_OPENCV = Report(
    "ok", {"version": "4.10.0", "file": "/usr/lib/python3.10/dist-packages/cv2/__init__.py", "gstreamer": True,
           "ffmpeg": False, "v4l": True, "cuda": False},
)  # fmt: skip
PIP_OPENCV = Report(
    "ok", {"version": "4.11.0", "file": "/opt/me/.venv/lib/python3.10/site-packages/cv2/__init__.py",
           "gstreamer": False, "ffmpeg": True, "v4l": True, "cuda": False},
)  # fmt: skip
TENSORRT = Report(
    "ok", {"version": "10.16.2.10", "file": "/usr/lib/python3.12/dist-packages/tensorrt/__init__.py", "builder": True,
           "why": "", "known_bad": []},
)  # fmt: skip
ORIN = Report(
    "ok", {"kernel_driver": "540.4.0", "binding": "cuda-python", "graphs": True, "name": "Orin",
           "compute_capability": "8.7", "driver": "540.4.0", "integrated": True, "total_bytes": 8 * GIB,
           "free_bytes": 4 * GIB},
)  # fmt: skip
NO_GPU = Report("broken", {"kernel_driver": None}, "there is no NVIDIA driver that this CUDA can use")
ORT = Report("ok", {"version": "1.23.2", "providers": {"CPUExecutionProvider": {"usable": True, "why": ""}}})
OPENVINO = Report("ok", {"version": "2026.4.1", "devices": {"CPU": {"name": "EPYC", "precisions": ["FP32", "INT8"]}}})
ENGINES = Report("ok", {"cache": "/opt/me/.cache/acd-edge", "free_bytes": 50 * GIB, "engines": []})
ENGINE = {
    "folder": "/e", "state": "verified", "made_at": "2026-11-22T07:00:00+00:00", "bytes": 47_000_000,
    "precision": "fp16", "part": "model", "bundle": "compact", "graph": "1f" * 32, "tensorrt": "10.16.2.10",
    "driver": "540.4.0",
}  # fmt: skip
ABSENT = Report("absent")


def python(version: str, *, sees_system: bool = True, system: str = "", **installed: str) -> Python:
    distributions = {name.replace("_", "-"): number for name, number in installed.items()}
    return Python(version, f"{VENV}/bin/python", VENV, sees_system, frozenset(system.split()), distributions)


def on_jetson(root: Path, version: str) -> Facts:
    """A Jetson where all is well: JetPack's libraries, a virtual environment that sees them."""
    reports = {"opencv": JETPACK_OPENCV, "tensorrt": TENSORRT, "cuda": ORIN, "engines": engines(ENGINE)}
    found = gather(root, lambda _: None, reports)
    mine = python(
        version, system="tensorrt cv2", cuda_python="12.9.0" if version < "3.11" else "13.0.0", numpy="1.26.4"
    )
    return replace(
        found, machine=replace(found.machine, python=mine, groups=frozenset({"me", "video"}), architecture="aarch64")
    )


def nano(root: Path) -> Facts:
    found = on_jetson(orin_nano(root), "3.10.12")
    clocks = tuple(replace(clock, lowest=clock.highest) for clock in found.state.clocks)
    return replace(
        found, state=replace(found.state, clocks_locked=True, clocks=clocks, throttling=Throttling({"oc1": 0}))
    )


def orin(root: Path) -> Facts:
    return on_jetson(agx_orin(root), "3.12.3")


def pc(root: Path) -> Facts:
    reports = {"opencv": PIP_OPENCV, "cuda": ABSENT, "onnxruntime": ORT, "openvino": OPENVINO, "engines": ENGINES}
    found = gather(laptop(root), lambda _: None, reports)
    mine = python("3.11.7", opencv_python_headless="4.11.0", onnxruntime="1.23.2", numpy="2.4.6")
    machine = replace(found.machine, python=mine, architecture="x86_64", cameras=(Camera("/dev/video0", "cam", True),))
    return replace(found, machine=machine)


def gpu_pc(root: Path) -> Facts:
    return using(pc(root), tensorrt=TENSORRT, cuda=ORIN, engines=engines(ENGINE))


def engines(*found: Mapping[str, Any], free: int = 50 * GIB) -> Report:
    return Report("ok", {**ENGINES.values, "free_bytes": free, "engines": list(found)})


def using(facts: Facts, **reports: Report) -> Facts:
    return replace(facts, reports={**facts.reports, **reports})


def changed(report: Report, **values: Any) -> Report:
    return replace(report, values={**report.values, **values})


def under(facts: Facts, version: str, **options: Any) -> Facts:
    return replace(facts, machine=replace(facts.machine, python=python(version, **options)))


def machine(facts: Facts, **fields: Any) -> Facts:
    return replace(facts, machine=replace(facts.machine, **fields))


def state(facts: Facts, **fields: Any) -> Facts:
    return replace(facts, state=replace(facts.state, **fields))


def providers(**told: str) -> Report:
    """Providers by their short names: an empty reason is one that runs."""
    values = {f"{name}ExecutionProvider": {"usable": not why, "why": why} for name, why in told.items()}
    return changed(ORT, providers=values)


def codes(facts: Facts) -> set[str]:
    return {check.code for check in examine(facts).checks if check.code}


def fix_of(facts: Facts, code: str) -> str:
    return next(check.fix for check in examine(facts).checks if check.code == code)


@pytest.mark.parametrize("build", [nano, orin, pc, gpu_pc])
def test_where_all_is_well_nothing_is_found(build: Callable[[Path], Facts], tmp_path: Path) -> None:
    """The control of every finding below."""
    verdict = examine(build(tmp_path))
    assert {check.code for check in verdict.checks if check.code} == set()
    assert not [check for check in verdict.checks if check.mark in ("missing", "bad")]
    assert verdict.able


class Case(NamedTuple):
    """A machine where all is well, what goes wrong with it, and words of the line that mends it."""

    code: str
    base: Callable[[Path], Facts]
    spoil: Callable[[Facts], Facts]
    fix: str


NUMPY_2 = Report("broken", {}, "ImportError: numpy.core.multiarray failed to import")
ELSEWHERE = Report("broken", {"file": "/opt/me/numpy.py"}, "AttributeError: no attribute")
NO_LIBGL = Report("broken", {}, "ImportError: libGL.so.1: cannot open shared object file")
NULL = {"builder": False, "null": True, "why": "pybind11::init(): factory function returned nullptr"}
SAID = [{"text": "TensorRT 10.3, …: reported wrong maps", "severity": "verify first", "pattern": "fp16"}]
REFUSED = [{"text": "TensorRT 11.2, …: miscompiled", "severity": "refuse", "pattern": "a maximum"}]
TWO_OPENCVS = {"opencv_python": "4.11.0", "opencv_python_headless": "4.11.0"}
TWO_RUNTIMES = {"onnxruntime": "1.23.2", "onnxruntime_gpu": "1.23.2"}
HIDDEN = "sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' /opt/me/.venv/pyvenv.cfg"

CASES = [
    # the machine
    Case("little-memory", nano, lambda f: machine(f, memory=Memory(8 * GIB, 3 * GIB, 4 * GIB, 0)), "fallocate -l 8G"),
    Case("little-disk", nano, lambda f: using(f, engines=engines(ENGINE, free=GIB)), "ACD_EDGE_CACHE="),
    Case("power-mode", nano, lambda f: state(f, power_mode=f.power_modes[0]), "sudo nvpmodel -m 2"),
    Case("no-power-mode", nano, lambda f: state(f, power_mode=None), "sudo nvpmodel -q"),
    Case("clocks", nano, lambda f: state(f, clocks_locked=False), "sudo jetson_clocks"),
    Case("hot", nano, lambda f: state(f, temperatures={"cpu": 60.0, "tj": 91.0}), "--fan"),
    Case("throttling", nano, lambda f: state(f, throttling=Throttling({"oc3": 27})), "power supply"),
    Case("throttling", nano, lambda f: state(f, throttling=Throttling({}, ("gpu-throttle-alert",))), "cooling"),
    Case("camera-permission", nano, lambda f: machine(
        f, cameras=(Camera("/dev/video0", "cam", False),)), "usermod -aG video"),
    # this Python on a Jetson
    Case("other-python", nano, lambda f: under(f, "3.12.3", system="cv2"), "/usr/bin/python3.10 -m venv --system"),
    Case("hidden-packages", nano, lambda f: under(f, "3.10.12", sees_system=False, system="cv2 tensorrt"), HIDDEN),
    Case("hidden-tensorrt", nano, lambda f: using(
        under(f, "3.10.12", sees_system=False, system="cv2 tensorrt"), tensorrt=ABSENT), HIDDEN),
    Case("hidden-tensorrt", nano, lambda f: using(
        under(f, "3.11.9", system="cv2 tensorrt"), tensorrt=ABSENT), "/usr/bin/python3.10 -m venv"),
    Case("numpy-broken", pc, lambda f: using(f, numpy=NUMPY_2), "pip install --force-reinstall numpy"),
    Case("numpy-broken", nano, lambda f: using(f, numpy=NUMPY_2), "pip install --force-reinstall 'numpy<2'"),
    Case("numpy-broken", pc, lambda f: using(f, numpy=ELSEWHERE), "unset PYTHONPATH  # or rename /opt/me/numpy.py"),
    # OpenCV
    Case("opencv-broken", pc, lambda f: using(f, opencv=ELSEWHERE), "unset PYTHONPATH  # or rename /opt/me/numpy.py"),
    Case("no-opencv", pc, lambda f: using(f, opencv=ABSENT), "pip install 'acd-edge[cpu]'"),
    Case("no-opencv", nano, lambda f: using(f, opencv=ABSENT), "apt-get install nvidia-opencv"),
    Case("no-opencv", nano, lambda f: using(
        under(f, "3.10.12", sees_system=False, system="cv2"), opencv=ABSENT), HIDDEN),
    Case("numpy-2", nano, lambda f: using(under(f, "3.10.12", numpy="2.2.6"), opencv=NUMPY_2), "pip install 'numpy<2'"),
    Case("opencv-broken", nano, lambda f: using(f, opencv=NUMPY_2), "--reinstall nvidia-opencv"),  # numpy is 1.26
    Case("opencv-broken", pc, lambda f: using(f, opencv=NO_LIBGL), "pip install opencv-python-headless"),
    Case("opencv-broken", pc, lambda f: using(f, opencv=Report("crashed", {}, "SIGILL")), "--force-reinstall"),
    Case("pip-opencv", nano, lambda f: using(
        under(f, "3.10.12", system="cv2", opencv_python="4.11"), opencv=PIP_OPENCV), "pip uninstall -y opencv-python"),
    Case("pip-opencv", nano, lambda f: using(
        under(f, "3.10.12", system="cv2", opencv_python="4.11", numpy="2.2.6"), opencv=PIP_OPENCV), "'numpy<2'"),
    Case("no-gstreamer", nano, lambda f: using(f, opencv=changed(JETPACK_OPENCV, gstreamer=False)), "nvidia-opencv"),
    Case("no-streams", pc, lambda f: using(f, opencv=changed(PIP_OPENCV, ffmpeg=False)), "acd-edge[cpu]"),
    Case("two-opencvs", pc, lambda f: under(f, "3.11.7", **TWO_OPENCVS), "pip install opencv-python-headless"),
    # ONNX Runtime
    Case("two-onnxruntimes", pc, lambda f: under(f, "3.11.7", **TWO_RUNTIMES), "&& pip install onnxruntime"),
    Case("two-onnxruntimes", gpu_pc, lambda f: under(f, "3.11.7", **TWO_RUNTIMES), "&& pip install onnxruntime-gpu"),
    Case("provider-not-usable", gpu_pc, lambda f: using(
        f, onnxruntime=providers(CUDA="libcublasLt.so.13: cannot open", CPU="")), "onnxruntime-gpu[cuda,cudnn]"),
    Case("provider-not-usable", pc, lambda f: using(
        f, onnxruntime=providers(CUDA="libcublasLt.so.13: cannot open", CPU="")), "pip install onnxruntime"),
    Case("provider-not-usable", nano, lambda f: using(
        f, onnxruntime=providers(CUDA="no kernel image is available", CPU="")), "acd-edge compile"),
    Case("old-onnxruntime", pc, lambda f: using(f, onnxruntime=changed(ORT, version="1.17.3")), "onnxruntime>=1.18"),
    Case("onnxruntime-broken", pc, lambda f: using(
        f, onnxruntime=Report("broken", {}, "ImportError: cannot load")), "--force-reinstall onnxruntime"),
    # TensorRT and CUDA
    Case("no-tensorrt", nano, lambda f: using(under(f, "3.10.12"), tensorrt=ABSENT), "install python3-libnvinfer"),
    Case("no-tensorrt", gpu_pc, lambda f: using(f, tensorrt=ABSENT), "pip install 'acd-edge[tensorrt]'"),
    Case("tensorrt-broken", nano, lambda f: using(
        f, tensorrt=Report("broken", {}, "ImportError: libnvdla_compiler.so")), "--reinstall python3-libnvinfer"),
    Case("old-tensorrt", nano, lambda f: using(f, tensorrt=changed(TENSORRT, version="8.6.2")), "JetPack 6.2.2"),
    Case("old-tensorrt", gpu_pc, lambda f: using(
        f, tensorrt=changed(TENSORRT, version="dev")), "pip install --upgrade 'acd-edge[tensorrt]'"),
    Case("no-builder", gpu_pc, lambda f: using(f, tensorrt=changed(TENSORRT, **NULL)), "ubuntu-drivers install"),
    Case("no-builder", nano, lambda f: using(f, tensorrt=changed(TENSORRT, **NULL)), "nvidia-l4t-cuda"),
    Case("no-builder", nano, lambda f: using(
        machine(f, groups=frozenset({"me"})), tensorrt=changed(TENSORRT, **NULL)), "usermod -aG video,render"),
    Case("known-bad", nano, lambda f: using(
        f, tensorrt=changed(TENSORRT, known_bad=SAID), engines=engines()), "acd-edge verify BUNDLE --backend tensorrt"),
    Case("known-bad", nano, lambda f: using(f, tensorrt=changed(TENSORRT, known_bad=REFUSED)), "another release"),
    Case("no-cuda-binding", nano, lambda f: using(f, cuda=ABSENT), "pip install 'acd-edge[jetson]'"),
    Case("no-cuda-binding", gpu_pc, lambda f: using(f, cuda=ABSENT), "pip install 'acd-edge[tensorrt]'"),
    Case("cuda-broken", nano, lambda f: using(
        under(f, "3.10.12", cuda_python="13.0.0"), cuda=NO_GPU), "pip install 'cuda-python==12.*'"),
    Case("cuda-broken", orin, lambda f: using(
        under(f, "3.12.3", cuda_python="12.9.0"), cuda=NO_GPU), "pip install 'cuda-python==13.*'"),
    Case("cuda-broken", gpu_pc, lambda f: using(f, cuda=NO_GPU), "ubuntu-drivers install"),
    # the others
    Case("openvino-broken", pc, lambda f: using(f, openvino=changed(OPENVINO, devices={})), "openvino"),
    Case("cache-unusable", nano, lambda f: using(f, engines=changed(
        ENGINES, problem="others may write /c, and an engine is code; run: chmod go-w /c")), "chmod go-w /c"),
    Case("cache-unusable", pc, lambda f: using(f, engines=changed(
        ENGINES, problem="/c is a link to nothing; set ACD_EDGE_CACHE")), "export ACD_EDGE_CACHE="),
    Case("no-engine", nano, lambda f: using(f, engines=engines()), "acd-edge compile"),
    Case("failed-engine", nano, lambda f: using(f, engines=engines({**ENGINE, "state": "failed"})), "verify"),
    Case("unverified-engine", nano, lambda f: using(
        f, engines=engines({**ENGINE, "state": "never verified"})), "acd-edge verify"),
    Case("stale-engine", nano, lambda f: using(f, engines=engines({**ENGINE, "driver": "540.3"})), "acd-edge compile"),
    Case("no-backend", pc, lambda f: using(f, onnxruntime=ABSENT, openvino=ABSENT), "pip install 'acd-edge[cpu]'"),
    Case("no-backend", nano, lambda f: using(f, cuda=ABSENT), "pip install 'acd-edge[jetson]'"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{case.code}-{case.base.__name__}" for case in CASES])
def test_a_finding_appears_and_its_control_has_it_not(case: Case, tmp_path: Path) -> None:
    well = case.base(tmp_path)
    assert case.code not in codes(well)
    spoiled = case.spoil(well)
    assert case.code in codes(spoiled)
    assert case.fix in fix_of(spoiled, case.code)


def test_where_numpy_is_broken_that_alone_has_a_fix(tmp_path: Path) -> None:
    """Everything else breaks with it, and is installed again in vain."""
    found = using(pc(tmp_path), **dict.fromkeys(("numpy", "opencv", "onnxruntime", "openvino"), NUMPY_2))
    bad = [check for check in examine(found).checks if check.mark in ("bad", "missing")]
    assert [(check.code, bool(check.fix)) for check in bad] == [
        ("numpy-broken", True), ("opencv-broken", False), ("onnxruntime-broken", False), ("openvino-broken", False),
        ("no-backend", False),
    ]  # fmt: skip


def test_every_finding_of_the_rules_is_in_the_table() -> None:
    """A rule that no case above triggers would go untested."""
    folder = Path(doctor_command.__file__).parents[1] / "doctor"
    words = {word.strip("\"'") for path in folder.glob("*_checks.py") for word in _last_arguments(path)}
    words |= set(_last_arguments(folder / "verdict.py"))
    elsewhere = {"jetpack-out-of-scope", "no-l4t", "newer-jetpack"}  # the releases, below
    assert words - elsewhere == {case.code for case in CASES}


def _last_arguments(path: Path) -> list[str]:
    """The codes: sixth argument of each `Check(...)`."""
    import ast

    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    checks = [call for call in calls if ast.unparse(call.func) == "Check" and len(call.args) == 6]
    return [ast.literal_eval(call.args[5]) for call in checks]


# Releases of JetPack.


def test_jetpack_5_is_out_of_scope_and_told(tmp_path: Path) -> None:
    found = gather(jetpack_5(tmp_path), lambda _: None, {"opencv": ABSENT})
    assert "https://developer.nvidia.com/embedded/jetpack" in fix_of(found, "jetpack-out-of-scope")
    assert "other-python" not in codes(found)  # the release is the trouble, not the Python


def test_jetpack_6_0_is_out_of_scope_and_6_1_is_not(tmp_path: Path) -> None:
    for revision, told in (("3.0", True), ("4.0", False)):
        root = write(tmp_path / revision, board(36, revision, "NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3701"))
        assert ("jetpack-out-of-scope" in codes(on_jetson(root, "3.10.12"))) is told


@pytest.mark.parametrize(("major", "revision", "newer"), [(39, "2.1", False), (39, "4.0", True), (40, "0.0", True)])
def test_a_release_that_is_not_known_yet_is_told(major: int, revision: str, newer: bool, tmp_path: Path) -> None:
    root = write(tmp_path, board(major, revision, "NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3701"))
    assert ("newer-jetpack" in codes(on_jetson(root, "3.12.3"))) is newer


def test_a_container_on_a_jetson_does_not_tell_its_release(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/device-tree/compatible": "nvidia,tegra234"})
    assert "no-l4t" in codes(on_jetson(root, "3.10.12"))


def test_thor_is_told_with_its_power_of_the_board(tmp_path: Path) -> None:
    found = examine(on_jetson(thor(tmp_path), "3.12.3"))
    told = {check.name: check.text for check in found.checks if check.group == "jetson"}
    assert told["board"] == "NVIDIA Jetson AGX Thor Developer Kit (Thor)"
    assert told["power"] == "21.0 W now, VIN"
    assert told["power mode"] == "120W (mode 1), slower than MAXN"
    assert told["clocks"].startswith("GPU at 315 MHz of 1575")


def test_a_report_about_another_gpu_is_left_out(tmp_path: Path) -> None:
    said = [{"text": "…", "severity": "verify first", "pattern": "fused attention on sm_120"}]
    found = using(nano(tmp_path), tensorrt=changed(TENSORRT, known_bad=said), engines=engines())
    assert "known-bad" not in codes(found)  # Orin is sm_87
    assert "known-bad" in codes(using(found, cuda=changed(ORIN, compute_capability="12.0")))


def test_a_verified_engine_answers_a_report_about_its_release(tmp_path: Path) -> None:
    found = using(nano(tmp_path), tensorrt=changed(TENSORRT, known_bad=SAID))
    assert "known-bad" not in codes(found)
    told = next(check for check in examine(found).checks if check.name == "… known")
    assert (told.mark, told.text.endswith("was verified here")) == ("ok", True)
    assert "known-bad" in codes(using(found, engines=engines({**ENGINE, "tensorrt": "10.3.0"})))


def test_zram_is_no_swap(tmp_path: Path) -> None:
    lines = "Filename Type Size Used Priority\n/dev/zram0 partition 2000000 0 5\n/swapfile file 1879680 0 -2"
    found = gather(write(orin_nano(tmp_path), {"proc/swaps": lines}), lambda _: None, {})
    assert found.machine.memory is not None
    assert found.machine.memory.swap - found.machine.memory.swap_on_disk == 2_000_000 * 1024


def test_pip_is_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called as .venv/bin/acd-edge, nothing is activated, and a bare `pip` would be another one."""
    monkeypatch.setattr("sys.prefix", "/opt/me/.venv")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    found = gather(laptop(tmp_path), lambda _: None, {"opencv": ABSENT})
    assert fix_of(found, "no-opencv") == "/opt/me/.venv/bin/pip install 'acd-edge[cpu]'"
    monkeypatch.setenv("VIRTUAL_ENV", "/opt/me/.venv")
    found = gather(laptop(tmp_path), lambda _: None, {"opencv": ABSENT})
    assert fix_of(found, "no-opencv") == "pip install 'acd-edge[cpu]'"


@pytest.mark.parametrize(("folder", "sees"), [("/usr/lib/python3/dist-packages", True), ("/opt/site-packages", False)])
def test_an_environment_sees_the_system_when_its_path_does(
    folder: str, sees: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--system-site-packages of another Python than the system's leads to that one's packages."""
    monkeypatch.setattr("sys.path", [folder])
    assert gather(laptop(tmp_path), lambda _: None, {}).machine.python.sees_system is sees


def test_conda_on_a_jetson_is_told_to_take_the_systems_python(tmp_path: Path) -> None:
    hidden = under(nano(tmp_path), "3.10.12", sees_system=False, system="cv2 tensorrt")
    conda = machine(hidden, python=replace(hidden.machine.python, environment=None, base="/opt/me/miniconda3"))
    assert fix_of(conda, "hidden-packages").startswith("/usr/bin/python3.10 -m venv --system-site-packages .venv")
    assert fix_of(hidden, "hidden-packages") == HIDDEN


def test_what_the_system_has_for_another_python_is_seen(tmp_path: Path) -> None:
    root = write(laptop(tmp_path), {"usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""})
    assert gather(root, lambda _: None, {}).machine.python.for_system == {"tensorrt"}


def test_cameras_are_those_that_give_pictures(tmp_path: Path) -> None:
    nodes = {f"dev/video{number}": "" for number in (0, 1, 2)} | {"dev/video-dec0": ""}
    names = {f"sys/class/video4linux/video{number}/name": f"cam {number}" for number in (0, 1)}
    root = write(tmp_path, {**nodes, **names, "sys/class/video4linux/video1/index": 1})
    found = gather(root, lambda _: None, {}).machine.cameras
    assert [(camera.number, camera.name, camera.allowed) for camera in found] == [
        ("0", "cam 0", True),
        ("2", "no name", True),
    ]


# Verdict and command.


def test_able_is_a_backend_and_opencv(tmp_path: Path) -> None:
    well = pc(tmp_path)
    assert usable_backends(well) == ("onnxruntime", "openvino")
    assert set(usable_backends(gpu_pc(tmp_path))) == set(BACKENDS)
    assert not examine(using(well, opencv=ABSENT)).able
    assert not examine(using(well, onnxruntime=ABSENT, openvino=ABSENT)).able
    assert examine(using(well, onnxruntime=ABSENT)).able
    crashed = Report("crashed", ORT.values, "SIGSEGV")  # on another provider, after the CPU had run
    assert usable_backends(using(well, onnxruntime=crashed, openvino=ABSENT)) == ("onnxruntime",)


def run(monkeypatch: pytest.MonkeyPatch, facts: Facts, *words: str) -> Any:
    monkeypatch.setattr("acd_edge.doctor.facts.gather", lambda: facts)
    return CliRunner().invoke(cli, ["doctor", *words])


def test_the_table_fits_80_columns_and_keeps_commands_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spoiled = using(
        under(orin(tmp_path), "3.12.3", opencv_python="4.11.0", system="cv2"), opencv=PIP_OPENCV, cuda=NO_GPU
    )
    done = run(monkeypatch, spoiled)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines if "→" not in line)
    fixes = [check.fix for check in examine(spoiled).checks if check.fix]
    assert [line.partition("→ ")[2] for line in lines if line.lstrip().startswith("→")] == fixes
    assert "cannot run here: it lacks a backend." in done.stdout


def test_json_is_one_object_with_marks_and_fixes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = run(monkeypatch, gpu_pc(tmp_path), "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["able"] is True
    assert told["backends"] == ["tensorrt", "onnxruntime", "openvino"]
    assert {check["group"] for check in told["checks"]} <= set(GROUPS)
    assert {check["mark"] for check in told["checks"]} <= set(get_args(Mark))
    assert told["facts"]["libraries"]["tensorrt"]["values"]["version"] == "10.16.2.10"


def test_an_exit_status_of_one_is_only_for_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    well = pc(tmp_path)
    assert run(monkeypatch, under(well, "3.11.7", **TWO_OPENCVS)).exit_code == 0
    assert run(monkeypatch, using(well, opencv=ABSENT)).exit_code == 1


def test_the_summary_counts_in_words() -> None:
    empty = Verdict((), ("onnxruntime",), opencv=True)
    assert list(doctor_command.table(empty))[-1].endswith("on onnxruntime.")
    plain = Check("pictures", "camera", "note", "none")
    assert list(doctor_command.table(replace(empty, checks=(plain,))))[-1] == "1 note."
    mended = replace(plain, fix="plug one in")
    assert list(doctor_command.table(replace(empty, checks=(plain, mended))))[-1].startswith("2 notes; an arrow")
