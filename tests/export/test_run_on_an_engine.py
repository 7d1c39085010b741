"""`acd-edge run --backend tensorrt` from an empty cache: built, verified, run, with everything real but the library."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from acd_edge.cli import cli
from tests.fake_builder import FakeBuilderRT
from tests.fake_gpu import FakeCuda
from tests.tiny_bundle import write_tiny_bundle, write_true_bundle


class Device(FakeCuda):
    def free_bytes(self) -> int:
        return 8 << 30


@pytest.fixture
def trt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBuilderRT:
    """A machine with TensorRT and an empty cache."""
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    device = Device()
    module = FakeBuilderRT(device)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    for place in ("acd_edge.runtime.cuda", "acd_edge.export.engine", "acd_edge.runtime.backends.trt"):
        monkeypatch.setattr(f"{place}.open_cuda", lambda *_: device)
    return module


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "shot.png"
    Image.fromarray(np.random.default_rng(7).integers(0, 256, (56, 56, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_true_bundle(tmp_path / "tiny")


def run(picture: Path, bundle: Path, *more: Any) -> Result:
    return CliRunner().invoke(cli, ["run", str(picture), "--bundle", str(bundle), "--json", *map(str, more)])


def score(result: Result) -> float:
    assert result.exit_code == 0, result.stderr
    return float(json.loads(result.stdout.splitlines()[0])["score"])


def test_a_missing_engine_is_built_verified_and_used(trt: FakeBuilderRT, bundle: Path, picture: Path) -> None:
    first = run(picture, bundle, "--backend", "tensorrt")
    assert "model: build the engine; this may take minutes" in first.stderr
    assert "model: verified" in first.stderr
    again = run(picture, bundle, "--backend", "tensorrt")
    assert "build" not in again.stderr
    assert trt.built == 1  # the bundle carries the product, so the text encoder is not needed
    expected = score(run(picture, bundle, "--backend", "onnxruntime"))
    assert score(first) == score(again) == pytest.approx(expected, abs=1e-6)


def test_a_new_name_goes_through_the_text_encoder_s_engine(trt: FakeBuilderRT, bundle: Path, picture: Path) -> None:
    words = ("--product", "road damage")
    score(run(picture, bundle, "--backend", "tensorrt", "--product", "metal_nut=metal nut"))
    assert trt.built == 1  # a name with the bundle's own words is carried
    found = score(run(picture, bundle, "--backend", "tensorrt", *words))
    assert found == pytest.approx(score(run(picture, bundle, "--backend", "onnxruntime", *words)), abs=1e-6)
    assert found != pytest.approx(score(run(picture, bundle, "--backend", "tensorrt")), abs=1e-4)  # the name counts


def test_an_engine_that_failed_is_not_run(trt: FakeBuilderRT, bundle: Path, picture: Path) -> None:
    trt.drift = 0.5
    result = run(picture, bundle, "--backend", "tensorrt")
    assert result.exit_code == 1
    assert "engine failed its verification" in result.stderr.splitlines()[-1]
    assert result.stdout == ""


def test_a_product_that_cannot_be_is_told_before_minutes_of_building(
    trt: FakeBuilderRT, tmp_path: Path, picture: Path
) -> None:
    silent = write_tiny_bundle(tmp_path / "silent")
    result = run(picture, silent, "--backend", "tensorrt", "--product", "road damage")
    assert (result.exit_code, trt.built) == (1, 0)
    assert "the bundle has no product 'road damage' and no text encoder" in result.stderr
    score(run(picture, silent, "--backend", "tensorrt", "--product", "metal_nut"))


def test_a_failed_text_encoder_is_refused_where_it_is_needed(trt: FakeBuilderRT, bundle: Path, picture: Path) -> None:
    assert CliRunner().invoke(cli, ["compile", str(bundle), "--no-text-encoder"]).exit_code == 0
    trt.drift = 0.5
    known = run(picture, bundle, "--backend", "tensorrt")
    assert known.exit_code == 0, known.stderr
    assert "text encoder" not in known.stderr  # what compile left out stays out
    new = run(picture, bundle, "--backend", "tensorrt", "--product", "road damage")
    assert (new.exit_code, new.stdout) == (1, "")
    assert "text encoder's engine failed its verification" in new.stderr
    assert "the TensorRT engine failed its verification" in new.stderr.splitlines()[-1]
