"""The journal: what this mount still owes the server, on disk, in SQLite (save-protocol.md).

`write` is the protocol's (w): it survives the death of the process. `sync` is its (S): it survives power loss, and many
callers share one disk sync. Lock order: the journal's lock is innermost; nothing is called while it is held.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jobfs.errors import FsError, UsageError
from jobfs.writeback.disk import sync_directory
from jobfs.writeback.records import DISTINCT, KEYS, Attempt, Base, Record

SCHEMA_VERSION = 4

R = TypeVar("R")


class JournalDamagedError(UsageError):
    """The journal's bytes are not what a jobfs wrote."""


class Journal:
    """Records in memory and on disk. All methods may be called from any thread.

    `observer`, if set, is called with "write" or "sync" before and after each ("write", "written", "sync", "synced"):
    tests stop the world there.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the journal.

        Raises UsageError if a newer jobfs wrote it or the disk refuses it, JournalDamagedError if its bytes are damaged.
        """
        self.path = path
        self.observer: Callable[[str], None] | None = None
        self._lock = threading.Lock()
        self._turn = threading.Condition(threading.Lock())
        self._written = 0
        self._synced = 0
        self._syncing = False
        self._tables = {kind: _Table(kind) for kind in KEYS}
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as error:
            raise UsageError(f"the journal {path} can't be opened: {error}") from error
        try:
            self._prepare()
            self._check()
            #: The highest number that any record held when the journal was opened.
            self.highest = self._seq = self._highest()
        except sqlite3.OperationalError as error:
            self._db.close()
            raise UsageError(f"the journal {path} can't be used: {error}") from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            self._db.close()
            raise JournalDamagedError(f"the journal {path} is damaged: {error}") from error
        self._wal = os.open(f"{path}-wal", os.O_RDONLY | os.O_CREAT, 0o600)
        sync_directory(path.parent)

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            self._db.close()
            raise UsageError(
                f"the journal {self.path} was written by a newer jobfs (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); mount with that version"
            )
        self._db.execute("BEGIN IMMEDIATE")
        for table in self._tables.values():
            self._db.execute(table.create)
            known = {row[1] for row in self._db.execute(f"PRAGMA table_info({table.name})")}
            for name, default in table.defaults.items():
                if name not in known:
                    self._db.execute(f'ALTER TABLE {table.name} ADD COLUMN "{name}" DEFAULT {default}')
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._db.execute("COMMIT")

    def _check(self) -> None:
        """Read everything once. Raises sqlite3.DatabaseError or ValueError for what no jobfs wrote."""
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(str(found).splitlines()[-1])
        for kind in self._tables:
            self.load(kind)

    def _highest(self) -> int:
        """The highest number that any record holds, as a transaction's or as a generation."""
        query = """SELECT max(n) FROM (SELECT seq AS n FROM attempt UNION ALL SELECT seq FROM save
                   UNION ALL SELECT generation FROM save UNION ALL SELECT generation FROM localentry)"""
        (highest,) = self._db.execute(query).fetchone()
        return int(highest or 0)

    def next_seq(self) -> int:
        """A number that orders transactions; never used before in this journal; also numbers generations."""
        with self._lock:
            self._seq += 1
            return self._seq

    def load(self, kind: type[R]) -> list[R]:
        """Every record of one kind, in the order of their keys."""
        table = self._tables[kind]
        with self._lock:
            rows = self._db.execute(table.select).fetchall()
        return [table.decode(row) for row in rows]

    def write(self, *records: Record, gone: Iterable[Record] = ()) -> None:
        """Store `records` and remove those in `gone`, all or none; survives the death of the process.

        One in `gone` that a later record has replaced under its key leaves that one alone (records.DISTINCT).
        Raises FsError(ENOSPC) on a full disk, FsError(EIO) if the disk fails: then nothing was changed.
        """
        if self.observer:
            self.observer("write")
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                for record in gone:
                    table = self._tables[type(record)]
                    self._db.execute(table.delete, [getattr(record, name) for name in table.same])
                for record in records:
                    table = self._tables[type(record)]
                    self._db.execute(table.upsert, table.encode(record))
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise _refusal(error) from error
            self._written += 1
        if self.observer:
            self.observer("written")

    def sync(self) -> None:
        """Return when everything written so far is on the disk; concurrent callers share one disk sync.

        Raises FsError(EIO) if the disk fails.
        """
        if self.observer:
            self.observer("sync")
        with self._lock:
            wanted = self._written
        with self._turn:
            while self._synced < wanted:
                if self._syncing:
                    self._turn.wait()
                    continue
                self._syncing = True
                self._turn.release()
                done = self._synced
                try:
                    done = self._sync_once()
                finally:
                    self._turn.acquire()
                    self._syncing = False
                    self._synced = max(self._synced, done)
                    self._turn.notify_all()
        if self.observer:
            self.observer("synced")

    def _sync_once(self) -> int:
        with self._lock:
            upto = self._written
        try:
            os.fdatasync(self._wal)
        except OSError as error:
            raise FsError(errno.EIO, f"the journal can't be synced: {error.strerror}") from error
        return upto

    @property
    def unsynced(self) -> bool:
        """True if something was written since the last sync."""
        return self._written > self._synced

    def mark_synced(self, generations: Iterable[int]) -> None:
        """Note that the local bytes of these generations are on the disk (w). Raises FsError(EIO, ENOSPC)."""
        with self._lock:
            try:
                self._db.executemany(
                    "UPDATE save SET synced = 1 WHERE generation = ?", [(number,) for number in generations]
                )
            except sqlite3.Error as error:
                raise _refusal(error) from error
            self._written += 1

    def prune(self, before: float) -> None:
        """Forget tombstones made before `before` (seconds since the epoch): their requests are long dead."""
        with self._lock:
            self._db.execute(
                "DELETE FROM attempt WHERE made < ? AND seq NOT IN (SELECT seq FROM save)", (before,)
            )

    def tombstone(self, tid: str) -> bool:
        """True if a transaction of this mount used this id."""
        with self._lock:
            table = self._tables[Attempt]
            row = self._db.execute(f"SELECT 1 FROM {table.name} WHERE tid = ?", (tid,)).fetchone()
        return row is not None

    def close(self) -> None:
        """Close the database; the records stay."""
        with self._lock:
            self._db.close()
            os.close(self._wal)


