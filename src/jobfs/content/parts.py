"""Unfinished files of the cache, in a directory of their own: what a mount that was killed left there goes at the next start."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from pathlib import Path

from jobfs.content.files import CacheFile, clone


class Parts:
    """Files that only this mount knows, until one is moved to where it is wanted. Thread-safe.

    Methods that make a file raise OSError.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own = f"{directory}/tmp"
        self._numbers = itertools.count()

    def start(self) -> None:
        """Make the directory anew, without what is in it."""
        self.close()
        self._make()

    def new(self) -> CacheFile:
        """An empty unfinished file, for reading and writing."""
        path = self._path()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return CacheFile(os.open(path, flags, 0o600), path)
        except FileNotFoundError:
            self._make()  # somebody cleared the cache
            return CacheFile(os.open(path, flags, 0o600), path)

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
        path = self._path()
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
        return os.stat(source).st_dev == os.stat(self._own).st_dev

    def discard(self, file: CacheFile) -> None:
        """Remove an unfinished file."""
        with contextlib.suppress(OSError):
            os.unlink(file.path)

    def close(self) -> None:
        """Remove the unfinished files."""
        shutil.rmtree(self._own, ignore_errors=True)

    def _path(self) -> str:
        return f"{self._own}/{next(self._numbers)}.part"

    def _make(self) -> None:
        self._directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        if self._directory.stat().st_mode & 0o077:
            self._directory.chmod(0o700)
        os.makedirs(self._own, 0o700, exist_ok=True)
