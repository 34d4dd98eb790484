"""The files of a mount's cache directory: their names, and the order of their last use.

    <directory>/<2 hex>/<hash>      one whole content, named after its version
    <directory>/tmp/                parts: unfinished files, which only this mount knows
    <directory>/boot                the boot of this machine in which files were last written
    <directory>/owner               the state directory of the mount: when that is gone, the cache goes too

A whole file is trusted by its length alone (vfs/semantics.md 3), if this user has written it: files of other users are not used.
The index in memory serves only the bound on bytes. Whether a version is there is asked of the disk, because users may clear the
cache. Files are not synced one by one, so after a power cut a file of the right length may hold zeros: the files that were
written last before a start of the machine are removed.
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
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from jobfs.content.ranges import KIB, MIB
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
#: How many contents there may be, however small: one for so many bytes of the limit, but always `_FEW`. Each takes blocks of the
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


class CacheFile:
    """A file descriptor and its path ("" in memory); the descriptor is closed when nobody refers to this object any more.

    So a reader that holds a reference may `pread` while another thread puts a newer file in its place. An `unfinished` file is
    removed when it is closed; `bytes` is the number of bytes written to it.
    """

    __slots__ = ("__weakref__", "bytes", "fd", "path", "unfinished")

    def __init__(self, fd: int, path: str, *, unfinished: bool = False) -> None:
        self.bytes = 0
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


class DiskCache:
    """Whole and unfinished contents on disk, under `limit` bytes together. Thread-safe.

    `lock` is the store's, never held across I/O. Methods that write raise OSError; methods that only look do not. Raises
    UsageError if the directory is not this user's alone.
    """

    def __init__(self, directory: Path, limit: int, lock: threading.RLock) -> None:
        self.directory = directory
        self._root = os.fspath(directory)
        self.limit = limit
        self.lock = lock
        #: Files in use: unfinished ones, which the index does not count, and whole ones, which are not removed.
        self._open: weakref.WeakSet[CacheFile] = weakref.WeakSet()
        self._index: OrderedDict[str, int] = OrderedDict()  # least recently used first
        #: How many handles have each content open that the index has: it is not removed.
        self.pinned: Counter[str] = Counter()
        self._used = 0
        self._scanned = False
        #: Why the disk takes no bytes now; "" if it does.
        self.refused = ""
        self._held: weakref.WeakSet[CacheFile] = weakref.WeakSet()
        self._parts = f"{directory}/tmp"
        self._numbers = itertools.count()
        try:
            self._own()
            shutil.rmtree(self._parts, ignore_errors=True)  # parts that a killed mount has left
            os.mkdir(self._parts, 0o700)
            self._distrust_after_a_start()
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

    def pin(self, name: str, size: int | None) -> int | None:
        """Keep a whole content for one handle more; its length in bytes, None if the index has none of this size."""
        with self.lock:
            found = self._index.get(name)
            if found is None or size not in (None, found):
                return None
            self._index.move_to_end(name)
            self.pinned[name] += 1
            return found

    def unpin(self, name: str) -> None:
        """Note that one handle less has this content open."""
        with self.lock:
            self.pinned[name] -= 1
            if not self.pinned[name]:
                del self.pinned[name]

    def open(self, name: str, size: int | None) -> CacheFile | None:
        """A whole content for reading; None if it is not there or damaged."""
        path = self._path(name)
        try:
            # O_NONBLOCK: to open a pipe must not wait.
            file = CacheFile(os.open(path, _READ | os.O_NONBLOCK), path)
            stat = os.fstat(file.fd)
        except OSError:
            self._gone(name)
            return None
        if not is_own_file(stat) or size not in (None, stat.st_size):
            _log.warning("what is in the content cache is another user's, or damaged, and not used: %s", path)
            self.remove(name)
            return None
        self._note(name, stat.st_size, file)
        return file

    @property
    def used(self) -> int:
        """Bytes of all contents, unfinished ones included."""
        if not self._scanned:
            self.scan()
        with self.lock:
            return self._used + self._unfinished()

    # -- writing ------------------------------------------------------------------------------------------

    def part(self) -> CacheFile:
        """An empty unfinished file, for reading and writing."""
        path = self._next_part()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            handle = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._make_again()
            handle = os.open(path, flags, 0o600)
        return self._in_use(CacheFile(handle, path, unfinished=True))

    def copy(self, source: int, size: int) -> CacheFile:
        """An unfinished file with the `size` bytes of the file descriptor `source`. Raises FsError (EIO) if it has fewer."""
        file = self.part()
        done = 0
        while done < size:
            sent = os.sendfile(file.fd, source, done, min(_PIECE, size - done))
            if sent == 0:
                raise FsError(errno.EIO, f"a file of {size} bytes ended after {done}")
            done += sent
        file.bytes = size
        return file

    def link(self, source: Path, size: int) -> CacheFile:
        """An unfinished file with the bytes of `source`, which is never written again: a link if possible."""
        path = self._next_part()
        try:
            os.link(source, path)
            file = CacheFile(os.open(path, _READ), path, unfinished=True)
            os.fchmod(file.fd, 0o600)
            file.bytes = size
            return self._in_use(file)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)
        opened = CacheFile(os.open(source, os.O_RDONLY | os.O_CLOEXEC), str(source))
        return self.copy(opened.fd, size)

    def keep(self, file: CacheFile, name: str, size: int) -> CacheFile | None:
        """Make a finished part the content called `name`, atomically. Returns the file to go on with, None if that fails."""
        path = self._path(name)
        try:
            if not file.there():
                file = self.copy(file.fd, size)
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            os.rename(file.path, path)
        except (OSError, FsError) as error:
            _log.warning("a content can't be kept in the cache: %s", str(error))
            return None
        with self.lock:
            file.path, file.unfinished = path, False
            self._note(name, size, file)
        return file

    def remove(self, name: str) -> None:
        """Remove a whole content."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(name))
        self._gone(name)

    def fit(self, room: int = 0) -> None:
        """Bring the cache, and `room` bytes that are about to come, under its limit: contents that were used least recently go.

        Does nothing before the first scan, which runs in the background.
        """
        if self._scanned:
            with self.lock:
                room += self._unfinished()
            self._evict(room)

    def free(self, wanted: int) -> bool:
        """The disk is full: remove contents of `wanted` bytes or more that nobody uses; False if there are none."""
        if not self._scanned:
            self.scan()
        return self._evict(self.limit - self._used + max(wanted, _ROOM))

    def hold(self, size: int, error: OSError) -> CacheFile:
        """A file in memory for a content that the disk has refused. Raises FsError(EIO) if it or their number is too large."""
        self.refused = error.strerror or str(error)
        _log.warning("the content cache can't be used: %s", self.refused)
        if size > HELD or len(self._held) >= _HELD_MOST:
            raise FsError(errno.EIO, f"the disk of the content cache takes no bytes: {self.refused}")
        file = CacheFile(os.memfd_create("jobfs"), "")
        self._held.add(file)
        return file

    def scan(self) -> None:
        """Build the index from the directory as earlier mounts left it, by the times at which the files were written."""
        index = OrderedDict((name, size) for _, name, size in sorted(self._files()))
        with self.lock:
            if self._scanned:
                return  # another thread was faster, and contents may have been removed since
            # Contents that were used by now are more recent than their times on disk say.
            for name, size in self._index.items():
                index[name] = size
                index.move_to_end(name)
            self._index = index
            self._used = sum(index.values())
            self._scanned = True

    def close(self) -> None:
        """Remove unfinished contents."""
        shutil.rmtree(self._parts, ignore_errors=True)

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
                    if inner.is_dir():  # before the file `owner`, which tells that the cache may go
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
        """Make the directories again, as somebody has cleared the cache."""
        try:
            self._own()
        except UsageError as error:  # another user was faster
            raise PermissionError(errno.EACCES, str(error)) from None
        os.makedirs(self._parts, 0o700, exist_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"

    def _in_use(self, file: CacheFile) -> CacheFile:
        with self.lock:
            self._open.add(file)
        return file

    def _note(self, name: str, size: int, file: CacheFile) -> None:
        """Note that a whole content, in this file, is used."""
        with self.lock:
            self._used += size - self._index.get(name, 0)
            self._index[name] = size
            self._index.move_to_end(name)
            self._open.add(file)

    def _gone(self, name: str) -> None:
        with self.lock:
            self._used -= self._index.pop(name, 0)

    def _unfinished(self) -> int:
        """Bytes that the index does not count."""
        return sum(file.bytes for file in self._open if file.unfinished)

    def _evict(self, room: int) -> bool:
        """Remove contents not in use, the least recently used first, until `room` more bytes fit; False if none was removed."""
        with self.lock:
            excess = self._used + room - self.limit
            surplus = len(self._index) - max(self.limit // _EACH, _FEW)
            gone: list[str] = []
            if excess > 0 or surplus > 0:
                used = {file.path for file in self._open} | {self._path(name) for name in self.pinned}
                unused = ((name, size) for name, size in self._index.items() if self._path(name) not in used)
                for name, size in unused:
                    if excess <= 0 and surplus <= len(gone):
                        break
                    excess -= size
                    gone.append(name)
            for name in gone:
                self._gone(name)
        for name in gone:
            with contextlib.suppress(OSError):
                os.unlink(self._path(name))
        return bool(gone)

    def _files(self) -> Iterator[tuple[float, str, int]]:
        """When each whole content was written, its name and its length; what can't be read is left out."""
        for path in filter(_NAME.fullmatch, glob.iglob("??/*", root_dir=self._root)):
            with contextlib.suppress(OSError):
                stat = os.lstat(f"{self._root}/{path}")
                if is_own_file(stat):
                    yield stat.st_mtime, path[3:], stat.st_size

    def _distrust_after_a_start(self) -> None:
        """Once a boot, remove the files of the last minute of use before it: the kernel has surely written out the others."""
        boot, marker = b"", f"{self._root}/boot"
        with contextlib.suppress(OSError):
            boot = _BOOT_ID.read_bytes().strip()
        with contextlib.suppress(OSError):
            if is_own_file(os.lstat(marker)) and Path(marker).read_bytes() == boot:
                return
        found = sorted(self._files())
        for written, name, _ in found:
            if written > found[-1][0] - _WRITTEN_OUT:
                self.remove(name)
        note = self.part()
        write_all(note.fd, boot, 0)
        os.rename(note.path, marker)
        note.unfinished = False
