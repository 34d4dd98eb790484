"""Bounds that hold whatever the number of files (vfs/semantics.md 6, Bounds)."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from contextlib import closing

from tests.support.files import errno_from
from tests.support.machine import require_descriptors
from tests.support.serverside import visible
from tests.support.workspaces import CALLER, Start, Workspace, wait_until_settled

from jobfs.emulator import Server

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
