"""Opens that are overtaken by a rename, a close or the job; what a close means for scratch files and with --sync-on-close."""

from __future__ import annotations

import errno
import os
from functools import partial

import pytest
from tests.support.files import errno_from
from tests.support.serverside import untimed, visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, OvertakenLock, Start, Workspace, wait_until_settled

from jobfs.emulator import Server
from jobfs.vfs.view import Node


def test_a_scratch_file_is_synced_at_fsync_and_soon_after_its_close(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.4, 4.14: power loss is covered within a second; fsync of a scratch name syncs the local disk."""
    state, synced = work.state, list[tuple[int, int]]()
    sync = state.bytes.sync

    def noted() -> list[tuple[int, int]]:
        synced.extend(found := sync())
        return found

    monkeypatch.setattr(state.bytes, "sync", noted)
    fh = work.vfs.create("file~", 0o644, os.O_RDWR, CALLER).fh
    work.vfs.write(fh, b"written", 0)
    work.vfs.fsync(fh)
    assert not state.journal.needs_sync
    work.vfs.release(fh)
    file = state.index.file_at("file~")
    assert file is not None
    eventually(lambda: (file.ino, file.generation) in synced)


def test_each_close_of_a_refused_save_fails_with_sync_on_close(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.9, 4.11: a program that has the descriptor twice, as a child has it too, gets the error each time."""
    server.faults.set_rate("error", 1.0, on="create", status=413)
    work = start(write_back_delay=60, sync_on_close=True)
    fh = work.vfs.create("large", 0o644, os.O_RDWR, CALLER).fh
    work.vfs.write(fh, b"x", 0)
    assert [errno_from(work.vfs.flush, fh) for _ in range(2)] == [errno.EFBIG] * 2
    work.vfs.release(fh)


@pytest.mark.parametrize("overtaken", [False, True])
def test_an_open_repeats_its_lookup_only_after_a_change(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, overtaken: bool
) -> None:
    """vfs/semantics.md 1.6, 3.1: another file that was renamed to the name since the look-up is the one that is opened."""
    server.store.seed({"file": b"before", "other": b"renamed over it"}, age=60)
    work = start(ttl=60)
    assert [work.read(name) for name in ("file", "other")] == [b"before", b"renamed over it"]
    view, looks = work.vfs._view, list[str]()
    find_known = view.find_known

    def counted(path: str) -> Node | None:
        looks.append(path)
        return find_known(path)

    with work.opening("file", os.O_RDONLY) as held:
        if overtaken:
            OvertakenLock(work.vfs.get_handle(held).file, partial(work.vfs.rename, "other", "file"))
        with work.opening("file", os.O_RDONLY) as fh:
            assert work.vfs.read(fh, 100, 0) == (b"renamed over it" if overtaken else b"before")
        monkeypatch.setattr(view, "find_known", counted)
        with work.opening("file", os.O_RDONLY):
            assert looks == []


def test_a_file_that_the_job_has_recreated_is_opened_as_another_file(server: Server, start: Start) -> None:
    """vfs/semantics.md 1.22: two files never share an inode number, though the open began with the file that is gone."""
    server.store.seed({"file": b"before"}, age=60)
    work = start(ttl=60)
    before = work.vfs.getattr("file").ino
    server.store.delete("file")
    server.store.seed({"file": b"after"})
    with work.opening("file", os.O_RDONLY) as fh:
        assert work.vfs.read(fh, 100, 0) == b"after"
        assert work.vfs.fgetattr(fh).ino == work.vfs.getattr("file").ino != before


def test_an_append_during_anothers_close_writes_to_the_same_file(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.2: the one that had the file looked up gets the File that another program has opened since."""
    server.store.seed({"log": b"line"}, age=60)
    closing, opened, appending = work.vfs.open("log", os.O_RDONLY).fh, list[int](), os.O_WRONLY | os.O_APPEND

    def reopen() -> None:
        work.vfs.release(closing)
        opened.append(work.vfs.open("log", appending).fh)

    OvertakenLock(work.vfs.get_handle(closing).file, reopen)
    opened.append(work.vfs.open("log", appending).fh)
    assert len(opened) == 2
    for fh in opened:
        work.vfs.write(fh, b"+%d" % fh, 0)
    for fh in opened:
        work.vfs.flush(fh)
        work.vfs.release(fh)
    expected = b"line" + b"".join(b"+%d" % fh for fh in opened)
    assert work.read("log") == expected
    work.drain()
    assert visible(server) == {"log": expected}


def test_no_way_of_opening_and_closing_leaks_the_use_of_a_process(work: Workspace) -> None:
    """vfs/semantics.md 6.15: else no process that has ended would be forgotten."""
    process = work.state.read_log.process_of(os.getpid())
    assert process is not None
    before = process.uses
    work.vfs.release(work.vfs.create("file", 0o644, os.O_RDWR, CALLER).fh)
    work.vfs.truncate("file", 3, CALLER.pid)
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        opened = [work.vfs.open("file", flags, CALLER.pid).fh for _ in range(2)]
        assert process.uses == before + 2
        for fh in opened:
            work.vfs.release(fh)
    for path in ("file/none", "none"):
        assert errno_from(work.vfs.open, path, os.O_RDONLY, CALLER.pid)
    assert process.uses == before


@pytest.mark.parametrize("job_writes", [False, True])
def test_the_next_mount_knows_what_a_program_has_read(
    server: Server, work: Workspace, job_writes: bool
) -> None:
    """vfs/semantics.md 4.44, 4.63: and what was placed; only what the job has written since is kept beside."""
    server.store.seed(dict.fromkeys(("read", "saved"), b"old"), age=60)
    for path in ("read", "saved"):
        assert work.read(path) == b"old"
    with work.opening("saved", os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, b"first save", 0)
    work.remount()
    if job_writes:
        for path in ("read", "saved"):
            server.store.write(path, b"the job's")
    work.vfs.refresh()
    for path in ("read", "saved"):
        with work.opening(path, os.O_WRONLY | os.O_TRUNC) as fh:
            work.vfs.write(fh, b"second", 0)
    wait_until_settled(work)
    kept = {f"{path}.conflict": b"the job's" for path in ("read", "saved") if job_writes}
    assert untimed(visible(server)) == {"read": b"second", "saved": b"second", **kept}
