"""What becomes of an item that was set aside (save-protocol R1, R7)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest

from jobfs.api import Client
from jobfs.errors import AnswerLostError, NotFoundError, PathExistsError, UnavailableError
from jobfs.nodes import Item, Kind
from jobfs.writeback.journal import Journal
from jobfs.writeback.judge import Judge
from jobfs.writeback.records import Aside, Base, Conflict, Fate

CONTENT, OTHER = b"the old content", b"the new content"
SHA = hashlib.sha256(CONTENT).hexdigest()
TARGET, NAME = "dir/file.txt", ".jobfs-0123456789ab-0123456789abcdef-aside-file.txt"
ITEM = Item("a", Kind.FILE, f"dir/{NAME}", updated_at="moved", size=len(CONTENT))
ASIDE = Aside("a", 1, NAME, path=f"dir/{NAME}", moved=True, size=len(CONTENT), updated_at="moved")
BASE = Base("a", "before", len(CONTENT), SHA)


class Body:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def chunks(self) -> Iterator[bytes]:
        yield self.content[:4]
        yield self.content[4:]


class FakeClient:
    """One item; `lose` and `taken` make changes fail, `touch` lets the job write while the bytes are read."""

    def __init__(self) -> None:
        self.item: Item | None = ITEM
        self.content = CONTENT
        self.done: list[str] = []
        self.lose = 0
        self.carried_out = True
        self.taken = 0
        self.touch: Callable[[], None] = lambda: None

    def changes(self) -> list[str]:
        return [step for step in self.done if step != "download"]

    def get(self, item_id: str) -> Item:
        if self.item is None:
            raise NotFoundError("gone")
        return self.item

    @contextmanager
    def download(self, item_id: str) -> Iterator[Body]:
        self.done.append("download")
        yield Body(self.content)
        self.touch()

    def delete(self, item_id: str, *, once: bool = False) -> None:
        self.done.append("delete")
        if self.lose:
            self.lose -= 1
            raise AnswerLostError("lost")
        self.get(item_id)
        self.item = None

    def update(self, item_id: str, *, path: str) -> Item:
        self.done.append(f"move {path}")
        if self.taken:
            self.taken -= 1
            raise PathExistsError("exists")
        if not self.lose or self.carried_out:
            self.item = replace(self.get(item_id), path=path)
        if self.lose:
            self.lose -= 1
            raise AnswerLostError("lost")
        return self.get(item_id)


class World:
    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.client = FakeClient()
        self.told: list[str] = []
        self.judge = Judge(
            cast(Client, self.client),
            journal,
            lifetime=30.0,
            spare=lambda item_id: self.told.append(f"spare {item_id}"),
            part=lambda item_id: self.told.append(f"part {item_id}"),
            publish=lambda item: self.told.append(f"publish {item.path}"),
            forget=lambda item: self.told.append(f"forget {item.id}"),
        )
        self.aside = replace(ASIDE)

    def settle(self, base: Base = BASE, saved: str = "", **changes: Any) -> bool:
        for name, value in changes.items():
            setattr(self.aside, name, value)
        return self.judge.settle(self.aside, TARGET, base, saved)

    @property
    def kept(self) -> bool:
        return any(step.startswith("move dir/file.conflict-") for step in self.client.done)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with closing(Journal(tmp_path / "journal.db")) as journal:
        yield World(journal)


def test_what_has_the_bytes_of_the_base_is_deleted(world: World) -> None:
    """save-protocol R1: its bytes equal base's: delete; semantics 4: bytes that are needed here are spared first."""
    assert world.settle()
    assert world.client.done == ["download", "delete"]
    assert world.told == ["spare a", "forget a"]


def test_what_has_the_bytes_that_were_just_saved_is_deleted(world: World) -> None:
    assert world.settle(replace(BASE, sha256=""), saved=SHA)
    assert world.client.done == ["download", "delete"]


def test_other_bytes_are_kept_beside(world: World) -> None:
    """semantics 4, keep both: the item set aside becomes `name.conflict-<UTC time>.ext`."""
    assert world.settle(replace(BASE, sha256="other"))
    assert world.kept
    assert world.client.item is not None
    (conflict,) = world.journal.load(Conflict)
    assert (conflict.path, conflict.origin) == (world.client.item.path, TARGET)
    assert conflict.path.startswith("dir/file.conflict-")
    assert conflict.path.endswith(".txt")
    assert world.told == ["part a", f"publish {conflict.path}"]


def test_another_size_is_foreign_without_reading(world: World) -> None:
    """save-protocol R1: A's size differs from base's: foreign."""
    assert world.settle(replace(BASE, size=3))
    assert world.kept
    assert "download" not in world.client.done


def test_the_same_version_is_enough_where_moves_leave_it_alone(world: World) -> None:
    """save-protocol R1: (id, updatedAt, size) equal to base is enough where moves don't change updatedAt."""
    assert world.settle(Base("a", "moved", len(CONTENT)))
    assert world.client.done == ["delete"]


@pytest.mark.parametrize(
    "base",
    [
        Base("a", "moved", len(CONTENT), young=True),
        Base("a", "before", len(CONTENT)),
        Base("other", "moved", len(CONTENT)),
        Base(),
    ],
)
def test_what_cannot_be_known_is_kept(world: World, base: Base) -> None:
    """save-protocol R1: else keep both. Never guess."""
    assert world.settle(base)
    assert world.kept


