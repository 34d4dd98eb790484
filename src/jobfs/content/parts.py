"""Open files of the cache: closed by the last user, copied cheaply; and those that are unfinished.

They have a directory of their own: what a mount that was killed left there goes at the next start. Caches whose state
directory is gone go too.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from pathlib import Path

from jobfs.errors import FsError, UsageError
from jobfs.names import is_mount_id
from jobfs.private import own_directory

_PIECE = 8 * 1024 * 1024


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


_NAMED = ("cache", "--cache-dir")


class Parts:
    """Files that only this mount knows, until one is moved to where it is wanted. Thread-safe.

    Methods that make a file raise OSError.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own = f"{directory}/tmp"
        self._numbers = itertools.count()

    def start(self) -> None:
        """Make the directory anew, without what is in it.

        Raises UsageError if the cache directory is not this user's alone, OSError.
        """
        self._directories()
        self.close()
        os.mkdir(self._own, 0o700)

    def new(self) -> CacheFile:
        """An empty unfinished file, for reading and writing."""
        path = self._path()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return CacheFile(os.open(path, flags, 0o600), path, unfinished=True)
        except FileNotFoundError:
            self._make()  # somebody cleared the cache
            return CacheFile(os.open(path, flags, 0o600), path, unfinished=True)

    def copy(self, source: int, size: int) -> CacheFile:
        """A new unfinished file with the `size` bytes of the file descriptor `source`; FsError (EIO) if it has fewer."""
        file = self.new()
        done = 0
        while done < size:
            sent = os.sendfile(file.fd, source, done, min(_PIECE, size - done))
            if sent == 0:
                raise FsError(errno.EIO, f"a file of {size} bytes ended after {done}")
            done += sent
        return file

    def link(self, source: Path, size: int) -> CacheFile:
        """An unfinished file with the bytes of `source`, which is never written again: a link if possible."""
        path = self._path()
        try:
            os.link(source, path)
            file = CacheFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), path, unfinished=True)
            os.fchmod(file.fd, 0o600)
            return file
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)
        opened = CacheFile(os.open(source, os.O_RDONLY | os.O_CLOEXEC), str(source))
        return self.copy(opened.fd, size)

    def close(self) -> None:
        """Remove the unfinished files."""
        shutil.rmtree(self._own, ignore_errors=True)

    def _path(self) -> str:
        return f"{self._own}/{next(self._numbers)}.part"

    def _directories(self) -> None:
        for directory in (self._directory.parent, self._directory):
            with own_directory(directory, *_NAMED) as handle:
                os.fchmod(handle, 0o700)

    def _make(self) -> None:
        """The directory again, after somebody cleared the cache. Raises OSError."""
        try:
            self._directories()
        except UsageError as error:  # another user was faster
            raise PermissionError(errno.EACCES, str(error)) from None
        os.makedirs(self._own, 0o700, exist_ok=True)


_OWNER = "owner"


def claim(directory: Path, owner: Path) -> None:
    """Note that the cache in `directory` goes when the state directory `owner` is gone. Raises OSError."""
    (directory / _OWNER).write_bytes(os.fsencode(owner.absolute()))


def remove_abandoned(directory: Path) -> None:
    """Remove the caches of all jobs beside `directory`, which is <cache directory>/<job>/<mount id>, whose owner is gone."""
    for owner in directory.parents[1].glob(f"*/*/{_OWNER}"):
        cache = owner.parent
        with contextlib.suppress(OSError):
            if not is_mount_id(cache.name) or cache.is_symlink() or os.path.lexists(owner.read_bytes()):
                continue
            for inner in cache.iterdir():
                if inner.is_dir():  # before what tells that it may go
                    shutil.rmtree(inner, ignore_errors=True)
            shutil.rmtree(cache)
