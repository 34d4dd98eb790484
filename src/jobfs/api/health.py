"""How the server has been answering, how far its clock is from ours, and when it is left alone: it asked for that,
or it does not answer (semantics.md sections 3 and 5).

429 and `Retry-After` hold for everything in the background, whoever was told. Where requests fail one after another, one a
second finds out whether the server is back, instead of all; the first success opens everything at once. Reads and changes
are told apart: a server may answer the ones and not the others. Who waits in a program may always ask, unless others have
waited for as long as a call may, and nothing was answered: the kernel lets one change of a directory's names go on at a time,
and each of the programs behind it would wait as long again.
"""

from __future__ import annotations

import contextlib
import errno
import math
import random
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from jobfs.api.failures import http_date
from jobfs.errors import HeldBackError, OutOfTimeError


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
    """Collects Health, the clock offset and what restrains the background from every attempt.

    One small lock for all of it, never held across I/O.
    """

    def __init__(self, timeout: float) -> None:
        """`timeout`: seconds that a call has without progress."""
        self.restraint = Restraint(timeout)
        self._lock = self.restraint.lock
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


#: So many failures with no success between them are an outage.
_OUTAGE = 3
#: Seconds between two requests that find out whether it is over, and how long each may go without progress, at least.
_PROBE_EVERY = 1.0
_PROBE_PATIENCE = 4.0
#: Usual round trips that such a request may take.
_ROUND_TRIPS = 8
#: Seconds that the background leaves the server alone at most, whatever that asks for.
_LONGEST = 900.0
#: Seconds after a 429 without `Retry-After`: after the first, and at most.
_FIRST, _MOST = 1.0, 30.0
#: Seconds of a look whether the server is still silent, at least, and from its end to the next.
_LOOK, _UNTIL_LOOK = 1.0, 1.0
#: Seconds between two requests that wait for the same silence to end, and the part of a call's time that makes one.
_BETWEEN, _NEARLY = 1.0, 0.95


class _Kind:
    """What is known of reads, or of changes."""

    def __init__(self) -> None:
        self.failures = 0
        self.next_probe = 0.0

    @property
    def out(self) -> bool:
        return self.failures >= _OUTAGE


class _Silence:
    """Whether requests have waited for as long as a call may, one after another, and nothing was answered."""

    def __init__(self, timeout: float) -> None:
        self.next_look = 0.0
        self._timeout = timeout
        self._began = self._ended = self._heard = 0.0

    def unanswered(self, now: float, seconds: float) -> None:
        if self.holds(now):
            return  # that ends: one call in `timeout` may wait for as long as ever
        began = max(now - seconds, self._heard)
        self._began = began if began > self._ended + _BETWEEN else min(self._began, began)
        self._ended, self.next_look = now, now + _UNTIL_LOOK

    def answered(self, now: float) -> None:
        self._began = self._ended = self._heard = now

    def holds(self, now: float) -> bool:
        return self._ended - self._began >= _NEARLY * self._timeout and now - self._ended < self._timeout


class Restraint:
    """One for all requests to one server; safe for many threads. Times in seconds; `timeout`: a call's, without progress."""

    def __init__(self, timeout: float = math.inf) -> None:
        self.lock = threading.Lock()
        self._kinds = {False: _Kind(), True: _Kind()}
        self._silences = {
            kind: _Silence(timeout) for kind in (None, False, True)
        }  # None: of reads and changes together
        self._until = 0.0
        self._throttled = 0
        #: How many outages have ended.
        self.recoveries = 0

    def admit(self, what: str, *, changing: bool, latency: float | None) -> float:
        """A request is about to be sent in the background; how long it may go without progress.

        Raises HeldBackError, which says `what` is not sent and why, if it must not be sent now.
        """
        with self.lock:
            now = time.monotonic()
            wait = self._wait(now, self._kinds[changing])
            if wait > 0:
                raise _held_back(what, wait)
            kind = self._kinds[changing]
            if not kind.out:
                return math.inf
            kind.next_probe = now + _PROBE_EVERY
        return max(_PROBE_PATIENCE, _ROUND_TRIPS * (latency or 0.0))

    def patience(self, what: str, *, changing: bool, latency: float | None) -> float:
        """A program is about to wait for an answer; how long it may do so without progress.

        Raises OutOfTimeError, which says `what` is not sent, where others have waited in vain: now and then one looks.
        """
        now, look = time.monotonic(), max(_LOOK, _ROUND_TRIPS * (latency or 0.0))
        with self.lock:
            silent = [self._silences[kind] for kind in (None, changing) if self._silences[kind].holds(now)]
            if any(now < silence.next_look for silence in silent):
                raise OutOfTimeError(f"{what}: not sent: the server does not answer", errno=errno.ETIMEDOUT)
            for silence in silent:
                silence.next_look = now + look + _UNTIL_LOOK
        return look if silent else math.inf

    def unanswered(self, seconds: float, *, changing: bool) -> None:
        """A request has waited for so long, and no answer came."""
        with self.lock:
            for kind in (None, changing):
                self._silences[kind].unanswered(time.monotonic(), seconds)

    def answered(self, *, changing: bool) -> None:
        """An answer of any kind has come."""
        with self.lock:
            for kind in (None, changing):
                self._silences[kind].answered(time.monotonic())

    def wait(self, *, changing: bool) -> float:
        """Until the background may send a read, or a change; 0.0: now."""
        with self.lock:
            return self._wait(time.monotonic(), self._kinds[changing])

    @property
    def out(self) -> bool:
        """True in an outage: one request a second finds out whether it is over."""
        return any(kind.out for kind in self._kinds.values())

    def succeeded(self, *, changing: bool) -> None:
        """The server has answered to what was asked."""
        kind = self._kinds[changing]
        if not (kind.failures or self._throttled):
            return
        with self.lock:
            if kind.out:
                self.recoveries += 1
            kind.failures = self._throttled = 0

    def failed(self, *, changing: bool) -> None:
        """No answer came, or one that only says "not now"."""
        with self.lock:
            kind = self._kinds[changing]
            kind.failures += 1
            if kind.failures == _OUTAGE:
                kind.next_probe = time.monotonic() + _PROBE_EVERY

    def asked_to_wait(self, seconds: float | None) -> None:
        """The server has asked to be left alone: so long (`Retry-After`), or it did not say."""
        with self.lock:
            now = time.monotonic()
            if seconds is None:
                if now < self._until:
                    return  # one of those that were sent together
                seconds = min(_FIRST * 2.0**self._throttled, _MOST) * random.uniform(0.75, 1.0)
                self._throttled = min(self._throttled + 1, 16)
            self._until = max(self._until, now + min(seconds, _LONGEST))

    def _wait(self, now: float, kind: _Kind) -> float:
        return max(0.0, self._until - now, kind.next_probe - now if kind.out else 0.0)


def _held_back(what: str, wait: float) -> HeldBackError:
    error = HeldBackError(f"{what} (tried again in {wait:.1f} s)")
    error.wait = wait
    return error
