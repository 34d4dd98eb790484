"""The files of a mount's cache directory: their names, and the order of their last use.

    <directory>/<2 hex>/<hash>      one complete content, named after its version
    <directory>/tmp/                unfinished files, which only this mount knows
    <directory>/boot                the boot of this machine in which files were last written
    <directory>/owner               the state directory of the mount: when that is gone, the cache is removed, too

A complete file is trusted by its length alone (vfs/semantics.md 3), if this user has written it; files of other users are not
used. Files are not synced, so after a power cut a file of the right length may hold zeros: the files that were written last
before a boot are removed. An index in memory lists the contents. Users may clear the cache, so an open may find that a listed
file is gone.
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
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from jobfs.content.ranges import KIB, MIB
from jobfs.errors import FsError, UsageError
from jobfs.names import is_mount_id
from jobfs.nodes import Version
from jobfs.private import is_own_file, open_own_directory

_log = logging.getLogger("jobfs.content")

_NAME = re.compile(r"../[0-9a-f]{48}")
#: How many file names are remembered: each is needed several times while a handle is open.
_NAMES = 4096
#: Seconds after which the kernel has certainly written a file to disk, so that a power cut can't have damaged it.
_WRITTEN_OUT = 60.0
#: The largest content, in bytes, that is held in memory if the disk refuses it, and the most such contents.
HELD, _HELD_MOST = 16 * MIB, 4
#: The number of contents is limited as well, however small they are: one for this many bytes of the limit, but at least `_FEW`.
#: Each takes disk blocks and memory.
_EACH, _FEW = 16 * KIB, 1000
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_OWNER = "owner"


@lru_cache(_NAMES)
def file_name_of(version: Version) -> str:
    """Return the file name of a version's content."""
    return hashlib.blake2b(repr(tuple(version)).encode("utf-8", "surrogatepass"), digest_size=24).hexdigest()


class CacheFile:
    """A file descriptor and its path ("" outside of the cache); the descriptor is closed with the last reference to this object.

    A reader that holds a reference may therefore `pread` while another thread replaces the file. An `unfinished` file is
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

    def is_linked(self) -> bool:
        """Return whether the path still leads to this file; a user may have cleared the cache."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.fd))
        except OSError:
            return False


