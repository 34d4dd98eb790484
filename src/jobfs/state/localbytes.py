"""Local bytes: one file per generation of a File, in the state directory (save/protocol.md, Vocabulary).

Bytes of a generation that were closed never change; more may be added behind them until it is sealed, because a save sends it.
Any other write makes the next generation, a copy. A generation is known by its name: a descriptor is open only while somebody
reads or writes. The file of a generation that is no longer needed goes only after a journal that does not name it is on the disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from jobfs import names
from jobfs.api.deadline import announce_blocking
from jobfs.errors import FsError

log = logging.getLogger("jobfs.state")

#: More files than this are synced with one sync of their file system.
_SYNC_EACH = 16
#: A write of more bytes than this may have to wait for the disk.
_MUCH = 64 << 10
_libc = ctypes.CDLL(None, use_errno=True)

#: The id of this run of the machine: another after each boot, "" if the kernel does not say.
BOOT = ""
with contextlib.suppress(OSError):
    BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

#: Errors of a full or failing disk that the caller may know; any other error becomes EIO.
_TOLD = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE})


def errno_for_writer(error: OSError) -> int:
    """The errno that the writer of a file gets for what the local disk answered: never ENOENT for a disk that is gone."""
    return error.errno if error.errno in _TOLD else errno.EIO


def free_bytes(directory: Path) -> int:
    """Free bytes of the disk that holds a directory. Raises OSError."""
    facts = os.statvfs(directory)
    return facts.f_bavail * facts.f_frsize


def sync_directory(directory: Path, *, whole: bool = False) -> None:
    """Return when the names in `directory` are on the disk; `whole`: all of its file system. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if whole and _libc.syncfs(handle) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(slots=True, eq=False)
class LocalGeneration:
    """The bytes of one generation; `size` in bytes. Open while it has users (`acquire`, `release`), counted under the lock.

    `closed_size`: the first so many bytes were closed, and never change. `sealed`: none may be added behind them any more.
    """

    lock: threading.Condition = field(repr=False)
    directory: Path
    ino: int
    generation: int
    size: int
    handle: int = -1
    users: int = 0
    sealed: bool = True
    closed_size: int = 0

    def __post_init__(self) -> None:
        if self.sealed:
            self.closed_size = self.size

    @property
    def path(self) -> Path:
        """Where the bytes are. Made when it is asked for: a Path takes 400 bytes, and each unsent file has one."""
        return generation_path(self.directory, self.ino, self.generation)

    def may_change(self, position: int) -> bool:
        """True if the bytes from `position` on may be written, added or cut off."""
        return not self.sealed and position >= self.closed_size

    def acquire(self) -> LocalGeneration:
        """One more user. Raises OSError if the file can't be opened (EMFILE)."""
        with self.lock:
            if self.handle < 0:
                self.handle = self._open_file()
            self.users += 1
        return self

    def _open_file(self) -> int:
        if not self.sealed:
            try:
                return os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
            self.sealed = True  # the disk has failed: what it has is read, and no more is added
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def release(self) -> None:
        """One user less; the last one closes the file."""
        with self.lock:
            self.users -= 1
            if self.users:
                return
            handle, self.handle = self.handle, -1
        os.close(handle)

    close = release

    def discard(self) -> None:
        """Nobody needs these bytes after all: they go with their one user."""
        self.release()
        self.path.unlink(missing_ok=True)

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at `offset`, at most `size`; short only at the end. For users."""
        return os.pread(self.handle, size, offset)

    def write(self, data: bytes | memoryview, offset: int) -> int:
        """Write all of `data` at `offset`. Raises OSError (ENOSPC, EIO) from the disk. For users."""
        if len(data) > _MUCH:
            announce_blocking()
        done = os.pwrite(self.handle, data, offset)
        try:
            while done < len(data):
                done += os.pwrite(self.handle, memoryview(data)[done:], offset + done)
        except OSError:
            # Else bytes behind the end would stay in the file without being counted.
            with contextlib.suppress(OSError):
                os.ftruncate(self.handle, self.size)
            raise
        self.size = max(self.size, offset + done)
        return done

    def truncate(self, length: int) -> None:
        """Cut or extend with zeros to `length` bytes. For users."""
        os.ftruncate(self.handle, length)
        self.size = length

    def sync(self) -> None:
        """Return when the bytes and their name are on the disk. For users. Raises FsError(EIO)."""
        announce_blocking()
        try:
            os.fdatasync(self.handle)
            sync_directory(self.directory)
        except OSError as error:
            raise FsError(errno.EIO, f"{self.path} can't be synced: {error.strerror}") from error

    @property
    def stable_path(self) -> Path:
        """A path to the bytes that is good while somebody uses them, even if the file was removed."""
        return Path(f"/proc/self/fd/{self.handle}") if self.handle >= 0 else self.path

    def compute_sha256(self) -> str:
        """The hash of the bytes, in hex. Raises OSError."""
        announce_blocking()
        with self.path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def generation_path(directory: Path, ino: int, generation: int) -> Path:
    """Where a generation's bytes are in the directory of local bytes."""
    return directory / f"{ino:016x}.{generation}"


