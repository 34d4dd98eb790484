"""Deleting: never what the user did not see (save/protocol.md R10, R12; vfs/semantics.md 4)."""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from jobfs.errors import ApiError, FsError, UnavailableError
from jobfs.save.rename import Rename
from jobfs.state import Change
from jobfs.state.records import Base, Stage, Verb

from .world import World, hidden, sha


@pytest.fixture
def remove(world: World) -> Rename:
    return world.write_back.rename


def failed(call: Any, *arguments: Any) -> int:
    with pytest.raises((ApiError, FsError)) as caught:
        call(*arguments)
    return caught.value.errno


# -- a file


def test_a_directory_that_took_the_name_stays(world: World, remove: Rename) -> None:
    """vfs/semantics.md 4, unlink: 404 means look again; what the user did not see is not deleted with all that is in it."""
    gone = world.client.put("a", "file")
    del world.client.items["a"]
    world.client.put("b", "file", None)
    remove.delete(gone)
    assert world.client.paths == {"b": "file"}


def test_a_server_that_never_answers_a_delete_is_unavailable(world: World, remove: Rename) -> None:
    world.client.lose, world.client.carried_out = 100, False
    assert failed(remove.delete, world.client.put("a", "file")) == errno.EIO
    assert "a" in world.client.items


def test_open_handles_get_their_bytes_first(world: World, remove: Rename) -> None:
    """vfs/semantics.md 4: a version is not deleted on the server while an open handle still needs its bytes."""
    item = world.client.put("a", "file")
    content = world.opened(item)
    world.client.before["delete"] = [lambda: None if content.fetched else pytest.fail("not fetched")]
    remove.delete(item)
    other = world.client.put("b", "other")
    world.opened(other, UnavailableError("not now"))
    assert failed(remove.delete, other) == errno.EIO
    assert world.client.paths == {"b": "other"}


# -- what goes a little later


def unlinked(world: World, base: Base) -> Change:
    return world.state.change(Verb.REMOVE, "file", stage=Stage.STAGED, base=base, shows={"file": None})


@pytest.mark.parametrize("act", ["write", "rename", "replace"])
def test_what_the_job_did_to_it_since_stays(world: World, remove: Rename, act: str) -> None:
    """vfs/semantics.md 4, Unlink: before it is sent, the item is looked at: what the job has written since stays."""
    item = world.client.put("a", "file", b"content")
    base = Base.of(item)
    if act == "rename":
        world.client.items["a"] = replace(item, path="other")
    else:
        del world.client.items["a"]
        world.client.put("a" if act == "write" else "b", "file", b"the job's")
    there = dict(world.client.paths)
    change = unlinked(world, base)
    remove.run(change)
    assert world.client.paths == there
    assert change.stage is Stage.DONE


def test_a_version_of_ours_whose_answer_was_lost_is_known_by_its_bytes(world: World, remove: Rename) -> None:
    """save/protocol.md R2."""
    for content, deleted in ((b"ours", True), (b"the job's", False)):
        world.client.put("a", "file", content)
        change = unlinked(world, Base("a", "", None, sha(b"ours")))
        remove.run(change)
        assert (world.client.items == {}) is deleted


# -- a directory


@pytest.mark.parametrize("inside", ["dir/file", f"dir/{hidden('x', mount='f' * 12)}"])
def test_a_directory_with_something_in_it_stays(world: World, remove: Rename, inside: str) -> None:
    """vfs/semantics.md 4, rmdir: else ENOTEMPTY; save/protocol.md R12: hidden items count as content."""
    item = world.client.put("d", "dir", None)
    world.client.put("x", inside)
    assert failed(remove.remove_directory, item) == errno.ENOTEMPTY
    assert world.client.done == []
    assert world.state.changes == {}


def test_what_is_known_of_it_is_forgotten_before_cleanup_may_look(world: World, remove: Rename) -> None:
    """save/protocol.md R12: what a listing shows in it from then on is not to be forgotten any more."""
    told: list[list[str]] = []
    world.state.journal.observer = lambda boundary: told.append(list(world.namespace.told))
    remove.remove_directory(world.client.put("d", "dir", None))
    assert told[0] == []
    assert told[-2][-1] == "forget d", "before the journal says that it was taken away"


def test_cleanup_gets_it_once_and_when_it_no_longer_runs(world: World, remove: Rename) -> None:
    """save/protocol.md R12: it does not stay under its hidden name until the next mount."""
    running: list[bool] = []

    class Handed(deque[Change]):
        def append(self, change: Change) -> None:
            running.append(change.running)
            super().append(change)

    world.state.awake = Handed()
    remove.remove_directory(world.client.put("d", "dir", None))
    assert list(world.state.awake) == list(world.state.changes.values())
    assert running == [False]


def test_it_is_in_the_journal_before_it_is_moved(world: World, remove: Rename) -> None:
    """save/protocol.md R4: a hidden item of ours is named by a record."""
    seen: list[list[str]] = []
    world.client.before["update"] = [
        lambda: seen.append([a.id for c in world.state.journal.load(Change) for a in c.asides])
    ]
    remove.remove_directory(world.client.put("d", "dir", None))
    assert seen == [["d"]]


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_move_whose_answer_is_lost_is_looked_at(world: World, remove: Rename, carried_out: bool) -> None:
    """save/protocol.md R7: and what is still unsure is not deleted before its time."""
    world.client.lose, world.client.carried_out = 1, carried_out
    remove.remove_directory(world.client.put("d", "dir", None))
    (change,) = world.state.changes.values()
    assert world.client.paths == {"d": change.asides[0].path}
    assert len(world.client.done) == (1 if carried_out else 2)
    assert change.asides[0].unsure_until > 0


def test_a_directory_that_may_have_been_moved_is_looked_at_by_cleanup(world: World, remove: Rename) -> None:
    world.client.lose, world.client.carried_out = 100, False
    assert failed(remove.remove_directory, world.client.put("d", "dir", None)) == errno.EIO
    (change,) = world.state.changes.values()
    assert (change.stage, len(change.asides)) == (Stage.PLACED, 1)
    assert world.namespace.told == ["touch dir"]
