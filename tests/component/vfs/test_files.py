"""Open files: handles, bytes, close."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from tests.support.files import errno_from
from tests.support.serverside import untimed, visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Start, Workspace, workspace

from jobfs.emulator import Server
from jobfs.nodes import Item
from jobfs.state import File
from jobfs.vfs import Caller
from jobfs.vfs.view import Node


def test_a_scratch_file_is_synced_at_fsync_and_soon_after_its_close(
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
    assert not state.journal.needs_sync
    work.vfs.release(fh)
    file = state.index.file_at("file~")
    assert file is not None
    eventually(lambda: (file.ino, file.generation) in synced)


def test_a_close_waits_for_the_server_with_sync_on_close(server: Server, tmp_path: Path) -> None:
    """vfs/semantics.md 4.9: `--sync-on-close` gives close the meaning of fsync."""
    with workspace(server, tmp_path / "other", write_back_delay=60, sync_on_close=True) as work:
        work.write("file", b"x")
        work.write("file~", b"scratch")
        assert server.store.tree() == {"file": b"x"}
        server.faults.set_rate("error", 1.0, on="create", status=413)
        fh = work.vfs.create("large", 0o644, os.O_RDWR, CALLER).fh
        work.vfs.write(fh, b"x", 0)
        # A program that has the descriptor twice, as a child has it too, hears it from each close.
        assert [errno_from(work.vfs.flush, fh) for _ in range(2)] == [errno.EFBIG] * 2
        work.vfs.release(fh)


def test_the_kernel_keeps_the_pages_of_a_cached_file(server: Server, work: Workspace) -> None:
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


@pytest.mark.parametrize("overtaken", [False, True])
def test_an_open_repeats_its_lookup_only_after_a_change(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, overtaken: bool
) -> None:
    """vfs/semantics.md 1.6, 3.1: another file that was renamed to the name since the look-up is the one that is opened."""
    server.store.seed({"file": b"before", "other": b"renamed over it"}, age=60)
    work = start(ttl=60)
    assert [work.read(name) for name in ("file", "other")] == [b"before", b"renamed over it"]
    view, looks, renames = work.vfs._view, list[str](), ["other"] * overtaken
    get, find_known = view.get, view.find_known

    def overtaken_get(path: str, max_age: float | None = None) -> Node:
        node = get(path, max_age)
        if renames:
            work.vfs.rename(renames.pop(), path)
        return node

    def counted(path: str) -> Node | None:
        looks.append(path)
        return find_known(path)

    monkeypatch.setattr(view, "get", overtaken_get)
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


def test_an_append_during_anothers_close_writes_to_the_same_file(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.2: the one that had the file looked up gets the File that another program has opened since."""
    server.store.seed({"log": b"line"}, age=60)
    closing, opened, appending = (
        [work.vfs.open("log", os.O_RDONLY).fh],
        list[int](),
        os.O_WRONLY | os.O_APPEND,
    )
    state = work.vfs._state
    of = state.get_or_add_file

    def overtaken(item: Item) -> File:
        file = of(item)
        if closing:
            work.vfs.release(closing.pop())
            opened.append(work.vfs.open("log", appending).fh)
        return file

    monkeypatch.setattr(state, "get_or_add_file", overtaken)
    opened.append(work.vfs.open("log", appending).fh)
    for fh in opened:
        work.vfs.write(fh, b"+%d" % fh, 0)
    for fh in opened:
        work.vfs.flush(fh)
        work.vfs.release(fh)
    expected = b"line" + b"".join(b"+%d" % fh for fh in opened)
    assert work.read("log") == expected
    work.drain()
    assert visible(server) == {"log": expected}


def test_an_inherited_descriptor_replaces_what_its_ended_opener_read(server: Server, tmp_path: Path) -> None:
    """vfs/semantics.md 4.42: another program has it, as after a fork; what others have read since stays beside."""
    server.store.seed({"file": b"first"}, age=60)
    with workspace(server, tmp_path / "home", ttl=0.2, write_back_delay=60) as work:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as opener:
            fh = work.vfs.open("file", os.O_RDWR, opener.pid).fh
            assert work.vfs.read(fh, 100, 0) == b"first"
        server.store.write("file", b"the second")
        eventually(lambda: work.read("file") == b"the second")
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as reader:
            work.vfs.release(work.vfs.open("file", os.O_RDONLY, reader.pid).fh)
        _find_ended(work)
        work.vfs.ftruncate(fh, 0)
        work.vfs.write(fh, b"mine", 0)
        work.vfs.fsync(fh)
        process = work.vfs.get_handle(fh).process
        assert process is not None
        assert process.uses == 1
        work.vfs.release(fh)
        assert not process.uses
        both = {"file": b"mine", "file.conflict": b"the second"}
        eventually(lambda: untimed(visible(server)) == both)


def _find_ended(work: Workspace) -> None:
    """The mount checks all processes for their end, as it does bit by bit when programs open files."""
    for stranger in range(2**30, 2**30 + 100):
        work.vfs._state.read_log.process_of(stranger)


def test_no_way_of_opening_and_closing_leaks_the_use_of_a_process(work: Workspace) -> None:
    """vfs/semantics.md 6.15: else no process that has ended would be forgotten."""
    caller = Caller(os.getuid(), os.getgid(), os.getpid())
    process = work.vfs._state.read_log.process_of(os.getpid())
    assert process is not None
    before = process.uses
    work.vfs.release(work.vfs.create("file", 0o644, os.O_RDWR, caller).fh)
    work.vfs.truncate("file", 3, caller.pid)
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        opened = [work.vfs.open("file", flags, caller.pid).fh for _ in range(2)]
        assert process.uses == before + 2
        for fh in opened:
            work.vfs.release(fh)
    for path in ("file/none", "none"):
        assert errno_from(work.vfs.open, path, os.O_RDONLY, caller.pid)
    assert process.uses == before
