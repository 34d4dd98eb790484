"""The files of a mount's cache directory: names, and the order of their last use.

    <directory>/<2 hex>/<hash>      one whole content; the hash begins with the item's, so that an item's
                                    versions are found without asking anybody
    <directory>/tmp/                unfinished files (parts.py)
    <directory>/boot                the boot of this machine in which files were last written

A whole file is trusted by its length alone (semantics.md section 3), if this user has written it: what others have put there is
not seen. The index in memory serves only the bound on bytes: whether a version is there is asked of the disk, because users
may clear it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from jobfs.content.parts import CacheFile, Parts, write_all
from jobfs.errors import FsError
from jobfs.nodes import Version
from jobfs.private import is_own_file

#: Seconds in which two contents may share one `updatedAt`: if it shows whole seconds, and if it shows more.
COARSE = 2.0
FINE = 0.05

_FRACTION = re.compile(r"\.[0-9]*[1-9]")


def shows_fractions(updated_at: str) -> bool:
    """True if this `updatedAt` proves that the server's clock is finer than a second."""
    return _FRACTION.search(updated_at) is not None


def racy(updated_ns: int, moment: float, *, fine: bool) -> bool:
    """True if bytes whose download began at `moment` (server's clock, seconds) may have a twin of that name.

    Content is named by id, `updatedAt` and size (semantics.md section 3). Where `updatedAt` shows whole
    seconds, the job may write twice within one second and to the same size: a download between the two holds
    the first content under the name of both. So what was downloaded within 2 s (a second for the resolution,
    another for the error of our idea of the server's clock) after the change is good for the handles that are
    open now, not for later ones. Once any `updatedAt` has shown a fraction (`fine`), 50 ms do: the request
    itself was sent after that change had been seen. An `updatedAt` that cannot be read proves nothing: racy.
    """
    return updated_ns == 0 or moment < updated_ns / 1e9 + (FINE if fine else COARSE)


_log = logging.getLogger("jobfs.content")

