"""One thread that does one job at a time, on request; a request while it is busy is turned away, never queued."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Worker:
    """Runs each submitted job in its own long-lived thread (one thread owns the GPU's graphs).

    on_error: called in that thread with what a job raised; the worker goes on.
    """

    def __init__(self, name: str, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._wake = threading.Condition()
        self._job: Callable[[], None] | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._job is not None

    def submit(self, job: Callable[[], None]) -> bool:
        """Start `job`; False when the worker is busy or stopping, and nothing was done."""
        with self._wake:
            if self._job is not None or self._stopping:
                return False
            self._job = job
            self._wake.notify()
            return True

    def stop(self, timeout_s: float) -> bool:
        """Take no more jobs and wait for the running one; True when the thread has ended."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._job is not None or self._stopping)
                job = self._job
            if job is None:
                return
            try:
                job()
            except Exception as error:  # noqa: BLE001 (reported; the worker goes on)
                self._on_error(error)
            finally:
                self._job = None
