"""`acd-edge bench`: latency stage by stage, two results compared, and the ladder of sizes and precisions."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from acd_edge.cli.backend import BackendFlags, backend_flags, load_detector
from acd_edge.cli.once import OnceCommand
from acd_edge.errors import OutputError, UsageError

if TYPE_CHECKING:
    from acd_edge.bench.canvas import Canvas
    from acd_edge.bench.measure import Measurement
    from acd_edge.bench.run import BenchConfig
    from acd_edge.bench.stopwatch import FrameTimes

STDOUT = Path("-")
_RESULT = ".json"
_OUTPUT = frozenset({"inputs", "as_json", "plot", "force"})
_BACKEND = frozenset({"backend", "device", "threads", "openvino_precision", "cuda"})
_READING = frozenset({"sources", "bit_depth", "max_pixels", "timeout"})
_USED: Mapping[str, frozenset[str]] = {
    "compare": frozenset({"inputs", "as_json", "force"}),
    "measure": _OUTPUT | _BACKEND | _READING | {"product", "frames", "seconds", "soak", "warm_up"},
    "ladder": (_OUTPUT - {"inputs"}) | _BACKEND | _READING
    | {"frames", "seconds", "warm_up", "budget_ms", "checkpoint", "data", "root", "layout", "sizes", "precisions",
       "calib", "clip_weights", "output"},
}  # fmt: skip
"""Mode -> the flags that it has a use for; the others are refused there, not ignored."""
_MODES = {
    "compare": "comparing two results",
    "measure": "measuring a bundle",
    "ladder": "the ladder of --budget-ms",
}


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the flags said, for every mode."""

    inputs: tuple[Path, ...]
    sources: tuple[str, ...]
    product: str
    frames: int | None
    seconds: float | None
    soak: float | None
    warm_up: int
    as_json: Path | None
    plot: Path | None
    force: bool
    bit_depth: int
    max_pixels: int
    timeout: float
    budget_ms: float | None
    checkpoint: Path | None
    data: tuple[Path, ...]
    root: Path | None
    layout: str | None
    sizes: tuple[int, ...]
    precisions: tuple[str, ...]
    calib: Path | None
    clip_weights: Path | None
    output: Path | None

    def __post_init__(self) -> None:
        for name in ("seconds", "soak", "timeout", "budget_ms"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UsageError(f"--{name.replace('_', '-')} must be a number, got {value}")
        if sum(value is not None for value in (self.frames, self.seconds, self.soak)) > 1:
            raise UsageError("--frames, --seconds and --soak each say how long: give one of them")
        if self.as_json not in (None, STDOUT) and self.as_json.suffix.lower() != _RESULT:
            raise UsageError(f"--json takes a file that ends in .json, got {self.as_json}; for stdout give it last")

    @property
    def mode(self) -> str:
        """`compare` for results, `ladder` with a budget, else `measure`."""
        if self.budget_ms is not None or self.checkpoint is not None:
            return "ladder"
        return "compare" if any(path.suffix.lower() == _RESULT for path in self.inputs) else "measure"


@click.command(cls=OnceCommand)
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path), metavar="[BUNDLE | A.json B.json]")
@click.option("--source", "sources", multiple=True, metavar="S",
              help="What `run` takes, instead of made 1080p pictures. Repeatable.")  # fmt: skip
@click.option("--product", default="object", show_default=True, metavar="NAME", help="What is looked at.")
@click.option("--frames", type=click.IntRange(1), metavar="N",
              help="Frames that count; unless told 200, for each rung of the ladder 60.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0, min_open=True), metavar="S", help="Instead: measure so long.")
@click.option("--soak", type=click.FloatRange(0, min_open=True), metavar="MINUTES",
              help="Instead: measure so long, and keep a series of latency, heat, clocks and throttling.")  # fmt: skip
@click.option("--warm-up", type=click.IntRange(0), default=20, show_default=True, metavar="N",
              help="Frames after the first that do not count.")  # fmt: skip
@click.option("--json", "as_json", type=click.Path(path_type=Path), is_flag=False, flag_value=STDOUT, metavar="[FILE]",
              help="Write the result, every frame's times too, to FILE; without FILE print it.")  # fmt: skip
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw it too, as .svg or .png.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--bit-depth", type=click.IntRange(9, 16), default=16, show_default=True,
              help="Bits used in 16-bit pictures, those of --data and --calib too.")  # fmt: skip
