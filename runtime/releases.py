"""TensorRT releases that are said to compute wrongly or not to build, with the pattern, the symptom and who says so.

A release that stands here with `verify first` is used: its engines must pass verification before they are trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["KNOWN_BAD", "KnownBad", "Severity", "known_bad"]

Severity = Literal["refuse", "verify first"]
_ATTENTION = frozenset({"MatMul", "Softmax"})
_ISSUES = "https://github.com/NVIDIA/TensorRT/issues"


@dataclass(frozen=True, kw_only=True)
class KnownBad:
    """One report.

    Attributes:
        first, last: releases, both included; `11.1` as a last one includes every 11.1.x.
        operators: of the graph, all of which must be in it; none is any graph.
        pattern: what in a graph it takes, in words.
        symptom: what happens.
        source: where it is said.
        severity: `refuse` builds nothing; `verify first` wants the engine verified on the device.
    """

    first: str
    last: str
    pattern: str
    symptom: str
    source: str
    severity: Severity
    operators: frozenset[str] = frozenset()

    def covers(self, version: str) -> bool:
        """Whether a release is between first and last.

        >>> KNOWN_BAD[0].covers("8.6.1"), KNOWN_BAD[0].covers("10.3.0.30")
        (True, False)
        """
        release, last = _numbers(version), _numbers(self.last)
        return _numbers(self.first) <= release and release[: len(last)] <= last

    def __str__(self) -> str:
        span = self.first if self.first == self.last else f"{self.first} to {self.last}"
        return f"TensorRT {span}, {self.pattern}: {self.symptom} ({self.source})"


KNOWN_BAD: tuple[KnownBad, ...] = (
    KnownBad(
        first="0", last="9",
        pattern="any graph", symptom="no strongly typed networks: TensorRT would choose the precisions",
        source="NVIDIA's migration guide, https://docs.nvidia.com/deeplearning/tensorrt", severity="refuse",
    ),
    KnownBad(
        first="10.0.0", last="10.0.0", operators=_ATTENTION,
        pattern="fused attention", symptom="wrong numbers, fixed in 10.0.1",
        source=f"{_ISSUES}/3777", severity="refuse",
    ),
    KnownBad(
        first="10.3", last="10.3", operators=_ATTENTION,
        pattern="vision transformers in fp16",
        symptom="reported wrong maps where 8.6 is right; the causes seen are overflow and fused attention",
        source=f"{_ISSUES}/4723", severity="verify first",
    ),
    KnownBad(
        first="10.7", last="10.11", operators=_ATTENTION,
        pattern="attention", symptom="reported wrong numbers, also in fp32; scaling the query first helps, as here",
        source=f"{_ISSUES}/4333, {_ISSUES}/4482", severity="verify first",
    ),
    KnownBad(
        first="10.8", last="10.8",
        pattern="mixed precision", symptom="reported drift in fp16 around normalisations",
        source=f"{_ISSUES}/4355", severity="verify first",
    ),
    KnownBad(
        first="10.13", last="10.16", operators=_ATTENTION,
        pattern="fused attention in fp16 and bf16 on consumer Blackwell (sm_120)", symptom="silently wrong numbers",
        source=f"{_ISSUES}/4837", severity="verify first",
    ),
    KnownBad(
        first="10.14", last="11", operators=frozenset({"Attention"}),
        pattern="ONNX's Attention operator", symptom="does not build where no dedicated kernel is there, as in fp32",
        source=f"{_ISSUES}/4705", severity="refuse",
    ),
    KnownBad(
        first="10.13", last="11.1", operators=frozenset({"GridSample"}),
        pattern="GridSample", symptom="silently wrong numbers, also in fp32",
        source=f"{_ISSUES}/4813", severity="refuse",
    ),
    KnownBad(
        first="10.11", last="11.1", operators=_ATTENTION,
        pattern="transformers with a batch above one, as the text encoder's", symptom="silently wrong numbers",
        source=f"{_ISSUES}/4853", severity="verify first",
    ),
    KnownBad(
        first="11.2", last="11.2", operators=frozenset({"ReduceMax"}),
        pattern="fusions that span a maximum", symptom="miscompiled",
        source="https://github.com/rerun-io/examples-monorepo/pull/87", severity="refuse",
    ),
    KnownBad(
        first="11.2", last="11.2", operators=frozenset({"ReduceMin"}),
        pattern="fusions that span a minimum", symptom="miscompiled",
        source="https://github.com/rerun-io/examples-monorepo/pull/87", severity="refuse",
    ),
)  # fmt: skip
"""Every report, oldest release first."""


def known_bad(tensorrt_version: str, op_types: Iterable[str] | None = None) -> list[KnownBad]:
    """The reports that concern a release.

    Args:
        tensorrt_version: such as `10.3.0`.
        op_types: operators of a graph, to leave out what needs others; None keeps every report of the release.

    >>> [str(each)[:46] for each in known_bad("10.3.0", {"MatMul", "Softmax"})]
    ['TensorRT 10.3, vision transformers in fp16: re']
    >>> known_bad("10.3.0", {"Conv"})
    []
    """
    found = [each for each in KNOWN_BAD if each.covers(tensorrt_version)]
    return found if op_types is None else [each for each in found if each.operators <= frozenset(op_types)]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", version))
