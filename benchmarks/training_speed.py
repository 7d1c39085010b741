"""Training steps of ours against a loop like the authors', on the same pictures and with the same losses.

ViT-L/14 at 518 x 518, N = 3, preset `reference`, seeded weights, batches of one picture, two threads each, in turn step
by step. The baseline keeps every block in the graph, leaves CLIP's parameters requiring gradients, computes and
averages the attention weights in every block, and encodes all 77 tokens of every prompt. Both read and decode their own
pictures. The bars: at least 2.5 times the samples per second with a filled cache and no augmentation, 1.8 times with
augmentation; every pair of losses within 1e-4.

python benchmarks/training_speed.py [--rounds 5] [--small]      (about 15 GB; --small tries the script on a tiny CLIP)
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from acd_edge.convert import authors_config, convert, read_authors
from acd_edge.data.samples import Sample
from acd_edge.data.sampling import Batches, Mix
from acd_edge.model import AcdClip
from acd_edge.model.weights import tokenizer_for
from acd_edge.train.config import TrainConfig
from acd_edge.train.loop import Trainer
from acd_edge.train.losses import class_loss, map_loss
from acd_edge.train.stem import Room, store_for
from benchmarks.common import LEAST_ROUNDS, finish, interleaved, ratio, spread
from tests.oracle import (
    SMALL,
    VIT_L_14_336,
    ClipShape,
    Oracle,
    Weights,
    resized_table,
    seeded_adapter,
    seeded_clip,
    seeded_picture,
    sentences,
)

THREADS, GROUPS, SEED, WORDS = 2, 3, 7, "metal nut"
CACHED_BAR, AUGMENTED_BAR, SAME = 2.5, 1.8, 1e-4
RECIPE = TrainConfig(steps=10**6, batch=1, synthetic=0, textures=0, generic=0)  # so many that the rates stay


class AuthorsLoop:
    """One step after the other as the authors' code takes them: Adam, clipped blend weights.

    Args:
        clip: leaves that require gradients, which nobody resets: their optimiser does not know them.
        adapter: in the authors' format.
        batches: the pictures.
        size: side S in pixels.
    """

    def __init__(self, clip: Weights, adapter: dict[str, Weights], batches: Batches, size: int) -> None:
        self.image, self.text = (
            {name: tensor.clone().requires_grad_() for name, tensor in adapter[side].items()}
            for side in ("image_adapter", "text_adapter")
        )
        self.oracle = Oracle(clip, {"image_adapter": self.image, "text_adapter": self.text}, size=size, smooth=False)
        self.batches = batches
        prompts, self.states = sentences(WORDS)
        self.ids = open_clip.tokenize(prompts)
        self.optimiser = torch.optim.Adam(
            [
                {"params": list(self.text.values()), "lr": RECIPE.text_rate},
                {"params": list(self.image.values()), "lr": RECIPE.vision_rate},
            ]
        )

    def step(self, index: int) -> float:
        """The loss of one optimiser step."""
        images, masks, labels, _ = self.batches.batch(index)
        loss = self._loss(self.oracle.pixels(images[0]), torch.from_numpy(masks).float(), torch.from_numpy(labels))
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in [*self.image.items(), *self.text.items()]:
            if name.endswith("i_w"):
                clip_grad_norm_([parameter], 1.0)
        self.optimiser.step()
        return loss.item()

    def _loss(self, pixels: Tensor, mask: Tensor, label: Tensor) -> Tensor:
        oracle = self.oracle
        # the oracle is for inference: below its `no_grad` lies the same function
        text = inspect.unwrap(Oracle.text_features)(oracle, self.ids, self.states)
        segment, detect = inspect.unwrap(Oracle.levels)(oracle, pixels)
        text = text.unsqueeze(1).repeat(1, len(pixels), 1, 1)  # (N, B, D, 2)
        classes = torch.stack([(d.unsqueeze(1) @ t).squeeze(1) for d, t in zip(detect, text, strict=True)]).mean(0)
        maps = torch.stack([oracle._level_map(tokens, level, text) for level, tokens in enumerate(segment)])
        return map_loss(F.softmax(maps.mean(dim=0), dim=1)[:, 1], mask) + class_loss(classes, label)


class OurLoop:
    """Steps of `Trainer`; `fill` computes what it keeps of the pictures of some steps."""

    def __init__(self, model: AcdClip, batches: Batches, samples: int) -> None:
        store = None if batches.augment else store_for(model, RECIPE.cache, samples, Room())
        phrases = {"object": [WORDS]}
        self.trainer = Trainer(model, tokenizer_for(model.config), batches, RECIPE, phrases, store=store)

    def step(self, index: int) -> float:
        """The loss of one optimiser step."""
        return self.trainer.step(index)[0].total

    def fill(self, steps: int) -> None:
        """Compute the stems of the pictures of the first steps."""
        for index in range(steps):
            self.trainer.pictures(self.trainer.batches.items(index))


def write_samples(folder: Path, count: int) -> list[Sample]:
    """Seeded pictures of 700 x 900, every other one with a defect."""
    samples = []
    for index in range(count):
        image, mask = seeded_picture(700, 900, SEED + index), np.zeros((700, 900), np.uint8)
        mask[200:400, 300 : 300 + 40 * (index + 1)] = 255
        image[mask > 0] //= 2
        picture, defect = folder / f"{index}.png", folder / f"{index}_mask.png"
        Image.fromarray(image).save(picture)
        Image.fromarray(mask).save(defect)
        label = index % 2
        samples.append(Sample(image=picture, mask=defect if label else None, label=label, category="object"))
    return samples


def our_models(folder: Path, clip: Weights, adapter: dict[str, Weights], backbone: str, size: int) -> list[AcdClip]:
    """Two models with the adapter, on the same towers."""
    torch.save(clip, folder / "clip.pt")
    torch.save(adapter, folder / "adapter.pth")
    authors = read_authors(folder / "adapter.pth")
    config = authors_config(authors.tensors, backbone=backbone, size=size, domain="industrial")
    first = convert(authors, config, clip_weights=folder / "clip.pt")
    second = AcdClip(first.config, first.vision, first.text).eval()
    second.load_state_dict(first.adapter_state(), strict=False)
    return [first, second]


def leaves(clip: Weights, grid: int) -> Weights:
    """CLIP's parameters as the authors' loop holds them: the position table resized once, gradients wanted."""
    table = resized_table(clip["visual.positional_embedding"], grid)
    whole = {**clip, "visual.positional_embedding": table}
    return {name: tensor.detach().requires_grad_() for name, tensor in whole.items()}


def loops(folder: Path, shape: ClipShape, backbone: str, size: int) -> dict[str, AuthorsLoop | OurLoop]:
    """The four loops; each reads its own pictures, and the two of a pair the same ones."""
    clip, adapter = seeded_clip(shape, SEED), seeded_adapter(shape, GROUPS, SEED)
    samples = write_samples(folder, 4)

    real = Mix(synthetic=0, textures=0, spoiled=0, backdrop=0, generic=0)

    def batches(augment: bool) -> Batches:
        return Batches(samples, size=size, batch=1, seed=SEED, mix=real, augment=augment)

    plain, augmented = our_models(folder, clip, adapter, backbone, size)
    theirs = leaves(clip, size // shape.patch)
    return {
        "authors": AuthorsLoop(theirs, adapter, batches(augment=False), size),
        "cached": OurLoop(plain, batches(augment=False), len(samples)),
        "authors augmented": AuthorsLoop(theirs, adapter, batches(augment=True), size),
        "augmented": OurLoop(augmented, batches(augment=True), len(samples)),
    }


def timed(loop: AuthorsLoop | OurLoop, losses: list[float]) -> Callable[[], float]:
    """A call that takes the loop's next step, notes its loss, and returns the seconds."""

    def step() -> float:
        began = time.perf_counter()
        losses.append(loop.step(len(losses)))
        return time.perf_counter() - began

    return step


