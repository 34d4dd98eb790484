"""A snapshot of all items that never lacks one that was there throughout (semantics.md section 1).

One pass reads the item list by parallel, overlapping pages, and tells whether it held still meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import dropwhile, pairwise
from typing import NamedTuple, Protocol

from jobfs.api import MOST_ITEMS, Health, Page
from jobfs.api.deadline import carried, current
from jobfs.errors import ContractError, NotFoundError
from jobfs.nodes import Item

log = logging.getLogger("jobfs.namespace")

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


#: So many passes over a list that moves before what they disagree on is asked for one by one.
_PASSES = 3
#: Most passes in all: only a server whose order never holds still needs more than three.
_MOST = 12
#: So many missing items are looked at one by one, whatever the number of pages.
_FEW = 8


class Server(Protocol):
    """What the namespace asks of the API client (jobfs.api.Client)."""

    @property
    def health(self) -> Health:
        """How the server has been answering."""

    @property
    def max_connections(self) -> int:
        """How many requests may be under way at once."""

    def list_page(self, take: int, skip: int) -> Page:
        """One page of all items."""

    def find(self, path: str) -> list[Item]:
        """Every item at exactly this path."""

    def get(self, item_id: str) -> Item:
        """The item with this id; raises NotFoundError."""


class Listing(NamedTuple):
    """Every item of the workspace at about one time, and how many pages they fill."""

    items: list[Item]
    pages: int


class Lister:
    """Reads snapshots with a pool of `max_connections` threads; `expected`: how many items there may be.

    `patience`: seconds that a list may go on beyond its promise.
    """

    def __init__(self, server: Server, expected: int = 0, patience: float = 30.0) -> None:
        self._server = server
        self._expected = expected
        self._patience = patience
        self._workers = server.max_connections
        self._moved = False
        self._executor = ThreadPoolExecutor(self._workers, thread_name_prefix="jobfs-listing")

    def read(self, known: Callable[[], Collection[str]]) -> Listing:
        """All items; `known` gives the ids of those that are believed to exist. Raises ApiError.

        A pass is taken as it is if nothing in it is inconsistent, or if two in a row saw the same. Else the
        list is read again, at most twice, and then reconciled (GET items/, GET items/{id}).
        """
        merged = _Merged(self._existing)
        last: Pass | None = None
        for number in range(1, _MOST + 1):
            # A list that moves is read in its order: the total that its first page tells is newer than any other.
            expected, self._expected = self._expected, 0
            this = read_pass(self._server.list_page, self._executor, self._workers, expected, self._patience)
            merged.add(this)
            if this.flaw is None or (last is not None and this.same(last)):
                items = self._complete(this, last, known())
            else:
                items = self._reconciled(this, number, merged, known)
            if items is not None:
                return Listing(items, this.pages)
            last = this
        assert last is not None
        return Listing(merged.reconcile(last, known()), last.pages)

    def _reconciled(
        self, this: Pass, number: int, merged: _Merged, known: Callable[[], Collection[str]]
    ) -> list[Item] | None:
        """The items of all passes over a list that moves; None if it is to be read once more. `number`: of the pass."""
        if number < _PASSES or (merged.count < this.total and number < _MOST):
            return None
        items = merged.reconcile(this, known())
        if len(items) + len(this.unknown) < this.total and number < _MOST:
            return None
        self._warn(number, this, len(items), merged.asked)
        return items

    def find_each(self, paths: Iterable[str]) -> list[tuple[str, list[Item]]]:
        """What is at each of these paths, asked in parallel (GET items/find); raises ApiError."""
        asked = list(paths)
        return list(zip(asked, self._executor.map(carried(self._server.find), asked), strict=True))

    def close(self) -> None:
        """Stop the threads; what is under way is waited for."""
        self._executor.shutdown(cancel_futures=True)

    def _complete(self, this: Pass, last: Pass | None, known: Collection[str]) -> list[Item] | None:
        """The items of a consistent pass with those it lost after all; None if it is better read again.

        Changes that cancel each out in number can hide an item that a rename moved from an unread page to
        one that was read already. One page is a snapshot by itself.
        """
        items = list(this.items.values())
        lost = set(known) - this.items.keys() - this.unknown if this.pages > 1 else set()
        if len(lost) <= max(_FEW, this.pages):
            items += filter(None, self._existing(lost).values())
        elif last is None or not (last.flaw is None or this.same(last)):
            return None
        self._moved = False
        self._expected = this.total if this.full else 0
        return items

    def _existing(self, ids: Collection[str]) -> dict[str, Item | None]:
        """Each item as it is now, asked for by id in parallel; None where it is gone."""
        asked = list(ids)
        return dict(zip(asked, self._executor.map(carried(self._get), asked), strict=True))

    def _warn(self, passes: int, last: Pass, count: int, asked: int) -> None:
        """Tell of a list that moves; as a warning only the first time until it holds still."""
        level = logging.DEBUG if self._moved else logging.WARNING
        self._moved = True
        log.log(
            level,
            "the item list moved while it was read (%d passes, %s): %d items, %d of them asked for singly",
            passes,
            last.flaw,
            count,
            asked,
        )

    def _get(self, item_id: str) -> Item | None:
        try:
            return self._server.get(item_id)
        except NotFoundError:
            return None


class _Merged:
    """What several passes over a moving list have shown together."""

    def __init__(self, existing: Callable[[Collection[str]], dict[str, Item | None]]) -> None:
        self._existing = existing
        self._seen: dict[str, Item] = {}
        self._unknown: set[str] = set()
        self._asked: dict[str, Item | None] = {}

    @property
    def asked(self) -> int:
        """How many items were asked for by id."""
        return len(self._asked)

    @property
    def count(self) -> int:
        """How many different items were seen."""
        return len(self._seen) + len(self._unknown)

    def add(self, this: Pass) -> None:
        """Take in one more pass; the later word counts."""
        self._seen.update(this.items)
        self._unknown |= this.unknown
        for item_id in this.items:
            self._asked.pop(item_id, None)

    def reconcile(self, last: Pass, known: Collection[str]) -> list[Item]:
        """All that exists: what the last pass saw, and of the rest what a request by id finds."""
        others = {*self._seen, *known} - last.items.keys() - self._unknown
        self._asked.update(self._existing(others - self._asked.keys()))
        found = dict(last.items)
        for item_id in others:
            item = self._asked[item_id]
            if item is not None:
                found[item_id] = item
        return list(found.values())
