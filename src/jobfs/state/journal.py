"""The journal: the Files, unfinished Changes and tombstones of a mount, in an SQLite database (save/protocol.md).

What `write` has written survives the death of the process: it is the protocol's (w). After `sync`, it also survives a loss of
power: (S), for which many callers share one disk sync (`StateStore.sync`). `lock` is the one lock of the state (tables.py), and
guards the database too.

The state directory has reserved space (`ReservedSpace`). While that can't be refilled, a write for something new is refused with
ENOSPC. A write that records what has already happened uses the reserved space, so that it does not fail on a full disk.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jobfs.errors import FsError, UsageError
from jobfs.state.copies import CopyStore
from jobfs.state.localbytes import free_bytes, generations_in, sync_directory
from jobfs.state.records import Change, File, Record, decode_record, encode_record

log = logging.getLogger("jobfs.state")

SCHEMA_VERSION = 15

#: The new names of fields that the previous schema named differently: by table, and in a record's base.
_RENAMED = {
    "file": {"stays": "never_sent", "draft": "open_generation", "wish": "pending_permission"},
    "change": {"made": "planned_at"},
}
_RENAMED_IN_BASE = {"young": "racy"}

R = TypeVar("R")

#: The size of the reserved space in bytes: enough for some thousand records, and the growth of SQLite's own files.
_SPARE = 4 << 20
#: Bytes that must be free for anything new: a name, a row of the journal, a block or two.
_LEAST = 32 << 10
#: Bytes that the start of a mount takes, for SQLite's files and its own.
_START = 128 << 10
#: Pages after which SQLite moves its log into the database, so that the log fits into the reserved space.
_CHECKPOINT = 128


class ReservedSpace:
    """A file of zeros beside the journal, which gives up half of its space at a time when the disk is full.

    Not all at once, because other programs may take the space that it frees.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def try_refill(self, extra: int = 0) -> bool:
        """Restore the file to its full size; False if the disk lacks the space for that, or has fewer than `extra` bytes besides.

        Raises OSError if the disk can't be asked.
        """
        try:
            if not extra or self._size() < _SPARE:
                self._allocate()
        except OSError:
            return False
        return free_bytes(self._path.parent) >= extra

    def _size(self) -> int:
        """Return the size of the file in bytes, 0 if there is none. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            return self._path.stat().st_size
        return 0

    def _allocate(self) -> None:
        """Allocate the file's full size. Raises OSError; then it has its old size."""
        with self._path.open("ab") as file:
            had = file.tell()
            try:
                if had < _SPARE:
                    os.posix_fallocate(file.fileno(), 0, _SPARE)
            except OSError:
                file.truncate(had)
                raise

    def release_half(self) -> bool:
        """Free half of the space; False if only the part for the next start is left (`release_for_start`), or on an error."""
        with contextlib.suppress(OSError):
            if (size := self._size()) > _START:
                os.truncate(self._path, max(size // 2, _START))
                return True
        return False


def release_for_start(directory: Path) -> None:
    """Free the rest of the reserved space in a state directory if the disk is full, so that a mount can start."""
    with contextlib.suppress(OSError):
        if free_bytes(directory) < _START:
            os.truncate(directory / "spare", 0)


class Journal:
    """The database of records. All methods may be called from any thread."""

    def __init__(self, path: Path, copies: Sequence[CopyStore] = ()) -> None:
        """Open or create the database. `copies`: stores whose copies are removed before a write fails on a full disk.

        Raises UsageError if another version of jobfs wrote the database, if it is damaged, or if it is empty although there are
        local bytes; the local bytes stay.
        """
        self.path = path
        self.lock = threading.Condition()
        self._copies = copies
        self._written = 0
        self._synced = 0
        with contextlib.ExitStack() as opened:
            try:
                self.spare = ReservedSpace(path.with_name("spare"))
                self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
                opened.callback(self._db.close)
                self._prepare()
                self._seq = self._read_highest_number()
            except (OSError, sqlite3.Error, ValueError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"the journal {path} can't be used: {error}; repair the disk, or move {path.parent} away: the unsent bytes "
                    "are in numbered files there"
                ) from error
            opened.pop_all()
        self.spare.try_refill()
        self._wal = os.open(f"{path}-wal", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # After this sync, a loss of power can't make the journal look new.
        os.fdatasync(self._wal)
        sync_directory(path.parent)

    def _prepare(self) -> None:
        """Set up the connection and the tables; migrate a journal of the previous schema. Raises sqlite3.Error, UsageError."""
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION - 1:
            self._migrate_names()
        elif version not in (0, SCHEMA_VERSION):
            raise UsageError(
                f"the journal {self.path} was written by another version of jobfs (schema {version}, this one has "
                f"{SCHEMA_VERSION}); send the unsent files with that version, or move {self.path.parent} away"
            )
        if version == 0:
            local = self.path.with_name("bytes")
            if local.is_dir() and any(local.iterdir()):
                raise sqlite3.DatabaseError("it is empty")
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute("CREATE TABLE file (key PRIMARY KEY, record) WITHOUT ROWID")
                self._db.execute("CREATE TABLE change (key PRIMARY KEY, record) WITHOUT ROWID")
                self._db.execute("CREATE TABLE tombstone (tid PRIMARY KEY, made) WITHOUT ROWID")
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        # The age of an earlier run's requests is not known, so it counts from now.
        self._db.execute("UPDATE tombstone SET made = ?", (time.monotonic(),))

    def _migrate_names(self) -> None:
        """Rename the fields in a journal of the previous schema. Raises sqlite3.Error, ValueError, AttributeError."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for table, renamed in _RENAMED.items():
                for key, text in self._db.execute(f"SELECT key, record FROM {table}").fetchall():
                    record = _rename_fields(json.loads(text), renamed)
                    if "base" in record:
                        record["base"] = _rename_fields(record["base"], _RENAMED_IN_BASE)
                    self._db.execute(
                        f"UPDATE {table} SET record = ? WHERE key = ?", (json.dumps(record), key)
                    )
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _read_highest_number(self) -> int:
        """Read all records, and return the highest number in them, and in the names of the files with local or discarded bytes.

        No such file is overwritten: others may link to it. Raises sqlite3.DatabaseError, ValueError, TypeError or AttributeError
        if the database is damaged, OSError.
        """
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(str(found).splitlines()[-1])
        numbers = [
            number for change in self.load_records(Change) for number in (change.seq, change.generation)
        ]
        numbers += [
            number for file in self.load_records(File) for number in (file.generation, file.open_generation)
        ]
        numbers += [
            number for place in ("bytes", "trash") for number in generations_in(self.path.with_name(place))
        ]
        return max(numbers, default=0)

    def next_number(self) -> int:
        """Return the next number for a Change or a generation: higher than any in this journal."""
        with self.lock:
            self._seq += 1
            return self._seq

    def load_records(self, kind: type[R]) -> list[R]:
        """Return all records of one type, ordered by key."""
        with self.lock:
            rows = self._db.execute(f"SELECT record FROM {kind.__name__.lower()} ORDER BY key").fetchall()
        return [decode_record(kind, text) for (text,) in rows]

    def write(
        self,
        *edits: tuple[Record, Mapping[str, Any]],
        remove: Iterable[Record] = (),
        transaction_id: str = "",
        is_new: bool = False,
    ) -> None:
        """Store records with their changed fields, and delete the rows of those in `remove`: all in one transaction (w).

        `transaction_id`: an id that gets a tombstone, because a hidden name will have it (R4). `is_new`: the write is for
        something new, which may be refused. Any other write records what has happened, and may use the reserved space. Raises
        FsError(ENOSPC, EIO); then nothing was changed. Without `is_new`, ENOSPC comes only once the reserved space is used up.
        """
        with self.lock:
            if is_new and not self._try_make_room():
                raise FsError(errno.ENOSPC, f"the disk of the state directory {self.path.parent} is full")
            while True:
                try:
                    self._write(edits, remove, transaction_id)
                    break
                except sqlite3.Error as error:
                    # Whatever the error is, because SQLite reports an exceeded quota as an I/O error.
                    if is_new or not self.spare.release_half():
                        full = "full" in str(error)
                        message = f"the journal can't be written: {error}"
                        raise FsError(errno.ENOSPC if full else errno.EIO, message) from error
            self._written += 1

    @property
    def has_room(self) -> bool:
        """True if the disk has space for something new, besides the reserved space."""
        with self.lock:
            return self.spare.try_refill(extra=_LEAST)

    def _try_make_room(self) -> bool:
        """Return whether the disk has space for something new, after removing copies if necessary."""
        while not self.has_room:
            if not any(store.drop_oldest(_SPARE) for store in self._copies):
                return False
        return True

    def _write(
        self, edits: Iterable[tuple[Record, Mapping[str, Any]]], remove: Iterable[Record], transaction_id: str
    ) -> None:
        steps: list[tuple[str, tuple[Any, ...]]] = []
        for record in remove:
            table, key = _table_and_key(record)
            steps.append((f"DELETE FROM {table} WHERE key = ?", (key,)))
        for record, changed in edits:
            table, key = _table_and_key(record)
            steps.append(
                (f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, encode_record(record, changed)))
            )
        if transaction_id:
            steps.append(
                ("INSERT OR REPLACE INTO tombstone VALUES (?, ?)", (transaction_id, time.monotonic()))
            )
        with self._db:
            # A single step is a transaction by itself. A BEGIN would be one more call, and each lets other threads run first.
            if len(steps) > 1:
                self._db.execute("BEGIN IMMEDIATE")
            for step in steps:
                self._db.execute(*step)

    def sync(self) -> None:
        """Sync all writes so far to the disk (S). One thread at a time may do so (`StateStore.sync`). Raises FsError(EIO)."""
        with self.lock:
            written = self._written
        if written > self._synced:
            try:
                os.fdatasync(self._wal)
            except OSError as error:
                raise FsError(errno.EIO, f"the journal can't be synced: {error.strerror}") from error
            self._synced = written

    @property
    def needs_sync(self) -> bool:
        """True if there were writes since the last sync."""
        return self._written > self._synced

    def prune_tombstones(self, before: float) -> None:
        """Delete tombstones older than `before` (monotonic seconds), whose requests can no longer be carried out."""
        with self.lock, contextlib.suppress(sqlite3.Error):
            self._db.execute("DELETE FROM tombstone WHERE made < ?", (before,))

    @property
    def has_any_tombstone(self) -> bool:
        """True if there is a tombstone."""
        with self.lock:
            return self._db.execute("SELECT 1 FROM tombstone LIMIT 1").fetchone() is not None

    def has_tombstone(self, tid: str) -> bool:
        """Return whether there is a tombstone for the transaction id `tid`."""
        with self.lock:
            row = self._db.execute("SELECT 1 FROM tombstone WHERE tid = ?", (tid,)).fetchone()
        return row is not None

    def close(self) -> None:
        """Close the database."""
        with self.lock:
            self._db.close()
            os.close(self._wal)


def _table_and_key(record: Record) -> tuple[str, int]:
    """Return the table of a record, and its key there."""
    return ("file", record.ino) if isinstance(record, File) else ("change", record.seq)


def _rename_fields(values: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Return a JSON object with the fields in `renamed` under their new names."""
    return {renamed.get(name, name): value for name, value in values.items()}
