"""`acd-edge run`: scores and heat maps of pictures, videos, cameras and streams."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acd_edge.cli.backend import BackendFlags, backend_flags, load_detector
from acd_edge.cli.once import OnceCommand
from acd_edge.errors import SourceError, UsageError

if TYPE_CHECKING:
    from acd_edge.runtime.detector import Detector
    from acd_edge.runtime.sinks import FileSink
    from acd_edge.runtime.sources import ReadOptions, Source

ANOMALIES, FAILED = 3, 1


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the flags said, before anything was opened."""

    texts: tuple[str, ...]
    bundle: Path | None
    product: str
    threshold: float | None
    save: Path | None
    save_map: bool
    as_json: bool
    fail_on_anomaly: bool
    force: bool
    options: ReadOptions
    how: BackendFlags

    def __post_init__(self) -> None:
        if not self.texts:
            raise UsageError("nothing to look at: give a picture, a folder, a video, a stream, or --camera 0")
        if self.save_map and self.save is None:
            raise UsageError("--save-map needs --save DIR, where the maps go")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UsageError(f"--threshold must be a number from 0 to 1, got {self.threshold}")
        if not math.isfinite(self.options.timeout):
            raise UsageError(f"--timeout must be a number of seconds, got {self.options.timeout}")


@dataclass
class Tally:
    """What happened so far."""

    frames: int = 0
    anomalous: int = 0
    failed: list[str] = field(default_factory=list)

    def fail(self, name: str, error: Exception) -> None:
        """Tell an error and go on."""
        self.failed.append(name)
        click.echo(f"Error: {' '.join(str(error).splitlines())}", err=True)

    def exit_code(self, fail_on_anomaly: bool) -> int:
        """Errors win over anomalies."""
        if self.failed:
            return FAILED
        return ANOMALIES if fail_on_anomaly and self.anomalous else 0


@click.command("run", cls=OnceCommand)
@click.argument("sources", nargs=-1, metavar="[SOURCE ...]")
@click.option("--source", "more", multiple=True, metavar="S", help="The same as SOURCE; repeatable.")
@click.option("--camera", "cameras", multiple=True, metavar="K", help="The camera with index K, short for --source K.")
@click.option("--bundle", type=click.Path(path_type=Path), metavar="B", help="A bundle; the built-in one unless told.")
@click.option("--product", default="object", show_default=True, metavar="NAME", help="What is looked at.")
@click.option("--threshold", type=click.FloatRange(0, 1), metavar="T", help="Anomalous is a score of at least T.")
@click.option("--save", type=click.Path(path_type=Path), metavar="DIR", help="Write heat-map overlays there.")
@click.option("--save-map", is_flag=True, help="Write the raw maps there too, float32 .npy.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a frame on stdout, and nothing else there.")
@click.option("--fail-on-anomaly", is_flag=True, help="Exit with 3 when something is anomalous.")
@click.option("--force", is_flag=True, help="Replace overlays and maps that exist.")
@click.option(
    "--bit-depth", type=click.IntRange(9, 16), default=16, show_default=True, help="Bits used in 16-bit pictures."
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=100_000_000,
    show_default=True,
    help="Refuse larger pictures and frames.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a camera or stream may stay silent.",
)
@backend_flags
@click.pass_context
def command(
    ctx: click.Context,
    /,
    sources: tuple[str, ...],
    more: tuple[str, ...],
    cameras: tuple[str, ...],
    bit_depth: int,
    max_pixels: int,
    timeout: float,
    **flags: object,
) -> None:
    """Score pictures, folders, globs, video files, cameras and streams.

    One line for each frame. Without --threshold and without a calibrated bundle there is a score but no verdict.

    \b
    acd-edge run examples --save out
    acd-edge run part.png --product 'metal_nut' --threshold 0.5 --fail-on-anomaly
    acd-edge run --camera 0 --bundle line.acd --save anomalies
    """
    from acd_edge.runtime.sources import ReadOptions

    options = ReadOptions(bit_depth=bit_depth, max_pixels=max_pixels, timeout=timeout)
    config = RunConfig(texts=(*sources, *more, *cameras), options=options, **flags)  # type: ignore[arg-type]  # click checked
    ctx.exit(run(config))


def run(config: RunConfig) -> int:
    """Do what the flags say and return the exit status."""
    from acd_edge.runtime.sources import open_sources

    tally = Tally()
    sources, errors = open_sources(config.texts, config.options, skip=config.save)
    for error in errors:
        tally.fail(str(error), error)
    if not sources:
        return FAILED
    if config.save is not None and config.threshold is None and config.bundle is None:
        _check_live_decision(config, sources, None)  # told at once, where no calibration can help
    with load_detector(config.bundle, product=config.product, how=config.how) as detector:
        threshold = _threshold(config, detector)
        if config.fail_on_anomaly and threshold is None:
            raise UsageError("--fail-on-anomaly needs a threshold: give --threshold, or a bundle that was calibrated")
        _check_live_decision(config, sources, threshold)
        sink = _open_sink(config, sources)
        try:
            for source in sources:
                _run_source(source, detector, threshold, sink, tally, as_json=config.as_json)
        finally:
            if sink is not None:
                sink.close()
    _summarise(tally)
    return tally.exit_code(config.fail_on_anomaly)


def _threshold(config: RunConfig, detector: Detector) -> float | None:
    from acd_edge.runtime.bundle import threshold_of

    if config.threshold is not None:
        return config.threshold
    return threshold_of(detector.bundle.calibration, detector.product) if detector.is_named else None


def _check_live_decision(config: RunConfig, sources: list[Source], threshold: float | None) -> None:
    if config.save is not None and threshold is None and any(source.kind == "live" for source in sources):
        raise UsageError(
            "--save on a live source writes anomalous frames only, so it needs a threshold: "
            "give --threshold, or a bundle that was calibrated"
        )


def _open_sink(config: RunConfig, sources: list[Source]) -> FileSink | None:
    if config.save is None:
        return None
    from acd_edge.runtime.sinks import FileSink, check_folder, planned_files

    planned = planned_files(sources, config.save, maps=config.save_map)
    check_folder(config.save, planned, force=config.force)
    return FileSink(config.save, maps=config.save_map)


def _run_source(
    source: Source, detector: Detector, threshold: float | None, sink: FileSink | None, tally: Tally, *, as_json: bool
) -> None:
    from acd_edge.runtime.sinks import Record, json_line, text_line

    try:
        for frame in source.frames():
            record = Record(frame, detector.predict(frame.rgb), threshold)
            tally.frames += 1
            tally.anomalous += bool(record.anomalous)
            click.echo(json_line(record) if as_json else text_line(record, numbered=source.kind != "picture"))
            if sink is not None:
                sink.write(source, record)
    except SourceError as error:
        tally.fail(source.name, error)
    finally:
        if sink is not None and source.kind == "video":
            sink.finish_source()
        _tell_dropped(source)


def _tell_dropped(source: Source) -> None:
    from acd_edge.runtime.sources import LiveSource

    if isinstance(source, LiveSource) and source.read:
        click.echo(f"{source.name}: {source.read} frames read, {source.dropped} dropped", err=True)


def _summarise(tally: Tally) -> None:
    if tally.failed and tally.frames:
        names = ", ".join(tally.failed)
        click.echo(f"{tally.frames} frames done; {len(tally.failed)} inputs failed: {names}", err=True)
