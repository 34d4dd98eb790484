"""A directory of the user's into which files are copied: nothing there is overwritten, and no link there is followed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from jobfs import names
from jobfs.state.localbytes import sync_directory
from jobfs.state.records import UNSET

#: Flags to open a component of a path, which must be a directory itself rather than a link to one; flags to create a file.
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Mode bits: all of the owner's, which copying into a directory needs; all of everybody's, without setuid, setgid and sticky.
_OWNER, _EVERYBODY = 0o700, 0o777


class Destination:
    """The directory `top`, made with mode 0700 when the first entry is made.

    Paths are relative to the workspace, and must not be hostile (`names.hostile_reason`).
    """

    def __init__(self, top: Path) -> None:
        self.top = top

    def make_directory(self, path: str, mode: int) -> None:
        """Make a directory, and set its mode unless that is UNSET; an existing one stays as it is. Raises OSError."""
        with self._open_directory(names.parent(path)) as parent:
            name = names.basename(path)
            is_new = _make_if_missing(name, parent)
            handle = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                if is_new and mode != UNSET:
                    _set_attributes(handle, mode & _EVERYBODY | _OWNER)
            finally:
                os.close(handle)

    def copy(self, path: str, source: Path, size: int | None, mode: int, mtime_ns: int) -> int:
        """Copy the first `size` bytes of `source` (None: all) to a new file at `path`; return how many bytes these are.

        Holes stay holes. If `mode` is UNSET, the umask decides; if `mtime_ns` is UNSET, the copy gets that of `source`. Raises
        OSError, FileExistsError if there is an entry at `path`; then nothing is left of the copy.
        """
        handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            facts = os.fstat(handle)
            size = facts.st_size if size is None else size
            if facts.st_size < size:
                raise OSError(errno.EIO, f"this machine has {facts.st_size} of its {size} bytes")
            with self._create(path) as copied:
                _copy_bytes(handle, copied, size)
                changed = facts.st_mtime_ns if mtime_ns == UNSET else mtime_ns
                _set_attributes(copied, mode & _EVERYBODY if mode != UNSET else UNSET, changed)
            return size
        finally:
            os.close(handle)

    def sync(self) -> None:
        """Sync the file system of the destination. Raises OSError."""
        if self.top.exists():
            sync_directory(self.top, whole=True)

    @contextlib.contextmanager
    def _create(self, path: str) -> Iterator[int]:
        """Create a file, and yield its descriptor; remove the file if the block raises. Raises OSError."""
        with self._open_directory(names.parent(path)) as parent:
            name = names.basename(path)
            handle = os.open(name, _NEW, 0o666, dir_fd=parent)
            try:
                yield handle
            except BaseException:
                os.unlink(name, dir_fd=parent)
                raise
            finally:
                os.close(handle)

    @contextlib.contextmanager
    def _open_directory(self, path: str) -> Iterator[int]:
        """Yield the descriptor of a directory, made with its missing parents if necessary. Raises OSError."""
        self.top.mkdir(_OWNER, parents=True, exist_ok=True)
        handle = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in path.split("/") if path else ():
                _make_if_missing(name, handle)
                above, handle = handle, os.open(name, _DIRECTORY, dir_fd=handle)
                os.close(above)
            yield handle
        finally:
            os.close(handle)


def _make_if_missing(name: str, parent: int) -> bool:
    """Make a directory unless the open directory `parent` has an entry `name`; return whether it was made. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
        return True
    return False


def _set_attributes(handle: int, mode: int, mtime_ns: int = UNSET) -> None:
    """Set the mode and mtime of an open file, unless they are UNSET; ignore that a file system (FAT, for one) refuses them."""
    with contextlib.suppress(OSError):
        if mtime_ns != UNSET:
            os.utime(handle, ns=(mtime_ns, mtime_ns))
    with contextlib.suppress(OSError):
        if mode != UNSET:
            os.fchmod(handle, mode)


def _copy_bytes(source: int, target: int, size: int) -> None:
    """Copy the first `size` bytes of an open file to another, and keep its holes. Raises OSError."""
    os.ftruncate(target, size)
    for start, end in _data_ranges(source, size):
        os.lseek(target, start, os.SEEK_SET)
        while start < end:
            sent = os.sendfile(target, source, start, end - start)
            if not sent:
                raise OSError(errno.EIO, "it was truncated while it was copied")
            start += sent


def _data_ranges(source: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of the first `size` bytes that are not holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # the rest is a hole
            raise
        end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        if start < end:
            yield start, end
