"""Connections to a server as in the real world: TLS with a private authority, and a proxy that requires a password."""

from __future__ import annotations

import base64
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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

    daemon_threads = True

    def __init__(self, port: int, password: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.there = port
        self.wanted = "Basic " + base64.b64encode(password.encode()).decode()
        self.opened = self.refused = 0
        self.seen = bytearray()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

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


@contextmanager
def proxying(port: int, password: str) -> Iterator[Proxy]:
    """Run a proxy for the block."""
    with Proxy(port, password) as made:
        try:
            yield made
        finally:
            made.shutdown()
