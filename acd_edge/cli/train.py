"""`acd-edge train`: adapters from labelled pictures."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acd_edge.config import DOMAINS, PRESETS, Domain, ModelConfig
from acd_edge.errors import ConfigError
from acd_edge.train.config import TrainConfig

if TYPE_CHECKING:
    from acd_edge.train.loop import StepLosses
    from acd_edge.train.run import TrainRun

_SECTIONS = ("model", "recipe")


@click.command()
@click.option("--data", "data", type=click.Path(path_type=Path), multiple=True, required=True, metavar="DIR",
              help="MVTec-layout folder, one of its categories, or a .jsonl list; repeatable.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="CKPT",
              help="The checkpoint folder to write.")  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path), help="What the paths in a .jsonl list are relative to.")
@click.option("--product", "products", multiple=True, metavar="CATEGORY='words'",
              help="What the prompts call a category; of several phrases one is drawn per picture.")  # fmt: skip
@click.option("--domain", type=click.Choice(DOMAINS), help="Default domain of the model.")
@click.option("--backbone", help="compact, or clip:NAME with a ViT of open_clip.")
@click.option("--clip-weights", type=click.Path(path_type=Path), help="File with CLIP's weights, instead of the cache.")
@click.option("--trust", is_flag=True, help="Read an archive of CLIP weights that OpenAI did not publish.")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="What fills the gaps that the paper leaves.")
@click.option("--groups", type=int, help="N, the number of levels; it divides the depth of both towers.")
@click.option("--size", type=int, help="Side of the input in pixels, a multiple of the patch.")
@click.option("--steps", type=int, help="Optimiser steps.")
@click.option("--batch", type=int, help="Pictures per step.")
@click.option("--seed", type=int, help="Seed of everything.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE",
              help='JSON with the settings {"model": {...}, "recipe": {...}}; flags win over it.')  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with a run that was interrupted, exactly.")
@click.option("--force", is_flag=True, help="Replace a checkpoint that is there.")
def command(
    data: tuple[Path, ...],
    output: Path,
    root: Path | None,
    products: tuple[str, ...],
    domain: Domain | None,
    config_file: Path | None,
    clip_weights: Path | None,
    trust: bool,
    resume: bool,
    force: bool,
    **settings: Any,
) -> None:
    """Train the adapters on labelled pictures and write a checkpoint.

    Every picture under train/ and test/ with a label is used. Ctrl-C writes a usable checkpoint of the steps done;
    the same command with --resume goes on from there.
    """
    from acd_edge.data.samples import load_data
    from acd_edge.train.run import TrainRun, train

    model, recipe = _configs(config_file, domain=domain, **settings)
    samples = load_data(data, root, split="train")
    run = TrainRun(model=model, recipe=recipe, data=tuple(map(str, data)), words=_phrases(products))
    defective = sum(sample.label for sample in samples)
    click.echo(f"{len(samples)} pictures, {defective} of them defective; {_summary(run)}", err=True)
    progress = _Progress(recipe.steps)
    train(
        run, samples, output, clip_weights=clip_weights, trust=trust, resume=resume, force=force, report=progress.report
    )
    click.echo(f"{output}")


def _configs(config_file: Path | None, **settings: Any) -> tuple[ModelConfig, TrainConfig]:
    """Settings of the file with the flags' on top."""
    given = _read_config(config_file) if config_file else {}
    flags = {name: value for name, value in settings.items() if value is not None}
    of_recipe: dict[str, Any] = {name: flags.pop(name) for name in ("steps", "batch", "seed") if name in flags}
    model = ModelConfig.from_dict({**given.get("model", {}), **flags})
    return model, TrainConfig.from_dict({**given.get("recipe", {}), **of_recipe})


def _read_config(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    fits = isinstance(content, dict) and set(content) <= set(_SECTIONS)
    if not fits or not all(isinstance(section, dict) for section in content.values()):
        raise ConfigError(f"{path} must hold one JSON object with the objects {' and '.join(_SECTIONS)}, nothing else")
    return content


def _phrases(products: tuple[str, ...]) -> dict[str, list[str]]:
    from acd_edge.runtime.prompts import parse_product

    phrases: dict[str, list[str]] = {}
    for category, words in map(parse_product, products):
        phrases.setdefault(category, []).append(words)
    return phrases


def _summary(run: TrainRun) -> str:
    model, recipe = run.model, run.recipe
    what = f"{model.backbone}, {model.preset}, N = {model.groups}, {model.size} px"
    return f"{what}, {recipe.steps} steps of {recipe.batch}"


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
