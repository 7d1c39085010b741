"""NVIDIA's own parser and compiler, on a CPU: the wheel tensorrt-rtx builds engines without a GPU, and runs none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from acd_edge.export.build import build_engine
from acd_edge.export.layers import Layer, LayerSummary, summary_of, type_of
from acd_edge.runtime.engines import BuildOptions
from acd_edge.runtime.trt_module import trt_log

_LOGGED = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\S+?), (?P<rest>.*)$", re.MULTILINE)
_PART = re.compile(r"(?:^|, )(Inputs|Constants|Outputs|TacticName|StreamId|Metadata): ")
_LOGGED_TYPE = re.compile(r"(?:Datatype|Format/Datatype): ([^,}\]]+)")


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


def layers_from_log(messages: Iterable[str]) -> list[Layer]:
    """Layers from the builder's verbose log, where the profiling verbosity was detailed."""
    text = "\n".join(each for each in messages if "LayerType" in each)
    return [_logged(found["name"], found["kind"], found["rest"]) for found in _LOGGED.finditer(text)]


def _logged(name: str, kind: str, rest: str) -> Layer:
    pieces = _PART.split(rest)
    parts = dict(zip(pieces[1::2], pieces[2::2], strict=False))
    types = [type_of(each) for each in _LOGGED_TYPE.findall(parts.get("Inputs", ""))]
    return Layer(name, kind, parts.get("TacticName", ""), tuple(each for each in types if each))