class LocalBytes:
    """The directory of local bytes. All methods may be called from any thread."""

    def __init__(self, directory: Path, trash: Path, lock: threading.Condition) -> None:
        """`lock`: the state's; it guards the number of users of each generation, and what waits for a sync."""
        self._lock = lock
        self.directory = directory
        self.trash = trash
        self._unsynced: set[tuple[int, int]] = set()
        #: Files to be given to `remove_retired` after a sync of the journal.
        self.retired: list[Path] = []
        directory.mkdir(mode=0o700, exist_ok=True)

    def generation_path(self, ino: int, generation: int) -> Path:
        """Where a generation's bytes are."""
        return generation_path(self.directory, ino, generation)

    def file_size(self, ino: int, generation: int) -> int:
        """How many bytes the file of a generation has, unclosed ones too; -1 if it is not there. Raises FsError(EIO)."""
        path = self.generation_path(ino, generation)
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return -1
        except OSError as error:
            raise FsError(errno.EIO, f"its file {path} can't be read: {error.strerror}") from error

    def create(
        self, ino: int, generation: int, source: Path | None = None, size: int | None = None
    ) -> LocalGeneration:
        """A new generation with one user: empty, or with all or the first `size` bytes of `source`.

        Raises FsError(ENOSPC, EMFILE, EIO).
        """
        path, handle = self.generation_path(ino, generation), -1
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            if source is not None:
                announce_blocking()
                shutil.copyfile(source, path)
                if size is not None:
                    os.truncate(path, size)
            copied = os.fstat(handle).st_size
        except OSError as error:
            if handle >= 0:
                os.close(handle)
                path.unlink(missing_ok=True)
            raise FsError(errno_for_writer(error), f"can't make {path}: {error.strerror}") from error
        return LocalGeneration(
            self._lock, self.directory, ino, generation, copied, handle, users=1, sealed=False
        )

    def open(self, ino: int, generation: int, *, sealed: bool = True) -> LocalGeneration | None:
        """A generation that an earlier run left; None if it is not there. Raises FsError(EIO) if it can't be read."""
        size = self.file_size(ino, generation)
        return (
            None
            if size < 0
            else LocalGeneration(self._lock, self.directory, ino, generation, size, sealed=sealed)
        )

    def link_to_file(self, ino: int, generation: int, other: int) -> LocalGeneration:
        """Give bytes that were never closed to another File, as closed; until a sweep both have them. Raises OSError."""
        path = self.generation_path(other, generation)
        path.hardlink_to(self.generation_path(ino, generation))
        local = LocalGeneration(self._lock, self.directory, other, generation, path.stat().st_size)
        self.mark_unsynced(other, local)
        return local

    def mark_unsynced(self, ino: int, local: LocalGeneration) -> None:
        """The next sync covers these bytes."""
        with self._lock:
            self._unsynced.add((ino, local.generation))

    def remove_after_sync(self, ino: int, generation: int) -> None:
        """These bytes are no longer needed once a journal that does not name them is on the disk."""
        with self._lock:
            self._unsynced.discard((ino, generation))
            self.retired.append(self.generation_path(ino, generation))

    def remove_retired(self, batch: list[Path]) -> None:
        """Remove the first files of `retired`; a program that has one open goes on reading it."""
        self.unlink_files(batch)
        with self._lock:
            del self.retired[: len(batch)]

    @staticmethod
    def unlink_files(paths: Iterable[Path]) -> None:
        """Remove these files; one that the disk does not let go stays."""
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s can't be removed: %s", path, error.strerror)

    def sync(self) -> list[tuple[int, int]]:
        """Bring every sealed generation to the disk; returns those that were not there before. Raises FsError(EIO)."""
        with self._lock:
            batch, self._unsynced = self._unsynced, set()
        try:
            many = len(batch) > _SYNC_EACH
            for key in () if many else batch:
                # A file that is no longer needed may be gone.
                with contextlib.suppress(FileNotFoundError), self.generation_path(*key).open("rb") as file:
                    os.fdatasync(file.fileno())
            sync_directory(self.directory, whole=many)
        except BaseException as error:
            self.sync_again(batch)
            if isinstance(error, OSError):
                raise FsError(errno.EIO, f"local bytes can't be synced: {error.strerror}") from error
            raise
        return list(batch)

    def is_synced(self, ino: int, generation: int) -> bool:
        """True if nothing of a closed generation waits for a sync: more may have been closed while it was synced."""
        return (ino, generation) not in self._unsynced

    def sync_again(self, batch: Iterable[tuple[int, int]]) -> None:
        """The next sync covers these again: it is not recorded that they are on the disk."""
        with self._lock:
            self._unsynced |= set(batch)

    @property
    def needs_sync(self) -> bool:
        """True if something waits for a sync, to be on the disk or to be removed."""
        return bool(self._unsynced or self.retired)

    def remove_all_but(self, named: set[Path]) -> None:
        """Remove every file that is not one of these."""
        self.unlink_files(sorted(set(self.directory.iterdir()) - named))

    def keep_in_trash(self, local: LocalGeneration, name: str) -> Path:
        """Keep these bytes in the trash, under a name that says what they were. Raises FsError(ENOSPC, EIO)."""
        path = self.trash / f"{local.generation}-{name}".encode()[: names.NAME_MAX].decode(errors="ignore")
        try:
            self.trash.mkdir(mode=0o700, exist_ok=True)
            path.unlink(missing_ok=True)
            os.link(local.path, path)
        except OSError as error:
            raise FsError(
                errno_for_writer(error), f"can't keep a copy in {self.trash}: {error.strerror}"
            ) from error
        return path

    def empty_trash(self) -> None:
        """Remove what was thrown away."""
        shutil.rmtree(self.trash, ignore_errors=True)
