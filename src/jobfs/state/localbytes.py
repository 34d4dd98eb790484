"""Local bytes: one file per generation of a File, in the state directory (save/protocol.md, Vocabulary).

The closed bytes of a generation never change. Until the generation is sealed, more may be written behind them. Any other write
begins the next generation with a copy. A generation has an open descriptor only while it has users. Its file is removed only
after a sync of a journal that no longer names it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from jobfs import names
from jobfs.api.deadline import call_blocking_hook
from jobfs.errors import FsError

log = logging.getLogger("jobfs.state")

#: More files than this are synced with a single `syncfs`.
_SYNC_EACH = 16
#: A write of more bytes than this may have to wait for the disk.
_MUCH = 64 << 10
#: The name of a generation's file (`generation_path`), or of one in the trash (`LocalBytes.keep_in_trash`).
_NUMBERED = re.compile(r"(?:[0-9a-f]{16}\.)?([0-9]+)(?:-|$)")
_libc = ctypes.CDLL(None, use_errno=True)

#: The kernel's boot id, which changes with each boot; "" if there is none.
BOOT = ""
with contextlib.suppress(OSError):
    BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

#: The errors of the local disk that are passed on to the caller; any other becomes EIO.
_ERRNOS_FOR_WRITER = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE}
)


def errno_for_writer(error: OSError) -> int:
    """Return the errno that a program gets when its write fails on the local disk: EIO, not ENOENT, if the disk is gone."""
    return error.errno if error.errno in _ERRNOS_FOR_WRITER else errno.EIO


def free_bytes(directory: Path) -> int:
    """Return the bytes available on the disk that holds a directory. Raises OSError."""
    facts = os.statvfs(directory)
    return facts.f_bavail * facts.f_frsize


def sync_directory(directory: Path, *, whole: bool = False) -> None:
    """Sync the entries of `directory`; if `whole`, all of its file system. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if whole and _libc.syncfs(handle) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(slots=True, eq=False)
class LocalGeneration:
    """The bytes of one generation, in a file that is open while it has users (`acquire`, `release`).

    `lock` guards the count of users. `size` in bytes. `closed_size`: how many of the first bytes are closed and never change.
    `sealed`: nothing may be written, not even behind the closed bytes.
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
        """The path of the file. Computed on demand: a Path takes 400 bytes, and there is a generation for each unsent file."""
        return generation_path(self.directory, self.ino, self.generation)

    def may_change(self, position: int) -> bool:
        """Return whether the bytes from `position` on may be overwritten, appended to or truncated."""
        return not self.sealed and position >= self.closed_size

    def acquire(self) -> LocalGeneration:
        """Add a user; the first one opens the file. Raises OSError (EMFILE)."""
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
            self.sealed = True  # the disk has failed and become read-only: its bytes can still be read
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def release(self) -> None:
        """Remove a user; the last one closes the file."""
        with self.lock:
            self.users -= 1
            if self.users:
                return
            handle, self.handle = self.handle, -1
        os.close(handle)

    close = release

    def discard(self) -> None:
        """Release the only user and remove the file: its bytes are not needed after all."""
        self.release()
        self.path.unlink(missing_ok=True)

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at `offset`, at most `size`; fewer only at the end. For users. Raises OSError."""
        return os.pread(self.handle, size, offset)

    def write(self, data: bytes | memoryview, offset: int) -> int:
        """Write all of `data` at `offset`, and return its length. For users. Raises OSError (ENOSPC, EIO)."""
        if len(data) > _MUCH:
            call_blocking_hook()
        done = os.pwrite(self.handle, data, offset)
        try:
            while done < len(data):
                done += os.pwrite(self.handle, memoryview(data)[done:], offset + done)
        except OSError:
            # Otherwise a part of `data` would stay in the file, behind `size`.
            with contextlib.suppress(OSError):
                os.ftruncate(self.handle, self.size)
            raise
        self.size = max(self.size, offset + done)
        return done

    def truncate(self, length: int) -> None:
        """Truncate, or extend with zeros, to `length` bytes. For users. Raises OSError."""
        os.ftruncate(self.handle, length)
        self.size = length

    def sync(self) -> None:
        """Sync the bytes and the directory entry of their file. For users. Raises FsError(EIO)."""
        call_blocking_hook()
        try:
            os.fdatasync(self.handle)
            sync_directory(self.directory)
        except OSError as error:
            raise FsError(errno.EIO, f"{self.path} can't be synced: {error.strerror}") from error

    @property
    def stable_path(self) -> Path:
        """A path to the bytes that stays valid while there are users, even after the file was removed."""
        return Path(f"/proc/self/fd/{self.handle}") if self.handle >= 0 else self.path

    def compute_sha256(self) -> str:
        """Return the SHA-256 of the bytes, in hex. Raises OSError."""
        call_blocking_hook()
        with self.path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def generation_path(directory: Path, ino: int, generation: int) -> Path:
    """Return the path of a generation's file in the `directory` of local bytes."""
    return directory / f"{ino:016x}.{generation}"


