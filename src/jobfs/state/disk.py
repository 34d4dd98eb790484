"""What this machine has to be asked for by name: sync a directory, copy a file cheaply, which run of it this is."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_COPY_CHUNK = 8 << 20

#: Which run of this machine this is: another one after each boot, "" if the kernel does not say.
BOOT = ""
with contextlib.suppress(OSError):
    BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


#: What a full or failing disk answers, and the caller may know; anything else that it answers is EIO to him.
_TOLD = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE})


def failure(error: OSError) -> int:
    """The errno that the writer of a file gets for what the local disk answered: never ENOENT for a disk that is gone."""
    return error.errno if error.errno in _TOLD else errno.EIO


def sync_directory(directory: Path) -> None:
    """Return when the names in `directory` are on the disk. Raises OSError."""
    with _opened(directory) as handle:
        os.fsync(handle)


def sync_file_system(directory: Path) -> None:
    """Return when everything written to the file system that holds `directory` is on its disk. Raises OSError."""
    with _opened(directory) as handle:
        if _libc.syncfs(handle) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def copy_into(source: Path, handle: int) -> None:
    """Fill the empty file `handle` with `source`; the kernel has them share blocks where the file system can. Raises OSError."""
    with source.open("rb", buffering=0) as origin:
        try:
            while os.copy_file_range(origin.fileno(), handle, _COPY_CHUNK):
                pass
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            with open(handle, "wb", closefd=False) as target:
                shutil.copyfileobj(origin, target)
