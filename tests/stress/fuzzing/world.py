"""A real client, namespace and content cache on a real socket, whose other end says what a test wants."""

from __future__ import annotations

import json
import socket
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from jobfs.api.client import Client
from jobfs.api.key import fixed_key
from jobfs.content import ContentStore
from jobfs.namespace import Namespace

from .answers import Answer, good

JOB = "test12345678901234567890"
#: Seconds without progress after which who is in a hurry gives up, and who is patient.
HURRY, PATIENCE = 0.1, 20.0
GOOD = 5


class Stack:
    """What a mount has between its operations and the network; `timeout` in seconds."""

    def __init__(self, url: str, directory: Path, timeout: float) -> None:
        self.timeout = timeout
        self.client = Client(url, JOB, fixed_key("key"), timeout=timeout, max_connections=4)
        self.namespace = Namespace(
            self.client, ttl=0.0, kernel_timeout=0.0, stale_if_error=0.0, pause=lambda _: None
        )
        self.content = ContentStore(
            self.client,
            directory / "cache" / JOB / f"{timeout}",
            owner=directory,
            limit=1 << 20,
            timeout=timeout,
        )

    def close(self) -> None:
        self.content.close()
        self.client.close()


class World:
    """A server, and two who ask it: one in a hurry, for answers that may be anything, and a patient one.

    `answer`: what everything is answered; None: as the API would, with `odd` items before the good ones.
    """

    def __init__(self, directory: Path) -> None:
        self.answer: Answer | None = None
        self.odd: list[bytes] = []
        self._server = _Listener(("127.0.0.1", 0), _Connection)
        self._server.world = self
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.hurried = Stack(url, directory, HURRY)
        self.patient = Stack(url, directory, PATIENCE)
        self.source = directory / "source"
        self.source.write_bytes(b"hello")

    def close(self) -> None:
        self.hurried.close()
        self.patient.close()
        self._server.shutdown()
        self._server.server_close()

    def reply(self, target: str) -> bytes:
        """What goes onto the connection."""
        if self.answer is not None:
            return self.answer.data
        path = urlsplit(target).path.partition("/workspace_instance/")[2]
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        everything = [*self.odd, *(json.dumps(good(number)).encode() for number in range(GOOD))]
        if path.endswith("/download"):
            body = next(
                (
                    str(good(number)["path"]).encode()
                    for number in range(GOOD)
                    if path.startswith(f"items/{good(number)['id']}/")
                ),
                b"",
            )
        elif path == "items/":
            # A redirect may have lost the query.
            take, skip = int(query.get("take", 100)), int(query.get("skip", 0))
            part = b", ".join(everything[skip : skip + take])
            body = b'{"data": {"workspaceItems": [%b]}, "meta": {"total": %d}}' % (part, len(everything))
        elif path == "items/find":
            body = b'{"data": {"workspaceItems": [%b]}}' % b", ".join(everything)
        else:
            body = b'{"code": 404, "error": "Not Found", "reason": "Workspace item not found"}'
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
    world: World


class _Connection(socketserver.StreamRequestHandler):
    """One request, one answer, and the end."""

    def handle(self) -> None:
        assert isinstance(self.server, _Listener)
        with suppress(OSError, ValueError):
            target, length = self.rfile.readline(65536).split(b" ")[1].decode("ascii"), 0
            while (line := self.rfile.readline(65536)) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.rfile.read(length)
            self.wfile.write(self.server.world.reply(target))
            self.request.shutdown(socket.SHUT_WR)


@contextmanager
def world() -> Iterator[World]:
    """A world, gone afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        made = World(Path(directory))
        try:
            yield made
        finally:
            made.close()
