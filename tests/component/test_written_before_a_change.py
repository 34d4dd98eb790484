"""What the job writes between a read and a rename or chmod of this mount is kept, though an old look justified that request."""

from __future__ import annotations

import os
import time

import pytest
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Start, Workspace, wait_until_settled

from jobfs.api.wire import HeldConnection
from jobfs.emulator import Server
from jobfs.emulator.faults import Kind
from jobfs.nodes import Item
from jobfs.vfs.view import Node

OLD = b"old content"


def changed(work: Workspace, how: str) -> str:
    """Rename the file, or change its permission, as another program; its name then."""
    if how == "chmod":
        work.vfs.chmod("file", 0o444)
        work.vfs.chmod("file", 0o644)
        return "file"
    name = {"rename": "new", "rename over": "other"}[how]
    work.vfs.rename("file", name)
    return name


@pytest.mark.parametrize("how", ["rename", "rename over", "chmod"])
@pytest.mark.parametrize("jobs", [b"JOB content", b"the job's longer content"], ids=["same size", "another"])
def test_the_jobs_write_is_kept_when_a_change_relies_on_an_old_look(
    server: Server, start: Start, how: str, jobs: bytes
) -> None:
    """vfs/semantics.md 4.42, 4.46: the program has read what was there before the job wrote."""
    server.store.seed({"file": OLD, "other": b"other"}, age=60)
    work = start(ttl=30.0)
    work.names()
    assert work.read("file") == OLD
    seen = time.monotonic()
    server.store.write("file", jobs)
    eventually(lambda: time.monotonic() > seen + 0.1, "the look is older than a round trip")
    name = changed(work, how)
    with work.opening(name, os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, b"user", 0)
    wait_until_settled(work)
    assert jobs in visible(server).values()


def test_the_jobs_write_during_the_look_of_a_rename_is_kept(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md R8: a listing that shows a newer version of the source is no look at the version that is renamed."""
    server.store.seed({"file": OLD}, age=60)
    work.names()
    assert work.read("file") == OLD
    view = work.vfs._view
    find = view.find

    def listed_meanwhile(path: str, max_age: float | None = None) -> Node | None:
        if path == "new":
            server.store.write("file", b"JOB content")
            view.namespace.refresh()
        return find(path, max_age)

    with monkeypatch.context() as patch:
        patch.setattr(view, "find", listed_meanwhile)
        work.vfs.rename("file", "new")
    with work.opening("new", os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, b"user", 0)
    wait_until_settled(work)
    assert {*visible(server).values()} == {b"JOB content", b"user"}


@pytest.mark.parametrize("moves", ["no", "item"])
@pytest.mark.parametrize("jobs", ["write", "replace"])
@pytest.mark.parametrize("over", [True, False], ids=["over a file", "to a free name"])
def test_the_jobs_write_before_a_reader_renamed_the_file_is_kept(
    server: Server, start: Start, moves: str, jobs: str, over: bool
) -> None:
    """vfs/semantics.md 4.46: to rename a file is not to read what it has by then."""
    server.set(move_touches=moves)
    server.store.seed({"file": OLD} | ({"new": b"other"} if over else {}), age=60)
    work = start(ttl=0.02)
    work.names()
    assert work.read("file") == OLD
    seen = time.monotonic()
    getattr(server.store, jobs)("file", b"JOB content")
    eventually(lambda: time.monotonic() > seen + 0.1, "the look is older than a round trip")
    work.vfs.rename("file", "new", CALLER.pid)
    with work.opening("new", os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, b"user", 0)
    wait_until_settled(work)
    assert b"JOB content" in visible(server).values()


@pytest.mark.parametrize("fault", ["throttled", "unavailable"])
def test_the_jobs_write_before_a_rename_was_retried_is_kept(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch, fault: Kind
) -> None:
    """save/protocol.md R8: the look before another attempt shows what the job has written since the first one."""
    server.store.seed({"file": OLD}, age=60)
    work.names()
    assert work.read("file") == OLD
    client = work.vfs._view.write_back.client
    get = client.get

    def get_after_a_write(item_id: str, *, connection: HeldConnection | None = None) -> Item:
        if connection is None:  # before the second attempt
            monkeypatch.undo()
            server.store.write("file", b"JOB content")
        return get(item_id, connection=connection)

    monkeypatch.setattr(client, "get", get_after_a_write)
    server.faults.fail_next(fault, on="update")
    work.vfs.rename("file", "new")
    with work.opening("new", os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, b"user", 0)
    wait_until_settled(work)
    assert {*visible(server).values()} == {b"JOB content", b"user"}


@pytest.mark.parametrize("how", ["rename", "rename over", "chmod"])
def test_the_jobs_write_between_a_save_and_a_change_is_kept(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """vfs/semantics.md 4.44: no program has read the file, but only the version that this mount has placed needs no reader."""
    server.set(move_touches="no")
    server.store.seed({"other": b"other"}, age=60)
    work = start(ttl=30.0)
    with work.closing(work.vfs.create("file", 0o644, os.O_WRONLY, CALLER).fh) as fh:
        work.vfs.write(fh, OLD, 0)
        work.vfs.fsync(fh)
    work.names()
    seen = time.monotonic()
    server.store.write("file", b"JOB content")
    eventually(lambda: time.monotonic() > seen + 0.1, "the look is older than a round trip")
    name = changed(work, how)
    monkeypatch.setattr("jobfs.save.context.RACY_SECONDS", 0.0)  # some seconds later
    with work.opening(name, os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, b"user", 0)
    wait_until_settled(work)
    assert b"JOB content" in visible(server).values()
