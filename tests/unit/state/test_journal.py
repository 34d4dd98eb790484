"""The journal: written records come back, damage is reported, and space is reserved for records of past events."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.files import errno_from
from tests.unit.state.conftest import accept, failing, held, refuse, sql

from jobfs.errors import FsError, UsageError
from jobfs.nodes import Kind, Lifecycle, Permission
from jobfs.state.copies import CopyStore
from jobfs.state.journal import SCHEMA_VERSION, Journal, ReservedSpace, release_for_start
from jobfs.state.records import Aside, Base, Change, File, Stage, Verb

BASE = Base("b", "then", None, "ee", True)
ASIDES = [
    Aside("a", "dir/h", Kind.DIRECTORY, True, None, "then", Lifecycle.APPLICATION, Permission.READ_ONLY, 2.5),
    Aside("", "dir/lost"),
]  # fmt: skip
FULL: list[Any] = [
    File(
        2**63 - 1, Kind.DIRECTORY, "dir/ä 😀", "i", "v", "ff", 0o755, Permission.READ_ONLY, Permission.READ_WRITE,
        1, 2, 3, 4, 5, 6, 7, 8, "a boot", True, "target", BASE, "why", errno.EFBIG,
    ),
    Change(7, Verb.MOVE, "dir/ä 😀", Stage.STAGED, 9, 3, 5, "ff", "from", "tid", "h", True, BASE, ASIDES, 1.5),
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path)) as journal:
        yield journal


def put(seq: int, target: str = "file") -> tuple[Change, dict[str, Any]]:
    return Change(seq, Verb.PUT, target), {}


# -- records


@pytest.mark.parametrize("record", FULL, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written(path: Path, record: Any) -> None:
    """save/protocol.md, Vocabulary, (w): it survives the death of the process; so another connection sees it at once."""
    with closing(Journal(path)) as journal:
        journal.write((record, {}))
        with closing(Journal(path)) as other:
            assert [held(found) for found in other.load_records(type(record))] == [held(record)]
    with closing(Journal(path)) as again:
        (loaded,) = again.load_records(type(record))
        assert [(v, type(v)) for v in held(loaded).values()] == [(v, type(v)) for v in held(record).values()]
        again.write(remove=[record])
        assert again.load_records(type(record)) == []


def test_a_write_is_all_or_nothing(journal: Journal) -> None:
    kept = File(1)
    journal.write((kept, {}))
    refuse(journal.path, "no", "INSERT ON change", when="NEW.key = 2")
    refused = errno_from(journal.write, put(1), put(2), remove=[kept], transaction_id="t", is_new=True)
    assert refused == errno.EIO
    assert journal.load_records(Change) == []
    assert len(journal.load_records(File)) == 1
    assert not journal.has_tombstone("t")
    journal.write(put(3))
    assert [change.seq for change in journal.load_records(Change)] == [3]


@pytest.mark.parametrize("field", ["generation", "open_generation"])
def test_numbers_continue_after_a_restart(path: Path, field: str) -> None:
    """vfs/semantics.md 4.12, 4.53: what a killed mount has left or discarded, or a kept save that links to it, stays."""
    with closing(Journal(path)) as journal:
        first = [journal.next_number() for _ in range(3)]
        assert first == sorted(set(first))
        highest: Any = first[2] + 40
        journal.write((Change(first[1], Verb.PUT, "file"), {}), (File(1, **{field: highest}), {}))
    with closing(Journal(path)) as again:
        assert again.next_number() > highest
    for number, name in [(60, f"bytes/{7:016x}.60"), (61, "trash/61-70.txt")]:
        (path.parent / name).parent.mkdir()
        (path.parent / name).touch()
        with closing(Journal(path)) as again:
            assert again.next_number() == number + 1


def test_a_transaction_id_is_a_tombstone_until_it_is_pruned(path: Path) -> None:
    """save/protocol.md, The steps, `done`, and R7: whatever the clock of an earlier run has said."""
    with closing(Journal(path)) as journal:
        journal.write(transaction_id="old")
    started = time.monotonic()
    with closing(Journal(path)) as again:
        again.prune_tombstones(started)
        assert (again.has_tombstone("old"), again.has_tombstone("x")) == (True, False)
        between = time.monotonic()
        again.write(transaction_id="new")
        again.prune_tombstones(between)
        assert (again.has_tombstone("old"), again.has_tombstone("new")) == (False, True)


def test_a_failure_to_prune_tombstones_fails_nothing(journal: Journal) -> None:
    """save/protocol.md, Vocabulary, tombstone: one that is kept longer does no harm; the next listing prunes it."""
    journal.write(transaction_id="old")
    refuse(journal.path, "disk I/O error", "DELETE ON tombstone")
    journal.prune_tombstones(time.monotonic())
    assert journal.has_tombstone("old")
    accept(journal.path)
    journal.prune_tombstones(time.monotonic())
    assert not journal.has_tombstone("old")


# -- the spare room


#: What SQLite says of a disk that is full, and of a quota that is spent.
@pytest.mark.parametrize(
    ("said", "expected"), [("database or disk is full", errno.ENOSPC), ("disk I/O error", errno.EIO)]
)
@pytest.mark.parametrize("room", [True, False])
def test_a_full_journal_records_past_events_and_refuses_new_work(
    journal: Journal, said: str, expected: int, room: bool
) -> None:
    """vfs/semantics.md 4, A full disk: what the journal can't hold fails with EIO, and can be tried again."""
    refuse(journal.path, said, "INSERT ON change")
    with pytest.raises(FsError, match=f"^the journal can't be written: {said}$") as caught:
        journal.write(put(1), is_new=True)
    assert caught.value.errno == expected

    class Room(ReservedSpace):
        def release_half(self) -> bool:
            accept(journal.path)
            return True

    spare = journal.spare
    if room:
        journal.spare = Room(journal.path.with_name("spare"))
    assert errno_from(journal.write, put(1)) == (0 if room else expected)
    assert len(journal.load_records(Change)) == room
    if not room:
        accept(journal.path)
    journal.write(put(2))
    assert [change.seq for change in journal.load_records(Change)][-1] == 2
    journal.path.with_name("spare").unlink()
    assert not spare.release_half()


