"""Synthetic defects on good pictures: `add_defect` returns the altered picture and its mask.

The defects are meant to be many and unlike each other, for a detector that meets surfaces it has never seen: cracks,
scratches, foreign and shifted texture, pasted patches, stains, soft blobs, smears, missing parts, spots. What is drawn
but cannot be seen is drawn again, so that the mask does not lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from acd_edge.data import strokes
from acd_edge.data.shapes import (
    Bytes,
    Floats,
    Rng,
    blob,
    cv2,
    foreground,
    fractal_noise,
    point_in,
    soft,
    unit_range,
    value_noise,
    weighted,
)
from acd_edge.data.textures import make_texture

_SEEN = 7.0  # grey levels of mean change inside a mask below which a defect counts as invisible
_ATTEMPTS = 4


@dataclass(frozen=True)
class _Scene:
    """What a defect is drawn on: the picture, where its object is, and another picture to take texture from."""

    image: Bytes
    region: Bytes
    donor: Bytes | None

    @property
    def size(self) -> int:
        return len(self.image)


Drawn = tuple[Floats, Floats]
"""The altered picture as float32 (S, S, 3), and the opacity (S, S) from which the mask is cut."""


def add_defect(rng: Rng, image: Bytes, donor: Bytes | None = None, *, kind: str | None = None) -> tuple[Bytes, Bytes]:
    """Draw one to three defects of a kind on a picture.

    Args:
        rng: decides everything.
        image: good picture, uint8 RGB (S, S, 3); not changed.
        donor: another picture of the same size, whose texture may be borrowed.
        kind: a key of `DEFECTS`; drawn by weight unless given.

    Returns:
        uint8 RGB (S, S, 3) and mask uint8 (S, S), 1 where altered. The mask is never empty.

    >>> picture, mask = add_defect(np.random.default_rng(0), np.full((64, 64, 3), 90, np.uint8))
    >>> bool((picture[mask == 1] != 90).any()), bool((picture[mask == 0] != 90).mean() < 0.1)
    (True, True)
    """
    region = foreground(image)
    for _ in range(_ATTEMPTS):
        name = kind or weighted(rng, [(name, weight) for name, (_, weight) in DEFECTS.items()])
        scene = _Scene(image, region, donor)
        mask = np.zeros(image.shape[:2], np.uint8)
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            altered, opacity = DEFECTS[name][0](rng, scene)
            pixels = np.clip(altered + np.float32(0.5), 0, 255).astype(np.uint8)
            mask |= (opacity > 0.25).astype(np.uint8)
            scene = _Scene(pixels, region, donor)
        mask = _visible_part(image, scene.image, mask)
        if mask.sum() >= 6:
            return scene.image, mask
    return _plain_spot(rng, image, region)


def _visible_part(before: Bytes, after: Bytes, mask: Bytes) -> Bytes:
    """Keep the pieces of a mask whose mean change is large enough to be seen."""
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    spots = np.flatnonzero(mask)
    piece = labels.ravel()[spots]
    change = np.abs(after.reshape(-1, 3)[spots].astype(np.int16) - before.reshape(-1, 3)[spots]).max(axis=1)
    total = np.bincount(piece, weights=change, minlength=count)
    keep = total / np.maximum(np.bincount(piece, minlength=count), 1) >= _SEEN
    kept = np.zeros_like(mask)
    kept.ravel()[spots] = keep[piece]
    return kept


def _plain_spot(rng: Rng, image: Bytes, region: Bytes) -> tuple[Bytes, Bytes]:
    """What is drawn when nothing else could be seen: a spot of the opposite brightness."""
    size = image.shape[0]
    mask = (blob(rng, size, point_in(rng, region), max(3.0, size * 0.03)) > 0).astype(np.uint8)
    if not mask.any():
        mask[size // 2, size // 2] = 1
    opposite = np.where(image[..., 1:2] > 127, 20, 235).astype(np.uint8)
    return np.where(mask[..., None] == 1, opposite, image), mask


# Blending


def _mix(image: Bytes, other: Floats, opacity: Floats) -> Floats:
    base = image.astype(np.float32)
    return np.asarray(base + (other - base) * opacity[..., None], np.float32)


def _spot_shape(rng: Rng, scene: _Scene, least: float, most: float, edge: tuple[float, float]) -> Floats:
    """Opacity of an irregular blob inside the object; radii as shares of S, log-uniform, edge widths in pixels."""
    radius = np.exp(rng.uniform(np.log(least), np.log(most))) * scene.size
    field = blob(rng, scene.size, point_in(rng, scene.region), radius, rng.uniform(0.1, 0.6))
    inside = cv2.blur(scene.region.astype(np.float32), (5, 5))
    return np.asarray(soft(field, rng.uniform(*edge)) * inside, np.float32)


def _noise_shape(rng: Rng, scene: _Scene) -> Floats:
    """Opacity of a thresholded noise within an envelope: ragged islands."""
    size = scene.size
    noise = fractal_noise(rng, size, rng.uniform(2, 24), 3, stretch=float(np.exp(rng.uniform(-0.9, 0.9))))
    reach = blob(rng, size, point_in(rng, scene.region), rng.uniform(0.08, 0.4) * size, 0.4)
    field = (noise - np.float32(np.quantile(noise[::4, ::4], rng.uniform(0.5, 0.8)))) * 40
    islands = np.minimum(soft(field, rng.uniform(1, 6)), soft(reach, 4))
    return np.asarray(islands * scene.region, np.float32)


def _tone(rng: Rng, image: Bytes, opacity: Floats, least: float = 18, most: float = 140) -> Floats:
    """Colour change (3,) in grey levels that has room to show: away from black or white where the picture is so."""
    weight = opacity[::3, ::3] + np.float32(1e-6)
    level = float((image[::3, ::3, 1] * weight).sum() / weight.sum())
    brighter = rng.random() < np.clip(1 - level / 255, 0.1, 0.9)
    room = (255 - level) if brighter else level
    change = min(np.exp(rng.uniform(np.log(least), np.log(most))), max(room, least)) * (1 if brighter else -1)
    tint = rng.uniform(-0.25, 0.25, 3) if rng.random() < 0.35 else np.zeros(3)
    return np.asarray(change * (1 + tint), np.float32)


# Kinds


def _stroke(draw: Callable[[Rng, Bytes], Floats]) -> Callable[[Rng, _Scene], Drawn]:
    def defect(rng: Rng, scene: _Scene) -> Drawn:
        line = draw(rng, scene.region)
        line = line * cv2.dilate(scene.region, np.ones((3, 3), np.uint8))
        tone = _tone(rng, scene.image, line, 30, 170)
        altered = scene.image.astype(np.float32) + line[..., None] * tone
        if rng.random() < 0.25:  # a lit rim beside the groove
            rim = np.roll(line, (1, 1), (0, 1)) * (1 - line)
            altered -= rim[..., None] * tone * np.float32(rng.uniform(0.2, 0.6))
        return altered, cv2.dilate(line, np.ones((3, 3), np.uint8))

    return defect


def _crack_surface(rng: Rng, scene: _Scene) -> Drawn:
    """A dark crack on the surface, the commonest defect of mineral and cast surfaces."""
    line = strokes.crack(rng, scene.region) * scene.region
    base = scene.image.astype(np.float32)
    depth = np.float32(rng.uniform(0.35, 0.85))
    opacity = cv2.dilate(line, np.ones((3, 3), np.uint8))
    return np.asarray(base * (1 - depth * line[..., None]), np.float32), opacity


def _blob(rng: Rng, scene: _Scene) -> Drawn:
    """A soft lighter or darker body that keeps the texture under it."""
    opacity = _spot_shape(rng, scene, 0.03, 0.2, (2, 16))
    tone = _tone(rng, scene.image, opacity)
    uneven = 0.6 + 0.4 * value_noise(rng, scene.size, rng.uniform(6, 40))
    strength = opacity * uneven
    if rng.random() < 0.25:  # a dimmer core
        strength = strength * (1 - np.float32(rng.uniform(0.3, 0.8)) * soft(opacity - np.float32(0.95), 0.2))
    return np.asarray(scene.image + strength[..., None] * tone, np.float32), opacity


def _stain(rng: Rng, scene: _Scene) -> Drawn:
    """A wash of colour with a darker rim, multiplied onto the surface."""
    opacity = _spot_shape(rng, scene, 0.03, 0.25, (1, 8))
    colour = np.float32(rng.uniform(0.35, 0.85)) + rng.uniform(-0.25, 0.25, 3) * (rng.random() < 0.6)
    rim = np.float32(rng.uniform(0, 0.5)) * opacity * (1 - opacity) * 4
    base = scene.image.astype(np.float32)
    factor = (1 + opacity[..., None] * (colour.astype(np.float32) - 1)) * (1 - rim[..., None])
    washed = base * factor if cv2.mean(scene.image)[1] > 50 else 255 - (255 - base) * factor
    return np.asarray(washed, np.float32), opacity


def _foreign_texture(rng: Rng, scene: _Scene) -> Drawn:
    """Another picture's texture, or a made one, shining through ragged islands."""
    opacity = _noise_shape(rng, scene) if rng.random() < 0.6 else _spot_shape(rng, scene, 0.03, 0.2, (1, 5))
    other = scene.donor if scene.donor is not None and rng.random() < 0.6 else make_texture(rng, scene.size)
    return _mix(scene.image, other.astype(np.float32), opacity * np.float32(rng.uniform(0.3, 1))), opacity


