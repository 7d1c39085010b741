"""The picture of a result: every frame's latency, and where the time goes; of a soak its windows and its heat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from acd_edge.bench.canvas import Canvas, Colour, Point
from acd_edge.bench.results import write_whole
from acd_edge.errors import UsageError

__all__ = ["PLOT_SUFFIXES", "check_plot", "ladder_plot", "result_plot", "write_plot"]

PLOT_SUFFIXES = (".svg", ".png")
INK: Colour = (28, 33, 39)
QUIET: Colour = (93, 102, 113)
GRID: Colour = (223, 226, 230)
BLUE: Colour = (31, 111, 178)
PALE: Colour = (150, 190, 225)
ORANGE: Colour = (212, 98, 42)
GREEN: Colour = (46, 139, 87)
_WIDTH, _MARGIN = 960, 24
_MOST_DOTS = 4000
_NAMES = {"end_to_end": "end to end", "decision": "to the decision"}


class Frame(NamedTuple):
    """Where the axes of a panel lie on the canvas."""

    left: float
    top: float
    right: float
    bottom: float


class Axis(NamedTuple):
    """Ticks from the least to the largest value that is shown."""

    ticks: tuple[float, ...]

    @property
    def low(self) -> float:
        """First tick."""
        return self.ticks[0]

    @property
    def high(self) -> float:
        """Last tick."""
        return self.ticks[-1]


def check_plot(path: Path) -> None:
    """Refuse a name that says no format.

    Raises:
        UsageError: it ends in neither .svg nor .png.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(f"--plot takes a name that ends in .svg or .png, got {path.name}")


