"""`acd-edge eval`: figures of a checkpoint or a bundle on labelled pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acd_edge.config import DOMAINS, Domain
from acd_edge.errors import SourceError, UsageError

if TYPE_CHECKING:
    from acd_edge.evaluate import CategoryReport, Figures, Predictor, Report

_COLUMNS = ("pixel_auroc", "pixel_ap", "image_auroc", "image_ap")
_TITLES = ("pixel AUROC", "pixel AP", "image AUROC", "image AP")


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--data", "data", type=click.Path(path_type=Path), multiple=True, required=True, metavar="DIR",
              help="MVTec-layout folder, one of its categories, or a .jsonl list; repeatable.")  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path), help="What the paths in a .jsonl list are relative to.")
@click.option("--product", "products", multiple=True, metavar="CATEGORY='words'",
              help="What the prompts call a category; its name with spaces unless given. Repeatable.")  # fmt: skip
@click.option("--domain", type=click.Choice(DOMAINS), help="Domain of the data; industrial unless given.")
@click.option("--bundle-domain", is_flag=True, help="Take a bundle of another domain as it is.")
@click.option("--clip-weights", type=click.Path(path_type=Path), help="Backbone of a checkpoint, where it has moved.")
@click.option("--size", type=click.IntRange(min=1), help="Input side of a checkpoint in pixels; its own unless given.")
@click.option("--backend", default="auto", show_default=True, help="What runs a bundle's graph.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def command(
    model: Path | None,
    data: tuple[Path, ...],
    root: Path | None,
    products: tuple[str, ...],
    domain: Domain | None,
    bundle_domain: bool,
    clip_weights: Path | None,
    size: int | None,
    backend: str,
    as_json: bool,
) -> None:
    """Measure MODEL, a checkpoint or a bundle (the built-in one unless given), on labelled pictures.

    Pixel and image AUROC and average precision at the model's own size: the pixels of a category pooled, the mean over
    the categories. A category without good pictures has no image figures, one without masks no pixel figures.
    """
    from acd_edge.data.samples import load_data
    from acd_edge.evaluate import evaluate
    from acd_edge.runtime.bundle import builtin_bundle
    from acd_edge.runtime.prompts import parse_product

    path = builtin_bundle() if model is None else model
    words = dict(parse_product(product) for product in products)
    samples = load_data(data, root, split="test")
    if kind_of(path) == "bundle":
        if clip_weights or size:
            raise UsageError("--clip-weights and --size are for checkpoints; a bundle carries its weights and its size")
        predictor, side, used = _bundle(path, domain, bundle_domain, backend)
    else:
        if bundle_domain:
            raise UsageError(f"--bundle-domain is for bundles, {path} is a checkpoint; give --domain")
        predictor, side, used = _checkpoint(path, domain or "industrial", clip_weights, size)
    report = evaluate(predictor, samples, size=side, words=words, progress=_Progress())
    if as_json:
        click.echo(json.dumps({"model": str(path), "domain": used, **report.to_dict()}, indent=2))
    else:
        click.echo(table(report))


def kind_of(path: Path) -> str:
    """`bundle` or `checkpoint`, told by the files in it.

    Raises:
        SourceError: it is neither.
    """
    if not path.exists():
        raise SourceError(f"there is no checkpoint and no bundle at {path}")
    if path.is_file() or (path / "manifest.json").is_file():
        return "bundle"
    if (path / "config.json").is_file():
        return "checkpoint"
    raise SourceError(f"{path} is neither a bundle (manifest.json) nor a checkpoint (config.json)")


def _bundle(path: Path, domain: Domain | None, own: bool, backend: str) -> tuple[Predictor, int, str]:
    from acd_edge.evaluate import predictor_from_detector
    from acd_edge.runtime.detector import Detector

    detector = Detector.load(path, backend=backend)
    manifest = detector.bundle.manifest
    wanted = domain or "industrial"
    if manifest.domain != wanted and not own:
        raise UsageError(
            f"{path} was exported for {manifest.domain} pictures, the data are {wanted}; "
            f"give --domain {manifest.domain}, or --bundle-domain to measure it as it is, or export --domain {wanted}"
        )
    return predictor_from_detector(detector), manifest.size, manifest.domain


def _checkpoint(path: Path, domain: Domain, clip_weights: Path | None, size: int | None) -> tuple[Predictor, int, str]:
    from acd_edge.checkpoint import load_checkpoint
    from acd_edge.evaluate import predictor_from_model
    from acd_edge.model.weights import tokenizer_for

    model = load_checkpoint(path, size=size, clip_weights=clip_weights)
    model.config = model.config.with_(domain=domain)
    return predictor_from_model(model, tokenizer_for(model.config)), model.config.size, domain


def table(report: Report) -> str:
    """Figures in per cent, a category a line, the mean last where there are several."""
    head = ["category", "product", "good", "defective", *_TITLES]
    rows = [_row(name, row) for name, row in report.categories.items()]
    if len(rows) > 1:
        rows.append(["mean", "", "", "", *_cells(report.mean)])
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    aligned = [str.ljust] * 2 + [str.rjust] * (len(head) - 2)
    lines = ["  ".join(map(_call, aligned, row, widths)) for row in [head, *rows]]
    bound = max(row.pixel_auroc_bound for row in report.categories.values())
    note = [f"pixels counted in bins: pixel AUROC within {100 * bound:.2g} points"] if bound else []
    return "\n".join([line.rstrip() for line in lines] + [f"per cent, at {report.size} x {report.size} pixels", *note])


def _call(align: Callable[[str, int], str], cell: str, width: int) -> str:
    return align(cell, width)


def _row(name: str, row: CategoryReport) -> list[str]:
    return [name, row.words, str(row.good), str(row.defective), *_cells(row.figures)]


def _cells(figures: Figures) -> list[str]:
    values: list[Any] = [getattr(figures, column) for column in _COLUMNS]
    return ["-" if value is None else f"{100 * value:.2f}" for value in values]


class _Progress:
    """A line on stderr every few seconds, and at the end."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s, self._began = every_s, time.monotonic()
        self._next = self._began + every_s

    def __call__(self, done: int, total: int, category: str) -> None:
        now = time.monotonic()
        if done < total and now < self._next:
            return
        self._next = now + self._every_s
        rate = done / max(now - self._began, 1e-9)
        left = f", about {(total - done) / rate:.0f} s left" if done < total else ""
        click.echo(f"{done}/{total} pictures, {category}, {rate:.1f} a second{left}", err=True)
