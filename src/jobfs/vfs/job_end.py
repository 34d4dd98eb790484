"""The wait for the end of the job, for `jobfs wait` (vfs/semantics.md 7, jobfs wait)."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobfs.api.deadline import UNBOUNDED, limit_time
from jobfs.document import ASKING, ENDED, JobStatus
from jobfs.errors import JobfsError
from jobfs.namespace import Namespace
from jobfs.settings import Settings
from jobfs.vfs.report import Report

#: Least seconds between two requests for the job; seconds between two checks whether the caller still waits.
_INTERVAL, _POLL_INTERVAL = 5.0, 0.5


class JobEnd:
    """Waits for the end of the job. Every method may be called from any thread."""

    def __init__(
        self,
        report: Report,
        namespace: Namespace,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._report, self._namespace, self._settings = report, namespace, settings
        self._clock, self._pause = clock, pause

    def wait(
        self, timeout: float | None, say: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> JobStatus | None:
        """Return the job once it has ended or asks a question, and the mount shows everything that it wrote before.

        Return None after `timeout` seconds, or once `cancelled()` is true. `say` gets one sentence if the server does not answer.
        """
        end = self._clock() + (UNBOUNDED if timeout is None else timeout)
        warned = False
        while True:
            try:
                if (job := self._check_once(end)) is not None:
                    return job
            except JobfsError as error:
                if not warned and self._clock() < end:
                    warned = True
                    say(
                        f"the server does not say whether the job has ended ({error}): waiting until it answers"
                    )
            if not self._wait_for_next_check(end, cancelled):
                return None

    def _check_once(self, end: float) -> JobStatus | None:
        """Ask for the job, until `end` (monotonic seconds) at most; return None while the job runs. Raises ApiError."""
        with limit_time(min(self._settings.timeout, max(end - self._clock(), 0.0))):
            job = self._report.fetch_job()
            if job["status"] != ASKING and job["status"] not in ENDED:
                return None
            self._namespace.refresh()
        # For so long, the kernel may serve names and attributes from before this listing.
        self._pause(self._settings.kernel_timeout)
        return job

    def _wait_for_next_check(self, end: float, cancelled: Callable[[], bool]) -> bool:
        """Wait until the next check is due; return False at `end` (monotonic seconds), or once `cancelled()` is true."""
        due = min(end, self._clock() + self._interval)
        while not cancelled():
            if (remaining := due - self._clock()) <= 0:
                return due < end
            self._pause(min(remaining, _POLL_INTERVAL))
        return False

    @property
    def _interval(self) -> float:
        return max(_INTERVAL, self._namespace.status().effective_ttl)
