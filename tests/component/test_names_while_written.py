"""Names that change while a program writes to the file: what it writes goes where the file is, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.files import errno_from
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace, settled

from jobfs.emulator import Server

HIDDEN = f".fuse_hidden{1:016x}"


@pytest.fixture
def work(server: Server, start: Callable[..., Workspace]) -> Workspace:
    server.store.seed({"file": b"old", "dir/file": b"old"}, age=60)
    return start(write_back_delay=0)


def written_at(
    work: Workspace,
    fh: int,
    request: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    closed: bool,
    before: bool = True,
) -> None:
    """A program writes to `fh` while the next such request is under way."""
    client = work.vfs._engine.client
    real = getattr(client, request)

    def write() -> None:
        work.vfs.write(fh, b"new", 0)
        if closed:
            work.vfs.flush(fh)

    def meanwhile(*arguments: Any, **more: Any) -> Any:
        monkeypatch.undo()
        if before:
            write()
        answer = real(*arguments, **more)
        if not before:
            write()
        return answer

    monkeypatch.setattr(client, request, meanwhile)


def opened(work: Workspace, path: str) -> int:
    """A handle of a program that has read the file and goes on to write to it."""
    fh = work.vfs.open(path, os.O_RDWR).fh
    work.vfs.read(fh, 100, 0)
    return fh


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("before", [True, False])
def test_what_is_written_while_a_file_is_unlinked_does_not_come_back(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch, closed: bool, before: bool
) -> None:
    """semantics 4: a file unlinked while open stays readable through its handle and never comes back."""
    fh = opened(work, "file")
    written_at(work, fh, "update", monkeypatch, closed=closed, before=before)
    work.vfs.hide("file", HIDDEN)
    assert work.names() == ["dir"]
    assert work.vfs.read(fh, 100, 0) == b"new"
    work.write("file", b"another")
    work.vfs.release(fh)
    work.vfs.unlink(HIDDEN)
    settled(work)
    assert visible(server) == {"dir": None, "dir/file": b"old", "file": b"another"}


def test_a_file_that_is_written_is_unlinked_where_its_directory_is_now(
    server: Server, work: Workspace
) -> None:
    """semantics 4.28: a directory is renamed with everything under it."""
    fh = opened(work, "dir/file")
    work.vfs.write(fh, b"saved", 0)
    work.vfs.fsync(fh)
    work.vfs.write(fh, b"not saved", 0)
    work.vfs.rename("dir", "other")
    work.vfs.hide("other/file", f"other/{HIDDEN}")
    assert work.names("other") == []
    assert work.vfs.read(fh, 100, 0) == b"not saved"
    work.vfs.release(fh)
    work.vfs.unlink(f"other/{HIDDEN}")
    settled(work)
    assert visible(server) == {"other": None, "file": b"old"}


@pytest.mark.parametrize("how", ["unlink", "hide"])
def test_a_file_that_could_not_be_unlinked_keeps_what_was_written_to_it(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """semantics 4.29: unlink's errors are the caller's; nothing is forgotten."""
    fh = opened(work, "file")
    work.vfs.write(fh, b"new", 0)
    namespace = work.vfs._engine.namespace
    namespace.touch("file")
    server.faults.rate("error", 1.0, on="change+find", status=403)
    assert errno_from(
        work.vfs.unlink if how == "unlink" else lambda path: work.vfs.hide(path, HIDDEN), "file"
    )
    server.faults.clear()
    assert "file" in work.names()
    assert work.read("file") == b"new"
    work.vfs.release(fh)
    settled(work)
    eventually(lambda: visible(server)["file"] == b"new")
