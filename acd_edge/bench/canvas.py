"""Lines, dots, bars and words, drawn as SVG or as PNG alike: a device has Pillow, but no plotting library."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from itertools import pairwise
from typing import Any, Literal, final

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Canvas", "Colour", "Point"]

Point = tuple[float, float]
Colour = tuple[int, int, int]
Anchor = Literal["start", "middle", "end"]
_FINER = 3  # a PNG is drawn so many times larger and shrunk, which smooths its edges
_SHARPER = 2  # pixels of a PNG for each unit
_SHIFT = {"start": 0.0, "middle": 0.5, "end": 1.0}
_DASH = (6.0, 4.0)


@dataclass(frozen=True)
class _Path:
    points: Sequence[Point]
    colour: Colour
    width: float
    is_dashed: bool


@dataclass(frozen=True)
class _Dots:
    points: Sequence[Point]
    colour: Colour
    radius: float


@dataclass(frozen=True)
class _Bar:
    corner: Point
    width: float
    height: float
    colour: Colour


@dataclass(frozen=True)
class _Words:
    place: Point
    text: str
    colour: Colour
    size: float
    anchor: Anchor
    is_turned: bool
    is_bold: bool


@final
class Canvas:
    """A drawing of so many units; the y axis goes down, words stand on their baseline."""

    def __init__(self, width: int, height: int, background: Colour = (255, 255, 255)) -> None:
        self.width, self.height, self._background = width, height, background
        self._shapes: list[_Path | _Dots | _Bar | _Words] = []

    def path(self, points: Sequence[Point], colour: Colour, *, width: float = 1, dashed: bool = False) -> None:
        """Straight lines from point to point."""
        self._shapes.append(_Path(points, colour, width, dashed))

    def dots(self, points: Sequence[Point], colour: Colour, *, radius: float = 1.5) -> None:
        """Discs."""
        self._shapes.append(_Dots(points, colour, radius))

    def bar(self, corner: Point, width: float, height: float, colour: Colour) -> None:
        """A filled rectangle from its upper left corner."""
        self._shapes.append(_Bar(corner, width, height, colour))

    def words(
        self, place: Point, text: str, colour: Colour, *, size: float = 12, anchor: Anchor = "start",
        turned: bool = False, bold: bool = False,
    ) -> None:  # fmt: skip
        """One line of text; `turned` reads upwards."""
        self._shapes.append(_Words(place, text, colour, size, anchor, turned, bold))

    def svg(self) -> str:
        """As SVG that needs nothing else."""
        parts = [_SVG[type(shape)](shape) for shape in self._shapes]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" font-family="system-ui, sans-serif">'
            f'<rect width="100%" height="100%" fill="{_hex(self._background)}"/>{"".join(parts)}</svg>\n'
        )

    def png(self) -> bytes:
        """As PNG with two pixels a unit."""
        scale = _SHARPER * _FINER
        picture = Image.new("RGB", (self.width * scale, self.height * scale), self._background)
        for shape in self._shapes:
            if not isinstance(shape, _Words):
                _PILLOW[type(shape)](ImageDraw.Draw(picture), shape, scale)
        picture = picture.resize((self.width * _SHARPER, self.height * _SHARPER), Image.Resampling.LANCZOS)
        for shape in self._shapes:
            if isinstance(shape, _Words):  # fonts are smooth by themselves
                _write(picture, shape, _SHARPER)
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return stream.getvalue()


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _svg_path(shape: Any) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
    dash = f' stroke-dasharray="{_DASH[0]:g} {_DASH[1]:g}"' if shape.is_dashed else ""
    return (
        f'<polyline points="{points}" fill="none" stroke="{_hex(shape.colour)}" stroke-width="{shape.width:g}"'
        f'{dash} stroke-linejoin="round"/>'
    )


def _svg_dots(shape: Any) -> str:
    """One path of lines without length, whose round ends are the dots."""
    steps = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in shape.points)
    return (
        f'<path d="{steps}" stroke="{_hex(shape.colour)}" stroke-width="{2 * shape.radius:g}" stroke-linecap="round"/>'
    )


def _svg_bar(shape: Any) -> str:
    (x, y), wide, high = shape.corner, shape.width, shape.height
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="{_hex(shape.colour)}"/>'


def _svg_words(shape: Any) -> str:
    (x, y), weight = shape.place, ' font-weight="600"' if shape.is_bold else ""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if shape.is_turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{shape.size:g}" fill="{_hex(shape.colour)}" '
        f'text-anchor="{shape.anchor}"{weight}{turn}>{escape(shape.text)}</text>'
    )


_SVG = {_Path: _svg_path, _Dots: _svg_dots, _Bar: _svg_bar, _Words: _svg_words}


def _draw_path(draw: ImageDraw.ImageDraw, shape: Any, scale: int) -> None:
    points = [(x * scale, y * scale) for x, y in shape.points]
    width = max(1, round(shape.width * scale))
    if not shape.is_dashed:
        draw.line(points, shape.colour, width, joint="curve")
        return
    on, off = _DASH[0] * scale, _DASH[1] * scale
    for (x1, y1), (x2, y2) in pairwise(points):
        length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1e-9)
        for place in range(int(length / (on + off)) + 1):
            start, stop = place * (on + off) / length, min((place * (on + off) + on) / length, 1.0)
            ends = [(x1 + (x2 - x1) * share, y1 + (y2 - y1) * share) for share in (start, stop)]
            draw.line(ends, shape.colour, width)


def _draw_dots(draw: ImageDraw.ImageDraw, shape: Any, scale: int) -> None:
    reach = shape.radius * scale
    for x, y in shape.points:
        draw.ellipse((x * scale - reach, y * scale - reach, x * scale + reach, y * scale + reach), shape.colour)


def _draw_bar(draw: ImageDraw.ImageDraw, shape: Any, scale: int) -> None:
    (x, y), wide, high = shape.corner, shape.width, shape.height
    right, floor = max((x + wide) * scale - 1, x * scale), max((y + high) * scale - 1, y * scale)
    draw.rectangle((x * scale, y * scale, right, floor), shape.colour)


_PILLOW = {_Path: _draw_path, _Dots: _draw_dots, _Bar: _draw_bar}


def _write(picture: Image.Image, shape: _Words, scale: int) -> None:
    """Words on a patch of their own, which is turned where they are, and pasted with its baseline at the place."""
    font = _font(round(shape.size * scale))
    left, top, right, bottom = font.getbbox(shape.text)
    if right <= left or bottom <= top:
        return
    mask = Image.new("L", (round(right - left) + 2, round(bottom - top) + 2))
    ImageDraw.Draw(mask).text((-left, -top), shape.text, 255, font)  # Pillow's own font has no bold face
    rise = _ascent(font) - top  # from the baseline up to the patch's upper edge
    shift = _SHIFT[shape.anchor] * (right - left)
    x, y = shape.place[0] * scale, shape.place[1] * scale
    if shape.is_turned:
        mask = mask.rotate(90, expand=True)
        corner = (round(x - rise), round(y + shift - mask.height))
    else:
        corner = (round(x - shift), round(y - rise))
    picture.paste(shape.colour, corner, mask)


@lru_cache(16)
def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):  # Pillow below 10.1, or built without FreeType: one small font
        return ImageFont.load_default()


def _ascent(font: Any) -> float:
    return float(font.getmetrics()[0]) if hasattr(font, "getmetrics") else float(font.getbbox("A")[3])
