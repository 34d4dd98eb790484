"""Looking: what costs a request, what does not, and what is shown."""

from __future__ import annotations

import errno
import time

import pytest

from jobfs.errors import FsError
from jobfs.names import Role
from jobfs.nodes import Item, Lifecycle, implicit_directory

from .world import KERNEL, TTL, World, hidden, nothing


def test_the_first_lookup_reads_one_listing_that_then_answers_everything(world: World) -> None:
    """vfs/semantics.md 1.7: a fresh snapshot answers every lookup, negative ones too, without a request."""
    a = world.server.file("a.txt")
    sub = world.server.directory("sub")
    b = world.server.file("sub/b.txt")
    assert world.namespace.lookup("") == implicit_directory("")
    assert world.server.asked() == []
    assert world.namespace.lookup("a.txt") == a
    assert world.server.asked() == [("list", 0)]
    assert world.namespace.lookup("sub") == sub
    assert world.namespace.lookup("sub/b.txt") == b
    assert world.namespace.lookup("nothing") is None
    assert world.namespace.children("") == {"a.txt": a, "sub": sub}
    assert world.namespace.children("sub") == {"b.txt": b}
    assert world.server.asked() == []


@pytest.mark.parametrize(("path", "number"), [("nothing", errno.ENOENT), ("a.txt", errno.ENOTDIR)])
def test_children_of_a_path_that_is_no_directory_are_refused(world: World, path: str, number: int) -> None:
    world.server.file("a.txt")
    with pytest.raises(FsError) as caught:
        world.namespace.children(path)
    assert caught.value.errno == number


def test_a_single_stat_after_expiry_costs_one_find(world: World) -> None:
    """vfs/semantics.md 1.8: after the snapshot expires, a single stat costs one find, not a listing."""
    a = world.server.file("a.txt")
    world.listed()
    newer = world.server.rewrite(a)
    assert world.namespace.lookup("a.txt") == newer
    assert world.server.asked() == [("find", "a.txt")]
    assert world.namespace.lookup("a.txt") == newer
    assert world.server.asked() == []


def test_freshness_counts_from_the_start_of_the_request_and_leaves_room_for_the_kernel(world: World) -> None:
    """vfs/semantics.md 1: a change by the job is visible within the TTL, kernel timeouts included."""
    a = world.server.file("a.txt")

    def slow(_operation: str, _argument: object) -> None:
        world.clock.advance(0.2)

    world.server.after = slow
    world.namespace.lookup("a.txt")
    newer = world.server.rewrite(a)
    world.clock.advance(TTL - KERNEL - 0.2)
    assert world.namespace.lookup("a.txt") == a
    world.clock.advance(0.001)
    assert world.namespace.lookup("a.txt") == newer


def test_a_find_that_finds_nothing_where_children_are_known_asks_the_list(world: World) -> None:
    """vfs/semantics.md 1: an implicit directory can't be seen by find."""
    folder = world.server.directory("x")
    child = world.server.file("x/y")
    world.listed()
    del world.server.items[folder.id]
    assert world.namespace.lookup("x") == implicit_directory("x")
    world.server.delete(child)
    world.expire()
    assert world.namespace.lookup("x") is None


def test_a_directory_renamed_by_the_job_is_seen_with_its_content(world: World) -> None:
    """vfs/semantics.md 1: a change made by the job is visible after the TTL."""
    folder = world.server.directory("x")
    for number in range(120):
        world.server.file(f"x/f{number}")
    world.listed()
    world.server.move(folder, "y")
    assert world.namespace.lookup("y") == world.server.items[folder.id]
    assert world.namespace.lookup("y/f7") is not None
    assert len(world.namespace.children("y")) == 120
    assert world.namespace.lookup("x") is None
    world.clock.advance(0.5)
    world.server.directory("new")
    inside = world.server.file("new/x")
    assert world.namespace.lookup("new", max_age=0.1) is not None
    assert world.namespace.lookup("new/x") == inside
    assert world.namespace.children("new") == {"x": inside}
    assert world.namespace.children("", max_age=0.1).keys() == {"y", "new"}


def test_of_two_items_at_one_path_one_is_in_the_status(world: World) -> None:
    """vfs/semantics.md 1.18: every shadowed item is listed in the status, and shows again once it is alone."""
    default, own = world.server.file("x", lifecycle=Lifecycle.APPLICATION), world.server.file("x")
    assert world.namespace.lookup("x") == own
    assert [path for path, _ in world.namespace.status().shadowed] == ["x"]
    world.namespace.forget(own)
    assert world.namespace.lookup("x") == default


