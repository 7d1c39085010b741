"""Ctrl-C and requests to end, at any moment of the program."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from acd_edge.stop import Stopped, leave_at_once, raising

STOP_WHEN_IMPORTED = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as a terminal has them; CI may ignore some
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
from acd_edge.__main__ import main
sys.argv = ["acd-edge", "run", "none.png"]
main()
"""


@pytest.mark.parametrize("module", ["acd_edge.cli", "click", "acd_edge.cli.run", "numpy", "PIL.Image"])
@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGINT, "Interrupted"), (signal.SIGTERM, "Terminated"), (signal.SIGHUP, "Hung up")],
)
def test_a_signal_during_an_import_is_one_line(module: str, number: int, words: str) -> None:
    code = STOP_WHEN_IMPORTED.format(module=module, number=int(number))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", f"{words}\n")


def test_ctrl_c_before_anything_was_set_up_is_one_line() -> None:
    code = STOP_WHEN_IMPORTED.format(module="acd_edge.stop", number=int(signal.SIGINT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted\n")


def test_without_a_signal_the_program_goes_on() -> None:
    """The control of the tests above."""
    code = STOP_WHEN_IMPORTED.format(module="nowhere", number=int(signal.SIGINT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "Error: none.png does not exist\n")


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    """`nohup`, and a shell's background jobs."""
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from acd_edge.stop import leave_at_once, raising\n"
        "leave_at_once()\n"
        "with raising(): os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('here')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "here\n"


def test_a_library_that_imports_it_keeps_its_own_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with raising():
        assert signal.getsignal(signal.SIGTERM) is before


def test_inside_a_command_it_is_an_exception_and_afterwards_not() -> None:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        leave_at_once()
        outside = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Stopped, match="Terminated") as caught, raising():
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.exit_code == 143
        assert isinstance(caught.value, KeyboardInterrupt)
        assert signal.getsignal(signal.SIGTERM) is outside
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
