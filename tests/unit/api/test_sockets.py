"""The client against real sockets: what only a connection can do wrong."""

from __future__ import annotations

import errno
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobfs import errors
from jobfs.api.access import fixed_key
from jobfs.api.client import Client
from jobfs.api.deadline import within
from jobfs.nodes import Item, Permission

from .conftest import ID, JOB, KEY, failure, one

Talk = Callable[[socket.socket], None]


class Listener(socketserver.ThreadingTCPServer):
    """Gives each connection to a function."""

    daemon_threads = True

    def __init__(self, talk: Talk) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.connections = 0
        self._talk = talk

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        with suppress(OSError):
            self._talk(request)

    def client(self, timeout: float = 10.0) -> Client:
        url = f"http://127.0.0.1:{self.server_address[1]}"
        return Client(url, JOB, fixed_key(KEY), timeout=timeout)


Serve = Callable[[Talk], Listener]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts listeners; they end with the test."""
    with ExitStack() as stack:

        def start(talk: Talk) -> Listener:
            listener = stack.enter_context(Listener(talk))
            stack.callback(listener.shutdown)
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
            return listener

        yield start


@pytest.fixture
def done(serve: Serve) -> Iterator[threading.Event]:
    """For servers that wait until the test is over."""
    over = threading.Event()
    yield over
    over.set()


def read_request(connection: socket.socket, pause: float = 0.0) -> str:
    """The first line of one request off the socket, with a pause before each piece of its body; OSError if it ends early."""

    def some() -> bytes:
        if not (data := connection.recv(65536)):
            raise ConnectionError("the client closed the connection")
        return data

    data = b""
    while b"\r\n\r\n" not in data:
        data += some()
    head, _, body = data.partition(b"\r\n\r\n")
    told = re.search(rb"(?i)content-length: *(\d+)", head)
    left = int(told[1]) - len(body) if told else 0
    while left > 0:
        time.sleep(pause)
        left -= len(some())
    return head.partition(b"\r\n")[0].decode()


def send_answer(connection: socket.socket, answer: httpx.Response) -> None:
    headers = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
    connection.sendall(f"HTTP/1.1 {answer.status_code} X\r\n{headers}\r\n".encode() + answer.content)


def test_a_silent_server_does_not_hang_a_call(serve: Serve, done: threading.Event) -> None:
    """vfs/semantics.md 3: no call can hang for ever; a hung server makes ETIMEDOUT."""

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        done.wait(10)

    server = serve(silent)
    for call, error in (("get", errors.UnavailableError), ("delete", errors.AnswerLostError)):
        with server.client(timeout=1.0) as client:
            with pytest.raises(error) as caught:
                getattr(client, call)(ID)
            assert (caught.type, caught.value.errno) == (error, errno.ETIMEDOUT)
            # It has been silent for as long as a call may wait: it is asked whether it answers, and the next one is not sent.
            with pytest.raises(errors.HeldBackError) as late:
                client.delete(ID)
            assert late.value.errno == errno.ENETUNREACH


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
#: How an answer begins, and what comes then, again and again.
DRIPS: dict[str, tuple[bytes, bytes]] = {
    "status line": (b"HTTP/1.1 200 ", b"O"),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "size of a chunk": (CHUNKED + b"1;", b"x"),
    "trailer": (CHUNKED + b"0\r\nX: ", b"y"),
    "nothing": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123", b""),
}


@pytest.mark.parametrize("drip", DRIPS)
@pytest.mark.parametrize(("what", "pause"), [("delete", 0.02), ("download", 0.0)])
def test_an_answer_that_never_gets_to_the_point_ends_in_time(
    serve: Serve, done: threading.Event, what: str, drip: str, pause: float
) -> None:
    """vfs/semantics.md 3: no call can hang for ever, however steadily the server keeps sending."""

    def talk(connection: socket.socket) -> None:
        read_request(connection)
        head, again = DRIPS[drip]
        with suppress(OSError):
            connection.sendall(head)
            while not done.wait(pause if again else 10):
                connection.sendall(again)

    with serve(talk).client(timeout=0.3) as client:
        began = time.monotonic()
        with suppress(errors.ApiError):
            if what == "download":
                with client.download(ID) as body:
                    list(body.chunks())
                pytest.fail("a download without an end")
            else:
                client.delete(ID)
        assert time.monotonic() - began < 5


def test_a_body_goes_on_for_as_long_as_bytes_of_it_come(serve: Serve) -> None:
    """vfs/semantics.md 3: seconds without progress; the time that the reader takes for itself does not count."""

    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            time.sleep(0.2)
            connection.sendall(b"x")

    with serve(talk).client(timeout=1.0) as client, client.download(ID) as body:
        chunks: list[bytes] = []
        for chunk in body.chunks():
            if not chunks:
                time.sleep(1.3)
            chunks.append(chunk)
    assert b"".join(chunks) == b"x" * 8


def test_requests_that_are_broken_off_end_at_once(serve: Serve, done: threading.Event) -> None:
    """vfs/semantics.md 6: a mount that has to end waits for no silent server."""
    asked = threading.Event()

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        asked.set()
        done.wait(30)

    with serve(silent).client(timeout=300.0) as client, ThreadPoolExecutor(2) as pool:
        calls: list[Future[Any]] = [pool.submit(client.get, ID), pool.submit(client.delete, ID)]
        assert asked.wait(10)
        client.break_off()
        for call in calls:
            assert isinstance(call.exception(10), errors.UnavailableError)
        with pytest.raises(errors.UnavailableError, match="closed"):
            client.get(ID)


def test_after_a_download_read_to_its_end_the_connection_is_used_again(serve: Serve) -> None:
    def talk(connection: socket.socket) -> None:
        while True:
            asked = read_request(connection)
            send_answer(connection, httpx.Response(200, content=b"hello") if "download" in asked else one())

    server = serve(talk)
    with server.client() as client:
        for _ in range(3):
            with client.download(ID) as download:
                assert b"".join(download.chunks()) == b"hello"
            client.get(ID)
    assert server.connections == 1


def upload(client: Client, path: Path, size: int) -> Item:
    with open(path / "x", "wb") as large:
        large.truncate(size)
    return client.create_file("a.txt", path / "x", size, Permission.READ_WRITE)


def test_a_server_that_refuses_before_it_has_the_whole_file_is_heard(serve: Serve, tmp_path: Path) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(65536)
        send_answer(connection, failure(413, "at most 1 MiB"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 20):
            pass

    with serve(refuse).client() as client, pytest.raises(errors.TooLargeError, match="at most 1 MiB"):
        upload(client, tmp_path, 32 << 20)


def test_an_upload_may_take_longer_than_the_deadline_while_it_moves(serve: Serve, tmp_path: Path) -> None:
    """vfs/semantics.md 3: the deadline counts time without progress."""
    size = 48 << 20

    def slowly(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        read_request(connection, 0.004)
        send_answer(connection, one(size=size))

    with serve(slowly).client(timeout=2.0) as client, within(2.0):
        assert upload(client, tmp_path, size).id == ID
