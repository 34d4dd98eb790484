"""System calls of the programs in a workload: how long each took, and which failed with what."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tests.support.programs import opened, program, save_by

#: Bytes that a file has at most.
_WHOLE = 8 << 20
#: The program that gives a file new content, and does not read it.
OVERWRITE = program(">")


class RefusedError(Exception):
    """A call failed, which is noted; its cause is the OSError. What would have followed from the call is left out."""


class Notes:
    """What came of the calls of a workload. Safe from any thread.

    `failed` counts calls that need nothing but the local disk: those named in `local` (None: all). `refused` counts the others,
    which may fail where the server can't be asked. Both count by name and errno. `slowest` is in seconds.
    """

    def __init__(self) -> None:
        self.local: Collection[str] | None = None
        self.failed, self.refused = Counter[str](), Counter[str]()
        self.slowest, self.done = 0.0, 0
        self._lock = threading.Lock()

    def is_local(self, name: str) -> bool:
        return self.local is None or name in self.local

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Note one call, or a few that belong together. Raises RefusedError if it fails."""
        began = time.monotonic()
        try:
            yield
        except OSError as error:
            with self._lock:
                failures = self.failed if self.is_local(name) else self.refused
                failures[f"{name}: {errno.errorcode.get(error.errno or 0, error)}"] += 1
            raise RefusedError(name) from error
        finally:
            seconds = time.monotonic() - began
            with self._lock:
                self.done += 1
                self.slowest = max(self.slowest, seconds)


class NotedCalls:
    """The calls by which programs save files below `root` (tests/support/programs.py), and others; all raise as `Notes.of`."""

    def __init__(self, root: Path, notes: Notes) -> None:
        self.root, self.notes = root, notes

    def make(self, call: Callable[..., object], *paths: str) -> None:
        """Make a call of `os` on these paths."""
        with self.notes.of(call.__name__):
            call(*[self.root / path for path in paths])

    def save(self, path: str, data: bytes, *, sync: bool = False) -> None:
        """Save a file as a program does that does not read it."""
        save_by(self, replace(OVERWRITE, syncs=int(sync)), path, lambda text: data)

    def look(self, path: str) -> bytes:
        """Return all of a file."""
        with opened(self, path, os.O_RDONLY) as fh:
            return self.read_whole(fh)

    def open(self, path: str, flags: int) -> int:
        with self.notes.of("open to replace" if flags & os.O_TRUNC else "open"):
            return os.open(self.root / path, flags | os.O_CLOEXEC, 0o644)

    def read_whole(self, fh: int) -> bytes:
        with self.notes.of("read"):
            return os.pread(fh, _WHOLE, 0)

    def size(self, fh: int) -> int:
        return os.fstat(fh).st_size

    def write(self, fh: int, data: bytes, offset: int) -> None:
        view = memoryview(data)
        with self.notes.of("write"):
            while view:
                written = os.pwrite(fh, view, offset)
                view, offset = view[written:], offset + written

    def truncate(self, fh: int, size: int) -> None:
        with self.notes.of("truncate"):
            os.ftruncate(fh, size)

    def fsync(self, fh: int) -> None:
        """Where it may fail, the close that follows still keeps the bytes."""
        tolerated = () if self.notes.is_local("fsync") else (RefusedError,)
        with suppress(*tolerated), self.notes.of("fsync"):
            os.fsync(fh)

    def close(self, fh: int) -> None:
        with self.notes.of("close"):
            os.close(fh)

    def rename(self, old: str, new: str) -> None:
        self.make(os.rename, old, new)

    def unlink(self, path: str) -> None:
        self.make(os.unlink, path)


def listed(failures: Counter[str]) -> str:
    """Return failures in words."""
    return ", ".join(f"{count} × {name}" for name, count in failures.most_common()) or "none"
