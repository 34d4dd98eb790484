"""One request and its retries: key, deadline, its turn for a connection, health (vfs/semantics.md 5).

Redirects are followed by hand: on the same origin only, so that the key never goes anywhere else.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from jobfs import __version__, names
from jobfs.api.access import KeySource, scrub
from jobfs.api.bodies import Body, read_answer
from jobfs.api.deadline import Deadline, backoff, current, out_of_time, steady
from jobfs.api.failures import NO_WAY, Call, MismatchError, from_answer, from_exception, reason
from jobfs.api.health import Health
from jobfs.api.line import LARGE, Line, Rank, pool
from jobfs.errors import (
    ApiError,
    ContractError,
    HeldBackError,
    OutOfTimeError,
    UnavailableError,
    WrongAnswerError,
)

logger = logging.getLogger("jobfs.api")

#: How the names of httpcore's events end when a connection was made.
_CONNECTED = ("connect_tcp.complete", "start_tls.complete")
#: How the name of the event ends that follows the last byte of a request.
_SENT = "receive_response_headers.started"
#: Seconds within which a connection must stand, so that a lost SYN leaves time for another try.
_CONNECT_WITHIN = 10.0
#: The least time that a step is given: 0 means something else to sockets.
_LEAST = 0.001
#: Redirects to the other form of a path: the server sent them before it did anything, so the same request is sent there.
_REDIRECTS = frozenset({301, 302, 307, 308})
_NO_SUCH_RANGE = 416
_NO_BODY = httpx.ByteStream(b"")


class Send(NamedTuple):
    """What is sent for a call; `streamed`: the caller reads the answer's body, if the file goes on at the byte asked for.

    `large`: the answer's body is large (see line.py), or may be. `sent` is set once the request was handed to its socket.
    """

    body: Body | None = None
    headers: Sequence[tuple[str, str]] = (("Accept-Encoding", "gzip"),)
    streamed: bool = False
    large: bool = False
    sent: threading.Event | None = None


PLAIN = Send()


@dataclass(eq=False)
class Stream:
    """A body that has its connection until it is closed, and goes on for as long as bytes of it come.

    Time in which bytes come does not count for callers that wait for the body; time that its reader takes does not count for the
    server.
    """

    _response: httpx.Response
    _line: Line
    _rank: Rank
    _deadline: Deadline

    def __iter__(self) -> Iterator[bytes]:
        since = time.monotonic()
        assert isinstance(self._response.stream, httpx.SyncByteStream)
        for chunk in self._response.stream:
            self._line.moved_at = now = time.monotonic()
            self._deadline.extend(now - since)
            yield chunk
            since = time.monotonic()
            self._deadline.renew()

    def close(self) -> None:
        """Give the connection back; if bytes of the body are still to come, the connection is closed."""
        try:
            self._response.close()
        finally:
            self._line.release(self._rank)


class Answer(NamedTuple):
    """A success, or another answer that is welcome, with its body: decompressed, or if it is `streamed` as it comes."""

    status: int
    headers: httpx.Headers
    body: bytes = b""
    stream: Stream | None = None


@dataclass(frozen=True, eq=False)
class Turn:
    """A connection that one thread holds for several small requests, one after another; each is sent once.

    Nothing in between may wait for another connection: with one connection, that would never become free. `sent` is set once a
    request was handed to the socket of the connection.
    """

    rank: Rank
    sent: threading.Event = field(default_factory=threading.Event)


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
        self.health = Health(timeout)
        self.line = Line(max_connections)
        self._key = key
        self._timeout = timeout
        self._base_url = base_url
        #: True if this server has the paths of collections without the slash at their end.
        self._bare = False
        self._transport = transport or pool(base_url, timeout, max_connections)
        host = httpx.URL(base_url).netloc.decode("ascii")
        self._headers = [("Host", host), ("User-Agent", f"jobfs/{__version__}"), ("Accept", "*/*")]

    def close(self) -> None:
        """Close every connection; requests that wait for a retry or for a connection end at once."""
        self.line.close()
        self._transport.close()

    def _trace(self, sent: threading.Event | None, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpcore: get to know each connection, and set `sent` once a request was handed to its socket."""
        if sent is not None and event.endswith(_SENT):
            sent.set()
        if event.endswith(_CONNECTED):
            stream = info["return_value"]
            _bound(stream)
            self.line.opened(stream.get_extra_info("socket"))

    @contextlib.contextmanager
    def turn(self, what: object) -> Iterator[Turn]:
        """Wait for a connection, and hold it for `what` in this block. Raises as `Line.take`."""
        rank = self.line.take(Deadline(self._timeout, current(), waited=False), what)
        try:
            yield Turn(rank)
        finally:
            self.line.release(rank)

    @contextlib.contextmanager
    def two_turns(self, what: object) -> Iterator[tuple[Turn, Turn] | None]:
        """Wait for two connections, and hold both in this block; yields None where there are too few. Raises as `turn`."""
        if not self.line.has_pairs:
            yield None
            return
        rank = self.line.take(Deadline(self._timeout, current(), waited=False), what, count=2)
        try:
            yield Turn(rank), Turn(rank)
        finally:
            self.line.release(rank)
            self.line.release(rank)

    def request(self, call: Call, send: Send = PLAIN, *, turn: Turn | None = None) -> Answer:
        """The answer, if it is a success; retried as vfs/semantics.md 5 says; raises ApiError.

        All attempts have the client's `timeout` without progress, and not more than the call of this thread has left. With a
        `turn` there is one attempt, on the connection that is held: a second one would need another look before it.
        """
        deadline = Deadline(self._timeout, current(), waited=False)
        attempt = 0
        last: UnavailableError | None = None
        while True:
            try:
                return self._attempt(call, send, self._key(), deadline, turn)
            except (OutOfTimeError, HeldBackError) as error:
                # This attempt was not made: the error of the one before says more.
                raise last or error from None
            except UnavailableError as error:
                # A subclass: the request may have been carried out.
                final = turn is not None or type(error) is not UnavailableError
                if final or not self._wait_to_retry(call, deadline, backoff(attempt, error)):
                    raise
                last, attempt = error, attempt + 1

    def _wait_to_retry(self, call: Call, deadline: Deadline, pause: float) -> bool:
        """Wait `pause` seconds before the next attempt; False, at once, if the server, the deadline or `close` allows none."""
        held = self.health.away if deadline.waited else self.health.wait(changing=call.changing)
        return not (held or pause >= deadline.left() or self.line.closed.wait(pause))

    def explain(self, call: Call, exc: httpx.HTTPError | MismatchError | WrongAnswerError) -> ApiError:
        """The error for what was found wrong with a successful answer, or while a streamed body was read."""
        return self._learn(call, exc, self._key())

    def _attempt(self, call: Call, send: Send, key: str, deadline: Deadline, turn: Turn | None) -> Answer:
        """Make one attempt on the connection that is held, or on the next that is free; raises ApiError."""
        if turn is not None:
            return self._admitted(call, send._replace(sent=turn.sent), key, deadline, turn.rank)
        large = send.large or (send.body is not None and send.body.length > LARGE)
        rank = self.line.take(deadline, call, large=large)
        answer: Answer | None = None
        try:
            answer = self._admitted(call, send, key, deadline, rank)
            return answer
        finally:
            if answer is None or answer.stream is None:
                self.line.release(rank)

    def _admitted(self, call: Call, send: Send, key: str, deadline: Deadline, rank: Rank) -> Answer:
        """Make one attempt if there is time for it and the server may be asked; raises ApiError."""
        if deadline.left() <= 0:
            raise out_of_time(str(call))
        patience = self.health.admit(call, waited=deadline.waited)
        if patience < deadline.left():
            deadline = Deadline(patience, current(), waited=False)
        if send.body is not None:
            send.body.moved = functools.partial(self._moved, deadline)
        try:
            return self._exchange(call, send, key, deadline, rank)
        except (httpx.HTTPError, MismatchError, ApiError) as exc:
            raise self._learn(call, exc, key) from None

    def _exchange(self, call: Call, send: Send, key: str, deadline: Deadline, rank: Rank) -> Answer:
        """Send a request and take in its answer; raises httpx's errors, MismatchError, ApiError."""
        response, latency = self._timed(call, send, key, deadline)
        status, headers = response.status_code, response.headers
        if not (200 <= status < 300 or (send.streamed and status == _NO_SUCH_RANGE)):
            # The reason of a failure has few words.
            raise from_answer(call, status, headers, read_answer(response, whole=False), key)
        if send.streamed:
            deadline.renew()  # from here on only bytes are progress
            answer = Answer(status, headers, stream=Stream(response, self.line, rank, deadline))
        else:
            # Only the status of a reply to a delete counts.
            answer = Answer(status, headers, read_answer(response, whole=call.method != "DELETE"))
        self.health.succeeded(changing=call.changing, latency=None if send.body else latency)
        return answer

    def _timed(self, call: Call, send: Send, key: str, deadline: Deadline) -> tuple[httpx.Response, float]:
        """Send a request; return the start of its reply and the seconds until then. `health` notes both, or the silence.

        Raises httpx's errors, ApiError.
        """
        clock, began = steady(), time.monotonic()
        try:
            response = self._send(call, send, key, deadline)
        except httpx.TransportError as exc:
            no_way = isinstance(exc, NO_WAY)
            # Before a connection broke, bytes of a body may have gone out for long.
            waited = no_way or isinstance(exc, httpx.TimeoutException)
            seconds = time.monotonic() - began if waited else 0.0
            self.health.unanswered(seconds, scrub(reason(exc), key), refused=no_way)
            raise
        latency = time.monotonic() - began
        self.health.heard(response.headers.get("date", ""), clock, clock + latency)
        logger.debug("%s %s: %d, %.1f ms", call.method, call, response.status_code, latency * 1e3)
        return response, latency

    def _send(self, call: Call, send: Send, key: str, deadline: Deadline) -> httpx.Response:
        """Send one request, following a redirect to the other form of its path; raises httpx's errors, ApiError."""
        path, mark, query = call.target.partition("?")
        first, second = self._forms(path)
        for form, other in (first, second), (second, first):
            request = self._request(call.method, f"{form}{mark}{query}", send, key, deadline)
            response = self._transport.handle_request(request)
            if response.status_code not in _REDIRECTS:
                return response
            read_answer(response, whole=False)
            if _location(request, response) != self._base_url + other:
                break
            if path.endswith("/"):
                self._bare = form == path
        # Nothing was done, so this is no lost answer.
        status = response.status_code
        raise ContractError(f"{call}: a redirect ({status}) to another place, or in a circle", status=status)

    def _forms(self, path: str) -> tuple[str, str]:
        """Return `path` with and without a slash at its end; first the form that the server has, as far as is known."""
        if not path.endswith("/"):
            return path, f"{path}/"
        bare = path.removesuffix("/")
        return (bare, path) if self._bare else (path, bare)

    def _request(self, method: str, target: str, send: Send, key: str, deadline: Deadline) -> httpx.Request:
        """Build a request to `target` whose every step ends by the deadline."""
        headers, body = [*self._headers, *send.headers, ("Authorization", f"Bearer {key}")], send.body
        if body is not None:
            headers += [("Content-Type", body.content_type), ("Content-Length", str(body.length))]
        left = max(deadline.left(), _LEAST)
        steps = {"connect": min(left, _CONNECT_WITHIN), "read": deadline, "write": deadline, "pool": left}
        return httpx.Request(
            method,
            self._base_url + target,
            headers=headers,
            stream=body or _NO_BODY,
            extensions={"timeout": steps, "trace": functools.partial(self._trace, send.sent)},
        )

    def _moved(self, deadline: Deadline, seconds: float) -> None:
        """Bytes of a request's body were sent for `seconds`."""
        deadline.extend(seconds)
        self.line.moved_at = time.monotonic()

    def _learn(self, call: Call, exc: httpx.HTTPError | MismatchError | ApiError, key: str) -> ApiError:
        """The error for what went wrong, noted and logged."""
        odd = isinstance(exc, (MismatchError, ContractError, WrongAnswerError))
        error = exc if isinstance(exc, ApiError) else from_exception(call, exc)
        error.args = (names.plain(scrub(str(error), key)),)
        self.health.learn(call, error)
        logger.log(logging.WARNING if odd else logging.DEBUG, "%s", error)
        return error


def _location(request: httpx.Request, response: httpx.Response) -> httpx.URL | None:
    """Return where a redirect leads, without its query; None if its `Location` is malformed."""
    try:
        return request.url.join(response.headers.get("location", "")).copy_with(query=None, fragment=None)
    except (httpx.InvalidURL, ValueError):
        return None


def _bound(stream: Any) -> None:
    """Have a connection (an httpcore NetworkStream) take a Deadline in place of a timeout, and its reads and writes end with it.

    A timeout bounds only one read or write, and a request may take any number of them: headers, or the framing of a body, may
    come byte by byte and never end.
    """
    read, write = stream.read, stream.write

    # None: a SOCKS handshake.
    def bounded_read(max_bytes: int, timeout: Deadline | None = None) -> bytes:
        left = None if timeout is None else timeout.left()
        if left is not None and left <= 0:
            raise httpx.ReadTimeout("the answer came too slowly")
        return bytes(read(max_bytes, left))

    def bounded_write(buffer: bytes, timeout: Deadline | None = None) -> None:
        write(buffer, None if timeout is None else max(timeout.left(), _LEAST))

    stream.read, stream.write = bounded_read, bounded_write
