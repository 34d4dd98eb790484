"""The bytes of one version that are on this machine (vfs/semantics.md 3)."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

from jobfs.content.disk import CacheFile, DiskCache, write_all
from jobfs.content.ranges import IntervalSet
from jobfs.errors import FsError
from jobfs.nodes import Version

#: Seconds that a download continues after the last handle was closed: many files are opened again at once.
_LINGER = 0.5


class CachedVersion:
    """The `size` bytes of a version, in a sparse file of the cache, or of memory where the disk refuses them.

    `available`: the bytes that are there. Bytes are written first, announced afterwards, and never written again. `verified`:
    those that may be read whatever comes later. `complete_file`: the file, once all bytes are in it and proved to be of this
    version. `pins`: how many handles are open. `cond` has the store's lock.
    """

    def __init__(self, version: Version, size: int, disk: DiskCache) -> None:
        self.version = version
        self.size = size
        self.available, self.verified = IntervalSet(), IntervalSet()
        self.file: CacheFile | None = None
        self.complete_file: CacheFile | None = None
        self.cond = threading.Condition(disk.lock)
        self.pins = 0
        self._linger_until = 0.0
        self._disk = disk

    @property
    def is_complete(self) -> bool:
        """True if every byte is here, and proved to be of this version."""
        return self.complete_file is not None or self.size == 0

    # -- handles --------------------------------------------------------------------------------------------

    def unpin(self) -> None:
        """A handle is closed; call with the lock held."""
        self.pins -= 1
        self._linger_until = time.monotonic() + _LINGER

    def is_wanted(self) -> bool:
        """True if a handle is open, or was a moment ago."""
        return self.pins > 0 or time.monotonic() < self._linger_until

    # -- bytes ----------------------------------------------------------------------------------------------

    def store_bytes(self, position: int, data: bytes) -> None:
        """Store bytes and announce them. Bytes that are there already stay: the two may be of different versions.

        Raises FsError(EIO).
        """
        at, end = position, position + len(data)
        while at < end:
            with self.cond:
                gap, file = self.available.first_gap(at, end), self.file
            if gap is None:
                return
            start, at = gap
            file = self._write(file, start, data[start - position : at - position])
            with self.cond:
                # Another thread may have forgotten all bytes, or installed the whole content.
                if not self.is_complete and self.file is file:
                    self.available.add(start, at)
                    file.bytes = self.available.total
                    self.cond.notify_all()

    def load_bytes(self, offset: int, end: int) -> bytes | None:
        """Return the bytes [offset, end); None if they were lost since they were announced. Raises FsError(EIO)."""
        with self.cond:
            if not (self.is_complete or self.verified.covers(offset, end)):
                return None  # forgotten: the file may have a hole there
            file = self.file
        if file is None:
            return None
        data, memory = b"", None
        try:
            data = os.pread(file.fd, end - offset, offset)
        except OSError as error:
            memory = self._disk.create_in_memory(self.size, error)
        if len(data) == end - offset:
            return data
        # The disk fails, or a user has truncated the file.
        self._disk.remove(self.version)
        self.forget_bytes(memory)
        return None

    def _write(self, file: CacheFile | None, position: int, data: bytes) -> CacheFile:
        """Write the bytes. Returns their file, which is made if there is none yet. Raises FsError(EIO)."""
        try:
            file = self._open_partial() if file is None else file
            write_all(file.fd, data, position)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and self._disk.evict_bytes(len(data)):
                return self._write(file, position, data)
            if file is not None and self.file is not file:
                return file  # another transfer was faster: these bytes come once more
            memory = self._disk.create_in_memory(self.size, error)
            write_all(memory.fd, data, position)
            self.forget_bytes(memory)
            return memory
        if file.path:
            self._disk.refusal_reason = ""
        return file

    def _open_partial(self) -> CacheFile:
        """The file to write to, made if there is none. Raises OSError."""
        new = self._disk.create_partial()
        with self.cond:
            self.file = self.file or new
            # The whole content may have been installed since: then its file is not written to.
            return new if self.is_complete else self.file

    # -- files ----------------------------------------------------------------------------------------------

    def open_complete(self) -> CacheFile | None:
        """Return the whole content as the disk has it; None if the disk does not have it."""
        return self._disk.open_complete(self.version, self.size)

    def install_file(self, file: CacheFile) -> CacheFile | None:
        """Use `file`, which has the whole content; call with the lock held.

        Returns the file before. Let go of it without the lock: that may remove it from the disk.
        """
        before, self.file, self.complete_file = self.file, file, file
        self.available.add(0, self.size)
        return before

    def forget_bytes(self, new: CacheFile | None = None) -> None:
        """Forget all bytes; `new`: the file for the bytes that come from now on."""
        with self.cond:
            before, self.file, self.complete_file = self.file, new, None
            self.available, self.verified = IntervalSet(), IntervalSet()
        del before  # without the lock: this removes the file

    def complete_path(self) -> Path:
        """Return a path to the complete file, which is put back if a user cleared the cache. Raises FsError."""
        file = self.file
        try:
            if file is None:
                file = self._disk.create_partial()
            elif not file.is_linked():
                file = self._disk.link_or_copy(Path(f"/proc/self/fd/{file.fd}"), self.size)
        except OSError as error:
            message = f"the content cache can't be written: {error.strerror}"
            raise FsError(error.errno or errno.EIO, message) from None
        with self.cond:
            self.file = self.complete_file = file
        return Path(file.path)

    # -- the disk of the cache ------------------------------------------------------------------------------

    def commit_to_cache(self) -> None:
        """Make the complete file the content of this version for later handles. If that fails, only open handles have it."""
        file = self.file
        if file is not None and self.size <= self._disk.limit:
            self._disk.commit(file, self.version, self.size)

    def make_room(self, incoming: int) -> None:
        """Bring the cache under its limit, `incoming` bytes of this version included; not for a version that exceeds the
        limit.
        """
        self._disk.evict_to_limit(incoming if self.size <= self._disk.limit else 0)
