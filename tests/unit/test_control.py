"""The control socket: calls, progress, refusals, and who is answered."""

from __future__ import annotations

import errno
import itertools
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tests.support.waiting import eventually

from jobfs.control import SOCKET, ControlServer, Conversation, NoMountError, call_mount
from jobfs.errors import FsError


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    servers: list[ControlServer] = []

    def serve(patience: float = 10.0, **handlers: Any) -> Path:
        servers.append(ControlServer(tmp_path, handlers, patience))
        return tmp_path

    yield serve
    for server in servers:
        server.close()


def test_a_call_gets_its_handlers_result(serve: Callable[..., Path]) -> None:
    place = serve(add=lambda args, conversation: args["a"] + args["b"])
    assert call_mount(place, "add", {"a": 1, "b": 2}) == 3
    assert call_mount(place, "add", {"a": "ü\ud800", "b": ""}) == "ü\ud800"


@pytest.mark.parametrize(
    "failures",
    [
        [OSError(number, "short") for number in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED)],
        [ValueError("a fault"), RuntimeError("can't start new thread")],
    ],
    ids=["a lack of descriptors", "any other error"],
)
def test_the_control_socket_survives_errors(
    serve: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, failures: list[Exception]
) -> None:
    accept = socket.socket.accept

    def fails(listener: socket.socket) -> Any:
        if failures:
            raise failures.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", fails)
    assert call_mount(serve(ping=lambda args, conversation: "pong"), "ping", timeout=20) == "pong"


def test_refusals_keep_sentence_and_errno_and_broken_handlers_are_logged(
    serve: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    error = FsError(2, "there is no such file")
    place = serve(refuse=Mock(side_effect=error), broken=lambda args, conversation: args["missing"])
    with pytest.raises(FsError, match="there is no such file") as caught:
        call_mount(place, "refuse")
    assert (caught.value.errno, caplog.text) == (2, "")
    for name in ("broken", "unheard-of"):
        with pytest.raises(FsError, match="see its log; it may be of another version"):
            call_mount(place, name)
        assert name in caplog.text


def test_a_client_that_does_not_read_its_events_is_disconnected(serve: Callable[..., Path]) -> None:
    """vfs/semantics.md 7.9; with less patience."""
    sent, over = itertools.count(), threading.Event()

    def watch(args: dict[str, Any], conversation: Conversation) -> None:
        while not conversation.has_hung_up() and next(sent) < 1000:
            conversation.send_event({"text": "x" * 1000})
        over.set()

    place = serve(patience=0.02, watch=watch)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(place / SOCKET))
        deaf.sendall(b'{"call": "watch"}\n')
        assert over.wait(20)
        with deaf.makefile("rb") as lines:
            assert 10 < next(sent) - 1 <= len(lines.readlines()) + 1 < 1000


def test_events_come_before_the_result(serve: Callable[..., Path]) -> None:
    heard: list[Any] = []
    place = serve(
        watch=lambda args, conversation: [conversation.send_event({"n": n}) for n in range(3)] and "over"
    )
    assert call_mount(place, "watch", on_event=heard.append) == "over"
    assert heard == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_calls_do_not_wait_for_each_other(serve: Callable[..., Path]) -> None:
    both = threading.Barrier(2, timeout=20)
    place = serve(meet=lambda args, conversation: both.wait() >= 0)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(call_mount, [place] * 2, ["meet"] * 2)) == [True, True]


def test_a_call_to_a_dead_or_hung_mount_fails(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NoMountError):
            call_mount(place, "status")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / SOCKET))
        deaf.listen()
        with pytest.raises(NoMountError, match="does not answer"):
            call_mount(tmp_path, "status", timeout=0.05)


def test_a_malformed_request_disturbs_no_other_call(serve: Callable[..., Path]) -> None:
    place = serve(ping=lambda args, conversation: "pong")
    for line in (b"", b"\n", b"not json\n", b"[1]\n", b"\xff\xfe\n", b'{"call": 3}\n'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(place / SOCKET))
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
        assert call_mount(place, "ping") == "pong"


def test_the_socket_is_private_and_removed_for_a_path_of_any_length(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    server = ControlServer(deep, {"ping": lambda args, conversation: "pong"})
    assert (stat.S_IMODE((deep / SOCKET).stat().st_mode), call_mount(deep, "ping")) == (0o600, "pong")
    server.close()
    assert not (deep / SOCKET).exists()


def test_closing_waits_for_the_calls_that_are_being_answered(tmp_path: Path) -> None:
    called, answered = threading.Event(), list[bool]()

    def answer(args: dict[str, Any], conversation: Conversation) -> str:
        called.set()
        eventually(lambda: not (tmp_path / SOCKET).exists())
        answered.append(True)
        return "late"

    server = ControlServer(tmp_path, {"ask": answer})
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(call_mount, tmp_path, "ask")
        assert called.wait(20)
        server.close(timeout=20)
        assert answered, "the process may end now"
        assert asking.result(20) == "late"
