"""What a program is told when the server refuses its save: never that it can't be synced (vfs/semantics.md 5)."""

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
