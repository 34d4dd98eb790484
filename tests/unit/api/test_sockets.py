"""The client against real sockets: what only a connection can do wrong."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobfs import errors
from jobfs.api.client import Client
from jobfs.api.key import fixed_key
from jobfs.nodes import Permission

from .conftest import ID, JOB, KEY, SocketServer, failure, one, read_request, send_answer

RW = Permission.READ_WRITE

Serve = Callable[..., SocketServer]


def file(content: bytes) -> httpx.Response:
    return httpx.Response(200, content=content)


def client_of(server: SocketServer, **options: object) -> Client:
    given: dict[str, object] = {"timeout": 10.0, **options}
    return Client(server.url, JOB, fixed_key(KEY), **given)  # type: ignore[arg-type]


@pytest.fixture
def done(serve: Serve) -> Iterator[threading.Event]:
    """For servers that wait until the test is over."""
    over = threading.Event()
    yield over
    over.set()


def test_a_silent_server_does_not_hang_a_call(serve: Serve, done: threading.Event) -> None:
    """vfs/semantics.md 3: no call can hang for ever; a hung server makes ETIMEDOUT."""

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        done.wait(10)

    server = serve(silent)
    with client_of(server, timeout=1.0) as client:
        with pytest.raises(errors.UnavailableError) as caught:
            client.get(ID)
        assert caught.value.errno == errno.ETIMEDOUT
    with client_of(server, timeout=1.0) as client:
        with pytest.raises(errors.AnswerLostError) as lost:
            client.delete(ID)
        assert lost.value.errno == errno.ETIMEDOUT
        # It has been silent for as long as a call may wait: it is asked whether it answers, and the next one is not sent.
        with pytest.raises(errors.HeldBackError) as late:
            client.delete(ID)
        assert late.value.errno == errno.ENETUNREACH


DRIPS: dict[str, tuple[bytes, bytes]] = {
    "status line": (b"HTTP/1.1 200 ", b"O"),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "size of a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "trailer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"y"),
}


@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["at once", "slowly"])
@pytest.mark.parametrize("drip", DRIPS)
@pytest.mark.parametrize("what", ["delete", "download"])
def test_an_answer_that_never_gets_to_the_point_ends_in_time(
    serve: Serve, done: threading.Event, what: str, drip: str, pause: float
) -> None:
    """vfs/semantics.md 3: no call can hang for ever, however steadily the server keeps sending."""

    def talk(connection: socket.socket) -> None:
        read_request(connection)
        head, again = DRIPS[drip]
        with suppress(OSError):
            connection.sendall(head)
            while not done.wait(pause):
                connection.sendall(again)

    server = serve(*[talk] * 20)
    with client_of(server, timeout=0.3) as client:
        began = time.monotonic()
        with suppress(errors.ApiError):
            if what == "download":
                with client.download(ID) as body:
                    list(body.chunks())
            else:
                client.delete(ID)
        assert time.monotonic() - began < 5


def test_a_body_goes_on_for_as_long_as_bytes_of_it_come(serve: Serve) -> None:
    """vfs/semantics.md 3: seconds without progress; and what the reader takes for itself does not count."""

    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            time.sleep(0.4)
            connection.sendall(b"x")

    server = serve(talk)
    with client_of(server, timeout=2.0) as client, client.download(ID) as body:
        chunks: list[bytes] = []
        for chunk in body.chunks():
            if not chunks:
                time.sleep(2.5)
            chunks.append(chunk)
    assert b"".join(chunks) == b"x" * 8


def test_what_is_broken_off_ends_at_once(serve: Serve, done: threading.Event) -> None:
    """vfs/semantics.md 6: a mount that has to end waits for no silent server."""
    asked = threading.Event()

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        asked.set()
        done.wait(30)

    with client_of(serve(silent), timeout=300.0) as client, ThreadPoolExecutor(2) as pool:
        calls: list[Future[Any]] = [pool.submit(client.get, ID), pool.submit(client.delete, ID)]
        assert asked.wait(10)
        client.break_off()
        for call in calls:
            assert isinstance(call.exception(10), errors.UnavailableError)
        with pytest.raises(errors.UnavailableError, match="closed"):
            client.get(ID)


def test_a_body_that_stops_times_out_for_want_of_progress(serve: Serve, done: threading.Event) -> None:
    def stall(connection: socket.socket) -> None:
        read_request(connection)
        send_answer(connection, file(b"0123456789"), cut=4)
        done.wait(10)

    with client_of(serve(stall), timeout=1.0) as client, client.download(ID) as download:
        with pytest.raises(errors.UnavailableError) as caught:
            list(download.chunks())
        assert caught.value.errno == errno.ETIMEDOUT


def test_after_a_download_read_to_its_end_the_connection_is_used_again(serve: Serve) -> None:
    def talk(connection: socket.socket) -> None:
        while True:
            first, _, _ = read_request(connection)
            send_answer(connection, file(b"hello") if "download" in first else one())

    server = serve(talk)
    with client_of(server) as client:
        for _ in range(3):
            with client.download(ID) as download:
                assert b"".join(download.chunks()) == b"hello"
            client.get(ID)
    assert server.connections == 1


def test_a_server_that_refuses_before_it_has_the_whole_file_is_heard(serve: Serve, tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb") as large:
        large.truncate(32 << 20)

    def refuse(connection: socket.socket) -> None:
        connection.recv(65536)
        send_answer(connection, failure(413, "at most 1 MiB"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 20):
            pass

    with client_of(serve(refuse)) as client, pytest.raises(errors.TooLargeError, match="at most 1 MiB"):
        client.create_file("a.txt", tmp_path / "x", 32 << 20, RW)


def test_a_source_that_ends_early_is_never_a_whole_request(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 1000)
    whole = threading.Event()

    def take(connection: socket.socket) -> None:
        read_request(connection)
        whole.set()

    with client_of(serve(take)) as client, pytest.raises(errors.FsError) as caught:
        client.create_file("a.txt", tmp_path / "x", 2000, RW)
    assert caught.value.errno == errno.EIO
    assert not whole.is_set()


def test_an_upload_may_take_longer_than_the_deadline_while_it_moves(serve: Serve, tmp_path: Path) -> None:
    """vfs/semantics.md 3: the deadline counts time without progress."""
    size = 48 << 20
    with open(tmp_path / "x", "wb") as large:
        large.truncate(size)
    pause = threading.Event()

    def slowly(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        read_request(connection, before_each=lambda: pause.wait(0.004))
        send_answer(connection, one(size=size))

    with client_of(serve(slowly), timeout=2.0) as client:
        assert client.create_file("a.txt", tmp_path / "x", size, RW).id == ID
