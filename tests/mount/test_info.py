"""What `jobfs info` tells of a file and `jobfs set` changes (vfs/semantics.md 2)."""

from __future__ import annotations

import errno
import os

from tests.support.files import errno_from
from tests.support.mounts import MountedJob, run

from jobfs.emulator import Server


def test_there_are_no_extended_attributes(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 2.16: EOPNOTSUPP, and `cp -a` does not mind."""
    server.store.seed({"file.txt": "content"})
    assert errno_from(os.getxattr, mounted.path / "file.txt", "user.jobfs.id") == errno.ENOTSUP
    assert run(mounted.path, "cp", "-a", "file.txt", "copy.txt") == ""


def test_jobfs_set_changes_what_it_is_given(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 2.17: `jobfs set PATH --lifecycle/--permission` = update."""
    server.store.seed({"dir/file.txt": "content"})
    path = mounted.path / "dir/file.txt"
    assert mounted.jobfs("set", path, "--permission", "readOnly").returncode == 0
    assert server.store.item("dir/file.txt").permission == "readOnly"
    assert errno_from(path.write_bytes, b"x") == errno.EACCES
    done = mounted.jobfs("set", path, "--permission", "readWrite", "--lifecycle", "application")
    assert done.returncode == 0, done.stderr
    item = server.store.item("dir/file.txt")
    assert (item.permission, item.lifecycle) == ("readWrite", "application")
    assert server.store.read("dir/file.txt") == b"content"
