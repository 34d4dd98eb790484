"""Where the bytes of one version are: in a file of the cache, or in memory where the disk refuses them.

The lock is the entry's, handed in; it guards which bytes are there and is never held across I/O. Bytes are
written first and announced afterwards, so whoever sees them announced can read them.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from jobfs.content.disk import DiskCache
from jobfs.content.parts import CacheFile, read_all, write_all
from jobfs.content.ranges import MIB, IntervalSet
from jobfs.errors import FsError

#: Bytes kept in memory for one version, oldest dropped first.
WINDOW = 32 * MIB
#: How far a download may run ahead of its reader before it waits: what is dropped was read long ago.
AHEAD = WINDOW // 2


class Spill:
    """Segments of a content by position. Not thread-safe."""

    def __init__(self) -> None:
        self._segments: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def put(self, position: int, data: bytes) -> list[tuple[int, int]]:
        """Keep `data`; the intervals that had to be dropped for it."""
        self._bytes += len(data) - len(self._segments.pop(position, b""))
        self._segments[position] = data
        dropped = []
        while self._bytes > WINDOW and len(self._segments) > 1:
            start, old = self._segments.popitem(last=False)
            self._bytes -= len(old)
            dropped.append((start, start + len(old)))
        return dropped

    def get(self, position: int, end: int) -> bytes:
        """The bytes from `position` on that one segment has, at most to `end`; empty if none has."""
        for start, data in self._segments.items():
            if start <= position < start + len(data):
                return data[position - start : end - start]
        return b""


_log = logging.getLogger("jobfs.content")

_PIECE = 4 * MIB


class Backing:
    """A sparse file and what is known of it; `name` is its name in the cache once it is there whole.

    `have` tells which bytes are there. `make_room(size)` frees disk space, or answers False.
    """

    def __init__(self, disk: DiskCache, lock: threading.Condition, make_room: Callable[[int], bool]) -> None:
        self.have = IntervalSet()
        self.file: CacheFile | None = None
        self.name: str | None = None
        self.spill: Spill | None = None
        self._on_disk = IntervalSet()  # of `have`, once there is a spill
        self._installed = False  # `file` is whole and not to be written
        self._forgotten = 0  # how often all bytes were
        self._disk = disk
        self._lock = lock
        self._make_room = make_room

    def put(self, position: int, data: bytes) -> None:
        """Keep bytes and announce them; bytes that are there already are left alone."""
        with self._lock:
            if self.have.covers(position, position + len(data)):
                return
            file, spill, forgotten = self.file, self.spill, self._forgotten
        if spill is None and not self._written(file, data, position):
            self._begin_spill()
        with self._lock:
            if forgotten != self._forgotten:
                return
            if self.spill is not None:
                for start, end in self.spill.put(position, data):
                    self._dropped(start, end)
            self.have.add(position, position + len(data))
            self._lock.notify_all()

    def load(self, offset: int, end: int) -> bytes | None:
        """The bytes [offset, end), or None if they have gone since they were announced."""
        with self._lock:
            file = self.file
            pieces = self._pieces(offset, end)
        data = _gather(file, pieces)
        if len(data) == end - offset:
            return data
        self._lost(offset, end)
        return None

    def install(self, file: CacheFile, size: int, name: str | None) -> None:
        """The whole content is in `file`. The caller holds the lock."""
        self.file, self.name, self.spill = file, name, None
        self._installed = True
        self.have.add(0, size)

    def keep(self, name: str, size: int) -> None:
        """Make the complete file the content called `name`, or leave it to those who have it open."""
        if self.file is None:
            return
        try:
            file = self._disk.keep(self.file, name, size)
        except OSError as error:
            _log.warning("a content can't be kept in the cache: %s", error.strerror)
            return
        with self._lock:
            self.file, self.name = file, name

    def path(self, size: int) -> Path:
        """A path to the complete file, put back if somebody cleared the cache; raises FsError."""
        file = self.file
        try:
            if file is None:
                file = self._disk.parts.new()
            elif not file.there():
                file = self._disk.parts.copy(file.fd, size)
            else:
                return Path(file.path)
        except OSError as error:
            number = error.errno or errno.EIO
            raise FsError(number, f"the content cache can't be written: {os.strerror(number)}") from None
        with self._lock:
            self.file, self.name = file, None
        return Path(file.path)

    def digest(self, size: int) -> str | None:
        """SHA-256 in hex of the complete file; None if it can't be read."""
        digest = hashlib.sha256()
        position = 0
        while position < size:
            data = self.load(position, min(position + _PIECE, size))
            if data is None:
                return None
            digest.update(data)
            position += len(data)
        return digest.hexdigest()

    def forget(self) -> CacheFile | None:
        """None of these bytes are good; the file to discard. The caller holds the lock."""
        orphan = self.file if self.name is None else None
        self._forgotten += 1
        self.have.clear()
        self._on_disk.clear()
        self.file = self.name = None
        self._installed = False
        return orphan

    def leave_spill(self) -> None:
        """Somebody needs a file: try the disk again, with what it has."""
        with self._lock:
            if self.spill is not None:
                self.have, self._on_disk, self.spill = self._on_disk, IntervalSet(), None

    def discard(self) -> None:
        """Nobody uses these bytes any more: remove the file unless it is in the cache under its name."""
        if self.file is not None and self.name is None:
            self._disk.parts.discard(self.file)

    def _written(self, file: CacheFile | None, data: bytes, position: int) -> bool:
        """Write to the part; False if the disk refuses for good."""
        for last in (False, True):
            try:
                file = file or self._part()
                if file is not None:
                    write_all(file.fd, data, position)
                return True
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                if last or not full or not self._make_room(len(data)):
                    _log.warning("the content cache can't be written, reading goes on: %s", error.strerror)
                    return False
        return False

    def _part(self) -> CacheFile | None:
        """The file to write to, made where there is none yet; None if all bytes came from elsewhere meanwhile."""
        file = self._disk.parts.new()
        with self._lock:
            if self.file is None:
                self.file = file
            own = None if self._installed else self.file
        if own is not file:
            self._disk.parts.discard(file)
        return own

    def _begin_spill(self) -> None:
        with self._lock:
            if self.spill is None:
                self._on_disk = self.have.copy()
                self.spill = Spill()

    def _dropped(self, start: int, end: int) -> None:
        self.have.remove(start, end)
        for first, last in self._on_disk:
            self.have.add(max(first, start), min(last, end))

    def _pieces(self, offset: int, end: int) -> list[bytes | tuple[int, int]]:
        """Where the bytes are: intervals of the file, and bytes from memory."""
        if self.spill is None:
            return [(offset, end)]
        pieces: list[bytes | tuple[int, int]] = []
        while offset < end:
            until = min(self._on_disk.covered_until(offset), end)
            if until > offset:
                pieces.append((offset, until))
            elif piece := self.spill.get(offset, end):
                pieces.append(piece)
                until = offset + len(piece)
            else:
                break
            offset = until
        return pieces

    def _lost(self, offset: int, end: int) -> None:
        """Bytes that were there are not: a window in memory moved on, or a disk fails. Get them again."""
        orphan = None
        with self._lock:
            name = self.name
            if self.spill is None:
                orphan = self.forget()
                self.spill = Spill()
            else:
                self.have.remove(offset, end)
                self._on_disk.remove(offset, end)
        if name is not None:
            self._disk.remove(name)
        if orphan is not None:
            self._disk.parts.discard(orphan)


def _gather(file: CacheFile | None, pieces: list[bytes | tuple[int, int]]) -> bytes:
    data = []
    try:
        for piece in pieces:
            if isinstance(piece, bytes):
                data.append(piece)
            elif file is not None:
                data.append(read_all(file.fd, piece[0], piece[1] - piece[0]))
    except OSError as error:
        _log.warning("the content cache can't be read: %s", error.strerror)
    return data[0] if len(data) == 1 else b"".join(data)
