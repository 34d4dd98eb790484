"""One request and its retries: key, deadline, its turn for a connection, health (semantics.md section 5)."""

from __future__ import annotations

import errno
import logging
import math
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakSet

import httpx

from jobfs import __version__
from jobfs.api.bodies import MOST_JSON, MOST_REASON, Body, read_answer
from jobfs.api.deadline import Deadline, Timeouts, backoff, current, out_of_time
from jobfs.api.failures import Call, Failure, MismatchError, from_answer, from_exception, mismatch
from jobfs.api.health import Monitor
from jobfs.api.key import KeySource, check_key, scrub
from jobfs.api.line import LARGE, Line, Slot
from jobfs.api.transport import MAX_REDIRECTS, REDIRECTS, Redirects, bound, pool, refusal
from jobfs.errors import (
    AnswerLostError,
    ApiError,
    ContractError,
    OutOfTimeError,
    UnauthorizedError,
    UnavailableError,
)

logger = logging.getLogger("jobfs.api")


_THROTTLED = 429
#: What httpcore's events of a connection that stands end with.
_CONNECTED = ("connect_tcp.complete", "start_tls.complete")
#: Seconds in which a server that answers would have: who gave it less has learned nothing of it.
_FAIR = 1.0


class Send(NamedTuple):
    """What is sent for a call; `streamed`: the caller reads the body; `statuses`: welcome besides 2xx.

    `large`: the answer's body is large, or of unknown size (see line.py). `limit`: the most bytes of an answer that is not
    streamed.
    """

    body: Body | None = None
    headers: Sequence[tuple[str, str]] = (("Accept-Encoding", "gzip"),)
    streamed: bool = False
    statuses: frozenset[int] = frozenset()
    limit: int = MOST_JSON
    large: bool = False

    def welcomes(self, status: int) -> bool:
        """True for a success."""
        return 200 <= status < 300 or status in self.statuses


_PLAIN = Send()
_NO_BODY = httpx.ByteStream(b"")


class _Leased(httpx.SyncByteStream):
    """A body that has its connection until it is closed, and goes on for as long as bytes of it come."""

    def __init__(self, stream: httpx.SyncByteStream, slot: Slot, line: Line, timeouts: Timeouts) -> None:
        self._stream, self._slot, self._line, self._timeouts = stream, slot, line, timeouts

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._line.moved()
            yield chunk
            self._timeouts.progress()

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._slot.release()


