"""`acd-edge bench --budget-ms`: the ladder of sizes and precisions, and which rung fits."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acd_edge.cli.backend import BackendFlags, load_detector
from acd_edge.cli.data import Progress
from acd_edge.cli.judged import judged_samples, pixel_auroc_of
from acd_edge.errors import BenchError, BundleError, DataError, UsageError

if TYPE_CHECKING:
    from acd_edge.bench.ladder import Choice, Ladder, Latency, Request, Rung, Work
    from acd_edge.cli.bench import Flags
    from acd_edge.config import Domain
    from acd_edge.data.samples import Sample

FRAMES = 60
_NONE_FITS = 1
_TENSORRT = "tensorrt"


def climb(flags: Flags, how: BackendFlags) -> int:
    """Walk the ladder, tell it, and return the exit status: 1 where nothing fits the budget."""
    from acd_edge.bench.facts import machine_facts
    from acd_edge.bench.ladder import Ladder, Work

    machine = machine_facts()  # whose load is that before the work
    if flags.budget_ms is None:
        raise UsageError("--from belongs to the ladder: give --budget-ms T, or name a bundle to measure")
    if not flags.data:
        raise UsageError("the ladder judges on labelled pictures: give --data DIR")
    samples = judged_samples(flags.data, flags.root, flags.layout, flags.calib, flags.bit_depth)
    request = _request(flags, samples, how)
    _warn_trained(request.checkpoint, samples)
    ladder, stopped = Ladder(flags.budget_ms), None
    with _work_folder(flags.output) as folder:
        try:
            _walk(ladder, Work(folder), request, samples, flags, how)
        except KeyboardInterrupt as error:
            if not ladder.rungs:
                raise
            stopped = error
    values = _values(ladder, request, samples, machine, stopped)
    _tell(flags, ladder, values)
    if stopped is not None:
        raise stopped
    return 0 if ladder.best else _NONE_FITS


def _walk(
    ladder: Ladder, work: Work, request: Request, samples: Sequence[Sample], flags: Flags, how: BackendFlags
) -> None:
    """The checkpoint's own size first: it tells the patch, and what `auto` runs on."""
    from acd_edge.bench.ladder import Choice, default_precisions, export_rung, sizes_around, walk
    from acd_edge.checkpoint import read_config

    own = read_config(request.checkpoint).size
    judge = _Judge(samples, flags, how, work)
    run = partial(
        walk, ladder, request=request, work=work, export=export_rung, judge=judge, measure=_Measure(flags, how),
        keep=flags.output is not None, say=partial(click.echo, err=True),
    )  # fmt: skip
    on_tensorrt = how.backend == _TENSORRT
    precisions = flags.precisions or default_precisions(on_tensorrt=on_tensorrt, has_calib=flags.calib is not None)
    first, *others = dict.fromkeys(precisions)
    start = flags.sizes[0] if flags.sizes else own
    _tell_rungs(run(choices=[Choice(start, first)], keep=True))  # whose patch is read below
    if how.backend == "auto" and ladder.rungs[0].backend.startswith(_TENSORRT):
        run = partial(run, request=replace(request, int8_base="fp16"))
        if not flags.precisions:
            others.append("bf16")
    sizes = flags.sizes or _sizes(own, work.bundle(Choice(start, first)), sizes_around)
    if flags.output is None:
        work.drop(Choice(start, first))
    choices = [Choice(size, precision) for size in dict.fromkeys((start, *sizes)) for precision in (first, *others)]
    _tell_rungs(run(choices=choices[1:]))


def _sizes(own: int, bundle: Path, around: Any) -> tuple[int, ...]:
    """Around the checkpoint's own; that alone where its bundle could not be made, which the first rung says."""
    from acd_edge.runtime.bundle import Bundle

    try:
        with Bundle.open(bundle) as opened:
            found: tuple[int, ...] = around(own, opened.manifest.patch)
            return found
    except BundleError:
        return (own,)


def _request(flags: Flags, samples: Sequence[Sample], how: BackendFlags) -> Request:
    from acd_edge.bench.ladder import Request
    from acd_edge.checkpoint import builtin_checkpoint, checkpoint_digest, read_info

    checkpoint = builtin_checkpoint() if flags.checkpoint is None else flags.checkpoint
    read_info(checkpoint)
    words, domain = _shown(samples)
    return Request(
        checkpoint=checkpoint,
        checkpoint_sha256=checkpoint_digest(checkpoint),
        domain=domain,
        products=words,
        calib=flags.calib,
        calib_sha256="" if flags.calib is None else _calib_digest(flags.calib),
        bit_depth=flags.bit_depth,
        clip_weights=flags.clip_weights,
        int8_base="fp16" if how.backend == _TENSORRT else "fp32",
    )


