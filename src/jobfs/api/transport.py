"""The connection pool: HTTP/1.1, TLS verified, the environment's proxy, sockets that notice a dead peer."""

from __future__ import annotations

import functools
import os
import socket

import httpx

from jobfs.api.address import proxy_for
from jobfs.errors import UsageError

#: Seconds that an idle connection is kept; one that the server closed is noticed before it is used again.
KEEPALIVE = 60.0
#: Building a TLS context costs several milliseconds, so all clients of the process share it.
_ssl_context = functools.cache(httpx.create_ssl_context)


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
    except OSError:
        raise UsageError("the certificates named by SSL_CERT_FILE or SSL_CERT_DIR can't be read") from None
    except (ImportError, ValueError, httpx.InvalidURL):
        raise UsageError(
            "the proxy named by the environment can't be used: correct HTTPS_PROXY or unset it"
        ) from None


def route(base_url: str) -> str:
    """How the server is reached, in words: TLS and proxy as the environment has them; raises UsageError as `pool` does."""
    pool(base_url, 1.0, 1).close()
    proxy = proxy_for(base_url)
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
