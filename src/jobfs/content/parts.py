"""Unfinished files of the cache, in a directory of their own: what a mount that was killed left there goes at the next start."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from pathlib import Path

from jobfs.content.files import CacheFile, clone
from jobfs.errors import UsageError
from jobfs.private import own_directory

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
