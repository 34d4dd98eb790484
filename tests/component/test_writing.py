"""Writing against the local server: what is sent, when, how often, and what is never sent."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
from tests.support.boundaries import Boundaries, Mortal, watch
from tests.support.files import errno_from
from tests.support.serverside import visible
from tests.support.waiting import PATIENCE, eventually
from tests.support.workspaces import OvertakenLock, Start, Workspace, wait_until_settled

from jobfs.api.deadline import limit_time
from jobfs.emulator import Entry, Server


def changes(server: Server) -> list[str]:
    """Return the operations of the changing requests so far."""
    return [entry.operation for entry in server.log.changes()]


def test_a_file_that_is_renamed_over_repeatedly_is_sent_in_between(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.5: the upload begins --write-back-delay after the first close, whatever is closed later."""
    work = start(write_back_delay=0.5)

    def replace_again() -> bool:
        work.write("draft", b"line")
        work.vfs.rename("draft", "file")
        return "file" in visible(server)

    eventually(replace_again)


def test_rewrites_within_the_delay_are_one_upload(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.6: the delay coalesces rewrites, and a file deleted before then costs no request."""
    work = start(write_back_delay=30)
    for number in range(20):
        work.write("file", b"%d" % number)
        work.write("gone", b"%d" % number)
    work.vfs.unlink("gone")
    assert server.log.changes() == []
    wait_until_settled(work)
    assert changes(server).count("create") == 1
    assert visible(server) == {"file": b"19"}


def test_editing_the_jobs_item_keeps_the_default_that_it_shadows(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.37: only the item that is shown is replaced, a shadowed one stays."""
    server.set(path_scope="lifecycle")
    server.store.seed({"file": "default"}, lifecycle="application", age=60)
    server.store.seed({"file": "of the job"}, age=60)
    work.write("file", b"of the user", fsync=True)
    wait_until_settled(work)
    found = {item.lifecycle: server.store.content_of(item.id) for item in server.store.items_at("file")}
    assert found == {"application": b"default", "expertJob": b"of the user"}


def rounds(entries: list[Entry]) -> int:
    """How many of the requests had to wait for one another: the longest chain of one after the other's end."""
    depth: list[tuple[float, int]] = []
    for entry in sorted(entries, key=lambda entry: entry.time):
        before = [chain for end, chain in depth if end <= entry.time]
        depth.append((entry.time + (entry.ms or 0.0) / 1000, 1 + max(before, default=0)))
    return max((chain for _, chain in depth), default=0)


class SideBySide(Boundaries):
    """The first find waits for the first create, and that for the find. Raises BrokenBarrierError if one does not come."""

    def __init__(self) -> None:
        super().__init__(journal=False)
        self._meeting, self._waiting = (
            threading.Barrier(2, timeout=PATIENCE),
            ["before find", "before create_file"],
        )

    def reach(self, name: str) -> None:
        if self._armed and name in self._waiting:
            self._waiting.remove(name)
            self._meeting.wait()
        super().reach(name)


@pytest.mark.parametrize("move_touches", ["item", "no"])
def test_fsync_of_a_save_in_place_takes_three_round_trips(
    server: Server, mortal: Callable[..., Mortal], move_touches: str
) -> None:
    """vfs/semantics.md 4.18; save/protocol.md, The steps, Round trips of a save in place: three; one disk sync beside them."""
    server.set(move_touches=move_touches)
    (old,) = server.store.seed({"file": "old"}, age=60)
    # No listing is due for an earlier mount's requests.
    work = mortal(SideBySide(), request_lifetime=60, ttl=60)
    assert work.read("file") == b"old"
    syncs: list[int] = []
    watch(work.state.journal, lambda what: syncs.append(threading.get_ident()) if what == "sync" else None)
    fh = work.vfs.open("file", os.O_RDWR).fh
    work.boundaries.arm()
    server.log.clear()
    server.faults.fail_next("slow", times=2, delay=1.0)  # both begin before either ends
    work.vfs.write(fh, b"new", 0)
    work.vfs.fsync(fh)
    assert server.store.read("file") == b"new"
    placed = server.log.entries("update")[-1].time
    # What is set aside goes in the background, as soon as the save is done.
    save = [entry for entry in server.log.entries() if entry.item != old.id or entry.time <= placed]
    assert rounds(save) <= 2 + len(server.log.entries("find")), save  # R8
    assert syncs.count(threading.get_ident()) == 1, "one for the save; others are the background's"
    work.vfs.release(fh)
    wait_until_settled(work, {"file": b"new"})
    assert changes(server) == ["create", "update", "update", "delete"]


def test_a_write_at_the_end_of_a_save_extends_the_saved_bytes(server: Server, start: Start) -> None:
    """vfs/semantics.md 4: all handles of one file share what is written; the end of a save discards none of it."""
    work = start(write_back_delay=30)
    work.write("file", b"from the first save, ")
    with work.opening("file") as fh:
        OvertakenLock(work.vfs.get_handle(fh).file, work.drain)
        work.vfs.write(fh, b"and more", 21)
    wait_until_settled(work)
    assert server.store.read("file") == b"from the first save, and more"


def test_a_first_write_changes_what_another_program_has_saved_just_before(
    server: Server, start: Start
) -> None:
    """vfs/semantics.md 4.2: that save has begun and ended since the bytes of the opened version were fetched."""
    server.store.seed({"file": b"what was opened"}, age=60)
    work = start()
    with work.opening("file", os.O_RDWR) as fh:
        OvertakenLock(work.vfs.get_handle(fh).file, lambda: work.write("file", b"saved since", fsync=True))
        work.vfs.write(fh, b"S", 0)
    wait_until_settled(work, {"file": b"Saved since"})


def test_the_cache_does_not_grow_with_the_saves_of_one_file(server: Server, start: Start) -> None:
    """vfs/semantics.md 6: a day of small saves leaves one version of each file in the cache."""
    server.store.seed({"file": "old"}, age=60)
    work = start(write_back_delay=0)
    work.read("file")
    for number in range(5):
        work.write("file", b"save %d" % number, fsync=True)
    wait_until_settled(work)
    kept = [
        path for path in (work.home / "cache").rglob("*") if path.is_file() and path.stat().st_size in (3, 6)
    ]
    assert len(kept) <= 1, kept
    assert work.read("file") == b"save 4"


def test_content_that_is_temporarily_unreadable_does_not_count_as_unknown(
    server: Server, start: Start
) -> None:
    """save/protocol.md R1: a read that failed is tried again before it counts as unknown."""
    server.store.seed({"file": b"the old content"}, age=60)
    work = start(timeout=2.0)
    work.names()
    server.faults.set_rate("unavailable", 1.0, on="download")
    with work.opening("file", os.O_RDWR | os.O_TRUNC) as fh:
        work.vfs.write(fh, b"new", 0)
        with limit_time(1.0):
            assert errno_from(work.vfs.fsync, fh)
        assert visible(server) == {"file": b"the old content"}
    server.faults.clear()
    wait_until_settled(work, {"file": b"new"})
