"""A client whose server is a function, and one whose server is a real socket that follows a script."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest

from jobfs.api import deadline
from jobfs.api.client import Client
from jobfs.api.deadline import within
from jobfs.api.key import fixed_key

JOB = "test12345678901234567890"
KEY = "pk_very-secret"
ID = "item00000000000000000001"
ROOT = f"/api/studio/v1/expert_jobs/{JOB}/workspace_instance/"

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(deadline, "LONGEST_PAUSE", 0.002)


@pytest.fixture(autouse=True)
def a_program_waits() -> Iterator[None]:
    """Each test is a system call; what the background does is tested in threads."""
    with within():
        yield


def wire_item(path: str = "a.txt", **fields: Any) -> dict[str, Any]:
    """An item as the reference shows it."""
    return {
        "type": "workspaceItemFile",
        "id": ID,
        "owner": "expert",
        "lifecycle": "expertJob",
        "permission": "readWrite",
        "path": path,
        "createdAt": "2025-11-01T10:00:00.000Z",
        "updatedAt": "2025-11-02T10:00:00.250Z",
        "key": "store/1",
        "mimeType": "text/plain",
        "size": 5,
        **fields,
    }


def one(path: str = "a.txt", **fields: Any) -> httpx.Response:
    """The answer to a get, create or update."""
    return httpx.Response(200, json={"data": {"workspaceItem": wire_item(path, **fields)}})


def many(*items: dict[str, Any], **meta: Any) -> httpx.Response:
    """The answer to a list or find."""
    return httpx.Response(200, json={"data": {"workspaceItems": list(items)}, "meta": meta})


def failure(status: int, reason: Any = "because", headers: dict[str, str] | None = None) -> httpx.Response:
    """An error's answer in the reference's form."""
    return httpx.Response(status, json={"code": status, "error": "X", "reason": reason}, headers=headers)


class Chunks(httpx.SyncByteStream):
    """A body in pieces, the last of which may be how it breaks off."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self.chunks = chunks
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def close(self) -> None:
        self.closed = True


class Script:
    """Gives prepared answers in turn, the last one for ever, and remembers what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception | Handler) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        with self._lock:
            self.requests.append(request)
            self.bodies.append(body)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            # A response can be consumed once; a script's last one is given again and again.
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return answer(request)

    @property
    def asked(self) -> list[str]:
        """Method and target of each request, without the part that all have in common."""
        return [
            f"{request.method} {request.url.raw_path.decode().removeprefix(ROOT)}"
            for request in self.requests
        ]


MakeClient = Callable[..., Client]


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    """Makes clients of a Script or of any function; they are closed after the test."""
    with ExitStack() as stack:

        def make(handler: Handler, **options: Any) -> Client:
            given = {"timeout": 5.0, "transport": httpx.MockTransport(handler), **options}
            key = given.pop("key", fixed_key(KEY))
            base_url = given.pop("base_url", "https://api.example.test")
            return stack.enter_context(Client(base_url, JOB, key, **given))

        yield make


class SocketServer:
    """Gives each connection, in turn, to a function of the script; the last one serves the rest."""

    def __init__(self, *script: Callable[[socket.socket], None]) -> None:
        self.connections = 0
        self._script = list(script)
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            serve = self._script.pop(0) if len(self._script) > 1 else self._script[0]
            self._start(self._run, serve, connection)

    def _run(self, serve: Callable[[socket.socket], None], connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)


def read_request(
    connection: socket.socket, before_each: Callable[[], object] = lambda: None
) -> tuple[str, dict[str, str], bytes]:
    """One request off the socket: its first line, headers (lower case) and body; OSError if it ends early."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    pieces, left = [body], int(headers.get("content-length", "0")) - len(body)
    while left > 0:
        before_each()
        pieces.append(_some(connection))
        left -= len(pieces[-1])
    return first, headers, b"".join(pieces)


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the client closed the connection")
    return data


def send_answer(connection: socket.socket, answer: httpx.Response, *, cut: int | None = None) -> None:
    """An answer onto the socket; `cut`: only so many bytes of its body."""
    body = answer.content
    lines = [
        f"HTTP/1.1 {answer.status_code} X",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
    ]
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body[:cut])


@pytest.fixture
def serve() -> Iterator[Callable[..., SocketServer]]:
    """Starts socket servers; they are stopped after the test."""
    servers: list[SocketServer] = []

    def start(*script: Callable[[socket.socket], None]) -> SocketServer:
        servers.append(SocketServer(*script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
