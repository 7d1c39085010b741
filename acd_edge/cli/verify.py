"""`acd-edge verify`: whether a bundle, or its engine, computes here what its source computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acd_edge.cli.backend import BackendFlags, backend_flags
from acd_edge.cli.data import LAYOUT_HELP, Progress
from acd_edge.cli.once import OnceCommand
from acd_edge.errors import AcdEdgeError, EngineError, MissingExtra, OutputError, UsageError
from acd_edge.lazy import require

if TYPE_CHECKING:
    from acd_edge.export.bisect import Bisection
    from acd_edge.export.judge import Shown
    from acd_edge.export.tolerance import Limits
    from acd_edge.export.verify import VerifyReport
    from acd_edge.runtime.backends import Backend, GraphFile
    from acd_edge.runtime.bundle import Bundle
    from acd_edge.runtime.engines import Engine
    from acd_edge.shown import Found

_FAILED = 1


@click.command(cls=OnceCommand)
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@backend_flags
@click.option("--data", type=click.Path(path_type=Path), metavar="PATH",
              help="Your pictures too: a folder of them, or a data set with labels (docs/data.md).")  # fmt: skip
@click.option("--product", "products", multiple=True, metavar="NAME[='words']",
              help="What the pictures show; of a data set CATEGORY='words'. Repeatable.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take at most N of the pictures, spread evenly.")
@click.option("--root", type=click.Path(path_type=Path), help="What the paths in a .jsonl list are relative to.")
@click.option("--layout", metavar="NAME", help=LAYOUT_HELP)
@click.option("--bit-depth", type=click.IntRange(9, 16), metavar="BITS",
              help="Bits that 16-bit files of --data use, as `run` is given; 16 unless given.")  # fmt: skip
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="CKPT",
              help="What BUNDLE was made from: compare with it too. Needs torch.")  # fmt: skip
@click.option("--clip-weights", type=click.Path(path_type=Path), help="Backbone of the checkpoint, where it has moved.")
@click.option("--tolerance", "tolerances", multiple=True, metavar="NAME=VALUE",
              help="Another limit than the table's (docs/verify.md): map, score, ... Repeatable.")  # fmt: skip
@click.option("--bisect", is_flag=True,
              help="Name the first block that departs. Needs onnx, and ONNX Runtime or --checkpoint.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the tables.")
@click.pass_context
def command(
    ctx: click.Context,
    bundle: Path | None,
    how: BackendFlags,
    data: Path | None,
    products: tuple[str, ...],
    limit: int | None,
    root: Path | None,
    layout: str | None,
    bit_depth: int | None,
    checkpoint: Path | None,
    clip_weights: Path | None,
    tolerances: tuple[str, ...],
    bisect: bool,
    as_json: bool,
) -> None:
    """Compare what BUNDLE (the built-in one unless given) computes on this machine with what its source computed.

    Always with the golden samples that the bundle carries, and the text encoder, where it has one, with the bundle's
    text features; with --checkpoint and --data also with the source model and on your pictures. The exit status is 1
    where something departs further than its precision explains. With a TensorRT engine the result is kept beside it.

    \b
    acd-edge verify
    acd-edge verify line.acd --backend tensorrt --data parts
    acd-edge verify line.acd --checkpoint my-checkpoint --bisect
    """
    asked = _Pictures(path=data, products=products, limit=limit, root=root, layout=layout, bit_depth=bit_depth)
    if clip_weights is not None and checkpoint is None:
        raise UsageError("--clip-weights is for the checkpoint: give --checkpoint CKPT too")
    if bisect:
        _check_bisect(checkpoint)
    from acd_edge.export.verify import limits_of
    from acd_edge.runtime.bundle import Bundle, builtin_bundle

    with Bundle.open(builtin_bundle() if bundle is None else bundle) as opened:
        limits = limits_of(opened, how.options).with_overrides(tolerances)
        subject = _Subject(opened, how, checkpoint, clip_weights, limits)
        found = asked.found(opened)
        report = subject.verified(found.pictures if found else ())
        bisection = subject.bisected(is_wrong=not report.passed) if bisect else None
    unread, broken = {**(found.unread if found else {}), **report.unread}, subject.broken
    if as_json:
        _print_json(report, subject.engines, unread, bisection, broken)
    else:
        _print_table(report, subject.engines, bisection)
    if isinstance(broken, KeyboardInterrupt):
        raise broken
    reasons = [*unread.values(), *subject.unmarked, *([] if broken is None else [f"no block is named: {broken}"])]
    for reason in reasons:
        click.echo(f"Error: {' '.join(reason.splitlines())}", err=True)
    if not report.passed:
        _tell_failure(report, bisection if broken is None else "the bisection was broken off")
    ctx.exit(0 if report.passed and not reasons else _FAILED)


def _check_bisect(checkpoint: Path | None) -> None:
    """Tell before the work what `--bisect` lacks; ONNX Runtime is not imported for it."""
    require("onnx", "export")
    if checkpoint is None and find_spec("onnxruntime") is None:
        raise MissingExtra(
            "without --checkpoint, --bisect compares with ONNX Runtime, which is not installed; pip install "
            "onnxruntime, or give --checkpoint CKPT"
        )


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """What the flags say of the user's pictures."""

    path: Path | None
    products: tuple[str, ...]
    limit: int | None
    root: Path | None
    layout: str | None
    bit_depth: int | None

    def __post_init__(self) -> None:
        if self.path is None and (self.products or self.limit or self.root or self.layout or self.bit_depth):
            raise UsageError(
                "--product, --limit, --root, --layout and --bit-depth say how to read pictures: give --data PATH too"
            )

    def found(self, bundle: Bundle) -> Found | None:
        """List them, and tell as what they are read."""
        if self.path is None:
            return None
        from acd_edge.shown import find_pictures

        manifest = bundle.manifest
        found = find_pictures(
            self.path,
            size=manifest.size,
            resize_rule=manifest.resize,
            products=self.products,
            root=self.root,
            layout=self.layout,
            bit_depth=self.bit_depth or 16,
        ).limited(self.limit)
        _tell(f"{self.path}: {found.as_what}")
        return found


