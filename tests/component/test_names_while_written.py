"""Names that change while a program writes to the file: its bytes go where the file is, and nowhere else."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.support.boundaries import watch
from tests.support.files import errno_from
from tests.support.serverside import contents, visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Start, Workspace, wait_until_settled

from jobfs.emulator import Server


@pytest.fixture
def work(server: Server, start: Start) -> Workspace:
    server.store.seed({"file": b"old", "dir/file": b"old"}, age=60)
    return start(write_back_delay=0)


def put(work: Workspace, fh: int, data: bytes, *, closed: bool) -> None:
    work.vfs.write(fh, data, 0)
    if closed:
        work.vfs.flush(fh)


def written_at(
    work: Workspace, fh: int, request: str, monkeypatch: pytest.MonkeyPatch, *, closed: bool
) -> None:
    """A program writes to `fh` while the next such request is under way."""
    client = work.vfs._write_back.client
    real = getattr(client, request)

    def interfere(*arguments: Any, **more: Any) -> Any:
        monkeypatch.undo()
        put(work, fh, b"new", closed=closed)
        return real(*arguments, **more)

    monkeypatch.setattr(client, request, interfere)


def open_and_read(work: Workspace, path: str) -> int:
    """Open a file, read it, and return the handle for a write."""
    fh = work.vfs.open(path, os.O_RDWR).fh
    work.vfs.read(fh, 100, 0)
    return fh


def test_a_file_being_written_is_unlinked_in_its_renamed_directory(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.28: a directory is renamed with everything under it."""
    fh = open_and_read(work, "dir/file")
    work.vfs.write(fh, b"saved", 0)
    work.vfs.fsync(fh)
    work.vfs.write(fh, b"not saved", 0)
    work.vfs.rename("dir", "other")
    work.vfs.unlink("other/file")
    assert work.names("other") == []
    assert work.vfs.read(fh, 100, 0) == b"not saved"
    work.vfs.release(fh)
    wait_until_settled(work, {"other": None, "file": b"old"})


@pytest.mark.parametrize(
    ("name", "over", "closed"),
    [("moved", False, True), ("moved", True, False), ("moved~", False, False), ("moved~", True, True)],
)
def test_bytes_written_while_the_file_is_renamed_go_to_its_new_name(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, over: bool, closed: bool
) -> None:
    """vfs/semantics.md 4: rename of clean items is synchronous; a file is what its handles show, under one name."""
    if over:
        server.store.seed({name: b"replaced"}, age=60)
        work.vfs.refresh()
    fh = open_and_read(work, "file")
    if name == "moved~" and not over:
        attr = work.vfs._view.attr_of_node

        def interfere(node: Any) -> Any:
            monkeypatch.undo()
            put(work, fh, b"new", closed=closed)
            return attr(node)

        monkeypatch.setattr(work.vfs._view, "attr_of_node", interfere)
    else:
        written_at(work, fh, "update", monkeypatch, closed=closed)
    work.vfs.rename("file", name)
    for _ in range(2):
        assert work.names() == sorted(["dir", name])
        assert work.read(name) == b"new"
        work.vfs.release(fh)
        wait_until_settled(work)
    eventually(lambda: "file" not in visible(server))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("move_touches", ["item", "no"])
def test_the_jobs_version_from_before_the_rename_of_an_open_file_is_kept(
    server: Server, start: Start, move_touches: str, known: bool
) -> None:
    """vfs/semantics.md 4.42: a write in place replaces the version that was opened."""
    server.set(move_touches=move_touches)
    server.store.seed({"file": b"old"}, age=60)
    work = start(write_back_delay=30, ttl=60)
    with work.opening("file") as fh:
        assert work.vfs.read(fh, 100, 0) == b"old"
        server.store.write("file", b"the job's")
        if known:
            work.vfs.refresh()
        work.vfs.rename("file", "other")
        work.vfs.write(fh, b"new", 0)
    wait_until_settled(work)
    assert server.store.read("other") == b"new"
    assert contents(server) == [b"new", b"the job's"]


@pytest.mark.parametrize("goes", ["renamed", "unlinked"])
def test_a_file_that_the_job_recreated_before_an_open_is_one_file(
    server: Server, start: Start, goes: str
) -> None:
    """vfs/semantics.md 4: a file is what its handles show, under one name, or none once it is unlinked."""
    server.store.seed({"file": b"old"}, age=60)
    work = start(write_back_delay=30, ttl=60)
    work.vfs.chmod("file", 0o755)
    server.store.replace("file", b"another")
    with work.opening("file") as fh:
        work.vfs.rename("file", "other") if goes == "renamed" else work.vfs.unlink("file")
        work.vfs.write(fh, b"written", 0)
    wait_until_settled(work, {"other": b"written"} if goes == "renamed" else {})


def test_bytes_written_during_a_replacement_belong_to_the_replaced_file(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4: a file that is renamed over is gone; its handles still read it."""
    fh = open_and_read(work, "file")
    written_at(work, fh, "update", monkeypatch, closed=True)
    work.vfs.rename("dir/file", "file")
    assert work.vfs.read(fh, 100, 0) == b"new"
    work.vfs.release(fh)
    assert work.read("file") == b"old"
    wait_until_settled(work, {"dir": None, "file": b"old"})


def test_a_file_closed_during_a_directory_rename_moves_with_it(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.28: a directory is renamed with everything under it, open and unsent files too."""
    fh = work.vfs.create("dir/made", 0o644, os.O_RDWR, CALLER).fh
    work.vfs.write(fh, b"new", 0)
    renamer = threading.Thread(target=work.vfs.rename, args=("dir", "other"))
    closer = threading.current_thread()
    asked: list[str] = []

    def interfere(step: str) -> None:
        if threading.current_thread() is closer and not asked:
            asked.append(step)
            renamer.start()
            renamer.join(0.5)

    watch(work.vfs._state.journal, interfere)
    work.vfs.flush(fh)
    renamer.join()
    work.vfs.release(fh)
    wait_until_settled(work, {"file": b"old", "other": None, "other/file": b"old", "other/made": b"new"})
    assert work.names("other") == ["file", "made"]


def test_the_target_name_of_a_pending_rename_is_taken(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.31: changes of one name come one after another."""
    server.faults.fail_next("slow", on="update", delay=0.5)
    with ThreadPoolExecutor() as pool:
        renaming = pool.submit(work.vfs.rename, "file", "new")
        eventually(lambda: not server.faults.rules(), "the rename is under way")
        assert errno_from(work.vfs.mkdir, "new", 0o755, CALLER) == errno.EEXIST
    renaming.result()
    wait_until_settled(work, {"dir": None, "dir/file": b"old", "new": b"old"})


def test_opening_a_file_during_its_unlink_fails_with_enoent(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.29: no handle is on a file whose bytes went with its name."""
    work.write("a~", b"bytes of this machine")
    measured = work.vfs._view.ensure_size_known

    def interfere(path: str, node: Any) -> Any:
        monkeypatch.undo()
        work.vfs.unlink(path)
        return measured(path, node)

    monkeypatch.setattr(work.vfs._view, "ensure_size_known", interfere)
    assert errno_from(work.vfs.open, "a~", os.O_RDONLY) == errno.ENOENT
