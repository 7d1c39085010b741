"""Starts the probes, each in a process of its own, and waits no longer than told: one may hang, another may crash."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, Literal

from acd_edge.doctor.probes import PROBES

__all__ = ["Report", "State", "run_probes"]

State = Literal["ok", "absent", "broken", "crashed", "silent"]
_AT_ONCE = 3  # several may load CUDA, and a small Jetson has little memory
_POLL = 0.01  # seconds
_LAST_WAIT = 1.0  # seconds for a killed process to go; one inside a driver may not
_CODE = "import sys; sys.path[:] = {path!r}; from acd_edge.doctor.probes import main; main({name!r})"


@dataclass(frozen=True)
class Report:
    """What one probe told.

    Attributes:
        state: `absent` is not installed; `broken` cannot be imported or used; `crashed` ended its process; `silent`
            did not end in time.
        values: what it told before it ended.
        error: one line; empty where all is well.
    """

    state: State
    values: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def works(self) -> bool:
        """Whether the library could be used."""
        return self.state == "ok"

    @property
    def other_file(self) -> str:
        """The file that was taken for the library and lies where nobody installs one; empty where it does not."""
        file = str(self.values.get("file", ""))
        return "" if re.search("/(site|dist)-packages/", file) or self.works else file

    @property
    def version(self) -> str:
        """Its release, as far as told."""
        return str(self.values.get("version", ""))


def run_probes(names: Sequence[str] = tuple(PROBES), *, timeout_s: float = 30.0) -> dict[str, Report]:
    """Run probes side by side.

    Args:
        names: keys of `PROBES`.
        timeout_s: seconds for each.
    """
    waiting, running, done = list(names), list[_Process](), dict[str, Report]()
    try:
        while waiting or running:
            while waiting and len(running) < _AT_ONCE:
                running.append(_Process(waiting.pop(0), timeout_s))
            for process in list(running):
                if (report := process.report()) is not None:
                    done[process.name] = report
                    running.remove(process)
            time.sleep(_POLL)
    finally:
        for process in running:  # after Ctrl-C
            process.kill()
    return {name: done[name] for name in names}


class _Process:
    def __init__(self, name: str, timeout_s: float) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # files: a full pipe would block the probe
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        code = _CODE.format(path=sys.path, name=name)  # the same modules as here, wherever this was started from
        self._popen = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._log,
            start_new_session=True,  # killed with all that it started
        )  # fmt: skip

    def report(self) -> Report | None:
        """Its report, or None while it may still go on."""
        ended = self._popen.poll()
        if ended is None and time.monotonic() < self._end:
            return None
        if ended is None:
            self.kill()
        told = self._told()
        if ended is None:
            return Report("silent", told.get("values", {}), f"no answer within {self._timeout_s:g} s")
        if not told or told["state"] == "died":
            return Report("crashed", told.get("values", {}), f"its process ended: {self._way(ended)}")
        return Report(told["state"], told["values"], told["error"])

    def kill(self) -> None:
        """End it and what it started, without waiting for long."""
        with suppress(OSError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(_LAST_WAIT)

    def _told(self) -> dict[str, Any]:
        """The last whole line."""
        self._out.seek(0)
        for line in reversed(self._out.read().decode("utf-8", "replace").splitlines()):
            with suppress(ValueError):
                told: dict[str, Any] = json.loads(line)
                return told
        return {}

    def _way(self, code: int) -> str:
        if code < 0:
            with suppress(ValueError):
                return signal.Signals(-code).name
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {code}"
