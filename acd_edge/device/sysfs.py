"""Small files of /proc and /sys, and small commands: None where there is nothing, never an exception."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path("/")
Runner = Callable[[Sequence[str]], "str | None"]
"""Runs a command and gives what it printed, or None where it is absent, fails or takes too long."""


def run_command(command: Sequence[str], *, timeout: float = 2.0) -> str | None:
    """Give what a command printed to stdout, see `Runner`.

    >>> run_command(["there-is-no-such-command"]) is None
    True
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def read_text(path: Path) -> str | None:
    """The text of a file without the NUL and blanks around it, or None where it cannot be read or is empty."""
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    return text.replace("\0", " ").strip() or None


def read_int(path: Path) -> int | None:
    """The whole number that a file holds, or None."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def processor_name(root: Path = ROOT) -> str:
    """What the processor calls itself; on ARM, which often names none, the board's device tree does. Empty if neither.

    Args:
        root: folder that holds `proc`; another one in tests.
    """
    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    told = [re.search(rf"^{key}\s*: (.+)$", cpuinfo, re.MULTILINE) for key in ("model name", "Model")]
    board = read_text(root / "proc/device-tree/model")
    return " ".join((next((each[1] for each in told if each), board) or platform.processor()).split())


def listed(folder: Path, pattern: str) -> list[Path]:
    """What lies in a folder and fits a glob, the numbers at the end of names in order; nothing where it is none."""
    try:
        found = list(folder.glob(pattern))
    except OSError:
        return []
    return sorted(found, key=lambda path: (path.name.rstrip("0123456789"), _number(path.name), str(path)))


def _number(name: str) -> int:
    digits = name[len(name.rstrip("0123456789")) :]
    return int(digits) if digits else -1
