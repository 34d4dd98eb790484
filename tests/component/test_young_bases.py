"""Saves of files that were changed a moment ago, where the server's clock can't tell two versions apart (save/protocol.md R1)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries, Mortal
from tests.support.serverside import contents, visible
from tests.support.workspaces import Workspace, settled

from jobfs.emulator import Server

FIRST, SECOND, OURS = b"job's first", b"job, second", b"the user's own"


@pytest.fixture(autouse=True)
def one_second(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is written on the server has one `updatedAt`, and it is young."""
    ticks = count((int(time.time()) + 10) * 1_000_000)  # for as long as a test takes
    monkeypatch.setattr(type(server.store._store), "now_us", lambda store: next(ticks))
    server.set(updated_resolution="seconds")


def truncate_and_write(work: Workspace | Mortal) -> None:
    fh = work.vfs.open("file", os.O_WRONLY | os.O_TRUNC).fh
    work.vfs.write(fh, OURS, 0)
    work.vfs.flush(fh)
    work.vfs.release(fh)


def saved_by_the_next_mount(server: Server, home: Path, meanwhile: Callable[[], object]) -> None:
    """A mount is killed that was to send what was truncated and written, then `meanwhile` happens."""
    first = Mortal(server, home, Boundaries(), write_back_delay=30)
    first.start()
    truncate_and_write(first)
    first.boundaries.dead = True
    first.bury()
    meanwhile()
    again = Mortal(server, home, Boundaries())
    again.start()
    try:
        again.settle()
    finally:
        again.stop()


@pytest.mark.parametrize("sizes", ["present", "omitted"])
def test_what_the_job_wrote_since_a_file_was_truncated_unread_is_kept(
    server: Server, start: Callable[..., Workspace], sizes: str
) -> None:
    """vfs/semantics.md 4, Keep both: what nobody here has seen is never overwritten; R1: never guess."""
    server.set(sizes=sizes)
    server.store.seed({"file": FIRST})
    work = start(write_back_delay=30)
    assert work.names() == ["file"]
    truncate_and_write(work)
    server.store.write("file", SECOND)
    settled(work)
    assert server.store.read("file") == OURS
    assert sorted(contents(server)) == sorted([SECOND, OURS])


def test_a_file_that_has_grown_since_it_was_measured_is_opened_to_be_written_with_its_size_of_now(
    server: Server, start: Callable[..., Workspace]
) -> None:
    """vfs/semantics.md 4, Keep both: who reads only as far as the size of before has not seen what the job appended since."""
    server.set(sizes="omitted")
    server.store.seed({"file": FIRST})
    work = start()
    measured = work.vfs.getattr("file").size
    server.store.append("file", SECOND)
    server.set(latency=50)  # what is fetched behind an open comes later
    opened = work.vfs.open("file", os.O_RDWR)
    assert opened.size == measured + len(SECOND)
    assert work.vfs.read(opened.fh, 100, measured) == SECOND
    work.vfs.release(opened.fh)


def test_the_size_of_an_open_file_is_that_of_the_bytes_that_it_reads(
    server: Server, start: Callable[..., Workspace]
) -> None:
    """vfs/semantics.md 3, Open files are pinned: whatever others have found of the same version since."""
    server.set(sizes="omitted")
    server.store.seed({"file": FIRST})
    work = start()
    fh = work.vfs.open("file", os.O_RDONLY).fh
    assert work.vfs.read(fh, 100, 0) == FIRST
    item = work.vfs.handle(fh).item
    assert item is not None
    work.vfs._content.learn(item, len(FIRST + SECOND))
    assert work.vfs.fgetattr(fh).size == len(FIRST)
    work.vfs.release(fh)


def test_what_the_job_wrote_while_no_mount_was_there_is_kept(server: Server, tmp_path: Path) -> None:
    """vfs/semantics.md 4, Keep both, after a death: the next mount can't learn any more what was truncated."""
    server.set(sizes="omitted")
    server.store.seed({"file": FIRST})
    saved_by_the_next_mount(server, tmp_path / "home", lambda: server.store.write("file", SECOND))
    assert server.store.read("file") == OURS
    assert sorted(contents(server)) == sorted([SECOND, OURS])


