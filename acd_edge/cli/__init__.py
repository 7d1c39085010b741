"""The command line: a table of commands, each imported only when it is asked for."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import threading
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, NoReturn

import click

from acd_edge import __version__
from acd_edge.errors import AcdEdgeError
from acd_edge.lazy import how_to_install
from acd_edge.stop import Stopped, leave_at_once, raising

__all__ = ["COMMANDS", "LazyGroup", "cli", "main"]

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "run": ("acd_edge.cli.run:command", "Score pictures, folders, videos, cameras and streams; save heat maps."),
        "info": ("acd_edge.cli.info:command", "Show what a bundle or a checkpoint holds."),
        "prompts": ("acd_edge.cli.prompts:command", "List, add and remove the products of a bundle."),
        "calibrate": ("acd_edge.cli.calibrate:command", "Choose a threshold from pictures of good parts."),
        "doctor": ("acd_edge.cli.doctor:command", "Tell what this machine has and lacks, and what mends it."),
        "export": ("acd_edge.cli.export:command", "Fold a checkpoint and write a bundle for a device."),
        "compile": ("acd_edge.cli.compile:command", "Build a bundle's TensorRT engines for this machine."),
        "bench": (
            "acd_edge.cli.bench:command",
            "Measure latency stage by stage, compare, soak, find what fits a budget.",
        ),
        "verify": (
            "acd_edge.cli.verify:command",
            "Prove that a bundle or its engine computes here what its source did.",
        ),
        "eval": ("acd_edge.cli.eval:command", "Measure a checkpoint or a bundle on data sets with masks."),
        "train": ("acd_edge.cli.train:command", "Train the adapters on data sets with masks."),
        "data": ("acd_edge.cli.data:command", "Check a data set: its files, its categories and what they are called."),
        "convert": ("acd_edge.cli.convert:command", "Read a checkpoint of the authors' code."),
    }
)
"""Command -> (where its click command is, one line of help). The help page imports none of them."""

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})

EXTRA_OF: Mapping[str, str] = MappingProxyType(
    {"torch": "train", "safetensors": "train", "open_clip": "train", "onnx": "export", "cv2": "cpu"}
)
"""Package that a command may find absent -> the extra that brings it."""

logger = logging.getLogger(__name__)


class LazyGroup(click.Group):
    """A group that imports a command when it runs, and shows what a user can mend as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, or None where the table does not know it."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table's help lines, so that the help page stays instant."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error that the user can mend becomes one line and its exit status."""
        try:
            with raising():
                return super().invoke(ctx)
        except AcdEdgeError as error:
            logger.debug("where it happened", exc_info=True)
            _refuse(ctx, str(error), error.exit_code)
        except ModuleNotFoundError as error:
            extra = EXTRA_OF.get(error.name or "")
            if extra is None:
                raise
            hint = how_to_install(error.name or "", extra)
            _refuse(ctx, f"this command needs {error.name}, which is not installed; {hint}")
        except KeyboardInterrupt as error:
            stopped = error if isinstance(error, Stopped) else Stopped()
            click.echo(stopped.words, err=True)
            ctx.exit(stopped.exit_code)
        except MemoryError as error:
            hint = "take smaller pictures, a smaller --size, or a machine with more"
            _refuse(ctx, f"the memory is exhausted ({str(error) or 'no details'}); {hint}")
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            where = f" while writing {error.filename}" if error.filename else ""
            _refuse(ctx, f"the disk is full{where}; free some space or choose another place")


def _refuse(ctx: click.Context, message: str, exit_code: int = 1) -> NoReturn:
    click.echo(f"Error: {' '.join(message.splitlines())}", err=True)
    ctx.exit(exit_code)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="acd-edge")
@click.option("-v", "--verbose", count=True, help="Log what is done to stderr; -vv with every detail.")
def cli(verbose: int) -> None:
    """Find anomalies in pictures of products that nobody has trained on.

    Results go to stdout, progress and logs to stderr. Exit status: 0 done, 1 something you can mend, 2 wrong usage,
    3 anomalies found (with --fail-on-anomaly).
    """
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("acd_edge").setLevel(level)


def main() -> NoReturn:
    """Run the command that the arguments name, and leave with its exit status."""
    leave_at_once()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to stop
    try:
        cli(prog_name="acd-edge")
    except SystemExit as end:
        _leave_stuck_threads(end.code)
        raise
    raise AssertionError("click leaves by itself")


def _leave_stuck_threads(code: object) -> None:
    """Leave without waking a thread that is inside a C++ library, such as OpenCV's: Python's own way aborts there."""
    if any(thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
