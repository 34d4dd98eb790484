"""What a server or a gateway answers is not believed further than it goes: the rest goes on being shown and saved."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.files import errno_from
from tests.support.gateway import Asked, Gateway, Reply, changed_items, endless, gateway
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace, settled

from jobfs.emulator import Server

PAGE = b'{"data": {"workspaceItems": [%b]}, "meta": {"total": %d}}'


@pytest.fixture
def before(server: Server) -> Iterator[Gateway]:
    with gateway(server) as made:
        yield made


@pytest.fixture
def start(before: Gateway, tmp_path: Path) -> Iterator[Callable[..., Workspace]]:
    """Starts a workspace behind the gateway."""
    started: list[Workspace] = []

    def start(**options: Any) -> Workspace:
        work = Workspace(before, tmp_path / f"home{len(started)}", **options)  # type: ignore[arg-type]
        started.append(work)
        work.start()
        return work

    yield start
    before.answer = lambda asked: None
    before.closed.set()
    for work in started:
        work.stop()


def wire(number: int, **fields: Any) -> bytes:
    item = {
        "type": "file",
        "id": f"{number:024d}",
        "path": f"f{number}",
        "size": 1,
        "updatedAt": "2025-01-01T00:00:00Z",
    }
    return json.dumps({**item, **fields}).encode()


ODD_ITEMS = [
    wire(1, type=["file"]),
    wire(2, size=-1),
    wire(3)[:-1] + b', "size": ' + b"9" * 5000 + b"}",
    wire(4)[:-1] + b', "deep": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    wire(5, path="a\0b"),
    wire(6, path="a\ud800"),
    wire(7)[:-1] + b', "path": "\xff\xfe"}',
    wire(8, path="d/" * 2000),
    wire(9, path="../../etc/passwd"),
    wire(10, id=["x"]),
    wire(11, updatedAt="0001-01-01T00:00:00Z"),
    wire(12, updatedAt="9999-12-31T23:59:59.999Z"),
    wire(13, updatedAt="\udcff"),
    wire(14, key="k" * 100_000),
    b"null",
    b"[[[]]]",
    b"NaN",
]


def test_odd_items_hide_themselves_at_most(
    before: Gateway, server: Server, start: Callable[..., Workspace]
) -> None:
    """semantics 1.21: unknown fields and unknown item types do not break a listing."""
    server.store.write("good.txt", b"good")

    def add(asked: Asked, content: bytes) -> bytes:
        if not asked.listing:
            return content
        whole = json.loads(content)
        items = [json.dumps(item).encode() for item in whole["data"]["workspaceItems"]]
        return PAGE % (b", ".join([*ODD_ITEMS, *items]), len(items) + len(ODD_ITEMS))

    before.change = add
    work = start()
    assert {"good.txt", "f11", "f12"} <= set(work.names())
    assert all(name.isascii() and "\0" not in name for name in work.names())
    assert work.read("good.txt") == b"good"
    pages = [asked for asked in before.asked if asked.listing]
    assert len(pages) <= 2, "odd items look like a list that moves"
    assert {entry["path"] for entry in work.vfs.status()["hostile"]} >= {
        "a\0b",
        "a\ud800",
        "../../etc/passwd",
    }


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", ""])
def test_an_item_with_an_odd_time_is_edited_like_any_other(
    before: Gateway, server: Server, start: Callable[..., Workspace], moment: str
) -> None:
    """semantics 2: times are those that a file system holds; Go's zero time is common."""
    server.store.write("odd.txt", b"old")
    server.store.write("other.txt", b"other")

    def change(item: dict[str, Any]) -> None:
        if item["path"].endswith("odd.txt"):
            item["updatedAt"] = item["createdAt"] = moment

    before.change = changed_items(change)
    work = start()
    attr = work.vfs.getattr("odd.txt")
    assert all(abs(ns) < 2**63 for ns in (attr.atime_ns, attr.mtime_ns, attr.ctime_ns))
    work.write("odd.txt", b"new", fsync=True)
    work.write("other.txt", b"another")
    work.vfs.chmod("odd.txt", 0o600)
    settled(work)
    tree = visible(server)
    assert (tree["odd.txt"], tree["other.txt"]) == (b"new", b"another")
    work.stop()
    assert hidden(server) == []


def test_an_odd_description_of_the_job_is_shown_as_far_as_it_goes(
    before: Gateway, start: Callable[..., Workspace]
) -> None:
    """semantics 6: `jobfs status` and `.jobfs/job.json` go on."""
    for job in (b"[]", b'"x"', b'{"status": [[]], "id": {}}', b"[" * 5000 + b"]" * 5000):
        body = (
            b'{"data": {"workspaceInstance": {"countItems": "many", "expertJob": %b, "x": "\\ud800"}}}' % job
        )
        before.answer = lambda asked, body=body: Reply([body]) if asked.target == "" else None  # type: ignore[misc]
        work = start()
        json.dumps(work.vfs.status()).encode()
        assert json.loads(work.read(".jobfs/job.json"))["countItems"] == "many"