def _shown(samples: Sequence[Sample]) -> tuple[dict[str, str], Domain]:
    """The words of each category, and the domain."""
    from acd_edge.data.samples import domain_of, words_of

    try:
        return words_of(samples), domain_of(samples)
    except DataError as error:  # whose advice names flags that the ladder has not
        what = str(error).rpartition("; ")[0]
        raise DataError(f"{what}; a ladder judges every rung on all of --data: take them one at a time") from error


def _calib_digest(folder: Path) -> str:
    from acd_edge.calib.pictures import find_pictures

    return find_pictures(folder).sha256


def _warn_trained(checkpoint: Path, samples: Sequence[Sample]) -> None:
    """Say it where the figures are not those of new pictures; to compare rungs they serve all the same."""
    from acd_edge.data.zero_shot import guard, record_of_checkpoint

    try:
        progress = Progress("pictures compared with the trained ones", at_end=False)
        reasons = list(guard(samples, record_of_checkpoint(checkpoint), None, progress).values())
    except DataError as error:
        reasons = [str(error)]
    if reasons:
        click.echo(f"not zero-shot, so the figures compare rungs and nothing else: {reasons[0]}", err=True)


@contextmanager
def _work_folder(output: Path | None) -> Iterator[Path]:
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="acd-edge-ladder-") as folder:
        yield Path(folder)


class _Measure:
    """Latency of a bundle to the decision, as `bench` measures it."""

    def __init__(self, flags: Flags, how: BackendFlags) -> None:
        self._flags, self._how = flags, how

    def __call__(self, bundle: Path) -> tuple[Latency, str]:
        from acd_edge.bench.ladder import Latency
        from acd_edge.bench.measure import COMPLETE
        from acd_edge.bench.run import bench
        from acd_edge.cli.bench import config_of

        config = replace(config_of(self._flags, self._how, FRAMES), idle_s=0.0)  # energy is no part of a rung
        outcome = bench(lambda: load_detector(bundle, product="object", how=self._how), config)
        if outcome.error is not None:
            raise outcome.error
        if (ending := outcome.values["ending"]) != COMPLETE:
            raise BenchError(f"{ending}; give a longer --source, or fewer --frames")
        row = outcome.values["rows_ms"]["decision"]
        return Latency(row["p50"], row["p95"]), outcome.values["subject"]["backend"]


class _Judge:
    """Pixel AUROC of a bundle on the data, the mean over its categories; kept in the work folder."""

    def __init__(self, samples: Sequence[Sample], flags: Flags, how: BackendFlags, work: Work) -> None:
        self._samples, self._how, self._work = samples, how, work
        self._data = _fingerprint(samples)

    def __call__(self, bundle: Path, choice: Choice) -> float:
        from acd_edge.evaluate import evaluate, predictor_from_detector

        with load_detector(bundle, product="object", how=self._how) as detector:
            manifest = detector.bundle.manifest
            of = {"graph": detector.bundle.model_file.digest, "data": self._data, "backend": detector.backend_name}
            known = self._work.judged(choice, of)
            if known is not None:
                return known
            names = {name: words for name, words in manifest.products.items() if self._has(name)}
            report = evaluate(
                predictor_from_detector(detector), self._samples, size=manifest.size, words=names,
                resize_rule=manifest.resize, listener=_Counter(),
            )  # fmt: skip
        if report.failed:
            raise DataError(f"{len(report.failed)} pictures cannot be read, the first: {report.failed[0].reason}")
        found = pixel_auroc_of(report)
        self._work.judge(choice, of, found)
        return found

    def _has(self, category: str) -> bool:
        return any(sample.category == category for sample in self._samples)


class _Counter:
    """A line every few seconds while pictures are judged."""

    def __init__(self) -> None:
        self._tell = Progress("pictures judged", at_end=False)

    def picture(self, done: int, total: int, category: str) -> None:
        """See `acd_edge.evaluate.Listener`."""
        self._tell(done, total)

    def failure(self, failure: Any) -> None:
        """See there; told at the end."""

    def category(self, name: str, row: Any) -> None:
        """See there."""


