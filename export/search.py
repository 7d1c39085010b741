"""Which precisions are worth a try, in which order layers leave INT8, and which trial is kept.

What a trial costs in accuracy and brings in speed is measured by whoever calls: this module knows no data and no clock
but the one that it is given.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from acd_edge.export.graph import FoldedAcdClip
from acd_edge.export.int8 import quantised
from acd_edge.export.precision import Precision

__all__ = [
    "Candidate",
    "Trial",
    "best_trial",
    "candidates",
    "interleaved_ratio",
    "most_sensitive_first",
    "rows",
    "table",
]

SHARES = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the groups that are left out of INT8, the most sensitive ones
ROUNDS = 7  # of a comparison of two speeds, after one that warms up

Pixels = npt.NDArray[np.uint8]
Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A precision to try; INT8 without the groups of `leave_out`."""

    name: str
    precision: Precision
    leave_out: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a candidate.

    Attributes:
        name: of the candidate.
        bytes: of the graph with its data.
        auroc: pixel AUROC, the mean over the categories.
        drop: how many points it lies below fp32's; below zero where it lies above.
        speed: so many times as fast as fp32.
        refused: why it could not be measured, in place of all these.
    """

    name: str
    bytes: int | None = None
    auroc: float | None = None
    drop: float | None = None
    speed: float | None = None
    refused: str = ""


def candidates(order: Sequence[str], *, bf16: bool) -> list[Candidate]:
    """What to try besides fp32.

    Args:
        order: groups of linear layers, the most sensitive first; none where INT8 cannot be calibrated.
        bf16: whether what runs the graphs knows bfloat16.
    """
    found = [Candidate(name="fp16", precision="fp16")]
    found += [Candidate(name="bf16", precision="bf16")] * bf16
    counts = dict.fromkeys(int(len(order) * share) for share in SHARES) if order else {}
    for count in counts:
        name = f"int8 without {count} of {len(order)}" if count else "int8"
        found.append(Candidate(name=name, precision="int8", leave_out=frozenset(order[:count])))
    return found


@torch.no_grad()
def most_sensitive_first(
    folded: FoldedAcdClip,
    ranges: Mapping[str, float],
    pictures: Sequence[Pixels],
    text_features: npt.NDArray[np.float32],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """The groups in the order of how far each alone, quantised, moves the anomaly map on average.

    Args:
        folded: in float32, smoothed as the ranges were.
        ranges: group -> the magnitude that becomes 127.
        pictures: (S, S, 3) each; a few tell enough, since all groups see the same.
        text_features: (N, 2, D) of any product.
        progress: told groups done and groups in all.
    """
    text = torch.from_numpy(text_features)[None]
    images = [torch.from_numpy(np.array(picture[None])) for picture in pictures]
    plain = [folded(image, text).anomaly_map for image in images]
    moved: dict[str, float] = {}
    for done, (group, magnitude) in enumerate(ranges.items()):
        one = quantised(folded, folded, {group: magnitude})
        maps = [one(image, text).anomaly_map for image in images]
        moved[group] = sum(float((a - b).abs().mean()) for a, b in zip(maps, plain, strict=True))
        progress(done + 1, len(ranges))
    return sorted(moved, key=lambda group: -moved[group])


def interleaved_ratio(
    reference: Run, candidate: Run, *, rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> float:
    """How many times as fast the candidate is: the median over rounds in which both run once, one after the other."""
    reference(), candidate()  # what is slow the first time only does not count
    ratios = []
    for _ in range(rounds):
        began = clock()
        reference()
        between = clock()
        candidate()
        ratios.append((between - began) / max(clock() - between, 1e-9))
    return statistics.median(ratios)


def best_trial(trials: Sequence[Trial], max_drop: float) -> Trial:
    """The fastest that loses no more than `max_drop` points; the first, fp32, where none is faster than it."""
    inside = [t for t in trials if t.drop is not None and t.speed is not None and t.drop <= max_drop]
    return max(inside, key=lambda trial: trial.speed or 0.0)  # of equals the first


def table(trials: Sequence[Trial], kept: Trial, max_drop: float) -> str:
    """One line for each trial, and one that says what is kept."""
    width = max(len(trial.name) for trial in trials)
    lines = [f"{'':<{width}}{'MB':>9}{'pixel AUROC':>13}{'drop':>8}{'speed':>8}"]
    lines += [_line(trial, width, "kept" if trial is kept else _why_not(trial, max_drop)) for trial in trials]
    return "\n".join([*lines, _verdict(trials, kept, max_drop)])


def rows(trials: Sequence[Trial], kept: Trial) -> list[dict[str, Any]]:
    """The trials for programs."""
    return [{**asdict(trial), "kept": trial is kept} for trial in trials]


def _line(trial: Trial, width: int, verdict: str) -> str:
    if trial.refused:
        return f"{trial.name:<{width}}  could not be tried: {trial.refused}"
    assert trial.bytes is not None
    numbers = f"{trial.bytes / 1e6:>9.1f}{100 * (trial.auroc or 0):>13.3f}{trial.drop:>8.3f}{trial.speed:>8.2f}"
    return f"{trial.name:<{width}}{numbers}  {verdict}".rstrip()


def _why_not(trial: Trial, max_drop: float) -> str:
    return f"loses more than {max_drop:g}" if trial.drop is not None and trial.drop > max_drop else ""


def _verdict(trials: Sequence[Trial], kept: Trial, max_drop: float) -> str:
    if kept is not trials[0]:
        return f"{kept.name}: the fastest that loses no more than {max_drop:g} points of pixel AUROC"
    if any(trial.drop is not None and trial.drop <= max_drop for trial in trials[1:]):
        return f"{kept.name}: nothing that loses no more than {max_drop:g} points of pixel AUROC is faster here"
    return f"{kept.name}: nothing else loses no more than {max_drop:g} points of pixel AUROC"
