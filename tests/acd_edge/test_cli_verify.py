"""verify, as typed: what it prints, what it refuses, and that a device without torch and onnx can do it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from acd_edge.cli import cli
from acd_edge.errors import OutputError, SourceError, UsageError
from acd_edge.export import judge
from acd_edge.export.engine import MODEL, compile_bundle
from acd_edge.runtime.bundle import Bundle, write_bundle
from acd_edge.runtime.engines import BuildOptions, newest_engine
from acd_edge.shown import find_pictures
from tests.fake_builder import FakeBuilderRT
from tests.fake_gpu import FakeCuda
from tests.picture_trees import fill_12_bits, write_category
from tests.test_imports import TRAINING
from tests.tiny_bundle import SIZE, tiny_features, tiny_golden, tiny_graph, tiny_manifest, write_tiny_bundle

BLOCK = f"import sys; sys.modules.update(dict.fromkeys({TRAINING}))\n"


def call(*arguments: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["verify", *(str(each) for each in arguments)])
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def departing(tmp_path: Path) -> Path:
    """A bundle whose golden samples say something else than its graph."""
    golden = tiny_golden()
    wrong = type(golden)(**{**golden.arrays(), "anomaly_map": golden.anomaly_map * np.float32(0.7)})
    files: dict[str, Path | bytes] = {"model.onnx": tiny_graph().SerializeToString()}
    write_bundle(tmp_path / "wrong", tiny_manifest(), files=files, text_features=tiny_features(), golden=wrong)
    return tmp_path / "wrong"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three plain pictures, one of them broken."""
    path = tmp_path / "shots"
    path.mkdir()
    for stem in ("a", "b"):
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(path / f"{stem}.png")
    (path / "c.png").write_bytes(b"no picture")
    return path


