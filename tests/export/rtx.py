"""NVIDIA's own parser and compiler, on a CPU: the wheel tensorrt-rtx builds engines without a GPU, and runs none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from acd_edge.export.build import build_engine
from acd_edge.export.layers import Layer, LayerSummary, layers_from_log, summary_of
from acd_edge.runtime.engines import BuildOptions
from acd_edge.runtime.trt_module import trt_log


@dataclass(frozen=True)
class Compiled:
    """An engine's layers, as the compiler's verbose log lists them, and its size in bytes."""

    layers: list[Layer]
    size: int

    @property
    def summary(self) -> LayerSummary:
        return summary_of(self.layers)

    @property
    def fused_attentions(self) -> int:
        return self.summary.fused_attentions


def build(path: Path, options: BuildOptions = BuildOptions()) -> Compiled:  # noqa: B008  # frozen
    """Build as `acd-edge compile` does, by the same function; a refusal fails with the compiler's words."""
    trt = pytest.importorskip("tensorrt_rtx", reason="the compiler comes with the wheel tensorrt-rtx, x86-64 only")
    log = trt_log(trt)
    log.verbose = True
    built = build_engine(trt, path, options, log=log)
    return Compiled(layers=layers_from_log(text for _, text in log.messages), size=built.plan.nbytes)
