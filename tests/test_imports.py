"""Which module may import what, and that light modules import on a bare device."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from acd_edge.errors import MissingExtra
from acd_edge.lazy import how_to_install, require
from tests.tree import ROOT, modules, packages

TRAINING = (
    *("torch", "torchvision", "open_clip", "timm", "transformers", "safetensors"),
    *("onnx", "onnxscript", "onnx_ir"),
)
HEAVY = (
    *TRAINING,
    *("cv2", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda", "scipy", "sklearn", "skimage"),
)
SHARED = {"acd_edge", "acd_edge.errors", "acd_edge.lazy", "acd_edge.config", "acd_edge.backbone"}
MAY_IMPORT = {  # the arrows of the design, besides SHARED; acd_edge itself may import everything
    "acd_edge.runtime": {"acd_edge.runtime"},
    "acd_edge.calib": {"acd_edge.calib", "acd_edge.runtime"},
    "acd_edge.export": {
        *("acd_edge.export", "acd_edge.calib", "acd_edge.runtime"),
        *("acd_edge.model", "acd_edge.checkpoint"),
        "acd_edge.metrics",  # numpy and OpenCV only: verify tells the change of AUROC
    },
}
DEVICE = ("acd_edge.runtime", "acd_edge.calib", "acd_edge.device", "acd_edge.doctor", "acd_edge.bench")


def below(name: str, *parents: str) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


MODULES = modules()
ENGINES = tuple(f"acd_edge.export.{name}" for name in ("engine", "build", "layers", "trt_log"))
ON_THE_DEVICE = [name for name in MODULES if below(name, *DEVICE, *ENGINES)]
VERIFY = tuple(f"acd_edge.export.{name}" for name in ("verify", "judge", "drift", "references", "tolerance", "bisect"))
LIGHT = [name for name in MODULES if below(name, *DEVICE, "acd_edge.cli", *VERIFY, *ENGINES) or name in SHARED]


def imported(source: str) -> Iterator[str]:
    """Every module that a source imports, at any depth, `require("...")` included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("require", "import_module")):
            yield from (name for argument in node.args[:1] if isinstance(name := _value(argument), str))


def _value(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


@pytest.mark.parametrize("package", packages())
def test_package_imports(package: str) -> None:
    """Each package on its own, so that no circle hides behind the order of the tests."""
    if package in LIGHT:
        block = f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))"  # None makes an import fail
        subprocess.run([sys.executable, "-c", f"{block}; import {package}"], check=True)
    else:
        importlib.import_module(package)


def test_light_modules_import_on_a_bare_device() -> None:
    """Every module of the runtime, of calibration and of the command line, with nothing heavy installed."""
    code = (
        f"import sys, importlib; sys.modules.update(dict.fromkeys({HEAVY}))\n"
        f"for name in {LIGHT}: importlib.import_module(name)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_blocking_blocks() -> None:
    """The control of the tests above: a blocked package cannot be imported."""
    code = f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); import torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("name", ON_THE_DEVICE)
def test_device_code_never_imports_torch_or_onnx(name: str) -> None:
    """Not even late: a device has neither."""
    found = {module.partition(".")[0] for module in imported(MODULES[name].read_text())}
    assert not found & set(TRAINING)


def test_late_imports_are_seen() -> None:
    """The control: torch deep inside a function, and by name."""
    source = "def f():\n    from torch import nn\n    g(require('onnx.helper', 'export'))"
    assert set(imported(source)) == {"torch", "onnx.helper"}


@pytest.mark.parametrize("name", [name for name in MODULES if below(name, *MAY_IMPORT)])
def test_arrows_point_one_way(name: str) -> None:
    allowed = next(names for package, names in MAY_IMPORT.items() if below(name, package))
    for module in imported(MODULES[name].read_text()):
        if below(module, "acd_edge") and module not in SHARED:
            assert below(module, *allowed), f"{name} imports {module}"


@pytest.mark.parametrize("name", sorted(SHARED))
def test_shared_modules_need_the_standard_library_only(name: str) -> None:
    for module in imported(MODULES[name].read_text()):
        top = module.partition(".")[0]
        assert top in sys.stdlib_module_names or module in SHARED, f"{name} imports {module}"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist(name: str) -> None:
    """What `__all__` promises is there; private modules promise nothing."""
    module = importlib.import_module(name)
    missing = [public for public in getattr(module, "__all__", ()) if not hasattr(module, public)]
    assert not missing


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("import export", "TID251"),
        ("from runtime import bundle", "TID251"),
        ("import calib.ranges", "TID251"),
        ("from . import cli", "TID252"),
    ],
)
def test_ruff_refuses_other_peoples_names(line: str, rule: str) -> None:
    """A folder imported by its bare name is a second copy of the module, and somebody else's package elsewhere."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", "TID", "--stdin-filename", "acd_edge/example.py", "-"],
        input=f"{line}\n", capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert rule in done.stdout


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(MissingExtra, match=r"needs nowhere_1\.part.*'acd-edge\[live\]'"):
        require("nowhere_1.part", "live")


@pytest.mark.parametrize(
    ("module", "extra", "advice"),
    [
        ("onnx.helper", "export", "on a Jetson: pip install onnx (docs/jetson.md); elsewhere: "),
        ("onnxruntime", "cpu", "on a Jetson: pip install onnxruntime (docs/jetson.md); elsewhere: "),
        ("torch", "export", "on a Jetson: leave this step to the computer that trains and exports"),
        ("cv2", "cpu", "on a Jetson: sudo apt-get install nvidia-opencv, and "),
        ("cuda.bindings.runtime", "jetson", "install it with: "),
    ],
)
def test_the_advice_for_a_jetson_is_that_of_its_page(
    module: str, extra: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extras `cpu` and `export` bring an OpenCV and a torch that would hide, or are not, JetPack's."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    on_a_pc = how_to_install(module, extra)
    assert on_a_pc == f"install it with: pip install 'acd-edge[{extra}]'"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    there = how_to_install(module, extra)
    assert there.startswith(advice)
    assert there.endswith(f": pip install 'acd-edge[{extra}]'")

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name=name.partition(".")[0])

    monkeypatch.setattr("acd_edge.lazy.import_module", absent)
    with pytest.raises(MissingExtra, match=re.escape(f"is not installed; {there}")):
        require(module, extra)


def test_a_package_that_lacks_something_itself_says_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installing the extra again would not help there."""
    (tmp_path / "half_there.py").write_text("import nowhere_2")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere_2") as caught:
        require("half_there", "cpu")
    assert not isinstance(caught.value, MissingExtra)
