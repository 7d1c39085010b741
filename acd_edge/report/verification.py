"""A verification as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from acd_edge.export.bisect import Bisection
from acd_edge.export.judge import Check, Comparison
from acd_edge.export.verify import VerifyReport
from acd_edge.terminal import printable

__all__ = ["bisection_table", "failure_line", "verification_table"]

DERIVED = ("score", "marked pixels", "pixel AUROC", "image AUROC")
"""What follows from the outputs: an output that departs is named before them."""
HEAD = ("output", "agreement", "at least", "difference", "at most", "")
_NONE = "-"


def verification_table(report: VerifyReport) -> str:
    """A block for each reference, a line for each output; what is not defined is `-`."""
    title = f"{report.name}: {report.precision}, {report.size} x {report.size} pixels, {report.backend or 'no graph'}"
    blocks = [line for comparison in report.comparisons for line in ("", *_block(comparison))]
    return "\n".join([printable(title), *blocks, "", "passed" if report.passed else "FAILED"])


def failure_line(report: VerifyReport, bisection: Bisection | str | None = None) -> str:
    """Which output departs furthest beyond its limit, by how much, and what to do; for a report that did not pass.

    Of a bisection that gave nothing, `bisection` says so in words.
    """
    check = max(report.failures, key=lambda each: (each.output not in DERIVED, _excess(each)))
    where = f" ({check.worst})" if check.worst else ""
    if check.value is None:
        found = f"{check.output} is not a finite number{where}"
    elif check.measure in ("cosine", "overlap"):
        found = (
            f"{check.output} departs: {check.measure} {_number(check.value)}, at least {_number(check.limit)} is wanted"
        )
    else:
        found = (
            f"{check.output} departs: {check.measure} {_number(check.value)}{where}, at most {_number(check.limit)} is "
            f"allowed"
        )
    return f"{found} for {report.precision}, against {_TITLES[check.against]}; {_advice(report, check, bisection)}"


_TITLES = {
    "golden": "the golden samples",
    "checkpoint": "the checkpoint",
    "golden-checkpoint": "the checkpoint (the golden samples themselves)",
    "text-checkpoint": "the checkpoint",
    "text": "the text features of the bundle",
    "pictures": "the reference on your pictures",
}


def _advice(report: VerifyReport, check: Check, bisection: Bisection | str | None) -> str:
    if check.against in ("text", "text-checkpoint", "golden-checkpoint"):
        return "export the bundle again"
    other = {"fp32": "", "bf16": "; or export --fp32", "fp16": "; or export --fp32 or --bf16"}
    if bisection is None:
        find = "find the block: add --bisect"
    elif isinstance(bisection, str):
        find = bisection
    elif bisection.first is None:
        find = "no block departs by itself"
    else:
        find = f"the first block that departs is {bisection.first}"
    return find + other.get(report.precision, "; or export --fp16")


def _excess(check: Check) -> float:
    """How far beyond its limit, to compare lines: what is not finite first."""
    if check.value is None:
        return float("inf")
    if check.measure in ("cosine", "overlap"):
        return (1 - check.value) / max(1 - check.limit, 1e-12)
    return check.value / max(check.limit, 1e-12)


def _block(comparison: Comparison) -> Iterator[str]:
    yield comparison.title
    rows = [list(HEAD), *_rows(comparison)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for title, *numbers, verdict in rows:
        cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
        yield f"  {'  '.join([title.ljust(widths[0]), *cells, verdict])}".rstrip()
    for name, reason in comparison.failed.items():
        yield f"  not compared: {name}: {reason}"


def _rows(comparison: Comparison) -> Iterator[list[str]]:
    outputs = dict.fromkeys(check.output for check in comparison.checks)
    for output in outputs:
        lines = {check.measure: check for check in comparison.checks if check.output == output}
        yield [_titled(output, comparison), *_cells(lines.get("cosine") or lines.get("overlap")),
               *_cells(lines.get("difference") or lines.get("change")), _verdict(tuple(lines.values()))]  # fmt: skip
    drift = comparison.drift
    if drift is None:
        return
    undefined = [] if drift.overlap is not None else ["marked pixels"]
    if drift.labelled:
        undefined += [
            name for name, rows in (("pixel AUROC", drift.pixel_auroc), ("image AUROC", drift.image_auroc)) if not rows
        ]
    for output in undefined:
        yield [_titled(output, comparison), _NONE, "", _NONE, "", ""]


def _titled(output: str, comparison: Comparison) -> str:
    """With what it means: the overlap's threshold, the AUROC's two values."""
    drift = comparison.drift
    if drift is None:
        return output
    if output == "marked pixels":
        marks = sorted(set(comparison.thresholds.values())) or [0.5]
        return f"pixels from {' / '.join(f'{mark:.3g}' for mark in marks)} on: overlap"
    rows = {"pixel AUROC": drift.pixel_auroc, "image AUROC": drift.image_auroc}.get(output)
    if not rows:
        return output
    worst = next(check.worst for check in comparison.checks if check.output == output)
    return f"{output} {worst} {100 * rows[worst].before:.2f} -> {100 * rows[worst].after:.2f}"


def _cells(check: Check | None) -> tuple[str, str]:
    if check is None:
        return "", ""
    if check.measure == "overlap" and check.value is not None:
        return f"{check.value:.4f}", f"{check.limit:.4f}"
    return "NaN" if check.value is None else _number(check.value), _number(check.limit)


def _verdict(checks: Sequence[Check]) -> str:
    return "ok" if all(check.passed for check in checks) else "FAILED"


def _number(value: float) -> str:
    """Digits enough to tell it from its limit: near one the distance from one counts.

    >>> _number(0.99999973), _number(0.0025238), _number(3.04e-06), _number(0.95)
    ('0.9999997', '0.00252', '3.04e-06', '0.95')
    """
    if 0.99 < value < 1:
        return f"{value:.7f}".rstrip("0") if value < 1 - 5e-8 else "1"
    return f"{value:.3g}"


def bisection_table(bisection: Bisection) -> str:
    """A line for each block that was looked at, and which is the first that departs."""
    width = max((len(each.block) for each in bisection.blocks), default=0)
    lines = [f"against {bisection.reference}: {bisection.way}"]
    for each in bisection.blocks:
        error = "NaN" if each.error is None else f"{each.error:.2e}"
        lines.append(f"  {each.block.ljust(width)}  {error:>8}{'  departs' if each.departs else ''}")
    if bisection.first is not None:
        lines.append(f"the first block that departs is {bisection.first}")
    elif bisection.same_weights:
        lines.append(
            "no block departs from what the bundle's own weights say; whether they are right, --checkpoint tells"
        )
    else:
        lines.append("no block departs")
    return "\n".join(lines)
