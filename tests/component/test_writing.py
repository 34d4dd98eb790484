"""Writing against the local server: what is sent, when, how often, and what is never sent."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.support.boundaries import watch
from tests.support.files import errno_from
from tests.support.serverside import visible
from tests.support.waiting import eventually, eventually_equal
from tests.support.workspaces import CALLER, Start, Workspace, wait_until_settled

from jobfs.api.deadline import limit_time
from jobfs.emulator import Server
from jobfs.errors import FsError
from jobfs.state.localbytes import LocalBytes, LocalGeneration


def changes(server: Server) -> list[str]:
    """The operations of the changing requests so far."""
    return [entry.operation for entry in server.log.changes()]


@pytest.mark.parametrize("how", ["appended to", "renamed over"])
def test_a_file_that_is_closed_repeatedly_is_sent_in_between(server: Server, start: Start, how: str) -> None:
    """vfs/semantics.md 4.5: the upload begins --write-back-delay after the first close, whatever is closed later."""
    work = start(write_back_delay=0.5)

    def again() -> bool:
        if how == "appended to":
            work.write("file", b"line")
        else:
            work.write("draft", b"line")
            work.vfs.rename("draft", "file")
        return "file" in visible(server)

    eventually(again)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each new generation was begun with."""
    made: list[int] = []
    new = LocalBytes.create

    def counted(store: LocalBytes, *arguments: Any) -> LocalGeneration:
        local = new(store, *arguments)
        made.append(local.size)
        return local

    monkeypatch.setattr(LocalBytes, "create", counted)
    return made


@pytest.mark.parametrize("reopened", [False, True])
def test_a_growing_file_that_is_closed_repeatedly_is_not_copied(
    server: Server, start: Start, copies: list[int], reopened: bool
) -> None:
    """vfs/semantics.md 4.49: of a build's log, each program of the build closes a descriptor when it ends."""
    work, written = start(write_back_delay=30), b""
    with work.closing(work.opened("log")) as shell:
        for number in range(50):
            line = b"%d\n" % number
            fh = work.vfs.open("log", os.O_WRONLY | os.O_APPEND).fh if reopened else shell
            work.vfs.write(fh, line, len(written))
            work.vfs.flush(fh)
            if reopened:
                work.vfs.release(fh)
            written += line
            assert work.vfs._state.backlog().files[0].size == len(written), (
                "it is closed when `close` returns"
            )
    assert (copies, len([*work.vfs._state.bytes.directory.iterdir()])) == ([0], 1)
    assert work.read("log") == written
    wait_until_settled(work, {"log": written})


@pytest.mark.parametrize("how", ["written over", "cut", "emptied"])
def test_closed_bytes_that_are_overwritten_are_copied_once(
    server: Server, start: Start, copies: list[int], how: str
) -> None:
    """save/protocol.md, Vocabulary, local bytes: bytes that were closed never change."""
    work = start(write_back_delay=30)
    with work.closing(work.opened("file")) as fh:
        work.vfs.write(fh, b"closed", 0)
        work.vfs.flush(fh)
        if how == "written over":
            work.vfs.write(fh, b"D", 5)
        else:
            work.vfs.ftruncate(fh, 3 if how == "cut" else 0)
        work.vfs.write(fh, b"more", 6)
        work.vfs.ftruncate(fh, 8)
        (closed,) = work.vfs._state.backlog().files
        assert work.vfs._state.bytes.generation_path(closed.ino, closed.generation).read_bytes() == b"closed"
    assert copies == [0, 0 if how == "emptied" else 6]
    wait_until_settled(
        work, {"file": {"written over": b"closeD", "cut": b"clo\0\0\0", "emptied": bytes(6)}[how] + b"mo"}
    )


