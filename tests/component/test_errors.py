"""The server's refusals as a program sees them."""

from __future__ import annotations

import errno
import os

import pytest
from tests.support.files import errno_from
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import Start, wait_until_settled

from jobfs.emulator import Server


def test_a_refused_key_is_eacces_in_the_status_and_not_retried(server: Server, start: Start) -> None:
    """vfs/semantics.md 5.2: 401: EACCES; no retry storm; status says "API key refused"."""
    server.store.seed({"dir/file": "x"}, age=60)
    work = start(ttl=0.1, stale_if_error=0)
    assert work.names() == ["dir"]
    server.faults.set_rate("error", 1.0, status=401, reason="Failed to authenticate")
    eventually(lambda: errno_from(work.vfs.getattr, "unknown") == errno.EACCES)
    server.log.clear()
    for _ in range(100):
        errno_from(work.vfs.getattr, "unknown")
    assert server.log.count() <= 10
    assert work.vfs.status()["server"]["key_refused"] is True


@pytest.mark.parametrize("there", [False, True])
def test_a_file_made_read_only_before_it_was_sent_is_saved(server: Server, start: Start, there: bool) -> None:
    """vfs/semantics.md 2.4: chmod changes the permission, of a server too that moves and deletes nothing that is readOnly."""
    server.set(read_only="enforced", create_existing="duplicate")
    if there:
        server.store.seed({"file": "old"}, age=60)
    work = start(write_back_delay=30)
    work.write("file", b"new")
    work.vfs.chmod("file", 0o444)
    wait_until_settled(work)
    assert (visible(server), server.store.item_at("file").permission) == ({"file": b"new"}, "readOnly")
    assert errno_from(work.vfs.unlink, "file") == errno.EIO
    assert work.read("file") == b"new"
    work.vfs.chmod("file", 0o644)
    work.vfs.unlink("file")
    assert visible(server) == {}


def test_a_server_that_answers_404_to_a_lookup_of_a_missing_name_is_used_as_any_other(
    server: Server, start: Start
) -> None:
    """vfs/semantics.md 5.17."""
    server.set(find_missing=404)
    server.store.seed({"dir/edited": "old", "dir/removed": "old", "dir/replaced": "old"}, age=60)
    work = start(ttl=0)
    assert errno_from(work.vfs.getattr, "dir/new") == errno.ENOENT
    work.mkdir("made")
    for path in ("dir/new", "made/new", "dir/edited", "dir/temporary"):
        work.write(path, b"saved", fsync=True)
    work.vfs.rename("dir/temporary", "dir/replaced")
    work.vfs.unlink("dir/removed")
    assert errno_from(work.vfs.getattr, "dir/removed") == errno.ENOENT
    saved = dict.fromkeys(("dir/new", "made/new", "dir/edited", "dir/replaced"), b"saved")
    wait_until_settled(work, {"dir": None, "made": None, **saved})
    server.store.delete("dir/edited")
    eventually(lambda: errno_from(work.vfs.getattr, "dir/edited") == errno.ENOENT)


@pytest.mark.parametrize("lists", [False, True], ids=["404 to everything", "an empty list"])
def test_a_job_that_is_gone_does_not_look_like_an_empty_workspace(
    server: Server, start: Start, lists: bool
) -> None:
    """vfs/semantics.md 1.12, 1.15, 5.17: what is known is served for a while, and what is unsent is kept."""
    server.set(find_missing=404)
    server.store.seed({"dir/file": "x", "dir/other": "y"}, age=60)
    work = start(ttl=0.1, stale_if_error=60, write_back_delay=0)
    assert work.tree() == {"dir": None, "dir/file": b"x", "dir/other": b"y"}
    if lists:
        for path in ("dir/file", "dir/other", "dir"):
            server.store.delete(path)
    on = "instance+find+get+create" if lists else "*"
    server.faults.set_rate(
        "error", 1.0, on=on, status=404, reason="Expert job or workspace instance not found"
    )
    eventually(lambda: work.names("dir") == ["file", "other"] and work.vfs.status()["server"]["stale"])
    work.write_back.namespace._stale_if_error = 0.1
    eventually(lambda: errno_from(work.names, "dir") == errno.EIO)
    assert [errno_from(work.vfs.getattr, path) for path in ("dir/other", "unknown")] == [errno.EIO] * 2
    work.write_back.namespace._stale_if_error = 60.0
    work.write("dir/file", b"mine", flags=os.O_RDWR)
    assert work.read("dir/file") == b"mine"
    server.faults.clear()
    work.drain()
    assert server.store.read("dir/file") == b"mine"