def write_plot(path: Path, canvas: Canvas) -> None:
    """Write a canvas in the format that the name says, whole or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    write_whole(path, canvas.png() if path.suffix.lower() == ".png" else canvas.svg().encode())


def result_plot(values: Mapping[str, Any], title: str) -> Canvas:
    """Draw a document of `acd_edge.bench.results`; `title` stands above."""
    soak = values.get("soak")
    windows = soak["windows"] if soak else []
    canvas = Canvas(_WIDTH, 640 if len(windows) < 2 else 880)
    canvas.words((_MARGIN, 34), title, INK, size=15, bold=True)
    canvas.words((_MARGIN, 54), _subtitle(values), QUIET)
    _series(canvas, values, Frame(70, 100, 820, 330))
    _stages(canvas, values["rows_ms"], Frame(130, 400, 820, 590))
    if len(windows) > 1:
        _heat(canvas, windows, Frame(70, 690, 820, 830))
    return canvas


def _subtitle(values: Mapping[str, Any]) -> str:
    ending = "" if values["ending"] == "complete" else f", {values['ending']}"
    return f"{values['frames']} frames, {values['frames_per_second']:.1f} a second, {values['source']}{ending}"


def axis_of(values: Sequence[float], *, from_zero: bool = True) -> Axis:
    """About five round ticks that hold all values.

    >>> axis_of([3.0, 17.0]).ticks
    (0.0, 5.0, 10.0, 15.0, 20.0)
    """
    low = 0.0 if from_zero else min(values)
    high = max(max(values), low)
    span = high - low or max(abs(high), 1.0) * 0.1
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= span / 4 * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return Axis(tuple(round(place * step, 10) for place in range(first, last + 1)))


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def _scale(axis: Axis, start: float, stop: float) -> Callable[[float], float]:
    return lambda value: start + (value - axis.low) / (axis.high - axis.low) * (stop - start)


def _axes(canvas: Canvas, frame: Frame, across: Axis | None, up: Axis | None, *, below: str, beside: str) -> None:
    if up is not None:
        y = _scale(up, frame.bottom, frame.top)
        for tick in up.ticks:
            canvas.path([(frame.left, y(tick)), (frame.right, y(tick))], GRID)
            canvas.words((frame.left - 8, y(tick) + 4), f"{tick:g}", QUIET, anchor="end")
    if across is not None:
        x = _scale(across, frame.left, frame.right)
        for tick in across.ticks:
            canvas.path([(x(tick), frame.top), (x(tick), frame.bottom)], GRID)
            canvas.words((x(tick), frame.bottom + 18), f"{tick:g}", QUIET, anchor="middle")
    middle = ((frame.left + frame.right) / 2, frame.bottom + 38)
    canvas.words(middle, below, QUIET, anchor="middle")
    if beside:
        canvas.words((frame.left - 46, (frame.top + frame.bottom) / 2), beside, QUIET, anchor="middle", turned=True)


def _series(canvas: Canvas, values: Mapping[str, Any], frame: Frame) -> None:
    """Every frame as a dot, the percentiles as lines, named where they leave the panel."""
    latencies, row = values["samples_ms"]["end_to_end"], values["rows_ms"]["end_to_end"]
    stride = values["kept_one_of"]
    across, up = axis_of([stride * len(latencies)]), axis_of(latencies)
    _axes(canvas, frame, across, up, below="frame", beside="end to end, ms")
    x, y = _scale(across, frame.left, frame.right), _scale(up, frame.bottom, frame.top)
    thin = max(1, len(latencies) // _MOST_DOTS)
    canvas.dots([(x(stride * place), y(latencies[place])) for place in range(0, len(latencies), thin)], BLUE)
    named: list[Point] = []
    for name in ("p50", "p95", "p99"):
        canvas.path([(frame.left, y(row[name])), (frame.right, y(row[name]))], ORANGE, width=1.2, dashed=True)
        named.append((y(row[name]), row[name]))
    for (place, value), name in zip(_apart([place for place, _ in named]), ("p50", "p95", "p99"), strict=True):
        canvas.words((frame.right + 8, place + 4), f"{name} {_ms(named[value][1])} ms", ORANGE)


def _apart(places: Sequence[float], least: float = 15) -> list[tuple[float, int]]:
    """Places of labels from below upwards, moved up until they do not touch; with the number of each."""
    found: list[tuple[float, int]] = []
    for number, place in enumerate(places):
        found.append((min(place, found[-1][0] - least) if found else place, number))
    return found


def _stages(canvas: Canvas, rows: Mapping[str, Any], frame: Frame) -> None:
    """A bar to the median of each row, which stands in figures too, and a line on to its 99th percentile."""
    shown = [(name, row) for name, row in rows.items() if row is not None]
    across = axis_of([row["p99"] for _, row in shown])
    _axes(canvas, frame, across, None, below="ms: bar and number the median, line to p99", beside="")
    x, step = _scale(across, frame.left, frame.right), (frame.bottom - frame.top) / len(shown)
    for place, (name, row) in enumerate(shown):
        top, high = frame.top + place * step + step * 0.18, step * 0.64
        colour = PALE if name in _NAMES else BLUE
        canvas.bar((frame.left, top), max(x(row["p50"]) - frame.left, 0), high, colour)
        ends = [(max(x(row["p50"]), frame.left), top + high / 2), (max(x(row["p99"]), frame.left), top + high / 2)]
        canvas.path(ends, INK, width=1.2)
        canvas.words((frame.left - 8, top + high / 2 + 4), _NAMES.get(name, name), INK, anchor="end")
        canvas.words((ends[1][0] + 6, top + high / 2 + 4), _ms(row["p50"]), QUIET)


def _heat(canvas: Canvas, windows: Sequence[Mapping[str, Any]], frame: Frame) -> None:
    """Median and 95th percentile of each window over the minutes, the hottest sensor, ticks where throttled."""
    minutes = [(window["from_s"] + window["seconds"] / 2) / 60 for window in windows]
    p95 = [window["p95_ms"] for window in windows]
    across, up = axis_of([*minutes, (windows[-1]["from_s"] + windows[-1]["seconds"]) / 60]), axis_of(p95)
    _axes(canvas, frame, across, up, below="minutes", beside="window, ms")
    x, y = _scale(across, frame.left, frame.right), _scale(up, frame.bottom, frame.top)
    for column, colour in (("p95_ms", PALE), ("p50_ms", BLUE)):
        canvas.path([(x(at), y(window[column])) for at, window in zip(minutes, windows, strict=True)], colour, width=2)
    canvas.words((frame.left + 6, frame.top - 8), "p50 and p95 of the windows", BLUE)
    hottest = [max(window["temperatures_c"].values(), default=None) for window in windows]
    told = [(at, heat) for at, heat in zip(minutes, hottest, strict=True) if heat is not None]
    if len(told) > 1:
        beside = axis_of([heat for _, heat in told], from_zero=False)
        degrees = _scale(beside, frame.bottom, frame.top)
        canvas.path([(x(at), degrees(heat)) for at, heat in told], ORANGE, width=2)
        for tick in beside.ticks:
            canvas.words((frame.right + 8, degrees(tick) + 4), f"{tick:g} °C", ORANGE)
        canvas.words((frame.right, frame.top - 8), "hottest sensor", ORANGE, anchor="end")
    if any(window["throttled"] for window in windows):
        middle = ((frame.left + frame.right) / 2, frame.top - 8)
        canvas.words(middle, "ticks below: throttled", ORANGE, anchor="middle")
    for at, window in zip(minutes, windows, strict=True):
        if window["throttled"]:
            canvas.path([(x(at), frame.bottom), (x(at), frame.bottom - 10)], ORANGE, width=3)


def ladder_plot(rungs: Sequence[Mapping[str, Any]], budget_ms: float, title: str) -> Canvas:
    """Latency (p95) across, pixel AUROC up, the budget as a line; rungs that could not be measured are left out.

    Args:
        rungs: with `name`, `p95_ms`, `pixel_auroc` and `fits`.
        budget_ms: of the line.
        title: stands above.
    """
    canvas, frame = Canvas(_WIDTH, 520), Frame(80, 90, 900, 440)
    canvas.words((_MARGIN, 34), title, INK, size=15, bold=True)
    shown = [rung for rung in rungs if rung["p95_ms"] is not None and rung["pixel_auroc"] is not None]
    if not shown:
        canvas.words((_MARGIN, 70), "no rung could be measured", QUIET)
        return canvas
    across = axis_of([*(rung["p95_ms"] for rung in shown), budget_ms])
    up = axis_of([100 * rung["pixel_auroc"] for rung in shown], from_zero=False)
    _axes(canvas, frame, across, up, below="p95 of a frame to the decision, ms", beside="pixel AUROC, per cent")
    x, y = _scale(across, frame.left, frame.right), _scale(up, frame.bottom, frame.top)
    canvas.path([(x(budget_ms), frame.top), (x(budget_ms), frame.bottom)], ORANGE, width=1.5, dashed=True)
    canvas.words((x(budget_ms) + 5, frame.top - 6), f"budget {budget_ms:g} ms", ORANGE)
    dots = [(x(rung["p95_ms"]), y(100 * rung["pixel_auroc"])) for rung in shown]
    for rung, dot in zip(shown, dots, strict=True):
        canvas.dots([dot], GREEN if rung["fits"] else QUIET, radius=5)
    for rung, place in zip(shown, _free_places([rung["name"] for rung in shown], dots), strict=True):
        canvas.words(place, rung["name"], INK, size=11, anchor="middle")
    return canvas


def _free_places(names: Sequence[str], dots: Sequence[Point]) -> list[Point]:
    """Baselines for the middles of names near their dots: above, below, or further away where others are."""
    taken: list[tuple[float, float, float]] = [(x, y + 4, 14.0) for x, y in dots]
    found = []
    for name, (x, y) in zip(names, dots, strict=True):
        wide = 6.5 * len(name)
        spots = [(x, y + rise) for rise in (-10, 19, -24, 33, -38, 47)]
        spot = next((each for each in spots if not any(_meets(each, wide, other) for other in taken)), spots[0])
        taken.append((*spot, wide))
        found.append(spot)
    return found


def _meets(spot: Point, wide: float, other: tuple[float, float, float]) -> bool:
    return abs(spot[0] - other[0]) < (wide + other[2]) / 2 and abs(spot[1] - other[1]) < 12
