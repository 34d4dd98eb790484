"""What a program gets from a server that refuses, or that claims success and does something else (vfs/semantics.md 5)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest
from tests.support.files import errno_from, save_file
from tests.support.mounts import MountedJob, run
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server


def test_a_save_that_a_server_only_claims_to_do_is_sent_again(server: Server, mounted: MountedJob) -> None:
    """save/protocol.md, The steps, promote: an answer counts only if it shows H at T."""
    old = {f"old{number}": b"old" for number in range(5)}
    saves = dict.fromkeys([*old, *(f"new{number}" for number in range(5))], b"mine")
    server.store.seed(old, age=60)
    server.set(create_existing="overwrite")  # else what is new is made at its name after a while
    assert len(os.listdir(mounted.path)) == 5
    server.faults.set_rate("undone", 1.0, on="update")
    failed = {name: errno_from(save_file, mounted.path / name, content) for name, content in saves.items()}
    assert failed == dict.fromkeys(saves, errno.EIO)
    struck = server.faults.injected_count
    eventually(lambda: server.faults.injected_count > struck + 10, "they are tried on and on")
    assert {name: (mounted.path / name).read_bytes() for name in saves} == saves
    assert visible(server) == old
    assert "renaming an item to old0: the server answered, but did not move it" in mounted.log
    assert "does not match the API reference" not in mounted.log
    server.faults.clear()
    mounted.wait_until_settled()
    assert visible(server) == saves


def test_renames_and_removals_that_a_server_only_claims_to_do_fail(
    server: Server, mounted: MountedJob
) -> None:
    """vfs/semantics.md 5: a reply that does not match its request is EIO, and a log line names the mismatch."""
    server.store.seed({"file": "1", "other": "2", "dir/inside": "3", "empty": None}, age=60)
    before, path = visible(server), mounted.path
    shown = sorted(os.listdir(path))
    server.faults.set_rate("undone", 1.0, on="update")
    calls: dict[str, Callable[[], object]] = {
        "rename": lambda: (path / "file").rename(path / "moved"),
        "rename over": lambda: (path / "file").rename(path / "other"),
        "rename of a directory": lambda: (path / "dir").rename(path / "moved"),
        "mkdir": lambda: (path / "made").mkdir(),
        "rmdir": lambda: (path / "empty").rmdir(),
        "chmod": lambda: (path / "file").chmod(0o444),
    }
    assert {name: errno_from(call) for name, call in calls.items()} == dict.fromkeys(calls, errno.EIO)
    eventually(lambda: hidden(server) == [], lambda: hidden(server))
    assert sorted(os.listdir(path)) == shown
    assert visible(server) == before
    assert "path is 'file', not 'moved'" in mounted.log
    server.faults.clear()
    for name in ("rename over", "rename of a directory", "mkdir", "rmdir"):
        calls[name]()
    mounted.wait_until_settled()
    assert visible(server) == {"other": b"1", "moved": None, "moved/inside": b"3", "made": None}


def test_a_name_that_the_server_normalises_is_refused_at_once(server: Server, mounted: MountedJob) -> None:
    """save/protocol.md R6: the save is refused and the bytes are kept; the item under the other name is removed again."""
    name, path = "u\u0308ber", mounted.path
    server.set(name_form="nfc")
    server.store.seed({"from": "x", "dir/inside": "y"}, age=60)
    for number in range(8):  # enough for a mount to ask how this server takes new files
        save_file(path / f"plain{number}", b"plain")
    before = visible(server)

    (path / name).write_bytes(b"mine")
    with pytest.raises(AssertionError, match="Input/output error"):
        run(path, "sync", name)
    (failed,) = mounted.status()["failed"]
    assert "the server keeps the name" in failed["reason"]
    asked = len(server.log.changes())
    assert errno_from(save_file, path / name, b"mine again") == errno.EIO
    assert errno_from((path / f"d{name}").mkdir) == errno.EIO
    assert errno_from((path / "from").rename, path / f"to {name}") == errno.EIO
    assert errno_from((path / "from").rename, path / name) == errno.EIO
    assert errno_from((path / "dir").rename, path / f"to {name}") == errno.EIO
    assert len(server.log.changes()) < asked + 20, "nothing is tried on and on"
    eventually(lambda: hidden(server) == [], lambda: hidden(server))
    assert visible(server) == before
    assert (path / name).read_bytes() == b"mine again"
    assert (path / "from").read_bytes() == b"x"
    assert (path / "dir/inside").read_bytes() == b"y"

    server.set(name_form="as_sent")
    mounted.ask("retry", path=None)
    mounted.wait_until_settled()
    assert visible(server) == {**before, name: b"mine again"}


#: Statuses that answer a create, and the errno of fsync.
REFUSALS = {400: errno.EIO, 401: errno.EIO, 413: errno.EFBIG, 422: errno.EIO, 507: errno.ENOSPC}


def test_fsync_of_a_refused_save_fails_as_a_disk_would(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 5.13: fsync never fails with EINVAL, EOPNOTSUPP or ENOSYS, for new files and for old ones."""
    server.store.seed({f"old{status}": "old" for status in REFUSALS}, age=60)
    os.listdir(mounted.path)
    for status, expected in REFUSALS.items():
        server.faults.set_rate("error", 1.0, on="create", status=status, reason="No")
        for path in (mounted.path / f"new{status}", mounted.path / f"old{status}"):
            assert errno_from(save_file, path, b"mine") == expected, status
            assert path.read_bytes() == b"mine"
            with open(path, "rb+") as file:
                assert errno_from(os.fsync, file.fileno()) == expected, "asked once more, it says the same"
        server.faults.clear()
