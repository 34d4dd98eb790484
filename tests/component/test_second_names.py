"""One item under two names at a time: an alias whose item the job has renamed, a file hidden while open that is kept beside."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace, settled

from jobfs.emulator import Server
from jobfs.vfs import aliases

OLD, MINE = b"old", b"mine"


@pytest.fixture
def work(server: Server, start: Callable[..., Workspace]) -> Workspace:
    """`file` was renamed to a scratch name here, which the server is not told yet; the job renames it to `moved`."""
    server.store.seed({"file": OLD, "other": "another"}, age=60)
    work = start(write_back_delay=60)
    work.vfs.rename("file", "file~")
    server.store.move("file", "moved")
    work.vfs.refresh()
    return work


def test_what_the_job_has_renamed_is_another_file_than_the_backup(work: Workspace) -> None:
    """semantics 1: two files never have one inode number."""
    assert work.names() == ["file~", "moved", "other"]
    assert work.vfs.getattr("file~").ino != work.vfs.getattr("moved").ino
    assert (work.read("file~"), work.read("moved")) == (OLD, OLD)


@pytest.mark.parametrize("change", ["write", "unlink", "rename", "nothing", "rename over"])
def test_what_is_done_to_the_backup_is_not_done_to_what_the_job_has_renamed(
    server: Server, work: Workspace, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4, unlink: the id that stood at that path; the job's own rename stands."""
    monkeypatch.setattr(aliases, "ALIAS_GRACE", 0.1)
    if change == "write":
        work.write("file~", MINE)
    elif change == "unlink":
        work.vfs.unlink("file~")
    elif change == "rename":
        work.vfs.rename("file~", "kept")
    elif change == "rename over":
        work.vfs.rename("other", "file~")
    backup = {"write": MINE, "rename over": b"another", "nothing": OLD}.get(change)
    eventually(lambda: not work.vfs._aliases.all(), "no backup waits for anything")
    shown = {"moved": OLD, "other": b"another"}
    if backup is not None:
        shown["file~"] = backup
    if change == "rename":
        shown["kept"] = OLD
    if change == "rename over":
        del shown["other"]
    work.drain()
    settled(work)
    for _ in range(2):
        assert {name: work.read(name) for name in work.names()} == shown
        assert visible(server)["moved"] == OLD
        work.stop()
        work.start()


@pytest.mark.parametrize("change", ["write", "unlink", "rename", "rename over"])
def test_what_is_done_to_what_the_job_has_renamed_is_not_done_to_the_backup(
    server: Server, work: Workspace, change: str
) -> None:
    """semantics 4: a version is not deleted on the server while an alias here still needs its bytes."""
    shown = {"file~": OLD, "other": b"another"}
    if change == "write":
        work.write("moved", MINE)
        shown["moved"] = MINE
    elif change == "unlink":
        work.vfs.unlink("moved")
    elif change == "rename":
        work.vfs.rename("moved", "again")
        shown["again"] = OLD
    else:
        work.vfs.rename("moved", "file~")
    assert {name: work.read(name) for name in work.names()} == shown
    work.drain()
    settled(work)
    work.vfs.refresh()
    assert {name: work.read(name) for name in work.names()} == shown


def test_a_file_that_was_replaced_while_open_is_not_the_copy_that_is_kept_of_it(
    server: Server, start: Callable[..., Workspace]
) -> None:
    """semantics 4: what is written to a file unlinked while open is not seen under any name."""
    server.store.seed({"file": OLD, "new": "another"}, age=60)
    work = start(write_back_delay=60)
    fh = work.vfs.open("file", os.O_RDWR).fh
    server.store.write("file", "of the job")
    # As libfuse renames over an open file.
    hidden = f".fuse_hidden{1:016x}"
    work.vfs.hide("file", hidden)
    work.vfs.rename("new", "file")
    settled(work)
    (copy,) = [name for name in work.names() if "conflict" in name]
    assert work.read(copy) == b"of the job"
    assert work.vfs.getattr(copy).ino != work.vfs.fgetattr(fh).ino
    work.vfs.ftruncate(fh, 0)
    work.vfs.write(fh, MINE, 0)
    assert work.read(copy) == b"of the job"
    work.vfs.flush(fh)
    work.vfs.release(fh)
    work.vfs.unlink(hidden)
    settled(work)
    assert {name: work.read(name) for name in work.names()} == {"file": b"another", copy: b"of the job"}
    assert visible(server) == {"file": b"another", copy: b"of the job"}


@pytest.mark.parametrize("goes", ["unlinked", "renamed over"])
def test_what_the_job_had_replaced_while_it_was_open_does_not_take_the_name_of_what_is_removed_there(
    server: Server, start: Callable[..., Workspace], goes: str
) -> None:
    """semantics 4: a file unlinked while open stays writable through its handle and never comes back."""
    server.store.seed({"file": OLD, "new": "another"}, age=60)
    work = start(write_back_delay=0)
    fh = work.vfs.open("file", os.O_RDWR).fh
    server.store.replace("file", "of the job")
    work.vfs.refresh()
    hidden = f".fuse_hidden{1:016x}"
    work.vfs.hide("file", hidden)
    if goes == "renamed over":
        work.vfs.rename("new", "file")
    work.vfs.write(fh, MINE, 0)
    assert work.vfs.read(fh, 100, 0) == MINE
    work.vfs.flush(fh)
    work.vfs.release(fh)
    work.vfs.unlink(hidden)
    settled(work)
    shown = {"file": b"another"} if goes == "renamed over" else {"new": b"another"}
    assert {name: work.read(name) for name in work.names() if "conflict" not in name} == shown
    assert MINE not in visible(server).values()


def test_a_number_stays_that_of_what_is_open(server: Server, start: Callable[..., Workspace]) -> None:
    """semantics 4: all handles of one file share it, also once the file that had its number before is not changed any more."""
    server.store.seed({"file": OLD}, age=60)
    work = start(write_back_delay=60)
    assert work.read("file") == OLD
    work.write("file", MINE)
    server.store.move("file", "moved")
    work.vfs.refresh()
    first = work.vfs.open("moved", os.O_RDWR).fh
    number = work.vfs.getattr("moved").ino
    work.vfs.unlink("file")
    assert work.vfs.getattr("moved").ino == work.vfs.fgetattr(first).ino == number
    second = work.vfs.open("moved", os.O_RDWR).fh
    work.vfs.write(first, b"123", 0)
    assert work.vfs.read(second, 100, 0) == b"123"
    work.vfs.write(second, b"456", 3)
    assert work.vfs.read(first, 100, 0) == b"123456"
    for fh in (first, second):
        work.vfs.release(fh)
    settled(work)
    assert visible(server) == {"moved": b"123456"}


def test_what_is_written_to_a_backup_while_it_is_renamed_has_the_new_name(
    server: Server, start: Callable[..., Workspace]
) -> None:
    """semantics 4, rename: open and unsent files go along."""
    server.store.seed({"file": OLD}, age=60)
    work = start(write_back_delay=0)
    fh = work.vfs.open("file", os.O_RDWR).fh
    work.vfs.rename("file", "file~")
    server.faults.next("slow", on="update", delay=0.5, skip=1)
    renaming = threading.Thread(target=work.vfs.rename, args=("file~", "kept"))
    renaming.start()
    eventually(lambda: not server.faults.rules(), "the second move is under way")
    work.vfs.write(fh, MINE, 0)
    work.vfs.flush(fh)
    renaming.join()
    work.vfs.release(fh)
    settled(work)
    assert [name for name in work.names() if "conflict" not in name] == ["kept"]
    assert visible(server)["kept"] == work.read("kept") == MINE
