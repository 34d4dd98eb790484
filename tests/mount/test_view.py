"""What the mount shows of the server's items, and when."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest
from tests.support.files import errno_from
from tests.support.mounts import MountedJob
from tests.support.serverside import hidden, visible
from tests.support.waiting import PATIENCE, eventually, eventually_equal

from jobfs.emulator import Server


@pytest.mark.parametrize("path_style", ["relative", "slash"])
def test_changes_of_the_job_are_seen_within_the_ttl(
    server: Server, mounted: MountedJob, path_style: str
) -> None:
    """semantics 1.4: a change made by the job is visible to a new stat, open or readdir within the TTL."""
    server.set(path_style=path_style)
    server.store.seed({"a.txt": "one", "dir/b.txt": "b"})
    root = mounted.path
    eventually_equal(lambda: sorted(os.listdir(root)), ["a.txt", "dir"])
    assert (root / "a.txt").read_bytes() == b"one"
    server.store.write("a.txt", "two, longer")
    server.store.move("dir", "folder")
    server.store.seed({"new.txt": "new"})
    eventually_equal(lambda: (root / "a.txt").read_bytes(), b"two, longer")
    eventually_equal(lambda: sorted(os.listdir(root)), ["a.txt", "folder", "new.txt"])
    eventually(lambda: not (root / "dir/b.txt").exists())
    assert (root / "folder/b.txt").read_bytes() == b"b"
    assert (root / "new.txt").read_bytes() == b"new"


def test_what_is_known_is_served_while_the_server_is_down(
    server: Server, mount: Callable[..., MountedJob]
) -> None:
    """semantics 1.13: not there is not could not ask; a failure never looks like an empty directory."""
    server.store.seed({"known.txt": "known", "dir/inner.txt": "never read"}, age=60)
    mounted = mount(timeout=1)
    assert (mounted.path / "known.txt").read_bytes() == b"known"
    assert os.listdir(mounted.path / "dir") == ["inner.txt"]
    with server.down():
        unavailable = (errno.EIO, errno.ETIMEDOUT)
        assert errno_from((mounted.path / "dir/inner.txt").read_bytes) in unavailable
        assert (mounted.path / "known.txt").read_bytes() == b"known"
        assert os.listdir(mounted.path / "dir") == ["inner.txt"]
        assert sorted(os.listdir(mounted.path)) == ["dir", "known.txt"]
        (mounted.path / "known.txt").write_bytes(b"changed while it was down")
        assert (mounted.path / "known.txt").read_bytes() == b"changed while it was down"
    eventually_equal(lambda: visible(server).get("known.txt"), b"changed while it was down", 2 * PATIENCE)
    eventually_equal(lambda: errno_from((mounted.path / "dir/inner.txt").read_bytes), 0)
    mounted.settled()


def test_hidden_items_of_others_are_neither_shown_nor_touched(server: Server, mounted: MountedJob) -> None:
    """semantics 4.23, 4.26: hidden items of another mount are left alone; what merely begins so is ordinary."""
    foreign = f".jobfs-{'a' * 12}-{'b' * 16}-aside-note.txt"
    server.store.seed({foreign: "foreign", ".jobfs-notes": "ordinary", ".jobfs": "of that name", "x": "x"})
    assert sorted(os.listdir(mounted.path)) == [".jobfs-notes", "x"]
    assert not (mounted.path / foreign).exists()
    mounted.umount()
    assert hidden(server) == [foreign]
    assert server.log.changes() == []


def test_the_status_is_well_right_after_the_mount(server: Server, mounted: MountedJob) -> None:
    """semantics 6: status: exit code 0 all well, 1 something needs a person, 2 not mounted."""
    done = mounted.jobfs("status", mounted.path)
    assert done.returncode == 0, done.stdout
    mounted.umount()
    assert mounted.jobfs("status", mounted.path).returncode == 2