def test_hostile_hidden_and_control_names_are_not_shown_and_not_asked_for(world: World) -> None:
    """vfs/semantics.md 1: hostile paths are never shown and never followed. vfs/semantics.md 4: nor are hidden items."""
    aside = world.server.file(hidden("x"))
    world.server.file("a/../b")
    world.listed()
    for path in (aside.path, "a/../b", "..", ".jobfs", ".jobfs/job.json", "n" * 256):
        assert world.namespace.lookup(path) is None
    assert world.server.asked() == []
    assert world.namespace.children("") == {}
    assert world.namespace.hidden() == [aside]
    assert [path for path, _ in world.namespace.status().hostile] == ["a/../b"]


def test_the_status_tells_what_is_known(world: World) -> None:
    assert world.namespace.status().snapshot_age is None
    world.server.file("a", size=3)
    world.server.file("b", size=None)
    world.namespace.refresh()
    world.clock.advance(2.0)
    status = world.namespace.status()
    assert (status.items, status.size, status.snapshot_age) == (2, 3, 2.0)


def test_our_own_changes_are_visible_at_once_and_cost_nothing(world: World) -> None:
    """vfs/semantics.md 1.6: own changes are visible at once."""
    a = world.server.file("a")
    world.server.file("x/y")
    world.namespace.refresh()
    world.server.asked()
    made = world.server.directory("d")
    world.namespace.publish(made)
    moved = world.server.move(a, "d/a")
    world.namespace.publish(moved)
    assert world.namespace.lookup("a") is None
    assert world.namespace.children("d") == {"a": moved}
    renamed = world.server.move(made, "e")
    world.namespace.publish(renamed)
    assert world.namespace.lookup("e/a") == world.server.items[a.id]
    world.namespace.forget(implicit_directory("x"))
    assert world.namespace.children("") == {"e": renamed}
    world.namespace.forget(renamed)
    assert world.namespace.children("") == {}
    assert world.namespace.lookup("e/a") is None
    assert world.server.asked() == []


def test_a_touched_path_is_asked_for_although_all_is_fresh(world: World) -> None:
    """vfs/semantics.md 5: after a lost answer, look first."""
    a = world.server.file("d/a")
    b = world.server.file("d/b")
    world.namespace.refresh()
    newer = world.server.rewrite(a)
    world.server.asked()
    world.namespace.touch("d/a")
    assert world.namespace.lookup("d/b") == b
    assert world.namespace.lookup("d/a") == newer
    assert world.server.asked() == [("find", "d/a")]
    world.namespace.touch("d/b")
    newest = world.server.rewrite(b)
    assert world.namespace.children("d") == {"a": newer, "b": newest}
    new = world.server.file("d/new")
    world.namespace.touch("d")
    assert world.namespace.children("d")["new"] == new
    assert world.server.asked() == [("find", "d/b"), ("list", 0)]


def test_a_slow_find_does_not_overwrite_our_own_change(world: World) -> None:
    """vfs/semantics.md 1: a write counter: a slow answer never overwrites a newer local change."""
    a = world.server.file("a")
    world.listed()
    saved: list[Item] = []

    def save_meanwhile(operation: str, _argument: object) -> None:
        if operation == "find" and not saved:
            saved.append(world.server.rewrite(a))
            world.namespace.publish(saved[0])

    world.server.after = save_meanwhile
    assert world.namespace.lookup("a") == saved[0]
    assert world.server.asked() == [("find", "a"), ("find", "a")]


def test_our_own_deletions_while_a_listing_is_read_cost_no_other_pass(world: World) -> None:
    """save/protocol.md R12: our own deletions are no drift; what was there throughout is in the listing all the same."""
    world.listed(500)
    doomed = list(world.server.items.values())[:50]
    unseen = world.server.file("made by the job")

    def delete_meanwhile(_operation: str, _argument: object) -> None:
        item = doomed.pop()
        world.server.delete(item)
        world.namespace.forget(item)

    world.server.after = delete_meanwhile
    world.namespace.refresh()
    world.server.after = nothing
    assert unseen.path in world.namespace.children("")
    assert world.namespace.children("").keys() == {item.path for item in world.server.items.values()}
    asked = world.server.asked()
    assert {operation for operation, _ in asked} == {"list"}
    assert len(asked) <= 2 * 6


