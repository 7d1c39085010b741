"""bisect names the block whose weights were disturbed, or that a library computes wrongly; else none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from acd_edge.config import ModelConfig
from acd_edge.errors import BackendError, MissingExtra, UsageError
from acd_edge.export import bisect as bisect_module
from acd_edge.export.bisect import JUMP, Bisection, bisect_bundle, relative_error
from acd_edge.export.bundle import ExportOptions, export_bundle
from acd_edge.export.probe_engine import engine_opener
from acd_edge.export.probes import block_ends, read_graph, with_probes
from acd_edge.export.references import Reference, Source
from acd_edge.export.verify import verify_bundle
from acd_edge.model.acd import AcdClip
from acd_edge.report.verification import bisection_table
from acd_edge.runtime.backends import Backend, GraphFile, open_backend
from acd_edge.runtime.bundle import Bundle, write_bundle
from acd_edge.runtime.engines import BuildOptions
from tests.fake_builder import FakeBuilderRT
from tests.fake_gpu import FakeCuda
from tests.tiny_model import TINY_SIZE, TINY_TEXT, tiny_model

ORDER = [
    *("embed", "blocks.0", "blocks.1", "blocks.2", "adapters.0", "heads.0"),
    *("blocks.3", "blocks.4", "blocks.5", "adapters.1", "heads.1"),
]
FAULTS = {  # a weight, and the block that it belongs to
    "blocks.0.mlp.fc1.weight": "blocks.0",
    "blocks.4.attn.value.weight": "blocks.4",
    "adapters.0.delta.up": "adapters.0",
    "heads.0.segment.fc2.weight": "heads.0",
    "heads.1.fc1.weight": "heads.1",
}


def tokenize(sentences: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Letters as tokens."""
    length = TINY_TEXT.context_length
    ids = np.array([[ord(letter) % 60 + 1 for letter in text.ljust(length)[:length]] for text in sentences], np.int64)
    return ids, np.ones_like(ids)


@pytest.fixture(scope="module")
def model() -> AcdClip:
    torch.manual_seed(3)
    return tiny_model(ModelConfig(size=TINY_SIZE, groups=2))


