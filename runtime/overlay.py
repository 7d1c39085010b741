"""A frame with its heat map, and below it the score, the threshold, the product and what the colours mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from acd_edge.runtime.preprocess import Pixels

FloatArray = NDArray[np.float32]

# Heat from dark violet to pale yellow: brightness rises with the value, so that it also reads in gray and for
# colour-blind eyes (anchors after the usual perceptual "inferno" order, brighter at the low end to show on dark parts).
_ANCHORS = np.array(
    [(60, 20, 120), (120, 28, 140), (190, 40, 110), (235, 75, 60), (252, 140, 30), (254, 205, 60), (255, 250, 170)],
    np.float32,
)
_VISIBLE_FROM, _FULL_FROM = 0.08, 0.55  # map values where colour begins and where it is strongest
_STRONGEST = 0.68  # opacity; the defect itself stays visible
_CONTOUR_AT = 0.5  # more likely abnormal than not
_FADED = 0.45  # share of gray in the picture, so that only heat is colourful
_SMALLEST_SIDE = 480  # pixels; smaller frames are enlarged by a whole number
_NARROWEST = 480  # pixels; the strip below needs them
_BAND = 64  # rows that are mixed at a time
_PAPER, _INK, _QUIET = (22, 24, 29), (240, 242, 245), (150, 156, 166)
_BAD, _GOOD = (226, 62, 62), (52, 168, 99)


def draw_overlay(
    rgb: Pixels, anomaly_map: FloatArray, *, score: float, threshold: float | None = None, product: str = ""
) -> Pixels:
    """Draw the heat map over the frame and a strip below it.

    The colours have one meaning everywhere, the abnormal probability from 0 to 1, so that overlays compare. A white
    line surrounds what is more likely abnormal than not.

    Args:
        rgb: (H, W, 3) uint8.
        anomaly_map: (H, W) in 0 to 1.
        score, threshold: of the frame; without a threshold there is no verdict.
        product: what the detector looked for.

    Returns:
        uint8 RGB. Frames of less than 480 pixels are enlarged by a whole number; the strip stands below.
    """
    zoom = max(1, -(-_SMALLEST_SIDE // max(rgb.shape[:2])))
    picture, heat = _enlarged(rgb, zoom, Image.Resampling.BICUBIC), _enlarged_map(anomaly_map, zoom)
    height, width = heat.shape
    canvas_width = max(width, _NARROWEST)
    strip = _strip(canvas_width, score=score, threshold=threshold, product=product)
    canvas = np.empty((height + strip.shape[0], canvas_width, 3), np.uint8)
    left = (canvas_width - width) // 2
    canvas[:height, :left] = canvas[:height, left + width :] = np.array(_PAPER, np.uint8)
    _draw_heat(canvas[:height, left : left + width], picture, heat)
    canvas[height:] = strip
    return canvas


def heat_colours(values: FloatArray) -> Pixels:
    """Colours of values in 0 to 1: (...) to (..., 3)."""
    return _colour_table()[_levels(values)]


@lru_cache(1)
def _colour_table() -> Pixels:
    places = np.linspace(0, 1, len(_ANCHORS))
    steps = np.linspace(0, 1, 256)
    return np.stack([np.interp(steps, places, _ANCHORS[:, channel]) for channel in range(3)], axis=1).astype(np.uint8)


@lru_cache(1)
def _opacity_table() -> NDArray[np.uint8]:
    rising = np.clip((np.linspace(0, 1, 256) - _VISIBLE_FROM) / (_FULL_FROM - _VISIBLE_FROM), 0, 1)
    smooth = rising * rising * (3 - 2 * rising) * _STRONGEST
    return np.round(smooth * 255).astype(np.uint8)


def _levels(values: FloatArray) -> NDArray[np.uint8]:
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def _draw_heat(target: Pixels, rgb: Pixels, anomaly_map: FloatArray) -> None:
    """Fill `target` with faded + (colour - faded) * opacity and the white line; all (H, W, 3) and (H, W).

    Pillow mixes bytes faster than numpy floats, and a band of rows at a time stays in the processor's cache.
    """
    palette, opacity = _colour_table().tobytes(), _opacity_table()
    for top in range(0, len(rgb), _BAND):
        band = slice(top, top + _BAND)
        levels = _levels(anomaly_map[band])
        picture, heat = Image.fromarray(rgb[band]), Image.fromarray(levels)
        faded = Image.blend(picture, picture.convert("L").convert("RGB"), _FADED)
        heat.putpalette(palette)
        mixed = Image.composite(heat.convert("RGB"), faded, Image.fromarray(opacity[levels]))
        target[band] = np.asarray(mixed)
    line = _contour(anomaly_map >= _CONTOUR_AT, max(1, round(min(rgb.shape[:2]) / 400)))
    target[line] = 255


def _contour(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Pixels inside that touch the outside within `width`; the picture's border is no outside."""
    core = inside.copy()
    for _ in range(width):
        shrunk = core.copy()
        shrunk[1:] &= core[:-1]
        shrunk[:-1] &= core[1:]
        shrunk[:, 1:] &= core[:, :-1]
        shrunk[:, :-1] &= core[:, 1:]
        core = shrunk
    return inside & ~core


