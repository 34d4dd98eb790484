"""Undo: what was set aside goes back, the newest first (save-protocol R11)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from jobfs import names
from jobfs.api import Client
from jobfs.errors import NotFoundError, PathExistsError, UnavailableError
from jobfs.nodes import Item, Kind
from jobfs.writeback.journal import Journal
from jobfs.writeback.records import Aside, Save, SaveKind, State
from jobfs.writeback.transaction import Transaction
from jobfs.writeback.undo import undo

TID = "0123456789abcdef"
STAGED = names.hidden_path("file.txt", "0123456789ab", TID, names.Role.STAGED)


class FakeClient:
    def __init__(self, *items: Item) -> None:
        self.items = {item.id: item for item in items}

    def get(self, item_id: str) -> Item:
        if item_id not in self.items:
            raise NotFoundError("gone")
        return self.items[item_id]

    def find(self, path: str) -> list[Item]:
        return [item for item in self.items.values() if item.path == path]

    def update(self, item_id: str, *, path: str) -> Item:
        if self.find(path):
            raise PathExistsError("exists")
        self.items[item_id] = replace(self.get(item_id), path=path)
        return self.items[item_id]

    def delete(self, item_id: str) -> None:
        self.get(item_id)
        del self.items[item_id]

    @property
    def paths(self) -> dict[str, str]:
        return {item.id: item.path for item in self.items.values()}


def file(item_id: str, path: str) -> Item:
    return Item(item_id, Kind.FILE, path)


def aside(item_id: str, order: int) -> Aside:
    return Aside(item_id, 1, f"hidden {item_id}", order, f"hidden {item_id}", moved=True)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.db")) as journal:
        yield journal


def undone(client: FakeClient, journal: Journal, state: State = State.STAGED, *asides: Aside) -> Transaction:
    work = Transaction(Save(1, SaveKind.SAVE, "file.txt", state, tid=TID, staged_id="new"))
    work.asides = list(asides)
    journal.write(work.save, *asides)
    undo(cast(Client, client), journal, work, "refused", errno.EFBIG)
    return work


def test_the_newest_goes_back_and_older_ones_stand_beside(journal: Journal) -> None:
    client = FakeClient(file("1", "hidden 1"), file("2", "hidden 2"), file("new", STAGED))
    work = undone(client, journal, State.STAGED, aside("1", 0), aside("2", 1))
    assert client.paths["2"] == "file.txt"
    assert client.paths["1"].startswith("file.conflict-")
    assert "new" not in client.paths, "the staged item's bytes are here"
    assert work.asides == journal.load(Aside) == []
    (save,) = journal.load(Save)
    assert (save.state, save.tid, save.staged_id) == (State.STAGING, "", "")
    assert (save.refused, save.refused_errno) == ("refused", errno.EFBIG)


def test_a_name_that_the_job_has_taken_is_left_to_it(journal: Journal) -> None:
    """save-protocol, undo: the newest aside goes back to T if T is free."""
    client = FakeClient(file("1", "hidden 1"), file("jobs", "file.txt"))
    undone(client, journal, State.STAGED, aside("1", 0))
    assert client.paths["jobs"] == "file.txt"
    assert client.paths["1"].startswith("file.conflict-")


def test_what_was_taken_away_is_left_alone(journal: Journal) -> None:
    client = FakeClient(file("1", "taken by the job"))
    undone(client, journal, State.STAGED, aside("1", 0), aside("gone", 1))
    assert client.paths == {"1": "taken by the job"}


def test_what_was_never_moved_is_not_moved_back(journal: Journal) -> None:
    client = FakeClient(file("1", "file.txt"))
    undone(client, journal, State.STAGING, replace(aside("1", 0), moved=False))
    assert client.paths == {"1": "file.txt"}


def test_a_save_that_was_taken_back_meanwhile_stays_so(journal: Journal) -> None:
    """save-protocol R10."""
    client = FakeClient(file("1", "hidden 1"))
    work = undone(client, journal, State.CANCELLED, aside("1", 0))
    assert work.save.state is State.CANCELLED
    assert work.save.refused == ""
    assert client.paths == {"1": "file.txt"}


def test_a_rename_that_was_undone_leaves_no_record(journal: Journal) -> None:
    """Killed right after, the next mount has nothing to take up: the source is where it was, or gone."""
    client = FakeClient(file("1", "hidden 1"))
    work = Transaction(Save(1, SaveKind.RENAME, "file.txt", State.STAGED, source="draft", staged_id="gone"))
    work.asides = [aside("1", 0)]
    journal.write(work.save, *work.asides)
    undo(cast(Client, client), journal, work, "the source vanished", errno.ENOENT)
    assert [*journal.load(Save), *journal.load(Aside)] == []
    assert work.save.state is State.DONE
    assert client.paths == {"1": "file.txt"}


def test_nothing_is_undone_that_was_placed_after_all(journal: Journal) -> None:
    """save-protocol R6: under any other name it is promoted."""
    client = FakeClient(file("1", "hidden 1"), file("new", "file.txt"))
    with pytest.raises(UnavailableError):
        undone(client, journal, State.STAGED, aside("1", 0))
    assert client.paths == {"1": "hidden 1", "new": "file.txt"}
    assert len(journal.load(Aside)) == 1
