"""verify of engines: what ran is stamped, each engine by the lines about its own graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from acd_edge.errors import BundleError
from acd_edge.export.tolerance import TOLERANCES
from acd_edge.export.verify import stamp_of, verify_bundle, verify_engine
from acd_edge.runtime.backends import open_backend
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.engines import BuildOptions, Engine, EngineKey, EngineRecord, gpu_name, write_engine, write_stamp
from tests.fake_gpu import DESKTOP, DataType, FakeCuda, FakeTensorRT, IoTensor, Plan
from tests.tiny_bundle import DIM, GROUPS, SIZE, write_tiny_bundle

Outputs = dict[str, NDArray[Any]]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_tiny_bundle(tmp_path / "tiny"))


def engine_of(bundle: Bundle, part: str = "model") -> Engine:
    graph = bundle.model_file if part == "model" else bundle.text_encoder_file
    assert graph is not None
    key = EngineKey(
        graph=graph.digest, tensorrt="10.3.0", gpu=gpu_name(DESKTOP), driver=DESKTOP.driver, options=BuildOptions()
    )
    plan = part.encode()
    record = EngineRecord(
        key=key, plan_sha256=hashlib.sha256(plan).hexdigest(), plan_bytes=len(plan), precision="fp32", layers=9,
        fused_attentions=0, build_seconds=0.0, inputs={}, outputs={}, part=part,
    )  # fmt: skip
    return write_engine(key, plan, record)


def fake_tensorrt(bundle: Bundle, by: float = 0.0) -> FakeTensorRT:
    """Plans that compute what ONNX Runtime does, the map shifted."""
    backend = open_backend(bundle.model_file, backend="onnxruntime")

    def compute(feed: Mapping[str, NDArray[Any]]) -> Outputs:
        found = backend.run({name: array.copy() for name, array in feed.items()})
        return {**found, "anomaly_map": found["anomaly_map"] + np.float32(by)}

    tensors = {
        "image": IoTensor(DataType.UINT8, (1, SIZE, SIZE, 3), is_input=True),
        "text_features": IoTensor(DataType.FLOAT, (1, GROUPS, 2, DIM), is_input=True),
        "anomaly_map": IoTensor(DataType.FLOAT, (1, SIZE, SIZE)),
        "class_score": IoTensor(DataType.FLOAT, (1,)),
        "fusion_weights": IoTensor(DataType.FLOAT, (1, GROUPS, 2, GROUPS)),
    }
    return FakeTensorRT(FakeCuda(), plans={b"model": Plan(tensors, compute)})


@pytest.mark.parametrize(("by", "state"), [(0.0, "verified"), (0.3, "failed")])
def test_an_engine_is_stamped_with_what_was_found(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: float, state: str
) -> None:
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    engine, trt = engine_of(bundle), fake_tensorrt(bundle, by)
    assert engine.state == "never verified"
    report = verify_engine(bundle, engine, cuda=trt.cuda, trt=trt)
    assert report.backend == "tensorrt (fp32)"
    stamped = write_stamp(engine, stamp_of(report, engine))
    assert stamped.state == state
    assert stamped.stamp is not None
    assert stamped.stamp.tolerance["map"] == TOLERANCES["fp32"].map
    assert any(check["output"] == "anomaly_map" and check["passed"] is (by == 0) for check in stamped.stamp.checks)


def test_a_stamp_is_about_its_own_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text encoder that departs does not condemn the graph's engine, and one that was not looked at is not passed."""
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))
    with Bundle.open(write_tiny_bundle(tmp_path / "b", text_encoder=True)) as opened:
        engines = [engine_of(opened), engine_of(opened, "text encoder")]
        report = verify_bundle(opened)
        assert [stamp_of(report, engine).passed for engine in engines] == [True, False]
        only_text = verify_bundle(opened, parts=["text encoder"])
        assert not stamp_of(only_text, engines[0]).passed
        trt = fake_tensorrt(opened)
        stranger = replace(engines[0], record=replace(engines[0].record, key=replace(engines[0].record.key, graph="f")))
        with pytest.raises(BundleError, match="another graph"):
            verify_engine(opened, stranger, cuda=trt.cuda, trt=trt)
