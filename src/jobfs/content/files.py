"""Open files of the cache: closed by the last user, copied cheaply."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from jobfs.errors import FsError

#: ioctl that makes one file share another's blocks (Linux, btrfs and XFS).
_FICLONE = 0x40049409
_PIECE = 8 * 1024 * 1024


class CacheFile:
    """A file descriptor and its path; the descriptor is closed when nobody refers to this object any more.

    So a reader that holds a reference may `pread` while another thread puts a newer file in its place.
    """

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)

    def there(self) -> bool:
        """True if the path still leads to this file (somebody may have cleared the cache)."""
        try:
            found, own = os.stat(self.path), os.fstat(self.fd)
        except OSError:
            return False
        return (found.st_ino, found.st_dev) == (own.st_ino, own.st_dev)


def write_all(fd: int, data: bytes | memoryview, position: int) -> None:
    """Write everything at `position`; raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view = view[written:]
        position += written


def read_all(fd: int, position: int, size: int) -> bytes:
    """Up to `size` bytes from `position`, fewer only at the end of the file; raises OSError."""
    data = os.pread(fd, size, position)
    if len(data) == size or not data:
        return data
    parts = [data]
    while (missing := size - sum(map(len, parts))) > 0 and data:
        data = os.pread(fd, missing, position + size - missing)
        parts.append(data)
    return b"".join(parts)


def clone(source: int, target: int, size: int) -> None:
    """Make `target`, an empty file, hold the bytes of `source`: by shared blocks if possible, else copied.

    Raises OSError; FsError (EIO) if `source` has fewer than `size` bytes.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        _copy(source, target, size)


def _copy(source: int, target: int, size: int) -> None:
    os.lseek(target, 0, os.SEEK_SET)
    done = 0
    while done < size:
        sent = os.sendfile(target, source, done, min(_PIECE, size - done))
        if sent == 0:
            raise FsError(errno.EIO, f"a file of {size} bytes ended after {done}")
        done += sent