def test_a_full_disk_without_reserved_space_stops_no_start() -> None:
    """vfs/semantics.md 4, A full disk: the start finds out itself whether it fits."""
    release_for_start(Path("/proc"))  # no byte is free there


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    words = ["mount", "-t", "tmpfs", "-o", "size=16m", "jobfs-test", str(tmp_path)]
    subprocess.run(words, capture_output=True, check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.needs_root("only root can mount a disk of its own for this")
def test_a_full_disk_refuses_new_writes_and_records_past_events(small_disk: Path) -> None:
    """vfs/semantics.md 4.41; 4, A full disk: records of past events use reserved space."""
    with closing(Journal(small_disk / "journal.db")) as journal:
        for piece in (1 << 16, 1):
            with (small_disk / "filler").open("ab", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(bytes(piece))
        answers = [errno_from(journal.write, put(number), is_new=True) for number in range(300)]
        accepted = answers.count(0)
        assert answers == [0] * accepted + [errno.ENOSPC] * (300 - accepted)
        assert len(journal.load_records(Change)) == accepted < 300
        for number in range(2000):
            journal.write(transaction_id=str(number))
        with pytest.raises(FsError, match=f"^the disk of the state directory {small_disk} is full$"):
            journal.write(put(accepted), is_new=True)
        (small_disk / "filler").unlink()
        journal.write(put(accepted), is_new=True)
        assert (len(journal.load_records(Change)), journal.has_tombstone("1999")) == (accepted + 1, True)


@pytest.mark.needs_root("only root can mount a disk of its own for this")
def test_kept_copies_are_dropped_before_a_write_is_refused(small_disk: Path) -> None:
    """vfs/semantics.md 4.56: and no write that needs none of their room takes them."""
    store = CopyStore(small_disk / "saves")
    with closing(store), closing(Journal(small_disk / "journal.db", (store,))) as journal:
        for name in ("a", "b"):
            (small_disk / name).write_bytes(bytes(5 << 20))
            store.commit(name, store.prepare(name, small_disk / name, 5 << 20))
            (small_disk / name).unlink()
        journal.write(put(1), is_new=True)
        assert store.paths() == ["a", "b"]
        with (small_disk / "filler").open("ab", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(1 << 16))
        journal.write(put(2), is_new=True)
        assert store.paths() == ["b"]
        assert len(journal.load_records(Change)) == 2


# -- sync


def test_a_failed_sync_is_reported_and_retried(journal: Journal) -> None:
    journal.write(transaction_id="a")
    with failing("fdatasync", errno.EIO):
        assert (errno_from(journal.sync), journal.needs_sync) == (errno.EIO, True)
    assert (errno_from(journal.sync), journal.needs_sync) == (0, False)


def test_a_write_during_a_sync_waits_for_the_next_sync(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md, Vocabulary, (S): the sync may have begun before that write."""
    journal.write(transaction_id="a")
    monkeypatch.setattr(os, "fdatasync", lambda _: journal.write(transaction_id="b"))
    journal.sync()
    assert journal.needs_sync


# -- what is not ours


@pytest.mark.parametrize("version", [SCHEMA_VERSION - 2, SCHEMA_VERSION + 1])
def test_a_journal_of_another_version_is_left_alone(path: Path, version: int) -> None:
    """design.md, Things to know: an older schema is refused with a sentence."""
    Journal(path).close()
    sql(path, f"PRAGMA user_version = {version}")
    said = f"another version of jobfs .schema {version}.*move {path.parent} away"
    with pytest.raises(UsageError, match=said):
        Journal(path)
    assert sql(path, "PRAGMA user_version") == (version,)


#: Two records as the schema before this one wrote them: a scratch file with bytes that were not closed, and a save.
_BEFORE = {
    "file": (
        3,
        '{"ino": 3, "path": "a.txt", "item_id": "i", "wish": "readOnly", "generation": 5, "size": 7, "draft": 6, "stays": true, '
        '"base": {"id": "b", "updated_at": "then", "size": null, "sha256": "ee", "young": true}}',
    ),
    "change": (
        7,
        '{"seq": 7, "verb": "put", "target": "a.txt", "ino": 3, "generation": 5, "asides": [{"id": "a", "path": "h", '
        '"kind": "file", "moved": true, "size": 1, "updated_at": "then", "lifecycle": "expertJob", '
        '"permission": "readWrite", "unsure_until": 2.5}], '
        '"base": {"id": "b", "updated_at": "then", "size": null, "sha256": "ee", "young": true}, "made": 1.5}',
    ),
}


def _write_journal_of_the_schema_before(path: Path, records: dict[str, tuple[int, str]]) -> None:
    Journal(path).close()
    for table, row in records.items():
        sql(path, f"INSERT INTO {table} VALUES (?, ?)", values=row)
    sql(path, f"PRAGMA user_version = {SCHEMA_VERSION - 1}")


def test_a_journal_of_the_previous_schema_is_migrated_completely(path: Path) -> None:
    """design.md, Things to know: what is unsent is not stranded by new names of fields."""
    _write_journal_of_the_schema_before(path, _BEFORE)
    for _ in range(2):  # what was taken over is read again as it is
        with closing(Journal(path)) as journal:
            (file,), (change,) = journal.load_records(File), journal.load_records(Change)
            base = Base("b", "then", None, "ee", racy=True)
            assert (file.never_sent, file.open_generation, file.generation, file.base) == (True, 6, 5, base)
            assert (file.path, file.size, file.pending_permission) == ("a.txt", 7, Permission.READ_ONLY)
            assert (change.planned_at, change.base, change.asides[0].unsure_until) == (1.5, base, 2.5)
            assert journal.next_number() == 8
    assert sql(path, "PRAGMA user_version") == (SCHEMA_VERSION,)


@pytest.mark.parametrize("record", ["{", "7", '{"base": 7}'])
def test_a_damaged_journal_of_the_previous_schema_is_left_unchanged(path: Path, record: str) -> None:
    _write_journal_of_the_schema_before(path, {**_BEFORE, "change": (7, record)})
    with pytest.raises(UsageError, match=f"the journal {path} can't be used"):
        Journal(path)
    assert sql(path, "PRAGMA user_version") == (SCHEMA_VERSION - 1,)
    assert sql(path, "SELECT record FROM file") == (_BEFORE["file"][1],)


@pytest.mark.parametrize("record", ['{"stage": "no such stage"}', '{"asides": [7]}', '{"x": 1}', "{", "7"])
def test_an_invalid_record_is_reported_as_damage(path: Path, record: str) -> None:
    with closing(Journal(path)) as journal:
        journal.write(put(1))
    sql(path, "UPDATE change SET record = ?", values=(record,))
    with pytest.raises(UsageError, match=f"the journal {path} can't be used"):
        Journal(path)


@pytest.mark.parametrize("found", [b"this is no database" * 100, b"", None], ids=["garbage", "empty", "none"])
def test_a_damaged_or_missing_journal_is_refused_and_files_are_kept(path: Path, found: bytes | None) -> None:
    """design.md, Things to know: it is never taken for an empty one."""
    if found is not None:
        path.write_bytes(found)
    unsent = path.parent / "bytes" / "0000000000000007.1"
    unsent.parent.mkdir()
    unsent.write_bytes(b"unsent")
    for _ in range(2):
        with pytest.raises(UsageError, match=f"the journal {path} can't be used: .* move {path.parent} away"):
            Journal(path)
    assert unsent.read_bytes() == b"unsent"
    assert not found or path.read_bytes() == found
