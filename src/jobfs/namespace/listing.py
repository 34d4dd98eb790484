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

from jobfs.api.client import Client
from jobfs.api.deadline import bind_deadline, current_deadline
from jobfs.api.models import Page
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


class ListingPass:
    """One reading of all pages in their order: what it showed so far, where it ends, and whether the list held still."""

    def __init__(self, first: Page) -> None:
        #: How many items the server really gives in a page, and how far each page begins after the one before.
        self.size = _raw_count(first)
        self.step = max(1, self.size - 1)
        self.pages: list[Page] = []
        self.items: dict[str, Item] = {}
        self.unknown: set[str] = set()
        #: The ids of items that this mount changed while the list was read: these do not count as moved.
        self.ours: Set[str] = frozenset()
        self._end, self._most = first.total, 2 * first.total + _ROOM
        self._next = 1
        self._barren = 0
        self._kept = time.monotonic()
        self.add_page(first)
        # Only after a full page there may be more than the total says.
        if not self.size or (self.size >= first.total and self.size != TAKE):
            self._end = -1

    def next_page(self) -> int | None:
        """The next page that may hold anything: a full one at the very end of the list may go on. Raises ContractError."""
        if self._barren >= _BARREN or (self._next - 1) * self.step + self.size > self._end:
            return None
        if self._next * self.step > self._most:
            raise ContractError(f"listing the workspace: {self._most} items, and the list has no end")
        self._next += 1
        return self._next - 1

    def add_page(self, page: Page) -> None:
        """Take in the next page in order; if an item was seen before, its newer state counts."""
        now, new = time.monotonic(), self._add_items(page)
        self._barren = 0 if new else self._barren + 1
        if new and (deadline := current_deadline()) is not None:
            deadline.extend(now - self._kept)  # that is progress
        self._kept = now
        full = new and _raw_count(page) >= self.size
        self._end = max(self._end, page.total, len(self.pages) * self.step + _raw_count(page) if full else 0)
        self.pages.append(page)

    def _add_items(self, page: Page) -> bool:
        """True if the page has shown something new. Items of unknown types are not: a gateway may show them without end."""
        new = False
        for item in page.items:
            known = self.items.get(item.id)
            new |= known is None
            if known is None or item.updated_ns >= known.updated_ns:
                self.items[item.id] = item
        self.unknown.update(page.unknown)
        return new

    def close_gaps(self, own_ids: Set[str], read: Callable[[list[int]], Iterable[Page]]) -> None:
        """Where changes by this mount (`own_ids`) have moved the list between two pages, keep a page that has both ends.

        `read` gives the pages that begin at these places. Deletions move a list most: so most of such a page lies before the gap.
        """
        self.ours = own_ids
        gaps = self._gap_pages() if own_ids else []
        between = read([gap * self.step - self.size * 3 // 4 for gap in gaps])
        for gap, page in reversed([*zip(gaps, between, strict=True)]):
            self._add_items(page)
            self.pages.insert(gap, page)

    @property
    def item_count(self) -> int:
        """How many items were seen, those of unknown types included."""
        return len(self.items) + len(self.unknown)

    @property
    def has_moved(self) -> bool:
        """True if others than this mount seem to have moved the list while it was read, or if its total is wrong."""
        if self._gap_pages():
            return True
        # Totals show our own changes too; but what was there throughout is in pages that overlap.
        return not self.ours and any(page.total != self.item_count for page in self.pages)

    def matches(self, other: ListingPass | None) -> bool:
        """Return whether `other` is a pass with the same items, and as many as the pages have room for.

        Then it is the total that is wrong. Where items change places, both passes may lack the same item.
        """
        filled = [_raw_count(page) for page in self.pages if _raw_count(page)]
        whole = sum(filled) - max(0, len(filled) - 1) == self.item_count
        return (
            whole
            and other is not None
            and self.items.keys() == other.items.keys()
            and self.unknown == other.unknown
        )

    def _gap_pages(self) -> list[int]:
        """The numbers of the pages before which something may be missing."""
        return [number for number, pair in enumerate(pairwise(self.pages), 1) if not self._overlaps(*pair)]

    def _overlaps(self, page: Page, following: Page) -> bool:
        """True if a page ends with the items that the next begins with, as far as their order is known, without items of ours."""
        if self.ours and not _raw_count(following):
            return _raw_count(page) < self.size  # by then the list was shorter
        before, after = ([item.id for item in p.items if item.id not in self.ours] for p in (page, following))
        shared = len(before) - before.index(after[0]) if after and after[0] in before else 0
        return shared > 0 and before[-shared:] == after[:shared]


def _raw_count(page: Page) -> int:
    """How many items the server put into a page, those of unknown types included."""
    return len(page.items) + len(page.unknown)


def _are_many_lost(this: ListingPass, lost: Collection[str]) -> bool:
    """Return whether `lost` has more items than are asked for by id while another pass may show them."""
    return len(lost) > max(_FEW, len(this.pages))


def _should_ask_by_id(number: int, this: ListingPass, lost: Collection[str], *, steady: bool) -> bool:
    """Return whether what is `lost` after so many passes is asked for by id instead of by another pass."""
    enough = not _are_many_lost(this, lost) if steady else number >= _PASSES
    return enough or number == _MOST


def _find_lost(this: ListingPass, expected: Collection[str], *, agreed: bool) -> set[str]:
    """Return the ids of `expected` items that a pass lacks, unless it proves that they are gone.

    A list that did not move is proof if it is one page, or if many are gone and it `agreed` with the pass before.
    """
    lost = {*expected} - this.items.keys() - this.unknown - this.ours
    if this.has_moved:
        return lost
    is_proof = len(this.pages) == 1 or (agreed and _are_many_lost(this, lost))
    return set() if is_proof else lost


class Lister:
    """Reads snapshots by up to `max_connections` threads; `expected`: how many items there may be."""

    def __init__(self, client: Client, expected: int = 0) -> None:
        self._client = client
        self._expected = expected

    def read_all(self, known: Collection[str], own_ids: Callable[[], Set[str]]) -> tuple[list[Item], int]:
        """All items, and how many pages they fill; `known`: the ids of those that are believed to exist. Raises ApiError.

        `own_ids` gives the ids of items that this mount has changed since the reading began: of these the caller knows better.

        A pass is taken as it is if nothing in it is inconsistent, or if two in a row saw the same. Changes that cancel each
        other out in number can hide an item that a rename moved to a page that was read already. So an item that was known
        before, or seen in a list that moves, is asked for by id if the last pass lacks it; unless there are many of them and
        two passes agree. One page is a snapshot by itself.
        """
        pool = ThreadPoolExecutor(self._client.max_connections, thread_name_prefix="jobfs-listing")
        try:
            return self._read_passes(pool, known, own_ids)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _read_passes(
        self, pool: ThreadPoolExecutor, known: Collection[str], ours: Callable[[], Set[str]]
    ) -> tuple[list[Item], int]:
        seen: set[str] = set()
        last: ListingPass | None = None
        for number in range(1, _MOST + 1):
            this = self._read_pass(pool, ours)
            seen.update(this.items)
            agreed = this.matches(last)
            steady = agreed or not this.has_moved
            expected = known if steady else {*known, *seen}
            lost = _find_lost(this, expected, agreed=agreed)
            if _should_ask_by_id(number, this, lost, steady=steady):
                found = list(filter(None, pool.map(bind_deadline(self._get_or_none), lost)))
                if steady or this.item_count + len(found) >= this.pages[-1].total:
                    break
            last = this
        self._expected = len(this.items) if steady and this.size == TAKE else 0
        if not steady:
            log.info("the item list moved while it was read: %d items of it were asked for by id", len(lost))
        return [*this.items.values(), *found], len(this.pages)

    def _read_pass(self, pool: ThreadPoolExecutor, ours: Callable[[], Set[str]]) -> ListingPass:
        """Read every page once; raises ApiError, ContractError for a list that goes on far beyond its promise.

        The first page tells the total and how many items the server really gives in a page. The others are read in parallel,
        each overlapping the one before by one item; the pages that `_expected` items fill are read together with the first. Where
        changes by this mount (`ours`) have moved the list, one more page is read.
        """
        read_page, workers = bind_deadline(self._client.list_page), self._client.max_connections
        ask = partial(pool.submit, read_page)
        # A list that moves is read in its order: the total that its first page tells is newer than any other.
        expected, self._expected = self._expected, 0
        most = min((expected - TAKE) // _STEP + 2, workers) if expected > TAKE else 1
        ahead = {number: ask(TAKE, number * _STEP) for number in range(1, most)}
        this = ListingPass(read_page(TAKE, 0))
        coming: deque[Future[Page]] = deque()
        while True:
            while len(coming) < workers and (number := this.next_page()) is not None:
                page = ahead.pop(number, None) if this.size == TAKE else None
                coming.append(page or ask(min(this.size, TAKE), number * this.step))
            if not coming:
                break
            this.add_page(coming.popleft().result())
        this.close_gaps(ours(), partial(pool.map, partial(read_page, this.size)))
        return this

    def _get_or_none(self, item_id: str) -> Item | None:
        try:
            return self._client.get(item_id)
        except NotFoundError:
            return None
