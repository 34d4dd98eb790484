"""Copies of contents by path, for a person who wants them back: the last save of each file, and the base of each conflict.

    <directory>/<number>    the bytes of one copy, the newest with the highest number; a hard link where possible
    <directory>/index       a log of the copies, one JSON object per line; rewritten when most of its lines are outdated

A line is appended with one write, and a file without a line is removed by the next mount. So a kill at any moment leaves a copy
whole, or leaves none. If the disk refuses a copy, there is none, and the save succeeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from jobfs import names

log = logging.getLogger("jobfs.state")

#: The names of the two stores' directories, in the state directory of a mount.
SAVES, BASES = "saves", "bases"
#: The limits of one store: bytes of one copy, and by default the number of copies.
LARGEST, MOST_FILES = 64 << 20, 1000
#: How long a save is kept, in seconds.
SAVES_LIFETIME = 30 * 86400.0

_INDEX = "index"


@dataclass(frozen=True)
class CopyLimits:
    """The limits of one store: bytes in all, and of one copy. The index is rewritten when more than `outdated` lines are."""

    total: int = 256 << 20
    largest: int = LARGEST
    outdated: int = 4000


LIMITS = CopyLimits()


class Copy(NamedTuple):
    """One copy: its workspace path, number, size in bytes, time in seconds since the epoch, and SHA-256 ("" if not known)."""

    path: str
    number: int
    size: int
    made: float
    sha256: str = ""


class _CopyTable:
    """Copies by path and by age."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        """`lines`: those of an index. A malformed one, which a full disk may have cut off, is skipped."""
        #: The oldest copy first, because numbers only grow.
        self.by_number: dict[int, Copy] = {}
        #: By path: the number of its copy.
        self.numbers: dict[str, int] = {}
        self.total_bytes = 0
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, LookupError):
                self.apply(json.loads(line))

    def find(self, path: str) -> Copy | None:
        """Return the copy of a path, None if there is none."""
        number = self.numbers.get(path)
        return None if number is None else self.by_number[number]

    def apply(self, line: Mapping[str, Any]) -> list[Copy]:
        """Apply a line of the index; return the copies that it removes. Raises TypeError, LookupError for a malformed one."""
        if "gone" in line:
            return self._remove(line["gone"])
        if "moved" in line:
            old, new = line["moved"]
            return self._move(old, new)
        copy = Copy(**line)
        gone = self._remove(copy.path)
        self._put(copy)
        return gone

    def _put(self, copy: Copy) -> None:
        self.by_number[copy.number] = copy
        self.numbers[copy.path] = copy.number
        self.total_bytes += copy.size

    def _remove(self, path: str) -> list[Copy]:
        number = self.numbers.pop(path, None)
        if number is None:
            return []
        copy = self.by_number.pop(number)
        self.total_bytes -= copy.size
        return [copy]

    def _move(self, old: str, new: str) -> list[Copy]:
        gone, number = self._remove(new), self.numbers.pop(old)
        # Assigned in place, so that the order by age stays.
        self.by_number[number] = self.by_number[number]._replace(path=new)
        self.numbers[new] = number
        return gone


class CopyStore:
    """A directory of copies, always within its limits. Thread-safe. Errors of the disk are logged, not raised."""

    def __init__(
        self,
        directory: Path,
        *,
        max_files: int = MOST_FILES,
        lifetime: float | None = None,
        limits: CopyLimits = LIMITS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`max_files`: the largest number of copies. `lifetime`: how long each is kept, in seconds; None for no limit."""
        self._directory, self._most, self._lifetime = directory, max_files, lifetime
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._index = -1
        #: The number of lines in the index; whether a line is missing there or was cut off.
        self._lines, self._incomplete = 0, False
        self._table = _CopyTable()
        #: By number: the sizes of copies that were prepared, and neither committed nor discarded yet.
        self._prepared: dict[int, int] = {}
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            self._table, self._lines = _read_index(directory)
            self._remove_strays()
            self._open_index()
        except OSError as error:
            log.warning("%s can't be used, so no copies are kept there: %s", directory, error)
        self._next_number = max(self._table.by_number, default=0) + 1
        self.expire()

    # -- what is kept

    def find(self, path: str) -> Copy | None:
        """Return the copy of a path, None if there is none or it has expired."""
        with self._lock:
            copy = self._table.find(path)
            return None if copy is None or self._has_expired(copy) else copy

    def file_path(self, copy: Copy) -> Path:
        """Return the path of the file with a copy's bytes."""
        return self._directory / str(copy.number)

    def paths(self) -> list[str]:
        """Return the workspace paths of all copies."""
        with self._lock:
            return [*self._table.numbers]

    # -- how a copy is made: `prepare` takes the bytes, and `commit` is called in the step that records the save

    def prepare(self, path: str, source: Path, size: int, sha256: str = "") -> Copy | None:
        """Make room for the `size` bytes of `source`, and link or copy it; return None if the disk or a limit refuses that.

        `source` must not change later. `commit` or `discard` must follow; until `commit`, `path` keeps its earlier copy.
        """
        if not 0 < size <= self._limits.largest or not self._most or self._index < 0:
            return None
        with self._lock:
            self._evict(size, more=path not in self._table.numbers)
            copy = Copy(path, self._next_number, size, self._clock(), sha256)
            self._next_number += 1
            self._prepared[copy.number] = size
        try:
            _link_or_copy(source, self.file_path(copy))
        except OSError as error:
            log.info("no copy of %s is kept: %s", source, error)
            self.discard(copy)
            return None
        return copy

    def commit(self, path: str, copy: Copy | None) -> None:
        """Replace the copy of `path` by a prepared one. None: only remove the earlier copy."""
        if copy is None:
            self.drop(path)
            return
        with self._lock:
            self._prepared.pop(copy.number, None)
            self._apply(copy._replace(path=path)._asdict())
            self._evict()

    def discard(self, copy: Copy | None) -> None:
        """Remove a prepared copy, unless it was committed. None: do nothing."""
        if copy is None:
            return
        with self._lock:
            if self._prepared.pop(copy.number, None) is not None:
                _remove(self.file_path(copy))

    # -- what becomes of it

    def drop(self, path: str) -> bool:
        """Remove the copy of a path; False if there is none."""
        with self._lock:
            if path not in self._table.numbers:
                return False
            self._apply({"gone": path})
            return True

    def rename(self, old: str, new: str, *, directory: bool = False) -> None:
        """Move the copy of `old` to the path `new`; for a `directory`, the copies of all files below it."""
        with self._lock:
            known = self._table.numbers
            moved = (
                [path for path in known if names.is_below(path, old)] if directory else [old] * (old in known)
            )
            self._apply(*({"moved": [path, names.path_after_rename(path, old, new)]} for path in moved))

    def drop_oldest(self, size: int) -> bool:
        """Remove the oldest copies until `size` bytes are freed; return True if any copy was removed."""
        with self._lock:
            oldest = [*self._table.by_number.values()]
            for copy in oldest:
                self._apply({"gone": copy.path})
                size -= copy.size
                if size <= 0:
                    break
            return bool(oldest)

    def expire(self) -> None:
        """Remove copies that are too old, and the oldest of those that exceed the limits."""
        with self._lock:
            self._evict()

    def close(self) -> None:
        """Close the index, so that no further copy is made; the copies stay."""
        with self._lock:
            if self._index >= 0:
                os.close(self._index)
            self._index = -1

    def _has_expired(self, copy: Copy) -> bool:
        return self._lifetime is not None and self._clock() - copy.made > self._lifetime

    def _evict(self, room: int = 0, *, more: bool = False) -> None:
        """Remove the oldest copies until `room` more bytes, and one `more` copy, are within the limits."""
        table = self._table
        most_files = self._most - more
        most_bytes = self._limits.total - room - sum(self._prepared.values())
        while table.by_number:
            oldest = next(iter(table.by_number.values()))
            fits = len(table.by_number) <= most_files and table.total_bytes <= most_bytes
            if fits and not self._has_expired(oldest):
                return
            self._apply({"gone": oldest.path})

    # -- the index

    def _apply(self, *lines: dict[str, Any]) -> None:
        """Apply lines in memory and to the index, then remove the files of copies that are gone.

        After a kill, the index has all lines, or none.
        """
        gone = [copy for line in lines for copy in self._table.apply(line)]
        if lines and self._index >= 0:
            self._append_or_rewrite(b"".join(map(_encode_line, lines)), len(lines))
        for copy in gone:
            _remove(self.file_path(copy))

    def _append_or_rewrite(self, text: bytes, count: int) -> None:
        self._lines += count
        outdated = self._lines - len(self._table.by_number) > self._limits.outdated
        try:
            if outdated or self._incomplete or os.write(self._index, text) < len(text):
                self._rewrite()
        except OSError as error:
            # The files are removed all the same: the next mount forgets copies whose files are gone.
            self._incomplete = True
            log.info("%s can't be written: %s", self._directory / _INDEX, error)

    def _rewrite(self) -> None:
        """Replace the index by one with a line for each copy. Raises OSError; then the old index stays."""
        new = self._directory / f"{_INDEX}.new"
        with _open_new(new) as file:
            file.writelines(_encode_line(copy._asdict()) for copy in self._table.by_number.values())
        new.rename(self._directory / _INDEX)
        self._lines, self._incomplete = len(self._table.by_number), False
        os.close(self._index)
        self._open_index()

    def _open_index(self) -> None:
        self._index = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._index = os.open(self._directory / _INDEX, flags, 0o600)

    def _remove_strays(self) -> None:
        """Forget copies without their file, and remove files without a copy, both left by a killed mount. Raises OSError."""
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(self._directory)}
        for copy in [*self._table.by_number.values()]:
            if sizes.get(str(copy.number)) != copy.size:
                self._table.apply({"gone": copy.path})
        for name in sizes.keys() - {str(number) for number in self._table.by_number} - {_INDEX}:
            _remove(self._directory / name)


