"""What a program is told by a server that refuses, or that claims success and does something else (vfs/semantics.md 5)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.files import errno_from, saved
from tests.support.mounts import MountedJob, run
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

#: Settings of `name_form`, and a name that is not kept as it is sent.
FORMS = {"nfc": "u\u0308ber", "lower": "README", "trimmed": "blank "}


def test_saves_that_a_server_only_claims_to_do_fail_and_are_sent_once_it_does_them(
    server: Server, mounted: MountedJob
) -> None:
    """save/protocol.md, The steps, promote: an answer counts only if it shows H at T."""
    old = {f"old{number}": b"old" for number in range(5)}
    saves = dict.fromkeys([*old, *(f"new{number}" for number in range(5))], b"mine")
    server.store.seed(old, age=60)
    server.set(
        create_existing="overwrite"
    )  # else what is new is made at its name after a while, without an update
    assert len(os.listdir(mounted.path)) == 5
    server.faults.rate("undone", 1.0, on="update")
    failed = {name: errno_from(saved, mounted.path / name, content) for name, content in saves.items()}
    assert failed == dict.fromkeys(saves, errno.EIO)
    struck = server.faults.struck
    eventually(lambda: server.faults.struck > struck + 10, "they are tried on and on")
    assert {name: (mounted.path / name).read_bytes() for name in saves} == saves
    assert visible(server) == old
    assert "update item" in mounted.log
    assert "does not match the API reference" in mounted.log
    server.faults.clear()
    mounted.settled()
    assert visible(server) == saves


def test_changes_of_names_that_a_server_only_claims_to_do_fail(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 5: a reply that does not match what was asked for is EIO, and a log line that tells the mismatch."""
    server.store.seed({"file": "1", "other": "2", "dir/inside": "3", "empty": None}, age=60)
    before, path = visible(server), mounted.path
    shown = sorted(os.listdir(path))
    server.faults.rate("undone", 1.0, on="update")
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
    mounted.settled()
    assert visible(server) == {"other": b"1", "moved": None, "moved/inside": b"3", "made": None}


@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_the_server_keeps_in_another_form_is_refused_at_once(
    server: Server, mounted: MountedJob, form: str
) -> None:
    """save/protocol.md R6: the save is refused and the bytes are kept; the item under the other name is removed again."""
    name, path = FORMS[form], mounted.path
    server.set(name_form=form)
    server.store.seed({"from": "x", "dir/inside": "y"}, age=60)
    for number in range(8):  # enough for a mount to ask how this server takes new files
        saved(path / f"plain{number}", b"plain")
    before = visible(server)

    (path / name).write_bytes(b"mine")
    with pytest.raises(AssertionError, match="Input/output error"):
        run(path, "sync", name)
    (failed,) = mounted.status()["failed"]
    assert "the server keeps the name" in failed["reason"]
    asked = len(server.log.changes())
    assert errno_from(saved, path / name, b"mine again") == errno.EIO
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
    mounted.settled()
    assert visible(server) == {**before, name: b"mine again"}


#: What the server answers to a create, and what fsync and close fail with.
REFUSALS = {
    (400, "Invalid path"): errno.EIO,
    (400, "Path already exists"): errno.EIO,
    (400, "No"): errno.EIO,
    (403, "Forbidden"): errno.EIO,
    (413, "Too large"): errno.EFBIG,
    (415, "Unsupported"): errno.EIO,
    (422, "Validation failed"): errno.EIO,
    (507, "Insufficient storage"): errno.ENOSPC,
    (401, "Failed to authenticate"): errno.EIO,
}


def failing(call: Callable[[int], None], path: Path, content: bytes) -> int:
    """Writes a file; the errno that `call` on its descriptor fails with, 0 if it does not."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(file, content)
        call(file)
    except OSError as error:
        return error.errno or -1
    finally:
        if call is not os.close:
            os.close(file)
    return 0


def test_fsync_of_a_refused_save_fails_as_a_disk_would(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 5.13: fsync never fails with EINVAL, EOPNOTSUPP or ENOSYS, for new files and for old ones."""
    server.store.seed({f"old{number}": "old" for number in range(len(REFUSALS))}, age=60)
    os.listdir(mounted.path)
    for number, ((status, reason), expected) in enumerate(REFUSALS.items()):
        server.faults.rate("error", 1.0, on="create", status=status, reason=reason)
        for path in (mounted.path / f"new{number}", mounted.path / f"old{number}"):
            assert failing(os.fsync, path, b"mine") == expected, reason
            assert path.read_bytes() == b"mine"
            with open(path, "rb+") as file, pytest.raises(OSError) as again:  # noqa: PT011
                os.fsync(file.fileno())
            assert again.value.errno == expected, "asked once more, it says the same"
        server.faults.clear()
