"""Snapshots: parallel pages, lists that move while they are read, servers that do not count right."""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from jobfs.api.client import Client
from jobfs.api.deadline import limit_time
from jobfs.api.models import Page
from jobfs.errors import ContractError, UnavailableError
from jobfs.namespace.listing import Lister, ListingPass
from jobfs.nodes import Item

from .world import Server, item

PAGES = [(count, 100) for count in (0, 1, 99, 100, 101, 198, 199, 200, 201, 298, 299, 1000)]


class Reading:
    """A lister of a server, the ids known from before, and those that this mount changes while it reads."""

    def __init__(self, **options: int) -> None:
        self.server = Server()
        self.lister = Lister(cast(Client, self.server), **options)
        self.known: list[str] = []
        self.ours: set[str] = set()

    def read(self) -> tuple[list[Item], int]:
        return self.lister.read_all(self.known, lambda: set(self.ours))

    def fill(self, count: int) -> list[Item]:
        return [self.server.file(f"f{number:05d}") for number in range(count)]


@pytest.fixture
def reading() -> Reading:
    return Reading()


def as_set(read: tuple[list[Item], int]) -> set[Item]:
    items, _ = read
    assert len({one.id for one in items}) == len(items)
    return set(items)


@pytest.mark.parametrize("expected", [0, 101, 200, 5000])
@pytest.mark.parametrize(("count", "cap"), [*PAGES, (60, 2), (60, 7), (60, 50), (250, 50)])
def test_every_item_is_listed_with_any_number_of_expected_pages(count: int, cap: int, expected: int) -> None:
    """vfs/semantics.md 1.2: all pages are one snapshot of the whole tree."""
    reading = Reading(expected=expected)
    reading.server.cap = cap
    everything = reading.fill(count)
    assert as_set(reading.read()) == set(everything)
    asked = reading.server.asked()
    ahead = reading.server.max_connections if expected else 0
    assert len(asked) <= len(set(asked)) + ahead
    assert len(set(asked)) <= 2 + count // max(1, cap - 1) + ahead
    if not expected:
        reading.read()
        assert set(reading.server.asked()) == set(asked), "what is expected then is there"


@pytest.mark.parametrize("expected", [0, 350])
def test_later_pages_are_fetched_in_parallel(expected: int) -> None:
    """vfs/semantics.md 1.2: pages after the first are fetched in parallel."""
    reading = Reading(expected=expected)
    reading.fill(350)
    together = threading.Barrier(4 if expected else 3, timeout=20)

    def meet(_operation: str, skip: int) -> None:
        if skip or expected:
            together.wait()

    reading.server.before = meet
    assert len(as_set(reading.read())) == 350
    if expected:
        assert len(as_set(reading.read())) == 350, "the last listing sets the expected number"
        assert reading.server.operations() == ["list"] * 8


def test_a_list_that_keeps_changing_is_reconciled(reading: Reading, caplog: pytest.LogCaptureFixture) -> None:
    """vfs/semantics.md 1.3: read again at most twice, then reconciled item by item."""
    everything = reading.fill(250)
    gone = reading.fill(20)
    reading.known = [one.id for one in everything]

    def drift(_operation: str, skip: int) -> None:
        if skip == 0 and gone:
            reading.server.delete(gone.pop())
            reading.server.delete(gone.pop())

    reading.server.after = drift
    with caplog.at_level(logging.INFO, "jobfs.namespace"):
        found = as_set(reading.read())
    assert found >= set(everything)
    assert len(caplog.records) == 1
    assert reading.server.operations().count("list") == 9


def test_a_known_item_missing_from_all_pages_is_requested(reading: Reading) -> None:
    """vfs/semantics.md 1.3: changes that cancel each other out in number may hide it."""
    everything, items = reading.fill(150), reading.server.items
    reading.known, lost = list(items), everything[7]

    def hide(operation: str, _argument: Any) -> None:
        items.update({lost.id: lost}) if operation == "get" else items.pop(lost.id, None)

    reading.server.before = hide
    assert as_set(reading.read()) == set(everything)