@pytest.mark.parametrize("begun", [False, True], ids=["after the save was planned", "before, too"])
def test_bytes_appended_to_closed_bytes_are_sent_once_closed(
    server: Server, start: Start, copies: list[int], begun: bool
) -> None:
    """vfs/semantics.md 4.49; save/protocol.md, Vocabulary, local bytes: what is sent never changes."""
    work = start(write_back_delay=30)
    with work.closing(work.opened("log")) as fh:
        work.vfs.write(fh, b"one ", 0)
        work.vfs.flush(fh)
        work.vfs.write(fh, b"two " * begun, 4)
        server.faults.fail_next("slow", on="create", delay=0.2)
        with ThreadPoolExecutor(1) as thread:
            (file,) = work.vfs._state.backlog().files
            assert file.change is not None
            sending = thread.submit(work.vfs._write_back.queue.run_until_finished, file.change)
            eventually(lambda: server.log.count("create"))
            work.vfs.write(fh, b"three ", 4 + 4 * begun)
            sending.result(20)
        shown = b"one " + b"two " * begun + b"three "
        assert (visible(server), work.read("log")) == ({"log": b"one "}, shown)
        assert copies == [0, 4], "only the bytes being sent are copied"
        work.vfs.write(fh, b"O", 0)
        assert copies == [0, 4, *[len(shown)] * begun], "closed bytes never change"
    wait_until_settled(work, {"log": b"O" + shown[1:]})
    work.vfs._state.store.sync()
    assert [*work.vfs._state.bytes.directory.iterdir()] == []


@pytest.mark.parametrize("sync", ["fsync", "close"])
def test_fsync_waits_for_bytes_appended_during_an_upload(server: Server, start: Start, sync: str) -> None:
    """vfs/semantics.md 4.7, 4.9: the server has what was written, also where an earlier save of the file was under way."""
    work = start(write_back_delay=30, sync_on_close=False)
    with work.closing(work.opened("log")) as fh:
        work.vfs.write(fh, b"one ", 0)
        work.vfs.flush(fh)
        work.vfs.write(fh, b"two ", 4)  # not closed: the save sets what is closed apart
        server.faults.fail_next("slow", on="create", delay=0.5)
        with ThreadPoolExecutor(1) as thread:
            (file,) = work.vfs._state.backlog().files
            assert file.change is not None
            sending = thread.submit(work.vfs._write_back.queue.run_until_finished, file.change)
            eventually(lambda: server.log.count("create"))
            if sync == "fsync":
                work.vfs.fsync(fh)
            else:
                work.vfs.flush(fh)
                work.vfs._write_back.wait_until_uploaded(file)
            assert visible(server) == {"log": b"one two "}
            sending.result(20)


