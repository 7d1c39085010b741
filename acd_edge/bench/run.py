"""One measurement from the bundle to the document: idle power, loading, frames, memory, energy, soak."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acd_edge.bench.facts import gpu_facts, machine_facts, peak_rss_mb, subject_facts, versions
from acd_edge.bench.measure import GOING_ON, Measurement, Plan, measure
from acd_edge.bench.pictures import describe_made, write_made
from acd_edge.bench.power import IDLE_S, WattMeter, energy_facts, idle_watts, watt_meter
from acd_edge.bench.results import document
from acd_edge.bench.soak import Soak, drift, soak_interval
from acd_edge.bench.stopwatch import FrameTimes, lap_cost_us
from acd_edge.device.clocks import device_state, throttled_between
from acd_edge.device.power import PowerSampler
from acd_edge.device.sysfs import ROOT
from acd_edge.errors import SourceError, UsageError
from acd_edge.runtime.engine_records import now
from acd_edge.runtime.sources import ReadOptions, Source, open_sources

if TYPE_CHECKING:
    from acd_edge.runtime.backends import BackendOptions
    from acd_edge.runtime.detector import Detector

__all__ = ["BenchConfig", "Outcome", "Voice", "bench", "opened_sources"]

_KEEPS = 10_000  # frames whose times are kept; comparing two such results takes seconds
_SOAK_KEEPS = 5_000  # the document is written again at every window
_SOAK_WATTS_S, _WATTS_S = 0.5, 0.05  # seconds between two readings of the power
_NAMED = 3  # sources that a report names
_SILENT_S = 1.0  # seconds at the end for which the power may be unknown; beyond, the frames' energy is


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What to measure.

    Attributes:
        texts: sources as `run` takes them; none stands for made pictures.
        plan: how long.
        soak_minutes: with it the plan's length is this, and a series of windows is kept.
        options, asked_backend: how the graph is run, for the document.
        idle_s: seconds for which the idle power is taken, where there is a power monitor.
        root: folder that holds `sys` and `proc`; another one in tests.
    """

    texts: tuple[str, ...]
    plan: Plan
    options: BackendOptions
    asked_backend: str = "auto"
    soak_minutes: float | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    idle_s: float = IDLE_S
    root: Path = ROOT

    @property
    def length(self) -> Plan:
        """How long in all."""
        if self.soak_minutes is None:
            return self.plan
        return Plan(frames=None, seconds=self.soak_minutes * 60, warm_up=self.plan.warm_up)


@dataclass(frozen=True)
class Outcome:
    """The document, and what broke the measuring off after some frames had counted, if anything did."""

    values: dict[str, Any]
    error: BaseException | None


@dataclass(frozen=True)
class Voice:
    """Who is told what happens.

    Attributes:
        each: called after each frame that counts.
        write: called with the document at the end of each window of a soak, and at the end of all.
        say: told what takes a while.
    """

    each: Callable[[Measurement, FrameTimes], object] = lambda measured, times: None
    write: Callable[[dict[str, Any]], object] = lambda values: None
    say: Callable[[str], object] = lambda line: None


def bench(load: Callable[[], Detector], config: BenchConfig, voice: Voice = Voice()) -> Outcome:  # frozen
    """Measure.

    Args:
        load: opens the detector; its time is told.
        config: see there.
        voice: see there.

    Raises:
        AcdEdgeError: what `load` raises, and what kept anything from being measured, see `measure`.
    """
    with ExitStack() as stack:
        sources, source = stack.enter_context(opened_sources(config.texts, config.read))
        meter = stack.enter_context(watt_meter(config.root))
        scene = _Scene(config, meter, voice)
        began = time.perf_counter()
        detector = stack.enter_context(load())
        scene.loaded(detector, source, load_s=time.perf_counter() - began)
        if meter is not None:
            interval = _WATTS_S if config.soak_minutes is None else _SOAK_WATTS_S
            scene.sampler = stack.enter_context(PowerSampler(meter.read, interval_s=interval))
        return _measured(scene, detector, sources, voice)


def _measured(scene: _Scene, detector: Detector, sources: Sequence[Source], voice: Voice) -> Outcome:
    config, soak = scene.config, None
    if config.soak_minutes is not None:
        soak = scene.soak = Soak(
            soak_interval(config.soak_minutes),
            write=lambda measured: voice.write(scene.document(measured)),
            watts=scene.sampler.samples if scene.sampler else (),
            root=config.root,
        )

    def each(measured: Measurement, times: FrameTimes) -> None:
        voice.each(measured, times)
        if soak is not None:
            soak.each(measured, times)

    keep = _KEEPS if soak is None else _SOAK_KEEPS
    voice.say(f"a first frame and {config.length.warm_up} to warm up, then what counts")
    measured = measure(detector, sources, config.length, keep=keep, each=each)
    if soak is not None:
        soak.finish(measured)
    values = scene.document(measured)
    voice.write(values)
    return Outcome(values, measured.error)


