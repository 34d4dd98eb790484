"""Reads a snapshot of all items, which never lacks an item that existed throughout (vfs/semantics.md 1).

One pass reads the item list by parallel, overlapping pages, and detects whether the list moved while it was read.
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

#: The most items that the API gives in a page.
TAKE = 100
_STEP = TAKE - 1
#: After this many pages without a new item the list is over, whatever total it promises.
_BARREN = 16
#: A list may grow while it is read: to twice the total in its first page, plus this many items.
_ROOM = 10_000
#: After this many passes over a list that moves, the items on which the passes disagree are requested by id.
_PASSES = 3
#: The most passes in all: only a server whose order never holds still needs more than three.
_MOST = 12
#: This many missing items are requested by id, whatever the number of pages.
_FEW = 8


class ListingPass:
    """One reading of all pages in order: what it has shown so far, where the list ends, and whether the list held still."""

    def __init__(self, first: Page) -> None:
        #: How many items the server really gives in a page, and how far each page begins after the one before.
        self.size = _count_raw_items(first)
        self.step = max(1, self.size - 1)
        self.pages: list[Page] = []
        self.items: dict[str, Item] = {}
        self.unknown: set[str] = set()
        #: Ids of the items that this mount changed while the list was read: they do not count as moved.
        self.own_ids: Set[str] = frozenset()
        self._end, self._most = first.total, 2 * first.total + _ROOM
        self._next = 1
        self._barren = 0
        self._kept = time.monotonic()
        self.add_page(first)
        # A first page that reaches the total ends the list, unless it is full: then there may be more than the total says.
        if not self.size or (self.size >= first.total and self.size != TAKE):
            self._end = -1

    def take_page_number(self) -> int | None:
        """Return the number of the next page that may hold items; None if there is none.

        If the last page is full, the list may continue beyond its total. Raises ContractError if the list has no end.
        """
        if self._barren >= _BARREN or (self._next - 1) * self.step + self.size > self._end:
            return None
        if self._next * self.step > self._most:
            raise ContractError(f"listing the workspace: {self._most} items, and the list has no end")
        self._next += 1
        return self._next - 1

    def add_page(self, page: Page) -> None:
        """Add the next page in order; if an item was seen before, its newer state counts."""
        now, new = time.monotonic(), self._add_items(page)
        self._barren = 0 if new else self._barren + 1
        if new and (deadline := current_deadline()) is not None:
            deadline.extend(now - self._kept)  # that is progress
        self._kept = now
        full = new and _count_raw_items(page) >= self.size
        self._end = max(
            self._end, page.total, len(self.pages) * self.step + _count_raw_items(page) if full else 0
        )
        self.pages.append(page)

    def _add_items(self, page: Page) -> bool:
        """Add the items of a page; return whether any of them is new.

        Items of unknown types do not count as new: a gateway may show them without end.
        """
        new = False
        for item in page.items:
            known = self.items.get(item.id)
            new |= known is None
            if known is None or item.updated_ns >= known.updated_ns:
                self.items[item.id] = item
        self.unknown.update(page.unknown)
        return new

    def fill_gaps_of_own_changes(
        self, own_ids: Set[str], read: Callable[[list[int]], Iterable[Page]]
    ) -> None:
        """Add a page across each gap between two pages that changes by this mount (`own_ids`) have moved apart.

        `read` returns the pages that begin at the given positions. Deletions move a list most, so most of such a page lies
        before the gap.
        """
        self.own_ids = own_ids
        gaps = self._gap_pages() if own_ids else []
        gap_pages = read([gap * self.step - self.size * 3 // 4 for gap in gaps])
        for gap, page in reversed([*zip(gaps, gap_pages, strict=True)]):
            self._add_items(page)
            self.pages.insert(gap, page)

    @property
    def item_count(self) -> int:
        """Number of items seen, those of unknown types included."""
        return len(self.items) + len(self.unknown)

    @property
    def is_unstable(self) -> bool:
        """Whether others than this mount seem to have moved the list while it was read, or its total is wrong."""
        if self._gap_pages():
            return True
        # Our own changes alter the totals, too. Then the overlap of the pages alone proves that nothing is missing.
        return not self.own_ids and any(page.total != self.item_count for page in self.pages)

    def matches(self, other: ListingPass | None) -> bool:
        """Return whether `other` has the same items, and this pass got none twice but those that neighboring pages share.

        If so, the total is wrong. An item that came twice elsewhere shows that items changed places: then both passes may lack
        the same item.
        """
        filled = [_count_raw_items(page) for page in self.pages if _count_raw_items(page)]
        whole = sum(filled) - max(0, len(filled) - 1) == self.item_count
        return (
            whole
            and other is not None
            and self.items.keys() == other.items.keys()
            and self.unknown == other.unknown
        )

    def _gap_pages(self) -> list[int]:
        """Return the numbers of the pages before which items may be missing."""
        return [number for number, pair in enumerate(pairwise(self.pages), 1) if not self._overlaps(*pair)]

    def _overlaps(self, page: Page, following: Page) -> bool:
        """Return whether `page` ends with the items that `following` begins with, apart from items of ours."""
        if self.own_ids and not _count_raw_items(following):
            return _count_raw_items(page) < self.size  # the list had become shorter
        ids, following_ids = (
            [item.id for item in p.items if item.id not in self.own_ids] for p in (page, following)
        )
        shared = len(ids) - ids.index(following_ids[0]) if following_ids and following_ids[0] in ids else 0
        return shared > 0 and ids[-shared:] == following_ids[:shared]


def _count_raw_items(page: Page) -> int:
    """Return how many items the server put into a page, those of unknown types included."""
    return len(page.items) + len(page.unknown)


def _are_too_many_lost(listing: ListingPass, lost: Collection[str]) -> bool:
    """Return whether `lost` has too many items to request by id while another pass may show them."""
    return len(lost) > max(_FEW, len(listing.pages))


def _should_ask_by_id(number: int, listing: ListingPass, lost: Collection[str], *, steady: bool) -> bool:
    """Return whether to request the `lost` items by id after pass `number`, instead of reading another pass."""
    enough = not _are_too_many_lost(listing, lost) if steady else number >= _PASSES
    return enough or number == _MOST


def _find_lost(listing: ListingPass, expected: Collection[str], *, agreed: bool) -> set[str]:
    """Return the ids of `expected` items that a pass lacks, unless the pass proves that they are gone.

    A list that did not move is proof if it is one page, or if many items are gone and the pass `agreed` with the one before.
    """
    lost = {*expected} - listing.items.keys() - listing.unknown - listing.own_ids
    if listing.is_unstable:
        return lost
    is_proof = len(listing.pages) == 1 or (agreed and _are_too_many_lost(listing, lost))
    return set() if is_proof else lost


class Lister:
    """Reads snapshots with up to `max_connections` threads; `expected`: a guess at the number of items."""

    def __init__(self, client: Client, expected: int = 0) -> None:
        self._client = client
        self._expected = expected

    def read_all(self, known: Collection[str], own_ids: Callable[[], Set[str]]) -> tuple[list[Item], int]:
        """Return all items, and how many pages they fill. Raises ApiError.

        `known`: ids of the items that are believed to exist. `own_ids` returns the ids of items that this mount has changed
        since the reading began: the caller knows these better.

        A pass is accepted if nothing in it is inconsistent, or if it agrees with the pass before. Even so, changes that
        cancel each other out in number can hide an item that a rename moved to a page that was already read. So an item that
        was known before, or was seen in a list that moves, is requested by id if the last pass lacks it; unless many are
        missing and two passes agree. A single page is a snapshot by itself.
        """
        pool = ThreadPoolExecutor(self._client.max_connections, thread_name_prefix="jobfs-listing")
        try:
            return self._read_passes(pool, known, own_ids)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _read_passes(
        self, pool: ThreadPoolExecutor, known: Collection[str], own_ids: Callable[[], Set[str]]
    ) -> tuple[list[Item], int]:
        seen: set[str] = set()
        last: ListingPass | None = None
        for number in range(1, _MOST + 1):
            this = self._read_pass(pool, own_ids)
            seen.update(this.items)
            agreed = this.matches(last)
            steady = agreed or not this.is_unstable
            expected = known if steady else {*known, *seen}
            lost = _find_lost(this, expected, agreed=agreed)
            if _should_ask_by_id(number, this, lost, steady=steady):
                found = list(filter(None, pool.map(bind_deadline(self._get_or_none), lost)))
                if steady or this.item_count + len(found) >= this.pages[-1].total:
                    break
            last = this
        self._expected = len(this.items) if steady and this.size == TAKE else 0
        if not steady:
            log.info("the item list moved while it was read: %d items were requested by id", len(lost))
        return [*this.items.values(), *found], len(this.pages)

    def _read_pass(self, pool: ThreadPoolExecutor, own_ids: Callable[[], Set[str]]) -> ListingPass:
        """Read every page once. Raises ApiError, ContractError if the list grows far beyond its total.

        The first page shows the total, and how many items the server really gives in a page. The others are read in parallel,
        each overlapping the one before by one item. The pages that `_expected` items fill are read together with the first.
        For each gap that changes by this mount (`own_ids`) have made, one more page is read.
        """
        read_page, workers = bind_deadline(self._client.list_page), self._client.max_connections
        ask = partial(pool.submit, read_page)
        # Only the first pass reads ahead. If the list moves, later passes begin with the first page, because its total is the
        # newest.
        expected, self._expected = self._expected, 0
        most = min((expected - TAKE) // _STEP + 2, workers) if expected > TAKE else 1
        ahead = {number: ask(TAKE, number * _STEP) for number in range(1, most)}
        this = ListingPass(read_page(TAKE, 0))
        pending: deque[Future[Page]] = deque()
        while True:
            while len(pending) < workers and (number := this.take_page_number()) is not None:
                page = ahead.pop(number, None) if this.size == TAKE else None
                pending.append(page or ask(min(this.size, TAKE), number * this.step))
            if not pending:
                break
            this.add_page(pending.popleft().result())
        this.fill_gaps_of_own_changes(own_ids(), partial(pool.map, partial(read_page, this.size)))
        return this

    def _get_or_none(self, item_id: str) -> Item | None:
        try:
            return self._client.get(item_id)
        except NotFoundError:
            return None
