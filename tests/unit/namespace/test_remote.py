"""Looking: what is shown, how many requests a lookup costs, and who shares them."""

from __future__ import annotations

import errno
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.support.items import hidden

from jobfs.api import deadline
from jobfs.errors import FsError, UnavailableError
from jobfs.namespace.metadata_cache import NEVER
from jobfs.nodes import Item, Lifecycle, implicit_directory

from .world import KERNEL, TTL, World, nothing


def test_the_first_lookup_reads_one_listing_that_answers_everything(world: World) -> None:
    """vfs/semantics.md 1.7: a fresh snapshot answers every lookup, negative ones too, without a request."""
    a = world.server.file("a.txt")
    sub = world.server.directory("sub")
    b = world.server.file("sub/b.txt")
    assert (world.namespace.lookup(""), world.namespace.edition_if_fresh()) == (implicit_directory(""), 0)
    assert world.namespace.lookup("a.txt") == a
    assert world.server.asked() == [("list", 0)]
    assert world.namespace.lookup("sub") == sub
    assert world.namespace.lookup("sub/b.txt") == b
    assert world.namespace.lookup("nothing") is None
    assert world.namespace.children("") == {"a.txt": a, "sub": sub}
    assert world.namespace.children("sub") == {"b.txt": b}
    for path, number in (("nothing", errno.ENOENT), ("a.txt", errno.ENOTDIR)):
        with pytest.raises(FsError) as caught:
            world.namespace.children(path)
        assert caught.value.errno == number
    assert (world.server.asked(), world.namespace.edition_if_fresh() > 0) == ([], True)


def test_a_stat_after_expiry_costs_one_find_dated_at_its_start(world: World) -> None:
    """vfs/semantics.md 1.8: one find, not a listing; the age of an answer leaves room for the kernel's part of the TTL."""
    a = world.server.file("a.txt")
    world.listed()
    world.server.after = lambda *_: world.clock.advance(0.2)
    first = world.server.rewrite(a)
    assert world.namespace.lookup("a.txt") == first
    second = world.server.rewrite(a)
    world.clock.advance(TTL - KERNEL - 0.2)
    assert world.namespace.lookup("a.txt") == first
    assert world.server.asked() == [("find", "a.txt")]
    world.clock.advance(0.001)
    assert world.namespace.lookup("a.txt") == second
    world.namespace.record_own_change(third := world.server.rewrite(a))
    assert world.namespace.lookup("a.txt") == third
    assert world.server.asked() == [("find", "a.txt")], "with our own change it is as young as it was"


def test_when_names_changed_is_found_under_the_lock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of cachetools is not thread-safe: what is found in it may be gone when it is fetched."""
    held: list[bool] = []

    def looked_up(directory: Item) -> int:
        held.append(world.namespace._lock.locked())
        return 7

    monkeypatch.setattr(world.namespace._cache, "names_changed_at", looked_up)
    assert (world.namespace.names_changed_at(implicit_directory("a")), held) == (7, [True])


def test_an_empty_find_where_children_are_known_causes_a_listing(world: World) -> None:
    """vfs/semantics.md 1: an implicit directory can't be seen by find."""
    folder = world.server.directory("x")
    child = world.server.file("x/y")
    world.listed()
    del world.server.items[folder.id]
    assert world.namespace.lookup("x") == implicit_directory("x")
    assert world.server.operations() == ["find", "list"]
    assert not world.pauses, "it is no name that a save has moved for a moment"
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
    world.server.directory("new")
    inside = world.server.file("new/x")
    world.clock.advance(0.5)
    assert world.namespace.lookup("new", max_age=0.1) is not None
    assert world.namespace.lookup("new/x") == inside
    assert world.namespace.children("new") == {"x": inside}
    world.server.move(folder, "z")
    world.clock.advance(0.5)
    assert world.namespace.lookup("z", max_age=0.1) is not None
    assert world.namespace.lookup("y/f7") is None, "all below the old name is in doubt"


