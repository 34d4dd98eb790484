"""The journal: what is written is there again, what is damaged is said so."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobfs.errors import FsError, UsageError
from jobfs.nodes import Kind, Lifecycle, Permission
from jobfs.writeback.journal import SCHEMA_VERSION, Journal, JournalDamagedError
from jobfs.writeback.records import (
    KEYS,
    Aside,
    Attempt,
    Base,
    Conflict,
    Fate,
    LocalEntry,
    Remembered,
    Removed,
    Renaming,
    Save,
    SaveKind,
    State,
)  # fmt: skip

FULL: list[Any] = [
    Save(
        7, SaveKind.RENAME, "dir/ä 😀", State.STAGED, 2**63 - 1, 3, "from", 5, "ff", Permission.READ_ONLY,
        Lifecycle.APPLICATION, 0o644, 1, 2, 3, 4, Base("b", "then", None, "ee", True), "tid", "h", "when",
        True, True, "a boot", 1.5, 2, "why", errno.EFBIG,
    ),
    Aside(
        "a", 7, "name", 1, "path", Kind.DIRECTORY, Fate.RETURN, True, None, "then", Lifecycle.APPLICATION,
        Permission.READ_ONLY, 2.5,
    ),
    Attempt("tid", 7, 1.5),
    Removed("r", "name", "path", True, 3.5),
    Renaming("d", "old", "new"),
    Remembered("i", 2**63 - 1, 0o755, Permission.READ_ONLY, 1, 2, 3, 4, "then", "ff"),
    LocalEntry("p", 9, Kind.DIRECTORY, 2, 0o600, 1, 2, 3, 4, "item", "origin", 4.5),
    Conflict("c", "origin", "reason", 5.5),
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path)) as journal:
        yield journal


def test_each_kind_of_record_is_tried_here() -> None:
    assert {type(record) for record in FULL} == set(KEYS)


@pytest.mark.parametrize("record", FULL, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(path: Path, record: Any) -> None:
    """save-protocol, (w): it survives the death of the process; so another connection sees it at once."""
    with closing(Journal(path)) as journal:
        journal.write(record)
        assert journal.load(type(record)) == [record]
        with closing(Journal(path)) as other:
            assert other.load(type(record)) == [record]
    with closing(Journal(path)) as again:
        (loaded,) = again.load(type(record))
        assert loaded == record
        for name in record.__dataclass_fields__:
            assert type(getattr(loaded, name)) is type(getattr(record, name)), name
        again.write(gone=[record])
        assert again.load(type(record)) == []


def test_a_record_with_its_defaults_comes_back_too(journal: Journal) -> None:
    save, aside = Save(1, SaveKind.SAVE, "file"), Aside("a", 1, "name")
    journal.write(save, aside)
    assert (journal.load(Save), journal.load(Aside)) == ([save], [aside])


def test_the_same_key_replaces(journal: Journal) -> None:
    save = Save(1, SaveKind.SAVE, "file")
    journal.write(save)
    journal.write(replace(save, target="other"))
    assert [found.target for found in journal.load(Save)] == ["other"]


def test_records_are_loaded_in_the_order_of_their_keys(journal: Journal) -> None:
    for seq in (10, 2, 33, 1):
        journal.write(Save(seq, SaveKind.SAVE, "file"))
    assert [save.seq for save in journal.load(Save)] == [1, 2, 10, 33]


def test_a_write_is_all_or_nothing(journal: Journal) -> None:
    kept = Attempt("kept", 1)
    journal.write(kept)
    with pytest.raises(FsError) as caught:
        journal.write(Save(1, SaveKind.SAVE, "file"), Save(2, SaveKind.SAVE, "x", size=object()), gone=[kept])  # type: ignore[arg-type]
    assert caught.value.errno == errno.EIO
    assert (journal.load(Save), journal.load(Attempt)) == ([], [kept])
    journal.write(Save(3, SaveKind.SAVE, "file"))
    assert [save.seq for save in journal.load(Save)] == [3]


def test_a_full_disk_is_enospc(path: Path) -> None:
    """semantics 4: close fails with ENOSPC, and nothing was changed."""
    with closing(Journal(path)) as journal:
        (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
        journal._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(FsError, match="full") as caught:
            journal.write(Save(1, SaveKind.SAVE, "x" * 100_000))
        assert caught.value.errno == errno.ENOSPC
        assert journal.load(Save) == []


def test_numbers_go_on_where_they_were(path: Path) -> None:
    with closing(Journal(path)) as journal:
        first = [journal.next_seq() for _ in range(3)]
        assert first == sorted(set(first))
        journal.write(Save(first[1], SaveKind.SAVE, "file", generation=first[2] + 40))
    with closing(Journal(path)) as again:
        assert again.next_seq() > first[2] + 40


def test_a_transaction_that_is_done_is_a_tombstone_until_it_is_pruned(journal: Journal) -> None:
    """save-protocol, `done`: the transaction's id is kept as a tombstone."""
    journal.write(
        Save(1, SaveKind.SAVE, "file"),
        Attempt("open", 1, 10.0),
        Attempt("old", 2, 10.0),
        Attempt("new", 3, 30.0),
    )
    assert all(journal.tombstone(tid) for tid in ("open", "old", "new"))
    assert not journal.tombstone("never")
    journal.prune(20.0)
    assert [journal.tombstone(tid) for tid in ("open", "old", "new")] == [True, False, True]