def test_a_gateways_404_is_no_missing_file(
    before: Gateway, server: Server, start: Callable[..., Workspace]
) -> None:
    """semantics 5.14: 404 only if the API said it; known names go on being served."""
    server.store.write("known.txt", b"known")
    work = start(ttl=0.1, timeout=0.3, stale_if_error=1)
    assert work.read("known.txt") == b"known"
    before.answer = lambda asked: Reply([b"no healthy upstream"], 404, (("Content-Type", "text/plain"),))
    eventually(lambda: work.vfs.getattr("known.txt").size == 5 and work.vfs.status()["server"]["stale"])
    work.write("known.txt", b"saved later")
    # What the last listing lacks is free for a while; after that nothing is known of it.
    eventually(lambda: errno_from(work.vfs.getattr, "unknown.txt") in (errno.EIO, errno.ETIMEDOUT))
    before.answer = lambda asked: None
    settled(work)
    assert visible(server) == {"known.txt": b"saved later"}


@pytest.mark.parametrize("page", [b"", b'{"message": "no Route matched"}'])
def test_a_download_that_a_gateway_does_not_find_is_eio_and_not_a_missing_file(
    before: Gateway, server: Server, start: Callable[..., Workspace], page: bytes
) -> None:
    """semantics 5.14: ENOENT only if the API said it."""
    server.store.write("a.txt", b"here")
    work = start(timeout=0.5)
    before.answer = lambda asked: Reply([page], 404) if asked.download else None
    assert errno_from(work.read, "a.txt") in (errno.EIO, errno.ETIMEDOUT)
    before.answer = lambda asked: None
    assert work.read("a.txt") == b"here"


def test_a_save_whose_answers_are_a_gateways_404_is_exactly_one_save(
    before: Gateway, server: Server, start: Callable[..., Workspace]
) -> None:
    """semantics 5.10: the answer of a changing request is lost then: look first, then go on or send again."""
    server.store.write("a.txt", b"old")
    work = start(timeout=2.0)
    lost: list[Asked] = []

    def answer(asked: Asked) -> Reply | None:
        if asked.method == "GET" or len(lost) >= 4:
            return None
        lost.append(asked)
        return Reply([b"<html>Not Found</html>"], 404, (("Content-Type", "text/html"),))

    before.answer = answer
    work.write("a.txt", b"new")
    settled(work)
    assert visible(server) == {"a.txt": b"new"}
    assert lost


def pages_without_end(asked: Asked) -> Reply | None:
    """Every page is full and promises one page more."""
    if not asked.listing:
        return None
    take, skip = int(asked.query["take"]), int(asked.query["skip"])
    items = b", ".join(wire(number) for number in range(skip, skip + take))
    body = PAGE % (items, skip + 2 * take)
    return Reply([body], 200, (("Content-Length", str(len(body))),))


@pytest.mark.parametrize("kind", ["endless list", "endless page", "not JSON"])
def test_single_names_are_found_where_the_listing_is_no_good(
    before: Gateway, server: Server, start: Callable[..., Workspace], kind: str
) -> None:
    """semantics 5.8: EIO; what is right goes on being shown and saved."""
    server.store.write("d/a.txt", b"here")
    replies: dict[str, Callable[[Asked], Reply | None]] = {
        "endless list": pages_without_end,
        "endless page": lambda asked: Reply(endless(before, b" " * 65536)) if asked.listing else None,
        "not JSON": lambda asked: Reply([b"<html>"]) if asked.listing else None,
    }
    before.answer = replies[kind]
    work = start()
    assert errno_from(work.names) == errno.EIO
    assert work.vfs.getattr("d").mode & 0o40000
    assert work.read("d/a.txt") == b"here"
    assert not work.exists("d/nothing")
    assert errno_from(work.names, "d") == errno.EIO
    work.write("d/a.txt", b"saved", fsync=True)
    work.write("d/b.txt", b"new", fsync=True)
    assert visible(server) == {"d": None, "d/a.txt": b"saved", "d/b.txt": b"new"}
    assert len([asked for asked in before.asked if asked.listing]) < 2_000
    before.answer = lambda asked: None
    eventually(lambda: errno_from(work.names) == 0)
    settled(work)
    assert work.names("d") == ["a.txt", "b.txt"]


def test_a_length_that_is_wrong_once_is_asked_for_again_and_then_is_eio(
    before: Gateway, server: Server, start: Callable[..., Workspace]
) -> None:
    """semantics 5.15: the same version: once more; then EIO, never ESTALE."""
    server.store.write("a.txt", b"0123456789")
    short = [1]

    def answer(asked: Asked) -> Reply | None:
        if asked.download and short[0]:
            short[0] -= 1
            return Reply([b"01234"], 200, (("Content-Length", "5"),))
        return None

    before.answer = answer
    assert start().read("a.txt") == b"0123456789"
    short[0] = 1000
    assert errno_from(start().read, "a.txt") == errno.EIO
