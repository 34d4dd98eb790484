"""One process's unfinished files in a cache directory that several processes share.

Each process has a directory `tmp-<random>` and holds a lock on it for as long as it lives, so that what a
dead one left is told from what a living one works on, whatever became of process ids.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
from pathlib import Path

from jobfs.content.files import CacheFile, clone


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
        """Make this process's directory and remove those of dead ones."""
        self._own_directory()
        self._remove_dead()

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
            file = CacheFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
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
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._directory.stat().st_mode & 0o077:
            self._directory.chmod(0o700)
        while True:
            path = f"{self._directory}/tmp-{secrets.token_hex(8)}"
            os.mkdir(path, 0o700)
            lock = CacheFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY), path)
            with contextlib.suppress(OSError):  # without locks nobody can take it for a dead one's either
                fcntl.flock(lock.fd, fcntl.LOCK_EX)
            if lock.there():  # else another process took it for a dead one's before the lock was held
                self._own = path
                self._own_locks.append(lock)
                return path

    def _remove_dead(self) -> None:
        for path in map(str, self._directory.glob("tmp-*")):
            if any(path == lock.path for lock in self._own_locks):
                continue
            with contextlib.suppress(OSError):
                lock = CacheFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY), path)
                fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
