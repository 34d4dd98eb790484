"""One pass over the item list by parallel, overlapping pages, and whether it held still meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from itertools import dropwhile, pairwise

from jobfs.api import MOST_ITEMS, Page
from jobfs.api.deadline import carried, current
from jobfs.errors import ContractError
from jobfs.nodes import Item

#: Most items that the API gives in a page.
TAKE = 100
_STEP = TAKE - 1
#: After so many pages without anything new the list is over, whatever total it promises.
_BARREN = 16
#: A list may grow while it is read: to twice what its first page promised, and so many items.
_ROOM = 10_000

ReadPage = Callable[[int, int], Page]


class Pass:
    """What one reading of all pages showed: `items` by id, the server's `total`, and the `flaw`, if any."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.unknown: set[str] = set()
        self.total = 0
        self.pages = 0
        self.full = False  # the server fills pages as far as the API allows
        self.flaw: str | None = None
        self.ordered = False  # no item was seen at two places

    @property
    def count(self) -> int:
        """How many items of the server's count were seen, those of unknown types included."""
        return len(self.items) + len(self.unknown)

    def same(self, other: Pass) -> bool:
        """True if both passes saw the same items in some order: then it is the total that is wrong.

        Where items change places, both may lack the same one.
        """
        return (
            self.ordered
            and other.ordered
            and self.total == other.total
            and self.unknown == other.unknown
            and self.items.keys() == other.items.keys()
        )


def read_pass(
    read_page: ReadPage, executor: Executor, workers: int, expected: int = 0, patience: float = 30.0
) -> Pass:
    """Read every page once; raises what `read_page` raises, and ContractError for a list that has no end.

    That is one that goes on far beyond what its first page promised, or any way beyond it for `patience` seconds.

    The first page tells the total and how many items the server really gives in a page. The others are read
    in parallel, each overlapping the one before by one item: a shared item that differs shows that the list
    moved. As many as `expected` items fill are asked for together with the first.
    """
    read_page, run_in_time = carried(read_page), carried(_Reader.run)
    following = _pages(expected, TAKE, _STEP) if expected > TAKE else 0
    ahead = {
        number: executor.submit(read_page, TAKE, number * _STEP)
        for number in range(1, min(following + 1, workers))
    }
    try:
        reader = _Reader(read_page, read_page(TAKE, 0), ahead, patience)
        if reader.more():
            runs = min(workers, reader.promised() - len(ahead)) - 1
            others = [executor.submit(run_in_time, reader) for _ in range(runs)]
            try:
                reader.run()
            finally:
                for other in others:
                    if not other.cancel():
                        other.exception()
        return reader.result()
    finally:
        for page in ahead.values():
            page.cancel()


