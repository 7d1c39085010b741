"""`acd-edge eval`: figures of a checkpoint or a bundle on labelled pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acd_edge.cli.backend import BackendFlags, backend_flags, load_detector
from acd_edge.cli.data import DATA_HELP, LAYOUT_HELP, Progress
from acd_edge.cli.once import OnceCommand
from acd_edge.config import DOMAINS, Domain
from acd_edge.errors import SourceError, UsageError

if TYPE_CHECKING:
    from acd_edge.data.samples import Sample
    from acd_edge.data.zero_shot import TrainingRecord
    from acd_edge.evaluate import Predictor
    from acd_edge.results import At, CategoryReport, Failure, Report

GALLERY = 4
"""Pictures of each kind that a page shows of a category."""
_FAILED = 1


@click.command(cls=OnceCommand)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--data", "data", type=click.Path(path_type=Path), multiple=True, required=True, metavar="DIR",
              help=DATA_HELP)  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path), help="What the paths in a .jsonl list are relative to.")
@click.option("--layout", metavar="NAME", help=LAYOUT_HELP)
@click.option("--bit-depth", type=click.IntRange(9, 16), default=16, show_default=True,
              help="Bits used in 16-bit pictures, as `run` is given; masks are read whole.")  # fmt: skip
@click.option("--product", "products", multiple=True, metavar="CATEGORY='words'",
              help="What the prompts call a category, instead of its set's words or its name. Repeatable.")  # fmt: skip
@click.option("--domain", type=click.Choice(DOMAINS), help="Domain of the data, instead of their set's or industrial.")
@click.option("--bundle-domain", is_flag=True, help="Take a bundle of another domain as it is.")
@click.option("--clip-weights", type=click.Path(path_type=Path), help="Backbone of a checkpoint, where it has moved.")
@click.option("--size", type=click.IntRange(min=1), help="Input side of a checkpoint in pixels; its own unless given.")
@backend_flags
@click.option("--at", type=click.Choice(["model", "native"]), default="model", show_default=True,
              help="Compare pixels at the model's size, or at each picture's own.")  # fmt: skip
@click.option("--ceiling", is_flag=True, help="Add the pixel AP that the truth itself has, averaged per patch.")
@click.option("--html", type=click.Path(path_type=Path), metavar="PAGE",
              help="Write one HTML page too: curves, scores, best and worst heat maps.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a page that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
@click.pass_context
def command(
    ctx: click.Context,
    model: Path | None,
    data: tuple[Path, ...],
    root: Path | None,
    layout: str | None,
    bit_depth: int,
    products: tuple[str, ...],
    domain: Domain | None,
    bundle_domain: bool,
    clip_weights: Path | None,
    size: int | None,
    how: BackendFlags,
    at: At,
    ceiling: bool,
    html: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure MODEL, a checkpoint or a bundle (the built-in one unless given), on labelled pictures.

    Pixel AUROC, AP, AUPRO (to a false positive rate of 30 %) and F1-max, image AUROC, AP and F1-max: the pixels of a
    category pooled, the mean over the categories. A category without good pictures has no image figures, one without
    masks no pixel figures. A picture that cannot be read is listed, the others are measured, and the exit status is 1.
    """
    from acd_edge.data.samples import domain_of, load_data, words_of
    from acd_edge.report import check_page, table
    from acd_edge.runtime.bundle import builtin_bundle
    from acd_edge.runtime.prompts import parse_products

    if domain and bundle_domain:
        raise UsageError("--domain says what the data are, --bundle-domain takes the bundle as it is; give one of them")
    if force and html is None:
        raise UsageError("--force replaces a page; give --html PAGE, or leave --force away")
    if html is not None:
        check_page(html, force=force)
    path = builtin_bundle() if model is None else model
    samples = load_data(data, root, split="test", layout=layout, bit_depth=bit_depth)
    given = parse_products(products)
    words = {**words_of(samples, given), **given}
    if domain is None and not bundle_domain:
        domain = domain_of(samples)
    flags = _Flags(domain=domain, bundle_domain=bundle_domain, clip_weights=clip_weights, size=size, how=how)
    with _opened(path, flags, words.values()) as subject:
        marked = _guarded(path, subject.trained_on, samples, words)
        report = _measured(subject, samples, words, marked, at=at, ceiling=ceiling, with_page=html is not None)
    about = {"model": str(path), "domain": subject.domain, "backend": subject.backend}
    if as_json:
        click.echo(json.dumps({**about, "bit_depth": bit_depth, **report.to_dict()}, indent=2))
    else:
        click.echo(table(report))
    if html is not None:
        name = "built-in model" if model is None else path.name
        about["data"] = ", ".join(map(str, data))
        _write_page(html, report, f"{name} on {', '.join(place.name for place in data)}", about)
    ctx.exit(_FAILED if report.failed else 0)