@pytest.fixture(scope="module")
def bundles(model: AcdClip, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {}
    for precision in ("fp32", "fp16"):
        paths[precision] = tmp_path_factory.mktemp("bundles") / precision
        export_bundle(model, paths[precision], tokenize, ExportOptions(name="tiny", precision=precision))  # type: ignore[arg-type]
    return paths


@pytest.fixture
def source(model: AcdClip, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that is the tiny model."""

    def says(*_: Any) -> Any:
        raise AssertionError("blocks are compared, not outputs")

    loaded = Source(
        model=model, reference=Reference(name="tiny", same_bundle=False, says=says, close=lambda: None), encode=says
    )
    monkeypatch.setattr(bisect_module, "load_source", lambda *_: loaded)
    return Path("tiny-checkpoint")


def disturbed_data(graph: Path, weight: str) -> bytes:
    """The data file with one matrix a tenth off."""
    (entry,) = (each for each in read_graph(graph).graph.initializer if each.name == weight)
    kind = np.float16 if entry.data_type == onnx.TensorProto.FLOAT16 else np.float32
    data = bytearray(Path(f"{graph}.data").read_bytes())
    place = {each.key: int(each.value) for each in entry.external_data if each.key != "location"}
    values = np.frombuffer(data, kind, place["length"] // np.dtype(kind).itemsize, place["offset"])
    noise = np.random.default_rng(0).normal(size=values.shape)
    wrong = (values + 0.3 * np.abs(values).mean() * noise).astype(kind)
    data[place["offset"] : place["offset"] + place["length"]] = wrong.tobytes()
    return bytes(data)


def disturbed(path: Path, target: Path, weight: str) -> Path:
    """The bundle with one matrix off, sealed again: its digests know nothing of it."""
    with Bundle.open(path) as opened:
        files: dict[str, Path | bytes] = {
            "model.onnx": opened.model_path,
            "model.onnx.data": disturbed_data(opened.model_path, weight),
        }
        write_bundle(target, opened.manifest, files=files, text_features=opened.text_features, golden=opened.golden)
    return target


def wrong_library(weight: str, *, unless_outputs_beyond: int = 1000) -> Callable[[GraphFile], Backend]:
    """A library that computes one layer wrongly, unless the graph has many outputs."""

    def load(graph: GraphFile) -> Backend:
        if len(read_graph(graph.path).graph.output) <= unless_outputs_beyond:
            data = disturbed_data(graph.path, weight)
            Path(f"{graph.path}.data").write_bytes(data)
        return open_backend(graph, backend="onnxruntime")

    return load


def bisected(path: Path, **kwargs: Any) -> Bisection:
    with Bundle.open(path) as opened:
        return bisect_bundle(opened, "onnxruntime", **kwargs)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nothing_departs_where_all_is_well(bundles: dict[str, Path], source: Path, precision: str) -> None:
    found = bisected(bundles[precision], checkpoint=source)
    assert found.first is None
    assert [each.block for each in found.blocks][: len(ORDER)] == ORDER
    assert "no block departs" in bisection_table(found)
    errors = [each.error for each in found.blocks if each.error is not None]
    assert max(errors) < found.limit / 3
    assert max(errors) > (0 if precision == "fp32" else 1e-4)  # fp16 weights are rounded, and that is seen


CASES = [("fp32", "adapters.0.delta.up"), *(("fp16", weight) for weight in FAULTS if not weight.startswith("adapters"))]


@pytest.mark.parametrize(("precision", "weight"), CASES)
def test_a_disturbed_block_is_named(
    bundles: dict[str, Path], source: Path, tmp_path: Path, precision: str, weight: str
) -> None:
    path = disturbed(bundles[precision], tmp_path / "wrong", weight)
    found = bisected(path, checkpoint=source)
    assert found.first == FAULTS[weight]
    assert f"the first block that departs is {FAULTS[weight]}" in bisection_table(found)
    assert not found.same_weights
    before = [each for each in found.blocks if each.block in ORDER[: ORDER.index(FAULTS[weight])]]
    assert not any(each.departs for each in before)


def test_wrong_weights_cannot_be_seen_without_the_checkpoint(bundles: dict[str, Path], tmp_path: Path) -> None:
    path = disturbed(bundles["fp16"], tmp_path / "wrong", "blocks.4.attn.value.weight")
    found = bisected(path)
    assert (found.first, found.same_weights) == (None, True)
    assert "--checkpoint" in bisection_table(found)


def test_a_library_that_computes_wrongly_is_seen_without_the_checkpoint(bundles: dict[str, Path]) -> None:
    found = bisected(bundles["fp16"], open_graph=wrong_library("blocks.3.mlp.fc2.weight"))
    assert (found.first, found.way) == ("blocks.3", "all blocks at once, in order")
    Bundle.open(bundles["fp16"]).close()  # and the bundle is as it was


@pytest.mark.parametrize("weight", ["blocks.3.mlp.fc2.weight", "embed.weight", "heads.0.segment.fc2.weight"])
def test_a_fault_that_hides_from_many_outputs_is_found_one_block_at_a_time(
    bundles: dict[str, Path], weight: str
) -> None:
    hiding = wrong_library(weight, unless_outputs_beyond=4)
    assert bisected(bundles["fp16"], open_graph=hiding).first is None
    steps: list[str] = []
    found = bisected(bundles["fp16"], open_graph=hiding, is_wrong=True, progress=steps.append)
    assert found.first == weight.partition(".segment")[0].partition(".mlp")[0].partition(".weight")[0]
    assert found.way == "one block at a time, halving"
    assert len(found.blocks) <= 6  # of 21


def test_not_a_number_departs(bundles: dict[str, Path]) -> None:
    class Broken:
        name = "broken"

        def __init__(self, graph: GraphFile) -> None:
            self._inner = open_backend(graph, backend="onnxruntime")
            self.inputs, self.close = self._inner.inputs, self._inner.close

        def run(self, feed: Any) -> Any:
            found = self._inner.run(feed)
            found["probe/blocks.2/Add_1"][0, 0, 0] = np.nan
            return found

    found = bisected(bundles["fp32"], open_graph=Broken)
    assert found.first == "blocks.2"
    (named,) = (each for each in found.blocks if each.departs)
    assert named.error is None
    assert "NaN  departs" in bisection_table(found)


def test_engines_are_built_for_it_and_not_kept(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    trt = FakeBuilderRT(FakeCuda())
    load = engine_opener(trt, trt.cuda, BuildOptions(workspace_mib=77), progress=lambda _: None)
    found = bisected(bundles["fp32"], open_graph=load)
    assert found.first is None
    assert trt.built == 1
    assert any(str(77 << 20) in each for each in trt.asked)
    assert not (tmp_path / "cache").exists()
    assert "del engine" in trt.cuda.calls
    trt.drift = 0.5
    assert bisected(bundles["fp32"], open_graph=load).first == "embed"


def test_a_probed_graph_says_the_same(bundles: dict[str, Path], tmp_path: Path) -> None:
    with Bundle.open(bundles["fp16"]) as opened:
        ends = block_ends(read_graph(opened.model_path))
        assert list(ends)[: len(ORDER)] == ORDER
        path, names = with_probes(opened.model_path, [value for values in ends.values() for value in values], tmp_path)
        onnx.checker.check_model(str(path), full_check=True)
        golden = opened.golden
        feed: dict[str, NDArray[Any]] = {"image": golden.image[:1], "text_features": golden.text_features[:1]}
        plain = open_backend(opened.model_file, backend="onnxruntime").run(feed)
        probed = open_backend(GraphFile(path=path, precision="fp16"), backend="onnxruntime").run(feed)
    for name, array in plain.items():
        np.testing.assert_allclose(probed[name], array, rtol=0, atol=1e-3)  # the probes round to float16
    assert all(probed[name].dtype == np.float32 for name in names.values())


def test_a_bf16_bundle_is_compared_with_its_own_graph_widened(bundles: dict[str, Path], tmp_path: Path) -> None:
    """ONNX Runtime's CPU computes it so, as the reference; what it cannot run is the bundle itself."""
    with Bundle.open(bundles["fp32"]) as opened:
        narrow = replace(opened.manifest, precision="bf16")
        files: dict[str, Path | bytes] = {
            name: opened.root / name for name in ("model.onnx", "model.onnx.data")
        }  # fmt: skip
        path = tmp_path / "bf16"
        write_bundle(path, narrow, files=files, text_features=opened.text_features, golden=opened.golden)
    found = bisected(path, open_graph=lambda graph: open_backend(replace(graph, precision="fp32")))
    assert found.first is None


@pytest.mark.parametrize("error", [BackendError("no such kernel"), MissingExtra("it is not installed")])
def test_without_a_reference_a_checkpoint_is_asked_for(
    bundles: dict[str, Path], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*_: object, **__: object) -> Backend:
        raise error

    monkeypatch.setattr(bisect_module, "open_backend", nowhere)  # the bundle itself would run on an engine
    with pytest.raises(UsageError, match=f"cannot be: {error}; give --checkpoint CKPT"):
        bisected(bundles["fp32"], open_graph=open_backend)


def test_relative_error_pairs_by_shape() -> None:
    a, b = np.ones((2, 3)), np.ones(4)
    assert relative_error([a, b], [b, a]) == 0
    assert relative_error([2 * b], [b]) == 1
    assert relative_error([b], [0 * b]) == 2  # nothing to divide by
    assert relative_error([b * np.inf], [b]) is None
    assert JUMP > 2  # blocks of the built-in model double the error at most


def test_verify_sees_what_bisect_names(bundles: dict[str, Path], tmp_path: Path) -> None:
    path = disturbed(bundles["fp32"], tmp_path / "wrong", "blocks.4.attn.value.weight")
    with Bundle.open(path) as wrong, Bundle.open(bundles["fp32"]) as right:
        assert verify_bundle(right, "onnxruntime").passed
        assert not verify_bundle(wrong, "onnxruntime").passed