def _pages(items: int, size: int, step: int) -> int:
    """How many pages of `size` items there are besides the first: a full one at the end may go on."""
    return max(1, (items - size) // step + 1)


class _Reader:
    """The pages of one pass, handed out to the threads that read them."""

    def __init__(
        self, read_page: ReadPage, first: Page, ahead: Mapping[int, Future[Page]], patience: float
    ) -> None:
        self._read_page = read_page
        self._ahead = ahead
        self._lock = threading.Lock()
        self._pages: dict[int, Page] = {}
        self._seen: set[str] = set()
        self._size = _raw(first)
        self._step = max(1, self._size - 1)
        self._promised = self._end = min(first.total, MOST_ITEMS)
        self._most = min(2 * self._promised, MOST_ITEMS) + _ROOM
        self._until = time.monotonic() + patience
        self._next = 1
        self._barren = 0
        self._failed: BaseException | None = None
        self._kept = time.monotonic()
        self._keep(0, first)
        # More than was asked for is a server that does not count pages: what it says is all is all.
        full = self._size <= TAKE and self._size in (TAKE, first.take)
        if not self._size or (self._size >= first.total and not full):
            self._end = -1

    def more(self) -> bool:
        """True if the next page may hold anything: a full one at the very end of the list may go on."""
        covered = (self._next - 1) * self._step + self._size
        return self._failed is None and self._barren < _BARREN and covered <= self._end

    def promised(self) -> int:
        """How many pages are still to come as far as is known now."""
        return _pages(self._end, self._size, self._step)

    def run(self) -> None:
        """Read pages until none is left; raises what reading any page raised."""
        while (number := self._take()) is not None:
            try:
                page = self._page(number)
            except BaseException as exc:
                with self._lock:
                    self._failed = self._failed or exc
                raise
            with self._lock:
                self._keep(number, page)
        if self._failed is not None:
            raise self._failed

    def _page(self, number: int) -> Page:
        if self._size == TAKE and number in self._ahead:
            return self._ahead[number].result()
        return self._read_page(min(self._size, TAKE), number * self._step)

    def result(self) -> Pass:
        """All pages together, judged."""
        found = Pass()
        numbers = sorted(self._pages)
        for number in numbers:
            page = self._pages[number]
            for item in page.items:
                known = found.items.get(item.id)
                if known is None or item.updated_ns >= known.updated_ns:
                    found.items[item.id] = item
            found.unknown.update(page.unknown)
        found.pages = len(numbers)
        found.full = self._size == TAKE
        found.total = self._pages[numbers[-1]].total
        pages = [self._pages[number] for number in numbers]
        found.ordered = self._ordered(pages, found.count)
        found.flaw = self._flaw(found, pages)
        return found

    def _take(self) -> int | None:
        with self._lock:
            if not self.more():
                return None
            place = self._next * self._step
            if place > self._most or (place > self._promised and time.monotonic() > self._until):
                told = f"list items: the list promised {self._promised} items and has no end"
                self._failed = ContractError(told, endpoint="list items")
                return None
            self._next += 1
            return self._next - 1

    def _keep(self, number: int, page: Page) -> None:
        now = time.monotonic()
        if _raw(page) >= self._size and (deadline := current()) is not None:
            deadline.extend(now - self._kept)  # a full page is progress
        self._kept = now
        self._pages[number] = page
        before = len(self._seen)
        self._seen.update(item.id for item in page.items)
        self._seen.update(page.unknown)
        if len(self._seen) == before:
            self._barren += 1
            return
        self._barren = 0
        self._end = max(self._end, page.total)
        if _raw(page) >= self._size:
            self._end = max(self._end, number * self._step + _raw(page))

    def _ordered(self, pages: list[Page], count: int) -> bool:
        """True if neighbours share their one item, and none is anywhere else; after a wrong total come empty pages."""
        filled = list(reversed([*dropwhile(lambda page: not _raw(page), reversed(pages))]))
        shared = max(0, len(filled) - 1) if self._size > 1 else 0
        return self._overlaps(filled) and sum(map(_raw, filled)) - shared == count

    def _overlaps(self, pages: list[Page]) -> bool:
        return self._size <= 1 or all(_overlap(*pair) for pair in pairwise(pages))

    def _flaw(self, found: Pass, pages: list[Page]) -> str | None:
        if any(page.total != pages[0].total for page in pages):
            return "its total changed"
        if not self._overlaps(pages):
            return "its order changed"
        if found.count != found.total:
            return f"it showed {found.count} items of {found.total}"
        return None


def _raw(page: Page) -> int:
    """How many items the server put into a page, those of unknown types included."""
    return len(page.items) + len(page.unknown)


def _overlap(page: Page, following: Page) -> bool:
    """True if the last item of a page is the first of the next, as far as their order is known."""
    if not page.unknown and not following.unknown:
        return bool(page.items and following.items) and page.items[-1].id == following.items[0].id
    ids = {*page.unknown, *(item.id for item in page.items)}
    return not ids.isdisjoint((*following.unknown, *(item.id for item in following.items)))
