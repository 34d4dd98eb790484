"""One request and its retries: key, deadline, turn for a connection, health (vfs/semantics.md 5).

Redirects are followed here, and only on the same origin, so that the key is never sent elsewhere.
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
from jobfs.api.access import KeySource, redact_key
from jobfs.api.bodies import RequestBody, read_body
from jobfs.api.connection_queue import LARGE, ConnectionQueue, Priority, make_transport
from jobfs.api.deadline import Deadline, Pace, current_deadline, retry_delay, steady_time, timeout_error
from jobfs.api.failures import (
    NO_WAY,
    MismatchError,
    RequestInfo,
    describe_exception,
    error_from_exception,
    error_from_reply,
)
from jobfs.api.health import Health
from jobfs.errors import (
    ApiError,
    ContractError,
    HeldBackError,
    OutOfTimeError,
    UnavailableError,
    WrongAnswerError,
)

logger = logging.getLogger("jobfs.api")

#: Suffixes of the httpcore events that report a new connection.
_CONNECTED = ("connect_tcp.complete", "start_tls.complete")
#: Suffix of the httpcore event that follows the last byte of a request.
_SENT = "receive_response_headers.started"
#: Seconds within which a connection must be made, so that a lost SYN leaves time for another attempt.
_CONNECT_WITHIN = 10.0
#: The least seconds that a step is given: for a socket, 0 means non-blocking.
_LEAST = 0.001
#: Redirects to the other form of a path. The server sends them before it does anything, so the same request is sent there.
_REDIRECTS = frozenset({301, 302, 307, 308})
_NO_SUCH_RANGE = 416
_NO_BODY = httpx.ByteStream(b"")


class Payload(NamedTuple):
    """What a request sends, and how its reply is read.

    `streamed`: the caller reads the reply's body, and 416 counts as a success. `large`: the reply's body is large (see
    connection_queue.py), or may be. `sent_event` is set once the request was handed to its socket.
    """

    body: RequestBody | None = None
    headers: Sequence[tuple[str, str]] = (("Accept-Encoding", "gzip"),)
    streamed: bool = False
    large: bool = False
    sent_event: threading.Event | None = None


PLAIN = Payload()


@dataclass(eq=False)
class BodyStream:
    """A reply's body, which holds its connection until it is closed, and may last while its bytes keep coming.

    Time in which bytes come does not count against callers that wait for the body; time that the reader takes does not count
    against the server.
    """

    _response: httpx.Response
    _connections: ConnectionQueue
    _priority: Priority
    _deadline: Deadline

    def __iter__(self) -> Iterator[bytes]:
        began = time.monotonic()
        assert isinstance(self._response.stream, httpx.SyncByteStream)
        for chunk in self._response.stream:
            self._connections.progress_at = now = time.monotonic()
            self._deadline.extend(now - began)
            yield chunk
            began = time.monotonic()
            self._deadline.restart()

    def close(self) -> None:
        """Give the connection back; closes the connection if the body was not read to its end."""
        try:
            self._response.close()
        finally:
            self._connections.release(self._priority)


class Reply(NamedTuple):
    """A success, or another accepted status, with its body: decompressed, or if `streamed`, as it arrives."""

    status: int
    headers: httpx.Headers
    body: bytes = b""
    stream: BodyStream | None = None


@dataclass(frozen=True, eq=False)
class HeldConnection:
    """A connection that one thread holds for several small requests, one after another; each is sent once.

    The thread must not wait for another connection before it gives this one back: with one connection in all, that would be
    forever. `sent_event` is set once a request was handed to the connection's socket.
    """

    priority: Priority
    sent_event: threading.Event = field(default_factory=threading.Event)


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
        pace: Pace,
    ) -> None:
        self._pace = pace
        self.health = Health(timeout, pace.clock)
        self.connections = ConnectionQueue(max_connections)
        self._key = key
        self._timeout = timeout
        self._base_url = base_url
        #: Whether this server's paths of collections have no trailing slash.
        self._bare = False
        self._transport = transport or make_transport(base_url, timeout, max_connections)
        host = httpx.URL(base_url).netloc.decode("ascii")
        self._headers = [("Host", host), ("User-Agent", f"jobfs/{__version__}"), ("Accept", "*/*")]

    def close(self) -> None:
        """Close every connection; requests that wait for a retry or for a connection fail at once."""
        self.connections.close()
        self._transport.close()

    def _trace_connection(
        self, sent_event: threading.Event | None, event: str, info: Mapping[str, Any]
    ) -> None:
        """Handle an event of httpcore: set up a new connection, or set `sent_event` once a request was handed to its socket."""
        if sent_event is not None and event.endswith(_SENT):
            sent_event.set()
        if event.endswith(_CONNECTED):
            stream = info["return_value"]
            _let_stream_take_deadlines(stream)
            self.connections.track_socket(stream.get_extra_info("socket"))

    @contextlib.contextmanager
    def hold_connection(self, subject: object) -> Iterator[HeldConnection]:
        """Wait for a connection and hold it for the block; `subject` names the work. Raises as `ConnectionQueue.acquire`."""
        priority = self.connections.acquire(
            Deadline(self._timeout, current_deadline(), foreground=False), subject
        )
        try:
            yield HeldConnection(priority)
        finally:
            self.connections.release(priority)

    @contextlib.contextmanager
    def hold_two_connections(self, subject: object) -> Iterator[tuple[HeldConnection, HeldConnection] | None]:
        """Wait for two connections and hold both for the block; yields None if there are too few. Raises as `hold_connection`."""
        if not self.connections.can_grant_pairs:
            yield None
            return
        priority = self.connections.acquire(
            Deadline(self._timeout, current_deadline(), foreground=False), subject, count=2
        )
        try:
            yield HeldConnection(priority), HeldConnection(priority)
        finally:
            self.connections.release(priority)
            self.connections.release(priority)

    def request(
        self, call: RequestInfo, payload: Payload = PLAIN, *, connection: HeldConnection | None = None
    ) -> Reply:
        """Send a request and return its reply if that is a success, with retries as vfs/semantics.md 5 says; raises ApiError.

        All attempts together have the client's `timeout` without progress, and no more than this thread's call has left. With
        a `connection`, there is one attempt, on that connection: a second one would need another look before it.
        """
        deadline = Deadline(self._timeout, current_deadline(), foreground=False)
        attempt = 0
        last: UnavailableError | None = None
        while True:
            try:
                return self._attempt_once(call, payload, self._key(), deadline, connection)
            except (OutOfTimeError, HeldBackError) as error:
                # Nothing was sent this time: the error of the attempt before says more.
                raise last or error from None
            except UnavailableError as error:
                # A subclass is final: the request may have been carried out.
                final = connection is not None or type(error) is not UnavailableError
                if final or not self._wait_and_may_retry(call, deadline, self._retry_delay(attempt, error)):
                    raise
                last, attempt = error, attempt + 1

    def _retry_delay(self, attempt: int, error: UnavailableError) -> float:
        pace = self._pace
        return retry_delay(attempt, error, first_delay=pace.first_pause, max_delay=pace.longest_pause)

    def _wait_and_may_retry(self, call: RequestInfo, deadline: Deadline, pause: float) -> bool:
        """Wait `pause` seconds before the next attempt; return False early if the server, the deadline or `close` allows none."""
        held = (
            self.health.unreachable_reason
            if deadline.is_foreground
            else self.health.background_delay(changing=call.is_change)
        )
        return not (held or pause >= deadline.signed_remaining() or self.connections.closed.wait(pause))

    def error_from_bad_reply(
        self, call: RequestInfo, exc: httpx.HTTPError | MismatchError | WrongAnswerError
    ) -> ApiError:
        """Return the error for a successful reply with wrong contents, or a streamed body that failed while it was read."""
        return self._record_failure_as_error(call, exc, self._key())

    def _attempt_once(
        self,
        call: RequestInfo,
        payload: Payload,
        key: str,
        deadline: Deadline,
        connection: HeldConnection | None,
    ) -> Reply:
        """Make one attempt, on the held connection or on the next free one; raises ApiError."""
        if connection is not None:
            return self._send_if_admitted(
                call, payload._replace(sent_event=connection.sent_event), key, deadline, connection.priority
            )
        large = payload.large or (payload.body is not None and payload.body.length > LARGE)
        priority = self.connections.acquire(deadline, call, large=large)
        answer: Reply | None = None
        try:
            answer = self._send_if_admitted(call, payload, key, deadline, priority)
            return answer
        finally:
            if answer is None or answer.stream is None:
                self.connections.release(priority)

    def _send_if_admitted(
        self, call: RequestInfo, payload: Payload, key: str, deadline: Deadline, priority: Priority
    ) -> Reply:
        """Make one attempt if time remains and `health` admits it; raises ApiError."""
        if deadline.signed_remaining() <= 0:
            raise timeout_error(str(call))
        patience = self.health.admit_with_timeout(call, foreground=deadline.is_foreground)
        if patience < deadline.signed_remaining():
            deadline = Deadline(patience, current_deadline(), foreground=False)
        if payload.body is not None:
            payload.body.on_send_time = functools.partial(self._extend_by_send_time, deadline)
        try:
            return self._send_and_receive(call, payload, key, deadline, priority)
        except (httpx.HTTPError, MismatchError, ApiError) as exc:
            raise self._record_failure_as_error(call, exc, key) from None

    def _send_and_receive(
        self, call: RequestInfo, payload: Payload, key: str, deadline: Deadline, priority: Priority
    ) -> Reply:
        """Send a request and receive its reply; raises httpx's errors, MismatchError, ApiError."""
        response, latency = self._send_and_time(call, payload, key, deadline)
        status, headers = response.status_code, response.headers
        if not (200 <= status < 300 or (payload.streamed and status == _NO_SUCH_RANGE)):
            # The reason of a failure is short: the beginning of the body is enough.
            raise error_from_reply(call, status, headers, read_body(response, whole=False), key)
        if payload.streamed:
            deadline.restart()  # from now on, only bytes are progress
            answer = Reply(status, headers, stream=BodyStream(response, self.connections, priority, deadline))
        else:
            # Only the status of a reply to a delete counts.
            answer = Reply(status, headers, read_body(response, whole=call.method != "DELETE"))
        self.health.note_success(changing=call.is_change, latency=None if payload.body else latency)
        return answer

    def _send_and_time(
        self, call: RequestInfo, payload: Payload, key: str, deadline: Deadline
    ) -> tuple[httpx.Response, float]:
        """Send a request; return the start of its reply and the seconds until then. `health` notes both, or the silence.

        Raises httpx's errors, ApiError.
        """
        clock, began = steady_time(), time.monotonic()
        try:
            with self.health.count_waiting():
                response = self._send_following_redirect(call, payload, key, deadline)
        except httpx.TransportError as exc:
            no_way = isinstance(exc, NO_WAY)
            # If the connection broke, part of the time may have gone into sending a body: that was no silence.
            waited = no_way or isinstance(exc, httpx.TimeoutException)
            seconds = time.monotonic() - began if waited else 0.0
            self.health.note_no_reply(seconds, redact_key(describe_exception(exc), key), refused=no_way)
            raise
        latency = time.monotonic() - began
        self.health.note_reply(response.headers.get("date", ""), clock, clock + latency)
        logger.debug("%s %s: %d, %.1f ms", call.method, call, response.status_code, latency * 1e3)
        return response, latency

    def _send_following_redirect(
        self, call: RequestInfo, payload: Payload, key: str, deadline: Deadline
    ) -> httpx.Response:
        """Send one request; repeat it if redirected to the other form of its path. Raises httpx's errors, ApiError."""
        path, mark, query = call.target.partition("?")
        first, second = self._slash_forms(path)
        for form, other in (first, second), (second, first):
            request = self._build_request(call.method, f"{form}{mark}{query}", payload, key, deadline)
            response = self._transport.handle_request(request)
            if response.status_code not in _REDIRECTS:
                return response
            read_body(response, whole=False)
            if _redirect_target(request, response) != self._base_url + other:
                break
            if path.endswith("/"):
                self._bare = form == path
        # The server did nothing, so its answer is not lost.
        status = response.status_code
        raise ContractError(
            f"{call}: the server redirects ({status}) to another place, or in a circle", status=status
        )

    def _slash_forms(self, path: str) -> tuple[str, str]:
        """Return `path` with and without a trailing slash; first the form that the server has, as far as is known."""
        if not path.endswith("/"):
            return path, f"{path}/"
        bare = path.removesuffix("/")
        return (bare, path) if self._bare else (path, bare)

    def _build_request(
        self, method: str, target: str, payload: Payload, key: str, deadline: Deadline
    ) -> httpx.Request:
        """Build a request to `target` whose every step ends by the deadline."""
        headers, body = [*self._headers, *payload.headers, ("Authorization", f"Bearer {key}")], payload.body
        if body is not None:
            headers += [("Content-Type", body.content_type), ("Content-Length", str(body.length))]
        seconds = max(deadline.signed_remaining(), _LEAST)
        steps = {
            "connect": min(seconds, _CONNECT_WITHIN),
            "read": deadline,
            "write": deadline,
            "pool": seconds,
        }
        return httpx.Request(
            method,
            self._base_url + target,
            headers=headers,
            stream=body or _NO_BODY,
            extensions={
                "timeout": steps,
                "trace": functools.partial(self._trace_connection, payload.sent_event),
            },
        )

    def _extend_by_send_time(self, deadline: Deadline, seconds: float) -> None:
        """Count as progress the `seconds` in which bytes of a request's body were sent."""
        deadline.extend(seconds)
        self.connections.progress_at = time.monotonic()

    def _record_failure_as_error(
        self, call: RequestInfo, exc: httpx.HTTPError | MismatchError | ApiError, key: str
    ) -> ApiError:
        """Return the error for a failure, and record it in `health` and in the log."""
        odd = isinstance(exc, (MismatchError, ContractError, WrongAnswerError))
        error = exc if isinstance(exc, ApiError) else error_from_exception(call, exc)
        error.args = (names.replace_hidden_names(redact_key(str(error), key)),)
        self.health.note_error(call, error)
        logger.log(logging.WARNING if odd else logging.DEBUG, "%s", error)
        return error


def _redirect_target(request: httpx.Request, response: httpx.Response) -> httpx.URL | None:
    """Return where a redirect leads, without its query; None if its `Location` is malformed."""
    try:
        return request.url.join(response.headers.get("location", "")).copy_with(query=None, fragment=None)
    except (httpx.InvalidURL, ValueError):
        return None


def _let_stream_take_deadlines(stream: Any) -> None:
    """Make a connection (an httpcore NetworkStream) accept a Deadline in place of a timeout, for its reads and writes.

    A timeout bounds one read or write only, and a request may take any number of them: headers, or the framing of a body, may
    come byte by byte and never end.
    """
    read, write = stream.read, stream.write

    # In a SOCKS handshake, `timeout` is None.
    def bounded_read(max_bytes: int, timeout: Deadline | None = None) -> bytes:
        seconds = None if timeout is None else timeout.signed_remaining()
        if seconds is not None and seconds <= 0:
            raise httpx.ReadTimeout("the answer came too slowly")
        return bytes(read(max_bytes, seconds))

    def bounded_write(buffer: bytes, timeout: Deadline | None = None) -> None:
        write(buffer, None if timeout is None else max(timeout.signed_remaining(), _LEAST))

    stream.read, stream.write = bounded_read, bounded_write