def _enlarged(rgb: Pixels, zoom: int, method: Image.Resampling) -> Pixels:
    if zoom == 1:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((rgb.shape[1] * zoom, rgb.shape[0] * zoom), method))


def _enlarged_map(anomaly_map: FloatArray, zoom: int) -> FloatArray:
    if zoom == 1:
        return anomaly_map
    height, width = anomaly_map.shape
    return np.asarray(Image.fromarray(anomaly_map).resize((width * zoom, height * zoom), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class _Pen:
    """Draws on the strip; `unit` pixels are the height of a text line."""

    draw: ImageDraw.ImageDraw
    unit: int

    def text(self, xy: tuple[float, float], text: str, colour: tuple[int, int, int], size: float, anchor: str) -> float:
        """Write and return the width in pixels; the anchor is Pillow's, `l`, `m` or `r` and `m`."""
        font = _font(round(self.unit * size))
        if isinstance(font, ImageFont.FreeTypeFont):
            self.draw.text(xy, text, colour, font, anchor=anchor)
            return float(self.draw.textlength(text, font))
        x0, y0, x1, y1 = self.draw.textbbox((0, 0), text, font)  # an old Pillow has one small font without anchors
        shift = {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * (x1 - x0)
        self.draw.text((xy[0] - shift, xy[1] - (y1 - y0) / 2), text, colour, font)
        return float(x1 - x0)


@lru_cache(16)
def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):  # Pillow below 10.1, or built without FreeType
        return ImageFont.load_default()


def _strip(width: int, *, score: float, threshold: float | None, product: str) -> Pixels:
    unit = int(np.clip(width / 36, 15, 30))
    strip = Image.new("RGB", (width, round(unit * 4.4)), _PAPER)
    pen = _Pen(ImageDraw.Draw(strip), unit)
    verdict = _QUIET if threshold is None else _BAD if score >= threshold else _GOOD
    strip.paste(verdict, (0, 0, width, max(2, unit // 5)))
    margin, middle = unit, unit * 2.3
    used = margin + pen.text((margin, middle), f"{score:.2f}", _INK, 2.1, "lm") + unit
    _write_facts(pen, used, score=score, threshold=threshold, product=product)
    _draw_scale(strip, pen, right=width - margin, length=unit * 10)
    return np.asarray(strip)


def _write_facts(pen: _Pen, left: float, *, score: float, threshold: float | None, product: str) -> None:
    unit = pen.unit
    if threshold is None:
        word, colour, below = "score", _INK, "no threshold"
    else:
        word, colour = ("ANOMALOUS", _BAD) if score >= threshold else ("GOOD", _GOOD)
        below = f"threshold {threshold:.2f}"
    used = pen.text((left, unit * 1.65), word, colour, 1.0, "lm")
    pen.text((left + used + unit * 0.6, unit * 1.65), _shortened(product, 14), _INK, 0.9, "lm")
    pen.text((left, unit * 3.0), below, _QUIET, 0.9, "lm")


def _draw_scale(strip: Image.Image, pen: _Pen, *, right: int, length: int) -> None:
    unit = pen.unit
    left, top, thick = right - length, round(unit * 1.3), max(6, round(unit * 0.8))
    ramp = heat_colours(np.linspace(0, 1, length, dtype=np.float32))
    strip.paste(Image.fromarray(np.repeat(ramp[None], thick, axis=0)), (left, top))
    for share, label, anchor in ((0.0, "0", "lm"), (0.5, "0.5", "mm"), (1.0, "1", "rm")):
        x = left + round(share * (length - 1))
        pen.draw.line([(x, top + thick), (x, top + thick + unit // 4)], _QUIET)
        pen.text((x, unit * 3.0), label, _QUIET, 0.85, anchor)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
