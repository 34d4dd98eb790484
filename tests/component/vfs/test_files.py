"""Open files: handles, bytes, close."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tests.support.files import errno_from
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Workspace, workspace

from jobfs.emulator import Server


def test_a_handle_that_is_closed_is_no_handle(work: Workspace) -> None:
    fh = work.vfs.create("file", 0o644, os.O_RDWR, CALLER).fh
    work.vfs.release(fh)
    work.vfs.release(fh)
    for call, *more in (work.vfs.read, 1, 0), (work.vfs.write, b"", 0), (work.vfs.fsync,):
        assert errno_from(call, fh, *more) == errno.EBADF


def test_a_scratch_file_is_on_the_disk_after_fsync_and_soon_after_its_close(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.4, 4.14: power loss is covered within a second; fsync of a scratch name syncs the local disk."""
    state, synced = work.vfs._state, list[tuple[int, int]]()
    sync = state.bytes.sync

    def noted() -> list[tuple[int, int]]:
        synced.extend(found := sync())
        return found

    monkeypatch.setattr(state.bytes, "sync", noted)
    fh = work.vfs.create("file~", 0o644, os.O_RDWR, CALLER).fh
    work.vfs.write(fh, b"written", 0)
    work.vfs.fsync(fh)
    assert not state.journal.unsynced
    work.vfs.release(fh)
    file = state.at("file~")
    assert file is not None
    eventually(lambda: (file.ino, file.generation) in synced)


def test_a_close_waits_for_the_server_with_sync_on_close(server: Server, tmp_path: Path) -> None:
    """vfs/semantics.md 4.9: `--sync-on-close` gives close the meaning of fsync."""
    with workspace(server, tmp_path / "other", write_back_delay=60, sync_on_close=True) as work:
        work.write("file", b"x")
        work.write("file~", b"scratch")
        assert server.store.tree() == {"file": b"x"}
        server.faults.rate("error", 1.0, on="create", status=413)
        fh = work.vfs.create("large", 0o644, os.O_RDWR, CALLER).fh
        work.vfs.write(fh, b"x", 0)
        # A program that has the descriptor twice, as a child has it too, hears it from each close.
        assert [errno_from(work.vfs.flush, fh) for _ in range(2)] == [errno.EFBIG] * 2
        work.vfs.release(fh)


def test_the_kernel_keeps_its_pages_of_a_file_that_is_on_disk(server: Server, work: Workspace) -> None:
    """A file that is whole on the disk is enough, also if no program has read it through this mount since."""
    server.store.seed({"file": "content"}, age=60)
    assert work.read("file") == b"content"
    work.remount()
    kept = []
    for _ in range(2):
        opened = work.vfs.open("file", os.O_RDONLY)
        kept.append(opened.keep_cache)
        work.vfs.release(opened.fh)
    assert kept == [False, True], "what the first one has to read, the second one finds"
    assert work.read("file") == b"content"
