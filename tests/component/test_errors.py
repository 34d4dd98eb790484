"""The server's refusals as a program sees them."""

from __future__ import annotations

import errno

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