def test_many_items_deleted_by_the_job_cost_only_a_second_pass(reading: Reading) -> None:
    everything = reading.fill(500)
    reading.known = [one.id for one in everything]
    for one in everything[100:400]:
        reading.server.delete(one)
    assert as_set(reading.read()) == {*everything[:100], *everything[400:]}
    assert set(reading.server.operations()) == {"list"}


@pytest.mark.parametrize("count", [150, 450])
def test_a_server_without_a_stable_order_is_read_completely(reading: Reading, count: int) -> None:
    """vfs/semantics.md 1: it must never lose an item that existed throughout."""
    everything = reading.fill(count)
    reading.server.shuffle = random.Random(7)
    assert as_set(reading.read()) == set(everything)
    assert reading.server.operations().count("list") <= 12 * (2 + count // 99)


@pytest.mark.parametrize("places", [(18, 20), (19, 20)])
def test_two_passes_that_lack_the_same_item_prove_nothing(reading: Reading, places: tuple[int, int]) -> None:
    """vfs/semantics.md 1: it must never lose an item that existed throughout, where neighbours change places too."""
    everything = reading.fill(49)
    turned = list(everything)
    for place, other in (places, places[::-1]):
        turned[place] = everything[other]
    reading.server.cap = 20
    list_page, passes = reading.server.list_page, itertools.count()

    def disturbed(take: int, skip: int) -> Page:
        page = list_page(take, skip)
        return page._replace(items=turned[19:39]) if skip == 19 and next(passes) < 2 else page

    reading.server.list_page = disturbed  # type: ignore[method-assign]
    assert as_set(reading.read()) == set(everything)


@pytest.mark.parametrize(
    "lie", [lambda n: 0, lambda n: 1, lambda n: n - 1, lambda n: n + 1, lambda n: 10**9, lambda n: 2**62]
)
@pytest.mark.parametrize("count", [0, 37, 100, 250])
def test_a_wrong_total_loses_no_item(reading: Reading, count: int, lie: Callable[[int], int]) -> None:
    everything = reading.fill(count)
    reading.server.told_total = lie
    assert as_set(reading.read()) == set(everything)
    assert len(reading.server.asked()) <= 60


def test_a_page_with_a_wrong_total_is_read_while_the_job_makes_files(reading: Reading) -> None:
    """vfs/semantics.md 1.3: no two passes agree, and the items are asked for one by one."""
    everything = reading.fill(5)
    made: list[Item] = []
    reading.server.before = lambda operation, _: made.extend(reading.fill(1) * (operation == "list"))
    reading.server.told_total = lambda total: total - 1
    assert as_set(reading.read()) == {*everything, *made}


@pytest.mark.parametrize("says_total", [100, 350])
def test_a_server_without_paging_is_read_completely(reading: Reading, says_total: int) -> None:
    """vfs/semantics.md 1: the snapshot has every item; nobody is asked for more of them than the reference allows."""
    everything = reading.fill(350)

    def list_page(take: int, skip: int) -> Page:
        assert 1 <= take <= 100
        return Page(everything, 350, says_total)

    reading.server.list_page = list_page  # type: ignore[method-assign]
    for _ in range(2):
        assert as_set(reading.read()) == set(everything)


def test_pages_without_an_id_are_neither_new_nor_progress(reading: Reading) -> None:
    """vfs/semantics.md 5.8: a gateway that gives one answer to all requests does not keep a call beyond its time."""
    pages = itertools.count()

    def list_page(take: int, skip: int) -> Page:
        return Page([], 10**6, take, unknown=(f"#{next(pages)}",))

    reading.server.list_page = list_page  # type: ignore[method-assign]
    with limit_time(60.0) as deadline:
        end = deadline.signed_remaining()
        assert reading.read()[0] == []
        assert deadline.signed_remaining() < end
    assert next(pages) < 500


@pytest.mark.parametrize("unknown", [1, 30, 120])
def test_items_of_unknown_types_cost_a_second_pass_at_most(reading: Reading, unknown: int) -> None:
    everything = reading.fill(250)
    reading.server.unknown = [f"{number * 2:023d}x" for number in range(unknown)]
    assert as_set(reading.read()) == set(everything)
    asked = reading.server.asked()
    assert len(asked) <= 2 * len(set(asked))


def test_a_page_shows_the_next_offset_and_whether_it_has_new_items() -> None:
    """vfs/semantics.md 1: of items of unknown types nobody knows the order."""
    this = ListingPass(Page([], 2, 100, ("a",)))
    this.add_page(Page([], 2, 100, ("b",)))
    assert (this.item_count, this.is_unstable) == (2, True)
    a, b = item("a"), item("b")
    assert [this._add_items(Page(items, 2, 100)) for items in ([a], [b, a], [a, b])] == [True, True, False]


def test_a_later_page_shows_the_newer_state_of_an_item() -> None:
    """vfs/semantics.md 1.3: a rename by the job may leave its `updatedAt` alone."""
    first = item("a", updated_ns=2)
    this = ListingPass(Page([first], 1, 100))
    for newer in (replace(first, path="renamed"), replace(first, path="older", updated_ns=1)):
        this.add_page(Page([newer], 1, 100))
        assert [each.path for each in this.items.values()] == ["renamed"]


def test_a_page_that_fails_fails_the_listing(reading: Reading) -> None:
    """vfs/semantics.md 1: a network failure never looks like an empty directory."""
    reading.fill(1000)

    def fail(_operation: str, skip: int) -> None:
        if skip > 300:
            raise UnavailableError("down")

    reading.server.before = fail
    with pytest.raises(UnavailableError):
        reading.read()
    assert len(reading.server.asked()) < 11


#: The request at which an item is changed, how, which, and by whom: the job, or this mount.
how, who = st.sampled_from(["create", "delete", "move", "rewrite"]), st.sampled_from(["job", "ours"])
drifts = st.lists(st.tuples(st.integers(0, 12), how, st.integers(0, 10**6), who), max_size=12)


orders: list[Callable[[Item], Any]] = [lambda one: one.id, lambda one: one.path, lambda one: one.updated_ns]
orders += [lambda one: -one.updated_ns]


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 40), st.integers(2, 12), st.sampled_from(orders), st.booleans(), drifts)
def test_an_item_that_existed_throughout_is_never_lost(
    count: int, cap: int, order: Callable[[Item], Any], known_before: bool, drift: list[Any]
) -> None:
    """vfs/semantics.md 1.3: it must never lose an item that existed throughout, nor show one that never was there."""
    reading = Reading()
    server = reading.server
    server.cap, server.max_connections = cap, 1
    reading.fill(count)
    ever = {one.id for one in server.items.values()}
    throughout = set(ever)
    # An item not known before can hide behind three changes of the job that cancel out, or behind one beside ours: only in a
    # listing of a page it can't.
    reading.known = sorted(ever) if known_before else []
    requests = 0

    def sort() -> None:
        server.items = {one.id: one for one in sorted(server.items.values(), key=order)}

    def change(_operation: str, _argument: Any) -> None:
        nonlocal requests
        for when, what, which, who in drift:
            if when != requests:
                continue
            there = list(server.items.values())
            one = there[which % len(there)] if there else None
            if what == "create":
                one = server.file(f"new{which}")
                ever.add(one.id)
            elif one is not None and what == "delete":
                server.delete(one)
                throughout.discard(one.id)
            elif one is not None and what == "move":
                server.move(one, f"moved{which}")
            elif one is not None:
                server.rewrite(one)
            if one is not None and who == "ours":
                reading.ours.add(one.id)
        requests += 1
        sort()

    sort()
    server.before = change
    found = {one.id for one in reading.read()[0]}
    assert found <= ever
    if known_before or (len(drift) < 3 and not reading.ours) or all(who == "ours" for *_, who in drift):
        assert found >= throughout - reading.ours


@pytest.mark.parametrize("total", [lambda end: end + 1, lambda end: end + 100, lambda end: end * 2])
def test_an_endless_list_is_an_error(reading: Reading, total: Callable[[int], int]) -> None:
    """vfs/semantics.md 5.8: a reply that does not match the contract is EIO; nobody reads for ever."""

    def list_page(take: int, skip: int) -> Page:
        reading.server.requests.append(("list", skip))
        items = [item(f"f{number}", f"{number:024d}") for number in range(skip, skip + take)]
        return Page(items, total(skip + take), take)

    reading.server.list_page = list_page  # type: ignore[method-assign]
    with pytest.raises(ContractError, match="has no end"):
        reading.read()
    assert len(reading.server.asked()) <= 150
