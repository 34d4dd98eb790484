"""The connections to one server, and the order in which requests get them (vfs/semantics.md 3).

Connections are HTTP/1.1 with verified TLS, use the environment's proxy, and detect a dead peer.

Requests that a program waits for go before background requests, and small ones before large ones. Two of the connections (one
of up to four) are reserved for small requests that a program waits for. Large transfers get at most half of the connections,
so that small background requests can proceed beside them. Large background transfers get at most a quarter, so that few share
the bandwidth. With one connection, all take turns.
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
from jobfs.api.deadline import Deadline, call_blocking_hook, timeout_error
from jobfs.errors import UnavailableError, UsageError

#: Bodies of more bytes than this count as large.
LARGE = 256 * 1024

#: Seconds between two checks whether a program now waits for a background request.
_POLL_INTERVAL = 0.5
#: Connections that two simultaneous requests hold.
_PAIR = 2
#: Seconds that an idle connection is kept. One that the server has closed is detected before it is used again.
KEEPALIVE = 60.0
#: Building a TLS context takes several milliseconds, so all clients of the process share one.
_ssl_context = functools.cache(httpx.create_ssl_context)


class Priority(IntEnum):
    """The order in which requests get a connection: the lowest number first."""

    SMALL = 0
    LARGE = 1
    BACKGROUND = 2
    BACKGROUND_LARGE = 3


@dataclass(eq=False)
class _Waiter:
    """A request that waits for a connection. Its priority may change until the connection is `granted`."""

    deadline: Deadline
    large: bool
    #: How many connections the request takes at once.
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
        #: Set once no more connections are granted.
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []  # in order of arrival
        #: `time.monotonic()` when bytes of a body were last sent or received.
        self.progress_at = 0.0
        self._used = dict.fromkeys(Priority, 0)
        self._sockets: WeakSet[socket.socket] = WeakSet()
        reserved = min(2, -(-connections // 4)) if connections > 1 else 0
        #: Sets of priorities, and the most connections that the requests of each set may use together.
        self._room = [
            (tuple(Priority), connections),
            (tuple(Priority)[Priority.LARGE :], connections - reserved),
            ((Priority.LARGE, Priority.BACKGROUND_LARGE), max(1, connections // 2)),
            ((Priority.BACKGROUND_LARGE,), max(1, connections // 4)),
        ]

    @property
    def can_grant_pairs(self) -> bool:
        """Whether a small request of any priority can hold two connections."""
        return all(most >= _PAIR for ranks, most in self._room if Priority.BACKGROUND in ranks)

    def acquire(self, deadline: Deadline, call: object, *, large: bool = False, count: int = 1) -> Priority:
        """Wait for this request's turn to get a connection; return the priority to `release` the connection with.

        `count`: how many connections to get at the same moment, each with its own `release`; two at most, and only if
        `can_grant_pairs`.

        Raises OutOfTimeError if a program waits and its time is over, which says nothing about the server; UnavailableError
        if the client is closed.
        """
        call_blocking_hook()
        with self._lock:
            waiter = _Waiter(deadline, large, count)
            self._waiting.append(waiter)
            self._grant_connections()
        while waiter.granted is None:
            foreground, began = deadline.is_foreground, time.monotonic()
            waiter.is_granted.wait(
                min(max(deadline.signed_remaining(), 0.0), _POLL_INTERVAL) if foreground else _POLL_INTERVAL
            )
            with self._lock:
                self._grant_connections()
                if not foreground or (large and self.progress_at > began):
                    # In the background, time in the queue does not count. Nor does it count for a large transfer while bytes of
                    # other bodies move, which share the bandwidth.
                    deadline.extend(time.monotonic() - began)
                if waiter.granted is not None:
                    break
                if self.closed.is_set():
                    raise UnavailableError(f"{call}: the client is closed")
                if deadline.is_foreground and deadline.signed_remaining() <= 0:
                    self._waiting.remove(waiter)
                    raise timeout_error(f"{call}: no connection became free")
        return waiter.granted

    def release(self, priority: Priority) -> None:
        """Give back one connection that `acquire` granted with this priority; the next request gets it."""
        with self._lock:
            self._used[priority] -= 1
            self._grant_connections()

    def track_socket(self, connection: socket.socket) -> None:
        """Remember the socket of a new connection, so that `abort` can shut it down."""
        with self._lock:
            self._sockets.add(connection)
            if self.closed.is_set():
                _shut_down(connection)

    def close(self) -> None:
        """Grant no more connections, and wake the waiting requests, which then fail."""
        with self._lock:
            self.closed.set()
            for waiter in self._waiting:
                waiter.is_granted.set()

    def abort(self) -> None:
        """Close, and make every request in flight end as if its connection had broken."""
        self.close()
        with self._lock:
            for connection in self._sockets:
                _shut_down(connection)

    def has_waiter_before(self, priority: int) -> bool:
        """Return whether a request waits that goes before `priority`."""
        return bool(self._waiting) and any(waiter.priority < priority for waiter in list(self._waiting))

    def _grant_connections(self) -> None:
        """Grant free connections in order of priority. A request that waits for room in its own class does not block others.

        Within a priority, a request for two connections goes first, because the look that justifies its requests grows old
        (save/protocol.md R8). Requests behind it leave it the one connection that may be free.
        """
        if not self._waiting or self.closed.is_set():
            return
        reserved = dict.fromkeys(Priority, 0)
        for waiter in sorted(self._waiting, key=lambda waiter: (waiter.priority, -waiter.count)):
            priority = waiter.priority
            if self._has_room(priority, waiter.count, reserved):
                self._used[priority] += waiter.count
                self._waiting.remove(waiter)
                waiter.granted = priority
                waiter.is_granted.set()
            elif waiter.count > 1:
                reserved[priority] += waiter.count

    def _has_room(self, priority: Priority, count: int, reserved: dict[Priority, int]) -> bool:
        """Return whether `count` connections are free for this rank, besides those `reserved` for waiters before it."""
        rooms = (
            (class_priorities, most) for class_priorities, most in self._room if priority in class_priorities
        )
        return all(
            sum(self._used[each] + reserved[each] for each in class_priorities) + count <= most
            for class_priorities, most in rooms
        )


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # The plain shutdown, not that of TLS: other threads may be using the connection.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def make_transport(base_url: str, timeout: float, max_connections: int) -> httpx.HTTPTransport:
    """Return a connection pool for one server; raises UsageError if the environment names a bad proxy or bad certificates."""
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
            socket_options=socket_options(timeout),
        )
    except OSError:
        raise UsageError("the certificates named by SSL_CERT_FILE or SSL_CERT_DIR can't be read") from None
    except (ImportError, ValueError, httpx.InvalidURL):
        raise UsageError(
            "the proxy named by the environment can't be used: correct HTTPS_PROXY or unset it"
        ) from None


def describe_route(base_url: str) -> str:
    """Describe how the server is reached: TLS and proxy, from the environment. Raises UsageError as `make_transport` does."""
    make_transport(base_url, 1.0, 1).close()
    proxy = find_proxy(base_url)
    shown = httpx.URL(proxy or "").copy_with(username=None, password=None)
    way = f"through the proxy {shown}" if proxy else "without a proxy"
    if not base_url.startswith("https:"):
        return f"no TLS, because the server is on this machine, {way}"
    certificates = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    return f"TLS, certificates are checked against {certificates or 'those that came with jobfs'}, {way}"


def socket_options(timeout: float) -> list[tuple[int, int, int]]:
    """Return the options with which the kernel reports a dead peer before `timeout` seconds: level, option, value."""
    # After a suspend, or behind a router that has dropped its state, a connection can be dead without notice. The kernel
    # reports that within two thirds of the deadline, so that a read can still be retried on a new connection.
    part = max(1, int(timeout * 2 / 3))
    return [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, part),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, part // 3)),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, part * 1000),
    ]
