"""Renames that the caller waits for, and what goes along with a directory (vfs/semantics.md 4)."""

from __future__ import annotations

import pytest

from jobfs.errors import UnavailableError
from jobfs.nodes import Lifecycle, Permission
from jobfs.save.rename import Rename
from jobfs.state import Change, edit
from jobfs.state.records import Stage, Verb

from .world import World


@pytest.fixture
def rename(world: World) -> Rename:
    return world.write_back.rename


@pytest.mark.parametrize("lose", [0, 1])
def test_an_item_gets_a_free_name_with_one_request(world: World, rename: Rename, lose: int) -> None:
    """vfs/semantics.md 4: rename of clean items is synchronous; 5: a lost answer is looked at."""
    item = world.client.put("a", "file")
    world.client.lose = lose
    assert rename.update(item, path="new").path == "new"
    assert world.client.done == ["move new"]
    assert world.namespace.told == ["publish new"]


def test_what_remembers_its_times_goes_on_to(world: World, rename: Rename) -> None:
    item = world.client.put("a", "file")
    world.state.write(edit(world.state.open(item), version=item.updated_at, mtime_ns=5))
    world.client.moves_touch = True
    moved = rename.update(item, path="new")
    file = world.state.of(moved)
    assert file is not None
    assert (file.version, file.mtime_ns) == (moved.updated_at, 5)
    world.client.lose = 1
    again = rename.update(moved, path="newer")
    assert file.version != again.updated_at, "the job may have written to it before the look (R2)"


def test_a_move_that_is_never_answered_is_unavailable(world: World, rename: Rename) -> None:
    world.client.lose, world.client.carried_out = 100, False
    with pytest.raises(UnavailableError):
        rename.update(world.client.put("a", "file"), path="new")
    assert world.context.unsure_until("a") > 0


def test_permission_and_lifecycle_are_changed_whether_or_not_it_is_answered(
    world: World, rename: Rename
) -> None:
    """vfs/semantics.md 2.4; 5: look at the server first."""
    item = world.client.put("a", "file")
    for lose, carried_out in ((0, True), (1, True), (1, False)):
        world.client.lose, world.client.carried_out = lose, carried_out
        for permission in (Permission.READ_ONLY, Permission.READ_WRITE):
            assert rename.update(item, permission=permission).permission is permission
        assert rename.update(item, lifecycle=Lifecycle.APPLICATION).lifecycle is Lifecycle.APPLICATION
        item = rename.update(item, lifecycle=Lifecycle.EXPERT_JOB)


# -- directories


def below(world: World) -> tuple[object, ...]:
    """Everything in `old` that this machine knows more of: an unsent file, one being taken back, a scratch file."""
    unsent, scratch = world.closed("old/sub/file", b"new"), world.closed("old/a~", b"x")
    world.state.write(edit(scratch, stays=True))
    change = world.write_back.queue.save(unsent)
    assert change is not None
    cancelled = world.state.change(Verb.PUT, "old/gone", tid="t", begun=True)
    world.state.write(edit(cancelled, stage=Stage.CANCELLED, shows={"old/gone": None, "other": None}))
    return unsent, scratch, change, cancelled


def test_everything_below_a_directory_goes_along(world: World, rename: Rename) -> None:
    unsent, scratch, change, cancelled = below(world)
    item = world.client.put("d", "old", None)
    rename.rename_directory(item, "new")
    assert world.client.done == ["move new"]
    assert (world.state.at("new/sub/file"), world.state.at("new/a~")) == (unsent, scratch)
    assert (world.state.at("old/sub/file"), world.state.hidden("old/gone")) == (None, False)
    assert (world.state.hidden("new/gone"), world.state.hidden("other")) == (True, True)
    targets = {c.seq: c.target for c in world.state.changes.values()}
    assert targets == {change.seq: "new/sub/file", cancelled.seq: "new/gone"}  # type: ignore[attr-defined]
    assert [c.target for c in world.state.journal.load(Change)] == ["new/gone"]
