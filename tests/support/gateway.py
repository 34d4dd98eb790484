"""A gateway in front of the local server: it forwards requests, or replies as bad gateways do where a test says so."""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from jobfs.emulator import Server

#: Headers of one connection, which are not forwarded.
_OWN = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host"})


class Asked(NamedTuple):
    """A request: the method, the target below `workspace_instance/` without its query, and the query."""

    method: str
    target: str
    query: dict[str, str]

    @property
    def listing(self) -> bool:
        """Return whether the request is for a page of the list of items."""
        return self.method == "GET" and self.target == "items/"

    @property
    def download(self) -> bool:
        """Return whether the request is for the bytes of a file."""
        return self.target.endswith("/download")


class Reply(NamedTuple):
    """A reply; without a Content-Length in its headers it ends with the connection."""

    chunks: Iterable[bytes] = ()
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class Gateway(ThreadingHTTPServer):
    """A stand-in for the local server: give it to a mount or a workspace in place of the server.

    `answer` may return a reply to send instead of the server's. `asked` has every request, `connections` every connection.
    """

    daemon_threads = True

    def __init__(self, server: Server, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server = server
        self.job, self.key, self.faults, self.store = server.job, server.key, server.faults, server.store
        self.answer: Callable[[Asked], Reply | None] = lambda asked: None
        self.asked: list[Asked] = []
        self.closed = threading.Event()
        self.connections: list[socket.socket] = []
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_address[1]}"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept and record a connection."""
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def cut(self) -> None:
        """Break all connections without a reply, and without a TLS close."""
        for connection in self.connections:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect in the middle: these tests cause that."""
        if not isinstance(sys.exception(), (ConnectionError, ssl.SSLError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def _serve(self) -> None:
        gateway = self.server
        assert isinstance(gateway, Gateway)
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        asked = Asked(self.command, parts.path.partition("/workspace_instance/")[2], query)
        gateway.asked.append(asked)
        try:
            reply = gateway.answer(asked)
            if reply is None:
                self._pass_on(gateway, body)
            else:
                self._reply(reply)
        except ConnectionError:
            self.close_connection = True

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def _pass_on(self, gateway: Gateway, body: bytes) -> None:
        there = urlsplit(gateway.server.url)
        assert there.hostname
        connection = http.client.HTTPConnection(there.hostname, there.port, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
        headers["Accept-Encoding"] = "identity"
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {*_OWN, "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _reply(self, reply: Reply) -> None:
        self.close_connection = not any(name.lower() == "content-length" for name, _ in reply.headers)
        self.send_response(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        for chunk in reply.chunks:
            self.wfile.write(chunk)
            self.wfile.flush()


@contextmanager
def gateway(server: Server, tls: ssl.SSLContext | None = None) -> Iterator[Gateway]:
    """Run a gateway in front of `server` for the block."""
    with Gateway(server, tls) as made:
        try:
            yield made
        finally:
            made.closed.set()
            made.shutdown()


def endless(gateway: Gateway, chunk: bytes, pause: float = 0.0) -> Iterator[bytes]:
    """Yield the same bytes until the gateway is closed, with `pause` seconds between them."""
    while not gateway.closed.wait(pause) if pause else not gateway.closed.is_set():
        yield chunk