def read_copy(directory: Path, path: str, *, lifetime: float | None = None) -> bytes | None:
    """Return the bytes of a path's copy in a store's directory, None if there is none. A mount may be using the store.

    Nothing is changed on the disk. A copy that is replaced while it is read is looked up again. A copy whose bytes do not match
    their size or hash, as after a loss of power, counts as none.
    """
    tried: Copy | None = None
    while True:
        try:
            copy = _read_index(directory)[0].find(path)
        except OSError:
            return None
        if copy is None or copy == tried or (lifetime is not None and time.time() - copy.made > lifetime):
            return None
        tried = copy
        with contextlib.suppress(OSError):
            data = (directory / str(copy.number)).read_bytes()
            if len(data) == copy.size and copy.sha256 in ("", hashlib.sha256(data).hexdigest()):
                return data


def _read_index(directory: Path) -> tuple[_CopyTable, int]:
    """Return the copies in an index, and the number of its lines. Raises OSError."""
    try:
        lines = (directory / _INDEX).read_bytes().splitlines()
    except FileNotFoundError:
        return _CopyTable(), 0
    return _CopyTable(line.decode(errors="replace") for line in lines), len(lines)


def _encode_line(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _open_new(path: Path) -> BinaryIO:
    """Create a file with mode 0600, or truncate it, and open it for writing. Raises OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


def _link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where there can be no link. Raises OSError; then there is no `target`."""
    try:
        os.link(source, target)
    except OSError:
        try:
            with source.open("rb") as old, _open_new(target) as new:
                shutil.copyfileobj(old, new)
        except OSError:
            _remove(target)
            raise


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s can't be removed: %s", path, error.strerror)
