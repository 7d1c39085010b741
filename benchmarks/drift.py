"""How far each precision moves the built-in model: what the limits of `acd_edge.export.tolerance` are made from.

python benchmarks/drift.py --data SET [--data SET ...] [--size 280] [--limit 24] [--checkpoint CKPT]

The arithmetic is computed in torch, so that it is that of the graph and not of a library that widens it: float16 and
bfloat16 products are summed in float32 and rounded once, INT8 multiplies whole numbers. Every precision says the golden
samples and the labelled pictures beside float32. INT8 takes its ranges from other pictures of the same sets.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine

from acd_edge.checkpoint import builtin_checkpoint, load_checkpoint
from acd_edge.export.bisect import relative_error
from acd_edge.export.bundle import encode_product
from acd_edge.export.drift import Drift, Said, Tally
from acd_edge.export.fold import fold
from acd_edge.export.golden import made_pictures
from acd_edge.export.graph import FoldedAcdClip
from acd_edge.export.int8 import observe_inputs, quantised
from acd_edge.export.judge import Shown
from acd_edge.export.precision import WideProducts, narrowed
from acd_edge.export.smooth import smoothed, smoothing_factors
from acd_edge.model import AcdClip
from acd_edge.model.weights import tokenizer_for
from acd_edge.runtime.preprocess import DEFAULT_RESIZE
from acd_edge.shown import find_pictures

CALIBRATION = 32  # pictures for the ranges of INT8


def main() -> None:
    """Print the drift of every precision as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--size", type=int, default=280)
    parser.add_argument("--limit", type=int, default=24, help="pictures of each set")
    parser.add_argument("--checkpoint", type=Path, default=builtin_checkpoint())
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    model = load_checkpoint(asked.checkpoint, size=asked.size)
    sets = {path.name: find_pictures(path, size=asked.size, resize_rule=DEFAULT_RESIZE) for path in asked.data}
    shown = {name: found.limited(asked.limit).pictures for name, found in sets.items()}
    used = {each.name for pictures in shown.values() for each in pictures}
    spare = [each for found in sets.values() for each in found.pictures if each.name not in used]
    models = typed_models(fold(model), [spare[int(at)] for at in np.linspace(0, len(spare) - 1, CALIBRATION)])
    texts = texts_of(model, {each.words for pictures in shown.values() for each in pictures})
    result: dict[str, Any] = {"size": asked.size, "pictures": {name: len(each) for name, each in shown.items()}}
    full = models.pop("fp32")
    for precision, typed in models.items():
        result[precision] = {
            "blocks": max(block_errors(typed, full, texts["object"])),
            "golden": flat(compared(model, typed, full, golden_of(asked.size), texts)),
            **{name: flat(compared(model, typed, full, pictures, texts)) for name, pictures in shown.items()},
        }
    print(json.dumps({**result, "machine": machine()}, indent=1))


def typed_models(folded: FoldedAcdClip, calibration: Sequence[Shown]) -> dict[str, FoldedAcdClip]:
    """The folded model in every precision; INT8 as export makes it, between float16 neighbours, every layer."""
    pictures = [each.read().pixels for each in calibration]
    even = smoothed(folded, smoothing_factors(folded, pictures))
    ranges = {name: each.range() for name, each in observe_inputs(even, pictures).items()}
    return {
        "fp32": folded,
        "fp16": narrowed(folded, torch.float16),
        "bf16": narrowed(folded, torch.bfloat16),
        "int8": quantised(narrowed(even, torch.float16), even, ranges),
    }


def texts_of(model: AcdClip, words: set[str]) -> dict[str, torch.Tensor]:
    """Text features of every product, as the graph takes them."""
    tokenize = tokenizer_for(model.config)
    return {each: torch.from_numpy(encode_product(model, tokenize, each))[None] for each in {*words, "object"}}


def golden_of(size: int) -> list[Shown]:
    """The pictures of the golden samples."""
    from acd_edge.export.judge import Read

    def read(pixels: Any) -> Callable[[], Read]:
        return lambda: Read(pixels)

    return [Shown(name=f"sample {at}", words="object", read=read(each)) for at, each in enumerate(made_pictures(size))]


def compared(
    model: AcdClip, typed: FoldedAcdClip, full: FoldedAcdClip, shown: Sequence[Shown], texts: dict[str, torch.Tensor]
) -> Drift:
    """Both on every picture."""
    tally = Tally(model.config.score_mix, model.vision.patch)
    for each in shown:
        read = each.read()
        image, text = torch.from_numpy(np.array(read.pixels[None])), texts[each.words]
        found, wanted = (said(module, image, text) for module in (typed, full))
        tally.add(each.name, found, wanted)
        if each.label is not None:
            tally.add_label(each.category, found, wanted, each.label, read.mask)
    return tally.drift()


def said(module: FoldedAcdClip, image: torch.Tensor, text: torch.Tensor) -> Said:
    """What a module says of one picture."""
    with WideProducts():
        out = module(image, text)
    return Said(out.anomaly_map[0].numpy(), float(out.class_score[0]), out.fusion_weights[0].numpy())


def block_errors(typed: FoldedAcdClip, full: FoldedAcdClip, text: torch.Tensor) -> Iterator[float]:
    """Relative error behind every block of the trunk, on the golden pictures."""
    outs: list[list[Any]] = []
    for module, wide in ((typed, WideProducts()), (full, nullcontext())):
        kept: list[Any] = []
        hooks = [each.register_forward_hook(lambda _, __, out, into=kept: into.append(out.float().numpy()))
                 for each in (*module.blocks, *module.adapters)]  # fmt: skip
        with wide:
            for picture in made_pictures(full.size):
                module(torch.from_numpy(picture)[None], text)
        for hook in hooks:
            hook.remove()
        outs.append(kept)
    for found, wanted in zip(*outs, strict=True):
        error = relative_error([found], [wanted])
        assert error is not None
        yield error


def flat(drift: Drift) -> dict[str, Any]:
    """The figures that the limits are about."""
    changes = [*drift.pixel_auroc.values(), *drift.image_auroc.values()]
    return {
        **{
            name: {"1 - cosine": 1 - (far.cosine or 0), "difference": far.difference}
            for name, far in drift.outputs.items()
        },
        "score": drift.score,
        "overlap": drift.overlap,
        "pixel_auroc": [each.after - each.before for each in drift.pixel_auroc.values()],
        "image_auroc": [each.after - each.before for each in drift.image_auroc.values()],
        "steps": [each.step for each in changes],
    }


if __name__ == "__main__":
    main()
