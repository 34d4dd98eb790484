"""How the server has been answering, how far its clock is from ours, whether it is out of reach, and when it is left alone
(vfs/semantics.md 1, 3 and 5).

It is out of reach, `away`, once no connection was made for two seconds, or nothing was answered for as long as a call may
wait; until an answer of any kind. Then what a program waits for fails at once, and one request a second finds out whether the
server is back (`Client.answers`, or what the background has to send).

The background asks once a second too where its requests fail, but are answered; the first success opens everything at once.
429 and `Retry-After` hold for all of it, whoever was told. Reads and changes are told apart: a server may answer the ones and
be silent to the others. Then programs do not wait for the others either, but for now and then one that looks.
"""

from __future__ import annotations

import errno
import logging
import math
import random
import threading
import time
from dataclasses import dataclass

from jobfs.api.failures import Call, http_date
from jobfs.errors import (
    ApiError,
    ContractError,
    HeldBackError,
    UnauthorizedError,
    UnavailableError,
)

log = logging.getLogger("jobfs.api")

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
#: Most seconds between two requests that wait for the same silence to end, and the part of a call's time that makes one.
_BETWEEN, _NEARLY = 2.5, 0.95
#: So many connections that were not made, in so many seconds, and the server is out of reach.
_REFUSALS, _REFUSED_FOR = 3, 2.0
_THROTTLED = 429


@dataclass
class _Kind:
    """What is known of reads, of changes, or of both together: failures since the last success, and the silence there is.

    Requests have waited one after another from `began` to `ended`, and nothing was `heard`; for `refusals` of them there was no
    connection. A silence of reads or changes alone lasts `until` something is heard or a while has passed. While the server is
    out of reach, that is when the next request may wait for it as long as ever: it may have become slow.
    """

    failures: int = 0
    next_probe: float = 0.0
    heard: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    refusals: int = 0
    until: float = 0.0
    next_look: float = 0.0


