"""Cleanup: what was cancelled is taken back, what nothing explains is shown (save-protocol R3, R4, R10)."""

from __future__ import annotations

import time
from typing import Any

import pytest

from jobfs import names
from jobfs.errors import UnavailableError
from jobfs.save.cleanup import Cleanup
from jobfs.state import Change, edit
from jobfs.state.records import Aside, Base, Stage, Verb

from .world import TID, World, hidden, sha

OLD, NEW = b"old", b"new"
STAGED = hidden("file", names.Role.STAGED)


@pytest.fixture
def cleanup(world: World) -> Cleanup:
    return world.write_back.cleanup


def placed(world: World, *asides: Aside) -> Change:
    change = world.state.change(Verb.PUT, "file", stage=Stage.STAGED, tid=TID, staged_id="n", sha256=sha(NEW))
    world.state.write(edit(change, stage=Stage.PLACED, asides=list(asides), base=Base("o", "", 3, sha(OLD))))
    return change


def cancelled(world: World, **values: Any) -> Change:
    """A save of `new` over the item `o` whose file was unlinked."""
    base = Base("o", world.client.items["o"].updated_at, 3) if "o" in world.client.items else Base()
    values = {"tid": TID, "size": 3, "sha256": sha(NEW), "base": base, **values}
    change = world.state.change(Verb.PUT, "file", **values)
    world.state.write(edit(change, stage=Stage.CANCELLED, shows={"file": None}))
    return change


def set_aside(world: World, item_id: str, content: bytes, **values: Any) -> Aside:
    item = world.client.put(item_id, hidden("file", tid=item_id * 16), content)
    return Aside(item_id, item.path, moved=True, size=item.size, updated_at=item.updated_at, **values)


# -- placed


def test_each_aside_is_deleted_or_kept_and_the_row_goes(world: World, cleanup: Cleanup) -> None:
    """save-protocol, `promoted`: each aside is judged; `done`: the row is gone."""
    change = placed(world, set_aside(world, "o", OLD), set_aside(world, "j", b"the job's"))
    assert cleanup.finish(change) == 0.0
    assert set(world.client.items) == {"j"}
    assert world.client.paths["j"].startswith("file.conflict-")
    assert (change.stage, len(world.state.journal.load(Change))) == (Stage.DONE, 0)


def test_placed_is_on_the_disk_before_the_first_delete(world: World, cleanup: Cleanup) -> None:
    """save-protocol R3."""
    change = placed(world, set_aside(world, "o", OLD))
    assert world.state.unsynced
    unsynced: list[bool] = []
    world.client.before["delete"] = [lambda: unsynced.append(world.state.journal.unsynced)]
    cleanup.finish(change)
    assert unsynced == [False]


def test_an_aside_that_has_to_wait_keeps_no_other_waiting(world: World, cleanup: Cleanup) -> None:
    """save-protocol R7: nobody waits for this, no other aside either."""
    late = time.time() + 100
    change = placed(world, set_aside(world, "w", OLD, unsure_until=late), set_aside(world, "o", OLD))
    assert cleanup.finish(change) == late
    assert set(world.client.items) == {"w"}
    (found,) = world.state.journal.load(Change)
    assert [aside.id for aside in found.asides] == ["w"]


@pytest.mark.parametrize("number", [1, 3])
def test_what_fails_is_tried_again_later_and_keeps_no_other_waiting(
    world: World, cleanup: Cleanup, number: int
) -> None:
    """save-protocol, `placed`; semantics 5, 401: no retry storm: the pauses between tries grow with each that is told."""
    change = placed(world, *(set_aside(world, name, OLD) for name in "abc"[:number]))
    world.client.before["get"] = [away]
    with pytest.raises(UnavailableError):
        cleanup.finish(change)
    assert (change.stage, len(change.asides)) == (Stage.PLACED, 1)


def test_one_listing_serves_all_directories_that_were_removed(world: World, cleanup: Cleanup) -> None:
    """save-protocol R12: in the background one listing for all such directories."""
    for name in "de":
        item = world.client.put(name, hidden(f"dir{name}", names.Role.REMOVED, name * 16), None)
        change = world.state.change(Verb.REMOVE, f"dir{name}", stage=Stage.STAGED)
        aside = Aside(name, item.path, item.kind, True)
        world.state.write(edit(change, stage=Stage.PLACED, asides=[aside]))
        assert cleanup.finish(change) == 0.0
    assert (world.client.items, world.namespace.refreshed) == ({}, 1)


# -- cancelled (R10)


def test_what_was_staged_is_taken_back_with_the_base(world: World, cleanup: Cleanup) -> None:
    """save-protocol, `cancelled`: delete H where it is ours, T's item if it is base."""
    world.client.put("o", "file", OLD)
    world.client.put("n", STAGED, NEW)
    change = cancelled(world, staged_id="n")
    assert world.state.hidden("file")
    cleanup.finish(change)
    assert world.client.items == {}
    assert not world.state.hidden("file")