def test_a_young_base_is_proved_by_its_bytes(world: World) -> None:
    """save-protocol R1: unless base is younger than 2 s when it was opened (clock resolution)."""
    assert world.settle(Base("a", "moved", len(CONTENT), SHA, young=True))
    assert world.client.done == ["download", "delete"]


def test_what_was_changed_since_it_was_set_aside_is_kept(world: World) -> None:
    """save-protocol R1: its bytes equal base's or what we just saved: delete; else foreign."""
    world.client.content = OTHER
    assert world.settle(updated_at="earlier")
    assert world.kept


def test_what_was_only_touched_since_it_was_set_aside_is_deleted(world: World) -> None:
    """save-protocol R1: by content; a rename of the directory may touch all that is in it."""
    assert world.settle(updated_at="earlier")
    assert world.client.item is None


def test_what_is_changed_while_its_bytes_are_read_is_kept(world: World) -> None:
    """save-protocol R1: to read bytes safely: download, then get."""

    def change() -> None:
        world.client.item, world.client.content = replace(ITEM, updated_at="changed"), OTHER

    world.client.touch = change
    assert world.settle(BASE)
    assert world.kept


def test_what_is_touched_while_its_bytes_are_read_is_read_again(world: World) -> None:
    """save-protocol R1: to read bytes safely: download, then get."""
    world.client.touch = lambda: setattr(world.client, "item", replace(ITEM, updated_at="touched"))
    assert world.settle()
    assert world.client.done.count("download") > 1
    assert world.client.item is None


def test_what_is_touched_again_and_again_is_kept(world: World) -> None:
    """save-protocol R1: never guess."""
    times = count()
    world.client.touch = lambda: setattr(
        world.client, "item", replace(ITEM, updated_at=f"touched {next(times)}")
    )
    assert world.settle()
    assert world.kept


def test_a_directory_set_aside_is_kept(world: World) -> None:
    world.client.item = replace(ITEM, kind=Kind.DIRECTORY, size=None)
    assert world.settle(Base("a", "moved"))
    assert world.kept


@pytest.mark.parametrize("fate", Fate)
def test_what_has_another_name_is_theirs(world: World, fate: Fate) -> None:
    """save-protocol R7: the item's last component must still be our aside name, else forget it."""
    world.client.item = replace(ITEM, path="dir/taken back")
    assert world.settle(fate=fate)
    assert world.client.changes() == []


@pytest.mark.parametrize("fate", Fate)
def test_what_is_gone_is_done(world: World, fate: Fate) -> None:
    world.client.item = None
    assert world.settle(fate=fate)
    assert world.client.changes() == []


def test_nothing_is_asked_while_a_request_may_still_be_carried_out(world: World) -> None:
    """save-protocol R7: first wait until `--request-lifetime` has passed, then look, then delete."""
    assert not world.settle(unsure_until=time.time() + 60)
    assert world.client.done == []
    assert world.settle(unsure_until=time.time() - 1)
    assert world.client.done == ["download", "delete"]


def test_a_delete_whose_answer_is_lost_is_looked_at_later(world: World) -> None:
    """save-protocol R7."""
    world.client.lose = 1
    assert not world.settle()
    assert world.aside.unsure_until > time.time() + 20
    assert world.settle(unsure_until=0.0)
    assert world.client.done.count("delete") == 2


def test_the_users_own_delete_needs_no_reason(world: World) -> None:
    assert world.settle(Base(), fate=Fate.DELETE)
    assert world.client.done == ["delete"]


def test_what_was_only_hidden_goes_back(world: World) -> None:
    assert world.settle(fate=Fate.RETURN)
    assert world.client.done == [f"move {TARGET}"]
    assert world.told == [f"publish {TARGET}"]


def test_what_cannot_go_back_is_kept_beside(world: World) -> None:
    world.client.taken = 1
    assert world.settle(fate=Fate.RETURN)
    assert world.kept


def test_going_back_with_a_lost_answer_is_looked_at_later(world: World) -> None:
    world.client.lose = 1
    with pytest.raises(UnavailableError):
        world.settle(fate=Fate.RETURN)
    assert world.aside.unsure_until > time.time() + 20


def test_a_name_that_is_taken_makes_way_for_the_next(world: World) -> None:
    world.client.taken = 2
    assert world.settle(replace(BASE, sha256="other"))
    tried = [step.removeprefix("move ") for step in world.client.done if step.startswith("move")]
    assert len(set(tried)) == 3


@pytest.mark.parametrize("carried_out", [True, False])
def test_keeping_with_a_lost_answer_looks_where_it_is(world: World, carried_out: bool) -> None:
    """semantics 5: look at the server first."""
    world.client.lose, world.client.carried_out = 1, carried_out
    assert world.settle(replace(BASE, sha256="other")) is carried_out
    assert len(world.journal.load(Conflict)) == carried_out
    assert (world.aside.unsure_until > 0) is not carried_out


def test_bytes_that_are_needed_here_and_cannot_be_had_keep_the_item(world: World) -> None:
    """semantics 4.36: a version is not deleted on the server while an open handle here still needs its bytes."""

    def spare(item_id: str) -> None:
        raise UnavailableError("not now")

    world.judge._spare = spare
    with pytest.raises(UnavailableError):
        world.settle()
    assert "delete" not in world.client.done