@pytest.mark.parametrize("moves", ["no", "tree"])
def test_our_own_save_whose_answer_was_lost_is_no_conflict(
    server: Server, start: Callable[..., Workspace], moves: str
) -> None:
    """save/protocol.md R2: base is H with the hash of what was sent."""
    server.set(move_touches=moves)
    work = start(request_lifetime=0.2)
    server.faults.next("drop_after", on="update")
    work.write("file", b"before", fsync=True)
    truncate_and_write(work)
    settled(work)
    assert visible(server) == {"file": OURS}


@pytest.mark.parametrize("rewritten", [False, True])
def test_what_was_read_and_renamed_is_no_conflict_unless_the_job_writes_to_it(
    server: Server, start: Callable[..., Workspace], rewritten: bool
) -> None:
    """save/protocol.md R1: its bytes equal base's, though our own move has made the version young."""
    server.set(move_touches="item")
    server.store.seed({"before": FIRST}, age=60)
    work = start(write_back_delay=30)
    assert work.read("before") == FIRST
    work.vfs.rename("before", "file")
    if rewritten:
        server.store.write("file", SECOND)
    truncate_and_write(work)
    settled(work)
    assert server.store.read("file") == OURS
    assert sorted(contents(server)) == sorted([OURS, *([SECOND] if rewritten else [])])


def test_the_next_mount_learns_what_was_truncated_where_each_write_shows(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md R1: where base's bytes are not known, A is downloaded while H is being staged."""
    monkeypatch.undo()
    server.set(updated_resolution="milliseconds")
    server.store.seed({"file": FIRST})
    saved_by_the_next_mount(server, tmp_path / "home", lambda: None)
    assert visible(server) == {"file": OURS}


@pytest.mark.parametrize("moves", ["no", "item"])
def test_whoever_opens_a_file_later_does_not_share_what_an_earlier_reader_has_open(
    server: Server, start: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch, moves: str
) -> None:
    """vfs/semantics.md 3: what was downloaded in the second of a change serves the handles that are open then; R1:
    nor is it a base.
    """
    now, moment = time.time, time.time()
    # A busy machine takes more than a second for what follows.
    monkeypatch.setattr(time, "time", lambda: moment)
    server.set(move_touches=moves)
    server.store.seed({"file": FIRST})
    work = start()
    reader = work.vfs.open("file", os.O_RDONLY).fh
    assert work.vfs.read(reader, 100, 0) == FIRST
    server.store.write("file", SECOND)
    monkeypatch.setattr(time, "time", lambda: now() + 30.0)
    fh = work.vfs.open("file", os.O_RDWR).fh
    assert work.vfs.read(fh, 100, 0) == SECOND
    assert work.vfs.read(reader, 100, 0) == FIRST
    work.vfs.write(fh, OURS, 0)
    work.vfs.flush(fh)
    work.vfs.release(fh)
    work.vfs.release(reader)
    settled(work)
    assert visible(server) == {"file": OURS}


def test_what_the_job_wrote_in_the_second_of_our_save_is_no_conflict_once_it_was_read(
    server: Server, start: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md R1: base's bytes are those that were shown, not those that were sent under the same `updatedAt`."""
    work = start()
    work.write("file", FIRST, fsync=True)
    server.store.write("file", SECOND)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 30.0)
    later = count(int(time.time()) * 1_000_000)
    monkeypatch.setattr(type(server.store._store), "now_us", lambda store: next(later))
    fh = work.vfs.open("file", os.O_RDWR).fh
    assert work.vfs.read(fh, 100, 0) == SECOND
    work.vfs.write(fh, OURS, 0)
    work.vfs.flush(fh)
    work.vfs.release(fh)
    settled(work)
    assert visible(server) == {"file": OURS}