class Health:
    """Of one server, from every attempt; safe for many threads. Times in seconds; `timeout`: a call's, without progress.

    To be read by anybody: `answering`: the last attempt got an answer that speaks of the request (not 429 or 5xx); False before
    the first. `last_ok`: `time.monotonic()` of the last such answer. `last_error`: why the last failed attempt failed, kept until
    the next success. `latency`: moving average until an answer begins. `requests`: attempts. `offset`: how far the server's clock
    is ahead of ours, 0.0 until seen. `recoveries`: how many outages have ended. `away`: why the server is out of reach; None if
    it is not, as far as is known.
    """

    def __init__(self, timeout: float = math.inf) -> None:
        self.answering = self.key_refused = False
        self.last_ok: float | None = None
        self.last_error: str | None = None
        self.latency: float | None = None
        self.requests = 0
        self.offset = 0.0
        self.recoveries = 0
        self.away: str | None = None
        self._timeout = timeout
        self._lock = threading.RLock()
        self._kinds: dict[bool | None, _Kind] = {kind: _Kind() for kind in (None, False, True)}  # None: both
        self._left_alone_until = 0.0
        self._throttled = 0
        self._asked = math.inf  # since when there is a question without an answer
        self._under_way = 0
        self._bounds = (-math.inf, math.inf)
        self._date: tuple[str, float | None] = ("", None)

    # -- may it be asked

    def admit(self, call: Call, *, waited: bool) -> float:
        """A request is about to be sent, and a program waits for it or not: seconds that it may go without progress.

        Raises HeldBackError: in the background while the server is left alone; in a program (ENETUNREACH) while it is out of
        reach, or silent to such requests, but for now and then one that looks.
        """
        with self._lock:
            now, kind, patience = time.monotonic(), self._kinds[call.changing], math.inf
            look = _ROUND_TRIPS * (self.latency or 0.0)
            if waited:
                self.check(call)
                if now < kind.until:
                    if now < kind.next_look:
                        raise _not_sent(call, "it is silent")
                    patience = max(_LOOK, look)
                    kind.next_look = now + patience + _UNTIL_LOOK
            elif (wait := self.wait(changing=call.changing)) > 0:
                raise self._held_back(call, wait)
            elif (failing := self._failing(call.changing)) is not None:
                failing.next_probe = now + _PROBE_EVERY
                if self.away is None or now < failing.until:
                    patience = max(_PROBE_PATIENCE, look)
                else:
                    failing.until = now + self._timeout
            self.requests += 1
            self._under_way += 1
            self._asked = min(self._asked, now)
            return patience

    def check(self, what: object) -> None:
        """Raises HeldBackError(ENETUNREACH) while the server is out of reach: `what` needs it."""
        if (why := self.away) is not None:
            raise _not_sent(what, why)

    def _held_back(self, call: Call, wait: float) -> HeldBackError:
        why = self.last_error or "the server asked to be left alone"
        error = HeldBackError(f"{call}: not sent: {why} (tried again in {wait:.1f} s)")
        error.wait = wait
        return error

    def _failing(self, changing: bool) -> _Kind | None:
        """Reads, changes or both, if one request of these a second finds out whether they are answered again; else None."""
        if self.away is not None:
            return self._kinds[None]
        return self._kinds[changing] if self._kinds[changing].failures >= _OUTAGE else None

    def wait(self, *, changing: bool) -> float:
        """Until the background may send a read, or a change; 0.0: now."""
        with self._lock:
            now, failing = time.monotonic(), self._failing(changing)
            probe = failing.next_probe - now if failing is not None else 0.0
            return max(0.0, self._left_alone_until - now, probe)

    @property
    def out(self) -> bool:
        """True in an outage: one request a second finds out whether it is over."""
        return any(self._failing(changing) is not None for changing in (False, True))

    def silent(self) -> float:
        """Seconds since the server was first asked something after it gave a sign of itself; 0.0 if nothing is asked now."""
        return max(0.0, time.monotonic() - self._asked)

    # -- what came of it

    def moved(self) -> None:
        """Bytes of a request's body have gone out."""
        self._asked = max(self._asked, time.monotonic())

    def ended(self) -> None:
        """A request that was admitted is over, whatever came of it."""
        with self._lock:
            self._under_way -= 1
            if not self._under_way:
                self._asked = math.inf

    def heard(self, call: Call, date: str, began: float, ended: float) -> None:
        """An answer of any kind begins, with this Date header, to a request sent between these `time.time()`s."""
        with self._lock:
            now, self._asked, known = time.monotonic(), math.inf, self._kinds[None].heard > 0
            for kind in (self._kinds[None], self._kinds[call.changing]):
                kind.heard = kind.began = kind.ended = now
                kind.until = kind.refusals = 0
            if self.away is not None:
                self.away = None
                self.recoveries += 1
                if known:
                    log.warning("the server answers again")
            # The header is cut to whole seconds: each answer bounds the offset from both sides, and the bounds of many are
            # narrow. Where they contradict (a clock was set), the newest answer counts alone.
            if date != self._date[0]:
                self._date = date, http_date(date)
            if (seconds := self._date[1]) is not None:
                low, high = seconds - ended, seconds + 1.0 - began
                merged = max(self._bounds[0], low), min(self._bounds[1], high)
                self._bounds = merged if merged[0] <= merged[1] else (low, high)
                self.offset = sum(self._bounds) / 2

    def unanswered(self, call: Call, seconds: float, why: str, *, refused: bool = False) -> None:
        """A request has waited for so long, and no answer came; or it was not sent, for there was no connection (`refused`)."""
        with self._lock:
            now, both = time.monotonic(), self._kinds[None]
            for kind in (both,) if refused else (both, self._kinds[call.changing]):
                if now < kind.until:
                    continue  # that ends: one call in `timeout` may wait for as long as ever
                began = max(now - seconds, kind.heard)
                if began > kind.ended + _BETWEEN:
                    kind.began, kind.refusals = began, 0
                kind.began, kind.ended = min(kind.began, began), now
                kind.refusals += refused
                silence = now - kind.began
                if in_vain := silence >= _NEARLY * self._timeout:
                    kind.until, kind.next_look = now + self._timeout, now + _UNTIL_LOOK
                no_way = kind.refusals >= _REFUSALS and silence >= _REFUSED_FOR
                if kind is both and self.away is None and (in_vain or no_way):
                    self.away, kind.next_probe = why, now + _PROBE_EVERY
                    if both.heard:  # else who asks for the first time is told by the error
                        told = "what is known is shown, saves are kept here, what else needs it fails"
                        log.warning("the server can't be reached (%s): %s", why, told)

    def succeeded(self, *, changing: bool, latency: float | None = None) -> None:
        """The server has answered to what was asked; `latency` None leaves the average alone."""
        with self._lock:
            self.answering, self.key_refused = True, False
            self.last_ok, self.last_error = time.monotonic(), None
            if latency is not None:
                self.latency = (
                    latency if self.latency is None else self.latency + (latency - self.latency) / 8
                )
            kind = self._kinds[changing]
            if kind.failures >= _OUTAGE:
                self.recoveries += 1
            kind.failures = self._throttled = 0

    def failed(self, why: str = "", *, changing: bool) -> None:
        """No answer came, or one that only says "not now"."""
        with self._lock:
            self.answering, self.last_error = False, why
            kind = self._kinds[changing]
            kind.failures += 1
            if kind.failures == _OUTAGE:
                kind.next_probe = time.monotonic() + _PROBE_EVERY

    def asked_to_wait(self, seconds: float) -> None:
        """The server has asked to be left alone: so long (`Retry-After`), or, with 0.0, it did not say."""
        with self._lock:
            now = time.monotonic()
            if not seconds:
                if now < self._left_alone_until:
                    return  # one of those that were sent together
                seconds = min(_FIRST * 2.0**self._throttled, _MOST) * random.uniform(0.75, 1.0)
                self._throttled = min(self._throttled + 1, 16)
            self._left_alone_until = max(self._left_alone_until, now + min(seconds, _LONGEST))

    def learn(self, call: Call, error: ApiError) -> None:
        """What an error says of the server."""
        if isinstance(error, UnauthorizedError):
            with self._lock:
                self.answering = self.key_refused = True
                self.last_ok, self.last_error = time.monotonic(), str(error)
        elif isinstance(error, (UnavailableError, ContractError)):
            self.failed(str(error), changing=call.changing)
            wait = error.wait if isinstance(error, UnavailableError) else 0.0
            if wait or error.status == _THROTTLED:
                self.asked_to_wait(wait)
        else:
            self.succeeded(changing=call.changing)


def _not_sent(what: object, why: str) -> HeldBackError:
    return HeldBackError(f"{what}: not sent: the server can't be reached: {why}", errno=errno.ENETUNREACH)
