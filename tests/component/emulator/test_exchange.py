"""Faults as a client meets them, and what the server has done when they strike."""

from __future__ import annotations

import contextlib
import errno
from email.utils import parsedate_to_datetime
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from tests.support.waiting import eventually

from jobfs.emulator import Server
from jobfs.emulator.store import Blob

from .conftest import Wire

#: Before the work, and after it.
NOTHING, DONE = dict[str, bytes](), {"f": b"x"}


@pytest.mark.parametrize(("kind", "more", "status", "tree"), [
    ("unavailable", {}, 503, NOTHING), ("throttled", {}, 429, NOTHING),
    ("error", {"status": 507}, 507, NOTHING), ("error_after", {"status": 502}, 502, DONE),
])  # fmt: skip
def test_an_injected_error_precedes_or_follows_the_work(
    wire: Wire, server: Server, kind: Any, more: dict[str, Any], status: int, tree: dict[str, bytes]
) -> None:
    server.faults.fail_next(kind, on="create", **more)
    answer = wire.create("f", b"x")
    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert "retry-after" not in answer.headers
    assert server.store.tree() == tree
    assert [(entry.status, entry.fault) for entry in server.log.entries()] == [(status, kind)]
    assert wire.create("g").status_code == 200


def test_retry_after_can_be_a_date_relative_to_the_clock(wire: Wire, server: Server) -> None:
    server.faults.set_rate("throttled", 1.0, on="create", retry_after="+60")
    answer = wire.create("f")
    moments = [parsedate_to_datetime(answer.headers[name]) for name in ("retry-after", "date")]
    assert 59 <= (moments[0] - moments[1]).total_seconds() <= 61


@pytest.mark.parametrize(("kind", "tree"), [
    ("drop", NOTHING), ("drop_after", DONE), ("late", NOTHING), ("hang", NOTHING), ("hang_after", DONE),
])  # fmt: skip
def test_a_request_without_an_answer_is_done_now_later_or_never(
    wire: Wire, server: Server, kind: Any, tree: dict[str, bytes]
) -> None:
    server.faults.fail_next(kind, on="create", delay=2.0)
    wire.timeout = httpx.Timeout(1.0)
    # A connection that is closed while something sent on it is not read yet is reset.
    broken = (httpx.RemoteProtocolError, httpx.ReadError)
    with pytest.raises(httpx.ReadTimeout if kind.startswith("hang") else broken):
        wire.create("f", b"x")
    wire.timeout = httpx.Timeout(10)
    assert server.store.tree() == tree
    assert [(entry.status, entry.fault) for entry in server.log.entries()] == [(None, kind)]
    if kind == "late":
        eventually(lambda: server.store.tree() == DONE)


def test_a_silent_server_does_nothing_and_notices_closed_connections(wire: Wire, server: Server) -> None:
    server.faults.set_rate("silent", 1.0, on="POST+DELETE")
    item = server.store.write("g", "")
    wire.timeout = httpx.Timeout(1.0)
    with pytest.raises(httpx.TimeoutException):
        wire.create("f", bytes(100_000))
    with pytest.raises(httpx.TimeoutException):
        wire.delete(f"/items/{item.id}")
    wire.timeout = httpx.Timeout(10)
    eventually(lambda: all(entry.ms is not None for entry in server.log.entries()))
    assert [entry.status for entry in server.log.entries()] == [None, None]
    assert [item["path"] for item in wire.listed()] == ["g"]


def test_a_single_item_of_a_listing_can_be_malformed(wire: Wire, server: Server) -> None:
    server.store.seed({"a": "", "b": "", "c": ""})
    server.faults.set_rate("odd_item", 1.0, path="b")
    assert [type(item["type"]) for item in wire.listed()] == [str, list, str]
    one = wire.get(f"/items/{server.store.item_at('b').id}").json()["data"]["workspaceItem"]
    assert one["type"] == ["workspaceItemFile"]
    server.faults.clear()
    server.faults.fail_next("odd_item", path="[bc]", field="size", value='"12"')
    assert [item["size"] for item in wire.listed()] == [0, "12", "12"]


@pytest.mark.parametrize("kind", ["error", "drop_after"])
def test_a_fault_can_be_limited_to_one_path(wire: Wire, server: Server, kind: Any) -> None:
    server.faults.set_rate(kind, 1.0, on="change", path="*.bin")
    item = wire.made("ok.txt", b"x")
    with contextlib.suppress(httpx.TransportError):
        assert (wire.create("a.bin", b"x").status_code, kind) == (500, "error")
    with contextlib.suppress(httpx.TransportError):
        assert (wire.update(item["id"], path="b.bin").status_code, kind) == (500, "error")
    assert sorted(server.store.tree()) == (["ok.txt"] if kind == "error" else ["a.bin", "b.bin"])


def test_an_interrupted_upload_creates_nothing(wire: Wire, server: Server) -> None:
    def body() -> Any:
        yield b"--x\r\n"
        raise RuntimeError("the client gives up")

    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": "1000"}
    with pytest.raises(RuntimeError):
        wire.post("/items/", content=body(), headers=headers)
    eventually(lambda: all(entry.ms is not None for entry in server.log.entries("create")))
    assert server.store.items() == []


def test_a_failure_of_the_servers_disk_is_an_error_response(
    wire: Wire, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Blob, "write", Mock(side_effect=OSError(errno.ENOSPC, "full")))
    assert wire.create("f", b"x").status_code == 507
    assert server.store.items() == []
