"""Local bytes: one immutable file per generation of an inode, in the state directory (save-protocol.md, Vocabulary).

A generation is written until it is sealed; the next write after that makes the next generation, a copy. Files of
generations that are no longer needed go only after the journal that stopped naming them is on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jobfs.errors import FsError
from jobfs.writeback.disk import copy_into, failure, sync_directory

#: Mode of a sealed file that the journal names.
_CLOSED = 0o400
#: Extended attribute with its size in bytes, and after a space the path it is to be saved at.
_LABEL = "user.jobfs.sealed"
#: More files than this are synced with one sync of their whole file system.
_SYNC_EACH = 16


class LocalFile:
    """The bytes of one generation; `size` in bytes. Kept open until the last user has closed it."""

    def __init__(self, path: Path, ino: int, generation: int, handle: int) -> None:
        self.path = path
        self.ino = ino
        self.generation = generation
        self.sealed = False
        self.synced = False
        self._handle = handle
        self._lock = threading.Lock()
        self._users = 1
        self._unlinked = False
        self._sha256 = ""
        self.size = os.fstat(handle).st_size

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at `offset`, at most `size`; short only at the end."""
        return os.pread(self._handle, size, offset)

    def write(self, data: bytes | memoryview, offset: int) -> int:
        """Write all of `data` at `offset`. Raises OSError (ENOSPC, EIO) from the disk."""
        done = os.pwrite(self._handle, data, offset)
        while done < len(data):
            done += os.pwrite(self._handle, memoryview(data)[done:], offset + done)
        self.size = max(self.size, offset + done)
        return done

    def truncate(self, length: int) -> None:
        """Cut or extend with zeros to `length` bytes."""
        os.ftruncate(self._handle, length)
        self.size = length

    def sync(self) -> None:
        """Return when the bytes are on the disk."""
        if not self.synced:
            os.fdatasync(self._handle)
            self.synced = self.sealed

    def sha256(self) -> str:
        """The hash of a sealed generation's bytes, in hex."""
        if not self._sha256:
            digest = hashlib.sha256()
            offset = 0
            while chunk := os.pread(self._handle, 1 << 20, offset):
                digest.update(chunk)
                offset += len(chunk)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def acquire(self) -> LocalFile:
        """One more user."""
        with self._lock:
            self._users += 1
        return self

    def close(self) -> None:
        """One user less; the last one closes the file, and removes it if it is no longer needed."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            os.close(self._handle)
            if self._unlinked:
                self.path.unlink(missing_ok=True)

    def discard(self) -> None:
        """One user less, and the file goes once nobody uses it."""
        with self._lock:
            self._unlinked = True
        self.close()


class Orphan(NamedTuple):
    """Closed bytes that no record names: `size` in bytes; `target` is where they were to be saved, "" if not known."""

    ino: int
    generation: int
    size: int
    target: str


def label_of(path: Path) -> tuple[int, str]:
    """The size in bytes that a local file had when it was sealed, and its path in the workspace; -1 and "" if it does not say."""
    try:
        size, _, target = os.getxattr(path, _LABEL).decode("utf-8", "surrogateescape").partition(" ")
        return int(size), target
    except (OSError, ValueError):
        return -1, ""


def _not_synced(error: OSError) -> FsError:
    return FsError(errno.EIO, f"local bytes can't be synced: {error.strerror}")


def _numbers(name: str) -> tuple[int, int]:
    ino, _, generation = name.partition(".")
    try:
        return int(ino, 16), int(generation)
    except ValueError:
        return 0, 0


class LocalBytes:
    """The directory of local files. All methods may be called from any thread."""

    def __init__(self, directory: Path, trash: Path) -> None:
        self.directory = directory
        self.trash = trash
        self._lock = threading.Lock()
        self._retired: list[LocalFile] = []
        self._unsynced: list[LocalFile] = []
        directory.mkdir(mode=0o700, exist_ok=True)

    def new(self, ino: int, generation: int, source: LocalFile | Path | None = None) -> LocalFile:
        """A new generation, empty or with the bytes of `source`. Raises FsError(ENOSPC) and its like."""
        path = self._path(ino, generation)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FsError(failure(error), f"can't make {path}: {error.strerror}") from error
        try:
            if source is not None:
                copy_into(source.path if isinstance(source, LocalFile) else source, handle)
        except OSError as error:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise FsError(failure(error), f"can't fill {path}: {error.strerror}") from error
        return LocalFile(path, ino, generation, handle)

    def open(self, ino: int, generation: int, *, writable: bool = False) -> LocalFile | None:
        """A generation that an earlier run left, sealed unless it is to be `writable`; None if it is not there."""
        path = self._path(ino, generation)
        try:
            if writable:
                path.chmod(0o600)
            handle = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        local = LocalFile(path, ino, generation, handle)
        local.sealed = not writable
        return local

    def seal(self, local: LocalFile) -> None:
        """From now on these bytes never change; the next sync of this store covers them."""
        if not local.sealed:
            local.sealed = True
            with self._lock:
                self._unsynced.append(local.acquire())

    @staticmethod
    def label(local: LocalFile, target: str) -> None:
        """Once the journal names these bytes: let the file itself say so, for the day when the journal is gone.

        A sealed file is read-only, and bears its target's name where the file system can hold that.
        """
        with contextlib.suppress(OSError):
            os.fchmod(local._handle, _CLOSED)
            label = f"{local.size} {target}"
            os.setxattr(local._handle, _LABEL, label.encode("utf-8", "surrogateescape"))

    @staticmethod
    def unlabel(local: LocalFile) -> None:
        """Before the journal stops naming these bytes: nobody misses them, should it end here."""
        with contextlib.suppress(OSError):
            os.fchmod(local._handle, 0o600)

    def sync(self) -> list[LocalFile]:
        """Return when every sealed generation is on the disk, with those that were not before. Raises FsError(EIO)."""
        with self._lock:
            batch, self._unsynced = self._unsynced, []
        try:
            if len(batch) > _SYNC_EACH:
                os.sync()
                for local in batch:
                    local.synced = True
            else:
                for local in batch:
                    local.sync()
            sync_directory(self.directory)
        except OSError as error:
            with self._lock:
                self._unsynced += batch
            raise _not_synced(error) from error
        for local in batch:
            local.close()
        return batch

    def sync_now(self, local: LocalFile) -> None:
        """Return when this sealed generation is on the disk, whatever the others are. Raises FsError(EIO)."""
        try:
            local.sync()
            sync_directory(self.directory)
        except OSError as error:
            raise _not_synced(error) from error

    @property
    def unsynced(self) -> bool:
        """True if a sealed generation waits for a sync."""
        return bool(self._unsynced)

    def retire(self, local: LocalFile) -> None:
        """These bytes are no longer needed, once the journal that no longer names them is on the disk."""
        self.unlabel(local)
        with self._lock:
            self._retired.append(local)

    def retired(self) -> list[LocalFile]:
        """Take over what is retired by now, to be given to `remove` after a sync."""
        with self._lock:
            batch, self._retired = self._retired, []
        return batch

    @staticmethod
    def remove(batch: Iterable[LocalFile]) -> None:
        """Remove generations that the synced journal no longer names."""
        for local in batch:
            local.discard()

    def sweep(self, keep: set[tuple[int, int]], newest: int) -> tuple[list[Orphan], list[Path]]:
        """Files that no record names: those that were closed, and those moved to the trash because they were not.

        `newest`: the highest number that the journal knows. A closed file with a higher one was recorded once: the record
        is lost.
        """
        lost, moved = [], []
        for path in sorted(self.directory.iterdir()):
            ino, generation = _numbers(path.name)
            if (ino, generation) in keep:
                continue
            info = path.stat()
            size, target = label_of(path)
            closed = stat.S_IMODE(info.st_mode) == _CLOSED and size in (-1, info.st_size)
            if closed and generation > newest:
                lost.append(Orphan(ino, generation, info.st_size, target))
            elif info.st_size == 0:
                path.unlink()
            else:
                self.trash.mkdir(mode=0o700, exist_ok=True)
                moved.append(path.rename(self.trash / path.name))
        return lost, moved

    def throw_away(self, local: LocalFile, name: str) -> Path:
        """Put a copy of these bytes into the trash, under a name that says what they were. Raises FsError(ENOSPC, EIO)."""
        try:
            self.trash.mkdir(mode=0o700, exist_ok=True)
            path = self.trash / f"{local.generation}-{name}"
            path.unlink(missing_ok=True)
            os.link(local.path, path)
            path.chmod(0o600)
        except OSError as error:
            raise FsError(
                error.errno or errno.EIO, f"can't keep a copy in {self.trash}: {error.strerror}"
            ) from error
        return path

    def empty_trash(self) -> None:
        """Remove what was thrown away."""
        shutil.rmtree(self.trash, ignore_errors=True)

    def free(self) -> tuple[int, int]:
        """Free and total bytes of the disk that holds the local files."""
        facts = os.statvfs(self.directory)
        return facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize

    def _path(self, ino: int, generation: int) -> Path:
        return self.directory / f"{ino:016x}.{generation}"
