"""The flags that say what runs a graph, in every command that has them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from acd_edge.cli import cli
from acd_edge.cli.backend import BACKEND_NAMES, BackendFlags, load_detector
from acd_edge.errors import EngineError
from acd_edge.export import engine as export_engine
from acd_edge.runtime.backends import BACKENDS, BackendOptions
from acd_edge.runtime.bundle import Bundle
from tests.fake_gpu import FakeCuda
from tests.made_machine import PLAN, TEXT_PLAN, Machine
from tests.tiny_bundle import SIZE, write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny", text_encoder=True)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "parts" / "part.png"
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(path)
    return path


class Built:
    """Stands for `ensure_engine`: puts engines into the cache and remembers what it was asked."""

    def __init__(self, machine: Machine, bundle: Path) -> None:
        self.machine, self.bundle = machine, bundle
        self.asked: list[Path] = []
        self.parts: list[str] = []

    def __call__(self, opened: Bundle, *, parts: list[str], trt: Any, cuda: FakeCuda, progress: Any) -> None:
        self.asked.append(opened.path)
        self.parts = parts
        assert (trt, cuda) == (self.machine.trt, self.machine.cuda)
        progress("model: build the engine; this takes minutes")
        for plan in (PLAN, TEXT_PLAN):
            self.machine.engine(self.bundle, plan=plan)


@pytest.fixture
def built(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    machine = Machine(monkeypatch, FakeCuda())
    monkeypatch.setattr("acd_edge.runtime.cuda.open_cuda", lambda which="auto": machine.cuda)
    monkeypatch.setattr("acd_edge.runtime.trt_module.load_tensorrt", lambda: machine.trt)
    found = Built(machine, bundle)
    monkeypatch.setattr(export_engine, "ensure_engine", found)
    return found


def acd_edge(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_names_are_those_of_the_runtime() -> None:
    assert ("auto", *BACKENDS) == BACKEND_NAMES
    assert BackendFlags().options == BackendOptions()
    assert BackendFlags(backend="tensorrt", openvino_precision="bf16").given == [
        "--backend tensorrt", "--openvino-precision bf16",
    ]  # fmt: skip


@pytest.mark.parametrize("command", [["run"], ["eval"], ["calibrate"], ["prompts", "add"]], ids=" ".join)
def test_every_command_has_them_and_helps_at_once(command: list[str]) -> None:
    code = (
        f"import sys; from acd_edge.cli import cli; cli([*{command!r}, '--help'], standalone_mode=False); "
        "print([name for name in ('numpy', 'PIL', 'tensorrt', 'cuda') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for flag in ("--backend", "--device", "--threads", "--openvino-precision", "--cuda"):
        assert flag in done.stdout
    assert done.stderr.strip() == "[]"


def test_run_builds_what_is_missing_and_runs_it(bundle: Path, picture: Path, built: Built) -> None:
    words = ("run", picture, "--bundle", bundle, "--json", "--product", "brick road", "--backend")
    done = acd_edge(*words, "tensorrt")
    assert done.exit_code == 0, done.stderr
    assert built.asked == [bundle]
    assert "build the engine" in done.stderr
    ours = json.loads(done.stdout)
    theirs = json.loads(
        acd_edge(
            "run", picture, "--bundle", bundle, "--backend", "onnxruntime", "--json", "--product", "brick road"
        ).stdout
    )
    assert set(ours) == set(theirs)
    assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    assert built.machine.calls.count("deserialize") == 2
    assert built.machine.released()


def test_tells_first_that_tensorrt_is_missing(bundle: Path, picture: Path) -> None:
    done = acd_edge("run", picture, "--bundle", bundle, "--backend", "tensorrt")
    if "driver" in done.stderr or done.exit_code == 0:
        pytest.skip("TensorRT is installed")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "TensorRT is not installed" in done.stderr


def test_auto_never_builds(bundle: Path, picture: Path, built: Built) -> None:
    assert acd_edge("run", picture, "--bundle", bundle).exit_code == 0
    assert built.asked == []
    assert "deserialize" not in built.machine.calls


def test_a_failed_verification_ends_the_run(
    bundle: Path, picture: Path, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(opened: Bundle, **_: Any) -> None:
        raise EngineError("the model's engine failed its verification; see: acd-edge verify")

    monkeypatch.setattr(export_engine, "ensure_engine", fails)
    done = acd_edge("run", picture, "--bundle", bundle, "--backend", "tensorrt")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "failed its verification" in done.stderr


def test_calibrate_and_prompts_run_on_the_engine_too(bundle: Path, picture: Path, built: Built) -> None:
    picture.with_name("other.png").write_bytes(picture.read_bytes())
    done = acd_edge("calibrate", bundle, "--good", picture.parent, "--backend", "tensorrt")
    assert done.exit_code == 0, done.stderr
    assert built.asked == [bundle]
    before = built.machine.calls.count("deserialize")
    assert built.parts == ["model"]  # the product is the bundle's
    done = acd_edge("prompts", "add", bundle, "road=brick road", "--backend", "tensorrt")
    assert done.exit_code == 0, done.stderr
    assert built.parts == ["text encoder"]
    assert built.machine.calls.count("deserialize") == before + 1
    by_engine = Bundle.open(bundle).text_features["road"]
    acd_edge("prompts", "add", bundle, "road=brick road", "--force", "--backend", "onnxruntime")
    np.testing.assert_allclose(by_engine, Bundle.open(bundle).text_features["road"], atol=1e-6)
    assert built.machine.released()


def test_the_text_encoder_is_built_for_what_the_bundle_does_not_carry(
    bundle: Path, built: Built, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    how = BackendFlags(backend="tensorrt")
    for product, words, parts in (
        ("metal_nut", ["object", "metal nut"], ["model"]),
        ("metal_nut=brick road", [], ["model", "text encoder"]),
        ("object", ["metal nut", "brick road"], ["model", "text encoder"]),  # what eval asks for later
    ):
        load_detector(bundle, product=product, how=how, words=words).close()
        assert built.parts == parts
    for name in ("test/good", "test/dent", "ground_truth/dent"):
        (tmp_path / "set" / "road" / name).mkdir(parents=True)
        picture = Image.fromarray(np.full((SIZE, SIZE), 255, np.uint8))
        picture.save(tmp_path / "set" / "road" / name / ("0_mask.png" if "truth" in name else "0.png"))
    data = ("--data", tmp_path / "set", "--bundle-domain", "--backend", "tensorrt")
    for called, parts in ("metal nut", ["model"]), ("brick road", ["model", "text encoder"]):
        done = acd_edge("eval", bundle, *data, "--product", f"road={called}")
        assert (done.exit_code, built.parts) == (0, parts), done.stderr


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--backend", "tensorrt", "--device", "cpu"], 2, "so it takes no device cpu"),
        (["--backend", "tensorrt", "--threads", "2"], 2, "so it takes no threads 2"),
        (["--backend", "onnxruntime", "--cuda", "pycuda"], 2, "so it takes no cuda pycuda"),
        (["--backend", "onnxruntime", "--openvino-precision", "bf16"], 2, "so it takes no openvino-precision bf16"),
        (["--backend", "openvino", "--cuda", "cuda-python"], 2, "so it takes no cuda cuda-python"),
        (["--backend", "onnxruntime", "--device", "gpu"], 1, "device gpu was asked for"),
        (["--backend", "magic"], 2, "'magic' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nonsense_is_refused(
    bundle: Path, picture: Path, built: Built, words: list[str], status: int, message: str
) -> None:
    done = acd_edge("run", picture, "--bundle", bundle, *words)
    assert done.exit_code == status, done.stderr
    assert message in done.stderr
    assert done.stdout == ""
    assert built.asked == []


def test_prompts_from_a_checkpoint_take_no_backend(bundle: Path, tmp_path: Path) -> None:
    done = acd_edge("prompts", "add", bundle, "nut", "--from", tmp_path, "--device", "gpu")
    assert done.exit_code == 2
    assert "--device gpu is for the bundle's own text encoder" in done.stderr
