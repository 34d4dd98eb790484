"""What becomes of a change that can't be placed: what was set aside goes back, the newest first (save/protocol.md R11)."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from jobfs import names
from jobfs.errors import UnavailableError
from jobfs.nodes import Kind
from jobfs.state import Change, edit
from jobfs.state.journal import Journal
from jobfs.state.records import Aside, Stage, Verb

from .world import TID, World, hidden

TARGET = "file.txt"
STAGED = hidden(TARGET, names.Role.STAGED)


def aside(world: World, item_id: str, *, moved: bool = True) -> Aside:
    item = world.client.put(item_id, hidden(TARGET, tid=item_id * 16), b"old")
    return Aside(item_id, item.path, moved=moved)


def change_of(world: World, *asides: Aside, verb: Verb = Verb.PUT, **values: Any) -> Change:
    """A change under way whose staged item is `new`, in the journal."""
    values = {"stage": Stage.STAGED, "tid": TID, "staged_id": "new", "asides": list(asides), **values}
    change = world.state.change(verb, TARGET, **values)
    world.state.write(edit(change))
    return change


def undone(world: World, change: Change) -> Change:
    world.write_back.cleanup.undo(change, "refused", errno.EFBIG)
    return change


def recorded(world: World) -> int:
    journal: Journal = world.state.journal
    return len(journal.load(Change))


def test_the_newest_goes_back_and_older_ones_stand_beside(world: World) -> None:
    """save/protocol.md R11."""
    older, newer = aside(world, "1"), aside(world, "2")
    world.client.put("new", STAGED)
    change = undone(world, change_of(world, older, newer))
    assert world.client.paths["2"] == TARGET
    assert world.client.paths["1"].startswith("file.conflict-")
    assert "new" not in world.client.paths, "the staged item's bytes are here"
    assert (change.stage, world.state.changes, recorded(world)) == (Stage.DONE, {}, 0)


def test_a_name_that_the_job_has_taken_is_left_to_it(world: World) -> None:
    world.client.put("job", TARGET)
    undone(world, change_of(world, aside(world, "1")))
    assert world.client.paths["job"] == TARGET
    assert world.client.paths["1"].startswith("file.conflict-")


def test_what_was_taken_away_is_left_alone(world: World) -> None:
    taken, gone = aside(world, "1"), aside(world, "2")
    world.client.put("1", "taken by the job")
    del world.client.items["2"]
    undone(world, change_of(world, taken, gone))
    assert world.client.paths == {"1": "taken by the job"}


def test_what_was_never_moved_is_not_moved_back(world: World) -> None:
    left = aside(world, "1", moved=False)
    world.client.put("1", TARGET)
    undone(world, change_of(world, left, stage=Stage.STAGING, staged_id=""))
    assert world.client.done == []


def test_newer_bytes_that_wait_were_not_refused(world: World) -> None:
    file = world.state.new(Kind.FILE, TARGET)
    world.state.write(edit(file, generation=6))
    world.state.bytes.new(file.ino, 5).release()
    undone(world, change_of(world, file=file, generation=5))
    assert (file.refused, file.unsaved) == ("", True)
    world.state.sync()
    assert list(world.state.bytes.directory.iterdir()) == [], "nothing needs the older ones"


def test_a_save_that_was_cancelled_meanwhile_stays_so(world: World) -> None:
    """save/protocol.md R10."""
    change = undone(world, change_of(world, aside(world, "1"), stage=Stage.CANCELLED))
    assert change.stage is Stage.CANCELLED
    assert change.asides == []
    assert world.client.paths == {"1": TARGET}


@pytest.mark.parametrize(
    ("verb", "place"), [(Verb.PUT, TARGET), (Verb.PUT, "taken from there"), (Verb.MOVE, TARGET)]
)
def test_nothing_is_undone_that_was_placed_after_all(world: World, verb: Verb, place: str) -> None:
    """save/protocol.md R6: under any other name it is promoted."""
    change = change_of(world, aside(world, "1"), verb=verb, source="draft")
    world.client.put("new", place)
    before = dict(world.client.paths)
    with pytest.raises(UnavailableError):
        undone(world, change)
    assert world.client.paths == before
    assert (change.stage, recorded(world)) == (Stage.STAGED, 1)


def test_an_undo_that_the_server_does_not_answer_is_tried_again(world: World) -> None:
    """save/protocol.md, The steps, undo: refused itself, it is tried until it succeeds."""
    change = change_of(world, replace(aside(world, "1")))
    world.client.lose, world.client.carried_out = 1, True
    with pytest.raises(UnavailableError):
        undone(world, change)
    assert recorded(world) == 1
    undone(world, change)
    assert (world.client.paths["1"], recorded(world)) == (TARGET, 0)
