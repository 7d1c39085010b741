"""Where the time of a frame goes, told by the laps of the code that runs, and kept for every frame."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import final

from acd_edge.runtime.stages import STAGES, Stage

__all__ = ["ROWS", "FrameTimes", "Kept", "Stopwatch", "lap_cost_us"]

Clock = Callable[[], float]
ROWS = (*STAGES, "other", "end_to_end", "decision")
"""What is kept of a frame: the stages, the rest, their sum, and the time until there was a decision."""


@dataclass(frozen=True)
class FrameTimes:
    """One frame, in milliseconds.

    Attributes:
        stages: without those that nobody can tell.
        other: `end_to_end` without the stages.
        end_to_end: from its first moment to its last.
        decision: until the score was compared and told; of a live frame from its capture on.
    """

    stages: Mapping[Stage, float]
    other: float
    end_to_end: float
    decision: float

    def rows(self) -> dict[str, float]:
        """By the names of `ROWS`."""
        found: dict[str, float] = {str(stage): spent for stage, spent in self.stages.items()}
        return found | {"other": self.other, "end_to_end": self.end_to_end, "decision": self.decision}


@final
class Stopwatch:
    """Notes how long each stage of the current frame took. One reading of the clock a lap, nothing else."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self.start()

    def start(self) -> None:
        """A frame begins."""
        self._spent: dict[Stage, float] = {}
        self._decided: float | None = None
        self._began = self._last = self.clock()

    def lap(self, stage: Stage) -> None:
        """What was done since the call before belongs to this stage; see `acd_edge.runtime.stages.Lap`."""
        now = self.clock()
        self._spent[stage] = self._spent.get(stage, 0.0) + now - self._last
        self._last = now

    def decided(self) -> None:
        """The lap before was the last one that the decision waited for."""
        self._decided = self._last

    def read(self, *, captured: float | None = None, told_ms: Mapping[Stage, float] | None = None) -> FrameTimes:
        """The frame's times, from `start` to the last lap.

        Args:
            captured: when a live frame arrived, on this clock; the decision counts from there.
            told_ms: what the backend itself says of stages inside `infer`, which then replace it.
        """
        stages: dict[Stage, float] = {stage: spent * 1e3 for stage, spent in self._spent.items()}
        stages.pop("other", None)
        stages |= told_ms or {}
        whole = (self._last - self._began) * 1e3
        decided = self._last if self._decided is None else self._decided
        return FrameTimes(
            stages=stages,
            other=whole - sum(stages.values()),
            end_to_end=whole,
            decision=(decided - (self._began if captured is None else captured)) * 1e3,
        )


@final
class Kept:
    """Times of many frames in bounded memory: beyond `limit` every second one goes, then every second of the rest.

    Attributes:
        stride: one of so many frames is kept, evenly over the run.
        seen: frames so far.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self.stride = 1
        self.seen = 0
        self._limit = limit
        self._columns: dict[str, array[float]] = {}
        self._sum, self._max = dict.fromkeys(ROWS, 0.0), dict.fromkeys(ROWS, 0.0)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    def add(self, times: FrameTimes) -> None:
        """Keep a frame, or count it only."""
        keep = self.seen % self.stride == 0
        for name, value in times.rows().items():
            self._sum[name] += value
            self._max[name] = max(self._max[name], value)
            if keep:
                self._columns.setdefault(name, array("d")).append(value)
        self.seen += 1
        if len(self) > self._limit:
            self._columns = {name: column[::2] for name, column in self._columns.items()}
            self.stride *= 2

    def column(self, name: str) -> array[float]:
        """What was kept of a row of `ROWS`, in order of time; empty where nobody could tell it."""
        return self._columns.get(name, array("d"))

    def mean(self, name: str) -> float:
        """Of all frames, kept or not."""
        return self._sum[name] / self.seen

    def largest(self, name: str) -> float:
        """Of all frames, kept or not."""
        return self._max[name]

    def rounded(self) -> dict[str, list[float]]:
        """Every column for JSON, to a tenth of a microsecond."""
        return {name: [round(value, 4) for value in self._columns[name]] for name in ROWS if name in self._columns}


def lap_cost_us(laps: Iterable[Stage] = ("other", "decode", "preprocess", "infer", "post", "draw")) -> float:
    """What measuring itself costs a frame, in microseconds: the median of frames in which nothing is done."""
    watch, laps = Stopwatch(), tuple(laps)
    costs = []
    for _ in range(201):
        before = watch.clock()
        watch.start()
        for stage in laps:
            watch.lap(stage)
        watch.decided()
        costs.append(watch.clock() - before)
    return sorted(costs)[len(costs) // 2] * 1e6
