"""A made device with TensorRT and an engine cache, whose engines compute what the tiny bundle's graphs compute."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from acd_edge.runtime.backends import choice, trt
from acd_edge.runtime.bundle import Bundle
from acd_edge.runtime.engines import Engine, EngineKey, EngineRecord, Stamp, gpu_name, write_engine, write_stamp
from tests.fake_gpu import DataType, FakeCuda, FakeTensorRT, IoTensor, Plan
from tests.tiny_bundle import DIM, GROUPS, LENGTH, SIZE, WORDS

PLAN, TEXT_PLAN, PROMPTS = b"plan of the model", b"plan of the text encoder", 16


def model_plan() -> Plan:
    """What the tiny graph computes."""

    def compute(given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        features = given["text_features"]
        odds = (features[:, :, 1] - features[:, :, 0]).sum(axis=(1, 2))
        return {
            "anomaly_map": given["image"].mean(axis=3, dtype=np.float32) / np.float32(255),
            "class_score": (1 / (1 + np.exp(-odds))).astype(np.float32),
            "fusion_weights": np.full((1, GROUPS, 2, GROUPS), 1 / GROUPS, np.float32),
        }

    return Plan(
        {
            "image": IoTensor(DataType.UINT8, (1, SIZE, SIZE, 3), is_input=True),
            "text_features": IoTensor(DataType.FLOAT, (1, GROUPS, 2, DIM), is_input=True),
            "anomaly_map": IoTensor(DataType.FLOAT, (1, SIZE, SIZE)),
            "class_score": IoTensor(DataType.FLOAT, (1,)),
            "fusion_weights": IoTensor(DataType.FLOAT, (1, GROUPS, 2, GROUPS)),
        },
        compute,
    )


def text_plan() -> Plan:
    """What the tiny text encoder computes; the number of sentences is free."""
    table = np.random.default_rng(5).normal(size=(len(WORDS), GROUPS * DIM)).astype(np.float32)

    def compute(given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        kept = table[given["input_ids"]] * given["attention_mask"][..., None].astype(np.float32)
        levels = kept.sum(axis=1).reshape(-1, GROUPS, DIM)
        return {"prompt_features": levels / np.maximum(np.linalg.norm(levels, axis=2, keepdims=True), 1e-9)}

    ids = IoTensor(DataType.INT64, (-1, LENGTH), is_input=True, profile=((1, LENGTH), (8, LENGTH), (PROMPTS, LENGTH)))
    return Plan(
        {
            "input_ids": ids,
            "attention_mask": ids,
            "prompt_features": IoTensor(DataType.FLOAT, (-1, GROUPS, DIM)),
        },
        compute,
        lambda shapes: {"prompt_features": (shapes["input_ids"][0], GROUPS, DIM)},
    )


class Machine:
    """A made device with its engine cache; `open_cuda` and `tensorrt` are its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.trt = FakeTensorRT(cuda, {PLAN: model_plan(), TEXT_PLAN: text_plan()})
        monkeypatch.setattr(trt, "open_cuda", lambda which="auto": cuda)
        monkeypatch.setattr(trt, "load_tensorrt", lambda: self.trt)
        monkeypatch.setattr(trt, "_told", set())
        monkeypatch.setattr(choice, "_told", set())

    @property
    def calls(self) -> list[str]:
        return self.cuda.calls

    def engine(self, bundle: Path, *, plan: bytes = PLAN, passed: bool | None = True, **key: Any) -> Engine:
        """Put an engine of a bundle into the cache."""
        with Bundle.open(bundle) as opened:
            graph = opened.model_file if plan == PLAN else opened.text_encoder_file
            assert graph is not None
        own = EngineKey(
            **{
                "graph": graph.digest,
                "tensorrt": self.trt.__version__,
                "gpu": gpu_name(self.cuda.facts),
                "driver": self.cuda.facts.driver,
                **key,
            }
        )
        sha256 = hashlib.sha256(plan).hexdigest()
        record = EngineRecord(
            key=own, plan_sha256=sha256, plan_bytes=len(plan), precision="fp16", layers=3, fused_attentions=0,
            build_seconds=1.0, inputs={}, outputs={},
        )  # fmt: skip
        engine = write_engine(own, plan, record)
        return engine if passed is None else write_stamp(engine, Stamp(passed=passed, plan_sha256=sha256))

    def released(self) -> bool:
        """Nothing is left on the device."""
        gc.collect()
        return not (self.cuda.memory or self.cuda.queues or self.cuda.graphs or self.cuda.capturing)
