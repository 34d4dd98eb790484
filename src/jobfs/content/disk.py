"""The files of a mount's cache directory: names, the order of their last use, and the bytes of the versions in use.

    <directory>/<2 hex>/<hash>      one whole content, named after its version
    <directory>/tmp/                parts: unfinished files, which only this mount knows
    <directory>/boot                the boot of this machine in which files were last written
    <directory>/owner               the state directory of the mount: when that is gone, this one goes too

A whole file is trusted by its length alone (vfs/semantics.md 3), if this user has written it: what others have put there is
not seen. The index in memory serves only the bound on bytes: whether a version is there is asked of the disk, because users
may clear it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import itertools
import logging
import os
import re
import shutil
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from jobfs.content.file import CacheFile, read_all, write_all
from jobfs.content.ranges import KIB, MIB, IntervalSet
from jobfs.errors import FsError, UsageError
from jobfs.names import is_mount_id
from jobfs.nodes import Version
from jobfs.private import is_own_file, own_directory

_log = logging.getLogger("jobfs.content")

_NAME = re.compile(r"../[0-9a-f]{48}")
#: Names remembered: they are asked for several times in a handle's life.
_NAMES = 4096
#: Seconds after which the kernel has surely written a file out, so that a power cut can't have hurt it.
_WRITTEN_OUT = 60.0
#: Bytes freed at once on a full disk.
_ROOM = 16 * MIB
#: The largest content, in bytes, that is held in memory where the disk refuses it, and how many at most.
HELD, _HELD_MOST = 16 * MIB, 4
#: Bytes of the limit for each content, however small it is, and how many may be there all the same: each takes blocks of the
#: disk, and memory.
_EACH, _FEW = 16 * KIB, 1000
#: Bytes that are copied at once.
_PIECE = 8 * MIB
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_OWNER = "owner"


@lru_cache(_NAMES)
def version_name(version: Version) -> str:
    """The file name of a version."""
    return hashlib.blake2b(repr(tuple(version)).encode("utf-8", "surrogatepass"), digest_size=24).hexdigest()


class _Found(NamedTuple):
    used: float
    name: str
    size: int
    written: float


class DiskCache:
    """Whole contents on disk, and unfinished ones, under `limit` bytes together. Thread-safe.

    `lock` is the store's, never held across I/O. Methods that write raise OSError; those that look do not.
    Raises UsageError if the directory is not this user's alone.
    """

    def __init__(self, directory: Path, limit: int, lock: threading.RLock) -> None:
        self.directory = directory
        self._root = os.fspath(directory)
        self.limit = limit
        self.lock = lock
        #: How often each content is open: those are not removed.
        self.pinned: Counter[str] = Counter()
        #: Versions in use, each of which may have bytes outside the index.
        self.backings: weakref.WeakSet[Backing] = weakref.WeakSet()
        self._index: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._touched: set[str] = set()
        self._used = 0
        self._scanned = False
        #: Why the disk takes no bytes now; "" if it does.
        self.refused = ""
        self._held: weakref.WeakSet[CacheFile] = weakref.WeakSet()
        self._parts = f"{directory}/tmp"
        self._numbers = itertools.count()
        try:
            self._own()
            shutil.rmtree(self._parts, ignore_errors=True)  # what a mount that was killed has left
            os.mkdir(self._parts, 0o700)
            self._distrust_after_power_cut()
        except OSError as error:
            _log.warning("the content cache %s can't be used: %s", directory, error.strerror)

    # -- looking ------------------------------------------------------------------------------------------

    def size(self, version: Version) -> int | None:
        """The length of a whole content in bytes; None if it is not there, or of another length than its version's."""
        if version.size == 0:
            return 0
        try:
            info = os.lstat(self._path(version_name(version)))
        except OSError:
            return None
        right = is_own_file(info) and version.size in (None, info.st_size)
        return info.st_size if right else None

    def open(self, name: str, size: int | None) -> CacheFile | None:
        """A whole content for reading; None if it is not there or damaged."""
        path = self._path(name)
        try:
            # Without waiting, should it be a pipe.
            file = CacheFile(os.open(path, _READ | os.O_NONBLOCK), path)
            stat = os.fstat(file.fd)
        except OSError:
            self._gone(name)
            return None
        if not is_own_file(stat):
            _log.warning("what another user has put into the content cache is not used: %s", path)
            self.remove(name)
            return None
        if size is not None and stat.st_size != size:
            _log.warning("a cached file has %d bytes instead of %d: downloading it again", stat.st_size, size)
            self.remove(name)
            return None
        self._note(name, stat.st_size)
        return file

    @property
    def used(self) -> int:
        """Bytes of all contents, unfinished ones included."""
        if not self._scanned:
            self.scan()
        with self.lock:
            return self._used + sum(backing.have.total for backing in self._unfinished())

    # -- writing ------------------------------------------------------------------------------------------

    def part(self) -> CacheFile:
        """An empty unfinished file, for reading and writing."""
        path = self._next_part()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return CacheFile(os.open(path, flags, 0o600), path, unfinished=True)
        except FileNotFoundError:
            self._make_again()
            return CacheFile(os.open(path, flags, 0o600), path, unfinished=True)

    def copy(self, source: int, size: int) -> CacheFile:
        """An unfinished file with the `size` bytes of the file descriptor `source`. Raises FsError (EIO) if it has fewer."""
        file = self.part()
        done = 0
        while done < size:
            sent = os.sendfile(file.fd, source, done, min(_PIECE, size - done))
            if sent == 0:
                raise FsError(errno.EIO, f"a file of {size} bytes ended after {done}")
            done += sent
        return file

    def link(self, source: Path, size: int) -> CacheFile:
        """An unfinished file with the bytes of `source`, which is never written again: a link if possible."""
        path = self._next_part()
        try:
            os.link(source, path)
            file = CacheFile(os.open(path, _READ), path, unfinished=True)
            os.fchmod(file.fd, 0o600)
            return file
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)
        opened = CacheFile(os.open(source, os.O_RDONLY | os.O_CLOEXEC), str(source))
        return self.copy(opened.fd, size)

    def keep(self, file: CacheFile, name: str, size: int) -> CacheFile:
        """Make a finished part the content called `name`, at once and atomically; the file to go on with."""
        if not file.there():
            file = self.copy(file.fd, size)
        path = self._path(name)
        try:
            os.rename(file.path, path)
        except FileNotFoundError:
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.rename(file.path, path)
        file.path, file.unfinished = path, False
        self._note(name, size)
        return file

    def touch(self, name: str) -> int | None:
        """A whole content is the most recently used now: its length in bytes as it was seen last; no system call."""
        with self.lock:
            size = self._index.get(name)
            if size is not None:
                self._index.move_to_end(name)
                self._touched.add(name)
            return size

    def unpin(self, name: str) -> None:
        """One handle less has this content open."""
        with self.lock:
            self.pinned[name] -= 1
            if not self.pinned[name]:
                del self.pinned[name]

    def remove(self, name: str) -> None:
        """Remove a whole content."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(name))
        self._gone(name)

    def fit(self) -> None:
        """Bring the cache under its limit, with what running downloads will bring: first what is unfinished and nobody uses,
        then the least recently used. Nothing before the first scan, which somebody does in the background.
        """
        if self._scanned and not self._fits(self._coming()):
            self._drop_idle()
            self._evict(self._coming())

    def free(self, wanted: int) -> bool:
        """The disk is full: give up `wanted` bytes, some more at least, that nobody uses; False if there are none."""
        if not self._scanned:
            self.scan()
        dropped = self._drop_idle()
        return self._evict(self.limit - self._used + max(wanted, _ROOM)) or dropped

    def hold(self, size: int, error: OSError) -> CacheFile:
        """A file in memory for a content that the disk has refused. Raises FsError(EIO) if it is too large, or one too many."""
        self.refused = error.strerror or str(error)
        _log.warning("the content cache can't be used: %s", self.refused)
        if len(self._held) >= _HELD_MOST:
            self._drop_idle()
        if size > HELD or len(self._held) >= _HELD_MOST:
            raise FsError(errno.EIO, f"the disk of the content cache takes no bytes: {self.refused}")
        file = CacheFile(os.memfd_create("jobfs"), "")
        self._held.add(file)
        return file

    def scan(self) -> None:
        """Build the index from the directory as earlier mounts left it."""
        index = OrderedDict((entry.name, entry.size) for entry in sorted(self._files()))
        with self.lock:
            if self._scanned:
                return  # another thread was faster, and things may have gone since
            # What was used by now is more recent than the times on disk say.
            for name, size in self._index.items():
                index[name] = size
                index.move_to_end(name)
            self._index = index
            self._used = sum(index.values())
            self._scanned = True

    def close(self) -> None:
        """Remove what is unfinished, and let the next mount know in which order the rest was used."""
        shutil.rmtree(self._parts, ignore_errors=True)
        for name in self._index:
            if name in self._touched:
                path, now = self._path(name), time.time_ns()
                with contextlib.suppress(OSError):
                    os.utime(path, ns=(now, os.lstat(path).st_mtime_ns), follow_symlinks=False)

    # -- the caches of other mounts -----------------------------------------------------------------------

    def claim(self, owner: Path) -> None:
        """Note that this cache goes when the state directory `owner` is gone."""
        (self.directory / _OWNER).write_bytes(os.fsencode(owner.absolute()))

    def remove_abandoned(self) -> None:
        """Remove the caches of all jobs, each in <cache directory>/<job>/<mount id>, whose owner is gone."""
        for owner in self.directory.parents[1].glob(f"*/*/{_OWNER}"):
            cache = owner.parent
            with contextlib.suppress(OSError):
                if not is_mount_id(cache.name) or cache.is_symlink() or os.path.lexists(owner.read_bytes()):
                    continue
                for inner in cache.iterdir():
                    if inner.is_dir():  # before what tells that it may go
                        shutil.rmtree(inner, ignore_errors=True)
                shutil.rmtree(cache)

    # -- inside -------------------------------------------------------------------------------------------

    def _next_part(self) -> str:
        return f"{self._parts}/{next(self._numbers)}.part"

    def _own(self) -> None:
        """Make the directory if need be. Raises UsageError if it is not this user's alone."""
        for directory in (self.directory.parent, self.directory):
            with own_directory(directory, "cache", "--cache-dir") as handle:
                os.fchmod(handle, 0o700)

    def _make_again(self) -> None:
        """Somebody has cleared the cache."""
        try:
            self._own()
        except UsageError as error:  # another user was faster
            raise PermissionError(errno.EACCES, str(error)) from None
        os.makedirs(self._parts, 0o700, exist_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"

    def _note(self, name: str, size: int) -> None:
        with self.lock:
            self._used += size - self._index.get(name, 0)
            self._index[name] = size
            self.touch(name)

    def _gone(self, name: str) -> None:
        with self.lock:
            self._used -= self._index.pop(name, 0)
            self._touched.discard(name)

    def _unfinished(self) -> list[Backing]:
        """What the index does not count: a content that is just being put in its place is in it already."""
        return [
            backing
            for backing in self.backings
            if backing.name is None and version_name(backing.version) not in self._index
        ]

    def _coming(self) -> int:
        """Bytes outside the index, with those that running downloads will bring."""
        with self.lock:
            return sum(max(backing.have.total, backing.coming) for backing in self._unfinished())

    def _drop_idle(self) -> bool:
        with self.lock:
            idle = [backing for backing in self.backings if backing.idle and backing.file is not None]
        for backing in idle:
            backing.reset()
        return bool(idle)

    def _evict(self, room: int) -> bool:
        """Remove the least recently used until `room` more bytes fit under the limit; False if none was."""
        gone = False
        # One by one: what is opened meanwhile stays.
        while (name := self._least_used(room)) is not None:
            gone = True
            with contextlib.suppress(OSError):
                os.unlink(self._path(name))
        return gone

    def _fits(self, room: int) -> bool:
        return self._used + room <= self.limit and len(self._index) <= max(self.limit // _EACH, _FEW)

    def _least_used(self, room: int) -> str | None:
        """Take the least recently used content out of the index; None if `room` more bytes fit, or all are open."""
        with self.lock:
            if self._fits(room):
                return None
            name = next((name for name in self._index if name not in self.pinned), None)
            if name is not None:
                self._gone(name)
            return name

    def _files(self) -> Iterator[_Found]:
        # What can't be read is left out.
        for path in filter(_NAME.fullmatch, glob.iglob("??/*", root_dir=self._root)):
            with contextlib.suppress(OSError):
                stat = os.lstat(f"{self._root}/{path}")
                if is_own_file(stat):
                    yield _Found(stat.st_atime, path[3:], stat.st_size, stat.st_mtime)

    def _distrust_after_power_cut(self) -> None:
        """Once a boot: remove what was written within a minute of the last write before it.

        Files are not synced one by one. After a power cut one of the right length may hold zeros where the
        kernel had not yet written it out; older ones it had.
        """
        try:
            boot = _BOOT_ID.read_text().strip()
        except OSError:
            return
        marker = f"{self._root}/boot"
        with contextlib.suppress(OSError):
            if is_own_file(os.lstat(marker)) and Path(marker).read_bytes() == boot.encode():
                return
        found = list(self._files())
        newest = max((entry.written for entry in found), default=0.0)
        for entry in found:
            if entry.written > newest - _WRITTEN_OUT:
                self.remove(entry.name)
        note = self.part()
        write_all(note.fd, boot.encode(), 0)
        os.rename(note.path, marker)
        note.unfinished = False


class Backing:
    """The bytes of one version, `size` of them: in a sparse file of the cache, or of memory where the disk refuses them.

    `have` tells which bytes are there: they are written first and announced afterwards, and never written again. `sure` tells
    which of them may be read whatever else comes. `name` is the file's name in the cache once it is there whole. `cond` has the
    store's lock.
    """

    def __init__(self, version: Version, size: int, disk: DiskCache) -> None:
        self.version = version
        self.size = size
        self.have, self.sure = IntervalSet(), IntervalSet()
        self.file: CacheFile | None = None
        self.name: str | None = None
        self.whole = size == 0  # every byte is there and the file is in its place
        self.coming = 0  # bytes that there will be once running transfers are through, as far as they stay
        self.cond = threading.Condition(disk.lock)
        self._disk = disk
        with self.cond:
            disk.backings.add(self)

    @property
    def idle(self) -> bool:
        """True if nobody has these bytes open and none are on their way."""
        return True

    def put(self, position: int, data: bytes) -> None:
        """Keep bytes and announce them; what is there already is left alone, as it may be of another version.

        Raises FsError(EIO).
        """
        at, end = position, position + len(data)
        while at < end:
            with self.cond:
                gap, file = self.have.gap(at, end), self.file
            if gap is None:
                return
            start, at = gap
            file = self._written(file, start, data[start - position : at - position])
            with self.cond:
                # Unless all bytes were forgotten meanwhile, or came from elsewhere.
                if not self.whole and self.file is file:
                    self.have.add(start, at)
                    self.cond.notify_all()

    def load(self, offset: int, end: int) -> bytes | None:
        """The bytes [offset, end), or None if they have gone since they were announced: get them again. Raises FsError(EIO)."""
        with self.cond:
            if not (self.whole or self.sure.covers(offset, end)):
                return None  # forgotten: the file that there is now may have a hole there
            file = self.file
        if file is None:
            return None
        data, memory = b"", None
        try:
            data = read_all(file.fd, offset, end - offset)
        except OSError as error:
            memory = self._disk.hold(self.size, error)
        if len(data) == end - offset:
            return data
        # The disk fails, or somebody has cut the file.
        if self.name is not None:
            self._disk.remove(self.name)
        self.reset(memory)
        return None

    def keep(self) -> None:
        """Make the complete file the content of its version, or leave it to those who have it open."""
        part = self.file
        if part is None:
            return
        name = version_name(self.version)
        try:
            file = self._disk.keep(part, name, self.size)
        except OSError as error:
            _log.warning("a content can't be kept in the cache: %s", error.strerror)
            return
        with self.cond:
            if self.file is part:
                self.file, self.name = file, name

    def path(self) -> Path:
        """A path to the complete file, put back if somebody cleared the cache; raises FsError."""
        file = self.file
        try:
            if file is not None and file.there():
                return Path(file.path)
            file = self._disk.part() if file is None else self._disk.copy(file.fd, self.size)
        except OSError as error:
            number = error.errno or errno.EIO
            raise FsError(number, f"the content cache can't be written: {os.strerror(number)}") from None
        with self.cond:
            self.file, self.name = file, None
        return Path(file.path)

    def reset(self, new: CacheFile | None = None) -> None:
        """None of these bytes are used any more; `new`: where those go that come now."""
        with self.cond:
            old, self.file, self.name = self.file, new, None
            self.have, self.sure = IntervalSet(), IntervalSet()
            self.whole = self.size == 0
        del old  # without the lock: that removes it

    def _written(self, file: CacheFile | None, position: int, data: bytes) -> CacheFile | None:
        """The file that the bytes were written to, made where there is none yet. Raises FsError(EIO)."""
        for last in (False, True):
            try:
                file = file or self._part()
                write_all(file.fd, data, position)
                if file.path:
                    self._disk.refused = ""
                return file
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                if last or not full or not self._disk.free(len(data)):
                    return self._in_memory(file, position, data, error)
        raise AssertionError

    def _in_memory(
        self, refused: CacheFile | None, position: int, data: bytes, error: OSError
    ) -> CacheFile | None:
        """A file in memory that begins with these bytes, in the place of the one that the disk has `refused`."""
        if self.file is not refused:
            return refused  # another transfer was faster: these bytes come once more
        memory = self._disk.hold(self.size, error)
        write_all(memory.fd, data, position)
        self.reset(memory)
        return memory

    def _part(self) -> CacheFile:
        new = self._disk.part()
        with self.cond:
            if self.file is None:
                self.file = new
            # What came whole from elsewhere meanwhile is not written to.
            return new if self.whole else self.file