class _Subject:
    """The bundle on the backend that was asked for.

    Attributes:
        engines: that ran and were marked with the result.
        unmarked: why others that ran were not.
        broken: what ended the bisection before it was done.
    """

    def __init__(
        self,
        bundle: Bundle,
        how: BackendFlags,
        checkpoint: Path | None,
        clip_weights: Path | None,
        limits: Limits,
    ) -> None:
        self._bundle, self._how = bundle, how
        self._checkpoint, self._clip_weights, self._limits = checkpoint, clip_weights, limits
        self.engines: list[Engine] = []
        self.unmarked: list[str] = []
        self.broken: AcdEdgeError | KeyboardInterrupt | None = None
        self._ran: list[Engine] = []

    def verified(self, pictures: Sequence[Shown]) -> VerifyReport:
        """Compare, and keep the result beside the engines that ran; not when it is broken off."""
        from acd_edge.export.verify import verify_bundle

        count = _Count()
        try:
            report = verify_bundle(
                self._bundle,
                self._how.backend,
                self._how.options,
                pictures=pictures,
                checkpoint=self._checkpoint,
                clip_weights=self._clip_weights,
                tolerance=self._limits,
                open_graph=self._load,
                progress=_tell,
                counted=count,
            )
        except KeyboardInterrupt:
            _tell(f"stopped{count.so_far}; nothing was judged, and no engine was marked")
            raise
        for engine in self._ran:
            self._mark(engine, report)
        return report

    def _mark(self, engine: Engine, report: VerifyReport) -> None:
        """Keep the result beside an engine; where that cannot be, the result is told all the same."""
        from acd_edge.export.verify import stamp_of
        from acd_edge.runtime.engines import write_stamp

        try:
            self.engines.append(write_stamp(engine, stamp_of(report, engine)))
        except (EngineError, OutputError) as error:
            self.unmarked.append(f"the result is not kept beside the engine: {error}")

    def bisected(self, *, is_wrong: bool) -> Bisection | None:
        """Name the first block that departs; None where that is broken off, since the verification is told even so."""
        try:
            return self._bisected(is_wrong=is_wrong)
        except (AcdEdgeError, KeyboardInterrupt) as error:
            self.broken = error
            return None

    def _bisected(self, *, is_wrong: bool) -> Bisection:
        """Of an engine, by engines that give out what its blocks make."""
        from acd_edge.export.bisect import bisect_bundle

        engine = next((each for each in self._ran if each.record.part == "model"), None)
        return bisect_bundle(
            self._bundle,
            self._how.backend,
            self._how.options,
            checkpoint=self._checkpoint,
            clip_weights=self._clip_weights,
            tolerance=self._limits.source,
            open_graph=None if engine is None else self._engines_like(engine),
            is_wrong=is_wrong,
            progress=_tell,
        )

    def _engines_like(self, engine: Engine) -> Callable[[GraphFile], Backend]:
        from acd_edge.export.probe_engine import engine_opener
        from acd_edge.runtime.cuda import open_cuda
        from acd_edge.runtime.trt_module import load_tensorrt

        return engine_opener(load_tensorrt(), open_cuda(self._how.cuda), engine.record.key.options, progress=_tell)

    def _load(self, graph: GraphFile) -> Backend:
        from acd_edge.runtime.backends import open_backend

        if self._how.backend == "tensorrt":
            backend = self._load_engine(graph)
        else:
            backend = open_backend(graph, backend=self._how.backend, options=self._how.options)
        engine = getattr(backend, "engine", None)
        if engine is not None and engine not in self._ran:
            self._ran.append(engine)
        return backend

    def _load_engine(self, graph: GraphFile) -> Backend:
        """The engine that is there, in whatever state, since one that failed may be verified again; else a new one."""
        from acd_edge.export.engine import MODEL, TEXT_ENCODER, compile_bundle
        from acd_edge.runtime.backends import check_options
        from acd_edge.runtime.backends.trt import TrtBackend
        from acd_edge.runtime.cuda import open_cuda
        from acd_edge.runtime.engines import newest_engine
        from acd_edge.runtime.trt_module import load_tensorrt

        check_options("tensorrt", self._how.options)
        trt, cuda = load_tensorrt(), open_cuda(self._how.cuda)
        engine = newest_engine(graph.digest, trt.__version__, cuda.facts)
        if engine is None:
            part = MODEL if graph.digest == self._bundle.model_file.digest else TEXT_ENCODER
            (engine,) = compile_bundle(self._bundle, verify=False, parts=[part], progress=_tell, cuda=cuda, trt=trt)
        return TrtBackend.of_engine(engine, cuda=cuda, trt=trt)


