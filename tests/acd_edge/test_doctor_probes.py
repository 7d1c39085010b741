"""Probes on libraries that are absent, broken, chatty, hang or kill their process: fake modules, real processes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acd_edge.doctor import probes
from acd_edge.doctor.probes import PROBES, TINY_MODEL
from acd_edge.doctor.reports import Report, run_probes
from acd_edge.runtime.engines import cache_root

Fake = Callable[[str, str], None]

RUNTIME = """
import os, sys, numpy
__version__ = "1.23.2"
def get_available_providers():
    return ["CUDAExecutionProvider", "TensorrtExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
class SessionOptions: pass
class InferenceSession:
    def __init__(self, model, options, providers):
        (self.name,) = providers
        {body}
    def get_providers(self): return [self.name, "CPUExecutionProvider"]
    def run(self, outputs, feed): return [feed["x"] * 2]
"""
FELL_BACK = """
        if self.name != "CPUExecutionProvider":
            os.write(2, b"\\x1b[1;31m[E:onnxruntime] FAIL : Failed to load library libonnxruntime_providers.so with "
                        b"error: libcublasLt.so.13: cannot open shared object file\\x1b[m\\n")
            self.name = "CPUExecutionProvider"
"""
TENSORRT = """
__version__ = "{version}"
class Logger:
    ERROR = 1
    def __init__(self, level): print("chatter on stdout")
class Builder:
    def __init__(self, logger):
        {body}
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Writes a module that the probes' processes find before the installed one."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)

    return write


def report(name: str, timeout_s: float = 30.0) -> Report:
    return run_probes([name], timeout_s=timeout_s)[name]


def test_a_library_that_is_not_there_is_absent(fake: Fake) -> None:
    fake("cv2", "raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')")
    fake("openvino", "import nowhere_3")
    found = run_probes(["opencv", "openvino"])
    assert found["opencv"].state == "absent"
    assert found["openvino"].state == "broken"  # the control: it is there, and lacks something itself
    assert "nowhere_3" in found["openvino"].error


def test_a_library_that_cannot_be_imported_is_broken(fake: Fake, tmp_path: Path) -> None:
    fake("cv2", "raise ImportError('libGL.so.1: cannot open shared object file\\nsecond line')")
    place = {"file": str(tmp_path / "cv2.py")}
    found = report("opencv")
    assert found == Report("broken", place, "ImportError: libGL.so.1: cannot open shared object file")
    assert found.other_file == place["file"]
    assert report("numpy").other_file == ""  # the control, which is installed where it should be


def test_opencv_is_made_to_work_and_its_build_is_read(fake: Fake) -> None:
    text = (
        "  GStreamer:                   YES (1.20.3)\\n    FFMPEG:   NO\\n  v4l/v4l2:  YES (linux)\\n NVIDIA CUDA: NO"
    )
    source = f"__version__, __file__, COLOR_BGR2RGB = '4.8.0', '/', 4\ndef getBuildInformation(): return '{text}'\n"
    fake("cv2", f"{source}def cvtColor(picture, way): return picture")
    found = report("opencv")
    assert found.works
    assert {key: found.values[key] for key in ("gstreamer", "ffmpeg", "v4l", "cuda")} == {
        "gstreamer": True, "ffmpeg": False, "v4l": True, "cuda": False,
    }  # fmt: skip
    fake("cv2", f"{source}def cvtColor(picture, way): raise TypeError('src is not a numpy array')")
    assert report("opencv").state == "broken"


@pytest.mark.parametrize(
    ("body", "state", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "SIGSEGV"),
        ("import os; os.abort()", "crashed", "SIGABRT"),
        ("import os; os.write(2, b'terminate called\\n'); os._exit(3)", "crashed", "terminate called"),
        ("raise SystemExit(0)", "broken", "SystemExit"),
        ("raise KeyboardInterrupt", "broken", "KeyboardInterrupt"),
    ],
)
def test_a_library_that_ends_its_process_is_told(fake: Fake, body: str, state: str, words: str) -> None:
    fake("tensorrt", body)
    found = report("tensorrt")
    assert found.state == state
    assert words in found.error


