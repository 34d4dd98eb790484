"""Faults as a client meets them, and what the server has done when they strike."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from jobfs.emulator import Server
from jobfs.emulator.store import Blob

from .conftest import Wire


def eventually(condition: Callable[[], bool]) -> bool:
    """True as soon as the condition holds, False if it does not within five seconds."""
    wait = threading.Event()
    return any(condition() or wait.wait(0.01) for _ in range(500))


@pytest.mark.parametrize(
    ("kind", "more", "status"),
    [
        ("unavailable", {}, 503),
        ("throttled", {}, 429),
        ("error", {}, 500),
        ("error", {"status": 413}, 413),
        ("error", {"status": 507}, 507),
    ],
)
def test_an_error_before_the_work_leaves_all_as_it_was(
    wire: Wire, server: Server, kind: Any, more: dict[str, Any], status: int
) -> None:
    server.faults.next(kind, on="create", **more)
    answer = wire.create("f", bytes(200_000))
    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert "retry-after" not in answer.headers
    assert server.store.items() == []
    assert [(entry.status, entry.fault) for entry in server.log.entries()] == [(status, kind)]
    assert wire.create("f").status_code == 200


@pytest.mark.parametrize("value", ["2", "Wed, 25 Nov 2026 12:00:00 GMT"])
def test_retry_after_is_sent_as_given(wire: Wire, server: Server, value: str) -> None:
    server.faults.next("unavailable", retry_after=value)
    assert wire.get("/").headers["retry-after"] == value


def test_an_error_after_the_work_hides_that_it_was_done(wire: Wire, server: Server) -> None:
    server.faults.next("error_after", on="create", status=502)
    assert wire.create("f", b"x").status_code == 502
    assert server.store.tree() == {"f": b"x"}


@pytest.mark.parametrize(("kind", "tree"), [("drop", {}), ("drop_after", {"f": b"x"})])
def test_a_dropped_connection_has_no_answer(
    wire: Wire, server: Server, kind: Any, tree: dict[str, bytes]
) -> None:
    server.faults.next(kind, on="create")
    with pytest.raises(httpx.TransportError):
        wire.create("f", b"x")
    assert server.store.tree() == tree
    assert [(entry.status, entry.fault) for entry in server.log.entries()] == [(None, kind)]


def test_a_late_request_is_carried_out_after_its_connection_died(wire: Wire, server: Server) -> None:
    server.faults.next("late", on="create", delay=0.15)
    with pytest.raises(httpx.TransportError):
        wire.create("f", b"x")
    assert server.store.tree() == {}
    assert eventually(lambda: server.store.tree() == {"f": b"x"})


@pytest.mark.parametrize("size", [1, 1000, 2_000_000])
def test_a_cut_download_is_shorter_than_promised(wire: Wire, server: Server, size: int) -> None:
    item = server.store.write("f", bytes(size))
    server.faults.next("cut", on="download")
    got: list[bytes] = []
    with wire.http.stream("GET", f"{wire.base}/items/{item.id}/download") as answer:
        assert answer.headers["content-length"] == str(size)
        with pytest.raises(httpx.RemoteProtocolError):
            got.extend(answer.iter_raw())
    assert sum(map(len, got)) == size // 2


@pytest.mark.parametrize(("kind", "tree"), [("hang", {}), ("hang_after", {"f": b"x"})])
def test_a_hung_request_never_answers(wire: Wire, server: Server, kind: Any, tree: dict[str, bytes]) -> None:
    server.faults.next(kind, on="create")
    with pytest.raises(httpx.ReadTimeout):
        wire.http.post(
            wire.base + "/items/",
            files=[("type", (None, "file")), ("path", (None, "f")), ("file", ("f", b"x"))],
            timeout=0.2,
        )
    assert server.store.tree() == tree


def test_a_slow_request_is_answered_late(wire: Wire, server: Server) -> None:
    server.faults.next("slow", on="list", delay=0.05)
    wire.listed()
    ms = server.log.entries()[0].ms
    assert ms is not None
    assert ms >= 49


@pytest.mark.parametrize("kind", ["error", "drop", "error_after", "drop_after"])
def test_a_fault_can_be_about_one_path(wire: Wire, server: Server, kind: Any) -> None:
    server.faults.rate(kind, 1.0, on="change", path="*.bin")
    item = wire.made("ok.txt", b"x")
    try:
        assert wire.create("a.bin", b"x").status_code == 500
    except httpx.TransportError:
        assert kind.startswith("drop")
    try:
        wire.update(item["id"], path="b.bin")
    except httpx.TransportError:
        assert kind.startswith("drop")
    after = kind.endswith("after")
    assert sorted(server.store.tree()) == (["a.bin", "b.bin"] if after else ["ok.txt"])


def test_an_upload_that_breaks_off_makes_nothing(wire: Wire, server: Server) -> None:
    def body() -> Any:
        yield b"--x\r\n"
        raise RuntimeError("the client gives up")

    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": "1000"}
    with pytest.raises(RuntimeError):
        wire.post("/items/", content=body(), headers=headers)
    assert eventually(lambda: all(entry.ms is not None for entry in server.log.entries("create")))
    assert server.store.items() == []


def test_sixteen_clients_at_once_get_what_is_theirs(wire: Wire, server: Server) -> None:
    def work(number: int) -> bool:
        content = bytes([number]) * 50_000
        item = wire.made(f"f{number}", content)
        return wire.download(item["id"]).content == content and wire.found(f"f{number}") == [f"f{number}"]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(48)))
    assert len(server.store.items()) == 48


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EIO, 500)])
def test_a_disk_that_fails_is_an_answer(
    wire: Wire, server: Server, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def fail(self: Blob, data: bytes) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Blob, "write", fail)
    answer = wire.create("f", b"x")
    assert (answer.status_code, answer.json()["reason"]) == (status, os.strerror(number))
    assert server.store.items() == []
