"""What the runtime's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A fresh tiny bundle with two products and no text encoder."""
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def talking_bundle(tmp_path: Path) -> Path:
    """A fresh tiny bundle with a text encoder."""
    return write_tiny_bundle(tmp_path / "talking", text_encoder=True)
