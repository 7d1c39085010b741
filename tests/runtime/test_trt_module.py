"""Where TensorRT comes from, which release is taken, and the one logger of the process."""

from __future__ import annotations

import logging
import platform
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from acd_edge.errors import EngineError, MissingExtra
from acd_edge.runtime import trt_module
from acd_edge.runtime.trt_module import load_tensorrt, release_of, trt_log


def fake(version: str) -> ModuleType:
    module = ModuleType("tensorrt")
    module.__dict__.update(__version__=version, ILogger=type("ILogger", (), {}))
    return module


def test_a_release_from_10_on_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake("10.3.0.post1"))
    assert release_of(load_tensorrt()) == (10, 3, 0)
    monkeypatch.setitem(sys.modules, "tensorrt", fake("8.6.2"))
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.2 is too old: it chooses precisions"):
        load_tensorrt()


@pytest.mark.parametrize(
    ("machine", "environment", "words"),
    [
        ("x86_64", True, r"pip install 'acd-edge\[tensorrt\]'"),
        ("aarch64", False, "apt install python3-libnvinfer"),
        ("aarch64", True, r"which this virtual environment does not see: .*--system-site-packages"),
    ],
)
def test_an_absent_tensorrt_is_one_line_with_what_to_do(
    machine: str, environment: bool, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.setattr(trt_module, "SYSTEM_PACKAGES", tmp_path)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "prefix", "/venv" if environment else sys.base_prefix)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtra, match=words) as caught:
        load_tensorrt()
    assert "\n" not in str(caught.value)


def test_a_shared_library_that_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> Any:
        raise ImportError("libnvinfer.so.10: cannot open shared object file\nmore")

    monkeypatch.setattr(trt_module, "import_module", broken)
    with pytest.raises(MissingExtra, match=r"cannot be loaded \(libnvinfer\.so\.10: cannot open shared object file\)"):
        load_tensorrt()


def test_whatever_an_import_raises_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(_: str) -> Any:
        raise AttributeError("module 'numpy' has no attribute 'bool'")

    monkeypatch.setattr(trt_module, "import_module", odd)
    with pytest.raises(MissingExtra, match=r"cannot be loaded \(module 'numpy' has no attribute 'bool'\)"):
        load_tensorrt()


def test_what_is_left_of_a_removed_package_is_not_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder of that name imports, and `auto` finds it: a run by another library must not end with it."""
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        with pytest.raises(MissingExtra, match=f"{tmp_path / 'tensorrt'} is not TensorRT, or what is left of it"):
            load_tensorrt()
    finally:
        sys.modules.pop("tensorrt", None)  # the folder is a module now


def test_one_logger_for_the_process_that_keeps_what_is_worth_it(caplog: pytest.LogCaptureFixture) -> None:
    trt: Any = fake("10.3.0")
    log: Any = trt_log(trt)
    assert trt_log(trt) is log
    assert isinstance(log, trt.ILogger)
    with caplog.at_level(logging.INFO, "acd_edge"):
        for severity, text in ((4, "chatter"), (3, "told"), (2, "careful"), (1, "it\n broke")):
            log.log(severity, text)
    assert list(log.messages) == [(3, "told"), (2, "careful"), (1, "it\n broke")]
    assert log.last == "it broke"
    assert "TensorRT: careful" in caplog.text
    assert "told" not in caplog.text
    log.verbose = True
    log.clear()
    log.log(4, "chatter")
    assert (list(log.messages), log.last) == ([(4, "chatter")], "")
