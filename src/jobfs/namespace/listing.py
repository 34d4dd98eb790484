"""A snapshot of all items, which never lacks an item that was there throughout (vfs/semantics.md 1).

One pass reads the item list by parallel, overlapping pages, and tells whether it held still meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Set
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from jobfs.api.client import Client
from jobfs.api.deadline import carried, current
from jobfs.api.models import MOST_ITEMS, NAMELESS, Page
from jobfs.errors import ContractError, NotFoundError
from jobfs.nodes import Item

log = logging.getLogger("jobfs.namespace")

#: Most items that the API gives in a page.
TAKE = 100
_STEP = TAKE - 1
#: After so many pages without anything new the list is over, whatever total it promises.
_BARREN = 16
#: A list may grow while it is read: to twice what its first page promised, and so many items more.
_ROOM = 10_000
#: After so many passes over a list that moves, the items on which they disagree are asked for one by one.
_PASSES = 3
#: Most passes in all: only a server whose order never holds still needs more than three.
_MOST = 12
#: So many missing items are looked at one by one, whatever the number of pages.
_FEW = 8


class Pass:
    """One reading of all pages in their order: what it showed so far, where it ends, and whether the list held still."""

    def __init__(self, first: Page) -> None:
        #: How many items the server really gives in a page, and how far each page begins after the one before.
        self.size = _raw(first)
        self.step = max(1, self.size - 1)
        self.pages: list[Page] = []
        self.items: dict[str, Item] = {}
        self.unknown: set[str] = set()
        self._promised = self._end = min(first.total, MOST_ITEMS)
        self._most = min(2 * self._promised, MOST_ITEMS) + _ROOM
        self._next = 1
        self._barren = 0
        self._kept = time.monotonic()
        #: The ids of items that this mount changed while the list was read: these are no flaw.
        self.ours: Set[str] = frozenset()
        self.keep(first)
        # Only after a full page there may be more than the total says.
        if not self.size or (self.size >= first.total and self.size != TAKE):
            self._end = -1

    def next(self) -> int | None:
        """The next page that may hold anything: a full one at the very end of the list may go on. Raises ContractError."""
        if self._barren >= _BARREN or (self._next - 1) * self.step + self.size > self._end:
            return None
        place = self._next * self.step
        if place > self._most:
            told = f"list items: the list promised {self._promised} items and has no end"
            raise ContractError(told)
        self._next += 1
        return self._next - 1

    def keep(self, page: Page) -> None:
        """Take in the next page in order; if an item was seen before, its newer state counts."""
        now, full = time.monotonic(), _raw(page) >= self.size
        promised = len(self.pages) * self.step <= self._promised
        self._barren = 0 if self._take_in(page) else self._barren + 1
        if full and promised and not self._barren and (deadline := current()) is not None:
            deadline.extend(now - self._kept)  # that is progress
        self._kept = now
        reached = len(self.pages) * self.step + _raw(page) if full and not self._barren else 0
        self._end = max(self._end, page.total, reached)
        self.pages.append(page)

    def _take_in(self, page: Page) -> bool:
        """True if the page has shown something new. An item without an id is not new: any page may show it again, without end."""
        new = any(NAMELESS not in item_id for item_id in {*page.unknown} - self.unknown)
        for item in page.items:
            known = self.items.get(item.id)
            new |= known is None
            if known is None or item.updated_ns >= known.updated_ns:
                self.items[item.id] = item
        self.unknown.update(page.unknown)
        return new

    def bridge(self, ours: Set[str], read: Callable[[list[int]], Iterable[Page]]) -> None:
        """Where changes by this mount (`ours`) have moved the list between two pages, keep a page that has both ends.

        `read` gives the pages that begin at these places. Deletions move a list most: so most of such a page lies before the gap.
        """
        self.ours = ours if self.size > 1 else frozenset()
        gaps = self._gaps(self.pages) if self.ours else []
        between = read([gap * self.step - self.size * 3 // 4 for gap in gaps])
        for gap, page in reversed([*zip(gaps, between, strict=True)]):
            self._take_in(page)
            self.pages.insert(gap, page)

    @property
    def count(self) -> int:
        """How many items of the server's count were seen, those of unknown types included."""
        return len(self.items) + len(self.unknown)

    @property
    def total(self) -> int:
        """How many items the server counted in the end."""
        return self.pages[-1].total

    @property
    def flaw(self) -> str | None:
        """The sign that others than this mount have moved the list; None if there is none."""
        if self._gaps(self.pages):
            return "its order changed"
        if self.ours:
            return None  # totals show our changes too; but what was there throughout is in pages that overlap
        if any(page.total != self.total for page in self.pages):
            return "its total changed"
        return None if self.count == self.total else f"it showed {self.count} items of {self.total}"

    def same(self, other: Pass) -> bool:
        """True if both passes saw the same items, none of them at two places: then the total is wrong.

        Where items change places, both passes may lack the same item.
        """
        alike = self.total == other.total and self.unknown == other.unknown
        return alike and self.items.keys() == other.items.keys() and self._ordered() and other._ordered()

    def _ordered(self) -> bool:
        """True if neighbouring pages share one item, and no item is anywhere else; pages after a wrong total are empty."""
        filled = [page for page in self.pages if _raw(page)]
        shared = max(0, len(filled) - 1) if self.size > 1 else 0
        return not self._gaps(filled) and sum(map(_raw, filled)) - shared == self.count

    def _gaps(self, pages: list[Page]) -> list[int]:
        """The numbers of the pages before which something may be missing."""
        pairs = enumerate(pairwise(pages), 1) if self.size > 1 else ()
        return [number for number, pair in pairs if not self._goes_on(*pair)]

    def _goes_on(self, page: Page, following: Page) -> bool:
        """True if a page ends with the items that the next begins with, as far as their order is known, without items of ours."""
        if self.ours and not _raw(following):
            return _raw(page) < self.size  # by then the list was shorter
        before, after = ([item.id for item in p.items if item.id not in self.ours] for p in (page, following))
        if page.unknown or following.unknown:
            return not {*page.unknown, *before}.isdisjoint((*following.unknown, *after))
        shared = len(before) - before.index(after[0]) if after and after[0] in before else 0
        return shared > 0 and before[-shared:] == after[:shared]


