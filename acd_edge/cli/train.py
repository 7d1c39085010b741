"""`acd-edge train`: adapters from labelled pictures."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from acd_edge.cli.data import DATA_HELP, LAYOUT_HELP, Progress
from acd_edge.cli.once import OnceCommand
from acd_edge.config import DOMAINS, PRESETS, Domain, ModelConfig
from acd_edge.errors import ConfigError, UsageError
from acd_edge.train.config import Precision, TrainConfig
from acd_edge.train.settings import Settings, read_settings

if TYPE_CHECKING:
    from acd_edge.data.samples import Split
    from acd_edge.train.engine import DeviceName
    from acd_edge.train.loop import StepLosses
    from acd_edge.train.run import TrainRun

_OF_RECIPE = ("steps", "batch", "accumulate", "precision", "seed")


@click.command(cls=OnceCommand)
@click.option("--data", "data", type=click.Path(path_type=Path), multiple=True, required=True, metavar="DIR",
              help=DATA_HELP)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="CKPT",
              help="The checkpoint folder to write.")  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path), help="What the paths in a .jsonl list are relative to.")
@click.option("--layout", metavar="NAME", help=LAYOUT_HELP)
@click.option("--bit-depth", type=click.IntRange(9, 16), default=16, show_default=True,
              help="Bits used in 16-bit pictures, as `run` is given; masks are read whole.")  # fmt: skip
@click.option("--product", "products", multiple=True, metavar="CATEGORY='words'",
              help="What the prompts call a category; of several phrases one is drawn per picture.")  # fmt: skip
@click.option("--domain", type=click.Choice(DOMAINS), help="Default domain of the model.")
@click.option("--backbone", show_default=ModelConfig.backbone,
              help="compact, or clip:NAME with a ViT of open_clip.")  # fmt: skip
@click.option("--pretrained", metavar="TAG", show_default=ModelConfig.pretrained,
              help="open_clip's tag of CLIP's weights; it says their activation, mean and std too.")  # fmt: skip
@click.option("--clip-weights", type=click.Path(path_type=Path), help="File with CLIP's weights, instead of the cache.")
@click.option("--trust", is_flag=True, help="Read an archive of CLIP weights that OpenAI did not publish.")
@click.option("--preset", type=click.Choice(list(PRESETS)), show_default=ModelConfig.preset,
              help="What fills the gaps that the paper leaves.")  # fmt: skip
@click.option("--groups", type=int, show_default=str(ModelConfig.groups),
              help="N, the number of levels; it divides the depth of both towers.")  # fmt: skip
@click.option("--size", type=int, show_default=str(ModelConfig.size),
              help="Side of the input in pixels, a multiple of the patch.")  # fmt: skip
@click.option("--steps", type=int, show_default=str(TrainConfig.steps), help="Optimiser steps.")
@click.option("--batch", type=int, show_default=str(TrainConfig.batch),
              help="Pictures per step, over all processes.")  # fmt: skip
@click.option("--accumulate", type=int, help="Work a batch off in that many parts: the same step with less memory.")
@click.option("--precision", type=click.Choice(get_args(Precision)), show_default=TrainConfig.precision,
              help="fp32, or autocast to bf16 or fp16.")  # fmt: skip
@click.option("--seed", type=int, show_default=str(TrainConfig.seed), help="Seed of everything.")
@click.option("--config", metavar="NAME|FILE",
              help="Recipe of the package (paper, reference, builtin) or a JSON file, in place of the defaults in "
              "parentheses; flags win over it.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
              help="Where to compute; auto takes a GPU where there is one.")  # fmt: skip
@click.option("--cache-memory", type=click.FloatRange(min=0), default=2.0, show_default=True, metavar="GB",
              help="Memory, per process, for decoded pictures, or (augment off) for their frozen part.")  # fmt: skip
@click.option("--cache-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="A disk for the frozen parts that the memory does not take; free again at the end.")  # fmt: skip
@click.option("--tensorboard", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write the curves for TensorBoard too.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with a run that was interrupted, exactly.")
@click.option("--force", is_flag=True, help="Replace a checkpoint that is there.")
def command(
    data: tuple[Path, ...],
    output: Path,
    root: Path | None,
    layout: str | None,
    bit_depth: int,
    products: tuple[str, ...],
    domain: Domain | None,
    config: str | None,
    clip_weights: Path | None,
    trust: bool,
    device: DeviceName,
    cache_memory: float,
    cache_dir: Path | None,
    tensorboard: Path | None,
    resume: bool,
    force: bool,
    **settings: Any,
) -> None:
    """Train the adapters on labelled pictures and write a checkpoint.

    Every picture under train/, valid/ and test/ with a label is used, unless the recipe wants test/ alone. Ctrl-C
    writes a usable checkpoint of the steps done; the same command with --resume goes on from there.

    \b
    Several processes, one per GPU, on one machine or more (pip install 'acd-edge[distributed]'):
      torchrun --nproc-per-node 4 -m acd_edge train ...
    """
    from acd_edge.data.samples import categories_of, domain_of, load_data, words_of
    from acd_edge.data.sampling import GENERIC
    from acd_edge.data.sets import plain
    from acd_edge.train.run import TrainRun, train
    from acd_edge.train.stem import GIB, Room

    if not math.isfinite(cache_memory * GIB):
        raise UsageError(f"--cache-memory must be a number of GB, got {cache_memory}")
    given = read_settings(config) if config else Settings()
    model, recipe = _configs(given, domain=domain, **settings)
    if model.backbone == "compact" and settings["pretrained"] is not None:
        raise UsageError("--pretrained names weights of CLIP; give --backbone clip:NAME too, or leave it away")
    split: Split = "train" if recipe.pictures == "all" else "test"
    samples = load_data(data, root, split=split, layout=layout, bit_depth=bit_depth)
    if domain is None and "domain" not in given.model:
        model = model.with_(domain=domain_of(samples))
    recipe = recipe.for_pictures(len(samples))
    words = {**given.words, **_phrases(products, [*categories_of(samples), GENERIC])}
    known = {category: [called] for category, called in words_of(samples, words).items() if called != plain(category)}
    words = {**known, **words}
    run = TrainRun(model=model, recipe=recipe, data=tuple(map(str, data)), words=words, bit_depth=bit_depth)
    progress = _Progress(recipe.length)
    if first := os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        defective = sum(sample.label for sample in samples)
        click.echo(f"{len(samples)} pictures, {defective} of them defective; {_summary(run)}", err=True)
    train(
        run,
        samples,
        output,
        clip_weights=clip_weights,
        trust=trust,
        resume=resume,
        force=force,
        device=device,
        room=Room(memory=int(cache_memory * GIB), folder=cache_dir),
        tensorboard=tensorboard,
        report=progress.report,
        remember=Progress("pictures remembered", at_end=False),
    )
    if first:
        click.echo(f"{output}")


def _configs(given: Settings, **settings: Any) -> tuple[ModelConfig, TrainConfig]:
    """A settings file's settings with the flags' on top."""
    flags = {name: value for name, value in settings.items() if value is not None}
    of_recipe: dict[str, Any] = {name: flags.pop(name) for name in _OF_RECIPE if name in flags}
    model = ModelConfig.from_dict({**given.model, **flags})
    return model, TrainConfig.from_dict({**given.recipe, **of_recipe})


def _phrases(products: tuple[str, ...], known: Sequence[str]) -> dict[str, list[str]]:
    """Category -> phrases of the flags, all of them for a category of `known`."""
    from acd_edge.runtime.prompts import parse_product

    phrases: dict[str, list[str]] = {}
    for category, words in map(parse_product, products):
        phrases.setdefault(category, []).append(words)
    if strange := sorted(set(phrases) - set(known)):
        raise ConfigError(f"--product {', '.join(strange)} is no category of the data; they have {', '.join(known)}")
    return phrases


def _summary(run: TrainRun) -> str:
    model, recipe = run.model, run.recipe
    what = f"{model.backbone}, {model.preset}, N = {model.groups}, {model.size} px"
    return f"{what}, {recipe.length} steps of {recipe.batch}, {recipe.precision}"


class _Progress:
    """A line about the loss and the time left on stderr, every few seconds."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.started = self.shown = time.monotonic()
        self.first: int | None = None
        self.losses: list[StepLosses] = []

    def report(self, done: int, losses: StepLosses) -> None:
        self.first = done - 1 if self.first is None else self.first
        self.losses.append(losses)
        now = time.monotonic()
        if now - self.shown < (0.5 if sys.stderr.isatty() else 15) and done < self.steps:
            return
        self.shown = now
        pace = (now - self.started) / (done - self.first)
        total, on_map, on_class = (sum(part) / len(self.losses) for part in zip(*self.losses, strict=True))
        self.losses.clear()
        line = (
            f"step {done}/{self.steps}  loss {total:.3f} (map {on_map:.3f}, class {on_class:.3f})"
            f"  {pace:.1f} s/step  {pace * (self.steps - done) / 60:.0f} min left"
        )
        last = done == self.steps
        click.echo(f"\r{line}   " if sys.stderr.isatty() else line, err=True, nl=last or not sys.stderr.isatty())
