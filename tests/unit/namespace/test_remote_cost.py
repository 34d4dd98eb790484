"""How many requests a lookup costs, and who shares them."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from .world import KERNEL, TTL, World


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


def operations(world: World) -> list[str]:
    return [operation for operation, _ in world.server.asked()]


def slow_pages(world: World, seconds: float, files: int = 0) -> None:
    """The first page of each listing takes so long; with `files`, so many files are listed three times."""

    def slow(operation: str, skip: int) -> None:
        if operation == "list" and skip == 0:
            world.clock.advance(seconds)

    world.server.before = slow
    for number in (files, 0, 0) if files else ():
        world.listed(number)


@pytest.mark.parametrize(("count", "pages"), [(90, 1), (1000, 11)])
def test_a_storm_of_lookups_costs_one_listing_and_a_handful_of_finds(
    world: World, count: int, pages: int
) -> None:
    """vfs/semantics.md 1.9: where a find would be the fifth within a second, a listing is read instead."""
    world.listed(count)
    for number in range(count):
        assert world.namespace.lookup(f"f{number:04d}") is not None
    assert operations(world) == ["find"] * 4 + ["list"] * pages


def test_lookups_that_are_few_keep_the_promise_by_finds(world: World) -> None:
    """vfs/semantics.md 1: after the snapshot expires, a single stat costs one find, not a listing."""
    world.listed(90)
    for number in range(40):
        world.namespace.lookup(f"f{number:04d}")
        world.clock.advance(0.25)
    assert set(operations(world)) == {"find"}


def test_the_snapshot_serves_a_storm_that_no_listing_can_be_afforded_for(world: World) -> None:
    """vfs/semantics.md 1: the effective TTL grows with the time a listing takes, and the status says so."""
    slow_pages(world, 3.0, files=300)
    assert world.namespace.status().effective_ttl == pytest.approx(15.0)
    for number in range(300):
        assert world.namespace.lookup(f"f{number:04d}") is not None
    assert operations(world) == ["find"] * 4
    assert len(world.namespace.children("")) == 300
    assert world.server.asked() == []
    world.clock.advance(15.0)
    assert len(world.namespace.children("")) == 300
    assert operations(world) == ["list"] * 4


def test_attributes_for_a_listing_are_those_that_a_lookup_has_without_a_request(world: World) -> None:
    """vfs/semantics.md 1: a change is visible to a new `stat` after the TTL, whoever has listed the directory meanwhile."""
    slow_pages(world, 3.0, files=300)
    looked_up = world.namespace.looked_up
    assert looked_up("f0001") is None, "as old as that a lookup would ask"
    for number in range(4):
        world.namespace.lookup(f"f{number:04d}")
    assert all(looked_up(f"f{number:04d}") is not None for number in range(300)), "in a storm"
    world.namespace.refresh()
    world.server.asked()
    assert looked_up("f0001") == world.namespace.lookup("f0001") is not None
    assert looked_up("missing") is None
    world.namespace.touch("f0001")
    assert looked_up("f0001") is None
    assert world.server.asked() == []


def test_saves_while_a_long_listing_is_read_cost_a_find_each_and_no_other_listing(world: World) -> None:
    """vfs/semantics.md 1: on a huge workspace listing may take at most a small share of wall time, whatever is changed here."""
    slow_pages(world, 10.0, files=300)
    world.clock.advance(50.0)
    file, names = world.namespace.peek("f0000"), itertools.count()

    def rename(operation: str, skip: int) -> None:
        if operation == "list" and skip == 0:
            assert file is not None
            world.namespace.publish(world.server.move(file, f"renamed {next(names)}"))

    world.server.after = rename
    for _ in range(3):
        children = world.namespace.children("")
        assert len(children) == 300
        assert "renamed 0" in children
    asked = operations(world)
    assert asked.count("list") == 4
    assert asked.count("find") <= 2


@pytest.mark.parametrize(("seconds", "good_for"), [(0.1, 1.0), (3.0, 3.0)])
def test_a_listing_serves_all_removals_of_directories_in_the_next_second(
    world: World, seconds: float, good_for: float
) -> None:
    """save/protocol.md R12: a listing of at most a second ago, or as long ago as a listing takes."""
    slow_pages(world, seconds)
    for _ in range(3):
        world.namespace.refresh()
    world.server.asked()
    world.clock.advance(good_for - 0.01)
    world.namespace.children("", max_age=world.namespace.recent)
    assert world.server.asked() == []
    world.clock.advance(0.02)
    world.namespace.children("", max_age=world.namespace.recent)
    assert world.server.asked() == [("list", 0)]


def test_a_lookup_with_a_bound_is_answered_by_a_request_within_it(world: World) -> None:
    """vfs/semantics.md 4: unlink deletes the id that stood at that path at most 1 s ago."""
    first = world.server.file("x")
    world.listed(5)
    world.namespace.refresh()
    world.clock.advance(0.5)
    second = world.server.rewrite(first)
    assert world.namespace.lookup("x", max_age=1.0) == first
    world.server.asked()
    assert world.namespace.lookup("x", max_age=0.1) == second
    assert world.server.asked() == [("find", "x")]
    world.clock.advance(0.05)
    assert world.namespace.lookup("x", max_age=0.1) == second
    assert world.server.asked() == []


@pytest.mark.parametrize("operation", ["find", "list"])
def test_concurrent_callers_of_one_path_or_directory_share_one_request(world: World, operation: str) -> None:
    """vfs/semantics.md 1.10: of one path, and of directories."""
    world.listed(3)
    gate, waiting = Gate(operation), threading.Barrier(9)
    world.server.before = gate
    find, children = partial(world.namespace.lookup, "f0001"), partial(world.namespace.children, "")

    def ask() -> object:
        waiting.wait(20)
        return find() if operation == "find" else children()

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        waiting.wait(20)
        gate.await_request()
        gate.open.set()
        found = [each.result(20) for each in asking]
    assert found == [found[0]] * 8
    assert operations(world) == [operation]


def test_a_caller_never_joins_a_request_that_began_too_early(world: World) -> None:
    """vfs/semantics.md 1: an answer is as young as was asked for, whoever made the request."""
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


def test_a_refresh_during_a_listing_reads_another_one_after_it(world: World) -> None:
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


@pytest.mark.parametrize(("files", "asked"), [(5, ("list", 0)), (300, ("find", "new"))])
def test_an_unknown_name_after_expiry_costs_a_listing_of_one_page_or_else_a_find(
    world: World, files: int, asked: tuple[str, object]
) -> None:
    """vfs/semantics.md 1: decide by cost: a listing tells more than the find, which can't see implicit directories."""
    world.listed(files)
    world.server.file("new/x")
    assert (world.namespace.lookup("new") is not None) is (files == 5)
    assert world.server.asked() == [asked]


