"""An open file of the cache, which is closed by the last who refers to it, and its bytes."""

from __future__ import annotations

import contextlib
import os


class CacheFile:
    """A file descriptor, which is closed when nobody refers to this object any more, and its path; "" for a file in memory.

    So a reader that holds a reference may `pread` while another thread puts a newer file in its place. A file that is
    `unfinished` is removed then.
    """

    __slots__ = ("__weakref__", "fd", "path", "unfinished")

    def __init__(self, fd: int, path: str, *, unfinished: bool = False) -> None:
        self.fd = fd
        self.path = path
        self.unfinished = unfinished

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)
            if self.unfinished:
                os.unlink(self.path)

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