@pytest.mark.parametrize("comes", [True, False])
def test_a_name_that_is_missed_is_asked_for_once_more_after_a_moment(world: World, comes: bool) -> None:
    """save/protocol.md: a mount that misses a name it knew asks once more, and then believes it."""
    a = world.server.file("a")
    world.listed(120)
    world.server.move(a, hidden("a"))
    new: list[Item] = []
    if comes:
        world.meanwhile = lambda: new.append(world.server.file("a"))
    for _ in range(2):
        assert world.namespace.lookup("a") == (new[0] if comes else None)
    world.expire()
    world.namespace.lookup("a")
    assert world.server.asked() == [("find", "a")] * 3
    assert len(world.pauses) == 1
    assert 0.1 <= world.pauses[0] <= 0.25


def test_a_listing_in_the_middle_of_anothers_save_asks_once_more(world: World) -> None:
    """save/protocol.md: a mount that misses a name it knew asks once more before it believes it."""
    a, b, c = (world.server.file(f"d/{name}") for name in "abc")
    world.listed()
    for saved in (a, b):
        world.server.move(saved, hidden(saved.path))
    world.server.delete(c)
    new: list[Item] = []
    world.meanwhile = lambda: new.append(world.server.file("d/a"))
    assert world.namespace.children("d") == {"a": new[0]}
    assert sorted(world.server.asked()) == [("find", "d/a"), ("find", "d/b"), ("list", 0)]
    assert len(world.pauses) == 1


def test_an_own_item_at_a_path_where_another_was_known_is_asked_for(world: World) -> None:
    """vfs/semantics.md 1: own changes are visible at once; the server let us take the path, so the old item is gone."""
    old = world.server.file("x", updated_ns=10**9)
    mine = world.server.file("y", updated_ns=1)
    world.namespace.refresh()
    world.server.delete(old)
    world.namespace.publish(world.server.move(mine, "x"))
    # Nobody has asked yet: that both are there is not said.
    assert world.namespace.status().shadowed == []
    assert world.namespace.lookup("x") == world.server.items[mine.id]
    assert world.namespace.status().shadowed == []


def changed(world: World, path: str) -> int:
    """When the names in a directory were seen to change."""
    directory = world.namespace.peek(path)
    assert directory is not None
    return world.namespace.names_changed(directory)


def test_other_names_in_a_directory_change_its_time_once(world: World) -> None:
    """vfs/semantics.md 2.18: a directory's mtime moves when another set of names is seen in it, by a listing or a find."""
    for path in ("d", "empty", "same"):
        world.server.directory(path)
    a = world.server.file("d/a")
    world.server.file("implicit/b")
    world.server.file("same/c")
    world.namespace.refresh()
    directories = ("", "d", "empty", "same", "implicit")
    assert [changed(world, path) for path in directories] == [0] * 5
    began = time.time_ns()
    world.server.delete(a)
    world.server.file("empty/first")
    world.server.file("implicit/beside")
    world.expire()
    assert world.namespace.lookup("d/a", max_age=0.0) is None
    assert changed(world, "d") >= began
    world.namespace.refresh()
    seen = [changed(world, path) for path in directories]
    assert [began <= moment <= time.time_ns() for moment in seen] == [False, True, True, False, True]
    world.server.file("new/x", updated_ns=1)
    world.server.directory("new")
    world.namespace.refresh()
    assert [changed(world, path) for path in directories[1:]] == seen[1:]
    assert changed(world, "") > 0
    assert changed(world, "new") == 0, "it has the time of its item"


def test_hidden_names_contents_and_our_own_changes_are_no_other_names(world: World) -> None:
    """vfs/semantics.md 2.18: a save in place stages a hidden item, moves another one away, and changes no name."""
    world.server.directory("d")
    a = world.server.file("d/a")
    world.namespace.refresh()
    staged = world.server.file(hidden("d/a"))
    world.namespace.refresh()
    world.namespace.publish(world.server.move(a, hidden("d/a", Role.STAGED)))
    world.namespace.publish(world.server.move(staged, "d/a"))
    world.namespace.publish(world.server.file("d/own"))
    world.server.rewrite(staged)
    world.namespace.refresh()
    assert changed(world, "d") == 0


def test_the_time_of_a_directorys_names_never_goes_back_whatever_the_clocks_say(world: World) -> None:
    """vfs/semantics.md 2.18: never goes back, with a server whose clock is ahead."""
    ahead = time.time_ns() + 3600 * 10**9
    directory = world.server.directory("d", updated_ns=ahead)
    world.namespace.refresh()
    for number in range(2):
        world.server.file(f"d/{number}")
        world.namespace.refresh()
        assert changed(world, "d") == ahead + 1 + number
    world.namespace.forget_names(directory)
    assert changed(world, "d") == 0