def test_synced_closed_bytes_are_overwritten_only_after_a_synced_copy(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.4; save/protocol.md, Vocabulary, local bytes: on the disk, the row names the mixed generation still."""
    monkeypatch.setattr("jobfs.save.writeback._SYNC_EVERY", 60.0)
    work = start(write_back_delay=30)
    with work.closing(work.opened("log")) as fh:
        work.vfs.write(fh, b"one ", 0)
        work.vfs.flush(fh)
        state = work.vfs._state
        state.store.sync()
        (file,) = state.backlog().files
        on_disk, size = state.bytes.generation_path(file.ino, file.generation), file.size
        assert file.boot == ""
        work.vfs.write(fh, b"two ", 4)
        server.faults.fail_next("slow", on="create", delay=0.5)
        with ThreadPoolExecutor(1) as thread:
            assert file.change is not None
            sending = thread.submit(work.vfs._write_back.queue.run_until_finished, file.change)
            eventually(lambda: server.log.count("create"))
            work.vfs.write(fh, b"XXX", 0)
            assert state.journal.needs_sync, "after a loss of power the journal names the first generation"
            assert on_disk.read_bytes()[:size] == b"one "
            sending.result(20)
    wait_until_settled(work, {"log": b"XXX two "})
    work.vfs._state.store.sync()
    assert [*work.vfs._state.bytes.directory.iterdir()] == []


def test_a_save_that_copies_closed_bytes_takes_space_from_the_cache(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.41: a disk that is full of cached contents keeps no save from being sent."""
    work = start(write_back_delay=30)
    with work.closing(work.opened("log")) as fh:
        work.vfs.write(fh, b"one ", 0)
        work.vfs.flush(fh)
        work.vfs.write(fh, b"two ", 4)
        state, full = work.vfs._state, [True]
        new = LocalBytes.create

        def refusing(store: LocalBytes, *arguments: Any) -> LocalGeneration:
            if full[0]:
                raise FsError(errno.ENOSPC)
            return new(store, *arguments)

        def gives_way(*arguments: Any) -> bool:
            full[0] = False
            return True

        monkeypatch.setattr(LocalBytes, "create", refusing)
        monkeypatch.setattr(work.vfs._content, "evict_on_disk_of", gives_way)
        (file,) = state.backlog().files
        assert file.change is not None
        work.vfs._write_back.queue.run_until_finished(file.change)
        assert visible(server) == {"log": b"one "}


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


def test_opening_with_o_trunc_downloads_nothing(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.1: a partial write is filled with the current content first; O_TRUNC skips that."""
    server.store.seed({"file": "x" * 100_000}, age=60)
    work = start(write_back_delay=30)
    with work.opening("file", os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, b"new", 0)
        assert server.log.count("download") == 0
    assert work.read("file") == b"new"


def test_a_half_downloaded_content_is_never_sent(server: Server, start: Start) -> None:
    """vfs/semantics.md 4: a partial write whose content can't be filled in fails, and the server keeps its file."""
    server.store.seed({"file": b"0123456789" * 1000}, age=60)
    work = start(timeout=1.0)
    assert work.names() == ["file"]
    server.faults.set_rate("cut", 1.0, on="download")
    assert errno_from(work.vfs.open, "file", os.O_RDWR) in (errno.EIO, errno.ETIMEDOUT)
    server.faults.clear()
    wait_until_settled(work, {"file": b"0123456789" * 1000})
    eventually(lambda: errno_from(work.read, "file") == 0)
    assert work.read("file") == b"0123456789" * 1000


def test_editing_the_jobs_item_keeps_the_default_that_it_shadows(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.37: only the item that is shown is replaced, a shadowed one stays."""
    server.set(path_scope="lifecycle")
    server.store.seed({"file": "default"}, lifecycle="application", age=60)
    server.store.seed({"file": "of the job"}, age=60)
    work.write("file", b"of the user", fsync=True)
    wait_until_settled(work)
    found = {item.lifecycle: server.store.content_of(item.id) for item in server.store.items_at("file")}
    assert found == {"application": b"default", "expertJob": b"of the user"}


def test_a_directory_that_is_not_empty_is_not_removed(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.29: rmdir only after a listing newer than 1 s shows it empty, else ENOTEMPTY."""
    server.store.seed({"dir": None, "full/file": "x"}, age=60)
    assert work.names("dir") == []
    server.store.seed({"dir/made by the job": "x"})
    eventually_equal(lambda: errno_from(work.vfs.rmdir, "dir"), errno.ENOTEMPTY)
    assert errno_from(work.vfs.rmdir, "full") == errno.ENOTEMPTY
    assert "delete" not in changes(server)
    server.store.delete("dir/made by the job")
    eventually_equal(lambda: errno_from(work.vfs.rmdir, "dir"), 0)
    eventually_equal(lambda: visible(server), {"full": None, "full/file": b"x"})
    wait_until_settled(work)


def test_a_directory_created_directly_and_a_file_in_it_both_exist(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.31: mkdir is synchronous; its errors are the caller's."""
    work.mkdir("dir")
    assert visible(server) == {"dir": None}
    assert errno_from(work.vfs.mkdir, "dir", 0o755, CALLER) == errno.EEXIST
    assert errno_from(work.vfs.mkdir, "no/such", 0o755, CALLER) == errno.ENOENT
    work.write("dir/file", b"x")
    wait_until_settled(work, {"dir": None, "dir/file": b"x"})


def rounds(server: Server) -> int:
    """How many requests of the log had to wait for one another: the longest chain of one after the other's end."""
    depth: list[tuple[float, int]] = []
    for entry in sorted(server.log.entries(), key=lambda entry: entry.time):
        before = [chain for end, chain in depth if end <= entry.time]
        depth.append((entry.time + (entry.ms or 0.0) / 1000, 1 + max(before, default=0)))
    return max((chain for _, chain in depth), default=0)


@pytest.mark.parametrize("move_touches", ["item", "no"])
def test_fsync_of_a_save_in_place_takes_three_round_trips(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, move_touches: str
) -> None:
    """vfs/semantics.md 4.18; save/protocol.md, The steps, Round trips of a save in place: three; one disk sync beside them."""
    work = start(request_lifetime=60)  # no listing is due for an earlier mount's requests
    server.set(move_touches=move_touches)
    server.store.seed({"file": "old"}, age=60)
    assert work.read("file") == b"old"
    syncs: list[int] = []

    def observe(what: str) -> None:
        if what == "sync":
            syncs.append(threading.get_ident())

    watch(work.vfs._state.journal, observe)
    fh = work.vfs.open("file", os.O_RDWR).fh
    with monkeypatch.context() as patch:
        # The aside goes in the background, as soon as the save is done.
        patch.setattr(work.vfs._write_back.cleanup, "clean_up", lambda change: time.monotonic() + 0.1)
        server.log.clear()
        server.faults.fail_next("slow", times=2, delay=1.0)  # time for look and create to begin side by side
        work.vfs.write(fh, b"new", 0)
        work.vfs.fsync(fh)
        assert server.store.read("file") == b"new"
        assert rounds(server) <= 2 + len(server.log.entries("find")), server.log.entries()  # R8
    assert syncs.count(threading.get_ident()) == 1, "one for the save; others are the background's"
    work.vfs.release(fh)
    wait_until_settled(work, {"file": b"new"})
    assert changes(server) == ["create", "update", "update", "delete"]


def test_fsync_waits_for_its_own_bytes_and_not_for_newer_ones(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4: fsync returns when the server has what was written before it."""
    fh = work.opened("file")
    file = work.vfs.get_handle(fh).file

    def synced() -> bytes:
        work.vfs.fsync(fh)
        return server.store.read("file")

    server.faults.fail_next("slow", on="create", times=2, delay=1.0)
    with ThreadPoolExecutor(2) as threads:
        work.vfs.write(fh, b"1", 0)
        first = threads.submit(synced)
        eventually(
            lambda: not file.has_unclosed_bytes and server.log.count("create"), "the first save is under way"
        )
        work.vfs.write(fh, b"12", 0)
        second = threads.submit(synced)
        eventually(lambda: not file.has_unclosed_bytes, "the second fsync covers all earlier writes")
        work.vfs.write(fh, b"123", 0)
        work.vfs.flush(fh)
        assert sorted([first.result(20), second.result(20)]) in ([b"1", b"12"], [b"1", b"123"])
    work.vfs.release(fh)


class _FirstOf:
    """A lock whose first taker runs `before` first, while the lock is still free."""

    def __init__(self, lock: Any, before: Callable[[], None]) -> None:
        self._lock, self._before = lock, [before]

    def __enter__(self) -> None:
        while self._before:
            self._before.pop()()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("append", [True, False])
def test_a_write_at_the_end_of_a_save_extends_the_saved_bytes(
    server: Server, start: Start, append: bool
) -> None:
    """vfs/semantics.md 4: all handles of one file share what is written; the end of a save discards none of it."""
    work = start(write_back_delay=30)
    work.write("file", b"from the first save, ")
    with work.opening("file", os.O_RDWR | (os.O_APPEND if append else 0)) as fh:
        inode = work.vfs.get_handle(fh).file
        inode.lock = _FirstOf(inode.lock, work.drain)  # type: ignore[assignment]
        work.vfs.write(fh, b"and more", 21)
    wait_until_settled(work)
    assert server.store.read("file") == b"from the first save, and more"


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
