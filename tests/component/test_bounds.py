"""An outage costs disk, and nothing else; and bounds hold whatever the number of files (vfs/semantics.md 6, Bounds)."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import stat
import time
from contextlib import closing

import pytest
from tests.support.files import errno_from
from tests.support.machine import require_descriptors
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Start, Workspace, wait_until_settled

from jobfs.emulator import Server

OLD, NEW = b"old", b"new"


def go_down(server: Server, work: Workspace) -> None:
    """The workspace is known, and the server is found not to answer."""
    work.names()
    server.faults.set_rate("unavailable", 1.0)
    eventually(lambda: work.names() is not None and work.write_back.namespace.is_unreachable)


@pytest.fixture
def patient(start: Start) -> Workspace:
    """A mount whose listing is old at once; a request that can't be answered takes half a second."""
    return start(timeout=1.0, ttl=0.1, write_back_delay=0.0)


@pytest.fixture
def cut_off(server: Server, patient: Workspace) -> Workspace:
    """The same in an outage."""
    go_down(server, patient)
    return patient


def test_files_and_directories_created_in_an_outage_are_sent_after_it(
    server: Server, patient: Workspace
) -> None:
    """vfs/semantics.md 4.10: an upload that fails is tried again."""
    work = patient
    server.store.seed({"dir/there": OLD})
    go_down(server, work)
    expected: dict[str, bytes | None] = {"dir": None, "dir/there": OLD}
    began = time.monotonic()
    for number in range(5):
        made = f"dir/d{number}"
        work.mkdir(made)
        work.mkdir(f"{made}/sub")
        work.write(f"{made}/file", NEW)
        work.write(f"{made}/sub/file", NEW)
        expected |= {made: None, f"{made}/sub": None, f"{made}/file": NEW, f"{made}/sub/file": NEW}
    assert time.monotonic() - began < 10, "no call waits for the server, 20 would take longer"
    for _ in range(2):
        assert (work.names("dir/d3"), work.read("dir/d3/sub/file")) == (["file", "sub"], NEW)
        assert stat.S_ISDIR(work.vfs.getattr("dir/d3").mode)
        server.faults.clear()
        wait_until_settled(work, expected)


def test_a_directory_made_in_an_outage_survives_a_remount(server: Server, cut_off: Workspace) -> None:
    work = cut_off
    work.vfs.mkdir("dir", 0o2750, CALLER)
    work.vfs.utimens("dir", 1, 2_000_000_000)
    work.write("dir/file", NEW)
    before = work.vfs.getattr("dir")
    assert errno_from(work.vfs.rename, "dir", "moved"), "as any directory in an outage"
    work.remount()
    assert work.names("dir") == ["file"]
    after = work.vfs.getattr("dir")
    assert (after.mode, after.ino) == (before.mode, before.ino)
    server.faults.clear()
    wait_until_settled(work, {"dir": None, "dir/file": NEW})
    after = work.vfs.getattr("dir")
    assert (after.mode, after.ino) == (before.mode, before.ino)


def test_a_directory_made_in_an_outage_can_be_removed_during_it(server: Server, cut_off: Workspace) -> None:
    work = cut_off
    work.write_back.queue.delay = 30.0
    work.mkdir("dir")
    work.write("dir/file", NEW)
    assert errno_from(work.vfs.rmdir, "dir") == errno.ENOTEMPTY
    work.vfs.unlink("dir/file")
    work.vfs.rmdir("dir")
    assert not work.exists("dir")
    server.faults.clear()
    wait_until_settled(work, {})


def test_atomic_saves_of_a_file_work_during_an_outage(server: Server, patient: Workspace) -> None:
    """vfs/semantics.md 6, Bounds: a rename over a file in an outage does not wait for a save of that file that was begun."""
    work = patient
    server.store.seed({"file": OLD}, age=60)
    assert work.read("file") == OLD
    go_down(server, work)
    state = work.state
    for number in range(3):
        # By a name that reaches the server too, as those of most programs do.
        work.write(f"file.{number}", b"%d" % number)
        work.vfs.rename(f"file.{number}", "file")
        assert work.read("file") == b"%d" % number
        eventually(lambda: any(change.attempts for change in list(state.changes.values())))
    server.faults.clear()
    wait_until_settled(work, {"file": b"2"})


# -- any number of files

#: Descriptors that come and go whatever is done: connections, contents that may be opened again soon.
_SOME = 110


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_files_waiting_for_upload_hold_no_descriptors(server: Server, work: Workspace) -> None:
    work.names()
    before = _descriptors()
    server.faults.set_rate("unavailable", 1.0, on="create")
    for number in range(150):
        work.write(f"f{number}", b"%d" % number)
    assert _descriptors() < before + _SOME
    server.faults.clear()
    wait_until_settled(work)
    assert _descriptors() < before + _SOME
    assert visible(server) == {f"f{number}": b"%d" % number for number in range(150)}


def test_an_open_file_being_written_holds_one_descriptor(server: Server, start: Start) -> None:
    require_descriptors(1024)
    work = start()
    server.store.seed({f"f{number}": b"old" for number in range(150)}, age=60)
    work.names()
    before = _descriptors()
    handles = [work.vfs.open(f"f{number}", os.O_RDWR).fh for number in range(150)]
    for fh in handles:
        work.vfs.write(fh, b"new", 0)
    assert _descriptors() < before + 150 + _SOME
    for fh in handles:
        assert work.vfs.read(fh, 10, 0) == b"new"
        work.vfs.release(fh)
    wait_until_settled(work)
    assert _descriptors() < before + _SOME


def test_opening_too_many_files_is_enfile_and_disturbs_no_open_file(server: Server, start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (320, hard))
    try:
        work = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    work.write("first", b"first")
    most = 80  # a quarter: the rest is less than the mount's own work needs
    handles = [work.vfs.create(f"f{n}", 0o644, os.O_WRONLY | os.O_CREAT, CALLER).fh for n in range(most)]
    assert errno_from(work.vfs.open, "first", os.O_RDONLY) == errno.ENFILE
    assert errno_from(work.vfs.create, "more", 0o644, os.O_WRONLY | os.O_CREAT, CALLER) == errno.ENFILE
    assert work.vfs.status()["unsent"]
    for fh in handles:
        work.vfs.write(fh, b"x", 0)
        work.vfs.release(fh)
    work.write("more", b"more", fsync=True)
    wait_until_settled(work)
    assert visible(server)["more"] == b"more"


def test_a_file_that_cannot_be_recorded_blocks_no_other_upload(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.13: one stuck upload never blocks another file."""
    handles = [work.vfs.create(name, 0o644, os.O_WRONLY | os.O_CREAT, CALLER).fh for name in ("odd", "other")]
    for fh in handles:
        work.vfs.write(fh, b"x", 0)
    with closing(sqlite3.connect(work.state_directory / "journal.db")) as journal:
        refuse = (
            "BEFORE INSERT ON file WHEN instr(new.record, '\"odd\"') BEGIN SELECT raise(FAIL, 'refused'); END"
        )
        journal.execute(f"CREATE TRIGGER refuse {refuse}")
        left = work.vfs.flush_all(None, 10.0, None)
        assert [entry["path"] for entry in left] == ["odd"]
        assert visible(server) == {"other": b"x"}
        journal.execute("DROP TRIGGER refuse")
    wait_until_settled(work)
    assert visible(server) == {"odd": b"x", "other": b"x"}
