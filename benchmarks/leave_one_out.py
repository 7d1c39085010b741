"""Choose a recipe without touching an unseen set: train on all data sets but one and judge on that one, in turn.

    python benchmarks/leave_one_out.py --data DIR --data DIR --data DIR --config recipe.json -o out.jsonl

`recipe.json` is what `acd-edge train --config` reads. Every fold appends a line to the output: pixel AUROC and AP at
the training size and at `--also-size`, on the same seeded sample of the left-out set.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np

from acd_edge.checkpoint import load_adapters
from acd_edge.config import ModelConfig
from acd_edge.data.samples import Sample, load_data
from acd_edge.evaluate import evaluate, predictor_from_model
from acd_edge.model import AcdClip, build_model
from acd_edge.model.weights import tokenizer_for
from acd_edge.runtime.prompts import parse_product
from acd_edge.train.config import TrainConfig
from acd_edge.train.run import TrainRun, new_trainer
from acd_edge.train.settings import Settings, read_settings


@click.command()
@click.option("--data", "data", type=click.Path(path_type=Path), multiple=True, required=True)
@click.option("--only", multiple=True, help="Leave out only these, by folder name.")
@click.option("--config", "config_file", type=click.Path(path_type=Path))
@click.option("--product", "products", multiple=True, metavar="CATEGORY='words'")
@click.option("--pictures", default=40, show_default=True, help="Sample of the left-out set.")
@click.option("--also-size", type=int, help="Judge at this input size too.")
@click.option("--tag", default="", help="Name of the recipe in the output.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(
    data: tuple[Path, ...],
    only: tuple[str, ...],
    config_file: Path | None,
    products: tuple[str, ...],
    pictures: int,
    also_size: int | None,
    tag: str,
    output: Path,
) -> None:
    """Train without each data set in turn and judge on it."""
    given = read_settings(str(config_file)) if config_file else Settings()
    model_config, recipe = ModelConfig.from_dict(given.model), TrainConfig.from_dict(given.recipe)
    phrases = {**given.words, **{category: [words] for category, words in map(parse_product, products)}}
    for held in data:
        if only and held.name not in only:
            continue
        began = time.monotonic()
        run = TrainRun(model=model_config, recipe=recipe, data=(), words=phrases)
        trainer = new_trainer(run, load_data([path for path in data if path != held], split="train"))
        click.echo(f"without {held.name}: {recipe.steps} steps", err=True)
        trainer.run(lambda done, losses: click.echo(f"\r{done} {losses.total:.3f}", err=True, nl=False))
        trainer.finish()
        samples = _sample(load_data([held], split="test"), pictures)
        line = {"tag": tag, "left_out": held.name, "minutes": (time.monotonic() - began) / 60}
        for size in dict.fromkeys([model_config.size, also_size or model_config.size]):
            line[f"at_{size}"] = _judge(_resized(trainer.model, size), samples, size, phrases)
        with output.open("a") as file:
            file.write(json.dumps({**line, "model": model_config.to_dict(), "recipe": recipe.to_dict()}) + "\n")


def _sample(samples: list[Sample], count: int) -> list[Sample]:
    order = np.random.default_rng(0).permutation(len(samples))[:count]
    return [samples[index] for index in order]


def _resized(model: AcdClip, size: int) -> AcdClip:
    if size == model.config.size:
        return model
    other = build_model(model.config.with_(size=size))
    load_adapters(other, model.adapter_state(), "the trained model")
    return other


def _judge(model: AcdClip, samples: list[Sample], size: int, phrases: dict[str, list[str]]) -> dict[str, float | None]:
    names = {sample.category for sample in samples}
    words = {name: phrases[name][0] for name in names if name in phrases}
    predictor = predictor_from_model(model, tokenizer_for(model.config))
    report = evaluate(predictor, samples, size=size, words=words)
    return {name: getattr(report.mean, name) for name in ("pixel_auroc", "pixel_ap", "image_auroc")}


if __name__ == "__main__":
    main()
