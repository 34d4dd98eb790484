"""One question to the server that many may ask at once, and that nobody has to wait for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from jobfs.api import deadline
from jobfs.errors import JobfsError

#: Seconds until a question is asked again that was not answered.
_AGAIN = 1.0


class Asking:
    """Asks in a thread of its own, once at a time. Every method may be called from any thread."""

    def __init__(self, name: str, ask: Callable[[], object], good_for: float) -> None:
        """`ask` keeps the answer itself, and raises JobfsError without one; that is `good_for` so many seconds."""
        self._name = name
        self._ask = ask
        self._good_for = good_for
        self._lock = threading.Lock()
        self._next = 0.0
        self._done = threading.Event()
        self._done.set()

    def wait(self, patience: float) -> None:
        """Ask, unless that was done lately or is being done, and return once there is no more to wait for.

        That is `patience` seconds at most, and no more than this call has.
        """
        with self._lock:
            if self._done.is_set() and time.monotonic() >= self._next:
                self._done.clear()
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
        self._done.wait(deadline.left(patience))

    def _run(self) -> None:
        pause = _AGAIN
        try:
            # What went wrong is in the server's health, which is told beside the last answer.
            with contextlib.suppress(JobfsError), deadline.within():
                self._ask()
                pause = self._good_for
        finally:
            with self._lock:
                self._next = time.monotonic() + pause
            self._done.set()
