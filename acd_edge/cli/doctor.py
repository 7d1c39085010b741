"""`acd-edge doctor`: what is here, what is missing or known bad, and the one line that mends each."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from acd_edge.cli.once import OnceCommand

if TYPE_CHECKING:
    from acd_edge.doctor.checks import Check, Mark
    from acd_edge.doctor.verdict import Verdict

WIDTH = 80
_MARK, _NAME = 9, 14  # columns of the mark and of the name
_COLOURS: Mapping[str, str] = MappingProxyType({"ok": "green", "note": "cyan", "missing": "yellow", "bad": "red"})
_COUNTED: Mapping[Mark, tuple[str, str]] = MappingProxyType(
    {"bad": ("bad", "bad"), "missing": ("missing", "missing"), "note": ("note", "notes")}
)
"""Mark -> how one and several are told, the worst first."""


@click.command(cls=OnceCommand)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Look at this machine: what is here, what is missing or known bad, and the one line that mends each.

    Every library is tried in a process of its own. Nothing is installed or changed.

    \b
    Marks     ok       as it should be
              note     worth knowing
              missing  not there
              bad      will fail or mislead
    Exit status: 0 acd-edge can run here, 1 it cannot: no OpenCV, or nothing that runs a graph.
    """
    from acd_edge import __version__
    from acd_edge.doctor.facts import gather
    from acd_edge.doctor.verdict import examine

    facts = gather()
    verdict = examine(facts)
    if as_json:
        values = {
            "acd_edge": __version__,
            "able": verdict.able,
            "backends": list(verdict.backends),
            "checks": [check.to_dict() for check in verdict.checks],
            "facts": facts.to_dict(),
        }
        click.echo(json.dumps(values, ensure_ascii=False))
    else:
        click.echo("\n".join(table(verdict)))
    ctx.exit(0 if verdict.able else 1)


def table(verdict: Verdict) -> Iterator[str]:
    """Lines of the table; a fix stands on a line of its own, whole, so that it can be copied."""
    from acd_edge.doctor.checks import GROUPS

    for group, title in GROUPS.items():
        checks = [check for check in verdict.checks if check.group == group]
        if checks:
            yield click.style(title, bold=True)
            for check in checks:
                yield from _row(check)
            yield ""
    yield from _summary(verdict)


def _row(check: Check) -> Iterator[str]:
    indent = " " * (_MARK + _NAME + 2)
    lines = textwrap.wrap(check.text, WIDTH - len(indent), break_on_hyphens=False, break_long_words=False) or [""]
    mark = click.style(f"{check.mark:<{_MARK}}", fg=_COLOURS[check.mark])
    yield f"  {mark}{check.name:<{_NAME}}{lines[0]}"
    yield from (f"{indent}{line}" for line in lines[1:])
    if check.fix:
        yield click.style(f"{' ' * (_MARK + 2)}→ {check.fix}", bold=check.mark in ("missing", "bad"))


def _summary(verdict: Verdict) -> Iterator[str]:
    if verdict.able:
        yield click.style("acd-edge can run here", bold=True) + f", on {' and '.join(verdict.backends)}."
    else:
        lacks = [*(["OpenCV"] if not verdict.opencv else []), *(["a backend"] if not verdict.backends else [])]
        yield click.style("acd-edge cannot run here", bold=True) + f": it lacks {' and '.join(lacks)}."
    told = [f"{count} {words[count != 1]}" for mark, words in _COUNTED.items() if (count := _count(verdict, mark))]
    if told:
        mends = "; an arrow (→) shows what mends it" if any(check.fix for check in verdict.checks) else ""
        yield f"{', '.join(told)}{mends}."


def _count(verdict: Verdict, mark: Mark) -> int:
    return sum(check.mark == mark for check in verdict.checks)
