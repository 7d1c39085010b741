"""Make the example pictures: three CC0 textures that scikit-image carries, with defects drawn in.

    python examples/make_examples.py [FOLDER]

writes `<texture>/good/*.jpg` and `<texture>/defect/*.jpg` below FOLDER (default: beside this script). The textures are
gray; a tint of three colours makes them look like what they are. All random numbers come from fixed seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from scipy.spatial import Delaunay
from skimage import data

Array = npt.NDArray[np.float64]  # pictures (H, W, 3) and masks (H, W), in [0, 1]
Mask = npt.NDArray[np.bool_]
Color = tuple[float, float, float]

SIDE = 448  # pixels of a written picture
QUALITY = 82  # JPEG: ten pictures stay well below a megabyte together
TINTS: dict[str, tuple[Color, Color, Color]] = {  # what black, middle gray and white become
    "brick": ((0.10, 0.05, 0.05), (0.56, 0.32, 0.26), (0.93, 0.88, 0.82)),
    "grass": ((0.05, 0.07, 0.02), (0.37, 0.48, 0.20), (0.88, 0.93, 0.66)),
    "gravel": ((0.07, 0.07, 0.08), (0.52, 0.50, 0.48), (0.96, 0.95, 0.93)),
}


def texture(name: str, *, left: int, top: int, turns: int = 0, mirror: bool = False) -> Array:
    """Cut a tinted square out of a texture: (SIDE, SIDE, 3)."""
    gray = np.rot90(getattr(data, name)(), turns)[top : top + SIDE, left : left + SIDE] / 255
    gray = np.clip((gray - gray.mean()) * 1.25 + 0.5, 0, 1)  # the textures are flat; cameras are not
    levels = np.array(TINTS[name])
    tinted = np.stack([np.interp(gray, (0, 0.5, 1), levels[:, channel]) for channel in range(3)], axis=-1)
    return tinted[:, ::-1] if mirror else tinted


def noise(rng: np.random.Generator, cells: int, side: int = SIDE) -> Array:
    """Smooth noise in [0, 1] with about `cells` bumps along a side: (side, side)."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells + 1, cells + 1)).astype(np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) / 255


def softened(mask: Array | Mask, radius: float) -> Array:
    """Blur a mask: (H, W)."""
    picture = Image.fromarray((np.clip(np.asarray(mask, float), 0, 1) * 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius))) / 255


def blend(picture: Array, other: Array | Color, weight: Array) -> Array:
    """Lay `other` over the picture where the weight (H, W) is one."""
    return picture + (np.asarray(other) - picture) * weight[..., None]


def drawn(paint: Callable[[ImageDraw.ImageDraw, int], object]) -> Array:
    """A mask (SIDE, SIDE), drawn four times larger and shrunk, so that its edges are smooth."""
    canvas = Image.new("L", (4 * SIDE, 4 * SIDE))
    paint(ImageDraw.Draw(canvas), 4)
    return np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) / 255