def test_a_library_that_hangs_is_told_and_ended_with_what_it_started(fake: Fake, tmp_path: Path) -> None:
    mark = tmp_path / "child"
    fake("openvino", f"import subprocess, time\nchild = subprocess.Popen(['sleep', '77'])\n"
                     f"open({str(mark)!r}, 'w').write(str(child.pid))\ntime.sleep(77)")  # fmt: skip
    found = report("openvino", 5)
    assert (found.state, found.error) == ("silent", "no answer within 5 s")
    stat = Path(f"/proc/{mark.read_text()}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_openvino_reports_nothing_over_the_network(fake: Fake, tmp_path: Path) -> None:
    mark = tmp_path / "imported"
    fake("openvino_telemetry", f"open({str(mark)!r}, 'w')")
    fake("openvino", "try:\n    import openvino_telemetry\nexcept ImportError:\n    pass\n__version__ = '1'")
    assert report("openvino").version == "1"
    assert not mark.exists()


def test_chatter_on_stdout_is_no_answer(fake: Fake) -> None:
    fake("tensorrt", TENSORRT.format(version="10.3.0", body='print(\'{"state": "absent"}\')'))
    found = report("tensorrt")
    assert found.works
    assert found.values["builder"] is True
    assert [told["severity"] for told in found.values["known_bad"]] == ["verify first"]


def test_a_builder_that_is_none_in_c_is_no_builder(fake: Fake) -> None:
    fake("tensorrt", TENSORRT.format(
        version="11.4.0", body="raise TypeError('pybind11::init(): factory function returned nullptr')"))  # fmt: skip
    found = report("tensorrt")
    assert found.works
    assert (found.values["builder"], found.values["null"]) == (False, True)
    assert found.values["known_bad"] == []


def test_a_provider_is_usable_when_it_ran(fake: Fake) -> None:
    fake("onnxruntime", RUNTIME.format(body=FELL_BACK))
    told = report("onnxruntime").values["providers"]
    assert set(told) == {f"{name}ExecutionProvider" for name in ("CUDA", "Tensorrt", "CPU")}  # Azure's runs elsewhere
    assert told["CPUExecutionProvider"] == {"usable": True, "why": ""}
    assert told["CUDAExecutionProvider"] == {
        "usable": False, "why": "libcublasLt.so.13: cannot open shared object file",
    }  # fmt: skip
    fake("onnxruntime", RUNTIME.format(body="pass"))  # the control
    assert report("onnxruntime").values["providers"]["CUDAExecutionProvider"]["usable"] is True


def test_a_wrong_result_is_not_usable(fake: Fake) -> None:
    fake("onnxruntime", RUNTIME.format(body="pass").replace('feed["x"] * 2', 'feed["x"] * 3'))
    told = report("onnxruntime").values["providers"]["CPUExecutionProvider"]
    assert told == {"usable": False, "why": "wrong result: 2 x [0, 1, 2, 3] gave [0.0, 3.0, 6.0, 9.0]"}


def test_what_was_told_before_a_crash_stays(fake: Fake) -> None:
    dies = "if self.name.startswith('Tensorrt'): os.abort()"
    fake("onnxruntime", RUNTIME.format(body=dies))
    found = report("onnxruntime")
    assert found.state == "crashed"
    assert found.values["providers"]["CUDAExecutionProvider"]["usable"] is True
    assert "ended while" in found.values["providers"]["TensorrtExecutionProvider"]["why"]


def test_the_real_onnxruntime_runs_the_tiny_model() -> None:
    found = report("onnxruntime")
    assert found.works
    assert found.values["providers"]["CPUExecutionProvider"] == {"usable": True, "why": ""}


def test_the_tiny_model_is_what_it_says() -> None:
    import onnx

    model = onnx.load_from_string(TINY_MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Add"]
    assert (model.ir_version, model.opset_import[0].version) == (8, 13)


def test_the_engine_cache_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "not" / "yet"))
    found = report("engines")
    assert found.works, found.error
    assert found.values["cache"] == str(cache_root())
    assert found.values["engines"] == []
    assert found.values["free_bytes"] > 0
    assert found.values["problem"] == ""
    monkeypatch.setenv("ACD_EDGE_CACHE", "~nobody-of-that-name/x")
    assert report("engines") == Report(
        "broken", {}, "there is no home folder in ~nobody-of-that-name/x to keep engines in; set ACD_EDGE_CACHE"
    )


def test_probes_need_no_heavy_module_before_they_run() -> None:
    """The parent stays light: what it imports must not be what is broken."""
    code = (
        "import sys, acd_edge.doctor.verdict, acd_edge.doctor.facts\n"
        "print(sorted({'numpy', 'cv2', 'onnxruntime', 'torch', 'openvino', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_probe_names_a_module_that_it_imports() -> None:
    source = Path(probes.__file__).read_text()
    assert all(f'import_module("{module}")' in source for module, _ in PROBES.values() if module)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_the_real_command_answers() -> None:
    """Everything together, on this machine, whatever it has."""
    command = [sys.executable, "-m", "acd_edge", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if told["able"] else 1)
    assert done.stderr == ""
    assert {"onnxruntime", "openvino"} <= set(told["backends"])
