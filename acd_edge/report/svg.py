"""Charts as inline SVG; their colours are the page's classes, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from acd_edge.metrics import Curve

_WIDTH, _HEIGHT = 300, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 40
_BARS = 36
_LEAST_RANGE = 0.05  # of scores, so that equal ones do not fill the axis


class Axis(NamedTuple):
    """What an axis shows, and from where to where; it gets a tick at each of the values."""

    title: str
    ticks: tuple[float, ...]

    @property
    def ends(self) -> tuple[float, float]:
        """First and last tick."""
        return self.ticks[0], self.ticks[-1]


_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
CURVES = {
    "ROC": (Axis("false positive rate", _SHARES), Axis("true positive rate", _SHARES)),
    "PR": (Axis("recall", _SHARES), Axis("precision", _SHARES)),
    "PRO": (Axis("false positive rate", (0.0, 0.1, 0.2, 0.3)), Axis("overlap of the regions", _SHARES)),
}
"""Name of a curve -> its axes."""


def curve_chart(name: str, curve: Curve) -> str:
    """A curve of `CURVES` in its axes, with the area below it."""
    across, up = CURVES[name]
    x, y = _scale(across.ends, _LEFT, _WIDTH - _RIGHT), _scale(up.ends, _HEIGHT - _BOTTOM, _TOP)
    points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(curve.x, curve.y, strict=True))
    first, last, floor = x(float(curve.x[0])), x(float(curve.x[-1])), y(0.0)
    chance = _line(x(0), y(0), x(across.ends[1]), y(across.ends[1]), "chance") if name == "ROC" else ""
    return _svg(
        f"{name} curve",
        f"{_frame(across, up, x, y)}{chance}"
        f'<polygon class="area" points="{first:.1f},{floor:.1f} {points} {last:.1f},{floor:.1f}"/>'
        f'<polyline class="curve" points="{points}"/>',
    )


def score_histogram(good: Sequence[float], defective: Sequence[float]) -> str:
    """Scores of good pictures upwards and of defective ones downwards, each as shares of their own number."""
    ticks = _score_ticks([*good, *defective])
    across, edges = Axis("score of the picture", ticks), np.linspace(ticks[0], ticks[-1], _BARS + 1)
    shares = [np.histogram(np.clip(scores, *across.ends), edges)[0] / max(len(scores), 1)
              for scores in (good, defective)]  # fmt: skip
    highest = max(float(share.max()) for share in shares) or 1.0
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    x, reach = _scale(across.ends, _LEFT, _WIDTH - _RIGHT), middle - _TOP - 2
    bars = [_bar(x(edges[i]), x(edges[i + 1]), middle, sign * share[i] / highest * reach, kind)
            for kind, sign, share in (("good", -1, shares[0]), ("defective", 1, shares[1]))
            for i in range(_BARS) if share[i]]  # fmt: skip
    marks = "".join(
        _line(x(tick), _TOP, x(tick), _HEIGHT - _BOTTOM, "grid") + _text(x(tick), _HEIGHT - 24, f"{tick:.3g}")
        for tick in ticks
    )
    words = (_text(_LEFT - 8, middle - reach / 2, f"{len(good)} good", "turned")
             + _text(_LEFT - 8, middle + reach / 2, f"{len(defective)} defective", "turned"))  # fmt: skip
    axis = _line(_LEFT, middle, _WIDTH - _RIGHT, middle, "axis")
    title = _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, across.title, "title")
    return _svg("scores of good and of defective pictures", f"{marks}{''.join(bars)}{axis}{words}{title}")


def _score_ticks(scores: Sequence[float]) -> tuple[float, ...]:
    """Five ticks around the scores."""
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    middle, half = (low + high) / 2, max((high - low) / 2, _LEAST_RANGE / 2)
    step = _round_up(half / 2)
    first = np.floor((middle - half) / step) * step
    count = int(np.ceil((middle + half - first) / step - 1e-9))
    return tuple(float(first + step * place) for place in range(count + 1))


def _round_up(step: float) -> float:
    """The next of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(step))
    return float(next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9)))


def _scale(ends: tuple[float, float], start: float, stop: float) -> Callable[[float], float]:
    low, high = ends
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _frame(across: Axis, up: Axis, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """Grid, ticks and titles."""
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [_line(x(tick), _TOP, x(tick), floor, "grid") + _text(x(tick), floor + 15, f"{tick:g}")
             for tick in across.ticks]  # fmt: skip
    parts += [_line(_LEFT, y(tick), right, y(tick), "grid") + _text(_LEFT - 5, y(tick) + 3.5, f"{tick:g}", "end")
              for tick in up.ticks]  # fmt: skip
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 6, across.title, "title"))
    parts.append(_text(12, (_TOP + floor) / 2, up.title, "title turned"))
    return "".join(parts)


def _bar(left: float, right: float, floor: float, height: float, kind: str) -> str:
    top = min(floor, floor + height)
    wide = max(right - left - 1, 1)
    return f'<rect class="{kind}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{abs(height):.1f}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if "turned" in kind else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{turn}>{escape(text)}</text>'


def _svg(title: str, content: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{content}</svg>'
    )
