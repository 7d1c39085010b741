"""What the runtime's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake_gpu import DESKTOP, JETSON, FakeCuda
from tests.made_machine import Machine
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A fresh tiny bundle with two products and no text encoder."""
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def talking_bundle(tmp_path: Path) -> Path:
    """A fresh tiny bundle with a text encoder."""
    return write_tiny_bundle(tmp_path / "talking", text_encoder=True)


@pytest.fixture
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACD_EDGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def machine(_cache: None, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A made PC with an NVIDIA GPU, TensorRT and an empty engine cache."""
    return Machine(monkeypatch, FakeCuda(DESKTOP))


@pytest.fixture
def jetson(_cache: None, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A made Jetson, whose GPU shares the CPU's memory."""
    return Machine(monkeypatch, FakeCuda(JETSON))
