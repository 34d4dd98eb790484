"""System calls in the mount, each noted in the ledger before it is made and once it has returned."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.forks import ForkServer
from tests.support.programs import Program, opened, save_by

from .contents import ABSENT, Content, Contents
from .ledger import BLIND, DEAD, Change, Ledger

#: Nothing was done, and the job has made it so.
_REFUSALS = {
    errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM,
}  # fmt: skip
#: What a file shows at most.
_WHOLE = 8 << 20


class UnreadableError(Exception):
    """A read showed what nobody wrote, or what cannot be there."""


@dataclass(frozen=True)
class Place:
    """A mount at `root`, and what is noted of it; `forks` starts programs. `calm`: no call may fail."""

    root: Path
    ledger: Ledger
    contents: Contents
    forks: ForkServer
    calm: bool


@dataclass
class _Handle:
    """An open file; `change`: its last write."""

    path: str
    change: Change | None = None


class Calls:
    """The calls of one user, those by which a program saves (`Calls` of tests/support/programs.py) and others.

    All raise OSError. A change begins when the first byte is written, and is promised when `fsync` or `close` returns.
    """

    def __init__(self, place: Place) -> None:
        self._place, self._root, self._ledger, self._contents = (
            place,
            place.root,
            place.ledger,
            place.contents,
        )
        self._handles: dict[int, _Handle] = {}
        #: Of the program that saves: its name, what it has read, by path, and what it writes.
        self._program, self._seen, self._new = "", dict[str, Content](), ABSENT

    def save(self, one: Program, path: str, make: Callable[[], Content]) -> None:
        """Save a file as a program does; `make` returns the content of its next write."""

        def data(text: bytes) -> bytes:
            self._new = make()
            return self._new.added

        self._program = one.name
        self._seen.clear()
        save_by(self, one, path, data)

    def open(self, path: str, flags: int) -> int:
        fh = os.open(self._root / path, flags | os.O_CLOEXEC, 0o644)
        self._handles[fh] = _Handle(path)
        return fh

    def read_whole(self, fh: int) -> bytes:
        """Raise UnreadableError unless the file has one whole content, of those that may be there."""
        path, data = self._handles[fh].path, os.pread(fh, _WHOLE, 0)
        seen = self._contents.of(data)
        if seen is None:
            # If the mount died in between, only a part was read: then the next read fails.
            os.pread(fh, 1, len(data))
            raise UnreadableError(f"{path} read as {self._contents.known(data)}")
        if seen not in self._ledger.at(path) and not self._ledger.was_disturbed(path):
            raise UnreadableError(f"{path} read as {seen}, of {', '.join(map(str, self._ledger.at(path)))}")
        self._seen[path] = seen
        return data

    def read(self, path: str) -> bytes:
        """Read a file by a handle of its own, as `read_whole` does."""
        with opened(self, path, os.O_RDONLY) as fh:
            return self.read_whole(fh)

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory; look at each, as a file manager does."""
        found = os.listdir(self._root / directory)
        for name in found:
            with suppress(FileNotFoundError):
                os.lstat(self._root / directory / name)
        return found

    def size(self, fh: int) -> int:
        return os.fstat(fh).st_size

    def write(self, fh: int, data: bytes, offset: int) -> None:
        handle = self._handles[fh]
        seen = self._seen.get(handle.path, BLIND)
        if handle.change is not None:
            handle.change.written = b""  # the program replaces it, even if an fsync of it has failed
        handle.change = change = self._ledger.put(handle.path, self._new, seen, f"{self._program}:")
        self._ledger.opened(change)
        with self._half_done(change):
            while (at := len(change.written)) < len(data):
                change.written = data[: at + os.pwrite(fh, memoryview(data)[at:], offset + at)]

    def truncate(self, fh: int, size: int) -> None:
        change = self._handles[fh].change
        assert change is not None
        with self._half_done(change):
            os.ftruncate(fh, size)

    @contextmanager
    def _half_done(self, change: Change) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._ledger.failed(change, error, half_done=True)
            raise

    def fsync(self, fh: int) -> None:
        """Where things go wrong it may fail, and the close that follows still keeps the bytes."""
        change = self._handles[fh].change
        assert change is not None
        try:
            os.fsync(fh)
        except OSError as error:
            if self._place.calm or error.errno in DEAD:
                self._ledger.failed(change, error)
                raise
            self._ledger.tell(f"fsync fails ({error}): {change.text}")
        else:
            self._ledger.keep(change, durable=True)

    def close(self, fh: int) -> None:
        change = self._handles.pop(fh).change
        try:
            os.close(fh)
        except OSError as error:
            if change is not None:
                self._ledger.failed(change, error)
            raise
        if change is not None and not change.over:
            self._ledger.keep(change)

    def rename(self, old: str, new: str) -> None:
        """A program knows the job's versions only of names that it has read."""
        self._seen.pop(old, None)
        self._attempt(self._ledger.rename(old, new, self._seen.get(new, BLIND)), os.rename, old, new)

    def unlink(self, path: str) -> None:
        self._attempt(self._ledger.unlink(path), os.unlink, path)

    def mkdir(self, path: str) -> None:
        self._attempt(self._ledger.mkdir(path), os.mkdir, path)

    def rmdir(self, path: str) -> None:
        self._attempt(self._ledger.unlink(path, "rmdir"), os.rmdir, path)

    def chmod(self, path: str, mode: int) -> None:
        self._ledger.modes.pop(path, None)
        os.chmod(self._root / path, mode)
        if len(self._ledger.at(path)) == 1:
            self._ledger.modes[path] = mode
            self._ledger.tell(f"kept: chmod {mode:o} {path}")

    def _attempt(self, change: Change, call: Callable[..., None], *paths: str) -> None:
        try:
            call(*[self._root / path for path in paths])
        except OSError as error:
            (self._ledger.refused if error.errno in _REFUSALS else self._ledger.failed)(change, error)
            raise
        self._ledger.keep(change)
