"""What the API knows of a file, as extended attributes and by `jobfs set` (semantics 2)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from tests.support.files import errno_from, saved
from tests.support.mounts import MountedJob, run
from tests.support.waiting import eventually

from jobfs.emulator import Server


def test_what_the_api_knows_is_shown_as_extended_attributes(
    server: Server, mount: Callable[..., MountedJob]
) -> None:
    """semantics 2.16: with -o xattr the xattrs user.jobfs.*."""
    server.store.seed({"file.txt": "content"})
    mounted = mount(xattr=True)
    path = mounted.path / "file.txt"
    item = server.store.item("file.txt")
    names = os.listxattr(path)
    assert {"user.jobfs.id", "user.jobfs.permission", "user.jobfs.state"} <= set(names)
    assert os.getxattr(path, "user.jobfs.id").decode() == item.id
    assert os.getxattr(path, "user.jobfs.state") == b"clean"
    assert errno_from(os.getxattr, path, "user.other") == errno.ENODATA
    assert errno_from(os.getxattr, path, "security.capability") == errno.ENODATA
    assert errno_from(os.removexattr, path, "user.jobfs.id") == errno.EPERM
    assert errno_from(os.setxattr, path, "user.jobfs.id", b"other") == errno.EPERM
    assert errno_from(os.setxattr, path, "user.other", b"x") == errno.ENOTSUP


def test_setfattr_changes_permission_and_lifecycle_on_the_server(
    server: Server, mount: Callable[..., MountedJob]
) -> None:
    """semantics 2.16: setfattr = update."""
    server.store.seed({"file.txt": "content"})
    mounted = mount(xattr=True)
    path = mounted.path / "file.txt"
    os.setxattr(path, "user.jobfs.permission", b"readOnly")
    assert server.store.item("file.txt").permission == "readOnly"
    assert path.stat().st_mode & 0o777 == 0o444
    os.setxattr(path, "user.jobfs.lifecycle", b"application")
    assert server.store.item("file.txt").lifecycle == "application"
    assert errno_from(os.setxattr, path, "user.jobfs.permission", b"sometimes") == errno.EINVAL


def test_a_save_under_way_shows_as_state(server: Server, mount: Callable[..., MountedJob]) -> None:
    """semantics 2: state (clean, dirty, uploading, failed, conflict), error."""
    mounted = mount(xattr=True, write_back_delay=30)
    path = mounted.path / "new.txt"
    path.write_bytes(b"not sent")
    assert os.getxattr(path, "user.jobfs.state") == b"dirty"
    server.faults.rate("error", 1.0, on="create", status=413, reason="Too large")
    assert errno_from(saved, path, b"refused")
    eventually(lambda: os.getxattr(path, "user.jobfs.state") == b"failed")
    assert b"Too large" in os.getxattr(path, "user.jobfs.error")
    server.faults.clear()


def test_without_the_option_there_are_no_extended_attributes(server: Server, mounted: MountedJob) -> None:
    server.store.seed({"file.txt": "content"})
    assert errno_from(os.getxattr, mounted.path / "file.txt", "user.jobfs.id") == errno.ENOTSUP
    assert run(mounted.path, "cp", "-a", "file.txt", "copy.txt") == ""


def test_jobfs_set_changes_what_it_is_given(server: Server, mounted: MountedJob) -> None:
    """semantics 2.17: `jobfs set PATH --lifecycle/--permission` = update."""
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