_NAME = re.compile(r"[0-9a-f]{48}")
_ITEM_DIGITS = 16
#: Names remembered: they are asked for several times in a handle's life.
_NAMES = 4096
#: Seconds after which the kernel has surely written a file out, so that a power cut can't have hurt it.
_WRITTEN_OUT = 60.0
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@lru_cache(_NAMES)
def version_name(version: Version) -> str:
    """The file name of a version: 16 hex digits for the item, 32 for the version."""
    whole = hashlib.blake2b(repr(tuple(version)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return item_prefix(version.item_id) + whole


def item_prefix(item_id: str) -> str:
    """What the names of all versions of an item begin with."""
    return hashlib.blake2b(
        item_id.encode("utf-8", "surrogatepass"), digest_size=_ITEM_DIGITS // 2
    ).hexdigest()


class _Found(NamedTuple):
    used: float
    name: str
    size: int
    written: float


class DiskCache:
    """Whole contents on disk under `limit` bytes, and unfinished ones. Thread-safe.

    Its lock is a leaf and never held across I/O. Methods that write raise OSError; those that look do not.
    Raises UsageError if the directory is not this user's alone.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self._root = os.fspath(directory)
        self.limit = limit
        self._lock = threading.Lock()
        self._index: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._used = 0
        self._scanned = threading.Event()
        self.parts = Parts(directory)
        try:
            self.parts.start()
            self._distrust_after_power_cut()
        except OSError as error:
            _log.warning("the content cache %s can't be used: %s", directory, error.strerror)

    # -- looking ------------------------------------------------------------------------------------------

    def has(self, name: str, size: int | None) -> bool:
        """True if the whole content is there, of `size` bytes if that is known."""
        found = self.size(name)
        return found is not None and size in (None, found)

    def size(self, name: str) -> int | None:
        """The length of a whole content in bytes; None if it is not there."""
        try:
            info = os.lstat(self._path(name))
        except OSError:
            return None
        return info.st_size if is_own_file(info) else None

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
        """Bytes of all whole contents."""
        if not self._scanned.is_set():
            self.scan()
        with self._lock:
            return self._used

    # -- writing ------------------------------------------------------------------------------------------

    def keep(self, file: CacheFile, name: str, size: int) -> CacheFile:
        """Make a finished part the content called `name`, at once and atomically; the file to go on with."""
        if not file.there():
            file = self.parts.copy(file.fd, size)
        path = self._path(name)
        self._into_place(file.path, path)
        file.path = path
        self._note(name, size)
        return file

    @contextlib.contextmanager
    def near(self, source: Path) -> Iterator[Path]:
        """A path, good for this context, to the bytes of `source` on this file system, if they are not too many."""
        copy = None
        try:
            size = os.stat(source).st_size
            if size <= self.limit and not self.parts.beside(source):
                copy = self.parts.link(source, size)
        except (OSError, FsError) as error:
            _log.warning("a saved file can't be copied to the cache: %s", error)
        try:
            yield source if copy is None else Path(copy.path)
        finally:
            if copy is not None:
                self.parts.discard(copy)

    def rename(self, old: str, new: str) -> bool:
        """The same bytes under another name; False if they are not there any more."""
        with self._lock:
            size = self._index.get(old)
        try:
            self._into_place(self._path(old), self._path(new))
        except OSError:
            return False
        self._gone(old)
        self._note(new, size if size is not None else self.size(new) or 0)
        return True

    def touch(self, name: str) -> int | None:
        """A whole content is the most recently used now: its length in bytes as it was seen last; no system call."""
        with self._lock:
            size = self._index.get(name)
            if size is not None:
                self._index.move_to_end(name)
            return size

    def stamp(self, name: str) -> None:
        """Let the next mount know that a whole content was in use until now."""
        path, now = self._path(name), time.time_ns()
        with contextlib.suppress(OSError):
            os.utime(path, ns=(now, os.lstat(path).st_mtime_ns), follow_symlinks=False)

    def remove(self, name: str) -> None:
        """Remove a whole content."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(name))
        self._gone(name)

    def versions(self, prefix: str) -> list[str]:
        """The names of the whole contents of one item, found on disk."""
        try:
            names = os.listdir(self.directory / prefix[:2])
        except OSError:
            return []
        return [name for name in names if name.startswith(prefix) and _NAME.fullmatch(name)]

    def full(self, room: int) -> bool:
        """True if `room` more bytes don't fit under the limit.

        Always False until the first scan, which somebody does in the background and follows by an eviction.
        """
        with self._lock:
            return self._scanned.is_set() and self._used + room > self.limit

    def evict(self, room: int, pinned: Container[str | None]) -> int:
        """Remove the least recently used until `room` more bytes fit under the limit; the bytes freed."""
        freed = 0
        while (victim := self._victim(room, pinned)) is not None:
            name, size = victim
            with contextlib.suppress(OSError):
                os.unlink(self._path(name))
                freed += size
        return freed

    def free(self, wanted: int, pinned: Container[str | None]) -> int:
        """Remove the least recently used until `wanted` bytes are freed: the disk itself is full."""
        if not self._scanned.is_set():
            self.scan()
        with self._lock:
            room = self.limit - self._used + wanted
        return self.evict(room, pinned)

    def scan(self) -> None:
        """Build the index from the directory as earlier mounts left it."""
        index = OrderedDict((entry.name, entry.size) for entry in sorted(self._files()))
        with self._lock:
            # What was used by now is more recent than the times on disk say.
            for name, size in self._index.items():
                index[name] = size
                index.move_to_end(name)
            self._index = index
            self._used = sum(index.values())
        self._scanned.set()

    # -- inside -------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"

    def _note(self, name: str, size: int) -> None:
        with self._lock:
            self._used += size - self._index.get(name, 0)
            self._index[name] = size
            self._index.move_to_end(name)

    def _gone(self, name: str) -> None:
        with self._lock:
            self._used -= self._index.pop(name, 0)

    def _victim(self, room: int, pinned: Container[str | None]) -> tuple[str, int] | None:
        with self._lock:
            if self._used + room <= self.limit:
                return None
            name = next((name for name in self._index if name not in pinned), None)
            if name is None:
                return None
            size = self._index.pop(name)
            self._used -= size
            return name, size

    def _into_place(self, source: str, target: str) -> None:
        try:
            os.rename(source, target)
        except FileNotFoundError:
            Path(target).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.rename(source, target)

    def _files(self) -> Iterator[_Found]:
        for directory in _scan(self.directory):
            if len(directory.name) != 2:
                continue
            for entry in _scan(Path(directory.path)):
                if _NAME.fullmatch(entry.name):
                    with contextlib.suppress(OSError):
                        stat = entry.stat(follow_symlinks=False)
                        if is_own_file(stat):
                            yield _Found(stat.st_atime, entry.name, stat.st_size, stat.st_mtime)

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
        if _content(marker) == boot.encode():
            return
        found = list(self._files())
        newest = max((entry.written for entry in found), default=0.0)
        for entry in found:
            if entry.written > newest - _WRITTEN_OUT:
                self.remove(entry.name)
        note = self.parts.new()
        write_all(note.fd, boot.encode(), 0)
        os.rename(note.path, marker)


def _content(path: str) -> bytes:
    """The first bytes of a file of this user; none of any other."""
    try:
        file = CacheFile(os.open(path, _READ | os.O_NONBLOCK), path)
    except OSError:
        return b""
    return os.pread(file.fd, 256, 0) if is_own_file(os.fstat(file.fd)) else b""


def _scan(directory: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except OSError:
        return


#: Most files that are removed at one start; the next one goes on with the rest.
_MOST = 50_000
_OWNER = "owner"
_MOUNT_ID = re.compile(r"[0-9a-f]{12}")
_DIRECTORY = re.compile(r"[0-9a-f]{2}|tmp(-[0-9a-f]{16})?")
_FILE = re.compile(r"[0-9a-f]{48}|[0-9]+\.part")


def claim(directory: Path, owner: Path) -> None:
    """Note that the cache in `directory` goes when the state directory `owner` is gone. Raises OSError."""
    (directory / _OWNER).write_bytes(os.fsencode(owner.absolute()))


def remove_abandoned(directory: Path, stop: Callable[[], bool]) -> None:
    """Remove abandoned caches beside `directory`, which is <cache directory>/<job>/<mount id>, and in other jobs.

    Files that are none of a cache's are left alone. Ends early once `stop()` is true.
    """
    caches = [directory.parent]
    for owner in directory.parents[1].glob(f"*/*/{_OWNER}"):
        with contextlib.suppress(OSError):
            if _MOUNT_ID.fullmatch(owner.parent.name) and not os.path.lexists(owner.read_bytes()):
                caches.append(owner.parent)
    for path in itertools.islice(itertools.chain.from_iterable(map(_contents, caches)), _MOST):
        if stop():
            return
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


def _contents(cache: Path) -> Iterator[Path]:
    """The files of a cache, each directory after what is in it, the cache itself last."""
    for inner in cache.glob("*"):
        if _DIRECTORY.fullmatch(inner.name) and not inner.is_symlink():
            yield from (path for path in inner.glob("*") if _FILE.fullmatch(path.name))
            yield inner
    yield from (cache / "boot", cache / _OWNER, cache)
