"""What `jobfs info` tells of a file and `jobfs set` changes (vfs/semantics.md 2)."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.support.files import errno_from, saved
from tests.support.mounts import MountedJob, run
from tests.support.waiting import eventually

from jobfs.emulator import Server


def condition(mounted: MountedJob, path: Path) -> tuple[str, str]:
    facts = json.loads(mounted.jobfs("info", path, "--json").stdout)
    return facts["state"], facts["error"]


def test_a_save_under_way_shows_as_state(server: Server, mount: Callable[..., MountedJob]) -> None:
    """vfs/semantics.md 2: state (clean, dirty, uploading, failed, conflict), error."""
    mounted = mount(write_back_delay=30)
    path = mounted.path / "new.txt"
    path.write_bytes(b"not sent")
    assert condition(mounted, path) == ("dirty", "")
    server.faults.rate("error", 1.0, on="create", status=413, reason="Too large")
    assert errno_from(saved, path, b"refused")
    eventually(lambda: condition(mounted, path)[0] == "failed")
    assert "Too large" in condition(mounted, path)[1]
    server.faults.clear()


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


def test_jobfs_set_refuses_what_makes_no_sense(mounted: MountedJob) -> None:
    for words, said in (
        (("set", mounted.path / "gone", "--permission", "readOnly"), "No such file"),
        (("set", mounted.path, "--permission", "sometimes"), "sometimes"),
        (("set", mounted.path), "nothing to change"),
    ):
        done = mounted.jobfs(*words)
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr
