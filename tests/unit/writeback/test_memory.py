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
from jobfs.writeback.records import Remembered

ITEM = Item("one", Kind.FILE, "a", updated_at="1")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.db")) as journal:
        yield journal


def test_what_is_stored_survives_a_remount_and_goes_with_the_item(journal: Journal) -> None:
    """semantics 2: kept in the state directory per item, survives a remount, goes when the item goes."""
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