def test_the_status_lists_known_and_hidden_items(world: World) -> None:
    """vfs/semantics.md 1.18: every shadowed item is listed in the status, and shows again once it is alone.

    vfs/semantics.md 1: hostile paths are never shown and never followed. vfs/semantics.md 4: nor are hidden items.
    """
    assert (world.namespace.status().snapshot_age, world.namespace.status().listing_seconds) == (None, 0.0)
    default = world.server.file("x", size=3, lifecycle=Lifecycle.APPLICATION)
    own = world.server.file("x", size=None)
    aside = world.server.file(hidden("x"))
    world.server.file("a/../b")
    world.listed()
    for path in (aside.path, "a/../b", "..", ".jobfs", ".jobfs/job.json", "n" * 256):
        assert world.namespace.lookup(path) is None
    assert world.server.asked() == []
    assert world.namespace.children("") == {"x": own}
    assert (world.namespace.hidden_items(), world.namespace.subtree("x")) == ([aside], [own, default])
    status = world.namespace.status()
    assert (status.items, status.size, status.snapshot_age) == (4, 5, 0.0)
    assert ([at for at, _ in status.hostile], [at for at, _ in status.shadowed]) == (["a/../b"], ["x"])
    world.namespace.record_deleted(own)
    assert world.namespace.lookup("x") == default


def test_own_changes_are_visible_at_once_and_cost_no_request(world: World) -> None:
    """vfs/semantics.md 1.6: own changes are visible at once."""
    a = world.server.file("a")
    world.server.file("x/y")
    world.namespace.refresh()
    world.server.asked()
    world.namespace.record_own_change(made := world.server.directory("d"))
    moved = world.server.move(a, "d/a")
    world.namespace.record_own_change(moved)
    assert world.namespace.lookup("a") is None
    assert world.namespace.children("d") == {"a": moved}
    renamed = world.server.move(made, "e")
    world.namespace.record_own_change(renamed, "d")
    assert world.namespace.lookup("e/a") == world.server.items[a.id]
    world.namespace.record_deleted(implicit_directory("x"))
    assert world.namespace.children("") == {"e": renamed}
    world.namespace.record_deleted(renamed)
    assert (world.namespace.children(""), world.namespace.lookup("e/a")) == ({}, None)
    assert world.server.asked() == []


def test_a_doubtful_path_is_requested_although_the_listing_is_fresh(world: World) -> None:
    """vfs/semantics.md 5: after a lost answer, look first."""
    a = world.server.file("d/a")
    b = world.server.file("d/b")
    world.namespace.refresh()
    newer = world.server.rewrite(a)
    world.server.asked()
    world.namespace.invalidate("d/a")
    assert world.namespace.lookup("d/b") == b
    assert world.namespace.lookup("d/a") == newer
    assert world.server.asked() == [("find", "d/a")]
    world.namespace.invalidate("d/b")
    newest = world.server.rewrite(b)
    assert world.namespace.children("d") == {"a": newer, "b": newest}
    new = world.server.file("d/new")
    world.namespace.invalidate("d")
    assert world.namespace.children("d")["new"] == new
    world.namespace.invalidate("d")
    assert world.namespace.lookup("d") is not None
    assert world.server.asked() == [("find", "d/b"), ("list", 0), ("list", 0)]


def test_a_slow_find_does_not_overwrite_a_newer_own_change(world: World) -> None:
    """vfs/semantics.md 1: a write counter: a slow answer never overwrites a newer local change, nor a newer doubt."""
    _, a = world.server.directory("d"), world.server.file("d/a")
    world.listed(120)
    world.server.directory("new")
    for path, act in (
        ("new", lambda: world.namespace.invalidate("new")),
        ("d/a", lambda: world.namespace.record_own_change(world.server.rewrite(a))),
    ):
        once = iter([act])
        world.server.after = lambda *_, once=once: next(once, lambda: None)()
        world.expire()
        shown = world.namespace.lookup(path)
        assert world.server.asked() == [("find", path)] * 2
        assert shown == next((one for one in world.server.items.values() if one.path == path), None)


def test_own_deletions_during_a_listing_cost_no_second_pass(world: World) -> None:
    """save/protocol.md R12: our own deletions are no drift; what was there throughout is in the listing all the same."""
    world.listed(500)
    doomed = list(world.server.items.values())[:50]
    world.server.file("made by the job")

    def delete_meanwhile(_operation: str, _argument: object) -> None:
        item = doomed.pop()
        world.server.delete(item)
        world.namespace.record_deleted(item)

    world.server.after = delete_meanwhile
    world.namespace.refresh()
    world.server.after = nothing
    assert world.namespace.children("").keys() == {item.path for item in world.server.items.values()}
    asked = world.server.asked()
    assert {operation for operation, _ in asked} == {"list"}
    assert len(asked) <= 2 * 6


@pytest.mark.parametrize("comes", [True, False])
def test_a_missing_name_is_requested_again_after_a_moment(world: World, comes: bool) -> None:
    """save/protocol.md: a mount that misses a name it knew asks once more, and then believes it."""
    a = world.server.file("a")
    world.listed(120)
    world.server.move(a, hidden("a"))
    new: list[Item] = []
    if comes:
        world.during_pause = lambda: new.append(world.server.file("a"))
    for _ in range(2):
        assert world.namespace.lookup("a") == (new[0] if comes else None)
    world.expire()
    world.namespace.lookup("a")
    assert world.server.asked() == [("find", "a")] * 3
    assert [0.1 <= pause <= 0.25 for pause in world.pauses] == [True]