def _own_texture(rng: Rng, scene: _Scene) -> Drawn:
    """The picture's own texture from elsewhere, turned, enlarged, inverted or of another contrast."""
    opacity = _noise_shape(rng, scene) if rng.random() < 0.4 else _spot_shape(rng, scene, 0.03, 0.18, (1, 5))
    zoom = float(np.exp(rng.uniform(-0.8, 0.8)))
    turn = cv2.getRotationMatrix2D(point_in(rng, scene.region), rng.uniform(0, 360), zoom)
    other = cv2.warpAffine(scene.image, turn, (scene.size, scene.size), borderMode=cv2.BORDER_REFLECT)
    other = other.astype(np.float32) * np.float32(rng.uniform(0.6, 1.4)) + np.float32(rng.uniform(-35, 35))
    if rng.random() < 0.15:
        other = 255 - other
    return _mix(scene.image, other, opacity), opacity


def _cut_paste(rng: Rng, scene: _Scene) -> Drawn:
    """A turned rectangle, wide or thin, cut elsewhere and pasted with another tone."""
    size = scene.size
    long = rng.uniform(0.05, 0.35) * size
    short = long * rng.uniform(0.3, 1) if rng.random() < 0.5 else max(3.0, rng.uniform(0.01, 0.05) * size)
    box = cv2.boxPoints((point_in(rng, scene.region), (long, short), rng.uniform(0, 180)))
    patch = np.zeros((size, size), np.uint8)
    cv2.fillPoly(patch, [np.round(box).astype(np.int32)], 1)
    source = scene.donor if scene.donor is not None and rng.random() < 0.3 else scene.image
    shift = rng.integers(size // 8, size - size // 8, 2)
    other = np.roll(source, tuple(int(s) for s in shift), (0, 1)).astype(np.float32)
    other = other * np.float32(rng.uniform(0.6, 1.3)) + np.float32(rng.uniform(-40, 40))
    opacity = patch.astype(np.float32) * scene.region
    return _mix(scene.image, other, cv2.blur(opacity, (2, 2))), opacity


def _smear(rng: Rng, scene: _Scene) -> Drawn:
    """A patch that is blurred, dragged along a direction, or warped."""
    opacity = _spot_shape(rng, scene, 0.05, 0.22, (2, 10))
    choice = rng.random()
    if choice < 0.3:
        other = cv2.GaussianBlur(scene.image, (0, 0), rng.uniform(3, 9))
    elif choice < 0.6:
        length = int(rng.integers(9, 45))
        kernel = np.zeros((length, length), np.float32)
        angle, half = rng.uniform(0, np.pi), (length - 1) / 2
        end = np.array([np.cos(angle), np.sin(angle)]) * half
        first, last = np.round(half - end).astype(int), np.round(half + end).astype(int)
        cv2.line(kernel, tuple(map(int, first)), tuple(map(int, last)), 1.0, 1)
        other = cv2.filter2D(scene.image, -1, kernel / kernel.sum())
    else:
        other = _warped(rng, scene.image)
    tone = np.float32(rng.uniform(-25, 25) if rng.random() < 0.5 else 0)
    return _mix(scene.image, other.astype(np.float32) + tone, opacity), opacity


def _warped(rng: Rng, image: Bytes) -> Bytes:
    size = image.shape[0]
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    reach, cells = np.float32(rng.uniform(0.04, 0.12) * size), rng.uniform(6, 24)
    xs += reach * (value_noise(rng, size, cells) - np.float32(0.5))
    ys += reach * (value_noise(rng, size, cells) - np.float32(0.5))
    warped: Bytes = cv2.remap(image, xs, ys, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return warped


def _missing(rng: Rng, scene: _Scene) -> Drawn:
    """A part that is not there: backdrop, black, white, or a flat colour of the picture."""
    opacity = _spot_shape(rng, scene, 0.02, 0.15, (1, 3))
    if rng.random() < 0.3:
        opacity = np.maximum(opacity, np.roll(opacity, int(rng.integers(1, 12)), int(rng.integers(2))))
    corner = scene.image[:8, :8].reshape(-1, 3).mean(axis=0)
    flat = scene.image[tuple(rng.integers(0, scene.size, 2))].astype(np.float64)
    plain = [corner, flat, np.full(3, rng.uniform(0, 30)), np.full(3, rng.uniform(200, 255))]
    colour = np.asarray(plain[rng.integers(4)], np.float32)
    shade = rng.uniform(0, 20) * (value_noise(rng, scene.size, 20) - np.float32(0.5))
    return _mix(scene.image, colour + shade[..., None].astype(np.float32), opacity), opacity


def _spots(rng: Rng, scene: _Scene) -> Drawn:
    """One or many small round pits, grains or drops, near each other."""
    size = scene.size
    canvas = np.zeros((size, size), np.uint8)
    middle, spread = point_in(rng, scene.region), rng.uniform(0.02, 0.2) * size
    for _ in range(int(rng.choice([1, 2, 4, 8, 16]))):
        x, y = (round((m + rng.normal(0, spread)) * 16) for m in middle)
        axes = tuple(round(r * 16) for r in rng.uniform(0.003, 0.018, 2) * size + 0.8)
        cv2.ellipse(canvas, (x, y), axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA, 4)
    opacity = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.2)).astype(np.float32) / 255 * scene.region
    tone = _tone(rng, scene.image, opacity, 35, 180)
    return scene.image.astype(np.float32) + opacity[..., None] * tone, opacity


