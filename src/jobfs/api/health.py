"""How the server has been answering, and how far its clock is from ours."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from jobfs.api.failures import http_date


class Health(NamedTuple):
    """How the server has been answering; times in seconds.

    `answering`: the last attempt got an answer that speaks of the request (not 429 or 5xx); False before the
    first. `last_ok`: `time.monotonic()` of the last such answer. `last_error`: why the last failed attempt
    failed, kept until the next success. `latency`: moving average until an answer begins.
    `requests`: attempts.
    """

    answering: bool = False
    last_ok: float | None = None
    last_error: str | None = None
    latency: float | None = None
    key_refused: bool = False
    requests: int = 0


class Monitor:
    """Collects Health and the clock offset from every attempt; one small lock, never held across I/O."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._health = Health()
        self._clock = ServerClock()
        self._under_way: dict[object, float] = {}
        self._last_sign = 0.0

    def health(self) -> Health:
        """What is known now."""
        return self._health

    def offset(self) -> float:
        """Seconds that the server's clock is ahead of ours; 0.0 until seen."""
        return self._clock.offset

    def heard(self, date: str, began: float, ended: float) -> None:
        """An answer with this Date header came to a request sent between these `time.time()`s."""
        with self._lock:
            self._last_sign = time.monotonic()
            self._clock.heard(date, began, ended)

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """An attempt is under way."""
        token = object()
        with self._lock:
            self._health = self._health._replace(requests=self._health.requests + 1)
            self._under_way[token] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._under_way[token]

    def moved(self) -> None:
        """Bytes of a request's body have gone out."""
        self._last_sign = time.monotonic()

    def silent(self) -> float:
        """Seconds since the server gave a sign of itself, of those in which it was asked something."""
        with self._lock:
            since = max(min(self._under_way.values(), default=math.inf), self._last_sign)
        return max(0.0, time.monotonic() - since)

    def answered(self, latency: float | None) -> None:
        """An attempt got an answer that speaks of the request; `latency` None leaves the average alone."""
        with self._lock:
            last = self._health
            average = last.latency
            if latency is not None:
                average = latency if average is None else average + (latency - average) / 8
            self._health = Health(True, time.monotonic(), None, average, False, last.requests)

    def refused(self, why: str) -> None:
        """An attempt was answered 401: the server is there, the key is not taken."""
        with self._lock:
            last = self._health
            self._health = last._replace(
                answering=True,
                last_ok=time.monotonic(),
                last_error=why,
                key_refused=True,
            )

    def failed(self, why: str) -> None:
        """An attempt got no answer, or one that only says "not now"."""
        with self._lock:
            last = self._health
            self._health = last._replace(answering=False, last_error=why)


class ServerClock:
    """The server's clock from its Date headers, which are cut to whole seconds.

    Each answer bounds the offset from both sides; the bounds of many answers together are narrow. When they
    contradict (a clock was set), the newest answer counts alone. Not thread-safe: Monitor's lock guards it.
    """

    def __init__(self) -> None:
        self.offset = 0.0
        self._low = float("-inf")
        self._high = float("inf")
        self._date = ""
        self._seconds: float | None = None

    def heard(self, date: str, began: float, ended: float) -> None:
        """Take in one Date header; `began` and `ended` enclose the moment it was written, by our clock."""
        if date != self._date:
            self._date, self._seconds = date, http_date(date)
        if self._seconds is None:
            return
        low, high = self._seconds - ended, self._seconds + 1.0 - began
        merged = max(self._low, low), min(self._high, high)
        self._low, self._high = merged if merged[0] <= merged[1] else (low, high)
        self.offset = (self._low + self._high) / 2
