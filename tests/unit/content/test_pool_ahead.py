"""Fetching ahead on the threads that readers leave over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from jobfs.content.pool import Ahead, Pool
from jobfs.nodes import Item

from .server import item_of


class Source:
    """Items to be fetched ahead, and fetches that wait until they are let go."""

    def __init__(self, sizes: list[int]) -> None:
        self.left = [item_of(size, f"{number:024}") for number, size in enumerate(sizes)]
        self.changed = threading.Condition()
        self.under_way = self.most = self.done = 0
        self.go = False
        self.fails = False

    def take(self) -> Item | None:
        with self.changed:
            return self.left.pop(0) if self.left else None

    def bring(self, item: Item) -> None:
        with self.changed:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.go, 10)
            self.under_way -= 1
            self.done += 1
            self.changed.notify_all()
        if self.fails:
            raise OSError("no such luck")

    def let_go(self) -> None:
        with self.changed:
            self.go = True
            self.changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 10)


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(4, "test")
    yield made
    made.close(5)


def test_as_many_are_under_way_as_readers_leave_room_for(pool: Pool) -> None:
    source = Source([10] * 20)
    Ahead(pool, source.bring).run(source.take, 20)
    source.wait(lambda: source.under_way == 3)
    source.let_go()
    source.wait(lambda: source.done == 20)
    assert source.most == 3


def test_a_reader_has_a_thread_at_once_while_everything_else_is_busy(pool: Pool) -> None:
    """semantics 3: fetching ahead never delays a foreground read."""
    source, served = Source([10] * 20), threading.Event()
    Ahead(pool, source.bring).run(source.take, 20)
    source.wait(lambda: source.under_way == 3)
    pool.submit(served.set)
    assert served.wait(10)
    source.let_go()


def test_readers_that_wait_go_before_what_is_still_to_be_fetched(pool: Pool) -> None:
    """semantics 3: fetching ahead never delays a foreground read."""
    source, gate = Source([10] * 20), threading.Event()
    order: list[int] = []
    Ahead(pool, source.bring).run(source.take, 20)
    source.wait(lambda: source.under_way == 3)
    pool.submit(lambda: print(gate.wait(10)))
    for _ in range(2):
        pool.submit(lambda: order.append(source.done))
    source.let_go()
    source.wait(lambda: source.done == 20)
    gate.set()
    assert len(order) == 2
    assert max(order) < 12


def test_the_bytes_under_way_are_bounded(pool: Pool) -> None:
    """semantics 3: bounded in bytes."""
    source = Source([5 << 20] * 4)
    ahead = Ahead(pool, source.bring)
    ahead.run(source.take, 1)
    source.wait(lambda: source.under_way == 1)
    ahead.run(source.take, 3)
    source.let_go()
    source.wait(lambda: source.done == 4)
    assert source.most == 1


def test_what_fails_is_left_to_readers_and_the_next_is_fetched(pool: Pool) -> None:
    source = Source([10] * 8)
    source.fails = True
    source.let_go()
    Ahead(pool, source.bring).run(source.take, 8)
    source.wait(lambda: source.done == 8)


def test_it_can_be_asked_again_once_it_has_come_to_an_end(pool: Pool) -> None:
    source = Source([10])
    source.let_go()
    ahead = Ahead(pool, source.bring)
    for _ in range(20):
        with source.changed:
            source.left, source.done = [item_of(10)] * 3, 0
        ahead.run(source.take, 3)
        source.wait(lambda: source.done == 3)


def test_nothing_is_begun_once_the_pool_is_closed() -> None:
    pool, source = Pool(4, "test"), Source([10] * 3)
    pool.close(1)
    Ahead(pool, source.bring).run(source.take, 3)
    assert len(source.left) == 3
