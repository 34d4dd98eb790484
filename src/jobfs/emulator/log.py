"""The request log: one entry for each request to the API, in order of arrival. It never contains headers or keys."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from jobfs.errors import UsageError

CHANGING = frozenset({"create", "update", "delete"})

#: The maximum number of entries in memory, about 12 MB; `count` counts older ones, too.
KEPT = 20_000


@dataclass(slots=True)
class Entry:
    """One request. `status` is what was sent (None: no answer, or none yet); `fault` the fault that was applied.

    `operation` is instance, list, find, get, create, update, delete, download, or "" for an unknown URL. `path` and `query` are
    the URL's; `item` and `target` the workspace item and the path that the request affects (for a move: the destination). `time`
    is the arrival in seconds since the epoch, `ms` the duration in milliseconds.
    """

    number: int
    time: float
    method: str
    operation: str
    job: str
    path: str
    query: str
    item: str = ""
    target: str = ""
    status: int | None = None
    ms: float | None = None
    fault: str = ""

    @property
    def is_change(self) -> bool:
        """Return whether the request asked for a change, even if it failed."""
        return self.operation in CHANGING or self.method not in ("GET", "HEAD")


class RequestLog:
    """The latest entries since the last `clear` in memory; with a file, all entries as JSON lines. Thread-safe."""

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._counts: Counter[str] = Counter()
        self._file = _open_file(file) if file else None

    def start(self, method: str, operation: str, job: str, path: str, query: str) -> Entry:
        """Record a request that has arrived."""
        with self._lock:
            self._counts[operation] += 1
            entry = Entry(self._counts.total(), time.time(), method, operation, job, path, query)
            self._entries.append(entry)
            return entry

    def finish(self, entry: Entry, status: int | None) -> None:
        """Record the status. Called before the answer is sent, so that a client that has the answer finds the status here."""
        entry.status = status
        entry.ms = round((time.time() - entry.time) * 1000, 3)
        if self._file is not None:
            line = json.dumps(asdict(entry))
            with self._lock:
                if not self._file.closed:
                    self._file.write(line + "\n")
                    self._file.flush()

    def entries(self, operation: str | None = None) -> list[Entry]:
        """Return the entries, oldest first, of one operation or of all."""
        with self._lock:
            return [entry for entry in self._entries if operation is None or entry.operation == operation]

    def changes(self) -> list[Entry]:
        """Return the requests that asked for a change."""
        return [entry for entry in self.entries() if entry.is_change]

    def count(self, operation: str | None = None) -> int:
        """Return the number of requests, of one operation or of all."""
        return self._counts.total() if operation is None else self._counts[operation]

    def clear(self) -> None:
        """Forget all entries; the file keeps its lines."""
        with self._lock:
            self._entries.clear()
            self._counts.clear()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()


def _open_file(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"can't write the log file {path}: {error.strerror}; choose another with --log"
        ) from None
