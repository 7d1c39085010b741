"""Commands that refuse an option given twice; click's own take the last one and say nothing."""

from __future__ import annotations

import click

from acd_edge.errors import UsageError


class OnceCommand(click.Command):
    """A command whose options that take one value are given once; repeatable ones and flags stay as click has them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, then refuse what came twice: `--help` and what click refuses win.

        Raises:
            UsageError: an option with one value came twice.
        """
        given = list(args)  # click takes the list apart
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(given)
            _check_once(order)
        return rest


class OnceGroup(click.Group):
    """A group of such commands."""

    command_class = OnceCommand


def _check_once(order: list[click.Parameter]) -> None:
    seen: set[int] = set()
    for each in order:
        if not isinstance(each, click.Option) or each.multiple or each.count or each.is_flag:
            continue
        if id(each) in seen:
            raise UsageError(f"{' or '.join(each.opts)} takes one value and was given twice; leave one of them away")
        seen.add(id(each))
