"""Exhibits as pairs of pictures: the truth drawn into the picture, and the runtime's own overlay."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from acd_edge.data.samples import read_full
from acd_edge.errors import DataError
from acd_edge.lazy import require
from acd_edge.results import Exhibit
from acd_edge.runtime.detector import stretch_map
from acd_edge.runtime.overlay import draw_overlay

Bytes = npt.NDArray[np.uint8]

_LONGEST = 480  # pixels; from there on `draw_overlay` neither enlarges nor pads
_JPEG_QUALITY = 82
_TRUTH, _HALO = (64, 240, 190), (12, 20, 24)


def gallery(title: str, remark: str, exhibits: Sequence[Exhibit], words: str) -> str:
    """A row of exhibits under a title; nothing where there are none."""
    if not exhibits:
        return ""
    cards = "".join(_card(exhibit, words) for exhibit in exhibits)
    return f'<h3>{escape(title)} <small>{escape(remark)}</small></h3><div class="gallery">{cards}</div>'


def _card(exhibit: Exhibit, words: str) -> str:
    name = _short(exhibit.sample.image)
    facts = f"score {exhibit.score:.3f}" + ("" if exhibit.ap is None else f", pixel AP {100 * exhibit.ap:.1f}")
    try:
        truth, overlay = _pictures(exhibit, words)
    except DataError as error:  # it was there a minute ago; the page is still worth having
        return f"<figure><figcaption>{escape(name)}: {escape(str(error))}</figcaption></figure>"
    images = _image(truth, f"{name} with its true defect") + _image(overlay, f"heat map of {name}")
    return (
        f'<figure><div class="pair">{images}</div>'
        f'<figcaption title="{escape(str(exhibit.sample.image))}"><b>{escape(name)}</b> {facts}</figcaption></figure>'
    )


def _pictures(exhibit: Exhibit, words: str) -> tuple[Bytes, Bytes]:
    """The picture with the truth's outline, and the overlay, of one width."""
    picture, mask = read_full(exhibit.sample)
    height, width = picture.shape[:2]
    zoom = _LONGEST / max(height, width)
    shown_hw = max(1, round(height * zoom)), max(1, round(width * zoom))
    shown = np.asarray(Image.fromarray(picture).resize(shown_hw[::-1], Image.Resampling.LANCZOS))
    anomaly_map = stretch_map(exhibit.levels.astype(np.float32) / np.float32(255), shown_hw)
    overlay = draw_overlay(shown, anomaly_map, score=exhibit.score, product=words)
    return _padded(_outlined(shown, mask), overlay.shape[1], overlay[-1, 0]), overlay


def _outlined(shown: Bytes, mask: Bytes) -> Bytes:
    """Draw the outline of the full-size mask, so that a thin defect stays a line."""
    cv2 = require("cv2", "cpu")
    canvas = np.array(shown)
    scale = np.array([shown.shape[1] / mask.shape[1], shown.shape[0] / mask.shape[0]])
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    lines = [np.round((outline[:, 0] + 0.5) * scale - 0.5).astype(np.int32) for outline in outlines]
    for colour, thickness in ((_HALO, 4), (_TRUTH, 2)):
        cv2.polylines(canvas, lines, True, colour, thickness, cv2.LINE_AA)
    return canvas


def _padded(picture: Bytes, width: int, paper: Bytes) -> Bytes:
    """Centre a narrow picture, as the overlay does."""
    if picture.shape[1] >= width:
        return picture
    canvas = np.empty((picture.shape[0], width, 3), np.uint8)
    canvas[:] = paper
    left = (width - picture.shape[1]) // 2
    canvas[:, left : left + picture.shape[1]] = picture
    return canvas


def _image(pixels: Bytes, alt: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width = pixels.shape[:2]
    source = f"data:image/jpeg;base64,{data}"
    return f'<img loading="lazy" width="{width}" height="{height}" alt="{escape(alt)}" src="{source}">'


def _short(path: Path) -> str:
    """Kind and name, which are what tells pictures of a category apart."""
    return "/".join(path.parts[-2:])
