"""Background threads: each repeats one task, and survives whatever a run raises."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from jobfs.errors import ApiError, JobfsError

_log = logging.getLogger("jobfs.background")

#: Expected errors, of which the log gets the message only; any other is logged with its traceback.
_EXPECTED = (JobfsError, OSError)


class Background:
    """A daemon thread that calls `task` until it is stopped.

    `task` returns the seconds until its next run. `first`: the seconds before the first run. `retry`: the seconds until the next
    run after an error. An error is logged; if later runs raise the same one, it is logged again only after a success.
    """

    def __init__(
        self, name: str, task: Callable[[], float], *, first: float = 0.0, retry: float = 1.0
    ) -> None:
        self._name, self._task, self._first, self._retry = name, task, first, retry
        self._logged = ""
        #: Set when the thread must end; a task that waits should also end its wait for this.
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if the process can't have another."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no further run. Does not wait for the current one."""
        self.stopping.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, at most `timeout` seconds; return at once if it was never started."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        pause = self._first
        while not self.stopping.wait(pause):
            try:
                pause = self._task()
                self._logged = ""
            except Exception as error:
                pause = self._retry
                self._log(error)

    def _log(self, error: Exception) -> None:
        if repr(error) != self._logged and not self.stopping.is_set():
            self._logged = repr(error)
            # INFO is enough for errors of the server, because the status shows them.
            level = logging.INFO if isinstance(error, ApiError) else logging.ERROR
            traceback = not isinstance(error, _EXPECTED)
            _log.log(level, "%s failed and is repeated: %s", self._name, error, exc_info=traceback)
