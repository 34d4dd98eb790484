"""The bytes of one version on this machine (vfs/semantics.md 3)."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

from jobfs.content.disk import CacheFile, DiskCache, write_all
from jobfs.content.ranges import IntervalSet
from jobfs.content.timing import Timing
from jobfs.errors import FsError
from jobfs.nodes import Version

#: The errors of a disk that is full.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class CachedVersion:
    """The `size` bytes of a version, in a sparse file of the cache, or elsewhere if the disk of the cache refuses them.

    `available`: the bytes that are stored; they are written first, announced afterwards, and never written again. `verified`:
    the bytes that may be read whatever comes later. `complete_file`: the file, once it has all bytes and they are proved to
    be of this version. `pins`: number of open handles. `needs_file`: whether all bytes must be in a file, even if that is in the
    state directory. `cond` uses the store's lock.
    """

    def __init__(self, version: Version, size: int, disk: DiskCache, timing: Timing) -> None:
        self.version = version
        self.size = size
        self.available, self.verified = IntervalSet(), IntervalSet()
        self.file: CacheFile | None = None
        self.complete_file: CacheFile | None = None
        self.cond = threading.Condition(disk.lock)
        self.pins, self.needs_file = 0, False
        self._linger, self._linger_until = timing.linger, 0.0
        self._disk = disk

    @property
    def is_complete(self) -> bool:
        """Whether every byte is here, and proved to be of this version."""
        return self.complete_file is not None or self.size == 0

    # -- handles --------------------------------------------------------------------------------------------

    def unpin(self) -> None:
        """Note that a handle was closed; call with the lock held."""
        self.pins -= 1
        self._linger_until = time.monotonic() + self._linger

    def is_wanted(self) -> bool:
        """Return whether a handle is open, or was a moment ago."""
        return self.pins > 0 or time.monotonic() < self._linger_until

    # -- bytes ----------------------------------------------------------------------------------------------

    def store_bytes(self, position: int, data: bytes) -> None:
        """Store bytes and announce them. Bytes already stored stay, because the new ones may be of another version.

        Raises FsError(EIO, ENOSPC).
        """
        offset, end = position, position + len(data)
        while offset < end:
            with self.cond:
                gap, file = self.available.first_gap(offset, end), self.file
            if gap is None:
                return
            start, offset = gap
            file = self._write(file, start, data[start - position : offset - position])
            with self.cond:
                # Another thread may have forgotten all bytes, or installed the complete file.
                if not self.is_complete and self.file is file:
                    self.available.add(start, offset)
                    file.bytes = self.available.total
                    self.cond.notify_all()

    def load_or_forget_bytes(self, offset: int, end: int) -> bytes | None:
        """Return the bytes [offset, end); None if they were lost after they were announced. Raises FsError(EIO)."""
        with self.cond:
            if not (self.is_complete or self.verified.covers(offset, end)):
                return None  # the bytes were forgotten: the file may have a hole
            file = self.file
        if file is None:
            return None
        data, replacement = b"", None
        try:
            data = os.pread(file.fd, end - offset, offset)
        except OSError as error:
            replacement = self._create_elsewhere(error)
        if len(data) == end - offset:
            return data
        # The disk fails, or a user has truncated the file.
        self._disk.remove(self.version)
        self.forget_bytes(replacement)
        return None

    def _write(self, file: CacheFile | None, position: int, data: bytes) -> CacheFile:
        """Write the bytes and return their file, which is created if there is none yet. Raises FsError(EIO, ENOSPC)."""
        try:
            file = self._open_partial() if file is None else file
            write_all(file.fd, data, position)
        except OSError as error:
            if error.errno in _FULL and self._disk.evict_bytes(len(data)):
                return self._write(file, position, data)
            if file is not None and self.file is not file:
                return file  # another transfer has replaced the file: these bytes are fetched again
            if file is not None and not file.path:
                raise _error_elsewhere(error) from None
            replacement = self._create_elsewhere(error)
            self.forget_bytes(replacement)
            return self._write(replacement, position, data)
        if file.path:
            self._disk.refusal_reason = ""
        return file

    def _create_elsewhere(self, error: OSError) -> CacheFile:
        """Return a file outside of the cache, whose disk has failed with `error`. Raises FsError(EIO, ENOSPC)."""
        try:
            return self._disk.create_elsewhere(self.size, error, needs_file=self.needs_file)
        except OSError as failed:
            raise _error_elsewhere(failed) from None

    def _open_partial(self) -> CacheFile:
        """Return the file to write to, which is created if there is none. Raises OSError."""
        new = self._disk.create_partial()
        with self.cond:
            self.file = self.file or new
            # The complete file may have been installed since: it must not be written to.
            return new if self.is_complete else self.file

    # -- files ----------------------------------------------------------------------------------------------

    def open_complete(self) -> CacheFile | None:
        """Open the whole content on the disk; None if the disk does not have it."""
        return self._disk.open_complete(self.version, self.size)

    def install_file(self, file: CacheFile) -> CacheFile | None:
        """Use `file`, which has the whole content; call with the lock held.

        Returns the previous file. Release it without the lock, because that may remove it from the disk.
        """
        previous, self.file, self.complete_file = self.file, file, file
        self.available.add(0, self.size)
        return previous

    def forget_bytes(self, replacement: CacheFile | None = None) -> None:
        """Forget all bytes; `replacement`: the file for bytes that come from now on."""
        with self.cond:
            previous, self.file, self.complete_file = self.file, replacement, None
            self.available, self.verified = IntervalSet(), IntervalSet()
        del previous  # without the lock: this removes the file

    @property
    def complete_path(self) -> Path:
        """The path of the complete file; if it has none, or a user has removed it, the path of its descriptor."""
        file = self.complete_file
        if file is None:
            return Path(os.devnull)  # there are none
        return Path(file.path if file.is_linked() else f"/proc/self/fd/{file.fd}")

    # -- the disk of the cache ------------------------------------------------------------------------------

    def commit_to_cache(self) -> None:
        """Make the complete file the content of this version for later handles; if that fails, only open handles use it."""
        file = self.file
        if file is not None and self.size <= self._disk.limit:
            self._disk.commit(file, self.version, self.size)

    def make_room(self, incoming: int) -> None:
        """Bring the cache under its limit, with room for `incoming` bytes of this version.

        A version that exceeds the limit by itself gets no room.
        """
        self._disk.evict_to_limit(incoming if self.size <= self._disk.limit else 0)


def _error_elsewhere(error: OSError) -> FsError:
    """Return the error for bytes that neither the cache nor its substitute can hold."""
    number = errno.ENOSPC if error.errno in _FULL else errno.EIO
    return FsError(number, f"can't hold a file that the content cache rejects: {error.strerror}")