def walk(rng: np.random.Generator, start: Sequence[float], angle: float, steps: int) -> Array:
    """A crack's course: points (steps + 1, 2) as x, y in pixels."""
    turns = angle + 0.45 * np.sin(np.cumsum(rng.normal(0.35, 0.3, steps))) + rng.normal(0, 0.38, steps)
    stride = rng.uniform(4, 9, steps)[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return np.concatenate([[start], np.asarray(start) + np.cumsum(stride, axis=0)])


def crack(picture: Array, rng: np.random.Generator, *, start: Sequence[float], angle: float, steps: int) -> Array:
    """A branching dark line with a lit edge."""
    trunk = walk(rng, start, angle, steps)
    branches = [walk(rng, trunk[at], angle + side, steps // 4) for at, side in ((steps // 3, 0.9), (steps // 2, -0.8))]

    def paint(draw: ImageDraw.ImageDraw, scale: int) -> None:
        for points, width in ((trunk, 3.4), *((branch, 1.9) for branch in branches)):
            for place, (here, there) in enumerate(pairwise(points)):
                taper = width * (1 - 0.6 * place / len(points)) * rng.uniform(0.75, 1.25)
                draw.line([tuple(here * scale), tuple(there * scale)], fill=255, width=max(1, round(taper * scale)))

    line = drawn(paint)
    lit = np.roll(line, (1, 1), axis=(0, 1)) * (1 - line)
    return blend(blend(picture, (0.85, 0.78, 0.70), 0.35 * lit), (0.06, 0.04, 0.04), 0.93 * line)


def blob(rng: np.random.Generator, *, center: Sequence[float], radius: float, rough: float = 0.45) -> Array:
    """Distance to a ragged round outline in units of its radius, one on the outline: (SIDE, SIDE)."""
    y, x = np.mgrid[:SIDE, :SIDE]
    away = np.hypot(x - center[0], y - center[1]) / radius
    return away + rough * (noise(rng, 9) - 0.5) + 0.25 * rough * (noise(rng, 40) - 0.5)


def stain(picture: Array, rng: np.random.Generator, *, center: Sequence[float], radius: float, color: Color) -> Array:
    """Something spilled: it darkens, and most where it dried last."""
    away = softened(blob(rng, center=center, radius=radius, rough=0.6) / 3, 2) * 3
    inside = np.clip((1 - away) * 7, 0, 1)
    rim = np.exp(-(((away - 0.86) / 0.09) ** 2)) * inside
    strength = inside * (0.45 + 0.35 * noise(rng, 12)) + 0.22 * rim
    return picture * (1 - strength[..., None] * (1 - np.asarray(color)))


def missing_brick(picture: Array, rng: np.random.Generator, *, inside: tuple[int, int]) -> Array:
    """Take out the brick that covers the point `inside` (x, y): a rough dark hole, shaded under its upper edge."""
    flat = Image.fromarray((picture.mean(axis=-1) * 255).astype(np.uint8)).filter(ImageFilter.MedianFilter(5))
    ImageDraw.floodfill(flat, inside, 255, thresh=34)
    hole = np.asarray(flat) == 255
    hole = softened(hole, 2.5) > 0.45  # closes what the flood fill left out
    rubble = texture("gravel", left=60, top=40, turns=1)[..., :1] * np.array((0.34, 0.29, 0.25))
    depth = 0.35 + 0.65 * softened(np.roll(hole, 14, axis=0) & hole, 5)
    floor = rubble * depth[..., None] * (0.6 + 0.6 * noise(rng, 14)[..., None])
    return blend(picture, floor, softened(hole, 0.8))


def bare_patch(picture: Array, rng: np.random.Generator, *, center: Sequence[float], radius: float) -> Array:
    """Soil where the grass is gone."""
    away = blob(rng, center=center, radius=radius, rough=0.7)
    stones = softened(texture("gravel", left=50, top=40, turns=2).mean(axis=-1), 1.6)
    grain = 0.62 + 0.55 * stones + 0.18 * (noise(rng, 160) - 0.5)
    soil = np.array((0.40, 0.28, 0.18)) * grain[..., None]
    return blend(picture, soil, np.clip((1 - away) * 6 + (picture.mean(axis=-1) < 0.3) * 0.4, 0, 1) * (away < 1.1))


def bottle_cap(picture: Array, *, center: Sequence[float], radius: float, color: Color) -> Array:
    """A crown cap lying on top, lit from the upper left."""
    y, x = np.mgrid[:SIDE, :SIDE]
    dx, dy = (x - center[0]) / radius, (y - center[1]) / radius
    away, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    edge = 1 + 0.035 * np.cos(21 * angle)
    light = np.clip(0.75 - 0.35 * (dx + dy) * away, 0.2, 1.3)
    ridges = np.where(away > 0.8, 0.75 + 0.35 * np.cos(21 * angle), 1)
    shine = 0.6 * np.exp(-((dx + 0.35) ** 2 + (dy + 0.4) ** 2) / 0.05)
    ring = 0.25 * np.exp(-(((away - 0.8) / 0.03) ** 2))
    metal = np.clip(np.asarray(color) * (light * ridges)[..., None] + (shine - ring)[..., None], 0, 1)
    shadow = softened(np.hypot(dx - 0.14, dy - 0.16) < 1.02, 4)
    cover = np.clip((edge - away) * radius, 0, 1)
    return blend(blend(picture, (0.03, 0.03, 0.03), 0.6 * shadow), metal, cover)


def screw(picture: Array, *, start: Sequence[float], end: Sequence[float]) -> Array:
    """A wood screw lying on top."""
    (x0, y0), (x1, y1) = start, end
    length = float(np.hypot(x1 - x0, y1 - y0))
    along_x, along_y = (x1 - x0) / length, (y1 - y0) / length
    y, x = np.mgrid[:SIDE, :SIDE]

    def profile(shift: float) -> tuple[Array, Array, Array]:
        t = (x - x0 - shift) * along_x + (y - y0 - shift) * along_y  # pixels from the head
        side = -(x - x0 - shift) * along_y + (y - y0 - shift) * along_x
        thread = 0.9 * np.sin(2 * np.pi * (t + 0.5 * side) / 6) * (t > 0.35 * length)
        half = np.where(t < 12, 15 - 0.85 * t, 5.5 * np.clip((length - t) / 18, 0, 1) + thread)
        return np.clip(half - np.abs(side) + 0.5, 0, 1) * ((t > 0) & (t < length)), t, side

    cover, t, side = profile(0)
    gleam = np.exp(-(((side + 2) / 2.2) ** 2))
    thread = np.where(t > 0.35 * length, 0.22 * np.sin(2 * np.pi * (t + 0.5 * side) / 6), 0)
    gray = np.clip(0.42 + 0.45 * gleam + thread - 0.03 * side, 0.05, 1)
    metal = gray[..., None] * np.array((1.0, 0.93, 0.74))
    return blend(blend(picture, (0.03, 0.03, 0.03), 0.6 * softened(profile(5)[0], 2.5)), metal, cover)


def paper(picture: Array, rng: np.random.Generator, *, center: Sequence[float], radius: float) -> Array:
    """Crumpled paper: many facets, each with its own light."""
    rim = np.linspace(0, 2 * np.pi, 13)[:-1] + rng.uniform(-0.2, 0.2, 12)
    angles = np.concatenate([rim, rng.uniform(0, 2 * np.pi, 16)])
    reach = radius * np.concatenate([rng.uniform(0.8, 1.15, 12), rng.uniform(0.1, 0.8, 16)])
    points = np.asarray(center) + np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1)
    whole = drawn(lambda draw, scale: draw.polygon([tuple(point * scale) for point in points[:12]], fill=255))
    facets = Image.new("L", (4 * SIDE, 4 * SIDE), 220)
    for corners in Delaunay(points).simplices:
        tone = int(rng.uniform(0.62, 1.0) * 255)
        ImageDraw.Draw(facets).polygon([tuple(point * 4) for point in points[corners]], fill=tone)
    light = softened(np.asarray(facets.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) / 255, 0.9)
    shadow = softened(np.roll(whole, (7, 7), axis=(0, 1)), 4)
    shaded = blend(picture, (0.02, 0.03, 0.01), 0.65 * shadow)
    return blend(shaded, light[..., None] * np.array((1, 0.985, 0.95)), whole)


def camera(picture: Array, rng: np.random.Generator) -> Image.Image:
    """What a camera would make of it: a little blur and noise."""
    pixels = np.clip(picture + rng.normal(0, 0.012, picture.shape), 0, 1)
    return Image.fromarray(np.round(pixels * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.45))


def pictures() -> dict[str, Image.Image]:
    """Every example picture by its path below the folder."""
    rng = np.random.default_rng(7)
    made: dict[str, Array] = {
        "brick/good/001.jpg": texture("brick", left=0, top=60, turns=1),
        "brick/good/002.jpg": texture("brick", left=64, top=30, turns=1, mirror=True),
        "gravel/good/001.jpg": texture("gravel", left=0, top=64),
        "grass/good/001.jpg": texture("grass", left=64, top=64),
    }
    wall = texture("brick", left=40, top=60, turns=1)
    made["brick/defect/crack.jpg"] = crack(wall, rng, start=(60, -4), angle=0.95, steps=64)
    made["brick/defect/missing.jpg"] = missing_brick(texture("brick", left=30, top=64, turns=1), rng, inside=(205, 216))
    spilled = texture("brick", left=64, top=0, turns=1, mirror=True)
    made["brick/defect/stain.jpg"] = stain(spilled, rng, center=(225, 215), radius=78, color=(0.30, 0.26, 0.20))
    gravel = texture("gravel", left=60, top=30, turns=1)
    made["gravel/defect/screw.jpg"] = screw(gravel, start=(120, 245), end=(255, 160))
    gravel = texture("gravel", left=60, top=0, turns=3)
    made["gravel/defect/cap.jpg"] = bottle_cap(gravel, center=(255, 150), radius=36, color=(0.78, 0.10, 0.12))
    lawn = texture("grass", left=40, top=64, turns=1)
    made["grass/defect/bare.jpg"] = bare_patch(lawn, rng, center=(170, 210), radius=72)
    made["grass/defect/paper.jpg"] = paper(texture("grass", left=20, top=60), rng, center=(240, 160), radius=42)
    return {path: camera(picture, rng) for path, picture in made.items()}


def write(folder: Path) -> int:
    """Write every picture and return the bytes they take together."""
    total = 0
    for path, picture in pictures().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / path, quality=QUALITY)
        total += (folder / path).stat().st_size
    return total


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    print(f"{write(target)} bytes in {target}")
