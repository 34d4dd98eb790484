"""How the server has been answering, how far its clock is from ours, whether it is out of reach, and when it is left alone.

While the server is out of reach (`unreachable_reason`, vfs/semantics.md 1.14), requests that a program waits for fail at once.
One request a second finds out whether the server is back: that of `Client.has_recovered`, or one that the background has to send.

Where requests of the background fail, but are answered, the background sends one a second too; the first success opens everything
at once. 429 and `Retry-After` hold for the whole background, whichever request was told. Failures of reads and of changes are
counted apart: a server may fail over the ones and answer the others.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
from email.utils import parsedate_to_datetime

from jobfs.api.failures import RequestInfo
from jobfs.errors import ApiError, ContractError, HeldBackError, UnauthorizedError, UnavailableError

log = logging.getLogger("jobfs.api")

#: So many failures with no success between them are an outage.
_OUTAGE = 3
#: Seconds between two requests that find out whether an outage is over, and how long each may at least go without progress.
_PROBE_EVERY = 1.0
_PROBE_PATIENCE = 4.0
#: Most seconds that the background leaves the server alone, whatever the server asks for; and after a 429 that asks for none.
_LONGEST, _A_WHILE = 900.0, 1.0
#: Most seconds between two requests that meet the same silence; and after which part of a call's time it means "out of reach".
_BETWEEN, _NEARLY = 2.5, 0.95
#: The server is out of reach after so many connections that were not made, over so many seconds at least.
_REFUSALS, _REFUSED_FOR = 3, 2.0
_THROTTLED = 429


class Health:
    """Health of one server, from every attempt; safe for many threads. Times in seconds; `timeout`: a call's, without progress.

    Open to every reader: `answering`: the last attempt got an answer that speaks of the request (not 429 or 5xx). `last_ok`:
    `time.monotonic()` of the last such answer. `last_error`: why the last attempt failed, None if it did not. `latency`: moving
    average until an answer begins. `requests`: attempts. `clock_offset`: how far the server's clock is ahead of `steady_time`.
    `unreachable_reason`: why the server is out of reach; None if it is not, as far as is known.
    """

    def __init__(self, timeout: float = math.inf) -> None:
        self.answering = self.key_refused = False
        self.last_ok: float | None = None
        self.last_error: str | None = None
        self.latency: float | None = None
        self.requests = 0
        self.clock_offset = 0.0
        self.unreachable_reason: str | None = None
        self._timeout = timeout
        #: Guards what is known here, and who asks whether the server is back (`Client.has_recovered`). Nothing is taken under it.
        self.lock = threading.RLock()
        #: Failures since the last success, of reads and of changes; and when the next request finds out whether the outage is
        #: over.
        self._failures = {False: 0, True: 0}
        self._next_probe = 0.0
        #: When an answer was heard last; and from when to when requests have waited in vain since, one after another, some of
        #: them for a connection.
        self._heard = self._began = self._ended = 0.0
        self._refusals = 0
        self._left_alone_until = 0.0
        self._bounds = (-math.inf, math.inf)  # of the offset

    # -- may it be asked

    def admit_with_timeout(self, call: RequestInfo, *, foreground: bool) -> float:
        """A request is about to be sent; `foreground`: a program waits for it. Returns the seconds that it may go without
        progress.

        Raises HeldBackError: in the background while the server is left alone; for a program as `require_reachable` does.
        """
        with self.lock:
            now, patience = time.monotonic(), math.inf
            if foreground:
                self.require_reachable(call)
            elif (wait := self.background_delay(changing=call.is_change)) > 0:
                error = HeldBackError(
                    f"{call}: not sent: {self.last_error or 'the server asked to be left alone'} (tried again in {wait:.1f} s)"
                )
                error.wait = wait
                raise error
            elif self._is_probing(call.is_change):
                self._next_probe = now + _PROBE_EVERY
                # The server may have become slow: the longer it has failed, the longer the request waits.
                patience = max(_PROBE_PATIENCE, now - (self.last_ok or 0.0))
            self.requests += 1
            return patience

    def require_reachable(self, what: object) -> None:
        """Raises HeldBackError(ENETUNREACH) while the server is out of reach: `what` needs it."""
        if (why := self.unreachable_reason) is not None:
            raise HeldBackError(
                f"{what}: not sent: the server can't be reached: {why}", errno=errno.ENETUNREACH
            )

    def describe_silence(self, since: float) -> str:
        """Complete the sentence "the server …" while none of its answers has come since `since` (monotonic time); else ""."""
        if self.unreachable_reason is not None:
            return "can't be reached"
        return "" if self._heard > since else "does not answer"

    def _is_probing(self, changing: bool) -> bool:
        """True if one request a second finds out whether reads, or changes, succeed again."""
        return self.unreachable_reason is not None or self._failures[changing] >= _OUTAGE

    def background_delay(self, *, changing: bool) -> float:
        """Seconds until the background may send a read, or a change; 0.0: now."""
        with self.lock:
            probe = self._next_probe if self._is_probing(changing) else 0.0
            return max(0.0, max(self._left_alone_until, probe) - time.monotonic())

    @property
    def is_in_outage(self) -> bool:
        """True in an outage: one request a second finds out whether it is over."""
        return self._is_probing(False) or self._is_probing(True)

    # -- what came of it

    def note_reply(self, date: str, began: float, ended: float) -> None:
        """An answer of any kind begins, with this Date header; `began`, `ended`: `steady_time()` when it was asked, and now."""
        with self.lock:
            known = self._heard > 0
            self._heard = self._began = self._ended = time.monotonic()
            self._refusals = 0
            if self.unreachable_reason is not None:
                self.unreachable_reason = None
                if known:
                    log.warning("the server answers again")
            # The header is cut to whole seconds: each answer bounds the offset from both sides, and the bounds of many are
            # narrow. Where they contradict (a clock was set), the newest answer counts alone.
            if (seconds := _parse_http_date(date)) is not None:
                low, high = seconds - ended, seconds + 1.0 - began
                merged = max(self._bounds[0], low), min(self._bounds[1], high)
                self._bounds = merged if merged[0] <= merged[1] else (low, high)
                self.clock_offset = sum(self._bounds) / 2

    def note_no_reply(self, seconds: float, why: str, *, refused: bool = False) -> None:
        """A request has waited for `seconds`, and no answer came; or it was not sent, for there was no connection (`refused`)."""
        with self.lock:
            now = time.monotonic()
            began = max(now - seconds, self._heard)
            if began > self._ended + _BETWEEN:
                self._began, self._refusals = began, 0
            self._began, self._ended = min(self._began, began), now
            self._refusals += refused
            lasts = now - self._began
            no_way = self._refusals >= _REFUSALS and lasts >= _REFUSED_FOR
            if self.unreachable_reason is None and (no_way or lasts >= _NEARLY * self._timeout):
                self.unreachable_reason, self._next_probe = why, now + _PROBE_EVERY
                if self._heard:  # before the first answer, the error itself tells the caller
                    told = "what is known is shown, saves are kept here, what else needs it fails"
                    log.warning("the server can't be reached (%s): %s", why, told)

    def note_success(self, *, changing: bool, latency: float | None = None) -> None:
        """The server has answered to what was asked; `latency` None leaves the average alone."""
        with self.lock:
            self.answering, self.key_refused = True, False
            self.last_ok, self.last_error = time.monotonic(), None
            if latency is not None:
                self.latency = (
                    latency if self.latency is None else self.latency + (latency - self.latency) / 8
                )
            self._failures[changing] = 0

    def note_error(self, call: RequestInfo, error: ApiError) -> None:
        """Note what an error says of the server."""
        with self.lock:
            now = time.monotonic()
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
    """Seconds since the epoch of an HTTP date; None if the text is none."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