class Wire:
    """Sends requests to one server over one connection pool; safe for many threads at once."""

    def __init__(
        self,
        base_url: str,
        key: KeySource,
        *,
        timeout: float,
        max_connections: int,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.monitor = Monitor(timeout)
        self.line = Line(max_connections)
        self.restraint = self.monitor.restraint
        #: The version of TLS of the newest connection, None without.
        self.tls: str | None = None
        self._key = key
        self._timeout = timeout
        self._redirects = Redirects(base_url)
        self._transport = transport or pool(base_url, timeout, max_connections)
        host = httpx.URL(base_url).netloc.decode("ascii")
        self._headers = [("Host", host), ("User-Agent", f"jobfs/{__version__}"), ("Accept", "*/*")]
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._sockets: WeakSet[socket.socket] = WeakSet()

    def close(self) -> None:
        """Close every connection; requests that wait for a retry or for a connection end at once."""
        self._closed.set()
        self.line.close()
        self._transport.close()

    def break_off(self) -> None:
        """End every request under way, as if its connection had broken; nothing is asked any more."""
        self._closed.set()
        self.line.close()
        with self._lock:
            for connection in list(self._sockets):
                _shut_down(connection)

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpcore: get to know each connection."""
        if event.endswith(_CONNECTED):
            stream = info["return_value"]
            bound(stream)
            secured = stream.get_extra_info("ssl_object")
            self.tls = secured.version() if secured is not None else None
            connection = stream.get_extra_info("socket")
            with self._lock:
                self._sockets.add(connection)
                if self._closed.is_set():
                    _shut_down(connection)

    def request(
        self, call: Call, send: Send = _PLAIN, timeout: float | None = None, *, once: bool = False
    ) -> httpx.Response:
        """The answer, if it is a success; retried as semantics.md section 5 says; raises ApiError.

        `timeout`: seconds without progress, over all attempts, and not more than the call of this thread has left (see
        deadline.py); the client's own if None. `once`: no attempt after a pause, for what must be looked at again before it
        is sent again. In the background, HeldBackError where the server is left alone (see health.py).
        """
        seconds = self._timeout if timeout is None else timeout
        deadline = Deadline(seconds, current(), waited=False, looking=not call.changing)
        key, renewed, attempt = check_key(self._key()), False, 0
        last: Failure | None = None
        while True:
            outcome = self._attempt_after(last, call, send, key, deadline)
            if isinstance(outcome, httpx.Response):
                return outcome
            last = outcome
            if isinstance(outcome.error, UnauthorizedError) and not renewed:
                old, key, renewed = key, check_key(self._key()), True
                if key != old:
                    continue
            self._before_another(call, outcome, attempt, deadline, once=once)
            attempt += 1

    def explain(self, call: Call, exc: httpx.HTTPError | MismatchError) -> ApiError:
        """The error for what was found wrong with a successful answer, or while a streamed body was read."""
        if not isinstance(exc, MismatchError):
            return self._failed(call, from_exception(call, exc), self._key()).error
        error = self._scrubbed(mismatch(call, str(exc)), self._key())
        self.monitor.failed(str(error))
        logger.warning("%s", error)
        return error

    def _before_another(
        self, call: Call, failure: Failure, attempt: int, deadline: Deadline, *, once: bool
    ) -> None:
        """Wait until the next attempt is to be made; raises the failure's error if there is to be none."""
        at_once = failure.at_once and not attempt
        if not failure.retry or (once and not at_once):
            raise failure.error
        if not at_once:
            self._pause(call, failure, attempt, deadline)

    def _pause(self, call: Call, failure: Failure, attempt: int, deadline: Deadline) -> None:
        """Wait until the next attempt; raises UnavailableError if that would be after the deadline, or is not for us."""
        wait, left, error = failure.wait, deadline.left(), failure.error
        if not deadline.waited and self.restraint.wait(changing=call.changing):
            raise error
        if wait is not None and wait >= left > 0:
            message = f"{error} (it asks to wait {wait:g} s, longer than the deadline)"
            raise UnavailableError(message, endpoint=call.endpoint, status=error.status)
        pause = (wait or 0.0) + backoff(attempt)
        if pause >= left:
            raise _timed_out(error)
        self._closed.wait(pause)

    def _attempt_after(
        self, last: Failure | None, call: Call, send: Send, key: str, deadline: Deadline
    ) -> httpx.Response | Failure:
        """One attempt; where there is no time for it, the failure of the one before is the reason."""
        try:
            return self._attempt(call, send, key, deadline)
        except OutOfTimeError:
            if last is None:
                raise
            raise _timed_out(last.error) from None

    def _attempt(self, call: Call, send: Send, key: str, deadline: Deadline) -> httpx.Response | Failure:
        """One attempt, once it is its turn: the answer if it is a success, else what went wrong."""
        large = send.large or (send.body is not None and send.body.length > LARGE)
        most, latency = math.inf, self.monitor.health().latency
        if deadline.waited:
            most = self.restraint.patience(str(call), changing=call.changing, latency=latency)
        slot = self.line.take(deadline, str(call), large=large, changing=call.changing)
        try:
            if not deadline.waited:
                most = self._admitted(call)
            deadline.check(str(call))
            timeouts = Timeouts(deadline, most)
            outcome = self._exchange(call, send, key, deadline, timeouts)
        except BaseException:
            slot.release()
            raise
        if send.streamed and isinstance(outcome, httpx.Response) and not outcome.is_closed:
            assert isinstance(outcome.stream, httpx.SyncByteStream)
            outcome.stream = _Leased(outcome.stream, slot, self.line, timeouts)
        else:
            slot.release()
        return outcome

    def _admitted(self, call: Call) -> float:
        """Seconds that a request in the background may go without progress; raises HeldBackError."""
        health = self.monitor.health()
        what = f"{call}: not sent: {health.last_error or 'the server asked to be left alone'}"
        return self.restraint.admit(what, changing=call.changing, latency=health.latency)

    def _exchange(
        self, call: Call, send: Send, key: str, deadline: Deadline, timeouts: Timeouts
    ) -> httpx.Response | Failure:
        """Send a request and take in its answer, but for a streamed body."""
        clock = time.time()
        given = timeouts.left()
        if send.body is not None:
            send.body.moved = partial(self._moved, deadline, send.body.length > LARGE)
        with self.monitor.sending():
            try:
                response, latency = self._answer(call, send, key, timeouts)
            except ContractError as exc:
                return self._failed(call, Failure(exc), key)
            except MismatchError as exc:
                return self._failed(call, Failure(mismatch(call, str(exc))), key)
            except httpx.HTTPError as exc:
                return self._broken(call, exc, key, given)
            self.monitor.heard(response.headers.get("date", ""), clock, clock + latency)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s %s: %d, %.1f ms", call.method, call, response.status_code, latency * 1e3)
        if not send.welcomes(response.status_code):
            answer = response.status_code, response.headers, response.content
            return self._failed(call, from_answer(call, *answer, key), key)
        self.monitor.answered(latency if send.body is None else None)
        self.restraint.succeeded(changing=call.changing)
        if send.streamed:
            deadline.renew()  # from here on only bytes are progress
        return response

    def _answer(self, call: Call, send: Send, key: str, timeouts: Timeouts) -> tuple[httpx.Response, float]:
        """The answer, read unless it is a success that is streamed, and the seconds until it began; raises as `_send`."""
        began = time.monotonic()
        try:
            response = self._send(call, send, key, timeouts)
        except httpx.TimeoutException:
            self.restraint.unanswered(time.monotonic() - began, changing=call.changing)
            raise
        self.restraint.answered(changing=call.changing)
        latency = time.monotonic() - began
        success = send.welcomes(response.status_code)
        if success and send.streamed:
            return response, latency
        # Why something failed is told in few words.
        delete = call.method == "DELETE"
        whole = success and not delete
        try:
            read_answer(response, send.limit if whole else MOST_REASON, timeouts.left(), whole=whole)
        except httpx.HTTPError:
            if not (success and delete):
                raise
            response = httpx.Response(response.status_code)  # a delete's answer is its status
        return response, latency

    def _moved(self, deadline: Deadline, large: bool, seconds: float) -> None:
        """Bytes of a body were sent for so long."""
        deadline.extend(seconds)
        self.line.moved()
        if large:
            self.monitor.moved()

    def _broken(self, call: Call, exc: httpx.HTTPError, key: str, given: float) -> Failure:
        """What it means that no answer came in the time that was `given`."""
        failure = from_exception(call, exc)
        late = isinstance(exc, httpx.TimeoutException) and given < min(_FAIR, self._timeout / 2)
        if not late and not isinstance(exc, httpx.PoolTimeout):
            return self._failed(call, failure, key)
        # That says nothing of the server.
        if isinstance(failure.error, AnswerLostError) or not late:
            return failure
        return Failure(out_of_time(str(failure.error)))

    def _send(self, call: Call, send: Send, key: str, timeouts: Timeouts) -> httpx.Response:
        """Send one request, following redirects; raises httpx's errors, ContractError."""
        body = send.body
        headers = [*self._headers, *send.headers, ("Authorization", f"Bearer {key}")]
        if body is not None:
            headers += [("Content-Type", body.content_type), ("Content-Length", str(body.length))]
        extensions = {"timeout": timeouts, "trace": self._trace}
        url = self._redirects.start(call)
        for _ in range(MAX_REDIRECTS + 1):
            request = httpx.Request(
                call.method, url, headers=headers, stream=body or _NO_BODY, extensions=extensions
            )
            response = self._transport.handle_request(request)
            if response.status_code not in REDIRECTS:
                return response
            read_answer(response, MOST_REASON, timeouts.left(), whole=False)
            url = self._redirects.follow(call, url, response)
        raise refusal(call, response.status_code, f"more than {MAX_REDIRECTS} redirects")

    def _failed(self, call: Call, failure: Failure, key: str) -> Failure:
        """Take note of a failure and log it."""
        error = self._scrubbed(failure.error, key)
        if isinstance(error, UnauthorizedError):
            self.monitor.refused(str(error))
        elif isinstance(error, (UnavailableError, ContractError)):
            self.monitor.failed(str(error))
            self.restraint.failed(changing=call.changing)
            if error.status == _THROTTLED or failure.wait:
                self.restraint.asked_to_wait(failure.wait)
        else:
            self.monitor.answered(None)
            self.restraint.succeeded(changing=call.changing)
        logger.log(logging.WARNING if isinstance(error, ContractError) else logging.DEBUG, "%s", error)
        return failure

    @staticmethod
    def _scrubbed(error: ApiError, key: str) -> ApiError:
        error.args = (scrub(str(error), key),)
        return error


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        # Not TLS's own: other threads are in the middle of it.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _timed_out(error: ApiError) -> UnavailableError:
    """What is told when there is no time left for another attempt."""
    return UnavailableError(str(error), endpoint=error.endpoint, status=error.status, errno=errno.ETIMEDOUT)