def test_what_is_removed_is_that_record_and_not_a_later_one_of_the_same_item(journal: Journal) -> None:
    """R4, R12: an item may be set aside, or a directory removed, a second time before the first time is dealt with."""
    for first, second in (
        (Aside("x", 1, "first"), Aside("x", 2, "second")),
        (Removed("d", "first", "dir"), Removed("d", "second", "dir")),
    ):
        journal.write(first)
        journal.write(second)
        journal.write(gone=[first])
        assert journal.load(type(second)) == [second]
        journal.write(gone=[second])
        assert journal.load(type(second)) == []


def test_a_sync_covers_all_writes_before_it(journal: Journal) -> None:
    assert not journal.unsynced
    journal.write(Attempt("a", 1))
    assert journal.unsynced
    journal.sync()
    assert not journal.unsynced


def test_concurrent_syncs_share_one(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """semantics 4.4: one disk sync serves many closes."""
    going, gate, calls = threading.Event(), threading.Event(), []
    real = os.fdatasync

    def slow(handle: int) -> None:
        calls.append(handle)
        going.set()
        assert gate.wait(10)
        real(handle)

    monkeypatch.setattr(os, "fdatasync", slow)
    journal.write(Attempt("first", 1))
    first = threading.Thread(target=journal.sync)
    first.start()
    assert going.wait(10)
    journal.write(Attempt("later", 2))
    others = [threading.Thread(target=journal.sync) for _ in range(8)]
    for thread in others:
        thread.start()
    gate.set()
    for thread in [first, *others]:
        thread.join(10)
    assert len(calls) == 2
    assert not journal.unsynced


def test_a_disk_that_does_not_sync_is_an_error_and_is_tried_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(handle: int) -> None:
        raise OSError(errno.EIO, "broken")

    journal.write(Attempt("a", 1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(FsError) as caught:
            journal.sync()
    assert caught.value.errno == errno.EIO
    assert journal.unsynced
    journal.sync()
    assert not journal.unsynced


def test_a_newer_journal_is_left_alone(path: Path) -> None:
    Journal(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(UsageError, match="newer jobfs"):
        Journal(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)


def test_a_damaged_journal_is_said_so(path: Path) -> None:
    path.write_bytes(b"this is not a database, but long enough to be taken for one" * 100)
    with pytest.raises(JournalDamagedError, match=r"is damaged"):
        Journal(path)
    assert path.read_bytes().startswith(b"this is not"), "it is left as it was found"


def test_the_observer_sees_each_boundary(journal: Journal) -> None:
    seen: list[str] = []
    journal.observer = seen.append
    journal.write(Attempt("a", 1))
    journal.sync()
    assert seen == ["write", "written", "sync", "synced"]


def test_a_journal_of_an_older_schema_gets_the_columns_that_it_lacks(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.write(Save(1, SaveKind.SAVE, "file", boot="first"))
        journal._db.execute("ALTER TABLE save DROP COLUMN boot")
        journal._db.execute("PRAGMA user_version = 1")
    with closing(Journal(path)) as again:
        assert again.load(Save) == [Save(1, SaveKind.SAVE, "file")]


def test_a_record_that_no_jobfs_wrote_is_damage(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.write(Save(1, SaveKind.SAVE, "file"))
        journal._db.execute("UPDATE save SET state = 'no such state'")
    with pytest.raises(JournalDamagedError):
        Journal(path)


def test_synced_bytes_are_noted_for_their_generation_only(journal: Journal) -> None:
    journal.write(Save(1, SaveKind.SAVE, "one", generation=7), Save(2, SaveKind.SAVE, "two", generation=8))
    journal.mark_synced([8, 9])
    assert [save.synced for save in journal.load(Save)] == [False, True]
