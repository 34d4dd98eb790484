"""Renames over names of this machine, and over open files: what programs and other saves do in the middle of them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobfs.writeback import hiding
from jobfs.writeback.records import LocalEntry, Record, Save
from tests.support.boundaries import Boundaries, Death, Mortal, quick_finishing
from tests.support.files import errno_from
from tests.support.powerloss import SyncedState, reboot
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER

from jobfs.emulator import Server
from jobfs.errors import FsError

HIDDEN = f".fuse_hidden{1:016x}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick_finishing():
        monkeypatch.setattr(hiding, "_PAIRED", 60.0)  # libfuse takes no time in between
        monkeypatch.setattr(hiding, "_CONFIRM", 10.0)
        monkeypatch.setattr(hiding, "_DELETE", 20.0)
        yield


@pytest.fixture
def work(server: Server, tmp_path: Path) -> Iterator[Mortal]:
    """Where nothing is sent by itself."""
    server.store.seed({"file": b"of the job", "other": b"another of the job"}, age=60)
    work = Mortal(server, tmp_path / "home", Boundaries(), write_back_delay=60.0, local_symlinks=True)
    work.start()
    yield work
    server.faults.clear()
    work.end()


def hide(work: Mortal, path: str) -> int:
    """Opens a file, and renames it out of sight as libfuse does it first; the handle."""
    fh = work.vfs.open(path, os.O_RDONLY).fh
    work.vfs.hide(path, HIDDEN)
    return fh


def test_what_replaces_an_open_file_is_synced_with_its_record(work: Mortal) -> None:
    """save-protocol (S): journal and bytes; the record goes on to say so."""
    work.write("scratch~", b"new content")
    hide(work, "file")
    work.vfs.rename("scratch~", "file")
    (live,) = work.engine.uploader.live()
    (row,) = work.engine.journal.load(Save)
    assert (live.save.synced, row.synced) == (True, True)


def test_without_power_it_has_its_name_while_it_is_being_sent(
    server: Server, work: Mortal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """semantics 4.4: a loss of power takes nothing of what the disk had."""
    state = SyncedState(work)
    work.write("scratch~", b"new content")
    hide(work, "file")
    server.faults.rate("unavailable", 1.0, on="create")
    work.vfs.rename("scratch~", "file")
    work.vfs.flush_all(None, 1.0, None)  # it begins, and the server does not answer
    work.engine.sync()
    work.boundaries.dead = True
    work.bury()
    server.faults.clear()
    state.lose_power("gone")
    reboot(monkeypatch, tmp_path)
    again = Mortal(server, work.home, Boundaries())
    again.start()
    try:
        wanted = {"file": b"new content", "other": b"another of the job"}
        eventually(lambda: visible(server) == wanted, lambda: f"{visible(server)}, {hidden(server)}")
    finally:
        again.stop()


def test_it_waits_for_no_other_save(work: Mortal) -> None:
    """Lock order: no transaction's lock is taken under that of an inode which is not its own."""
    work.write("other", b"not sent")
    (elsewhere,) = work.engine.uploader.live()
    work.engine._stopping.set()
    work.engine._syncer.join()  # else it may do what the rename is not to wait for
    work.write("scratch~", b"new content")

    def replace() -> None:
        hide(work, "file")
        work.vfs.rename("scratch~", "file")

    with elsewhere.lock:
        replacing = threading.Thread(target=replace, daemon=True)
        replacing.start()
        replacing.join(10)
        assert not replacing.is_alive()
    assert work.read("file") == b"new content"


def test_a_file_that_is_written_to_just_then_is_renamed_over_a_backup(
    server: Server, work: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4.36: the backup's item goes with it, and does not come back under its old name."""
    work.vfs.rename("file", "file~")
    fh = work.vfs.open("other", os.O_RDWR).fh
    aliases = work.vfs._aliases
    real = aliases.make

    def written_to(*arguments: Any) -> bool:
        work.vfs.write(fh, b"ANOTHER", 0)
        return real(*arguments)

    monkeypatch.setattr(aliases, "make", written_to)
    work.vfs.rename("other", "file~")
    work.vfs.flush(fh)
    work.vfs.release(fh)
    work.settle()
    assert visible(server) == {"file~": b"ANOTHER of the job"}
    assert work.names() == ["file~"]


@pytest.mark.parametrize("killed", [False, True], ids=["fails", "killed"])
def test_what_is_written_while_a_file_gets_a_scratch_name_in_vain_is_sent(
    server: Server, work: Mortal, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """semantics 4: what failed has changed nothing; the file is one of the job's, with all that was written to it."""
    work.vfs.rename("file", "file~")
    fh = work.vfs.create("draft", 0o644, os.O_RDWR, CALLER).fh
    work.vfs.write(fh, b"draft", 0)
    work.vfs.flush(fh)

    def written_to(*arguments: Any) -> None:
        work.vfs.write(fh, b"DRAFT", 0)
        work.vfs.flush(fh)
        if killed:
            work.boundaries.dead = True
            work.boundaries.reach("here")
        raise FsError(errno.EIO)

    monkeypatch.setattr(work.engine.removals, "set_aside", written_to)
    with pytest.raises(Death if killed else FsError):
        work.vfs.rename("draft", "file~")
    monkeypatch.undo()
    if not killed:
        work.vfs.release(fh)
        assert "draft" not in {entry.path for entry in work.engine.journal.load(LocalEntry)}
        work.boundaries.dead = True
    work.bury()
    again = Mortal(server, work.home, Boundaries())
    again.start()
    try:
        again.settle()
        eventually(lambda: visible(server).get("draft") == b"DRAFT", lambda: f"{visible(server)}")
    finally:
        again.stop()


def test_a_link_is_there_when_what_is_renamed_over_it_is_refused(server: Server, work: Mortal) -> None:
    """semantics 4: what failed has changed nothing."""
    work.vfs.symlink("link", "file", CALLER)
    server.faults.rate("error", 1.0, on="update", status=403)
    assert errno_from(work.vfs.rename, "file", "link") == errno.EACCES
    assert work.names() == ["file", "link", "other"]
    server.faults.clear()
    work.vfs.rename("file", "link")
    assert work.names() == ["link", "other"]
    assert work.read("link") == b"of the job"


def refusing(real: Callable[..., None]) -> Callable[..., None]:
    def write(*records: Record, gone: Iterable[Record] = ()) -> None:
        if any(isinstance(record, LocalEntry) for record in records):
            raise FsError(errno.ENOSPC)
        real(*records, gone=gone)

    return write


def test_a_file_is_there_when_the_link_that_is_renamed_over_it_can_not_be_recorded(
    server: Server, work: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4: what failed has changed nothing."""
    work.vfs.symlink("link", "elsewhere", CALLER)
    with monkeypatch.context() as patch:
        patch.setattr(work.engine.journal, "write", refusing(work.engine.journal.write))
        assert errno_from(work.vfs.rename, "link", "file") == errno.ENOSPC
    assert work.read("file") == b"of the job"
    assert visible(server)["file"] == b"of the job"
    work.vfs.rename("link", "file")
    assert work.vfs.readlink("file") == "elsewhere"
    eventually(lambda: visible(server) == {"other": b"another of the job"})