def test_a_listing_during_another_mounts_save_requests_the_name_again(world: World) -> None:
    """save/protocol.md: a mount that misses a name it knew asks once more before it believes it."""
    a, b, c = (world.server.file(f"d/{name}") for name in "abc")
    world.listed()
    for saved in (a, b):
        world.server.move(saved, hidden(saved.path))
    world.server.delete(c)
    new: list[Item] = []
    world.during_pause = lambda: new.append(world.server.file("d/a"))
    assert world.namespace.children("d") == {"a": new[0]}
    assert sorted(world.server.asked()) == [("find", "d/a"), ("find", "d/b"), ("list", 0)]
    assert [0.1 <= pause <= 0.25 for pause in world.pauses] == [True]


def test_a_path_with_an_own_and_another_item_is_requested(world: World) -> None:
    """vfs/semantics.md 1: own changes are visible at once; the server let us take the path, so the old item is gone."""
    old = world.server.file("x", updated_ns=10**9)
    mine = world.server.file("y", updated_ns=1)
    world.namespace.refresh()
    world.server.delete(old)
    world.namespace.record_own_change(world.server.move(mine, "x"))
    # Nobody has asked yet: that both are there is not said.
    assert world.namespace.status().shadowed == []
    assert world.namespace.lookup("x") == world.server.items[mine.id]


def changed(world: World, path: str) -> int:
    """When the names in a directory were seen to change."""
    directory = world.namespace.peek(path)
    assert directory is not None
    return world.namespace.names_changed_at(directory)


def test_a_directorys_time_changes_once_for_new_names(world: World) -> None:
    """vfs/semantics.md 2.18: a directory's mtime moves when another set of names is seen in it, by a listing or a find.

    It never goes back, with a server whose clock is ahead.
    """
    ahead = world.server.directory("ahead", updated_ns=time.time_ns() + 3600 * 10**9)
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
    world.server.file("ahead/x")
    world.server.file("implicit/beside")
    world.expire()
    assert world.namespace.lookup("d/a", max_age=0.0) is None
    assert changed(world, "d") >= began
    world.namespace.refresh()
    seen = [changed(world, path) for path in directories]
    assert [began <= moment <= time.time_ns() for moment in seen] == [False, True, True, False, True]
    assert changed(world, "ahead") == ahead.updated_ns + 1
    world.namespace.forget_names_changed(ahead)
    assert changed(world, "ahead") == 0
    world.server.file("new/x", updated_ns=1)
    world.server.file("newer/x", updated_ns=1)
    world.server.directory("new")
    world.namespace.refresh()
    assert [changed(world, path) for path in directories[1:]] == seen[1:]
    assert changed(world, "new") == 0, "it has the time of its item"
    assert changed(world, "newer") >= began, "it has none"
    staged = world.server.file(hidden("same/c"))
    world.namespace.refresh()
    world.namespace.record_own_change(world.server.move(staged, "same/own"))
    world.server.rewrite(staged)
    world.namespace.refresh()
    assert changed(world, "same") == 0, "neither hidden names, nor contents, nor what we have done"
    world.server.move(staged, "below/moved")
    world.expire()
    assert world.namespace.lookup("below/moved", max_age=0.0) is not None
    assert min(changed(world, path) for path in ("same", "below", "")) >= began, (
        "a find shows where the file was, too"
    )


# what it costs, and who shares it


class Gate:
    """A hook that holds back requests of one operation until it is opened."""

    def __init__(self, operation: str) -> None:
        self._operation = operation
        self.reached = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, operation: str, _argument: Any) -> None:
        if operation == self._operation:
            self.reached.release()
            assert self.open.wait(20)

    def await_request(self) -> None:
        assert self.reached.acquire(timeout=20)


def slow_pages(world: World, seconds: float, files: int = 0) -> None:
    """The first page of each listing takes so long; with `files`, so many files are listed three times."""

    def slow(operation: str, skip: int) -> None:
        if operation == "list" and skip == 0:
            world.clock.advance(seconds)

    world.server.before = slow
    for number in (files, 0, 0) if files else ():
        world.listed(number)


