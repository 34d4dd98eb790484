"""The Vfs: the control directory, a read-only mount, status."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.support.files import errno_from
from tests.support.workspaces import CALLER, Workspace, workspace

from jobfs.emulator import Server


def test_the_control_directory_tells_of_the_mount(server: Server, work: Workspace) -> None:
    """semantics 6.7: inside the mount, hidden from readdir: `.jobfs/job.json`, `status.json`, `pending`."""
    work.write("unsent", b"x")
    assert work.names() == ["unsent"]
    assert work.names(".jobfs") == ["job.json", "pending", "status.json"]
    assert json.loads(work.read(".jobfs/job.json"))["expertJob"]["id"] == server.job
    assert json.loads(work.read(".jobfs/status.json"))["unsent"][0]["path"] == "unsent"
    assert work.read(".jobfs/pending") == b"unsent\n"
    assert errno_from(work.vfs.getattr, ".jobfs/other") == errno.ENOENT
    assert errno_from(work.vfs.listdir, ".jobfs/pending") == errno.ENOTDIR


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
            (vfs.access, ("file", os.W_OK, CALLER)), (vfs.hide, ("file", ".fuse_hidden1")),
        ]  # fmt: skip
        for call, arguments in calls:
            assert errno_from(call, *arguments) == errno.EROFS, call
        assert work.read("file") == b"x"
    assert server.log.changes() == []


def test_info_of_a_path_follows_its_state(server: Server, work: Workspace) -> None:
    """semantics 2: `jobfs info PATH`: state (clean, dirty, uploading, failed, conflict), error."""
    server.store.seed({"file": "x"}, age=60)
    assert work.vfs.info("file")["state"] == "clean"
    work.write("file", b"changed")
    info = work.vfs.info("file")
    assert (info["state"], info["size"], info["lifecycle"]) == ("dirty", 7, "expertJob")
    work.drain()
    info = work.vfs.info("file")
    assert (info["state"], info["id"]) == ("clean", server.store.item("file").id)
    work.write("file~", b"scratch")
    assert work.vfs.info("file~")["state"] == "local"


def test_a_conflict_is_told_until_it_is_dealt_with(server: Server, work: Workspace) -> None:
    """semantics 4.21: state `conflict` and a warning say so."""
    server.store.seed({"file.txt": "old"}, age=60)
    work.write("file.txt", b"users")
    server.store.write("file.txt", "jobs")
    work.drain()
    (conflict,) = work.vfs.status()["conflicts"]
    assert conflict["origin"] == "file.txt"
    assert work.vfs.info(conflict["path"])["state"] == "conflict"
    assert work.read(conflict["path"]) == b"jobs"
    work.vfs.unlink(conflict["path"])
    assert work.vfs.status()["conflicts"] == []


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
    steps: list[tuple[int, int]] = []
    assert work.vfs.flush_all(None, 20, lambda done, total: steps.append((done, total))) == []
    assert steps[-1] == (3, 3)


def test_free_space_is_that_of_this_machine(server: Server, work: Workspace) -> None:
    """semantics 2.10: statfs."""
    server.store.seed({"file": "x" * 10_000})
    work.names()
    facts = work.vfs.statfs()
    assert facts.blocks == facts.bfree + 3
    assert facts.bavail > 0