@pytest.fixture
def other_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO is asked, so that ONNX Runtime is another library than the one that is verified."""
    pytest.importorskip("openvino", reason="the second library that runs a graph on a CPU")


def test_a_table_and_exit_0(tiny: Path) -> None:
    result = call(tiny)
    assert "the graph against the 2 golden samples" in result.stdout
    assert result.stdout.rstrip().endswith("passed")
    assert "golden samples" in result.stderr


def test_exit_1_and_one_line_that_says_which_and_what_to_do(departing: Path) -> None:
    result = call(departing, exit_code=1)
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error:"))
    assert "anomaly_map departs: difference 0.29" in line
    assert "at most 0.001 is allowed for fp32" in line
    assert line.endswith("find the block: add --bisect")
    assert result.stdout.rstrip().endswith("FAILED")
    call(
        departing,
        "--tolerance",
        "map=1",
        "--tolerance",
        "score=1",
        "--tolerance",
        "cosine=0.9",
        "--tolerance",
        "edge=99",
    )


def test_json(departing: Path, tiny: Path) -> None:
    values = json.loads(call(tiny, "--json").stdout)
    assert (values["passed"], values["precision"], values["engines"]) == (True, "fp32", [])
    values = json.loads(call(departing, "--json", exit_code=1).stdout)
    assert not values["passed"]
    assert {each["output"] for each in values["comparisons"][0]["checks"] if not each["passed"]} >= {"anomaly_map"}


def test_plain_pictures(tiny: Path, folder: Path, other_reference: None) -> None:
    result = call(tiny, "--backend", "openvino", "--data", folder, exit_code=1)
    assert "plain pictures without labels, 3" in result.stderr
    assert "on 2 of your pictures" in result.stdout
    assert "not compared" in result.stdout
    assert result.stdout.rstrip().endswith("passed")
    assert result.stderr.count("Error:") == 1
    assert "c.png" in result.stderr.rpartition("Error:")[2]
    assert "AUROC" not in result.stdout
    (folder / "c.png").unlink()
    call(tiny, "--backend", "openvino", "--data", folder, "--product", "metal_nut")
    call(tiny, "--backend", "openvino", "--data", folder / "a.png")


def test_a_labelled_set(tiny: Path, tmp_path: Path, other_reference: None) -> None:
    write_category(tmp_path / "set" / "metal_nut")
    result = call(tiny, "--backend", "openvino", "--data", tmp_path / "set", "--json")
    values: dict[str, Any] = json.loads(result.stdout)
    (found,) = (each for each in values["comparisons"] if each["against"] == "pictures")
    assert found["drift"]["pictures"] == 3
    change = found["drift"]["pixel_auroc"]["metal_nut"]
    assert change["before"] == change["after"] > 0.99
    assert change["step"] < 1e-4
    assert "a data set, 3 labelled pictures" in result.stderr
    unknown = call(tiny, "--backend", "openvino", "--data", tmp_path / "set", "--product", "metal_nut=odd", exit_code=1)
    assert "no product 'odd'" in unknown.stderr
    assert "golden samples" not in unknown.stderr  # told before the work
    call(tiny, "--backend", "openvino", "--data", tmp_path / "set", "--product", "object", "--limit", "2")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--product", "x"], 2, "give --data PATH too"),
        (["--clip-weights", "x"], 2, "give --checkpoint"),
        (["--tolerance", "speed=1"], 2, "NAME=VALUE"),
        (["--data", "gone"], 1, "does not exist"),
        (["--checkpoint", "gone"], 1, "no checkpoint at gone"),
        (["--data", "."], 1, "holds no picture"),
        (["--backend", "tensorrt", "--threads", "2"], 2, "takes no threads"),
    ],
)
def test_refusals(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], exit_code: int, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    result = call(tiny, *arguments, exit_code=exit_code)
    assert words in result.stderr
    assert result.stdout == ""


def test_onnx_runtime_is_no_reference_for_itself(tiny: Path, folder: Path) -> None:
    result = call(tiny, "--backend", "onnxruntime", "--device", "cpu", "--data", folder, exit_code=2)
    assert "--checkpoint CKPT" in result.stderr


def test_the_built_in_bundle_names_its_own_checkpoint(folder: Path) -> None:
    result = call("--backend", "onnxruntime", "--device", "cpu", "--data", folder, exit_code=2)
    assert "builtin/checkpoint" in result.stderr


def test_another_size_than_the_golden_samples(tmp_path: Path) -> None:
    """A manifest of another size does not get as far as a comparison."""
    path = tmp_path / "odd"
    write_tiny_bundle(path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.update(size=2 * SIZE, grid=2 * SIZE // 14)
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert "altered" in call(path, exit_code=1).stderr


def test_a_device_without_torch_and_onnx(tiny: Path, departing: Path, folder: Path, tmp_path: Path) -> None:
    """Golden samples, text encoder and pictures need neither; the blocked imports prove it."""
    (folder / "c.png").unlink()
    code = (
        BLOCK + "from acd_edge.cli import main\n"
        "from acd_edge.runtime import backends\n"  # another name, so that a folder has a reference
        "from acd_edge.runtime.backends.ort import OrtBackend\n"
        "class Other(OrtBackend):\n"
        "    def __init__(self, *a):\n"
        "        super().__init__(*a); self.name = 'other'\n"
        "def opened(graph, *, backend='auto', options=None):\n"
        "    kind = OrtBackend if backend == 'onnxruntime' else Other\n"
        "    return kind(graph, options or backends.BackendOptions(device='cpu'))\n"
        "backends.open_backend = opened\n"
        "main()"
    )

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "verify", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    done = run(tiny, "--data", folder)
    assert (done.returncode, done.stdout.rstrip().rpartition("\n")[2]) == (0, "passed"), done.stderr
    assert "on 2 of your pictures" in done.stdout
    write_category(tmp_path / "set" / "metal_nut")
    done = run(tiny, "--data", tmp_path / "set")
    assert done.returncode == 0, done.stderr
    assert "pixel AUROC metal_nut" in done.stdout
    done = run(departing)
    assert done.returncode == 1
    assert done.stderr.count("Error:") == 1
    done = run(tiny, "--bisect")
    assert done.returncode == 1
    assert "pip install 'acd-edge[export]'" in done.stderr
    assert "golden samples" not in done.stderr  # told before the work


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBuilderRT:
    """A made TensorRT whose engines compute by ONNX Runtime, and a cache of its own."""
    trt = FakeBuilderRT(FakeCuda())
    trt.cuda.free_bytes = lambda: 8 << 30  # type: ignore[method-assign]
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("acd_edge.runtime.trt_module.load_tensorrt", lambda: trt)
    monkeypatch.setattr("acd_edge.runtime.cuda.open_cuda", lambda _: trt.cuda)
    return trt


def test_an_engine_is_marked_and_one_that_failed_can_be_verified_again(tiny: Path, tensorrt: FakeBuilderRT) -> None:
    result = call(tiny, "--backend", "tensorrt")
    assert "model: build the engine" in result.stderr
    assert "tensorrt (fp32)" in result.stdout
    with Bundle.open(tiny) as opened:
        engine = newest_engine(opened.model_file.digest, tensorrt.__version__, tensorrt.cuda.facts)
    assert engine is not None
    assert f"{engine.folder}: marked as verified" in result.stdout
    assert engine.state == "verified"
    tensorrt.drift = 0.25
    result = call(tiny, "--backend", "tensorrt", "--json", exit_code=1)
    assert json.loads(result.stdout)["engines"] == [str(engine.folder)]
    assert json.loads((engine.folder / "verify.json").read_text())["passed"] is False
    tensorrt.drift = 0.0
    result = call(tiny, "--backend", "tensorrt", "--tolerance", "map=0.5")
    assert "marked as verified" in result.stdout
    assert json.loads((engine.folder / "verify.json").read_text())["tolerance"]["map"] == 0.5


def test_only_the_engine_that_is_missing_is_built(tmp_path: Path, tensorrt: FakeBuilderRT) -> None:
    """Compiled with options of its own and without the text encoder: the model's engine is the one that stays."""
    path = write_tiny_bundle(tmp_path / "talking", text_encoder=True)
    with Bundle.open(path) as opened:
        options = BuildOptions(workspace_mib=512)
        (model,) = compile_bundle(opened, options, parts=[MODEL], cuda=tensorrt.cuda, trt=tensorrt)
    values = json.loads(
        call(path, "--backend", "tensorrt", "--json", exit_code=1).stdout
    )  # its text features are made up
    assert values["engines"][0] == str(model.folder)
    assert (len(values["engines"]), tensorrt.built) == (2, 2)


