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
    """

    def __init__(self, limit: int = 4) -> None:
        self._jobs: queue.Queue[Callable[[], object] | None] = queue.Queue(limit)
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="sink", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], object]) -> None:
        """Have a job done; raises the error of an earlier one."""
        self._raise()
        self._jobs.put(job)

    @property
    def ended(self) -> bool:
        """Whether no job is being done any more, nor will be."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """Finish what waits, then raise the error if there was one; twice is fine."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
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
            if self._error is None:  # after an error the rest is only taken away, so that nobody waits for ever
                try:
                    job()
                except BaseException as error:  # noqa: BLE001  # raised again where the work was asked for
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
