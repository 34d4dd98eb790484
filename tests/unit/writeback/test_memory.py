"""What this machine remembers of items."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from jobfs.nodes import Item, Kind, implicit_directory, inode_number
from jobfs.writeback.journal import Journal
from jobfs.writeback.memory import Memory
from jobfs.writeback.records import UNSET, Remembered

ITEM = Item("one", Kind.FILE, "a", updated_at="1")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.db")) as journal:
        yield journal


def test_what_is_stored_survives_a_remount_and_goes_with_the_item(journal: Journal) -> None:
    """semantics 2.11: kept in the state directory per item, survives a remount, goes when the item goes."""
    memory = Memory(journal)
    assert memory.of(ITEM) is None
    record = memory.entry(ITEM)
    record.mode = 0o755
    assert memory.of(ITEM) is None, "not stored yet"
    memory.store(record)
    again = Memory(journal)
    assert again.of(ITEM) == Remembered("one", mode=0o755)
    assert again.entry(ITEM) is again.of(ITEM)
    again.lose("one")
    again.lose("one")
    assert again.of(ITEM) is None
    assert Memory(journal).of(ITEM) is None


def test_the_version_before_gives_its_number_to_the_next_one(journal: Journal) -> None:
    """semantics 1: a save keeps the file's inode number; the version that is kept beside it has one of its own."""
    memory = Memory(journal)
    after = replace(ITEM, id="two")
    number = memory.ino(ITEM)
    assert not memory.superseded(ITEM)
    records = memory.handing_over(number, ITEM.id, after.id)
    journal.write(*records)
    memory.store(Remembered("two", number))
    assert memory.ino(ITEM) == number, "who has just looked it up finds its inode"
    memory.handed_over(ITEM.id, records)
    assert memory.superseded(ITEM)
    assert memory.ino(after) == number
    assert memory.ino(ITEM) not in (number, 0)
    again = Memory(journal)
    assert (again.ino(after), again.ino(ITEM)) == (number, memory.ino(ITEM))
    assert again.handing_over(number, after.id, after.id) == [], "it is the same item"
    assert again.handing_over(number, ITEM.id, after.id) == [], "it has a number of its own already"


def test_inode_numbers_are_those_of_the_file_that_was_saved(journal: Journal) -> None:
    """semantics 1: a save keeps the file's inode number."""
    memory = Memory(journal)
    assert memory.ino(ITEM) == inode_number("one")
    memory.learn(Remembered("one", ino=77))
    assert memory.ino(ITEM) == 77
    assert memory.ino(implicit_directory("x")) == memory.ino(implicit_directory("x"))
    assert memory.ino(implicit_directory("x")) != memory.ino(implicit_directory("y"))


def test_times_go_on_to_hold_after_our_own_move_only(journal: Journal) -> None:
    """semantics 2: kept until the item changes remotely."""
    memory = Memory(journal)
    memory.store(Remembered("one", mtime_ns=5, updated_at="1"))
    memory.carry(ITEM, replace(ITEM, path="b", updated_at="2"))
    assert Memory(journal).entry(ITEM).updated_at == "2"
    memory.carry(ITEM, replace(ITEM, updated_at="3"))
    assert memory.entry(ITEM).updated_at == "2", "what was remembered was of another version"
    memory.carry(replace(ITEM, id="two"), replace(ITEM, id="two", updated_at="9"))


def test_what_was_touched_is_written_with_the_next_flush(journal: Journal) -> None:
    """semantics 2: times are remembered on this machine, and survive a remount."""
    memory = Memory(journal)
    memory.touch(ITEM, content=True)
    record = memory.of(ITEM)
    assert record is not None
    assert record.ctime_ns == record.mtime_ns > 0
    assert (record.atime_ns, record.updated_at) == (UNSET, "1")
    assert memory.unwritten
    assert Memory(journal).of(ITEM) is None, "nothing waited for the disk"
    memory.flush()
    assert not memory.unwritten
    assert Memory(journal).of(ITEM) == record
    memory.touch(ITEM, made=True)
    memory.lose("one")
    memory.flush()
    assert Memory(journal).of(ITEM) is None, "what is gone is not written again"


def test_a_change_here_leaves_no_time_of_an_older_version(journal: Journal) -> None:
    memory = Memory(journal)
    memory.store(Remembered("one", mode=0o700, atime_ns=4, mtime_ns=5, updated_at="1", sha256="ff"))
    newer = replace(ITEM, updated_at="2")
    memory.touch(newer)
    record = memory.entry(newer)
    assert (record.mode, record.mtime_ns, record.updated_at, record.sha256) == (0o700, UNSET, "2", "")
    assert record.ctime_ns > 0


def test_a_directory_that_no_item_stands_for_has_times_as_long_as_the_mount_lives(journal: Journal) -> None:
    memory, directory = Memory(journal), implicit_directory("x")
    memory.touch(directory, content=True)
    memory.flush()
    assert memory.entry(directory).mtime_ns > 0
    assert memory.of(implicit_directory("y")) is None
    assert Memory(journal).of(directory) is None