def write_all(fd: int, data: bytes | memoryview, position: int) -> None:
    """Write all of `data` at `position`; raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view = view[written:]
        position += written


class DiskCache:
    """Complete and unfinished contents on disk, together within `limit` bytes. Thread-safe.

    `lock` is the store's, and is never held across I/O. The constructor raises UsageError if the directory is not this user's
    alone. Methods that write raise OSError; methods that only look do not. `boot_id`: a file that names the boot, by default the
    kernel's. `state_directory`: where bytes go that this disk rejects, and that must be in a file.
    """

    def __init__(
        self,
        directory: Path,
        limit: int,
        lock: threading.RLock,
        boot_id: Path | None = None,
        *,
        state_directory: Path,
    ) -> None:
        self.directory = directory
        self._boot_id = boot_id or _BOOT_ID
        self._root = os.fspath(directory)
        self.limit = limit
        self.lock = lock
        self._index: OrderedDict[str, int] = OrderedDict()  # size by name, least recently used first
        self._used = 0  # their total, in bytes
        #: Number of open handles by name: a content with open handles is not evicted.
        self._pinned: dict[str, int] = {}
        #: Files outside the index: those on this disk, and those in memory.
        self._others: weakref.WeakSet[CacheFile] = weakref.WeakSet()
        self._in_memory: weakref.WeakSet[CacheFile] = weakref.WeakSet()
        self._state_directory = state_directory
        #: Why the disk currently takes no bytes; "" if it does.
        self.refusal_reason = ""
        self._parts = f"{directory}/tmp"
        self._numbers = itertools.count()
        try:
            self._make_directories()
            for name in os.listdir(self._parts):  # left by a mount that was killed
                os.unlink(f"{self._parts}/{name}")
            self._build_index()
        except OSError as error:
            _log.warning("the content cache %s can't be used: %s", directory, error.strerror)

    # -- queries ------------------------------------------------------------------------------------------

    def complete_size(self, version: Version) -> int | None:
        """Return the bytes of a complete content; None if it is missing, or does not have the version's size."""
        if version.size == 0:
            return 0
        found = self._index.get(file_name_of(version))
        return found if version.size in (None, found) else None

    def pin_and_get_size(self, version: Version) -> int | None:
        """Note that one more handle has this content open; return its size, as `complete_size` does."""
        name = file_name_of(version)
        with self.lock:
            self._pinned[name] = self._pinned.get(name, 0) + 1
            found = self._index.get(name)
            if found is not None:
                self._index.move_to_end(name)
        if version.size == 0:
            return 0
        return found if version.size in (None, found) else None

    def unpin(self, version: Version) -> None:
        """Note that a handle on this content was closed."""
        name = file_name_of(version)
        with self.lock:
            count = self._pinned.pop(name) - 1
            if count:
                self._pinned[name] = count

    def open_complete(self, version: Version, size: int) -> CacheFile | None:
        """Open the complete content of a version, of `size` bytes, for reading; None if it is missing or damaged."""
        name = file_name_of(version)
        path = self._path(name)
        if name not in self._index:
            return None
        with contextlib.suppress(OSError):
            file = CacheFile(os.open(path, _READ), path)
            if os.fstat(file.fd).st_size == size:
                return file
        _log.warning("a file of the content cache is missing or damaged: %s", path)
        self.remove(version)
        return None

    @property
    def used_bytes(self) -> int:
        """Bytes of all contents on disk, unfinished ones included."""
        with self.lock:
            return self._used + sum(file.bytes for file in self._others if file.unfinished)

    # -- writing ------------------------------------------------------------------------------------------

    def create_partial(self) -> CacheFile:
        """Create an empty unfinished file for reading and writing."""
        try:
            if not os.path.isdir(self._parts):
                self._make_directories()  # a user has cleared the cache
        except UsageError as error:  # another user has made the directory first
            raise PermissionError(errno.EACCES, str(error)) from None
        path = self._next_partial_path()
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self._track_file(CacheFile(handle, path, unfinished=True))

    def create_partial_from(self, source: Path, size: int) -> CacheFile:
        """Return an unfinished file with the `size` bytes of `source`: a link if possible, else a copy.

        `source` must not be written again. Raises FsError(EIO) if the file has another size.
        """
        path = self._next_partial_path()
        try:
            os.link(source, path)
            file = self._track_file(CacheFile(os.open(path, _READ), path, unfinished=True))
        except OSError:
            file = self.create_partial()
            shutil.copyfile(source, file.path)
        file.bytes = os.fstat(file.fd).st_size
        if file.bytes != size:
            raise FsError(errno.EIO, f"a file of {size} bytes now has {file.bytes}")
        return file

    def commit(self, file: CacheFile, version: Version, size: int) -> bool:
        """Make a finished file the content of a version, atomically; return False if that fails, or if it is in memory."""
        if not file.path:
            return False
        name = file_name_of(version)
        path = self._path(name)
        try:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            os.rename(file.path, path)
        except OSError as error:
            _log.warning("a file can't be kept in the content cache: %s", str(error))
            return False
        with self.lock:
            file.path, file.unfinished = path, False
            self._used += size - self._index.get(name, 0)
            self._index[name] = size
            self._index.move_to_end(name)
        return True

    def remove_unless_pinned(self, version: Version) -> None:
        """Remove a content that is no longer needed, unless a handle has it open."""
        if file_name_of(version) not in self._pinned:
            self.remove(version)

    def remove(self, version: Version) -> None:
        """Remove a complete content."""
        self._remove([file_name_of(version)])

    def evict_to_limit(self, incoming: int = 0) -> None:
        """Bring the cache under its limit, with room for `incoming` bytes."""
        self.evict_bytes(self.used_bytes + incoming - self.limit)

    def evict_bytes(self, wanted: int) -> bool:
        """Remove contents that no handle has open, least recently used first.

        Stops once `wanted` bytes and any surplus contents are gone. Returns False if none was removed.
        """
        with self.lock:
            surplus = len(self._index) - max(self.limit // _EACH, _FEW)
            gone: list[str] = []
            for name, size in self._index.items():
                if wanted <= 0 and surplus <= len(gone):
                    break
                if name not in self._pinned:
                    wanted -= size
                    gone.append(name)
            for name in gone:
                self._used -= self._index.pop(name)
        # A content that was committed again since then stays: a handle may rely on it.
        self._remove(name for name in gone if name not in self._index)
        return bool(gone)

    def create_elsewhere(self, size: int, error: OSError, *, needs_file: bool) -> CacheFile:
        """Return a file without a path for a content that the disk rejected: in memory, or else in the state directory.

        The state directory is used only for a content that `needs_file`. Raises FsError(EIO) for another one that is too large
        for memory, or if too many are there already; OSError if the file can't be made.
        """
        self.refusal_reason = error.strerror or str(error)
        _log.warning("the content cache can't be used: %s", self.refusal_reason)
        with self.lock:
            if size <= HELD and len(self._in_memory) < _HELD_MOST:
                file = CacheFile(os.memfd_create("jobfs"), "")
                self._in_memory.add(file)
                return file
        if not needs_file:
            raise FsError(errno.EIO, f"can't write to the content cache: {self.refusal_reason}")
        with tempfile.TemporaryFile(dir=self._state_directory) as nameless:
            return CacheFile(os.dup(nameless.fileno()), "")

    def close(self) -> None:
        """Remove unfinished contents."""
        shutil.rmtree(self._parts, ignore_errors=True)

    # -- the caches of other mounts -----------------------------------------------------------------------

    def record_owner(self, owner: Path) -> None:
        """Note that this cache may be removed once the state directory `owner` is gone."""
        (self.directory / _OWNER).write_bytes(os.fsencode(owner.absolute()))

    def remove_orphaned_caches(self) -> None:
        """Remove the caches of all jobs, each in <cache directory>/<job>/<mount id>, whose owner is gone."""
        for owner in self.directory.parents[1].glob(f"*/*/{_OWNER}"):
            cache = owner.parent
            with contextlib.suppress(OSError):
                if not is_mount_id(cache.name) or cache.is_symlink() or os.path.lexists(owner.read_bytes()):
                    continue
                for inner in cache.iterdir():
                    if inner.is_dir():  # before the file `owner`, which marks the cache as removable
                        shutil.rmtree(inner, ignore_errors=True)
                shutil.rmtree(cache)

    # -- internals ----------------------------------------------------------------------------------------

    def _make_directories(self) -> None:
        """Make the directories; raises UsageError if they are not this user's alone."""
        for directory in (self.directory.parent, self.directory):
            with open_own_directory(directory, "cache", "--cache-dir") as handle:
                os.fchmod(handle, 0o700)
        os.makedirs(self._parts, 0o700, exist_ok=True)

    def _next_partial_path(self) -> str:
        return f"{self._parts}/{next(self._numbers)}.part"

    def _track_file(self, file: CacheFile) -> CacheFile:
        with self.lock:
            self._others.add(file)
        return file

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(self._path(name))
            with self.lock:
                self._used -= self._index.pop(name, 0)

    def _build_index(self) -> None:
        """List what earlier mounts have left, in the order in which it was written.

        Once per boot, remove the files that were written within a minute of the newest one: a power failure may have damaged
        them. The kernel has certainly written all older ones to disk.
        """
        mark = f"{self._root}/boot"
        boot = self._boot_id.read_bytes().strip() if self._boot_id.exists() else b""
        trusted = os.path.exists(mark) and Path(mark).read_bytes() == boot
        found = sorted(self._scan_files())
        for written, name, size in found:
            self._index[name] = size
            self._used += size
            if not trusted and written > found[-1][0] - _WRITTEN_OUT:
                self._remove([name])
        if not trusted:
            note = self.create_partial()
            write_all(note.fd, boot, 0)
            os.rename(note.path, mark)
            note.unfinished = False

    def _scan_files(self) -> Iterator[tuple[float, str, int]]:
        """Yield each complete content of this user: when it was written, its name and its length. Skips unreadable files."""
        for path in filter(_NAME.fullmatch, glob.iglob("??/*", root_dir=self._root)):
            with contextlib.suppress(OSError):
                stat = os.lstat(f"{self._root}/{path}")
                if is_own_file(stat):
                    yield stat.st_mtime, path[3:], stat.st_size