@pytest.mark.parametrize(("count", "pages"), [(90, 1), (1000, 11)])
def test_many_lookups_at_once_cost_one_listing_and_four_finds(world: World, count: int, pages: int) -> None:
    """vfs/semantics.md 1.9: where a find would be the fifth within a second, a listing is read instead."""
    world.listed(count)
    for number in range(count):
        assert world.namespace.lookup(f"f{number:04d}") is not None
    assert world.server.operations() == ["find"] * 4 + ["list"] * pages
    world.expire()
    for number in range(40):
        world.clock.advance(0.25)
        world.namespace.lookup(f"f{number:04d}")
    assert world.server.operations() == ["find"] * 40, "these are few"


def test_a_listing_has_the_attributes_of_a_lookup_without_a_request(world: World) -> None:
    """vfs/semantics.md 1: a change is visible to a new `stat` after the TTL, even if the directory was listed in between."""
    slow_pages(world, 3.0, files=300)
    looked_up = world.namespace.cached_lookup
    assert looked_up("f0001") is None, "as old as that a lookup would ask"
    for number in range(4):
        world.namespace.lookup(f"f{number:04d}")
    assert all(looked_up(f"f{number:04d}") is not None for number in range(300)), "in a storm"
    world.namespace.invalidate("f0299")
    assert looked_up("f0299") is None, "but for what is in doubt"
    world.namespace.refresh()
    world.server.asked()
    assert looked_up("f0001") == world.namespace.lookup("f0001") is not None
    assert looked_up("missing") is None
    world.namespace.invalidate("f0001")
    assert looked_up("f0001") is None
    assert world.server.asked() == []


def test_saves_during_a_long_listing_cost_one_find_each(world: World) -> None:
    """vfs/semantics.md 1: on a huge workspace listing may take at most a small share of wall time, whatever is changed here."""
    slow_pages(world, 10.0, files=300)
    world.clock.advance(50.0)
    file, names = world.namespace.peek("f0000"), itertools.count()

    def rename(operation: str, skip: int) -> None:
        if operation == "list" and skip == 0:
            assert file is not None
            world.namespace.record_own_change(world.server.move(file, f"renamed {next(names)}"))

    world.server.after = rename
    for _ in range(3):
        children = world.namespace.children("")
        assert len(children) == 300
    asked = world.server.operations()
    assert asked.count("list") == 4
    assert asked.count("find") <= 2


@pytest.mark.parametrize(("count", "requests"), [(8, ["find"] * 8), (9, ["list"])])
def test_a_listing_costs_a_handful_of_finds_after_many_own_changes(
    world: World, count: int, requests: list[str]
) -> None:
    """vfs/semantics.md 1.9: names in doubt are looked up one by one only if they are few."""
    world.listed(files=20)
    world.namespace.refresh()
    world.server.asked()
    for number in range(count):
        world.namespace.invalidate(f"f{number:04d}")
    world.namespace.children("")
    assert world.server.operations() == requests


@pytest.mark.parametrize(("seconds", "good_for"), [(0.1, 1.0), (3.0, 3.0)])
def test_a_listing_serves_removals_for_the_next_second(world: World, seconds: float, good_for: float) -> None:
    """save/protocol.md R12: a listing of at most a second ago, or as long ago as a listing takes."""
    slow_pages(world, seconds)
    for _ in range(3):
        world.namespace.refresh()
    world.server.asked()
    world.clock.advance(good_for - 0.01)
    world.namespace.children("", max_age=world.namespace.max_age_to_prove_empty)
    assert world.server.asked() == []
    world.clock.advance(0.02)
    world.namespace.children("", max_age=world.namespace.max_age_to_prove_empty)
    assert world.server.asked() == [("list", 0)]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("operation", ["find", "list"])
def test_callers_of_one_path_or_directory_share_a_request(world: World, operation: str, fails: bool) -> None:
    """vfs/semantics.md 1.10: its failure too, also those that must not be answered from what is known."""
    if operation == "find" or not fails:
        world.listed(3)
    gate, joined = Gate(operation), threading.Semaphore(0)
    world.server.before = gate

    def ask() -> object:
        deadline.set_blocking_hook(joined.release)
        return world.namespace.lookup("f0001", 0.0) if operation == "find" else world.namespace.children("")

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(ask)]
        gate.await_request()
        calls += [pool.submit(ask) for _ in range(7)]
        assert all(joined.acquire(timeout=20) for _ in calls[1:])
        world.server.errors = {operation: UnavailableError("no connection")} if fails else {}
        gate.open.set()
        found = [call.exception(20) or call.result() for call in calls]
    assert {str(each) for each in found} == {"no connection" if fails else str(found[0])}
    assert world.server.operations() == [operation]


