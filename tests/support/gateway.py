"""What is between a mount and the local server: a gateway, TLS with a private authority, a proxy that requires a password."""

from __future__ import annotations

import base64
import http.client
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
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


B = TypeVar("B", bound=ThreadingHTTPServer)


@contextmanager
def _serving(made: B) -> Iterator[B]:
    """Serve in a thread for the block."""
    with made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield made
        finally:
            made.shutdown()


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class Gateway(ThreadingHTTPServer):
    """A stand-in for the local server: give it to a mount or a workspace in place of the server.

    `answer` may return a reply to send instead of the server's. `asked` has every request, `connections` every connection.
    """

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


class _Handler(_Quiet):
    wbufsize = 1 << 16

    def _serve(self) -> None:
        gateway = self.server
        assert isinstance(gateway, Gateway)
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        asked = Asked(self.command, parts.path.partition("/workspace_instance/")[2], query)
        gateway.asked.append(asked)
        try:
            self._reply(gateway.answer(asked) or self._forward(gateway.server, body))
        except ConnectionError:
            self.close_connection = True

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def _forward(self, server: Server, body: bytes) -> Reply:
        """Return the server's reply."""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
        with closing(connection):
            connection.request(self.command, self.path, body, {**headers, "Accept-Encoding": "identity"})
            answer = connection.getresponse()
            content = answer.read()
        others = [each for each in answer.getheaders() if each[0].lower() not in {*_OWN, "date", "server"}]
        return Reply([content], answer.status, (*others, ("Content-Length", str(len(content)))))

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
    with _serving(Gateway(server, tls)) as made:
        try:
            yield made
        finally:
            made.closed.set()


def endless(gateway: Gateway, chunk: bytes) -> Iterator[bytes]:
    """Yield the same bytes until the gateway is closed."""
    while not gateway.closed.is_set():
        yield chunk


# TLS, and a proxy

#: The name in the certificate beside 127.0.0.1; only the proxy resolves it.
NAME = "api.example.test"


def make_certificate(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """Make a new authority, and a TLS context with a server certificate from it."""
    authority, own, key = (directory / name for name in ("authority.pem", "server.pem", "key.pem"))
    options = "-x509 -days 1 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=test"
    for more in (
        f"-keyout {key}.authority -out {authority} -addext keyUsage=critical,keyCertSign",
        f"-CA {authority} -CAkey {key}.authority -keyout {key} -out {own} "
        f"-addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:{NAME},IP:127.0.0.1",
    ):
        subprocess.run(["openssl", "req", *options.split(), *more.split()], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(own, key)
    return authority, tls


class Proxy(ThreadingHTTPServer):
    """Does CONNECT for clients with the password ("user:password"); for any name, it connects to `port`.

    `opened` and `refused` are counts; `seen` collects the beginning of each piece of data from clients.
    """

    def __init__(self, port: int, password: str) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.there = port
        self.wanted = "Basic " + base64.b64encode(password.encode()).decode()
        self.opened = self.refused = 0
        self.seen = bytearray()


class _Tunnel(_Quiet):
    def do_CONNECT(self) -> None:
        proxy, self.close_connection = self.server, True
        assert isinstance(proxy, Proxy)
        if self.headers["Proxy-Authorization"] != proxy.wanted:
            proxy.refused += 1
            self.send_response(407)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        proxy.opened += 1
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", proxy.there)) as there:
            ways = {there: self.connection, self.connection: there}
            while True:
                for source in select.select(list(ways), [], [])[0]:
                    try:
                        data = source.recv(1 << 16)
                        ways[source].sendall(data)
                    except OSError:
                        return
                    if not data:
                        return
                    if source is self.connection:
                        proxy.seen += data[:4096]


def proxying(port: int, password: str) -> AbstractContextManager[Proxy]:
    """Run a proxy for the block."""
    return _serving(Proxy(port, password))