@click.option("--max-pixels", type=click.IntRange(1), default=100_000_000, show_default=True,
              help="Refuse larger pictures and frames.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, metavar="SECONDS",
              help="How long a camera or stream may stay silent.")  # fmt: skip
@click.option("--budget-ms", type=click.FloatRange(0, min_open=True), metavar="T",
              help="Walk sizes and precisions of a checkpoint, and name the best that fits T ms a frame.")  # fmt: skip
@click.option("--from", "checkpoint", type=click.Path(path_type=Path), metavar="CKPT", help="For the ladder: of what.")
@click.option("--data", type=click.Path(path_type=Path), multiple=True, metavar="DIR",
              help="For the ladder: labelled pictures for the pixel AUROC; repeatable.")  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path), help="What the paths in a .jsonl list are relative to.")
@click.option("--layout", metavar="NAME", help="The data set's name, where its folder does not tell it.")
@click.option("--size", "sizes", type=click.IntRange(1), multiple=True, metavar="S",
              help="For the ladder: input sides, instead of some around the checkpoint's own. Repeatable.")  # fmt: skip
@click.option("--precision", "precisions", type=click.Choice(["fp32", "fp16", "bf16", "int8"]), multiple=True,
              help="For the ladder: instead of all that can run here. Repeatable.")  # fmt: skip
@click.option("--calib", type=click.Path(path_type=Path), metavar="DIR",
              help="For the ladder: pictures for int8, other ones than --data.")  # fmt: skip
@click.option("--clip-weights", type=click.Path(path_type=Path), help="Backbone of a checkpoint, where it has moved.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR",
              help="For the ladder: keep its bundles there; what is there is not exported again.")  # fmt: skip
@backend_flags
@click.pass_context
def command(ctx: click.Context, /, how: BackendFlags, **given: Any) -> None:
    """Measure BUNDLE (the built-in one unless given), frame by frame on the path that `run` takes.

    The stages decode, preprocess, copy, infer, post and draw, what lies between them, and all together. A stage that
    the backend cannot tell apart is `-`. Two results are compared by the ratio of their medians and a test.

    \b
    acd-edge bench --source shots --json before.json
    acd-edge bench before.json after.json
    acd-edge bench line.acd --source 0 --soak 60 --json soak.json
    acd-edge bench --budget-ms 50 --from checkpoint --data DATASET -o rungs
    """
    flags = Flags(**given)
    mode = flags.mode
    _check_flags(ctx, mode)
    for path, flag in ((flags.as_json, "--json"), (flags.plot, "--plot")):
        _check_target(path, flag, flags.force)
    if mode == "compare":
        _compare(flags)
    elif mode == "ladder":
        from acd_edge.cli.bench_ladder import climb

        ctx.exit(climb(flags, how))
    else:
        ctx.exit(_measure(flags, how))


def _check_flags(ctx: click.Context, mode: str) -> None:
    """Refuse what a mode has no use for."""
    names = {parameter.name: parameter.opts[-1] for parameter in ctx.command.params}
    for name, flag in names.items():
        if (
            name is not None
            and ctx.get_parameter_source(name) not in (None, ParameterSource.DEFAULT)
            and name not in _USED[mode]
            and ctx.params.get(name) not in (None, ())
        ):
            given = "a bundle or result" if name == "inputs" else flag
            raise UsageError(f"{given} has no use in {_MODES[mode]}; leave it away")


def _check_target(path: Path | None, flag: str, force: bool) -> None:
    from acd_edge.bench.plot import check_plot
    from acd_edge.bench.results import check_output

    if path is None or path == STDOUT:
        return
    if flag == "--plot":
        check_plot(path)
    check_output(path, force=force, flag=flag)


def _compare(flags: Flags) -> None:
    from acd_edge.bench.compare import changed_controls, compare_results, differences, to_dict, too_short
    from acd_edge.bench.results import read_result, write_json
    from acd_edge.bench.table import compared_table

    if len(flags.inputs) != 2 or any(path.suffix.lower() != _RESULT for path in flags.inputs):
        raise UsageError(f"two results are compared, both .json; got {', '.join(map(str, flags.inputs))}")
    a, b = (read_result(path) for path in flags.inputs)
    pairs = compare_results(a, b)
    warnings = differences(a, b) + changed_controls(pairs, a, b) + too_short(pairs, a, b)
    values = to_dict(pairs, warnings, a, b)
    if flags.as_json == STDOUT:
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(compared_table(pairs, warnings, (str(a.path), str(b.path))))
    if flags.as_json is not None:
        write_json(flags.as_json, values)


