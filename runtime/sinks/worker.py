"""Slow work beside the hot path: bounded, in order, and no error is lost."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import final


@final
class Worker:
    """One thread that does jobs in order; `submit` waits while `limit` jobs wait.

    The first error stops the work; the next `submit` or `close` raises it.

    Ctrl-C may come at any moment of both. A `queue.Queue` that it interrupts can keep its lock for ever, and the
    closing with it; the methods of a `queue.SimpleQueue` are one step each, so at most the job in hand is lost.
    """

    def __init__(self, limit: int = 4) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(limit):
            self._places.put(None)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="sink", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], object]) -> None:
        """Have a job done; raises the error of an earlier one."""
        self._raise()
        self._places.get()
        self._jobs.put(job)

    @property
    def ended(self) -> bool:
        """Whether no job is being done any more, nor will be."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """Finish what waits, then raise the error if there was one; twice is fine."""
        self._jobs.put(None)  # nobody takes a second one
        self._thread.join()
        self._raise()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._places.put(None)
            if self._error is None:  # after an error the rest is only taken away, so that nobody waits for ever
                try:
                    job()
                except BaseException as error:  # noqa: BLE001  # raised again where the work was asked for
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