def _refusal(error: sqlite3.Error) -> FsError:
    full = "full" in str(error)
    return FsError(errno.ENOSPC if full else errno.EIO, f"the journal can't be written: {error}")


class _Table:
    """How one dataclass of records.py is a table: a column a field, a `Base` flattened into its own columns."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        self.name = kind.__name__.lower()
        self.key = KEYS[kind]
        #: The columns that say that a row is this very record.
        self.same = [self.key, *([DISTINCT[kind]] if kind in DISTINCT else [])]
        hints = get_type_hints(kind)
        self.columns: list[tuple[str, Callable[[Any], Any]]] = []
        #: What rows of an older schema get in a column that it lacked, as SQL.
        self.defaults = {
            part.name: _literal(part.default) for part in fields(kind) if part.default is not MISSING
        }
        for part in fields(kind):
            if hints[part.name] is Base:
                base = get_type_hints(Base)
                self.columns += [(f"base_{sub.name}", _decoder(base[sub.name])) for sub in fields(Base)]
            else:
                self.columns.append((part.name, _decoder(hints[part.name])))
        self.flattened = any(hints[part.name] is Base for part in fields(kind))
        names = ", ".join(f'"{name}"' for name, _ in self.columns)
        marks = ", ".join("?" for _ in self.columns)
        typed = ", ".join(
            f'"{name}" PRIMARY KEY' if name == self.key else f'"{name}"' for name, _ in self.columns
        )
        self.create = f"CREATE TABLE IF NOT EXISTS {self.name} ({typed}) WITHOUT ROWID"
        self.select = f'SELECT {names} FROM {self.name} ORDER BY "{self.key}"'
        self.upsert = f"INSERT OR REPLACE INTO {self.name} ({names}) VALUES ({marks})"
        where = " AND ".join(f'"{name}" = ?' for name in self.same)
        self.delete = f"DELETE FROM {self.name} WHERE {where}"

    def encode(self, record: Record) -> list[Any]:
        """The column values of a record."""
        values: list[Any] = []
        for part in fields(record):
            value = getattr(record, part.name)
            if isinstance(value, Base):
                values += [_plain(getattr(value, sub.name)) for sub in fields(Base)]
            else:
                values.append(_plain(value))
        return values

    def decode(self, row: tuple[Any, ...]) -> Any:
        """The record of a row."""
        values = {name: decode(value) for (name, decode), value in zip(self.columns, row, strict=True)}
        if self.flattened:
            base = {sub.name: values.pop(f"base_{sub.name}") for sub in fields(Base)}
            values["base"] = Base(**base)
        return self.kind(**values)


def _literal(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return "NULL"
    return f"'{plain}'" if isinstance(plain, str) else repr(plain)


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    # Inode numbers use 63 bits, so that SQLite's signed integers hold them.
    return int(value) if isinstance(value, bool) else value


def _decoder(hint: Any) -> Callable[[Any], Any]:
    options = [part for part in getattr(hint, "__args__", (hint,)) if part is not type(None)]
    plain = options[0]
    if plain is bool or (isinstance(plain, type) and issubclass(plain, StrEnum)):
        return lambda value: None if value is None else plain(value)
    return lambda value: value