@dataclass(frozen=True, kw_only=True)
class _Flags:
    """What says how to open the model; without a domain, a bundle as it is."""

    domain: Domain | None
    bundle_domain: bool
    clip_weights: Path | None
    size: int | None
    how: BackendFlags


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is measured: the predictor, the S, patch and resize rule it was made for, its backend and its training."""

    predictor: Predictor
    size: int
    patch: int
    resize_rule: str
    domain: str
    backend: str
    trained_on: TrainingRecord


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


@contextmanager
def _opened(path: Path, flags: _Flags, words: Collection[str]) -> Iterator[_Subject]:
    if kind_of(path) == "checkpoint":
        yield _checkpoint(path, flags)
        return
    if flags.clip_weights or flags.size:
        raise UsageError("--clip-weights and --size are for checkpoints; a bundle carries its weights and its size")
    from acd_edge.data.zero_shot import record_of_bundle
    from acd_edge.evaluate import predictor_from_detector
    from acd_edge.runtime.prompts import DEFAULT_PRODUCT

    with load_detector(path, product=DEFAULT_PRODUCT, how=flags.how, words=words) as detector:
        manifest = detector.bundle.manifest
        _check_domain(path, manifest.domain, flags)
        yield _Subject(
            predictor=predictor_from_detector(detector),
            size=manifest.size,
            patch=manifest.patch,
            resize_rule=manifest.resize,
            domain=manifest.domain,
            backend=detector.backend_name,
            trained_on=record_of_bundle(detector.bundle),
        )


def _check_domain(path: Path, own: str, flags: _Flags) -> None:
    if own != flags.domain and not flags.bundle_domain:
        raise UsageError(
            f"{path} was exported for {own} pictures, the data are {flags.domain}; "
            f"give --domain {own}, or --bundle-domain to measure it as it is, or export --domain {flags.domain}"
        )


def _checkpoint(path: Path, flags: _Flags) -> _Subject:
    if flags.bundle_domain:
        raise UsageError(f"--bundle-domain is for bundles, {path} is a checkpoint; give --domain")
    if flags.how.given:
        raise UsageError(f"{flags.how.given[0]} is for a bundle's graph, {path} is a checkpoint; export it first")
    from acd_edge.checkpoint import load_checkpoint
    from acd_edge.data.zero_shot import record_of_checkpoint
    from acd_edge.evaluate import predictor_from_model
    from acd_edge.model.weights import tokenizer_for
    from acd_edge.runtime.preprocess import DEFAULT_RESIZE

    model = load_checkpoint(path, size=flags.size, clip_weights=flags.clip_weights)
    model.config = model.config.with_(domain=flags.domain)
    return _Subject(
        predictor=predictor_from_model(model, tokenizer_for(model.config)),
        size=model.config.size,
        patch=model.vision.patch,
        resize_rule=DEFAULT_RESIZE,
        domain=model.config.domain,
        backend="torch",
        trained_on=record_of_checkpoint(path),
    )


def _guarded(path: Path, record: TrainingRecord, samples: Sequence[Sample], words: Mapping[str, str]) -> dict[str, str]:
    """Category -> why it is not zero-shot; pictures that were trained on are refused."""
    from acd_edge.data.zero_shot import guard

    if record.pictures is None:
        click.echo(f"{path} does not say which pictures it was trained on; only names are compared", err=True)
    return guard(samples, record, words, Progress("pictures compared with the trained ones", at_end=False))


def _measured(
    subject: _Subject,
    samples: Sequence[Sample],
    words: Mapping[str, str],
    not_zero_shot: Mapping[str, str],
    *,
    at: At,
    ceiling: bool,
    with_page: bool,
) -> Report:
    """The report; Ctrl-C says first what was done."""
    from acd_edge.evaluate import evaluate

    voice = _Voice()
    try:
        return evaluate(
            subject.predictor,
            samples,
            size=subject.size,
            words=words,
            at=at,
            resize_rule=subject.resize_rule,
            patch=subject.patch if ceiling else None,
            gallery=GALLERY if with_page else None,
            not_zero_shot=not_zero_shot,
            listener=voice,
        )
    except KeyboardInterrupt:
        voice.tell_what_was_done()
        raise


def _write_page(html: Path, report: Report, title: str, about: Mapping[str, str]) -> None:
    from acd_edge.report import page, write_page

    write_page(html, page(report, title=title, about={**about, "measured": time.strftime("%Y-%m-%d")}))
    click.echo(f"{html} written", err=True)


class _Voice:
    """Tells on stderr: a line every few seconds and at the end, what cannot be read, and at Ctrl-C what was done."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s, self._began = every_s, time.monotonic()
        self._next = self._began + every_s
        self._so_far = (0, 0, "")
        self._failed = 0
        self._finished: dict[str, CategoryReport] = {}

    def picture(self, done: int, total: int, category: str) -> None:
        """Tell where it stands, when it is time to."""
        self._so_far = (done, total, category)
        now = time.monotonic()
        if done < total and now < self._next:
            return
        self._next = now + self._every_s
        rate = done / max(now - self._began, 1e-9)
        left = f", about {(total - done) / rate:.0f} s left" if done < total else ""
        click.echo(f"{done}/{total} pictures, {category}, {rate:.1f} a second{left}", err=True)

    def failure(self, failure: Failure) -> None:
        """Tell at once what cannot be read."""
        self._failed += 1
        click.echo(f"Error: {' '.join(failure.reason.splitlines())}", err=True)

    def category(self, name: str, row: CategoryReport) -> None:
        """Remember it for an early end."""
        self._finished[name] = row

    def tell_what_was_done(self) -> None:
        """How many pictures, and the figures of the categories that are complete; nothing goes to stdout or a page."""
        done, total, category = self._so_far
        where = f", in {category}" if category and category not in self._finished else ""
        failed = f", {self._failed} of them could not be read" if self._failed else ""
        click.echo(f"stopped after {done} of {total} pictures{where}{failed}; no report was written", err=True)
        for name, row in self._finished.items():
            click.echo(f"{name} was complete: {_in_words(row)}", err=True)


def _in_words(row: CategoryReport) -> str:
    from acd_edge.report.columns import COLUMNS, per_cent

    given = {f"{column.group} {column.title}": getattr(row.figures, column.figure) for column in COLUMNS}
    found = [f"{name} {per_cent(value)}" for name, value in given.items() if value is not None]
    return ", ".join(found) or "no figures"
