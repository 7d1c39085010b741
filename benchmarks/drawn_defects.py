"""Judge checkpoints on new pictures of the kinds they are trained on: surfaces, bodies, objects, with drawn defects.

    python benchmarks/drawn_defects.py CKPT [CKPT ...] [--size S] [--pictures 80]

It says what a model has learned of its own training, and nothing about surfaces that it has never met. Every
checkpoint sees the same pictures, which follow from the size and `--seed` alone. A JSON line a checkpoint, in per cent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from acd_edge.checkpoint import load_checkpoint
from acd_edge.data.shapes import Bytes, Rng, foreground, weighted
from acd_edge.data.synthetic import DEFECTS, add_defect
from acd_edge.data.textures import TEXTURES, before_backdrop, picture_of
from acd_edge.evaluate import Predictor, predictor_from_model
from acd_edge.metrics import auroc, average_precision
from acd_edge.model.weights import tokenizer_for
from acd_edge.runtime.prompts import DEFAULT_PRODUCT

_SURFACES = [(name, weight) for name, (_, weight) in TEXTURES.items() if name != "object"]


@dataclass(frozen=True)
class _Drawn:
    """Pictures with a defect each: uint8 (K, S, S, 3), masks and bodies 0/1 (K, S, S), and the defects' kinds."""

    images: Bytes
    masks: Bytes
    bodies: Bytes
    kinds: tuple[str, ...]


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--size", type=int, help="Input size; the checkpoint's own unless given.")
@click.option("--pictures", default=80, show_default=True, help="Of each scene; every other one has a soft blob.")
@click.option("--seed", default=0, show_default=True)
def main(checkpoints: tuple[Path, ...], size: int | None, pictures: int, seed: int) -> None:
    """Judge checkpoints on drawn defects."""
    for path in checkpoints:
        model = load_checkpoint(path, size=size)
        predict = predictor_from_model(model, tokenizer_for(model.config))
        line: dict[str, Any] = {"checkpoint": path.name, "size": model.config.size, "pictures": pictures, "seed": seed}
        for scene, draw in SCENES.items():
            line[scene] = _judge(predict, _drawn(draw, model.config.size, pictures, seed))
        click.echo(json.dumps(line))


def _drawn(draw: Callable[[Rng, int], Bytes], size: int, count: int, seed: int) -> _Drawn:
    """`count` good pictures of a scene and their defects: blobs and, in turn, every kind; the second half in gray."""
    rng, kinds = np.random.default_rng([seed, size]), list(DEFECTS)
    made = []
    for number in range(count):
        good = draw(rng, size)
        if number >= count // 2:
            good = np.repeat(good.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
        kind = "blob" if number % 2 == 0 else kinds[number // 2 % len(kinds)]
        image, mask = add_defect(rng, good, kind=kind)
        made.append((image, mask, foreground(good), kind))
    images, masks, bodies, drawn = zip(*made, strict=True)
    return _Drawn(np.stack(images), np.stack(masks), np.stack(bodies), drawn)


def _surface(rng: Rng, size: int) -> Bytes:
    return picture_of(rng, weighted(rng, _SURFACES), size)


SCENES: dict[str, Callable[[Rng, int], Bytes]] = {
    "surface": _surface,
    "body": lambda rng, size: before_backdrop(rng, _surface(rng, size)),
    "object": lambda rng, size: picture_of(rng, "object", size),
}


def _judge(predict: Predictor, drawn: _Drawn) -> dict[str, float | None]:
    """Pixel AUROC and AP over all pixels; AUROC within the bodies, and there of the soft blobs alone."""
    maps = np.stack([predict(image, DEFAULT_PRODUCT)[0] for image in drawn.images])
    inside, blobs = drawn.bodies == 1, np.array([kind == "blob" for kind in drawn.kinds])
    return {
        "auroc": _percent(auroc, maps, drawn.masks),
        "ap": _percent(average_precision, maps, drawn.masks),
        "auroc_within": _percent(auroc, maps[inside], drawn.masks[inside]),
        "blobs_within": _percent(auroc, maps[blobs][inside[blobs]], drawn.masks[blobs][inside[blobs]]),
    }


def _percent(
    figure: Callable[[npt.ArrayLike, npt.ArrayLike], float | None], scores: npt.NDArray[Any], labels: Bytes
) -> float | None:
    value = figure(scores.ravel(), labels.ravel())
    return None if value is None else round(100 * value, 1)


if __name__ == "__main__":
    main()
