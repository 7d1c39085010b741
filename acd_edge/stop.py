"""Ctrl-C, and a request to end such as systemd's: one line, and the exit status that a shell expects.

While the program starts there is nothing to tidy up, and an exception could come out of any library's import, so the
process leaves at once. A running command gets an exception instead, so that it keeps what was done and removes what is
temporary.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, MappingProxyType
from typing import NoReturn

__all__ = ["Stopped", "leave_at_once", "raising"]

_WORDS: Mapping[int, str] = MappingProxyType(
    {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated", signal.SIGHUP: "Hung up"}
)
_SHELL_OFFSET = 128  # a shell reports a process that signal n ended as 128 + n
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Stopped(KeyboardInterrupt):
    """A signal asked to end; whatever cleans up after Ctrl-C cleans up after this.

    Attributes:
        words: what the user reads.
        exit_code: 128 and the signal's number.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        self.words = _WORDS[number]
        self.exit_code = _SHELL_OFFSET + number
        super().__init__(self.words)


def leave_at_once() -> None:
    """From now on a signal ends the process with one line; signals that the caller ignores stay ignored."""
    for number in _WORDS:
        if signal.getsignal(number) in _DEFAULTS:
            signal.signal(number, _leave)


@contextmanager
def raising() -> Iterator[None]:
    """Inside, the signals of `leave_at_once` raise `Stopped`; without that call nothing changes."""
    ours = [number for number in _WORDS if signal.getsignal(number) is _leave]
    for number in ours:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, _leave)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    os.write(2, f"{_WORDS[number]}\n".encode())
    os._exit(_SHELL_OFFSET + number)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    raise Stopped(number)