def measure(folder: Path, shape: ClipShape, backbone: str, size: int, rounds: int) -> dict[str, object]:
    """Time the four loops in turn and compare the losses of each pair, step by step."""
    torch.set_num_threads(THREADS)
    all_loops = loops(folder, shape, backbone, size)
    began = time.perf_counter()
    cached = all_loops["cached"]
    assert isinstance(cached, OurLoop)
    cached.fill(1 + rounds)
    filled = time.perf_counter() - began
    losses: dict[str, list[float]] = {name: [] for name in all_loops}
    took = interleaved({name: timed(loop, losses[name]) for name, loop in all_loops.items()}, rounds=rounds)
    pairs = (("authors", "cached"), ("authors augmented", "augmented"))
    apart = max(abs(a - b) for theirs, ours in pairs for a, b in zip(losses[theirs], losses[ours], strict=True))
    if not apart <= SAME:
        raise SystemExit(f"the losses differ by {apart}: these are not the same training, so no speed is told")
    return {
        "what": f"{backbone} at {size} x {size}, N = {GROUPS}, batch 1, {THREADS} threads each",
        "rounds": rounds,
        "largest_difference_of_losses": apart,
        "losses": losses,
        "seconds_to_fill_the_cache": filled,
        "seconds_per_step": {name: spread(values) for name, values in took.items()},
        "times_the_samples": {ours: ratio(took, theirs, ours) for theirs, ours in pairs},
        "bars": {"cached": CACHED_BAR, "augmented": AUGMENTED_BAR},
    }


def main() -> None:
    """Measure, print the result, and fail where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    parser.add_argument("--small", action="store_true", help="a tiny CLIP at 126 px, to try the script")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if options.small:
            (folder / "acd-edge-small.json").write_text(json.dumps(SMALL.open_clip_config()))
            open_clip.add_model_config(folder / "acd-edge-small.json")
            result = measure(folder, SMALL, "clip:acd-edge-small", 126, options.rounds)
        else:
            result = measure(folder, VIT_L_14_336, "clip:ViT-L-14-336", 518, options.rounds)
    faster = result["times_the_samples"]
    missing = max(bar / faster[name]["median"] for name, bar in result["bars"].items())  # type: ignore[attr-defined, index]
    finish(result, value=missing, bar=1.0)


if __name__ == "__main__":
    main()
