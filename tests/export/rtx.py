"""NVIDIA's own parser and compiler, on a CPU: the wheel tensorrt-rtx builds engines without a GPU, and runs none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_LAYER = re.compile(r"^Name: (.*?), LayerType: (\S+?),(.*?)$", re.MULTILINE)
_logs: list[Any] = []  # one logger for the process: the library keeps the first and ignores the others


@dataclass(frozen=True)
class Built:
    """An engine's layers, as the compiler's verbose log lists them, and its size in bytes."""

    layers: list[str]
    size: int

    @property
    def fused_attentions(self) -> int:
        return sum("_gemm_mha_v2" in layer for layer in self.layers)


def build(path: Path) -> Built:
    """Parse as strongly typed and build; a refusal fails with the parser's or compiler's words."""
    trt = pytest.importorskip("tensorrt_rtx", reason="the compiler comes with the wheel tensorrt-rtx, x86-64 only")
    log = _logger(trt)
    log.messages.clear()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(str(path))
    errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
    assert parsed and network.num_outputs == 3, errors  # noqa: PT018
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, [text for severity, text in log.messages if severity <= 1][:3]
    text = "\n".join(text for _, text in log.messages if "LayerType" in text)
    return Built(layers=[name for name, _, _ in _LAYER.findall(text)], size=plan.nbytes)


def _logger(trt: Any) -> Any:
    if not _logs:

        class Log(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.messages: list[tuple[int, str]] = []

            def log(self, severity: Any, message: str) -> None:
                self.messages.append((int(severity), message))

        _logs.append(Log())
    return _logs[0]