def generations_in(directory: Path) -> list[int]:
    """Return the numbers in the names of the files in `directory`, local or discarded bytes. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return [int(found[1]) for found in map(_NUMBERED.match, os.listdir(directory)) if found]
    return []


class LocalBytes:
    """The directory of local bytes. All methods may be called from any thread."""

    def __init__(self, directory: Path, trash: Path, lock: threading.Condition) -> None:
        """Make `directory` if necessary. `lock`: the state's; it guards the counts of users and what waits for a sync."""
        self._lock = lock
        self.directory = directory
        self.trash = trash
        self._unsynced: set[tuple[int, int]] = set()
        #: Files that `remove_retired` should remove after the next sync of the journal.
        self.retired: list[Path] = []
        directory.mkdir(mode=0o700, exist_ok=True)

    def generation_path(self, ino: int, generation: int) -> Path:
        """Return the path of a generation's file."""
        return generation_path(self.directory, ino, generation)

    def file_size(self, ino: int, generation: int) -> int:
        """Return the size of a generation's file in bytes, with unclosed ones; -1 if there is no file. Raises FsError(EIO)."""
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
        """Create a generation with one user: empty, or a copy of the first `size` bytes of `source` (None: of all).

        Raises FsError(ENOSPC, EMFILE, EIO); then there is no file.
        """
        path, handle = self.generation_path(ino, generation), -1
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            if source is not None:
                call_blocking_hook()
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
        """Return a generation that is on the disk, without users; None if there is no file. Raises FsError(EIO)."""
        size = self.file_size(ino, generation)
        return (
            None
            if size < 0
            else LocalGeneration(self._lock, self.directory, ino, generation, size, sealed=sealed)
        )

    def link_to_file(self, ino: int, generation: int, file_number: int) -> LocalGeneration:
        """Give an unclosed generation to the File numbered `file_number`, as closed bytes, by a hard link. Raises OSError."""
        path = self.generation_path(file_number, generation)
        path.hardlink_to(self.generation_path(ino, generation))
        local = LocalGeneration(self._lock, self.directory, file_number, generation, path.stat().st_size)
        self.mark_unsynced(file_number, local)
        return local

    def mark_unsynced(self, ino: int, local: LocalGeneration) -> None:
        """Include these bytes in the next `sync`."""
        with self._lock:
            self._unsynced.add((ino, local.generation))

    def remove_after_sync(self, ino: int, generation: int) -> None:
        """Retire these bytes: they are removed after a sync of the journal, which no longer names them."""
        with self._lock:
            self._unsynced.discard((ino, generation))
            self.retired.append(self.generation_path(ino, generation))

    def remove_retired(self, batch: list[Path]) -> None:
        """Remove `batch`, the first files of `retired`; a program that has one open can still read it."""
        self.unlink_files(batch)
        with self._lock:
            del self.retired[: len(batch)]

    @staticmethod
    def unlink_files(paths: Iterable[Path]) -> None:
        """Remove these files; log those that can't be removed."""
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s can't be removed: %s", path, error.strerror)

    def sync(self) -> list[tuple[int, int]]:
        """Sync all closed bytes; return those that were not synced before, as (number, generation). Raises FsError(EIO)."""
        with self._lock:
            batch, self._unsynced = self._unsynced, set()
        try:
            many = len(batch) > _SYNC_EACH
            for key in () if many else batch:
                # It may have been retired and removed.
                with contextlib.suppress(FileNotFoundError), self.generation_path(*key).open("rb") as file:
                    os.fdatasync(file.fileno())
            sync_directory(self.directory, whole=many)
        except BaseException as error:
            self.mark_unsynced_again(batch)
            if isinstance(error, OSError):
                raise FsError(errno.EIO, f"local bytes can't be synced: {error.strerror}") from error
            raise
        return list(batch)

    def is_synced(self, ino: int, generation: int) -> bool:
        """Return whether a generation does not wait for a sync. Bytes that were closed during a sync wait for the next one."""
        return (ino, generation) not in self._unsynced

    def mark_unsynced_again(self, batch: Iterable[tuple[int, int]]) -> None:
        """Include these in the next `sync` again, because the journal does not record that they are synced."""
        with self._lock:
            self._unsynced |= set(batch)

    @property
    def needs_sync(self) -> bool:
        """True if bytes wait to be synced, or files to be removed after a sync."""
        return bool(self._unsynced or self.retired)

    def remove_all_but(self, named: set[Path]) -> None:
        """Remove every file but these."""
        self.unlink_files(sorted(set(self.directory.iterdir()) - named))

    def keep_in_trash(self, local: LocalGeneration, name: str) -> Path:
        """Keep these bytes in the trash, in a file named after `name`; return its path. Raises FsError(ENOSPC, EIO)."""
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
        """Remove the trash."""
        shutil.rmtree(self.trash, ignore_errors=True)