@pytest.mark.parametrize(("seconds", "listed"), [(0.1, True), (0.3, False)])
def test_a_storm_that_needs_young_answers_gets_a_listing_only_if_that_is_quick(
    world: World, seconds: float, listed: bool
) -> None:
    """vfs/semantics.md 4: unlink looks at most 1 s ago; a listing takes a fifth of that at most."""
    slow_pages(world, seconds)
    world.listed(90)
    for number in range(20):
        world.namespace.lookup(f"f{number:04d}", max_age=1.0)
    assert operations(world) == (["find"] * 4 + ["list"] if listed else ["find"] * 20)


def test_the_effective_ttl_grows_with_the_time_that_listings_take(world: World) -> None:
    """vfs/semantics.md 1.11: five times the median of the last five listings, of three at least."""
    taken = [20.0, 20.0, 20.0, 1.0, 1.0, 1.0, 2.0]
    expected = [TTL - KERNEL, TTL - KERNEL, 100.0, 100.0, 100.0, 5.0, 5.0]
    for seconds, ttl in zip(taken, expected, strict=True):
        slow_pages(world, seconds)
        world.namespace.refresh()
        assert world.namespace.status().effective_ttl == pytest.approx(ttl)


def test_an_implicit_directory_that_is_not_known_is_seen_within_the_ttl(world: World) -> None:
    """vfs/semantics.md 1: implicit directories are shown; where there are any, what find can't see costs a listing."""
    world.listed(300)
    world.server.file("implicit/x")
    world.namespace.refresh()
    for number in range(3):
        world.server.file(f"new{number}/x")
        world.expire()
        assert world.namespace.lookup(f"new{number}") is not None
    assert world.namespace.lookup("nothing") is None
    assert operations(world) == ["list"] * (4 * 4)
