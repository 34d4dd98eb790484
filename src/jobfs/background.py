"""Background threads that run one task again and again and survive whatever a single run raises."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from jobfs.errors import ApiError, JobfsError

_log = logging.getLogger("jobfs.background")

#: Expected errors, whose sentence suffices in the log; any other is logged with its traceback.
_EXPECTED = (JobfsError, OSError)


class Background:
    """A daemon thread that calls `task` until it is stopped.

    `task` returns the seconds to pause before its next run. A run that raises is logged and repeated after `retry` seconds; an
    error that every run raises is logged once, until a run succeeds. `first`: seconds before the first run.
    """

    def __init__(
        self, name: str, task: Callable[[], float], *, first: float = 0.0, retry: float = 1.0
    ) -> None:
        self._name, self._task, self._first, self._retry = name, task, first, retry
        self._logged = ""
        #: Set once the thread must end; a task that waits should wait for this too.
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if the process may have no more of them."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no further run. Does not wait for the one under way."""
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
            # The status says that the server can't be asked, or refuses.
            level = logging.INFO if isinstance(error, ApiError) else logging.ERROR
            traceback = not isinstance(error, _EXPECTED)
            _log.log(level, "%s failed and is repeated: %s", self._name, error, exc_info=traceback)
