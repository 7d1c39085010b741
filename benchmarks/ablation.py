"""The paper's Table 2 on the compact model: 36 short trainings of equal length, resumable at any moment.

    python benchmarks/ablation.py train --data ROOT -o runs       trains on magnetic_tile and neu_seg, judges on deeppcb
    python benchmarks/ablation.py unseen --data ROOT -o runs      all of them over the unseen sets, in one pass
    python benchmarks/ablation.py table -o runs                   mean and spread over the seeds, as Markdown

`ROOT` holds the data sets' folders. The four rows, two presets and three seeds at N = 2, then the full model (`both`)
at N = 3 and 6. Every run is the commands `acd-edge train` and `acd-edge eval --json`; what is there is not done again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

ROWS = {
    "LoRA, static": {"vision_adapter": "lora", "fusion": "static"},
    "Conv-LoRA, static": {"vision_adapter": "conv_lora", "fusion": "static"},
    "LoRA, gateway": {"vision_adapter": "lora", "fusion": "gateway"},
    "both": {"vision_adapter": "conv_lora", "fusion": "gateway"},
}
PRESETS = ("paper", "reference")
SEEDS = (0, 1, 2)
SIZE, STEPS = 224, 100  # what two cores train in under six minutes, also at N = 6
TRAINED = ("magnetic_tile", "neu_seg")
JUDGED = "deeppcb"
UNSEEN = ("crackforest", "hsst_fabric", "lgg_brain_mri")
PRODUCTS = {
    "magnetic_tile": ("tile=magnetic tile",),
    "neu_seg": ("steel=steel",),
    "deeppcb": ("pcb=circuit board",),
    "crackforest": ("road=asphalt road",),
    "hsst_fabric": ("fabric=fabric",),
    "lgg_brain_mri": ("brain_flair=brain scan",),
}
FIGURES = ("pixel_auroc", "pixel_ap", "image_auroc", "image_ap")


@dataclass(frozen=True)
class Run:
    """One training: a row of the table, at N, with a preset and a seed."""

    row: str
    preset: str
    groups: int
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        row = self.row.lower().replace(", ", "-")
        return f"{row}-{self.preset}-n{self.groups}-s{self.seed}"

    def config(self, steps: int) -> dict[str, object]:
        """What `acd-edge train --config` reads."""
        model = {"backbone": "compact", "preset": self.preset, "groups": self.groups, "size": SIZE, **ROWS[self.row]}
        return {"model": model, "recipe": {"steps": steps, "seed": self.seed}}


def runs() -> Iterator[Run]:
    """All 36, in the order in which they are done: a seed of everything before the next seed."""
    for seed in SEEDS:
        yield from (Run(row, preset, 2, seed) for row in ROWS for preset in PRESETS)
        yield from (Run("both", preset, groups, seed) for preset in PRESETS for groups in (3, 6))


@click.group()
def main() -> None:
    """Train, look at the unseen sets once, print the table."""


@main.command()
@click.option("--data", "root", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--steps", default=STEPS, show_default=True, help="Of every run; equal, or the table compares nothing.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def train(root: Path, steps: int, output: Path) -> None:
    """Train what is not trained yet and judge it on the left-out training set."""
    output.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(runs(), 1):
        checkpoint = output / run.name
        click.echo(f"{number}/36 {run.name}", err=True)
        if not checkpoint.is_dir():
            _train(run, root, steps, checkpoint)
        _judge(checkpoint, root, JUDGED)


@main.command()
@click.option("--data", "root", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, exists=True), required=True)
def unseen(root: Path, output: Path) -> None:
    """Take every run over the unseen sets: only after the built-in model is fixed, and nothing is chosen by it."""
    if missing := [run.name for run in runs() if not (output / run.name).is_dir()]:
        raise click.ClickException(f"{len(missing)} runs are not trained yet, the first is {missing[0]}")
    for run in runs():
        for name in UNSEEN:
            click.echo(f"{run.name} on {name}", err=True)
            _judge(output / run.name, root, name)


@main.command()
@click.option("-o", "--output", type=click.Path(path_type=Path, exists=True), required=True)
def table(output: Path) -> None:
    """Mean and spread (least to largest) over the seeds that are there, per cent."""
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs():
        groups.setdefault((run.row, run.preset, run.groups), []).append(run)
    judged = [name for name in (JUDGED, *UNSEEN) if any(_result(output / r.name, name).is_file() for r in runs())]
    click.echo("| row | preset | N | " + " | ".join(f"{name}: pixel AUROC, AP; image AUROC" for name in judged) + " |")
    click.echo("| --- | --- | --- |" + " --- |" * len(judged))
    for (row, preset, count), members in groups.items():
        cells = [_cell([_figures(output / run.name, name) for run in members]) for name in judged]
        click.echo(f"| {row} | {preset} | {count} | " + " | ".join(cells) + " |")


def _train(run: Run, root: Path, steps: int, checkpoint: Path) -> None:
    config = checkpoint.with_name(checkpoint.name + ".config.json")
    config.write_text(json.dumps(run.config(steps), indent=2) + "\n", encoding="utf-8")
    data = [part for name in TRAINED for part in ("--data", root / name)]
    words = [part for name in TRAINED for product in PRODUCTS[name] for part in ("--product", product)]
    unfinished = checkpoint.with_name(checkpoint.name + ".training")
    resume = ["--resume"] if (unfinished / "state.safetensors").is_file() else []
    began = time.monotonic()
    _acd_edge("train", *data, *words, "--config", config, "-o", checkpoint, *resume)
    click.echo(f"{(time.monotonic() - began) / 60:.1f} minutes", err=True)


def _judge(checkpoint: Path, root: Path, name: str) -> None:
    result = _result(checkpoint, name)
    if result.is_file():
        return
    words = [part for product in PRODUCTS[name] for part in ("--product", product)]
    found = _acd_edge("eval", checkpoint, "--data", root / name, *words, "--domain", "industrial", "--json")
    fresh = result.with_suffix(".new")
    fresh.write_text(found, encoding="utf-8")
    fresh.replace(result)


def _result(checkpoint: Path, name: str) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.{name}.json")


def _acd_edge(*arguments: object) -> str:
    command = [sys.executable, "-m", "acd_edge", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _figures(checkpoint: Path, name: str) -> dict[str, float | None] | None:
    result = _result(checkpoint, name)
    if not result.is_file():
        return None
    mean = json.loads(result.read_text(encoding="utf-8"))["mean"]
    return {figure: mean[figure] for figure in FIGURES}


def _cell(found: list[dict[str, float | None] | None]) -> str:
    there = [figures for figures in found if figures]
    parts = [_spread([v for f in there if (v := f[name]) is not None]) for name in FIGURES[:3]]
    return f"{parts[0]}, {parts[1]}; {parts[2]}" + ("" if len(there) == len(SEEDS) else f" ({len(there)} seeds)")


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{100 * statistics.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


if __name__ == "__main__":
    main()