def test_a_caller_never_joins_a_request_that_started_too_early(world: World) -> None:
    """vfs/semantics.md 1: an answer is no older than requested, whichever call made the request."""
    world.server.file("x")
    world.listed(3)
    gate = Gate("find")
    answered_early: list[object] = []

    def hold_after(operation: str, argument: Any) -> None:
        if operation == "find" and not answered_early:
            answered_early.append(argument)
            gate(operation, argument)

    world.server.after = hold_after
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(world.namespace.lookup, "x")
        gate.await_request()
        world.clock.advance(1.0)
        newer = world.server.file("x", updated_ns=10**9)
        assert world.namespace.lookup("x", max_age=0.5) == newer
        gate.open.set()
        assert early.result(20) == newer
    assert world.server.asked() == [("find", "x"), ("find", "x")]
    assert world.namespace.peek("x") == newer


def test_a_refresh_during_a_listing_reads_another_listing(world: World) -> None:
    """vfs/semantics.md 1: single flight, and yet a snapshot that began when it was asked for."""
    gate = world.server.after = Gate("list")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(world.namespace.children, "")
        gate.await_request()
        world.server.file("x")
        second = pool.submit(world.namespace.refresh)
        gate.open.set()
        first.result(20)
        second.result(20)
    assert world.namespace.snapshot_number == 2
    assert world.namespace.peek("x") is not None


@pytest.mark.parametrize(("seconds", "listed"), [(0.1, True), (0.3, False)])
def test_many_lookups_of_a_small_age_cause_a_quick_listing(
    world: World, seconds: float, listed: bool
) -> None:
    """vfs/semantics.md 4: unlink looks at most 1 s ago; a listing takes a fifth of that at most."""
    slow_pages(world, seconds)
    world.listed(90)
    for number in range(20):
        world.namespace.lookup(f"f{number:04d}", max_age=1.0)
    assert world.server.operations() == (["find"] * 4 + ["list"] if listed else ["find"] * 20)


def test_the_effective_ttl_grows_with_the_time_that_listings_take(world: World) -> None:
    """vfs/semantics.md 1.11: five times the median of the last five listings, of three at least."""
    taken = [20.0, 20.0, 20.0, 1.0, 1.0, 1.0, 2.0]
    expected = [TTL - KERNEL, TTL - KERNEL, 100.0, 100.0, 100.0, 5.0, 5.0]
    for seconds, ttl in zip(taken, expected, strict=True):
        slow_pages(world, seconds)
        world.namespace.refresh()
        status = world.namespace.status()
        assert [status.effective_ttl, status.listing_seconds] == pytest.approx([ttl, seconds])


def test_an_unknown_name_costs_a_listing_where_find_may_miss_it(world: World) -> None:
    """vfs/semantics.md 1.8: where one page holds all, or where there are implicit directories, which are seen within the TTL."""
    world.listed(5)
    world.server.file("new/x")
    assert world.namespace.lookup("new") is not None
    assert world.server.operations() == ["list"]
    other = World()
    other.listed(300)
    other.server.file("new/x")
    assert other.namespace.lookup("new") is None
    assert other.server.operations() == ["find"]
    other.namespace.refresh()
    for path in ("newer", "newest"):
        other.server.file(f"{path}/x")
        other.expire()
        assert other.namespace.lookup(path) is not None
    assert other.namespace.lookup("nothing") is None
    assert set(other.server.operations()) == {"list"}


def test_an_item_was_seen_when_a_reply_or_own_change_last_showed_it(world: World) -> None:
    """save/protocol.md R8: that is the time of a look; what is in doubt, or elsewhere, was never seen."""
    a = world.server.file("a.txt")
    world.namespace.refresh()
    listed = world.clock.now
    assert world.namespace.last_seen_at(a) == listed
    world.clock.advance(2.0)
    assert world.namespace.last_seen_at(a) == listed
    world.server.after = lambda *_: world.clock.advance(0.5)
    world.namespace.lookup("a.txt", max_age=1.0)
    assert world.namespace.last_seen_at(a) == listed + 2.5, "when the answer came"
    world.clock.advance(1.0)
    world.namespace.record_own_change(moved := world.server.move(a, "b.txt"), "a.txt")
    assert (world.namespace.last_seen_at(moved), world.namespace.last_seen_at(a)) == (world.clock.now, NEVER)
    world.namespace.invalidate("b.txt")
    assert world.namespace.last_seen_at(moved) == NEVER
    world.namespace.record_deleted(moved)
    assert world.namespace.last_seen_at(moved) == NEVER
    assert world.namespace.lookup_ttl == TTL - KERNEL