def _measure(flags: Flags, how: BackendFlags) -> int:
    from acd_edge.bench.measure import FRAMES
    from acd_edge.bench.plot import result_plot
    from acd_edge.bench.run import Voice, bench
    from acd_edge.bench.table import result_table

    if len(flags.inputs) > 1:
        raise UsageError(f"one bundle is measured, got {', '.join(map(str, flags.inputs))}")
    bundle = flags.inputs[0] if flags.inputs else None
    teller, keeper = Progress(flags), Keeper(flags.as_json)
    voice = Voice(each=teller.frame, write=keeper.write, say=partial(click.echo, err=True))
    outcome = bench(lambda: load_detector(bundle, product=flags.product, how=how), config_of(flags, how, FRAMES), voice)
    values = outcome.values
    click.echo(json.dumps(values) if flags.as_json == STDOUT else result_table(values))
    status = _end(keeper.error)
    _draw(flags.plot, partial(result_plot, values, _title(values)))
    return max(status, _end(outcome.error))


def _end(error: BaseException | None) -> int:
    """The exit status after the result was told: 1 for what the user can mend; Ctrl-C goes on its way."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if error is not None:
        click.echo(f"Error: {' '.join(str(error).splitlines())}", err=True)
    return int(error is not None)


def config_of(flags: Flags, how: BackendFlags, frames: int) -> BenchConfig:
    """What the flags say of a measurement; `frames` count where they do not say how long."""
    from acd_edge.bench.measure import Plan
    from acd_edge.bench.run import BenchConfig
    from acd_edge.runtime.sources import ReadOptions

    wanted = frames if flags.frames is None and flags.seconds is None else flags.frames
    return BenchConfig(
        texts=flags.sources,
        plan=Plan(frames=wanted, seconds=flags.seconds, warm_up=flags.warm_up),
        options=how.options,
        asked_backend=how.backend,
        soak_minutes=flags.soak,
        read=ReadOptions(bit_depth=flags.bit_depth, max_pixels=flags.max_pixels, timeout=flags.timeout),
    )


class Keeper:
    """Writes the result, at the end and after each window of a soak; a disk that is full loses no measurement.

    Attributes:
        error: why the newest result is not on the disk; None where it is.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = None if path == STDOUT else path
        self.error: OutputError | None = None

    def write(self, values: Mapping[str, Any]) -> None:
        """Write it, or tell once why it cannot be."""
        from acd_edge.bench.measure import GOING_ON
        from acd_edge.bench.results import write_json

        if self._path is None:
            return
        known = self.error is not None
        try:
            write_json(self._path, values)
            self.error = None
        except OutputError as error:
            self.error = error
            if not known and values["ending"] == GOING_ON:
                click.echo(f"{error}; the measuring goes on", err=True)


def _draw(path: Path | None, draw: Any) -> None:
    from acd_edge.bench.plot import write_plot

    if path is not None:
        canvas: Canvas = draw()
        write_plot(path, canvas)
        click.echo(f"{path} written", err=True)


def _title(values: Mapping[str, Any]) -> str:
    subject = values["subject"]
    return f"{subject['bundle']} at {subject['size']}, {subject['precision']}, {subject['backend']}"


class Progress:
    """A line on stderr every few seconds: how many frames, how long they take, how much is left."""

    def __init__(self, flags: Flags, every_s: float = 5.0) -> None:
        self._flags, self._every_s = flags, every_s
        self._next = time.monotonic() + every_s

    def frame(self, measured: Measurement, times: FrameTimes) -> None:
        """Tell, when it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every_s
        seen, seconds = measured.kept.seen, measured.ended - measured.began
        click.echo(f"{seen} frames, the last {times.end_to_end:.1f} ms{self._left(seen, seconds)}", err=True)

    def _left(self, seen: int, seconds: float) -> str:
        flags = self._flags
        limit = flags.seconds if flags.soak is None else flags.soak * 60
        if limit is not None:
            return f", {max(limit - seconds, 0):.0f} s left"
        wanted = flags.frames or 200
        return f" of {wanted}, about {seconds / seen * (wanted - seen):.0f} s left" if seen < wanted else ""