class _Scene:
    """Everything about a measurement but its times: read before loading, after it, and whenever a document is made."""

    def __init__(self, config: BenchConfig, meter: WattMeter | None, voice: Voice) -> None:
        self.config, self._meter = config, meter
        self._since = now()
        self.sampler: PowerSampler | None = None
        self.soak: Soak | None = None
        self._machine = machine_facts(config.root)
        self._before = device_state(config.root)
        self._idle: float | None = None
        if meter is not None:
            voice.say(f"idle power for {config.idle_s:g} s")
            self._idle = idle_watts(meter, config.idle_s)

    def loaded(self, detector: Detector, source: str, *, load_s: float) -> None:
        """Take down what will be measured."""
        self._backend = detector.backend.name
        self._fixed = {
            "made_at": now(),
            "subject": subject_facts(
                detector, self.config.options, asked_backend=self.config.asked_backend, since=self._since
            ),
            "source": source,
            "versions": versions(self.config.root),
            "load_ms": round(load_s * 1e3, 1),
            "measuring_us_per_frame": round(lap_cost_us(), 1),
        }

    def document(self, measured: Measurement) -> dict[str, Any]:
        """The result so far."""
        after = device_state(self.config.root)
        jetson = self._before.jetson
        facts = {
            **self._fixed,
            "machine": {
                **self._machine,
                "jetson": jetson.to_dict() if jetson else None,
                "gpu": gpu_facts(self._backend, self.config.options.cuda),
            },
            "state_before": self._before.to_dict(),
            "state_after": after.to_dict(),
            "throttled": throttled_between(self._before.throttling, after.throttling),
            "memory": {"peak_rss_mb": peak_rss_mb(self.config.root)},
            "power_source": self._meter.source if self._meter else None,
            "energy": self._energy(measured),
            "soak": None if self.soak is None else self._soak(self.soak, measured),
        }
        return document(measured, facts)

    def _energy(self, measured: Measurement) -> dict[str, Any] | None:
        if self.sampler is None or self._meter is None:
            return None
        self.sampler.sample()  # so that the last frame lies between two samples
        samples = sorted(self.sampler.samples)  # two threads sample
        last = samples[-1].seconds if samples else -math.inf
        ended = last if 0 < measured.ended - last < _SILENT_S else measured.ended
        return energy_facts(
            samples, measured.began, ended, measured.kept.seen, idle=self._idle, source=self._meter.source
        )

    def _soak(self, soak: Soak, measured: Measurement) -> dict[str, Any]:
        return {
            "minutes": self.config.soak_minutes,
            "interval_s": soak.interval_s,
            "windows": list(soak.windows),
            "drift": drift(measured.kept.column("end_to_end"), soak.windows) if measured.ending != GOING_ON else None,
        }


@contextmanager
def opened_sources(texts: Sequence[str], options: ReadOptions) -> Iterator[tuple[list[Source], str]]:
    """The sources that the texts name, or made pictures in a folder that goes at the end, and what they are in words.

    Raises:
        SourceError: a text names nothing that can be read.
        UsageError: a live source is not alone.
    """
    if not texts:
        with tempfile.TemporaryDirectory(prefix="acd-edge-bench-") as folder:
            sources, _ = open_sources([str(path) for path in write_made(Path(folder))], options)
            yield sources, describe_made()
        return
    sources, errors = open_sources(texts, options)
    if errors:
        raise SourceError(str(errors[0])) from errors[0]
    if len(sources) > 1 and any(source.kind == "live" for source in sources):
        raise UsageError("a camera or stream is measured alone, since its frames are waited for; leave the others away")
    yield sources, _described(sources, texts)


def _described(sources: Sequence[Source], texts: Sequence[str]) -> str:
    """What they are, for the report and for comparing: names, without the place that tells of the machine."""
    first = sources[0]
    if first.kind == "live":
        return first.name
    if len(sources) == 1:
        return f"{first.kind} {first.output.name}" + (", again and again" if first.kind == "picture" else "")
    kinds = {kind: sum(source.kind == kind for source in sources) for kind in ("picture", "video")}
    counted = " and ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in kinds.items() if count)
    names = list(dict.fromkeys(os.path.basename(os.path.abspath(text)) for text in texts))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{counted} from {', '.join(names[:_NAMED])}{more}" + (", again and again" if not kinds["video"] else "")
