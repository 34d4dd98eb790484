"""Faults as a client meets them, and what the server has done when they strike."""

from __future__ import annotations

import contextlib
import errno
import os
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
from tests.support.waiting import eventually

from jobfs.emulator import Server
from jobfs.emulator.faults import WEATHER
from jobfs.emulator.store import Blob

from .conftest import Wire


@pytest.mark.parametrize(
    ("kind", "more", "status"),
    [
        ("unavailable", {}, 503),
        ("throttled", {}, 429),
        ("error", {}, 500),
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


def test_retry_after_can_be_a_date_that_moves_with_the_clock(wire: Wire, server: Server) -> None:
    server.faults.rate("throttled", 1.0, on="create", retry_after="+60")
    answer = wire.create("f")
    moments = [parsedate_to_datetime(answer.headers[name]) for name in ("retry-after", "date")]
    assert 59 <= (moments[0] - moments[1]).total_seconds() <= 61


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
    server.faults.next("late", on="create", delay=2.0)
    with pytest.raises(httpx.TransportError):
        wire.create("f", b"x")
    assert server.store.tree() == {}
    eventually(lambda: server.store.tree() == {"f": b"x"})


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
            timeout=1.0,
        )
    eventually(lambda: server.store.tree() == tree)


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_silent_server_neither_works_nor_answers_and_notices_clients_that_have_gone(
    wire: Wire, server: Server, size: int
) -> None:
    server.faults.rate("silent", 1.0, on="POST+DELETE")
    item = server.store.write("g", "")
    wire.http.timeout = httpx.Timeout(1.0)
    with pytest.raises(httpx.TimeoutException):
        wire.create("f", bytes(size))
    with pytest.raises(httpx.TimeoutException):
        wire.delete(f"/items/{item.id}")
    wire.http.timeout = httpx.Timeout(10)
    eventually(lambda: all(entry.ms is not None for entry in server.log.entries()))
    assert [entry.status for entry in server.log.entries()] == [None, None]
    assert [item["path"] for item in wire.listed()] == ["g"]


def test_an_item_can_be_odd_among_others_that_are_not(wire: Wire, server: Server) -> None:
    server.store.seed({"a": "", "b": "", "c": ""})
    server.faults.rate("odd_item", 1.0, path="b")
    assert [type(item["type"]) for item in wire.listed()] == [str, list, str]
    one = wire.get(f"/items/{server.store.item('b').id}").json()["data"]["workspaceItem"]
    assert one["type"] == ["workspaceItemFile"]
    server.faults.clear()
    server.faults.next("odd_item", path="[bc]", field="size", value='"12"')
    assert [item["size"] for item in wire.listed()] == [0, "12", "12"]
    server.faults.next("odd_item")
    assert wire.get("/").json()["data"]["workspaceInstance"]["type"] == "workspaceInstance"


def test_bad_weather_fails_in_many_ways_and_every_one_leaves_a_server_that_answers(
    wire: Wire, server: Server
) -> None:
    server.faults.rate("weather", 1.0, delay=0.01)
    wire.http.timeout = httpx.Timeout(0.05)
    for number in range(100):
        with contextlib.suppress(httpx.TransportError):
            wire.create(f"f{number}", b"x")
    eventually(lambda: {entry.fault for entry in server.log.entries()} == set(WEATHER))
    statuses = {None, 200, 429, 500, 502, 503, 504}
    eventually(lambda: {entry.status for entry in server.log.entries()} >= statuses)
    server.faults.clear()
    wire.http.timeout = httpx.Timeout(10)
    assert wire.create("g").status_code == 200


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
    eventually(lambda: all(entry.ms is not None for entry in server.log.entries("create")))
    assert server.store.items() == []


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
