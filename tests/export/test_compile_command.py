"""`acd-edge compile` as typed, with a TensorRT that records, and where there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from acd_edge.cli import cli
from acd_edge.cli.compile import compile_exported
from acd_edge.cli.export import _is_for_tensorrt
from acd_edge.errors import DeviceError, EngineError
from tests.fake_builder import FakeBuilderRT
from tests.fake_gpu import FakeCuda
from tests.tiny_bundle import tiny_manifest, write_true_bundle


class Device(FakeCuda):
    def free_bytes(self) -> int:
        return 8 << 30


@pytest.fixture
def trt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBuilderRT:
    """A machine with TensorRT."""
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    device = Device()
    module = FakeBuilderRT(device)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    for place in ("acd_edge.runtime.cuda", "acd_edge.export.engine"):
        monkeypatch.setattr(f"{place}.open_cuda", lambda *_: device)
    return module


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_true_bundle(tmp_path / "tiny")


def typed(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, ["compile", *map(str, arguments)])


def test_a_line_an_engine_on_stdout_and_the_steps_on_stderr(trt: FakeBuilderRT, bundle: Path) -> None:
    result = typed(bundle)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.partition(", /")[0] for line in lines] == [
        "model: verified, fp32, 1 layers, 0.0 MB",
        "text encoder: verified, fp32, 1 layers, 0.0 MB",
    ]
    assert "model: build the engine; this may take minutes" in result.stderr


def test_json_holds_the_record_and_the_verification(trt: FakeBuilderRT, bundle: Path) -> None:
    result = typed(bundle, "--json", "--no-text-encoder", "--workspace", 512, "--optimization-level", 1)
    (engine,) = json.loads(result.stdout)["engines"]
    assert engine["state"] == "verified"
    assert engine["key"]["options"] == {"workspace_mib": 512, "optimization_level": 1, "prompts": 64}
    assert engine["key"]["driver"] == "560.35.3"
    assert engine["verification"]["passed"] is True
    assert engine["verification"]["plan_sha256"] == engine["plan_sha256"]
    assert Path(engine["folder"]).is_dir()


def test_an_engine_that_fails_its_verification_is_exit_1(trt: FakeBuilderRT, bundle: Path) -> None:
    trt.drift = 0.5
    result = typed(bundle)
    assert result.exit_code == 1
    assert "Error: the model's engine failed its verification" in result.stderr
    assert "model: failed" in result.stdout


def test_without_verification_it_says_how_to_do_it(trt: FakeBuilderRT, bundle: Path) -> None:
    result = typed(bundle, "--no-verify")
    assert (result.exit_code, result.stdout.count("never verified")) == (0, 2)
    assert f"acd-edge verify {bundle} --backend tensorrt" in result.stderr


def test_what_was_verified_before_needs_no_such_word(trt: FakeBuilderRT, bundle: Path) -> None:
    typed(bundle)
    result = typed(bundle, "--no-verify")
    assert (result.exit_code, result.stdout.count(": verified")) == (0, 2)
    assert "not verified" not in result.stderr


def test_a_failure_of_tensorrt_is_one_line(trt: FakeBuilderRT, bundle: Path) -> None:
    trt.fail, trt.says = {"build"}, "Could not find any implementation for node {ForeignNode[a...b]}"
    result = typed(bundle)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: TensorRT ran out of memory at {ForeignNode[a...b]}")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda cache: cache.write_text("no folder"), "Not a directory; set ACD_EDGE_CACHE"),
        (lambda cache: cache.symlink_to("nothing/here"), "cannot be written"),
        (lambda cache: (cache.mkdir(), cache.chmod(0o777)), "others may write"),
    ],
    ids=["a file", "a link to nothing", "open to others"],
)
def test_a_cache_that_takes_no_engine_is_told_before_the_build(
    trt: FakeBuilderRT, bundle: Path, tmp_path: Path, spoil: Any, words: str
) -> None:
    spoil(tmp_path / "cache")
    result = typed(bundle)
    assert (result.exit_code, trt.built) == (1, 0)
    assert words in result.stderr.splitlines()[-1]


def test_without_tensorrt_it_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = typed(bundle)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: TensorRT is not installed for this Python; ")
    assert len(result.stderr.splitlines()) == 1


def test_usage(bundle: Path) -> None:
    assert typed(bundle, "--optimization-level", 6).exit_code == 2
    assert typed(bundle, "--workspace", 0).exit_code == 2


def test_export_goes_on_where_tensorrt_is(trt: FakeBuilderRT, bundle: Path) -> None:
    assert [each.state for each in compile_exported(bundle)] == ["verified", "verified"]


def test_export_ends_with_1_where_the_engine_is_wrong(trt: FakeBuilderRT, bundle: Path) -> None:
    trt.drift = 0.5
    with pytest.raises(EngineError, match="failed its verification"):
        compile_exported(bundle)


def test_export_says_what_to_do_where_it_is_not(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert compile_exported(bundle) == []
    assert f"no TensorRT to use here, so no engine; on the device that will run it: acd-edge compile {bundle}" in (
        capsys.readouterr().err
    )


def test_export_says_what_to_do_where_there_is_no_gpu(
    trt: FakeBuilderRT, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*_: str) -> None:
        raise DeviceError("there is no NVIDIA driver")

    monkeypatch.setattr("acd_edge.runtime.cuda.open_cuda", absent)
    assert compile_exported(bundle) == []
    assert "no GPU to use here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("precision", "source", "wanted"),
    [
        ("fp16", {}, True),
        ("bf16", {}, True),
        ("fp32", {}, False),
        ("int8", {"int8": {"base": "fp16"}}, True),
        ("int8", {"int8": {"base": "fp32"}}, False),
    ],
)
def test_graphs_for_a_cpu_get_no_engine_at_the_end_of_an_export(
    precision: str, source: dict[str, Any], wanted: bool
) -> None:
    assert _is_for_tensorrt(tiny_manifest(precision=precision, source=source)) is wanted
