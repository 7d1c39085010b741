"""Two results: how much slower or faster, whether that is more than chance, and what else differs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from acd_edge.bench.results import Result
from acd_edge.bench.statistics import Comparison, compare_medians
from acd_edge.bench.stopwatch import ROWS
from acd_edge.terminal import printable

__all__ = ["Pair", "changed_controls", "compare_results", "differences", "to_dict", "too_short"]

_BUSY = 0.5  # load of a core before the measuring
_CONTROLS = ("decode", "preprocess", "draw")  # the same work whatever runs the graph, as long as the source is the same
_LONGEST = 100  # letters of a fact
_FEW = 30  # frames, below which an interval says little
_SAME = {
    ("machine", "cpu"): "the processor",
    ("machine", "usable_cores"): "the number of cores",
    ("machine", "gpu", "name"): "the GPU",
    ("machine", "jetson", "model"): "the Jetson",
    ("machine", "jetson", "l4t"): "the release of Jetson Linux",
    ("state_after", "power_mode", "name"): "the power mode",
    ("state_after", "clocks_locked"): "whether clocks are locked",
    ("subject", "graph_sha256"): "the graph",
    ("subject", "size"): "the size",
    ("subject", "precision"): "the precision",
    ("subject", "backend"): "the backend",
    ("subject", "threads"): "the number of threads",
    ("subject", "engine", "sha256"): "the engine",
    ("subject", "engine", "precision"): "the engine's precision",
    ("subject", "product"): "the product",
    ("source",): "the source",
}
"""What two results should share to say something about one change -> what it is called."""


@dataclass(frozen=True)
class Pair:
    """One row of two results."""

    comparison: Comparison

    @property
    def verdict(self) -> str:
        """Of b against a, in words."""
        if not self.comparison.is_decidable:
            return "too few frames"
        if not self.comparison.differs:
            return "no difference"
        change = 100 * (self.comparison.ratio.value - 1)
        return f"B is {abs(change):.1f} % {'slower' if change > 0 else 'faster'}"


def compare_results(a: Result, b: Result) -> dict[str, Pair]:
    """Row -> its comparison, for the rows that both have; `other` is nothing that one would change."""
    rows = [name for name in ROWS if name != "other" and name in a.samples and name in b.samples]
    return {
        name: Pair(compare_medians(a.samples[name], b.samples[name]))
        for name in rows
        if min(a.samples[name]) > 0 and min(b.samples[name]) > 0
    }


def differences(a: Result, b: Result) -> list[str]:
    """What else differs, and what makes a result weak, in words; empty where nothing speaks against comparing."""
    found = [
        f"{name} differs: {_shown(a.fact(*keys))} and {_shown(b.fact(*keys))}"
        for keys, name in _SAME.items()
        if a.fact(*keys) != b.fact(*keys)
    ]
    found += [f"the version of {name} differs: {one} and {other}" for name, one, other in _versions(a, b)]
    for letter, each in (("A", a), ("B", b)):
        if (ending := each.fact("ending")) not in (None, "complete"):
            found.append(f"{letter} is not complete: {_shown(ending)}")
        if throttled := each.fact("throttled"):
            told = throttled if isinstance(throttled, list) else [throttled]
            found.append(f"{letter} was throttled: {', '.join(map(_plain, told))}")
        load, cores = each.fact("machine", "load_before"), each.fact("machine", "usable_cores")
        if isinstance(load, (int, float)) and isinstance(cores, int) and load > _BUSY * cores:
            found.append(f"{letter} was measured beside other programs (load {load:g} on {cores} cores)")
        if (count := len(each.samples["end_to_end"])) < _FEW:
            found.append(f"{letter} has only {count} frames")
    if a.samples == b.samples:
        found.append("A and B are the same measurement")
    return found


def changed_controls(pairs: Mapping[str, Pair], a: Result, b: Result) -> list[str]:
    """Stages that do the same in both and differ all the same: then the machine changed, not only what was compared.

    That another size resizes to another side is no such case.
    """
    if a.fact("source") != b.fact("source") or a.fact("subject", "size") != b.fact("subject", "size"):
        return []
    moved = [name for name in _CONTROLS if name in pairs and pairs[name].comparison.differs]
    if not moved:
        return []
    return [
        f"{' and '.join(moved)} should cost the same in both and {'differ' if len(moved) > 1 else 'differs'}: the "
        "machine itself changed in between; measure both again, in turn, with nothing else running"
    ]


def too_short(pairs: Mapping[str, Pair], a: Result, b: Result) -> list[str]:
    """Whether there are so few frames, for as long as they remember each other, that no p could be significant."""
    whole = pairs["end_to_end"].comparison
    if whole.is_decidable:
        return []
    block = whole.block
    counts = [len(each.samples["end_to_end"]) // block for each in (a, b)]
    return [
        f"A has {counts[0]} and B {counts[1]} independent blocks (of {block}): too few for any difference to show; "
        "measure more frames"
    ]


def _versions(a: Result, b: Result) -> list[tuple[str, str, str]]:
    mine, theirs = a.fact("versions") or {}, b.fact("versions") or {}
    if not isinstance(mine, Mapping) or not isinstance(theirs, Mapping):
        return []
    names = sorted({*mine, *theirs})
    return [(_plain(name), _shown(mine.get(name)), _shown(theirs.get(name)))
            for name in names if mine.get(name) != theirs.get(name)]  # fmt: skip


def _shown(value: object) -> str:
    if value is None:
        return "none"
    text = _plain(value)
    if re.fullmatch("[0-9a-f]{64}", text):
        return f"{text[:12]}..."  # a digest
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3].rstrip()}..."


def _plain(value: object) -> str:
    """On one line, and without what would steer a terminal: a result may come from elsewhere."""
    return printable(" ".join(str(value).split()))


def to_dict(pairs: Mapping[str, Pair], warnings: list[str], a: Result, b: Result) -> dict[str, Any]:
    """For `--json`."""
    rows = {name: {**pair.comparison.to_dict(), "verdict": pair.verdict} for name, pair in pairs.items()}
    return {"a": str(a.path), "b": str(b.path), "rows": rows, "warnings": warnings}