@pytest.mark.parametrize(("content", "deleted"), [(NEW, True), (b"job", False)])
def test_what_was_placed_unseen_is_deleted_if_it_has_our_bytes(
    world: World, cleanup: Cleanup, content: bytes, deleted: bool
) -> None:
    """save-protocol R10: `cancelled` deletes H only under its hidden name or with its own bytes."""
    world.client.put("n", "file", content)
    cleanup.finish(cancelled(world, staged_id="n"))
    assert (world.client.items == {}) is deleted


def test_a_directory_at_its_name_is_never_deleted(world: World, cleanup: Cleanup) -> None:
    """save-protocol R10: never a directory at its name."""
    world.client.put("n", "file", None)
    change = world.state.change(Verb.MKDIR, "file", tid=TID, staged_id="n")
    world.state.write(edit(change, stage=Stage.CANCELLED))
    cleanup.finish(change)
    assert set(world.client.items) == {"n"}


def test_what_the_job_has_made_of_the_base_stays(world: World, cleanup: Cleanup) -> None:
    """save-protocol R10: T's item if it is base."""
    world.client.put("o", "file", OLD)
    change = cancelled(world)
    world.client.put("o", "file", b"the job's")
    cleanup.finish(change)
    assert world.client.paths == {"o": "file"}


# -- what no record explains (R4)


@pytest.mark.parametrize(
    ("role", "taken", "where"),
    [
        (names.Role.ASIDE, False, "dir/x.txt"),
        (names.Role.REMOVED, False, "dir/x.txt"),
        (names.Role.ASIDE, True, "dir/x.conflict-"),
        (names.Role.STAGED, False, "dir/x.recovered-"),
    ],
)
def test_a_hidden_item_that_no_record_names_is_exposed_never_deleted(
    world: World, cleanup: Cleanup, role: names.Role, taken: bool, where: str
) -> None:
    """save-protocol R4: aside: to T if T is free, else a conflict copy; staged: `.recovered-`, never T."""
    world.client.put("h", hidden("dir/x.txt", role), b"lost")
    if taken:
        world.client.put("t", "dir/x.txt")
    cleanup.expose_orphans()
    assert world.client.paths["h"].startswith(where)
    assert names.parse_hidden(world.client.paths["h"]) is None


def test_a_staged_item_whose_transaction_is_over_is_deleted(world: World, cleanup: Cleanup) -> None:
    """save-protocol R4: only a staged item whose own transaction is a tombstone is deleted."""
    world.state.write(used=TID)
    for name, role in (("s", names.Role.STAGED), ("a", names.Role.ASIDE)):
        world.client.put(name, hidden(f"{name}.txt", role), b"content")
    cleanup.expose_orphans()
    assert world.client.paths == {"a": "a.txt"}


def test_what_a_record_explains_or_another_mount_has_made_is_left_alone(
    world: World, cleanup: Cleanup
) -> None:
    """semantics 4: those of another mount are left alone."""
    world.client.put("other", hidden("x", mount="f" * 12), b"content")
    world.client.put("own", hidden("y"), b"content")
    world.state.change(Verb.PUT, "y", asides=[Aside("own", hidden("y"))])
    before = dict(world.client.paths)
    cleanup.expose_orphans()
    assert world.client.paths == before
    assert cleanup.expose(world.client.items["own"], anyway=True).startswith("y: ")
    assert world.client.paths["own"] == "y"


@pytest.mark.parametrize(
    ("record", "stays"),
    [({"staged_id": "h"}, True), ({"tid": TID}, True), ({"asides": [Aside("", hidden("x"))]}, True), ({}, False)],
    ids=["staged", "being made", "set aside unanswered", "another"],
)  # fmt: skip
def test_what_is_just_being_made_is_explained(
    world: World, cleanup: Cleanup, record: dict[str, Any], stays: bool
) -> None:
    """save-protocol R4: a hidden item of ours that an open record names; what is just being made is explained too."""
    world.client.put("h", hidden("x"), b"content")
    world.state.change(Verb.PUT, "x", stage=Stage.STAGED, **record)
    cleanup.expose_orphans()
    assert (world.client.paths["h"] == hidden("x")) is stays


def test_a_hidden_item_is_looked_at_again_before_it_is_named(world: World, cleanup: Cleanup) -> None:
    listed = world.client.put("h", hidden("x"), b"content")
    world.client.put("h", "given back by a request that was late", b"content")
    gone = world.client.put("g", hidden("y"), b"content")
    del world.client.items["g"]
    assert (cleanup.expose(listed), cleanup.expose(gone)) == ("", "")
    assert world.client.done == []
    assert world.namespace.told == ["forget g"]


def test_what_is_remembered_of_vanished_items_goes(world: World, cleanup: Cleanup) -> None:
    """semantics 2: goes when the item is replaced or deleted by the job."""
    for name in "ab":
        world.state.write(edit(world.state.open(world.client.put(name, name)), mode=0o600))
    gone = world.client.items.pop("a")
    cleanup.forget_vanished()
    assert world.state.of(gone) is None
    assert world.state.of(world.client.items["b"]) is not None


def away() -> None:
    raise UnavailableError("nobody there")
