"""An observation may be old when the request that it justifies is sent: what the job has done since is kept."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support.crowds import take_all_connections
from tests.support.files import errno_from
from tests.support.programs import PROGRAMS, Program, distinct, run_through
from tests.support.serverside import contents, visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Start, Workspace, wait_until_settled

from jobfs.api.wire import HeldConnection
from jobfs.emulator import Server
from jobfs.emulator.faults import Kind
from jobfs.nodes import Item
from jobfs.save import cleanup, items
from jobfs.save.context import Context

OLD, NEW, JOBS = b"the old content", b"what the user wrote", b"the job's other"
#: Seconds after which the observation of an item that a program names is too old (R8), and a bit.
NAMED = 1.1

WRITERS = distinct(each for each in PROGRAMS if each.writes)


@pytest.fixture
def work(server: Server, start: Start) -> Workspace:
    """A mount with one connection, so that a request that holds it must wait for no other. A program has read `file`."""
    server.store.seed({"file": OLD, "other": NEW, "dir": None}, age=60)
    work = start(max_connections=1)
    assert work.read("file") == OLD
    return work


@contextmanager
def waiting(
    work: Workspace, part: object, method: str, job: Callable[[], object], wait: float = 0.0
) -> Iterator[None]:
    """In this block, `method` of `part` finds no free connection until the job has acted, `wait` seconds after the look."""
    client = work.write_back.client
    called: list[str] = []
    real = getattr(part, method)

    def crowded(*arguments: Any, **more: Any) -> Any:
        if called:
            return real(*arguments, **more)
        with take_all_connections(client) as others, ThreadPoolExecutor(1) as threads:
            called.append(method)
            acting = threads.submit(act, others, time.monotonic())
            try:
                return real(*arguments, **more)
            finally:
                acting.result()

    def act(others: Any, looked: float) -> None:
        try:
            others.wait_until_queued()
            bound = max(wait, 4 * max(0.05, client.health.latency or 0.0))
            eventually(lambda: time.monotonic() > looked + bound, "the observation is old")
            job()
        finally:
            others.disperse()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, method, crowded)
        yield
        eventually(lambda: called, f"{method} was called")


# -- while the request waits for its connection


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_set_aside_that_waited_does_not_take_a_file_from_its_new_name(
    server: Server, work: Workspace, writer: Program
) -> None:
    """save/protocol.md R8: when the set-aside is sent, the observation is fresh."""
    renames = lambda: server.store.move("file", "elsewhere")  # noqa: E731
    with waiting(work, work.write_back.replacer, "_try_set_aside", renames):
        run_through(work, writer, "file", NEW)
    wait_until_settled(work, {"file": OLD + NEW, "elsewhere": OLD, "other": NEW, "dir": None})


def test_an_unchanged_file_is_set_aside_after_one_more_look(server: Server, work: Workspace) -> None:
    """save/protocol.md R8: the look is repeated on the connection that is held, and the request follows."""
    with waiting(work, work.write_back.replacer, "_try_set_aside", server.log.clear):
        work.write("file", NEW, fsync=True)
    wait_until_settled(work, {"file": NEW, "other": NEW, "dir": None})
    sent = [entry.operation for entry in server.log.entries() if entry.operation != "list"]
    assert sent[:3] == ["get", "update", "update"]


@pytest.mark.parametrize(
    ("call", "arguments", "part", "sends", "error"),
    [
        ("unlink", ("file",), "items", "_delete_observed", 0),
        ("rename", ("file", "new"), "items", "update_item", errno.ENOENT),
        ("rename", ("other", "file"), "replacer", "_try_move_to_target", errno.ENOENT),
        ("chmod", ("file", 0o444), "items", "update_item", errno.ENOENT),
        ("rmdir", ("dir",), "items", "update_item", errno.ENOENT),
    ],
    ids=["unlink", "rename", "rename over a file", "chmod", "rmdir"],
)
def test_an_item_that_the_job_renames_while_a_change_waits_is_left_alone(
    server: Server, work: Workspace, call: str, arguments: tuple[Any, ...], part: str, sends: str, error: int
) -> None:
    """save/protocol.md R8, R10, R12, vfs/semantics.md 4.32: what was at the path a second before the request is changed."""
    tree, path = visible(server), arguments[0]
    renames = lambda: server.store.move(path, "elsewhere")  # noqa: E731
    with waiting(work, getattr(work.write_back, part), sends, renames, NAMED):
        assert errno_from(getattr(work.vfs, call), *arguments) == error
    tree["elsewhere"] = tree.pop(path)
    wait_until_settled(work, tree)
    assert not work.exists(path)
    assert server.store.item_at("elsewhere").permission == "readWrite"


# -- between the look and the deletion that it justifies


@pytest.mark.parametrize("removal", ["rename over", "unlink"])
def test_bytes_the_job_writes_while_handles_fetch_theirs_are_kept(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch, removal: str
) -> None:
    """save/protocol.md R7: the look comes after open handles have fetched their bytes, right before the delete."""
    fetching: list[str] = []

    def fetch_while_the_job_writes(context: Context, item_id: str) -> None:
        item = server.store.item_by_id(item_id)
        if not fetching and server.store.content_of(item_id) == OLD:
            fetching.append(item_id)
            server.store.write(item.path, JOBS)
            time.sleep(0.06)

    work.write_back.queue.delay = 30.0
    if removal == "unlink":
        work.write("file", b"unsent", flags=os.O_WRONLY | os.O_TRUNC)
    for module in (cleanup, items):
        monkeypatch.setattr(module, "fetch_bytes_for_handles", fetch_while_the_job_writes)
    if removal == "unlink":
        work.vfs.unlink("file")
    else:
        work.vfs.rename("other", "file")
    wait_until_settled(work)
    assert fetching
    assert contents(server) == sorted([JOBS, NEW])


# -- between a read and a rename or chmod, by a request that an old observation justifies


def job_writes_a_while_ago(server: Server, how: str = "write") -> None:
    """Let the job write to the file, and wait until earlier observations are older than a round trip."""
    seen = time.monotonic()
    getattr(server.store, how)("file", JOBS)
    eventually(lambda: time.monotonic() > seen + 0.1, "the observation is older than a round trip")


#: The calls of programs by which a file gets its last name, or keeps it; by the process that has read it, or by another.
CHANGES: dict[str, list[tuple[Any, ...]]] = {
    "a rename": [("rename", "file", "new")],
    "a rename over a file": [("rename", "file", "other")],
    "a chmod": [("chmod", "file", 0o444), ("chmod", "file", 0o644)],
    "a rename by the reader": [("rename", "file", "new", CALLER.pid)],
    "a rename over a file by the reader": [("rename", "file", "other", CALLER.pid)],
}


def change(work: Workspace, how: str) -> str:
    """Make the calls, and return the name that the file has then."""
    for call, *arguments in CHANGES[how]:
        getattr(work.vfs, call)(*arguments)
    return str(arguments[1]) if call == "rename" else "file"


def replace_unread(work: Workspace, name: str) -> None:
    with work.opening(name, os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, b"user", 0)
    wait_until_settled(work)


@pytest.mark.parametrize("moves", ["no", "item"])
@pytest.mark.parametrize(
    ("how", "job"),
    [(how, job) for how in CHANGES for job in ("write", "replace") if job == "write" or "reader" in how],
)
def test_the_jobs_write_between_a_read_and_a_change_is_kept(
    server: Server, start: Start, how: str, job: str, moves: str
) -> None:
    """vfs/semantics.md 4.42, 4.46: to rename a file is not to read what it has by then."""
    server.set(move_touches=moves)
    server.store.seed({"file": OLD, "other": b"other"}, age=60)
    work = start(ttl=0.02 if "reader" in how else 30.0)
    work.names()
    assert work.read("file") == OLD
    job_writes_a_while_ago(server, job)
    replace_unread(work, change(work, how))
    assert JOBS in visible(server).values()


@pytest.mark.parametrize("how", [how for how in CHANGES if "reader" not in how])
def test_the_jobs_write_between_a_save_and_a_change_is_kept(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """vfs/semantics.md 4.44: no program has read the file, but only the version that this mount has placed needs no reader."""
    server.set(move_touches="no")
    server.store.seed({"other": b"other"}, age=60)
    work = start(ttl=30.0)
    work.write("file", OLD, fsync=True)
    work.names()
    job_writes_a_while_ago(server)
    name = change(work, how)
    monkeypatch.setattr("jobfs.save.context.RACY_SECONDS", 0.0)  # some seconds later
    replace_unread(work, name)
    assert JOBS in visible(server).values()


@pytest.mark.parametrize("fault", ["throttled", "unavailable"])
def test_the_jobs_write_before_a_rename_was_retried_is_kept(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch, fault: Kind
) -> None:
    """vfs/semantics.md 5.10, save/protocol.md R8: the look before another attempt shows what the job has written."""
    get = work.write_back.client.get

    def get_after_a_write(item_id: str, *, connection: HeldConnection | None = None) -> Item:
        if connection is None:  # before the second attempt
            monkeypatch.undo()
            server.store.write("file", JOBS)
        return get(item_id, connection=connection)

    monkeypatch.setattr(work.write_back.client, "get", get_after_a_write)
    server.faults.fail_next(fault, on="update")
    work.vfs.rename("file", "new")
    replace_unread(work, "new")
    assert JOBS in visible(server).values()