class _Count:
    """Tells how many pictures are done, and remembers it."""

    def __init__(self) -> None:
        self._progress = Progress("pictures compared", at_end=False)
        self.so_far = ""

    def __call__(self, done: int, total: int) -> None:
        self.so_far = f" after {done} of {total} pictures"
        self._progress(done, total)


def _print_json(
    report: VerifyReport,
    engines: Sequence[Engine],
    unread: Mapping[str, str],
    bisection: Bisection | None,
    broken: BaseException | None,
) -> None:
    values = {**report.to_dict(), "engines": [str(engine.folder) for engine in engines], "unread": dict(unread)}
    if bisection is not None:
        values["bisect"] = bisection.to_dict()
    elif broken is not None:
        values["bisect"] = {"error": str(broken) or "interrupted"}
    click.echo(json.dumps(values, indent=2, ensure_ascii=False))


def _print_table(report: VerifyReport, engines: Sequence[Engine], bisection: Bisection | None) -> None:
    from acd_edge.report.verification import bisection_table, verification_table

    click.echo(verification_table(report))
    for engine in engines:
        click.echo(f"{engine.folder}: marked as {engine.state}")
    if bisection is not None:
        click.echo(f"\n{bisection_table(bisection)}")


def _tell_failure(report: VerifyReport, bisection: Bisection | str | None) -> None:
    from acd_edge.report.verification import failure_line

    click.echo(f"Error: {failure_line(report, bisection)}", err=True)


def _tell(line: str) -> None:
    click.echo(line, err=True)
