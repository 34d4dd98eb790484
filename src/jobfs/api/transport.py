"""The connection pool: HTTP/1.1, TLS verified, the environment's proxy, sockets that notice a dead peer, reads that end.

And redirects, followed by hand: on the same origin only, so that the key never goes anywhere else.
"""

from __future__ import annotations

import functools
import os
import socket
import ssl
from typing import Any

import httpx

from jobfs.api.address import proxy_for
from jobfs.api.deadline import Deadline
from jobfs.api.failures import Call, mismatch
from jobfs.errors import ApiError, UsageError

#: Seconds that an idle connection is kept; one that the server closed is noticed before it is used again.
KEEPALIVE = 60.0
#: Seconds within which a connection must stand, so that a lost SYN leaves time for another try.
CONNECT_WITHIN = 10.0
#: The least time that a step is given: 0 means something else to sockets.
LEAST = 0.001


def pool(base_url: str, timeout: float, max_connections: int) -> httpx.HTTPTransport:
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
            proxy=proxy_for(base_url),
            socket_options=_socket_options(timeout),
        )
    except (ImportError, ValueError, httpx.InvalidURL):
        raise UsageError(
            "the proxy named by the environment can't be used: correct HTTPS_PROXY or unset it"
        ) from None


def bound(stream: Any) -> None:
    """Have a connection (an httpcore NetworkStream) take a Deadline in place of a timeout, and its reads and writes end with it.

    A timeout bounds one of them, and one request may take any number: of headers, or of what frames a body, that come byte
    by byte and may never end.
    """
    read, write = stream.read, stream.write

    # None: a SOCKS handshake.
    def bounded_read(max_bytes: int, timeout: Deadline | None = None) -> bytes:
        left = None if timeout is None else timeout.left()
        if left is not None and left <= 0:
            raise httpx.ReadTimeout("the answer came too slowly")
        return bytes(read(max_bytes, left))

    def bounded_write(buffer: bytes, timeout: Deadline | None = None) -> None:
        write(buffer, None if timeout is None else max(timeout.left(), LEAST))

    stream.read, stream.write = bounded_read, bounded_write


def route(base_url: str) -> str:
    """How the server is reached, in words: TLS and proxy as the environment has them; raises UsageError as `pool` does."""
    pool(base_url, 1.0, 1).close()
    proxy = proxy_for(base_url)
    way = f"through the proxy {_without_password(proxy)}" if proxy else "without a proxy"
    if not base_url.startswith("https:"):
        return f"no TLS, for it is this machine, {way}"
    given = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    return f"TLS, certificates are checked against {given or 'those that came with jobfs'}, {way}"


def _without_password(url: str) -> str:
    return str(httpx.URL(url).copy_with(username=None, password=None))


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    # Building one costs several milliseconds, so all clients of the process share it.
    try:
        return httpx.create_ssl_context()
    except OSError:
        raise UsageError("the certificates named by SSL_CERT_FILE or SSL_CERT_DIR can't be read") from None


def _socket_options(timeout: float) -> list[tuple[int, int, int]]:
    # After a suspend or behind a forgetful router a connection can be dead without a word. The kernel then
    # reports it in two thirds of the deadline, so that a read can still be retried on a new one.
    part = max(1, int(timeout * 2 / 3))
    return [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, part),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, part // 3)),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, part * 1000),
    ]


MAX_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEEP_METHOD = frozenset({307, 308})


_parsed = functools.lru_cache(maxsize=1024)(
    httpx.URL
)  # a tenth of a small request's cost, and the same are asked for again


class Redirects:
    """Where requests are led, and if this server has collection URLs with or without the slash."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._bare = False

    def start(self, call: Call) -> httpx.URL:
        """The URL to send this call to."""
        target = call.target
        if self._bare:
            path, mark, query = target.partition("?")
            target = path.removesuffix("/") + mark + query
        return _parsed(self._base_url + target)

    def follow(self, call: Call, url: httpx.URL, status: int, location: str) -> httpx.URL:
        """Where a redirect that was met at `url` leads; raises ApiError if it is not followed."""
        told = f"a redirect ({status})"
        if call.changing and status not in _KEEP_METHOD:
            raise refusal(call, status, f"{told} that does not keep the method")
        try:
            there = url.join(location).copy_with(fragment=None)
        except (httpx.InvalidURL, ValueError):
            raise refusal(call, status, f"{told} to something that is no URL") from None
        if (there.scheme, there.host, there.port) != (url.scheme, url.host, url.port) or there.userinfo:
            raise refusal(call, status, f"{told} to another origin, {there.scheme}://{there.host}")
        if url.path.rstrip("/") == there.path.rstrip("/"):
            if call.target.partition("?")[0].endswith("/"):
                self._bare = not there.path.endswith("/")
            if url.query and not there.query:
                there = there.copy_with(query=url.query)
        return there


def refusal(call: Call, status: int, what: str) -> ApiError:
    """The error for a redirect that is not followed: nothing was done, so it is no lost answer either."""
    return mismatch(call._replace(changing=False), what, status)
