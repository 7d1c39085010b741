"""The paper's Table 2 on the compact model: 36 short trainings of equal length, resumable at any moment.

    python benchmarks/ablation.py train --data ROOT -o runs       trains on magnetic_tile and neu_seg, judges on deeppcb
    python benchmarks/ablation.py unseen --data ROOT -o runs      all of them over the unseen sets, in one pass
    python benchmarks/ablation.py table -o runs                   mean and spread over the seeds, as Markdown

`ROOT` holds the data sets' folders. The four rows, two presets and three seeds at N = 2, then the full model (`both`)
at N = 3 and 6. Every run is the commands `acd-edge train` and `acd-edge eval --json`; what is there is not done again.
`--jobs 2` runs two at a time with half of the cores each: on two cores 1.2 times as many trainings an hour, and 1.3
times as many pictures looked at. What a run says of its progress goes to `NAME.log`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from acd_edge.config import ABLATIONS

ROWS = {
    "LoRA, static": ABLATIONS["baseline"],
    "Conv-LoRA, static": ABLATIONS["conv_lora"],
    "LoRA, gateway": ABLATIONS["gateway"],
    "both": ABLATIONS["both"],
}
PRESETS = ("paper", "reference")
SEEDS = (0, 1, 2)
RATES = {"vision_rate": 1e-3, "text_rate": 5e-4}  # the authors', and `train`'s own when the 36 were trained
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
        return {"model": model, "recipe": {"steps": steps, "seed": self.seed, **RATES}}


def runs() -> Iterator[Run]:
    """All 36, in the order in which they are done: a seed of everything before the next seed."""
    for seed in SEEDS:
        yield from (Run(row, preset, 2, seed) for row in ROWS for preset in PRESETS)
        yield from (Run("both", preset, groups, seed) for preset in PRESETS for groups in (3, 6))


JOBS = click.option("--jobs", type=click.IntRange(1, os.cpu_count()), default=1, show_default=True, help="At once.")


@click.group()
def main() -> None:
    """Train, look at the unseen sets once, print the table."""


@main.command()
@click.option("--data", "root", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--steps", default=STEPS, show_default=True, help="Of every run; equal, or the table compares nothing.")
@JOBS
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def train(root: Path, steps: int, jobs: int, output: Path) -> None:
    """Train what is not trained yet and judge it on the left-out training set."""
    output.mkdir(parents=True, exist_ok=True)

    def one(run: Run) -> None:
        if not _trained(output / run.name):
            _train(run, root, steps, output / run.name, jobs)
        _judge(output / run.name, root, JUDGED, jobs)

    _each(one, jobs)


@main.command()
@click.option("--data", "root", type=click.Path(path_type=Path, exists=True), required=True)
@JOBS
@click.option("-o", "--output", type=click.Path(path_type=Path, exists=True), required=True)
def unseen(root: Path, jobs: int, output: Path) -> None:
    """Take every run over the unseen sets: only after the built-in model is fixed, and nothing is chosen by it."""
    if missing := [run.name for run in runs() if not _trained(output / run.name)]:
        raise click.ClickException(f"{len(missing)} runs are not trained yet, the first is {missing[0]}")

    def one(run: Run) -> None:
        for name in UNSEEN:
            _judge(output / run.name, root, name, jobs)

    _each(one, jobs)


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


def _each(one: Callable[[Run], None], jobs: int) -> None:
    """Every run, `jobs` at a time; the first that fails ends it all once those beside it are done."""
    with ThreadPoolExecutor(jobs) as pool:
        begun = [(run, pool.submit(one, run)) for run in runs()]
        try:
            for number, (run, done) in enumerate(begun, 1):
                done.result()
                click.echo(f"{number}/36 {run.name}", err=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _train(run: Run, root: Path, steps: int, checkpoint: Path, jobs: int) -> None:
    config = checkpoint.with_name(checkpoint.name + ".config.json")
    config.write_text(json.dumps(run.config(steps), indent=2) + "\n", encoding="utf-8")
    data = [part for name in TRAINED for part in ("--data", root / name)]
    words = [part for name in TRAINED for product in PRODUCTS[name] for part in ("--product", product)]
    resume = ["--resume"] if _state(checkpoint).is_file() else []
    began = time.monotonic()
    _acd_edge(checkpoint, jobs, "train", *data, *words, "--config", config, "-o", checkpoint, *resume)
    click.echo(f"{run.name} trained in {(time.monotonic() - began) / 60:.1f} minutes", err=True)


def _trained(checkpoint: Path) -> bool:
    return checkpoint.is_dir() and not _state(checkpoint).is_file()  # Ctrl-C leaves a checkpoint and the state


def _state(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".training") / "state.safetensors"


def _judge(checkpoint: Path, root: Path, name: str, jobs: int) -> None:
    result = _result(checkpoint, name)
    if result.is_file():
        return
    words = [part for product in PRODUCTS[name] for part in ("--product", product)]
    arguments = ("eval", checkpoint, "--data", root / name, *words, "--domain", "industrial", "--json")
    found = _acd_edge(checkpoint, jobs, *arguments)
    fresh = result.with_suffix(".new")
    fresh.write_text(found, encoding="utf-8")
    fresh.replace(result)


def _result(checkpoint: Path, name: str) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.{name}.json")


def _acd_edge(checkpoint: Path, jobs: int, *arguments: object) -> str:
    """What the command prints, with its share of the cores; what it says meanwhile goes to the run's log."""
    command = [sys.executable, "-m", "acd_edge", *map(str, arguments)]
    share = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    log = checkpoint.with_name(checkpoint.name + ".log")
    with log.open("a", encoding="utf-8") as words:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=words, text=True, env=share, check=False)
    if done.returncode:
        last = log.read_text(encoding="utf-8").splitlines()[-1:]
        raise click.ClickException(f"{checkpoint.name}: {' '.join(last)} (all of it in {log})")
    return done.stdout


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
