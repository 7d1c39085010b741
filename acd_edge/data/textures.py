"""Procedural pictures of nothing in particular: good surfaces and objects to put synthetic defects on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from acd_edge.data.shapes import Bytes, Floats, Rng, blob, cv2, fractal_noise, soft, unit_range, value_noise, weighted


def make_texture(rng: Rng, size: int) -> Bytes:
    """Return a made picture, uint8 RGB (size, size, 3); `rng` alone decides which.

    >>> make_texture(np.random.default_rng(0), 64).shape
    (64, 64, 3)
    """
    return picture_of(rng, weighted(rng, [(name, weight) for name, (_, weight) in TEXTURES.items()]), size)


def picture_of(rng: Rng, kind: str, size: int) -> Bytes:
    """A made picture of one kind, a key of `TEXTURES`: uint8 RGB (size, size, 3)."""
    field = TEXTURES[kind][0](rng, size)
    if rng.random() < 0.3:
        field = field + rng.uniform(0.05, 0.3) * fractal_noise(rng, size, rng.uniform(2, 8))
    field = unit_range(field) if rng.random() < 0.7 else np.clip(field, 0, 1)
    grain = rng.standard_normal((size, size), dtype=np.float32) * np.float32(rng.uniform(0, 0.05))
    return _tint(rng, field + grain)


def _tint(rng: Rng, field: Floats) -> Bytes:
    """Map a field in [0, 1] to a range between two colours; gray more often than not."""
    low, high = np.sort(rng.uniform(0, 255, 2))
    if high - low < 30:
        low, high = max(0.0, low - 25), min(255.0, high + 25)
    first, second = np.full(3, low), np.full(3, high)
    if rng.random() < 0.45:
        first, second = first + rng.uniform(-40, 40, 3), second + rng.uniform(-40, 40, 3)
    if rng.random() < 0.3 and field.min() > -0.2:
        first, second = second, first
    span = (second - first).astype(np.float32)
    rgb = first.astype(np.float32) + field[..., None] * span
    return np.asarray(np.clip(rgb, 0, 255), np.uint8)


def _turned_grid(rng: Rng, size: int) -> tuple[Floats, Floats]:
    """Pixel coordinates in a turned and gently bent frame, so that no pattern is perfectly straight."""
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    turn = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    bend = np.float32(rng.choice([0.0, rng.uniform(0, 0.04) * size]))
    across = xs * np.float32(np.cos(turn)) + ys * np.float32(np.sin(turn)) + bend * value_noise(rng, size, 2)
    along = ys * np.float32(np.cos(turn)) - xs * np.float32(np.sin(turn)) + bend * value_noise(rng, size, 2)
    return across, along


def _clouds(rng: Rng, size: int) -> Floats:
    return fractal_noise(rng, size, rng.uniform(2, 40), int(rng.integers(2, 6)))


def _brushed(rng: Rng, size: int) -> Floats:
    field = fractal_noise(rng, size, rng.uniform(60, 200), 3, stretch=rng.uniform(0.01, 0.08))
    return field if rng.random() < 0.5 else np.ascontiguousarray(field.T)


def _speckle(rng: Rng, size: int) -> Floats:
    """Grains of several sizes, as in a coarse bound surface."""
    field = rng.random((size, size), dtype=np.float32)
    fine = cv2.GaussianBlur(field, (0, 0), rng.uniform(0.6, 1.6))
    coarse = cv2.GaussianBlur(field[::-1].copy(), (0, 0), rng.uniform(2.0, 4.0))
    mixed = unit_range(fine) + np.float32(rng.uniform(0, 1)) * unit_range(coarse)
    light = np.float32(rng.uniform(0, 0.6)) * value_noise(rng, size, rng.uniform(2, 4))
    return unit_range(mixed + light)


def _grating(rng: Rng, size: int) -> Floats:
    across, _ = _turned_grid(rng, size)
    wave = np.sin(across * np.float32(2 * np.pi / rng.uniform(4, 40))) * 0.5 + 0.5
    return np.asarray(wave ** np.float32(rng.uniform(0.5, 4)), np.float32)


def _weave(rng: Rng, size: int) -> Floats:
    """Two crossing gratings, one above the other in turn."""
    across, along = _turned_grid(rng, size)
    pitch = rng.uniform(5, 22)
    u, v = across * np.float32(np.pi / pitch), along * np.float32(np.pi / (pitch * rng.uniform(0.6, 1.6)))
    over = np.sign(np.sin(u) * np.sin(v)) * 0.5 + 0.5
    threads = over * np.abs(np.sin(u)) + (1 - over) * np.abs(np.sin(v)) * np.float32(rng.uniform(0.6, 1))
    noise = np.float32(rng.uniform(0.1, 0.5)) * value_noise(rng, size, size / 3)
    return np.asarray(cv2.GaussianBlur(threads.astype(np.float32) + noise, (0, 0), rng.uniform(0.5, 1.2)))


def _cells(rng: Rng, size: int) -> Floats:
    """Voronoi grains with dark or bright joints."""
    count = int(rng.integers(20, 250))
    seeds = np.ones((size, size), np.uint8)
    seeds.flat[rng.choice(size * size, count, replace=False)] = 0
    distance, labels = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    tone = rng.random(int(labels.max()) + 1, dtype=np.float32)[labels]
    return unit_range(tone * np.float32(rng.uniform(0.1, 1)) + unit_range(distance) * np.float32(rng.uniform(-1, 1)))


def _tiles(rng: Rng, size: int) -> Floats:
    """A lattice of blocks with joints, straight or staggered, each block of its own tone."""
    across, along = _turned_grid(rng, size)
    height, width = rng.uniform(18, 90), rng.uniform(18, 120)
    row = np.floor(along / np.float32(height))
    across = across + (row % 2) * np.float32(width * rng.choice([0.0, 0.5]))
    column = np.floor(across / np.float32(width))
    tone = np.modf(np.abs(np.sin(row * 12.9898 + column * 78.233) * 43758.5453))[0]
    edge = np.minimum(along - row * np.float32(height), across - column * np.float32(width))
    joint = np.clip(edge / np.float32(rng.uniform(1.5, 5)), 0, 1)
    field = (0.6 + rng.uniform(0, 0.4) * tone) * joint + rng.uniform(0.05, 0.3) * value_noise(rng, size, size / 4)
    return np.asarray(field, np.float32)


def _smooth(rng: Rng, size: int) -> Floats:
    """Almost plain: a gradient with faint clouds."""
    across, _ = _turned_grid(rng, size)
    clouds = np.float32(rng.uniform(0, 0.1)) * fractal_noise(rng, size, 8, 4)
    return np.asarray(0.5 + 0.3 * unit_range(across) + clouds, np.float32)


def _object(rng: Rng, size: int) -> Floats:
    """A rounded body before a dark or bright backdrop, with rings, lobes and patches inside."""
    middle = (size / 2 + rng.normal(0, 0.04) * size, size / 2 + rng.normal(0, 0.04) * size)
    radius = rng.uniform(0.25, 0.48) * size
    body = blob(rng, size, middle, radius, ragged=rng.uniform(0.02, 0.12))
    inside = 0.45 + 0.35 * fractal_noise(rng, size, rng.uniform(3, 14), int(rng.integers(1, 5)))
    if rng.random() < 0.35:
        inside = inside + 0.2 * np.sin(body * np.float32(rng.uniform(0.05, 0.4)))
    for _ in range(int(rng.integers(0, 5))):
        spot = (middle[0] + rng.normal(0, 0.3) * radius, middle[1] + rng.normal(0, 0.3) * radius)
        lobe = soft(blob(rng, size, spot, rng.uniform(0.08, 0.3) * radius, 0.3), rng.uniform(2, 12))
        inside = inside + np.float32(rng.uniform(-0.3, 0.15)) * lobe
        if rng.random() < 0.5:  # the mirrored half, as many objects have
            inside = inside + np.float32(rng.uniform(-0.3, 0.15)) * lobe[:, ::-1]
    rim = np.float32(rng.uniform(-0.4, 0.4)) * np.exp(-((body / np.float32(rng.uniform(3, 10)) - 1) ** 2))
    return np.asarray((inside + rim) * soft(body, rng.uniform(1, 4)), np.float32)


TEXTURES: dict[str, tuple[Callable[[Rng, int], Floats], float]] = {
    "clouds": (_clouds, 1.0),
    "brushed": (_brushed, 1.0),
    "speckle": (_speckle, 2.0),
    "grating": (_grating, 1.0),
    "weave": (_weave, 1.0),
    "cells": (_cells, 1.0),
    "tiles": (_tiles, 1.0),
    "smooth": (_smooth, 1.0),
    "object": (_object, 4.0),
}
"""Kind -> how it is drawn, and how often relative to the others."""


def before_backdrop(rng: Rng, image: Bytes) -> Bytes:
    """Cut bodies out of a picture, uint8 RGB (S, S, 3), and set them before an even backdrop, dark more often than not.

    Half of all inspected things are seen so, and a detector that has never met a backdrop takes its edge for a defect.
    """
    size = len(image)
    body = weighted(rng, list(_BODIES.values()))(rng, size)[..., None]
    colour = np.full(3, rng.choice([rng.uniform(0, 20), rng.uniform(0, 255), rng.uniform(225, 255)], p=[0.4, 0.4, 0.2]))
    if rng.random() < 0.3:
        colour = colour + rng.uniform(-40, 40, 3)
    backdrop = np.clip(colour, 0, 255).astype(np.float32)
    if rng.random() < 0.4:
        backdrop = backdrop + np.float32(rng.uniform(2, 12)) * value_noise(rng, size, rng.uniform(2, 6))[..., None]
    set_before = backdrop + (image.astype(np.float32) - backdrop) * body
    return np.asarray(np.clip(set_before + np.float32(0.5), 0, 255), np.uint8)


def _round_body(rng: Rng, size: int) -> Floats:
    middle = (size / 2 + rng.normal(0, 0.05) * size, size / 2 + rng.normal(0, 0.05) * size)
    body = blob(rng, size, middle, rng.uniform(0.25, 0.48) * size, ragged=rng.uniform(0.0, 0.15))
    return soft(body, rng.uniform(1, 4))


def _ring_body(rng: Rng, size: int) -> Floats:
    middle, radius = (size / 2, size / 2), rng.uniform(0.3, 0.48) * size
    outer = blob(rng, size, middle, radius, ragged=rng.uniform(0, 0.05))
    return soft(np.minimum(outer, radius * np.float32(rng.uniform(0.3, 0.7)) - outer), rng.uniform(1, 3))


def _bar_body(rng: Rng, size: int) -> Floats:
    """A turned rectangle, from a rod to a plate."""
    long = rng.uniform(0.5, 0.95) * size
    middle = (size / 2 + rng.normal(0, 0.05) * size, size / 2 + rng.normal(0, 0.05) * size)
    turn = rng.choice([0.0, 90.0, rng.uniform(0, 180)])
    box = cv2.boxPoints((middle, (long, long * rng.uniform(0.15, 1)), turn))
    body = np.zeros((size, size), np.float32)
    cv2.fillPoly(body, [np.round(box).astype(np.int32)], 1.0)
    return np.asarray(cv2.GaussianBlur(body, (0, 0), rng.uniform(0.6, 2.5)), np.float32)


def _several_bodies(rng: Rng, size: int) -> Floats:
    count = int(rng.integers(2, 7))
    bodies = [
        soft(blob(rng, size, tuple(rng.uniform(0.15, 0.85, 2) * size), rng.uniform(0.08, 0.2) * size, 0.05), 2)
        for _ in range(count)
    ]
    return np.asarray(np.max(bodies, axis=0), np.float32)


_BODIES: dict[str, tuple[Callable[[Rng, int], Floats], float]] = {
    "round": (_round_body, 3.0),
    "ring": (_ring_body, 1.0),
    "bar": (_bar_body, 2.0),
    "several": (_several_bodies, 1.0),
}
