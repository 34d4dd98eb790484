"""The log of a mount's notes on the disk, for the programs that outlive the mount (vfs/semantics.md 4.63).

Each line is an entry: its kind and its values, which `ReadLog` writes and repeats. The log is not synced, because a loss of power
ends the programs, too. So only a log of this boot counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

from jobfs.nodes import Item, Kind
from jobfs.state.localbytes import BOOT
from jobfs.state.processes import Process
from jobfs.state.records import Base

#: Strings, booleans, and values that `_encode` knows.
Entry = tuple[Any, ...]
#: After how many more bytes the log is compacted.
GROWTH = 8 << 20


class NoteLog:
    """The log in one file; the caller serializes the calls. They raise nothing: what the disk rejects is missing from the log."""

    def __init__(self, path: Path | None, max_growth: int = GROWTH) -> None:
        """`path`: None for a log that keeps nothing. Before the first `compact`, `append` keeps nothing either.

        `max_growth`: by how many bytes the log may grow before it should be compacted again.
        """
        self._path, self._fd, self._max_growth = path, -1, max_growth
        self._size = self._limit = 0

    def load(self, find_heir: Callable[[list[list[str]]], Process | None]) -> Iterator[list[Any]]:
        """Yield the entries that an earlier mount has left, with `find_heir` of the lineage of each process."""
        header, *lines = [""]
        with suppress(OSError, ValueError):
            header, *lines = self._path.read_text("ascii").split("\n") if self._path is not None else [""]
        for line in lines if header == BOOT else ():
            with suppress(ValueError, TypeError, IndexError):  # the disk has rejected a part of the line
                yield json.loads(line, object_hook=lambda values: _decode(values, find_heir))

    @property
    def needs_compaction(self) -> bool:
        """True if the log has grown by `max_growth` since it was compacted."""
        return self._size > self._limit

    def compact(self, entries: Iterable[Entry]) -> None:
        """Replace the whole log by these entries; if the disk rejects that, the log continues as it is."""
        if self._path is None:
            return
        data, new = b"".join([BOOT.encode(), *map(_line, entries)]), self._path.with_name("notes.new")
        with suppress(OSError):
            new.write_bytes(data)
            new.replace(self._path)
            self.close()
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._size = len(data)
        self._limit = self._size + self._max_growth

    def append(self, entry: Entry) -> None:
        """Append an entry."""
        if self._fd >= 0:
            with suppress(OSError):
                self._size += os.write(self._fd, _line(entry))

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _line(entry: Entry) -> bytes:
    """Encode an entry. The line feed comes first, so that it ends a line of which the disk has rejected a part."""
    return b"\n" + json.dumps(entry, default=_encode).encode()


def _encode(value: Item | Base | Process) -> dict[str, Any]:
    """Encode a value that JSON does not know."""
    if isinstance(value, Process):
        return {"process": [each.key for each in value.self_and_ancestors()]}
    if isinstance(value, Base):
        return {"base": astuple(value)}
    return {"item": (value.id, value.path, value.updated_at, value.size)}


def _decode(
    encoded: dict[str, Any], find_heir: Callable[[list[list[str]]], Process | None]
) -> Item | Base | Process | None:
    """Decode what `_encode` returned. Raises ValueError, TypeError, IndexError for anything else."""
    ((kind, values),) = encoded.items()
    if kind == "process":
        return find_heir(values)
    if kind == "base":
        return Base(*values)
    item_id, path, updated_at, size = values
    return Item(item_id, Kind.FILE, path, updated_at=updated_at, size=size)
