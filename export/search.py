"""Which precisions are worth a try, in which order layers leave INT8, and which trial is kept.

What a trial costs in accuracy and brings in speed is measured by whoever calls: this module knows no data and no clock
but the one that it is given.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from acd_edge.export.graph import FoldedAcdClip
from acd_edge.export.int8 import quantised
from acd_edge.export.precision import Precision

__all__ = [
    "ALIKE",
    "Candidate",
    "Speed",
    "Trial",
    "best_trial",
    "candidates",
    "interleaved_ratio",
    "most_sensitive_first",
    "near_ties",
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


class Speed(NamedTuple):
    """So many times as fast as another thing: the median over rounds, and the slowest and the fastest of them."""

    median: float
    low: float
    high: float


ALIKE = Speed(1.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a candidate.

    Attributes:
        name: of the candidate.
        bytes: of the graph with its data.
        auroc: pixel AUROC, the mean over the categories.
        drop: how many points it lies below fp32's; below zero where it lies above.
        speed: so many times as fast as fp32, on the machine of the search.
        refused: why it could not be measured, in place of all these.
    """

    name: str
    bytes: int | None = None
    auroc: float | None = None
    drop: float | None = None
    speed: Speed | None = None
    refused: str = ""

    def is_inside(self, max_drop: float) -> bool:
        """Whether it was measured and loses no more than `max_drop` points."""
        return self.drop is not None and self.drop <= max_drop


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
) -> Speed:
    """How many times as fast the candidate is, over rounds in which both run once, one after the other."""
    reference(), candidate()  # what is slow the first time only does not count
    ratios = []
    for _ in range(rounds):
        began = clock()
        reference()
        between = clock()
        candidate()
        ratios.append((between - began) / max(clock() - between, 1e-9))
    return Speed(statistics.median(ratios), min(ratios), max(ratios))


def best_trial(trials: Sequence[Trial], max_drop: float) -> Trial:
    """The fastest that loses no more than `max_drop` points; the first, fp32, where none is faster than it."""
    return max((trial for trial in trials if trial.is_inside(max_drop)), key=_median)  # of equals the first


def near_ties(trials: Sequence[Trial], kept: Trial, max_drop: float) -> list[Trial]:
    """Trials inside that may be as fast as the one that is kept: their fastest round reaches its slowest."""
    return [
        trial
        for trial in trials
        if trial is not kept and trial.is_inside(max_drop) and trial.speed and kept.speed
        and trial.speed.high >= kept.speed.low
    ]  # fmt: skip


def table(trials: Sequence[Trial], kept: Trial, max_drop: float) -> str:
    """One line for each trial, one that says what is kept, and one that names what may be as fast."""
    width = max(len(trial.name) for trial in trials)
    lines = [f"{'':<{width}}{'MB':>9}{'pixel AUROC':>13}{'drop':>8}{'speed':>8}{'of rounds':>16}"]
    lines += [_line(trial, width, "kept" if trial is kept else _why_not(trial, max_drop)) for trial in trials]
    lines.append(_verdict(trials, kept, max_drop))
    if ties := near_ties(trials, kept, max_drop):
        lines.append(f"may be as fast, judging by the rounds: {', '.join(trial.name for trial in ties)}")
    return "\n".join(lines)


def rows(trials: Sequence[Trial], kept: Trial) -> list[dict[str, Any]]:
    """The trials for programs; `speed` is the median, `speed_low` and `speed_high` its rounds' extremes."""
    return [_row(trial) | {"kept": trial is kept} for trial in trials]


def _row(trial: Trial) -> dict[str, Any]:
    median, low, high = trial.speed or (None, None, None)
    return {**asdict(trial), "speed": median, "speed_low": low, "speed_high": high}


def _median(trial: Trial) -> float:
    assert trial.speed is not None
    return trial.speed.median


def _line(trial: Trial, width: int, verdict: str) -> str:
    if trial.refused:
        return f"{trial.name:<{width}}  could not be tried: {trial.refused}"
    assert trial.bytes is not None
    assert trial.auroc is not None
    assert trial.drop is not None
    assert trial.speed is not None
    spread = "" if trial.speed is ALIKE else f"{trial.speed.low:.2f} to {trial.speed.high:.2f}"
    numbers = f"{trial.bytes / 1e6:>9.1f}{100 * trial.auroc:>13.3f}{trial.drop:>8.3f}{trial.speed.median:>8.2f}"
    return f"{trial.name:<{width}}{numbers}{spread:>16}  {verdict}".rstrip()


def _why_not(trial: Trial, max_drop: float) -> str:
    return "" if trial.is_inside(max_drop) else f"loses more than {max_drop:g}"


def _verdict(trials: Sequence[Trial], kept: Trial, max_drop: float) -> str:
    if kept is not trials[0]:
        return f"{kept.name}: the fastest here that loses no more than {max_drop:g} points of pixel AUROC"
    if any(trial.is_inside(max_drop) for trial in trials[1:]):
        return f"{kept.name}: nothing that loses no more than {max_drop:g} points of pixel AUROC is faster here"
    return f"{kept.name}: nothing else loses no more than {max_drop:g} points of pixel AUROC"