def _grain(rng: Rng, scene: _Scene) -> Drawn:
    """A patch that is rougher than the rest, as rust or fray."""
    opacity = _noise_shape(rng, scene)
    grain = unit_range(fractal_noise(rng, scene.size, rng.uniform(30, 120), 2)) - np.float32(0.5)
    strong = np.float32(rng.uniform(60, 200))
    tone = _tone(rng, scene.image, opacity, 15, 60)
    return scene.image.astype(np.float32) + (opacity * grain * strong)[..., None] + opacity[..., None] * tone, opacity


DEFECTS: dict[str, tuple[Callable[[Rng, _Scene], Drawn], float]] = {
    "crack": (_crack_surface, 2.0),
    "crack_any": (_stroke(strokes.crack), 1.2),
    "scratch": (_stroke(strokes.scratch), 1.2),
    "thread": (_stroke(strokes.thread), 0.8),
    "blob": (_blob, 2.2),
    "stain": (_stain, 1.0),
    "foreign_texture": (_foreign_texture, 1.5),
    "own_texture": (_own_texture, 1.0),
    "cut_paste": (_cut_paste, 0.8),
    "smear": (_smear, 0.8),
    "missing": (_missing, 0.8),
    "spots": (_spots, 0.8),
    "grain": (_grain, 0.7),
}
"""Kind -> how it is drawn, and how often relative to the others."""
