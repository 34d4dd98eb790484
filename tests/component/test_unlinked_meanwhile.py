"""A name whose file was unlinked and is still on its way off the server: what is shown there, and what may come there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from tests.support.serverside import contents, visible
from tests.support.waiting import eventually
from tests.support.workspaces import Start, Workspace, wait_until_settled

from jobfs.api.client import Client
from jobfs.api.deadline import limit_time
from jobfs.emulator import Server
from jobfs.nodes import Item


@pytest.fixture
def work(server: Server, start: Start) -> Workspace:
    """`file` was unlinked while a save of it was under way, which the server is still busy with."""
    server.store.seed({"file": "old", "other": "another"}, age=60)
    work = start(write_back_delay=0)
    server.faults.fail_next("slow", on="create", delay=0.4)
    work.write("file", b"not wanted any more")
    eventually(lambda: not server.faults.rules(), "the save is under way")
    work.vfs.unlink("file")
    return work


def made_and_unlinked(work: Workspace) -> None:
    for _ in range(2):
        work.write("file", b"again")
        work.vfs.unlink("file")


def made_and_renamed_away(work: Workspace) -> None:
    work.write("file", b"again")
    work.vfs.rename("file", "renamed")


def renamed_to_it(work: Workspace) -> None:
    work.vfs.rename("other", "file")
    assert work.read("file") == b"another"


def a_directory(work: Workspace) -> None:
    work.mkdir("file")
    work.write("file/inside", b"x")
    assert work.names("file") == ["inside"]


@pytest.mark.parametrize(
    ("comes", "tree"),
    [
        (made_and_unlinked, {"other": b"another"}),
        (made_and_renamed_away, {"other": b"another", "renamed": b"again"}),
        (renamed_to_it, {"file": b"another"}),
        (a_directory, {"file": None, "file/inside": b"x", "other": b"another"}),
    ],
)
def test_an_unlink_frees_the_name_and_the_file_does_not_return(
    server: Server, work: Workspace, comes: Callable[[Workspace], None], tree: dict[str, bytes | None]
) -> None:
    """vfs/semantics.md 4: unlink returns when it is recorded; own changes are visible at once."""
    comes(work)
    shown = sorted(path for path in tree if "/" not in path)
    assert work.names() == shown
    wait_until_settled(work)
    eventually(lambda: visible(server) == tree, lambda: str(visible(server)))
    assert work.names() == shown
    assert work.vfs.status()["conflicts"] == []


def test_an_fsync_does_not_hang_on_a_removal(server: Server, start: Start) -> None:
    """vfs/semantics.md 4: a file unlinked while open never comes back; no call waits for a file that is not wanted any more."""
    work = start(write_back_delay=30)
    fh = work.opened("file")
    work.vfs.write(fh, b"content", 0)
    server.faults.fail_next("slow", on="create", delay=0.4)
    syncing = threading.Thread(target=work.vfs.fsync, args=(fh,), daemon=True)
    syncing.start()
    eventually(lambda: not server.faults.rules(), "the save is under way")
    work.vfs.unlink("file")
    syncing.join(10)
    assert not syncing.is_alive()
    work.vfs.release(fh)
    wait_until_settled(work)
    assert (visible(server), work.names()) == ({}, [])


def test_an_unanswered_create_delays_no_other_file_of_its_name(server: Server, start: Start) -> None:
    """save/protocol.md R7: no call waits for what an unanswered request may still do."""
    work = start(write_back_delay=0, request_lifetime=60, timeout=5)
    work.names()
    server.faults.fail_next("drop", on="create")
    server.faults.fail_next("slow", on="create", delay=2.0)
    work.write("file", b"not wanted any more")
    eventually(lambda: not server.faults.rules(), "the save is tried again")
    work.vfs.unlink("file")
    (change,) = work.vfs._write_back.state.changes.values()
    eventually(lambda: not change.needs_undo, "it is taken back")
    with limit_time(3.0):
        work.write("file", b"another", fsync=True)
    assert visible(server) == {"file": b"another"}


@pytest.fixture
def in_flight(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AbstractContextManager[Workspace]]:
    """A save of `file` whose set-aside, or promote, is in flight in the block: not `carried_out` yet, or not answered yet.

    `overwritten`: the job has written to the file before the save.
    """
    send, reached, released = Client.update, threading.Event(), threading.Event()

    @contextmanager
    def in_flight(path: str, *, carried_out: bool, overwritten: bool = False) -> Iterator[Workspace]:
        def held_back(self: Client, item_id: str, **wanted: Any) -> Item:
            if not wanted["path"].startswith(path) or reached.is_set():
                return send(self, item_id, **wanted)
            reply = send(self, item_id, **wanted) if carried_out else None
            reached.set()
            eventually(released.is_set)
            return reply or send(self, item_id, **wanted)

        monkeypatch.setattr(Client, "update", held_back)
        work = start(write_back_delay=0)
        with work.opening("file") as fh:
            work.vfs.write(fh, b"the user's", 0)
            if overwritten:
                work.server.store.write("file", b"the job's")
        eventually(reached.is_set)
        yield work
        released.set()

    return in_flight


def test_a_file_the_job_renames_during_its_promote_survives_an_unlink(
    server: Server, in_flight: Callable[..., AbstractContextManager[Workspace]]
) -> None:
    """save/protocol.md R10: what has the bytes of H is deleted at T only; under another name it is the job's."""
    server.store.seed({"file": "as it was"}, age=60)
    with in_flight("file", carried_out=True) as work:
        server.store.move("file", "renamed")
        work.vfs.unlink("file")
    wait_until_settled(work, {"renamed": b"the user's"})
    eventually(lambda: work.names() == ["renamed"])


def test_a_file_the_job_writes_after_an_unlink_has_the_name(
    server: Server, in_flight: Callable[..., AbstractContextManager[Workspace]]
) -> None:
    """save/protocol.md R10: a set-aside that is in flight takes it away; nothing was placed, so it goes back."""
    server.store.seed({"file": "as it was"}, age=60)
    with in_flight(".jobfs-", carried_out=False) as work:
        work.vfs.unlink("file")
        server.store.write("file", b"the job's")
    wait_until_settled(work, {"file": b"the job's"})
    eventually(lambda: work.names() == ["file"])


def test_a_conflict_copy_remains_after_the_unlink_of_a_saved_file(
    server: Server, in_flight: Callable[..., AbstractContextManager[Workspace]]
) -> None:
    """save/protocol.md R10, vfs/semantics.md 4.33: a file that was saved and unlinked does not come back under its name."""
    server.store.seed({"file": "as it was"}, age=60)
    with in_flight("file", carried_out=True, overwritten=True) as work:
        work.vfs.unlink("file")
    wait_until_settled(work)
    assert contents(server) == [b"the job's"]
    assert "file" not in work.names()


def test_an_unlinked_version_that_was_set_aside_does_not_return(
    server: Server, in_flight: Callable[..., AbstractContextManager[Workspace]]
) -> None:
    """save/protocol.md R10: what goes back is judged as ever."""
    server.store.seed({"file": "as it was"}, age=60)
    with in_flight(".jobfs-", carried_out=True) as work:
        work.vfs.unlink("file")
    wait_until_settled(work, {})
    assert work.names() == []
