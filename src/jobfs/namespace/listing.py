"""A snapshot of all items that never lacks one that was there throughout (semantics.md section 1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from jobfs.api import Health, Page
from jobfs.api.deadline import carried
from jobfs.errors import NotFoundError
from jobfs.namespace.pages import Pass, read_pass
from jobfs.nodes import Item

log = logging.getLogger("jobfs.namespace")

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
    def silent(self) -> float:
        """Seconds since the server gave a sign of itself, of those in which it was asked something."""

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
            steady = last is not None and this.same(last)
            if this.flaw is None or steady:
                items = self._complete(this, known(), sure=steady or (last is not None and last.flaw is None))
                if items is not None:
                    self._moved = False
                    self._expected = this.total if this.full else 0
                    return Listing(items, this.pages)
            elif number >= _PASSES and (merged.count >= this.total or number == _MOST):
                items = merged.reconcile(this, known())
                if len(items) + len(this.unknown) >= this.total or number == _MOST:
                    self._warn(number, this, len(items), merged.asked)
                    return Listing(items, this.pages)
            last = this
        assert last is not None
        return Listing(merged.reconcile(last, known()), last.pages)

    def find_each(self, paths: Iterable[str]) -> list[tuple[str, list[Item]]]:
        """What is at each of these paths, asked in parallel (GET items/find); raises ApiError."""
        asked = list(paths)
        return list(zip(asked, self._executor.map(carried(self._server.find), asked), strict=True))

    def close(self) -> None:
        """Stop the threads; what is under way is waited for."""
        self._executor.shutdown(cancel_futures=True)

    def _complete(self, this: Pass, known: Collection[str], *, sure: bool) -> list[Item] | None:
        """The items of a consistent pass with those it lost after all; None if it is better read again.

        Changes that cancel each out in number can hide an item that a rename moved from an unread page to
        one that was read already. One page is a snapshot by itself.
        """
        items = list(this.items.values())
        if this.pages == 1:
            return items
        lost = [item_id for item_id in known if item_id not in this.items and item_id not in this.unknown]
        if len(lost) > max(_FEW, this.pages):
            return items if sure else None
        return items + [item for item in self._existing(lost).values() if item is not None]

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
