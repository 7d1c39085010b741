"""Frames through the path that `run` takes, each with the time of its stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

from acd_edge.bench.stopwatch import Clock, FrameTimes, Kept, Stopwatch
from acd_edge.errors import AcdEdgeError, BenchError
from acd_edge.runtime.bundle import threshold_of
from acd_edge.runtime.sinks import Record, json_line
from acd_edge.runtime.sinks.files import overlay_of
from acd_edge.runtime.sources import Frame, LiveSource, Source
from acd_edge.runtime.stages import TellsStages, no_lap

if TYPE_CHECKING:
    from acd_edge.runtime.detector import Detector

__all__ = ["COMPLETE", "FRAMES", "GOING_ON", "WARM_UP", "Measurement", "Plan", "measure"]

FRAMES, WARM_UP = 200, 20
COMPLETE, GOING_ON = "complete", "it was still going on"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to measure.

    Attributes:
        frames: so many, or
        seconds: so long, by the clock; the one that is given.
        warm_up: frames between the first one, which is told apart, and the first that counts.
    """

    frames: int | None = FRAMES
    seconds: float | None = None
    warm_up: int = WARM_UP

    def is_done(self, frames: int, seconds: float) -> bool:
        """Whether that is enough."""
        return (self.frames is not None and frames >= self.frames) or (
            self.seconds is not None and seconds >= self.seconds
        )


@dataclass
class Measurement:
    """What was measured; it grows while the frames come.

    Attributes:
        first: the first frame after loading, which is no part of the rest.
        warmed: frames of the warm-up that came.
        kept: the frames that count.
        began, ended: of the frames that count, on the stopwatch's clock.
        ending: `complete` when all was measured that was asked for, else why not.
        error: what broke it off, for the exit status.
        live: of a camera or stream: frames read and dropped, and who stamped them.
        scores: least and largest score, to see that something was computed.
    """

    first: FrameTimes | None = None
    warmed: int = 0
    kept: Kept = field(default_factory=Kept)
    began: float = 0.0
    ended: float = 0.0
    ending: str = GOING_ON
    error: BaseException | None = None
    live: dict[str, int | str] | None = None
    scores: tuple[float, float] = (float("inf"), float("-inf"))

    @property
    def frames_per_second(self) -> float:
        """Frames that count, by the time they took one after the other; of a live source by the time that passed."""
        seconds = self.ended - self.began if self.live else self.kept.mean("end_to_end") * self.kept.seen / 1e3
        return self.kept.seen / seconds if seconds > 0 else 0.0


def measure(
    detector: Detector,
    sources: Sequence[Source],
    plan: Plan,
    *,
    keep: int = 10_000,
    clock: Clock = time.perf_counter,
    each: Callable[[Measurement, FrameTimes], object] = lambda measured, times: None,
) -> Measurement:
    """Run the detector on the sources' frames and note their times.

    Pictures are read again from the first when the last was measured. A video and a stream end when they end.

    Args:
        detector: its `lap` is used meanwhile.
        sources: from `open_sources`; a live one alone.
        plan: how long.
        keep: most frames whose times are kept.
        clock: of the frames' capture too.
        each: called after each frame that counts, outside of its time.

    Returns:
        What was measured, also when Ctrl-C or an error of the source or the backend broke it off; `ending` says so.

    Raises:
        BenchError: the source ended before a frame counted.
        AcdEdgeError: what broke it off before a frame counted.
    """
    watch, measured = Stopwatch(clock), Measurement(kept=Kept(keep))
    backend = detector.backend
    teller = backend if isinstance(backend, TellsStages) else None
    detector.lap = watch.lap
    if teller is not None:
        teller.tell_stages(True)
    try:
        _run(watch, measured, detector, sources, plan, teller, each)
    except (AcdEdgeError, KeyboardInterrupt) as error:
        if not measured.kept.seen:
            raise
        measured.error = error
        measured.ending = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    else:
        measured.ending = _ending(measured, plan)
    finally:
        detector.lap = no_lap
        if teller is not None:
            with suppress(AcdEdgeError):  # of a device that is gone, which is told already
                teller.tell_stages(False)
    measured.live = _live_facts(sources[0])
    return measured


def _live_facts(source: Source) -> dict[str, int | str] | None:
    """Frames read and dropped so far, and who stamped them; None for what is no camera and no stream."""
    if not isinstance(source, LiveSource):
        return None
    return {"read": source.read, "dropped": source.dropped, "timed_by": source.timed_by}


def _run(
    watch: Stopwatch,
    measured: Measurement,
    detector: Detector,
    sources: Sequence[Source],
    plan: Plan,
    teller: TellsStages | None,
    each: Callable[[Measurement, FrameTimes], object],
) -> None:
    is_live = sources[0].kind == "live"
    threshold = threshold_of(detector.bundle.calibration, detector.product) if detector.is_named else None
    with closing(_frames(sources)) as frames:
        while True:
            began = watch.clock()
            watch.start()
            frame = next(frames, None)
            if frame is None:
                return
            if is_live:
                watch.start()  # it was waited for, and decoded beside
            else:
                watch.lap("decode")
            score = _one(watch, detector, frame, threshold)
            times = watch.read(captured=frame.captured, told_ms=None if teller is None else teller.stage_ms)
            if _count(measured, times, plan, began):
                measured.scores = min(score, measured.scores[0]), max(score, measured.scores[1])
                measured.ended = watch.clock()
                measured.live = _live_facts(sources[0])  # what a soak writes meanwhile is whole
                each(measured, times)
                if plan.is_done(measured.kept.seen, measured.ended - measured.began):
                    return


def _count(measured: Measurement, times: FrameTimes, plan: Plan, began: float) -> bool:
    """Put a frame where it belongs; whether it counts."""
    if measured.first is None:
        measured.first = times
        return False
    if measured.warmed < plan.warm_up:
        measured.warmed += 1
        return False
    if not measured.kept.seen:
        measured.began = began
    measured.kept.add(times)
    return True


def _one(watch: Stopwatch, detector: Detector, frame: Frame, threshold: float | None) -> float:
    """What `run --json --save` does with a frame, up to the overlay's pixels; the detector laps inside."""
    result = detector.predict(frame.rgb)
    record = Record(frame, result, threshold)
    json_line(record)
    watch.lap("post")
    watch.decided()
    overlay_of(record)
    watch.lap("draw")
    return result.score


def _frames(sources: Sequence[Source]) -> Generator[Frame, None, None]:
    """Their frames; pictures begin again, anything else ends."""
    again = all(source.kind == "picture" for source in sources)
    for source in cycle(sources) if again else sources:
        yield from source.frames()


def _ending(measured: Measurement, plan: Plan) -> str:
    """How it ended by itself."""
    seen = measured.kept.seen
    if not seen:
        had = measured.warmed + (measured.first is not None)
        raise BenchError(
            f"the source ended after {had} frames, before one counted; the first and {plan.warm_up} of --warm-up do "
            f"not: give fewer of them, or a longer source"
        )
    if plan.is_done(seen, measured.ended - measured.began):
        return COMPLETE
    asked = f"{plan.frames}" if plan.frames is not None else f"{plan.seconds:g} s of them"
    return f"the source ended: {seen} frames counted, {asked} were asked for"
