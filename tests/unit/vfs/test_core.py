"""The Vfs: the control directory, a read-only mount, flush."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from tests.support.files import errno_from
from tests.support.workspaces import CALLER, Workspace, workspace

from jobfs.emulator import Server
from jobfs.nodes import Sent


def test_the_control_directory_is_not_changed(work: Workspace) -> None:
    assert errno_from(work.vfs.open, ".jobfs/pending", os.O_RDWR) == errno.EACCES
    assert errno_from(work.vfs.unlink, ".jobfs/pending") == errno.EPERM
    assert errno_from(work.vfs.create, ".jobfs/new", 0o644, 0, CALLER) == errno.EPERM
    assert errno_from(work.vfs.rename, ".jobfs", "other") == errno.EPERM
    assert errno_from(work.vfs.mkdir, ".jobfs", 0o755, CALLER) == errno.EPERM


def test_a_read_only_mount_refuses_everything_that_writes(server: Server, tmp_path: Path) -> None:
    """semantics 4: they refuse everything that writes with EROFS, and make no changing request, ever."""
    server.store.seed({"file": "x", "dir": None}, age=60)
    with workspace(server, tmp_path / "home", read_only=True) as work:
        vfs = work.vfs
        calls: list[tuple[Callable[..., object], tuple[object, ...]]] = [
            (vfs.open, ("file", os.O_RDWR)), (vfs.open, ("file", os.O_TRUNC)), (vfs.truncate, ("file", 0)),
            (vfs.create, ("new", 0o644, 0, CALLER)), (vfs.mknod, ("new", 0o100644, CALLER)),
            (vfs.mkdir, ("new", 0o755, CALLER)), (vfs.rmdir, ("dir",)), (vfs.unlink, ("file",)),
            (vfs.rename, ("file", "new")), (vfs.chmod, ("file", 0)), (vfs.chown, ("file", 1, 1)),
            (vfs.utimens, ("file", 1, 1)), (vfs.symlink, ("new", "file", CALLER)),
            (vfs.hide, ("file", ".fuse_hidden1")),
        ]  # fmt: skip
        for call, arguments in calls:
            assert errno_from(call, *arguments) == errno.EROFS, call
        assert work.read("file") == b"x"
    assert server.log.changes() == []


def test_a_drain_says_what_is_left_and_why(server: Server, work: Workspace) -> None:
    server.faults.rate("error", 1.0, on="create", status=422)
    work.write("file", b"x")
    (left,) = work.vfs.flush_all(None, 5, None)
    assert (left["path"], left["size"]) == ("file", 1)
    assert left["reason"]
    (failed,) = work.vfs.status()["failed"]
    assert failed["path"] == "file"
    assert b"failed" in work.read(".jobfs/pending")


def test_a_drain_shows_its_progress(work: Workspace) -> None:
    for name in "abc":
        work.write(name, b"x")
    steps: list[Sent] = []
    assert work.vfs.flush_all(None, 20, steps.append) == []
    assert steps[-1] == Sent(3, 3, 3, 3)