def test_a_result_that_cannot_be_kept_is_told_all_the_same(
    tiny: Path, tensorrt: FakeBuilderRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a service that may read the cache of another user, and not write it."""
    with Bundle.open(tiny) as opened:
        compile_bundle(opened, cuda=tensorrt.cuda, trt=tensorrt, verify=False)

    def read_only(*_: object) -> None:
        raise OutputError("/var/cache cannot be written: Read-only file system; nothing was changed")

    monkeypatch.setattr("acd_edge.runtime.engines.write_private", read_only)
    result = call(tiny, "--backend", "tensorrt", "--json", exit_code=1)
    told = json.loads(result.stdout)
    assert (told["passed"], told["engines"]) == (True, [])
    assert "the result is not kept beside the engine: /var/cache cannot be written" in result.stderr


def test_an_engine_is_bisected_by_engines_like_it(tiny: Path, tensorrt: FakeBuilderRT) -> None:
    with Bundle.open(tiny) as opened:
        compile_bundle(opened, cuda=tensorrt.cuda, trt=tensorrt)
    built = tensorrt.built
    tensorrt.drift = 0.25
    result = call(tiny, "--backend", "tensorrt", "--bisect", exit_code=1)
    assert "the first block that departs is outputs" in result.stdout  # the tiny graph has no blocks
    assert "the first block that departs is outputs" in result.stderr
    assert tensorrt.built == built + 1


@pytest.mark.parametrize("stop", [UsageError("without a checkpoint\nthere is nothing"), KeyboardInterrupt()])
def test_a_bisection_that_is_broken_off_leaves_the_verification(
    tiny: Path, departing: Path, stop: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bisect_bundle(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr("acd_edge.export.bisect.bisect_bundle", bisect_bundle)
    ending = 1 if isinstance(stop, UsageError) else 128 + signal.SIGINT
    assert "FAILED" in call(departing, "--bisect", exit_code=ending).stdout
    result = call(tiny, "--bisect", "--json", exit_code=ending)
    values = json.loads(result.stdout)
    assert (values["passed"], values["bisect"]) == (True, {"error": str(stop) or "interrupted"})
    if isinstance(stop, UsageError):
        result = call(departing, "--bisect", exit_code=1)
        reason, failure = (line for line in result.stderr.splitlines() if line.startswith("Error:"))
        assert reason == "Error: no block is named: without a checkpoint there is nothing"
        assert failure.endswith("the bisection was broken off")


def test_bisect_says_before_the_work_that_onnx_runtime_is_not_there(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = call(tiny, "--bisect", exit_code=1)
    assert "pip install onnxruntime, or give --checkpoint CKPT" in result.stderr
    assert (result.stdout, "golden samples" in result.stderr) == ("", False)


def test_ctrl_c_says_how_far_it_was_and_judges_nothing(
    tiny: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, other_reference: None
) -> None:
    def stop(*_: object) -> judge.Read:
        raise KeyboardInterrupt

    monkeypatch.setattr("acd_edge.shown._read_plain", stop)
    result = call(tiny, "--backend", "openvino", "--data", folder, exit_code=128 + signal.SIGINT)
    assert "nothing was judged" in result.stderr
    assert result.stdout == ""


def test_pictures_are_spread_evenly(tmp_path: Path) -> None:
    write_category(tmp_path / "metal_nut")
    found = find_pictures(tmp_path / "metal_nut", size=SIZE, resize_rule="pillow-bicubic")
    assert [shown.label for shown in found.pictures] == [1, 0, 1]
    assert [shown.label for shown in found.limited(2).pictures] == [1, 0]
    assert len(found.limited(5).pictures) == 3
    with pytest.raises(SourceError):
        find_pictures(tmp_path / "gone", size=SIZE, resize_rule="pillow-bicubic")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tiny: Path, folder: Path) -> None:
    folder.chmod(0)
    try:
        call(tiny, "--data", folder, exit_code=1)
    finally:
        folder.chmod(0o700)


def test_the_bundle_is_left_alone(tiny: Path) -> None:
    before = {path.name: path.read_bytes() for path in tiny.iterdir()}
    call(tiny)
    assert {path.name: path.read_bytes() for path in tiny.iterdir()} == before
    Bundle.open(tiny).close()


def test_the_bit_depth_reaches_plain_and_labelled_pictures(tmp_path: Path, tiny: Path) -> None:
    write_category(tmp_path / "set" / "metal_nut")
    good = tmp_path / "set/metal_nut/test/good"
    for place in (tmp_path / "set", good):
        (shown, *_) = find_pictures(place, size=SIZE, resize_rule="pillow-bicubic").pictures
        whole = shown.read().pixels
        fill_12_bits(place)
        (told, *_) = find_pictures(place, size=SIZE, resize_rule="pillow-bicubic", bit_depth=12).pictures
        np.testing.assert_array_equal(told.read().pixels, whole)
        assert shown.read().pixels.max() < 16  # the control
        write_category(tmp_path / "set" / "metal_nut")
    refused = call(tiny, "--bit-depth", 12, exit_code=2)
    assert "give --data PATH too" in refused.stderr
