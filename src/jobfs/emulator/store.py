"""The state on disk: SQLite for jobs and items, one file for each content. It survives kill -9 at any moment.

A content file is complete before the row that names it is committed, and is never written again. A file that no row names is left
over from a crash in between; the next start removes it. Every change in memory follows its commit. One lock protects the rows and
the memory, and keeps them in the same order; it is held only for short disk operations.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

from jobfs.errors import UsageError

from .behaviour import Behaviour
from .records import Job, StoredItem, new_id

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, kind TEXT NOT NULL, path BLOB NOT NULL, owner TEXT NOT NULL,
    lifecycle TEXT NOT NULL, permission TEXT NOT NULL,
    created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL,
    size INTEGER NOT NULL, blob TEXT NOT NULL
);
"""
_COLUMNS = "id, kind, path, owner, lifecycle, permission, created_us, updated_us, size, blob"


class Blob:
    """A content file being written; an item stores its `name` after `close`."""

    def __init__(self, directory: Path) -> None:
        self.name = secrets.token_hex(12)
        self.size = 0
        self._path = directory / self.name[:2] / self.name
        try:
            self._fd = self._create()
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = self._create()

    def _create(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        view = memoryview(data)
        while view:
            done = os.write(self._fd, view)
            self.size += done
            view = view[done:]

    def close(self) -> None:
        """End the writing; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Remove the file again."""
        self.close()
        self._path.unlink(missing_ok=True)


class EmulatorStore:
    """All jobs in one directory. Raises UsageError if it can't be used, or if another server uses it."""

    def __init__(
        self,
        directory: Path,
        behaviour: Behaviour | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.lock = threading.RLock()
        self.directory = directory
        self.behaviour = behaviour or Behaviour()
        self.seed = seed
        self._clock = clock
        self._last_us = 0
        self._content = directory / "content"
        self._lock_fd = _lock_directory(directory)
        try:
            self._db = sqlite3.connect(directory / "items.db", check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            #: The jobs that earlier servers left in the directory, each with its items.
            self.saved = self._load()
        except sqlite3.Error as error:
            if hasattr(self, "_db"):
                self._db.close()
            os.close(self._lock_fd)
            raise UsageError(f"{directory} holds no usable state of a local server: {error}") from None

    def close(self) -> None:
        """Release the directory."""
        with self.lock:
            self._db.close()
            os.close(self._lock_fd)

    def new_job(self, job_id: str) -> Job:
        """Save and return a job that has just begun."""
        now = self.now_us()
        job = Job(job_id, new_id(), new_id(), new_id(), created_us=now, updated_us=now)
        self.save_job(job)
        return job

    def save_job(self, job: Job) -> None:
        """Save the state of a job."""
        self._db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?)", (job.id, json.dumps(asdict(job))))

    def now(self) -> float:
        """Return the server's clock in seconds since the epoch."""
        return self._clock() + self.behaviour.clock_skew

    def now_us(self) -> int:
        """Return the server's clock in microseconds since the epoch; never the same twice.

        Never within the first millisecond of a second: a client takes such a timestamp for that of a server whose clock has whole
        seconds.
        """
        now = int(self.now() * 1_000_000)
        now = now if now > self._last_us or now < self._last_us - 1_000_000 else self._last_us + 1
        self._last_us = now if now % 1_000_000 >= 1000 else now + 1000
        return self._last_us

    def commit(self, job_id: str, puts: Iterable[StoredItem], drops: Iterable[StoredItem]) -> None:
        """Write and remove rows in one transaction. Raises OSError if the disk rejects it."""
        try:
            self._transact(job_id, puts, drops)
        except sqlite3.OperationalError as error:
            raise OSError(errno.ENOSPC if "full" in str(error) else errno.EIO, str(error)) from error

    def _transact(self, job_id: str, puts: Iterable[StoredItem], drops: Iterable[StoredItem]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                f"INSERT OR REPLACE INTO items (job, {_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                [(job_id, *_to_row(item)) for item in puts],
            )
            self._db.executemany("DELETE FROM items WHERE id = ?", [(item.id,) for item in drops])
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def new_blob(self) -> Blob:
        """Return a new content file to write."""
        return Blob(self._content)

    def open_blob(self, name: str) -> int:
        """Return a descriptor to read a content file; it stays valid when the content is replaced."""
        return os.open(self._content / name[:2] / name, os.O_RDONLY)

    def remove_blob(self, name: str) -> None:
        """Remove a content file that no row names any longer."""
        (self._content / name[:2] / name).unlink(missing_ok=True)

    def _load(self) -> list[tuple[Job, list[StoredItem]]]:
        items: dict[str, list[StoredItem]] = {}
        rows = self._db.execute(f"SELECT job, {_COLUMNS} FROM items ORDER BY created_us, rowid")
        for job_id, *row in rows:
            items.setdefault(job_id, []).append(_from_row(row))
        jobs = [
            Job(**json.loads(state)) for (state,) in self._db.execute("SELECT state FROM jobs ORDER BY rowid")
        ]
        self._sweep({item.blob for group in items.values() for item in group})
        return [(job, items.get(job.id, [])) for job in jobs]

    def _sweep(self, known: set[str]) -> None:
        for path in list(self._content.glob("*/*")):
            if path.name not in known:
                path.unlink()


def _lock_directory(directory: Path) -> int:
    """Make the directory and take its lock; return the lock's descriptor. Raises UsageError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            f"can't keep state in {directory}: {error.strerror}; choose a writable directory with --dir"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise UsageError(
            f"{directory} is in use by another local server; stop it or choose another --dir"
        ) from None
    return lock


def _to_row(item: StoredItem) -> tuple[object, ...]:
    # Paths are bytes in the table: a test may seed one that is not valid Unicode.
    return (
        item.id, item.kind, item.path.encode("utf-8", "surrogatepass"), item.owner, item.lifecycle,
        item.permission, item.created_us, item.updated_us, item.size, item.blob,
    )  # fmt: skip


def _from_row(row: list[object]) -> StoredItem:
    item = StoredItem(*row)  # type: ignore[arg-type]
    return replace(item, path=row[2].decode("utf-8", "surrogatepass"))  # type: ignore[attr-defined]
