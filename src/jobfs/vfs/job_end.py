"""The end of the job, for `jobfs wait` (vfs/semantics.md 7, jobfs wait)."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobfs.api.deadline import UNBOUNDED, limit_time
from jobfs.document import ASKING, ENDED, JobStatus
from jobfs.errors import JobfsError
from jobfs.namespace import Namespace
from jobfs.settings import Settings
from jobfs.vfs.report import Report

#: Seconds between two requests for the job, at least; seconds between two looks whether the caller still waits.
_INTERVAL, _LOOK = 5.0, 0.5


class JobEnd:
    """Waits for the end of the job. May be called from any thread."""

    def __init__(self, report: Report, namespace: Namespace, settings: Settings) -> None:
        self._report, self._namespace, self._settings = report, namespace, settings

    def wait(
        self, timeout: float | None, say: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> JobStatus | None:
        """Return the job once it has ended or asks for something, and the mount shows everything it wrote before.

        Return None after `timeout` seconds, or once `cancelled()`. `say` gets one sentence if the server can't be asked.
        """
        end = time.monotonic() + (UNBOUNDED if timeout is None else timeout)
        warned = False
        while True:
            try:
                if (job := self._check_once(end)) is not None:
                    return job
            except JobfsError as error:
                if not warned and time.monotonic() < end:
                    warned = True
                    say(
                        f"the server can't be asked whether the job has ended ({error}): waiting until it can"
                    )
            if not self._wait_for_next_check(end, cancelled):
                return None

    def _check_once(self, end: float) -> JobStatus | None:
        """Ask for the job until `end` (monotonic time); return None while it runs. Raises ApiError."""
        with limit_time(min(self._settings.timeout, max(end - time.monotonic(), 0.0))):
            job = self._report.fetch_job()
            if job["status"] != ASKING and job["status"] not in ENDED:
                return None
            self._namespace.refresh()
        # Until then the kernel may still serve names and attributes from before that listing.
        time.sleep(self._settings.kernel_timeout)
        return job

    def _wait_for_next_check(self, end: float, cancelled: Callable[[], bool]) -> bool:
        """Wait until the next look is due; return False at `end`, or once `cancelled()`."""
        due = min(end, time.monotonic() + self._interval)
        while not cancelled():
            if (left := due - time.monotonic()) <= 0:
                return due < end
            time.sleep(min(left, _LOOK))
        return False

    @property
    def _interval(self) -> float:
        return max(_INTERVAL, self._namespace.status().effective_ttl)
