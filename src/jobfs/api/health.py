"""The health of a server: how it has been answering, how far its clock is ahead of ours, whether it is out of reach, and
until when the background leaves it alone.

While the server is out of reach (`unreachable_reason`, vfs/semantics.md 1.14), requests that a program waits for fail at
once. One request a second checks whether the server is back: that of `Client.probe_recovery`, or one that the background has
to send.

If background requests are answered but fail, the background also sends one a second; the first success lifts this limit. 429
and `Retry-After` hold for the whole background, whichever request received them. Failures of reads and of changes are counted
separately, because a server may fail one kind and answer the other.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

from jobfs.api.failures import RequestInfo
from jobfs.errors import ApiError, ContractError, HeldBackError, UnauthorizedError, UnavailableError

log = logging.getLogger("jobfs.api")

#: This many failures without a success in between are an outage.
_OUTAGE = 3
#: Seconds between two probes of an outage, and the least that a probe may take without progress.
_PROBE_EVERY = 1.0
_PROBE_PATIENCE = 4.0
#: The most seconds that the background leaves the server alone, whatever `Retry-After` says; and those after a 429 without it.
_LONGEST, _A_WHILE = 900.0, 1.0
#: The most seconds between two failed requests that belong to the same silence; and the share of a call's timeout after which a
#: silence means "out of reach".
_BETWEEN, _NEARLY = 2.5, 0.95
#: The server is out of reach after this many failures to connect, over at least this many seconds.
_REFUSALS, _REFUSED_FOR = 3, 2.0
_THROTTLED = 429


class Health:
    """The health of one server, updated by every attempt; safe for many threads. Times are in seconds.

    `timeout`: that of a call, without progress. Attributes to read: `answering`: the last attempt got an answer that concerns
    the request (not 429 or 5xx). `last_ok`: the time of `clock` at the last such answer. `last_error`: why the last attempt
    failed, None if it succeeded. `latency`: moving average until a reply begins. `requests`: number of attempts.
    `clock_offset`: how far the server's clock is ahead of `steady_time`. `unreachable_reason`: why the server is out of
    reach, None if it is not known to be.
    """

    def __init__(self, timeout: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.answering = self.key_refused = False
        self.last_ok: float | None = None
        self.last_error: str | None = None
        self.latency: float | None = None
        self.requests = 0
        self.clock_offset = 0.0
        self.unreachable_reason: str | None = None
        self._timeout = timeout
        #: Guards this object and the probe of `Client.probe_recovery`. No other lock is taken while it is held.
        self.lock = threading.RLock()
        #: Failures since the last success, of reads (False) and of changes (True); and when the next probe may be sent.
        self._failures = {False: 0, True: 0}
        self._next_probe = 0.0
        #: When the last reply came; when the silence since then began and ended so far, in which requests waited in vain, some
        #: of them for a connection; and how many of these were refused a connection.
        self._heard = self._began = self._ended = 0.0
        self._refusals = 0
        #: How many requests wait for a reply now, and since when at least one has.
        self._waiting, self._waiting_since = 0, 0.0
        self._left_alone_until = 0.0
        self._bounds = (-math.inf, math.inf)  # the lowest and the highest possible clock_offset

    # -- before a request

    def admit_with_timeout(self, call: RequestInfo, *, foreground: bool) -> float:
        """Admit a request, and return the seconds that it may take without progress; inf if it is not a probe.

        `foreground`: a program waits for the request. Raises HeldBackError: in the background while the server is left alone;
        for a program as `require_reachable` does.
        """
        with self.lock:
            now, patience = self.clock(), math.inf
            if foreground:
                self.require_reachable(call)
            elif (wait := self.background_delay(changing=call.is_change)) > 0:
                error = HeldBackError(
                    f"{call}: not sent: {self.last_error or 'the server asked to wait'} (tried again in {wait:.1f} s)"
                )
                error.wait = wait
                raise error
            elif self._allows_only_probes(call.is_change):
                self._next_probe = now + _PROBE_EVERY
                # The server may have become slow: the longer it has failed, the longer a probe may take.
                patience = max(_PROBE_PATIENCE, now - (self.last_ok or 0.0))
            self.requests += 1
            return patience

    def require_reachable(self, subject: object) -> None:
        """Raise HeldBackError(ENETUNREACH) while the server is out of reach; `subject` names in the message what needs it."""
        if (why := self.unreachable_reason) is not None:
            raise HeldBackError(
                f"{subject}: not sent: the server can't be reached: {why}", errno=errno.ENETUNREACH
            )

    def silence_predicate(self, since: float) -> str:
        """Complete the sentence "the server …" if requests get no reply, and none has come after `since` (a time of `clock`).

        Return "" otherwise: a server that was not asked is not silent.
        """
        if self.unreachable_reason is not None:
            return "can't be reached"
        waits = self._waiting > 0 and self._waiting_since <= since
        is_asked_in_vain = waits or self._ended > self._heard
        return "does not answer" if is_asked_in_vain and self._heard <= since else ""

    def _allows_only_probes(self, changing: bool) -> bool:
        """Return whether reads, or changes, are limited to one probe a second."""
        return self.unreachable_reason is not None or self._failures[changing] >= _OUTAGE

    def background_delay(self, *, changing: bool) -> float:
        """Return the seconds until the background may send a read, or a change; 0.0 if it may now."""
        with self.lock:
            probe = self._next_probe if self._allows_only_probes(changing) else 0.0
            return max(0.0, max(self._left_alone_until, probe) - self.clock())

    @property
    def is_limited_to_probes(self) -> bool:
        """Whether reads or changes are limited to one probe a second."""
        return self._allows_only_probes(False) or self._allows_only_probes(True)

    @contextmanager
    def count_waiting(self) -> Iterator[None]:
        """Count a request as waiting for a reply, for the block."""
        with self.lock:
            self._waiting += 1
            if self._waiting == 1:
                self._waiting_since = self.clock()
        try:
            yield
        finally:
            with self.lock:
                self._waiting -= 1

    # -- after a request

    def note_reply(self, date: str, began: float, ended: float) -> None:
        """Note the start of any reply, with its Date header; `began`, `ended`: `steady_time()` at the request, and now."""
        with self.lock:
            known = self._heard > 0
            self._heard = self._began = self._ended = self.clock()
            self._refusals = 0
            if self.unreachable_reason is not None:
                self.unreachable_reason = None
                if known:
                    log.warning("the server answers again")
            # The header has whole seconds: each reply bounds the offset from both sides, and the bounds of many replies are
            # narrow. If they contradict each other (a clock was set), only the newest reply counts.
            if (seconds := _parse_http_date(date)) is not None:
                low, high = seconds - ended, seconds + 1.0 - began
                merged = max(self._bounds[0], low), min(self._bounds[1], high)
                self._bounds = merged if merged[0] <= merged[1] else (low, high)
                self.clock_offset = sum(self._bounds) / 2

    def note_no_reply(self, seconds: float, why: str, *, refused: bool = False) -> None:
        """Note that a request waited for `seconds` without a reply, or was not sent for want of a connection (`refused`)."""
        with self.lock:
            now = self.clock()
            began = max(now - seconds, self._heard)
            if began > self._ended + _BETWEEN:
                self._began, self._refusals = began, 0
            self._began, self._ended = min(self._began, began), now
            self._refusals += refused
            lasts = now - self._began
            no_way = self._refusals >= _REFUSALS and lasts >= _REFUSED_FOR
            if self.unreachable_reason is None and (no_way or lasts >= _NEARLY * self._timeout):
                self.unreachable_reason, self._next_probe = why, now + _PROBE_EVERY
                if self._heard:  # before the first reply, the caller gets the error itself
                    effect = "what is known is shown, saves are kept here, other requests fail"
                    log.warning("the server can't be reached (%s): %s", why, effect)

    def note_success(self, *, changing: bool, latency: float | None = None) -> None:
        """Note a success; `latency` None leaves the average unchanged."""
        with self.lock:
            self.answering, self.key_refused = True, False
            self.last_ok, self.last_error = self.clock(), None
            if latency is not None:
                self.latency = (
                    latency if self.latency is None else self.latency + (latency - self.latency) / 8
                )
            self._failures[changing] = 0

    def note_error(self, call: RequestInfo, error: ApiError) -> None:
        """Note what an error says about the server."""
        with self.lock:
            now = self.clock()
            if isinstance(error, UnauthorizedError):
                self.answering = self.key_refused = True
                self.last_ok, self.last_error = now, str(error)
            elif isinstance(error, (UnavailableError, ContractError)):
                self.answering, self.last_error = False, str(error)
                self._failures[call.is_change] += 1
                if self._failures[call.is_change] == _OUTAGE:
                    self._next_probe = now + _PROBE_EVERY
                wait = error.wait if isinstance(error, UnavailableError) else 0.0
                if wait or error.status == _THROTTLED:
                    until = now + min(wait or _A_WHILE, _LONGEST)
                    self._left_alone_until = max(self._left_alone_until, until)
            else:
                self.note_success(changing=call.is_change)


def _parse_http_date(value: str) -> float | None:
    """Return an HTTP date in seconds since the epoch; None if the text is not a date."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
