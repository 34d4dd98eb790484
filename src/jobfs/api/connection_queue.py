"""The connections to one server (HTTP/1.1, TLS verified, the environment's proxy, sockets that notice a dead peer), which
requests may use them, and in which order: room for people (vfs/semantics.md 3).

Requests that a program waits for go before the background, small before large. Two of the connections (one of up to four) are for
small requests that a program waits for. Large transfers have half of the connections at most, so that small work in the
background goes on beside them; large transfers of the background have a quarter, so that few share the line's bandwidth. With one
connection all take turns.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from enum import IntEnum
from weakref import WeakSet

import httpx

from jobfs.api.access import find_proxy
from jobfs.api.deadline import Deadline, announce_blocking, timeout_error
from jobfs.errors import UnavailableError, UsageError

#: Bodies of more bytes than this are large.
LARGE = 256 * 1024

#: Seconds between looks whether a program waits by now for a request of the background.
_LOOK = 0.5
#: Connections that two requests sent at once hold.
_PAIR = 2
#: Seconds that an idle connection is kept; one that the server closed is noticed before it is used again.
KEEPALIVE = 60.0
#: Building a TLS context costs several milliseconds, so all clients of the process share it.
_ssl_context = functools.cache(httpx.create_ssl_context)


class Priority(IntEnum):
    """The order in which requests get a connection."""

    SMALL = 0
    LARGE = 1
    BACKGROUND = 2
    BACKGROUND_LARGE = 3


@dataclass(eq=False)
class _Waiter:
    """A request that waits for its connection: its rank may change until the connection is `granted`."""

    deadline: Deadline
    large: bool
    #: How many connections it takes at once.
    count: int = 1
    granted: Priority | None = None
    is_granted: threading.Event = field(default_factory=threading.Event)

    @property
    def priority(self) -> Priority:
        if self.deadline.is_foreground:
            return Priority.LARGE if self.large else Priority.SMALL
        return Priority.BACKGROUND_LARGE if self.large else Priority.BACKGROUND


class ConnectionQueue:
    """The connections to one server; safe for many threads."""

    def __init__(self, connections: int) -> None:
        #: Set once nobody gets a connection any more.
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []  # in the order in which they came
        #: `time.monotonic()` when bytes of a body went over the line last.
        self.progress_at = 0.0
        self._used = dict.fromkeys(Priority, 0)
        self._sockets: WeakSet[socket.socket] = WeakSet()
        reserved = min(2, -(-connections // 4)) if connections > 1 else 0
        #: Ranks, and how many connections they have together.
        self._room = [
            (tuple(Priority), connections),
            (tuple(Priority)[Priority.LARGE :], connections - reserved),
            ((Priority.LARGE, Priority.BACKGROUND_LARGE), max(1, connections // 2)),
            ((Priority.BACKGROUND_LARGE,), max(1, connections // 4)),
        ]

    @property
    def has_pairs(self) -> bool:
        """True if there are two connections for small requests of every rank."""
        return all(most >= _PAIR for ranks, most in self._room if Priority.BACKGROUND in ranks)

    def acquire(self, deadline: Deadline, call: object, *, large: bool = False, count: int = 1) -> Priority:
        """A connection for one request, as soon as it is its turn; it is given back with `release`.

        `count`: so many connections at the same moment, each given back with `release`; two at most, where there are pairs.

        Raises OutOfTimeError if a program waits and its time is over, which says nothing of the server; UnavailableError if the
        client is closed.
        """
        announce_blocking()
        with self._lock:
            waiter = _Waiter(deadline, large, count)
            self._waiting.append(waiter)
            self._grant_connections()
        while waiter.granted is None:
            waited, since = deadline.is_foreground, time.monotonic()
            waiter.is_granted.wait(min(max(deadline.remaining(), 0.0), _LOOK) if waited else _LOOK)
            with self._lock:
                self._grant_connections()
                if not waited or (large and self.progress_at > since):
                    # In the background the time in the queue does not count. Nor does it for a large transfer while bytes move:
                    # the line is shared.
                    deadline.extend(time.monotonic() - since)
                if waiter.granted is not None:
                    break
                if self.closed.is_set():
                    raise UnavailableError(f"{call}: the client is closed")
                if deadline.is_foreground and deadline.remaining() <= 0:
                    self._waiting.remove(waiter)
                    raise timeout_error(f"{call}: no connection became free")
        return waiter.granted

    def release(self, priority: Priority) -> None:
        """Give the connection that `acquire` gave with this rank to the next request."""
        with self._lock:
            self._used[priority] -= 1
            self._grant_connections()

    def track_socket(self, connection: socket.socket) -> None:
        """A connection was made."""
        with self._lock:
            self._sockets.add(connection)
            if self.closed.is_set():
                _shut_down(connection)

    def close(self) -> None:
        """No request gets a connection any more; those that wait for one are told."""
        with self._lock:
            self.closed.set()
            for waiter in self._waiting:
                waiter.is_granted.set()

    def abort(self) -> None:
        """Close, and have every request under way end as if its connection had broken."""
        self.close()
        with self._lock:
            for connection in self._sockets:
                _shut_down(connection)

    def has_waiter_before(self, priority: int) -> bool:
        """True if a request waits whose rank comes before this rank."""
        return bool(self._waiting) and any(waiter.priority < priority for waiter in list(self._waiting))

    def _grant_connections(self) -> None:
        """Give out free connections, in order; a request that has to wait for room of its own rank holds up no other.

        Of one rank, who needs two goes first: a look that justifies these requests grows old (save/protocol.md R8). Who comes
        after that does not take the one that is free.
        """
        if not self._waiting or self.closed.is_set():
            return
        kept = dict.fromkeys(Priority, 0)
        for waiter in sorted(self._waiting, key=lambda waiter: (waiter.priority, -waiter.count)):
            rank = waiter.priority
            if self._has_room(rank, waiter.count, kept):
                self._used[rank] += waiter.count
                self._waiting.remove(waiter)
                waiter.granted = rank
                waiter.is_granted.set()
            elif waiter.count > 1:
                kept[rank] += waiter.count

    def _has_room(self, rank: Priority, count: int, kept: dict[Priority, int]) -> bool:
        """Return whether so many connections are free for this rank, beside those that are `kept` for waiters before it."""
        rooms = ((ranks, most) for ranks, most in self._room if rank in ranks)
        return all(
            sum(self._used[each] + kept[each] for each in ranks) + count <= most for ranks, most in rooms
        )


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Not the shutdown of TLS: other threads may be using it.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def make_transport(base_url: str, timeout: float, max_connections: int) -> httpx.HTTPTransport:
    """One pool for one server; raises UsageError for an unusable proxy or certificates in the environment."""
    try:
        return httpx.HTTPTransport(
            verify=_ssl_context(),
            trust_env=False,
            limits=httpx.Limits(
                max_connections=max_connections,
                max_keepalive_connections=max_connections,
                keepalive_expiry=KEEPALIVE,
            ),
            proxy=find_proxy(base_url),
            socket_options=_socket_options(timeout),
        )
    except OSError:
        raise UsageError("the certificates named by SSL_CERT_FILE or SSL_CERT_DIR can't be read") from None
    except (ImportError, ValueError, httpx.InvalidURL):
        raise UsageError(
            "the proxy named by the environment can't be used: correct HTTPS_PROXY or unset it"
        ) from None


def describe_route(base_url: str) -> str:
    """How the server is reached, in words: TLS and proxy as the environment has them; raises UsageError as `make_transport`
    does.
    """
    make_transport(base_url, 1.0, 1).close()
    proxy = find_proxy(base_url)
    shown = httpx.URL(proxy or "").copy_with(username=None, password=None)
    way = f"through the proxy {shown}" if proxy else "without a proxy"
    if not base_url.startswith("https:"):
        return f"no TLS, for it is this machine, {way}"
    given = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    return f"TLS, certificates are checked against {given or 'those that came with jobfs'}, {way}"


def _socket_options(timeout: float) -> list[tuple[int, int, int]]:
    # After a suspend or behind a forgetful router a connection can be dead without a word. The kernel then
    # reports it in two thirds of the deadline, so that a read can still be retried on a new one.
    part = max(1, int(timeout * 2 / 3))
    return [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, part),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, part // 3)),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, part * 1000),
    ]
