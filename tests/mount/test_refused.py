"""What a program is told when the server refuses its save: never that it can't be synced (semantics 5)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.mounts import MountedJob

from jobfs.emulator import Server

#: What the server answers to a create, and what fsync and close fail with.
REFUSALS = {
    (400, "Invalid path"): errno.EIO,
    (400, "Path already exists"): errno.EIO,
    (400, "No"): errno.EIO,
    (401, "Failed to authenticate"): errno.EIO,
    (403, "Forbidden"): errno.EIO,
    (413, "Too large"): errno.EFBIG,
    (415, "Unsupported"): errno.EIO,
    (422, "Validation failed"): errno.EIO,
    (507, "Insufficient storage"): errno.ENOSPC,
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


@pytest.mark.parametrize(("status", "reason"), REFUSALS)
def test_fsync_of_a_refused_save_fails_as_a_disk_would(
    server: Server, mounted: MountedJob, status: int, reason: str
) -> None:
    """semantics 5: fsync never fails with EINVAL, EOPNOTSUPP or ENOSYS, for new files and for old ones."""
    server.store.seed({"old.txt": "old"})
    os.listdir(mounted.path)
    server.faults.rate("error", 1.0, on="create", status=status, reason=reason)
    expected = REFUSALS[status, reason]
    for name in ("new.txt", "old.txt"):
        assert failing(os.fsync, mounted.path / name, b"mine") == expected
        assert (mounted.path / name).read_bytes() == b"mine"
        with open(mounted.path / name, "rb+") as file, pytest.raises(OSError) as again:  # noqa: PT011
            os.fsync(file.fileno())
        assert again.value.errno == expected, "asked once more, it says the same"


@pytest.mark.parametrize(("status", "reason"), REFUSALS)
def test_close_that_waits_for_the_server_says_the_same(
    server: Server, mount: Callable[..., MountedJob], status: int, reason: str
) -> None:
    mounted = mount(sync_on_close=True)
    server.faults.rate("error", 1.0, on="create", status=status, reason=reason)
    assert failing(os.close, mounted.path / "new.txt", b"mine") == REFUSALS[status, reason]
    assert (mounted.path / "new.txt").read_bytes() == b"mine"
