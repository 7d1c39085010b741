"""`acd-edge calibrate`: a threshold from pictures of good parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from acd_edge.cli.backend import BackendFlags, backend_flags, load_detector
from acd_edge.cli.once import OnceCommand
from acd_edge.errors import SourceError, UsageError

if TYPE_CHECKING:
    from acd_edge.calib.threshold import Calibration
    from acd_edge.runtime.detector import Detector
    from acd_edge.runtime.sources import ReadOptions

BROKEN = 1


@click.command("calibrate", cls=OnceCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--good", multiple=True, required=True, metavar="DIR", help="Pictures of good parts; repeatable.")
@click.option("--product", default="object", show_default=True, metavar="NAME", help="What they show.")
@click.option(
    "--false-alarm-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Share of good parts that may be called anomalous.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write there; into BUNDLE itself unless told.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--bit-depth", type=click.IntRange(9, 16), default=16, show_default=True, help="As `run` will be given.")
@click.option("--max-pixels", type=click.IntRange(1), default=100_000_000, show_default=True, help="Likewise.")
@backend_flags
@click.pass_context
def command(
    ctx: click.Context,
    /,
    bundle: Path,
    good: tuple[str, ...],
    product: str,
    false_alarm_rate: float,
    output: Path | None,
    force: bool,
    bit_depth: int,
    max_pixels: int,
    how: BackendFlags,
) -> None:
    """Choose the threshold of a product from good parts, and write it into the bundle.

    `acd-edge run` then says of each frame whether it is anomalous. The rate that so few parts support is told too.

    \b
    acd-edge calibrate line.acd --good parts/good --product metal_nut --false-alarm-rate 0.02
    """
    from acd_edge.calib.threshold import calibrate, with_product
    from acd_edge.runtime.bundle import check_not_builtin
    from acd_edge.runtime.bundle_write import check_target, rewrite_bundle
    from acd_edge.runtime.sources import ReadOptions

    target = output or bundle
    check_not_builtin(target, "write the calibrated one elsewhere with -o")
    in_place = target.absolute() == bundle.absolute()
    check_target(target, force or in_place)
    with load_detector(bundle, product=product, how=how) as detector:
        if not detector.is_named:
            raise UsageError(
                f"a threshold is kept under the product's name, and {product!r} gives other words than the bundle; "
                "write them into it first: acd-edge prompts add"
            )
        scores, failed = _score(detector, good, ReadOptions(bit_depth=bit_depth, max_pixels=max_pixels))
        found = calibrate(scores, false_alarm_rate=false_alarm_rate)
        opened = detector.bundle
        content = with_product(opened.calibration, detector.product, found)
        rewrite_bundle(opened.root, opened.manifest, target, calibration=content, force=force or in_place)
        _tell(detector.product, found, target)
    ctx.exit(BROKEN if failed else 0)


def _score(detector: Detector, texts: tuple[str, ...], options: ReadOptions) -> tuple[list[float], int]:
    from acd_edge.runtime.sources import open_sources

    sources, errors = open_sources(texts, options)
    if errors:
        raise errors[0]
    if any(source.kind == "live" for source in sources):
        raise UsageError("--good takes pictures and videos, not a live source: record some first")
    scores: list[float] = []
    failed = 0
    for source in sources:
        try:
            scores += [detector.predict(frame.rgb).score for frame in source.frames()]
        except SourceError as error:  # noqa: PERF203  # one broken picture does not stop the others
            failed += 1
            click.echo(f"Error: {error}", err=True)
    return scores, failed


def _tell(product: str, found: Calibration, target: Path) -> None:
    click.echo(f"{product}: threshold {found.threshold:.6f} from {found.good} good parts, written to {target}")
    click.echo(f"their scores: {found.low:.4f} to {found.high:.4f}, median {found.median:.4f}")
    click.echo(f"the next good part is called anomalous with a chance of {found.expected_false_alarm_rate:.1%}")
    if not found.supported:
        click.echo(
            f"Warning: {found.good} parts cannot promise {found.false_alarm_rate:.1%}; that needs {found.needed}",
            err=True,
        )
