"""One process's unfinished files in a cache directory that several processes share.

Each process has a directory `tmp-<random>` and holds a lock on it for as long as it lives, so that what a
dead one left is told from what a living one works on, whatever became of process ids.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import secrets
import shutil
from pathlib import Path

from jobfs.content.files import CacheFile, clone
from jobfs.errors import UsageError
from jobfs.private import own_directory

_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
_NAMED = ("cache", "--cache-dir")


class Parts:
    """Files that only this process knows, until one is moved to where it is wanted. Thread-safe.

    Methods that make a file raise OSError.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        self._own: str | None = None
        self._own_locks: list[CacheFile] = []

    def start(self) -> None:
        """Make this process's directory and remove those of dead ones.

        Raises UsageError if the cache directory is not this user's alone, OSError.
        """
        with own_directory(self._directory, *_NAMED) as handle:
            self._remove_dead(handle)
        self._own_directory()

    def new(self) -> CacheFile:
        """An empty unfinished file, for reading and writing, that only this process knows."""
        for attempt in (1, 2):
            path = f"{self._own_directory()}/{next(self._numbers)}.part"
            try:
                return CacheFile(
                    os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path
                )
            except FileNotFoundError:
                if attempt == 2:
                    raise
                self._own = None  # somebody cleared the cache: begin again
        raise AssertionError

    def copy(self, source: int, size: int) -> CacheFile:
        """A new unfinished file with the `size` bytes of the file descriptor `source`."""
        file = self.new()
        try:
            clone(source, file.fd, size)
        except BaseException:
            self.discard(file)
            raise
        return file

    def link(self, source: Path, size: int) -> CacheFile:
        """An unfinished file with the bytes of `source`, which is never written again: a link if possible."""
        path = f"{self._own_directory()}/{next(self._numbers)}.part"
        try:
            os.link(source, path)
            file = CacheFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), path)
            os.fchmod(file.fd, 0o600)
            return file
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)
        opened = CacheFile(os.open(source, os.O_RDONLY | os.O_CLOEXEC), str(source))
        return self.copy(opened.fd, size)

    def beside(self, source: Path) -> bool:
        """True if `source` is on the same file system, so that linking it costs nothing. Raises OSError."""
        return os.stat(source).st_dev == os.stat(self._own_directory()).st_dev

    def discard(self, file: CacheFile) -> None:
        """Remove an unfinished file."""
        with contextlib.suppress(OSError):
            os.unlink(file.path)

    def close(self) -> None:
        """Remove this process's unfinished files."""
        for lock in self._own_locks:
            shutil.rmtree(lock.path, ignore_errors=True)
        self._own = None
        self._own_locks.clear()

    def _own_directory(self) -> str:
        if self._own is not None:
            return self._own
        try:
            with own_directory(self._directory, *_NAMED) as handle:
                os.fchmod(handle, 0o700)
        except UsageError as error:  # somebody cleared the cache, and another user was faster
            raise PermissionError(errno.EACCES, str(error)) from None
        while True:
            path = f"{self._directory}/tmp-{secrets.token_hex(8)}"
            os.mkdir(path, 0o700)
            lock = CacheFile(os.open(path, _DIRECTORY), path)
            with contextlib.suppress(OSError):  # without locks nobody can take it for a dead one's either
                fcntl.flock(lock.fd, fcntl.LOCK_EX)
            if lock.there():  # else another process took it for a dead one's before the lock was held
                self._own = path
                self._own_locks.append(lock)
                return path

    @staticmethod
    def _remove_dead(directory: int) -> None:
        for name in os.listdir(directory):
            if name.startswith("tmp-"):
                with contextlib.suppress(OSError):
                    lock = CacheFile(os.open(name, _DIRECTORY, dir_fd=directory), name)
                    fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(name, ignore_errors=True, dir_fd=directory)