def _fingerprint(samples: Sequence[Sample]) -> str:
    """Changes where a picture, its label or its mask is added, removed or written again, or a picture read anew."""
    digest = hashlib.sha256()
    for sample in samples:
        files = [_as_it_lies(path) for path in (sample.image, sample.mask) if path is not None]
        digest.update(f"{sample.category} {sample.label} {sample.bit_depth} {' '.join(files)}\n".encode())
    return digest.hexdigest()


def _as_it_lies(path: Path) -> str:
    found = path.stat()
    return f"{path.name} {found.st_size} {found.st_mtime_ns}"


def _tell_rungs(rungs: Iterator[Rung]) -> None:
    for rung in rungs:
        click.echo(f"{rung.name}: {_said(rung)}", err=True)


def _said(rung: Rung) -> str:
    if rung.reason:
        return rung.reason
    assert rung.pixel_auroc is not None
    return f"p50 {rung.p50_ms:.1f} ms, p95 {rung.p95_ms:.1f} ms, pixel AUROC {100 * rung.pixel_auroc:.2f}"


def _values(
    ladder: Ladder,
    request: Request,
    samples: Sequence[Sample],
    machine: Mapping[str, Any],
    stopped: BaseException | None,
) -> dict[str, Any]:
    from acd_edge.bench.facts import versions

    return {
        "kind": "acd-edge bench ladder",
        "schema": 1,
        **ladder.to_dict(),
        "checkpoint": request.checkpoint.resolve().name,
        "checkpoint_sha256": request.checkpoint_sha256,
        "domain": request.domain,
        "pictures": len(samples),
        "bit_depth": request.bit_depth,
        "products": dict(request.products),
        "ending": "complete" if stopped is None else "interrupted",
        "machine": machine,
        "versions": versions(),
    }


def _tell(flags: Flags, ladder: Ladder, values: Mapping[str, Any]) -> None:
    from acd_edge.bench.plot import ladder_plot, write_plot
    from acd_edge.bench.results import write_json
    from acd_edge.cli.bench import STDOUT

    if flags.as_json == STDOUT:
        click.echo(json.dumps(values))
    else:
        click.echo(table(ladder, values))
        if flags.as_json is not None:
            write_json(flags.as_json, values)
    if flags.plot is not None:
        title = f"{values['checkpoint']} on {values['machine']['cpu']}"
        write_plot(flags.plot, ladder_plot(values["rungs"], ladder.budget_ms, title))
        click.echo(f"{flags.plot} written", err=True)


def table(ladder: Ladder, values: Mapping[str, Any]) -> str:
    """The rungs, and the best that fits."""
    from acd_edge.bench.table import aligned

    head = ["size", "precision", "backend", "p50 ms", "p95 ms", "pixel AUROC", f"fits {ladder.budget_ms:g} ms"]
    rows = [head, *(_row(rung) for rung in ladder.sorted())]
    lines = aligned(rows, words=3)
    lines += [f"{rung.name}: {rung.reason}" for rung in ladder.sorted() if rung.reason]
    lines.append(f"latency from decoding to the decision; pixel AUROC in per cent on {values['pictures']} pictures")
    if values["ending"] != "complete":
        lines.append("interrupted: there are rungs that were not climbed")
    return "\n".join([*lines, _verdict(ladder)])


def _row(rung: Rung) -> list[str]:
    cells = [None if value is None else f"{value:.1f}" for value in (rung.p50_ms, rung.p95_ms)]
    cells.append(None if rung.pixel_auroc is None else f"{100 * rung.pixel_auroc:.2f}")
    fits = "-" if rung.reason else "yes" if rung.fits else "no"
    return [str(rung.size), rung.precision, rung.backend or "-", *(cell or "-" for cell in cells), fits]


def _verdict(ladder: Ladder) -> str:
    best = ladder.best
    if best is not None:
        return f"best that fits: {best.name}, {_said(best)}"
    measured = [rung for rung in ladder.rungs if rung.p95_ms is not None]
    if not measured:
        return "nothing could be measured"
    fastest = min(measured, key=lambda rung: rung.p95_ms or 0.0)
    return f"nothing fits {ladder.budget_ms:g} ms; the fastest is {fastest.name}, {_said(fastest)}"
