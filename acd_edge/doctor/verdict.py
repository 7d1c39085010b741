"""All rules over all facts, and whether acd-edge can run here at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from acd_edge.doctor.checks import GROUPS, Check
from acd_edge.doctor.facts import Facts
from acd_edge.doctor.library_checks import (
    CPU,
    OLDEST_TENSORRT,
    cuda_checks,
    numbers_of,
    onnxruntime_checks,
    opencv_checks,
    openvino_checks,
    tensorrt_checks,
)  # fmt: skip
from acd_edge.doctor.machine_checks import camera_checks, jetson_checks, machine_checks, python_checks

__all__ = ["Verdict", "examine", "usable_backends"]

GIB = 1 << 30
LITTLE_DISK = 2 * GIB  # an engine of ViT-L is 0.6 GiB, and a new one is written whole before the old one goes

_NEED_NUMPY = ("opencv-broken", "onnxruntime-broken", "openvino-broken", "tensorrt-broken", "no-backend")
"""Findings whose fix mends nothing as long as numpy does not work."""


@dataclass(frozen=True)
class Verdict:
    """What the doctor says.

    Attributes:
        checks: in the order of the table.
        backends: names of those that can run a graph here, as `--backend` takes them.
        opencv: whether pictures can be read and resized.
    """

    checks: tuple[Check, ...]
    backends: tuple[str, ...]
    opencv: bool

    @property
    def able(self) -> bool:
        """Whether acd-edge can run here at all."""
        return bool(self.backends) and self.opencv


def examine(facts: Facts) -> Verdict:
    """Apply every rule."""
    backends = usable_backends(facts)
    found = [check for rule in _RULES for check in rule(facts)]
    if not backends:
        found.append(_no_backend(facts, found))
    order = list(GROUPS)
    found.sort(key=lambda check: order.index(check.group))  # stable
    if any(check.code == "numpy-broken" for check in found):
        found = [replace(check, fix="") if check.code in _NEED_NUMPY else check for check in found]
    pip = facts.machine.python.pip
    found = [replace(check, fix=re.sub(r"\bpip (?=(?:un)?install)", f"{pip} ", check.fix)) for check in found]
    return Verdict(tuple(found), backends, facts.report("opencv").works)


def usable_backends(facts: Facts) -> tuple[str, ...]:
    """What was seen to work; TensorRT and the GPU were opened, no engine was run."""
    found = []
    tensorrt, ort = facts.report("tensorrt"), facts.report("onnxruntime")
    new_enough = numbers_of(tensorrt.version) >= OLDEST_TENSORRT
    if tensorrt.works and tensorrt.values.get("builder") and new_enough and facts.report("cuda").works:
        found.append("tensorrt")
    if ort.values.get("providers", {}).get(CPU, {}).get("usable"):
        found.append("onnxruntime")
    if facts.report("openvino").works and facts.report("openvino").values.get("devices"):
        found.append("openvino")
    return tuple(found)


def _no_backend(facts: Facts, found: list[Check]) -> Check:
    """The one line: on a Jetson what brings TensorRT about, else ONNX Runtime."""
    ways = [check.fix for check in found if check.group == "backends" and check.fix and check.mark != "note"]
    fix = ways[0] if facts.jetson and ways else "pip install 'acd-edge[cpu]'"
    return Check("backends", "none", "missing", "nothing here can run a graph", fix, "no-backend")


def engine_checks(facts: Facts) -> Iterator[Check]:
    """The engine cache: its disk, and what lies in it."""
    report = facts.report("engines")
    if not report.works:
        if report.state != "absent":
            yield Check("engines", "cache", "note", f"cannot be looked at: {report.error}")
        return
    if problem := report.values.get("problem"):
        told, _, command = problem.partition("; run: ")
        fix = command or "export ACD_EDGE_CACHE=/a/folder/of/yours"
        yield Check("engines", "cache", "bad" if facts.compiles else "note", told, fix, "cache-unusable")
        return
    free = report.values["free_bytes"]
    text = f"{report.values['cache']}, {free / GIB:.1f} GiB free"
    if free < LITTLE_DISK and facts.compiles:
        fix = "export ACD_EDGE_CACHE=/a/larger/disk/acd-edge"
        yield Check("engines", "cache", "note", text, fix, "little-disk")
    else:
        yield Check("engines", "cache", "ok", text)
    if not facts.engines and "tensorrt" in usable_backends(facts):
        yield Check("engines", "engines", "note", "none yet", "acd-edge compile BUNDLE", "no-engine")
    for engine in facts.engines:
        yield _engine(facts, engine)


def _engine(facts: Facts, engine: Mapping[str, Any]) -> Check:
    name, size = engine["part"], f"{engine['bytes'] / 1e6:.0f} MB"
    of = f"{engine['bundle'] or engine['graph'][:8]}, {engine['precision']}"
    text = f"{of}, TensorRT {engine['tensorrt']}, {size}, {engine['made_at'][:10]}"
    here = {"tensorrt": facts.report("tensorrt").version, "driver": facts.report("cuda").values.get("driver", "")}
    changed = [f"{key} is {value}, was {engine[key]}" for key, value in here.items() if value and value != engine[key]]
    if changed:
        text += f"; of no use now: {', '.join(changed)}"
        return Check("engines", name, "note", text, "acd-edge compile BUNDLE", "stale-engine")
    if engine["state"] == "failed":
        fix = "acd-edge verify BUNDLE --backend tensorrt --bisect"
        return Check("engines", name, "bad", f"{text}: failed", fix, "failed-engine")
    if engine["state"] == "never verified":
        fix = "acd-edge verify BUNDLE --backend tensorrt"
        return Check("engines", name, "note", f"{text}: never verified", fix, "unverified-engine")
    return Check("engines", name, "ok", f"{text}: verified")


_RULES: tuple[Callable[[Facts], Iterator[Check]], ...] = (
    machine_checks, jetson_checks, python_checks, opencv_checks, camera_checks, tensorrt_checks, cuda_checks,
    onnxruntime_checks, openvino_checks, engine_checks,
)  # fmt: skip
