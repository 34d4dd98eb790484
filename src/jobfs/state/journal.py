"""The journal: what this mount still owes the server, on disk, in SQLite (save/protocol.md).

`write` is the protocol's (w): it survives the death of the process. `sync` is its (S): it survives power loss, and many
callers share one disk sync (`StateStore.sync`). `lock` is the one lock of the state (tables.py): it guards the database too.

The state directory holds some spare room (`ReservedSpace`). While it is spent, a write for something new is refused with ENOSPC.
A write that only records what has already happened takes from the spare room, and so can't fail for want of space.
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
from jobfs.state.localbytes import free_bytes, sync_directory
from jobfs.state.records import Change, File, Record, decode_record, encode_record

log = logging.getLogger("jobfs.state")

SCHEMA_VERSION = 15

#: The new names of fields in records of the schema before this one: by table, and of a record's base.
_RENAMED = {
    "file": {"stays": "never_sent", "draft": "open_generation", "wish": "pending_permission"},
    "change": {"made": "planned_at"},
}
_RENAMED_IN_BASE = {"young": "racy"}

R = TypeVar("R")

#: Bytes kept free for records of what has happened: for some thousands of records, and the growth of SQLite's own files.
_SPARE = 4 << 20
#: Bytes that anything new takes: a name, a row of the journal, a block or two.
_LEAST = 32 << 10
#: Bytes that a start takes for SQLite's files and its own.
_START = 128 << 10
#: Pages after which SQLite moves its log into the database: it stays small enough for the spare room.
_CHECKPOINT = 128


class ReservedSpace:
    """A file of zeros beside the journal, given up by halves when the disk is full: another program may take what is free."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def refill(self, extra: int = 0) -> bool:
        """Take the room again; False if the disk does not have that, and `extra` bytes more."""
        try:
            if not extra or self._size() < _SPARE:
                self._take()
        except OSError:
            return False
        return free_bytes(self._path.parent) >= extra

    def _size(self) -> int:
        """How many bytes it has; 0 if there is no such file. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            return self._path.stat().st_size
        return 0

    def _take(self) -> None:
        """Make the file as long as it should be. Raises OSError; then it is as long as it was."""
        with self._path.open("ab") as file:
            had = file.tell()
            try:
                if had < _SPARE:
                    os.posix_fallocate(file.fileno(), 0, _SPARE)
            except OSError:
                file.truncate(had)
                raise

    def release(self) -> bool:
        """Make half of the room free; False if only what the next start needs is left (`release_for_start`)."""
        with contextlib.suppress(OSError):
            if (size := self._size()) > _START:
                os.truncate(self._path, max(size // 2, _START))
                return True
        return False


def release_for_start(directory: Path) -> None:
    """On a full disk: give up the spare room, so that a mount can start."""
    with contextlib.suppress(OSError):
        if free_bytes(directory) < _START:
            os.truncate(directory / "spare", 0)


class Journal:
    """Records on disk. All methods may be called from any thread."""

    def __init__(self, path: Path, copies: Sequence[CopyStore] = ()) -> None:
        """Open or make the journal. `copies`: what is removed before a write fails for want of room.

        Raises UsageError if another jobfs wrote it, if it is damaged, or if it is new although there are local bytes: no record
        names them, and they stay.
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
                    f"the journal {path} can't be used: {error}; mend the disk, or move {path.parent} away: what is unsent is "
                    "in numbered files there"
                ) from error
            opened.pop_all()
        self.spare.refill()
        self._wal = os.open(f"{path}-wal", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # From now on the journal is never taken for a new one.
        os.fdatasync(self._wal)
        sync_directory(path.parent)

    def _prepare(self) -> None:
        """Raises sqlite3.Error, UsageError."""
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION - 1:
            self._take_over()
        elif version not in (0, SCHEMA_VERSION):
            raise UsageError(
                f"the journal {self.path} was written by another version of jobfs (schema {version}, this one has "
                f"{SCHEMA_VERSION}); send what is unsent with that version, or move {self.path.parent} away"
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
        # Nobody knows how old the requests of an earlier run are: they count from now.
        self._db.execute("UPDATE tombstone SET made = ?", (time.monotonic(),))

    def _take_over(self) -> None:
        """Rename the fields in a journal of the schema before this one. Raises sqlite3.Error, ValueError, AttributeError."""
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
        """Read all records; returns the highest number. Raises sqlite3.DatabaseError or ValueError for what no jobfs wrote."""
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(str(found).splitlines()[-1])
        numbers = [
            number for change in self.load_records(Change) for number in (change.seq, change.generation)
        ]
        numbers += [
            number for file in self.load_records(File) for number in (file.generation, file.open_generation)
        ]
        return max(numbers, default=0)

    def next_number(self) -> int:
        """A number that orders changes and generations; never used before in this journal's records."""
        with self.lock:
            self._seq += 1
            return self._seq

    def load_records(self, kind: type[R]) -> list[R]:
        """Every record of one kind, in the order of their keys."""
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
        """Store records, each with some fields changed, and remove those in `remove`; all or none. Survives the process's death.

        `transaction_id`: a transaction id that is used in a hidden name from now on (R4); a tombstone of it stays.
        `is_new`: the write is for something new, which may be refused: FsError(ENOSPC, EIO), and nothing was changed. Any other
        write records what has happened: it takes from the spare room, and raises FsError(EIO) if the disk fails.
        """
        with self.lock:
            if is_new and not self._make_room():
                raise FsError(errno.ENOSPC, f"the disk of the state directory {self.path.parent} is full")
            while True:
                try:
                    self._write(edits, remove, transaction_id)
                    break
                except sqlite3.Error as error:
                    # Whatever the error is: SQLite takes a spent quota for an I/O error.
                    if is_new or not self.spare.release():
                        full = "full" in str(error)
                        told = f"the journal can't be written: {error}"
                        raise FsError(errno.ENOSPC if full else errno.EIO, told) from error
            self._written += 1

    def _make_room(self) -> bool:
        """True if the disk has room for something new, at the latest once all copies are gone."""
        while not self.spare.refill(extra=_LEAST):
            if not any(store.free_disk(_SPARE) for store in self._copies):
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
            # A single step needs no BEGIN: it is a transaction by itself. Each call of SQLite lets other threads go first.
            if len(steps) > 1:
                self._db.execute("BEGIN IMMEDIATE")
            for step in steps:
                self._db.execute(*step)

    def sync(self) -> None:
        """Return when everything written so far is on the disk; by one thread at a time (`StateStore.sync`). Raises
        FsError(EIO).
        """
        with self.lock:
            upto = self._written
        if upto > self._synced:
            try:
                os.fdatasync(self._wal)
            except OSError as error:
                raise FsError(errno.EIO, f"the journal can't be synced: {error.strerror}") from error
            self._synced = upto

    @property
    def needs_sync(self) -> bool:
        """True if something was written since the last sync."""
        return self._written > self._synced

    def prune_tombstones(self, before: float) -> None:
        """Forget tombstones made before `before` (monotonic seconds): their requests are long dead."""
        with self.lock, contextlib.suppress(sqlite3.Error):
            self._db.execute("DELETE FROM tombstone WHERE made < ?", (before,))

    @property
    def has_any_tombstone(self) -> bool:
        """True if there is any."""
        with self.lock:
            return self._db.execute("SELECT 1 FROM tombstone LIMIT 1").fetchone() is not None

    def has_tombstone(self, tid: str) -> bool:
        """True if a change of this mount used this id."""
        with self.lock:
            row = self._db.execute("SELECT 1 FROM tombstone WHERE tid = ?", (tid,)).fetchone()
        return row is not None

    def close(self) -> None:
        """Close the database; the records stay."""
        with self.lock:
            self._db.close()
            os.close(self._wal)


def _table_and_key(record: Record) -> tuple[str, int]:
    """The table of a record, and its key there."""
    return ("file", record.ino) if isinstance(record, File) else ("change", record.seq)


def _rename_fields(values: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Return a JSON object with some of its fields under new names."""
    return {renamed.get(name, name): value for name, value in values.items()}