def _raw(page: Page) -> int:
    """How many items the server put into a page, those of unknown types included."""
    return len(page.items) + len(page.unknown)


class Listing(NamedTuple):
    """Every item of the workspace at about one time, and how many pages they fill."""

    items: list[Item]
    pages: int


class Lister:
    """Reads snapshots with a pool of `max_connections` threads; `expected`: how many items there may be."""

    def __init__(self, client: Client, expected: int = 0) -> None:
        self._client = client
        self._expected = expected
        self._workers = client.max_connections
        self._executor = ThreadPoolExecutor(self._workers, thread_name_prefix="jobfs-listing")

    def read(self, known: Callable[[], Collection[str]], ours: Callable[[], Set[str]]) -> Listing:
        """All items; `known` gives the ids of those that are believed to exist. Raises ApiError.

        `ours` gives the ids of items that this mount has changed since the reading began: of these the caller knows better.

        A pass is taken as it is if nothing in it is inconsistent, or if two in a row saw the same. Changes that cancel each
        other out in number can hide an item that a rename moved to a page that was read already. So an item that was known
        before, or seen in a list that moves, is asked for by id if the last pass lacks it. One page is a snapshot by itself.
        """
        seen: dict[str, None] = {}
        gone: set[str] = set()
        last: Pass | None = None
        for number in range(1, _MOST + 1):
            this = self._read_pass(ours)
            steady = this.flaw is None or (last is not None and this.same(last))
            seen.update(dict.fromkeys(this.items))
            lost = {*known(), *({} if steady else seen)} - this.items.keys() - this.unknown - gone - this.ours
            if steady:
                lost = self._missing(lost, this, last)
                enough = len(lost) <= max(_FEW, len(this.pages))
            else:
                enough = number >= _PASSES and len(seen) + len(this.unknown) >= this.total
            if enough or number == _MOST:
                found = [item for item in self._executor.map(carried(self._get), lost) if item is not None]
                if steady or this.count + len(found) >= this.total:
                    break
                gone |= lost - {item.id for item in found}  # deleted items are not asked for again
            last = this
        if not steady:
            told = "the item list moved while it was read (%d passes, %s): %d items of it asked for singly"
            log.info(told, number, this.flaw, len(lost))
        self._expected = this.total if steady and this.size == TAKE else 0
        return Listing([*this.items.values(), *found], len(this.pages))

    def _read_pass(self, ours: Callable[[], Set[str]]) -> Pass:
        """Read every page once; raises ApiError, ContractError for a list that goes on far beyond its promise.

        The first page tells the total and how many items the server really gives in a page. The others are read in parallel,
        each overlapping the one before by one item; the pages that `_expected` items fill are read together with the first. Where
        changes by this mount (`ours`) have moved the list, one more page is read.
        """
        read_page = carried(self._client.list_page)
        ask = partial(self._executor.submit, read_page)
        # A list that moves is read in its order: the total that its first page tells is newer than any other.
        expected, self._expected = self._expected, 0
        most = min((expected - TAKE) // _STEP + 2, self._workers) if expected > TAKE else 1
        ahead: dict[int, Future[Page]] = {number: ask(TAKE, number * _STEP) for number in range(1, most)}
        coming: deque[Future[Page]] = deque()
        try:
            this = Pass(read_page(TAKE, 0))
            while True:
                while len(coming) < self._workers and (number := this.next()) is not None:
                    page = ahead.pop(number, None) if this.size == TAKE else None
                    coming.append(page or ask(min(this.size, TAKE), number * this.step))
                if not coming:
                    this.bridge(ours(), partial(self._executor.map, partial(read_page, this.size)))
                    return this
                this.keep(coming.popleft().result())
        finally:
            for page in (*coming, *ahead.values()):
                page.cancel()

    def _missing(self, lost: set[str], this: Pass, last: Pass | None) -> set[str]:
        """The items that may exist though a steady pass lacks them: none if there are many and two passes agree."""
        many = len(lost) > max(_FEW, len(this.pages))
        agreed = last is not None and (last.flaw is None or this.same(last))
        return set() if len(this.pages) == 1 or (many and agreed) else lost

    def close(self) -> None:
        """Stop the threads; requests under way are waited for."""
        self._executor.shutdown(cancel_futures=True)

    def _get(self, item_id: str) -> Item | None:
        try:
            return self._client.get(item_id)
        except NotFoundError:
            return None
