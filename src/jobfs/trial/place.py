"""The try's own directory: a hidden name that no mount shows, all of it gone at the end; and a client that sees only that."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple, cast

from jobfs import names
from jobfs.api import MOST_ITEMS, Client, Page
from jobfs.api.deadline import carried
from jobfs.errors import ApiError, NotFoundError, UnavailableError
from jobfs.nodes import Item, Permission

#: Seconds after which what a try on another machine has left is taken away: none takes that long.
_ABANDONED = 3600.0
#: Looks until everything is gone: a request that was broken off may be carried out late.
_LOOKS = 4
_BETWEEN = 0.3


class Place:
    """One directory in the root of the workspace; `own` is the id of this machine's tries, 12 hex digits."""

    def __init__(self, client: Client, own: str) -> None:
        self._client = client
        self._own = own
        name = names.HiddenName(own, names.new_transaction_id(), names.Role.TRIED, "try")
        self.path = str(name)

    def left(self) -> list[Item]:
        """What tries of this machine, or long ago of another, have in the workspace, this one's too. Raises ApiError."""
        now = time.time() + self._client.server_time_offset
        return [item for item in everything(self._client) if self._ours(item, now)]

    def clear(self) -> list[str]:
        """Take all of it away; returns the paths that are still there after some looks. Raises ApiError."""
        left = self.left()
        for look in range(_LOOKS):
            if not left:
                break
            # A directory goes with what is in it, by the reference; what stays all the same goes one by one.
            self._remove(left if look else [item for item in left if "/" not in item.path] or left)
            left = self.left()
            if left and look:
                time.sleep(_BETWEEN)
        return [item.path for item in left]

    def _ours(self, item: Item, now: float) -> bool:
        parts = names.parse_hidden(item.path.partition("/")[0])
        if parts is None or parts.role is not names.Role.TRIED:
            return False
        return parts.mount == self._own or now - item.updated_ns / 1e9 > _ABANDONED

    def _remove(self, items: Iterable[Item]) -> None:
        """Delete what lies deepest first; what is refused is left, for the next look to see. Raises UnavailableError."""
        for item in sorted(items, key=lambda item: item.path.count("/"), reverse=True):
            try:
                self._delete(item)
            except UnavailableError:
                raise
            except ApiError:
                continue

    def _delete(self, item: Item) -> None:
        try:
            self._client.delete(item.id)
        except (NotFoundError, UnavailableError):
            raise
        except ApiError:
            # It may be that it is read-only.
            self._client.update(item.id, permission=Permission.READ_WRITE)
            self._client.delete(item.id)


# The whole list of items, in the order in which the server gives it

#: Most items that the API gives in a page.
TAKE = 100
_THREADS = 8
#: Readings of a list that changes its order until every item was seen.
_READINGS = 8


class Listing(NamedTuple):
    """All pages' items one after another; an item may come twice, or be missed, where the list moved meanwhile."""

    items: list[Item]
    unknown: set[str]
    total: int
    pages: int


def whole(client: Client) -> Listing:
    """Read every page, a few at once. Raises ApiError."""
    first = client.list_page(TAKE, 0)
    size = len(first.items) + len(first.unknown)
    total = min(first.total, MOST_ITEMS)
    read = carried(lambda skip: client.list_page(TAKE, skip))
    executor = ThreadPoolExecutor(_THREADS, "try")
    try:
        others = list(executor.map(read, range(size, total, size) if size else ()))
    finally:
        executor.shutdown(cancel_futures=True)
    pages = (first, *others)
    items = [item for page in pages for item in page.items]
    return Listing(items, {name for page in pages for name in page.unknown}, total, len(pages))


def everything(client: Client) -> list[Item]:
    """All items, each once: the list is read again where pages did not fit together. Raises ApiError."""
    seen: dict[str, Item] = {}
    unknown: set[str] = set()
    for _ in range(_READINGS):
        listing = whole(client)
        seen |= {item.id: item for item in listing.items}
        unknown |= listing.unknown
        if len(seen) + len(unknown) >= listing.total:
            break
    return list(seen.values())


# A directory as the whole workspace: what a temporary mount of a try is built on


def rooted(client: Client, root: str) -> Client:
    """`client`, seeing only what lies below `root`, by paths that begin there."""
    return cast(Client, _Rooted(client, root))


class _Rooted:
    """Whatever is not about paths is the client's own."""

    def __init__(self, client: Client, root: str) -> None:
        self._client, self._root = client, root
        self._items: list[Item] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def list_page(self, take: int, skip: int, **more: Any) -> Page:
        if skip == 0:
            self._items = [self._inside(item) for item in everything(self._client) if self._has(item)]
        items = self._items  # of one listing: another thread may put those of the next one there
        return Page(items[skip : skip + take], len(items), take, skip)

    def find(self, path: str, **more: Any) -> list[Item]:
        return [self._inside(item) for item in self._client.find(self._outside(path), **more)]

    def get(self, item_id: str, **more: Any) -> Item:
        item = self._client.get(item_id, **more)
        if not self._has(item):
            raise NotFoundError(f"{item_id} is outside of what this mount shows", endpoint="get item")
        return self._inside(item)

    def create_file(self, path: str, *more: Any, **others: Any) -> Item:
        return self._inside(self._client.create_file(self._outside(path), *more, **others))

    def create_directory(self, path: str, *more: Any) -> Item:
        return self._inside(self._client.create_directory(self._outside(path), *more))

    def update(self, item_id: str, *, path: str | None = None, **more: Any) -> Item:
        where = None if path is None else self._outside(path)
        return self._inside(self._client.update(item_id, path=where, **more))

    def _outside(self, path: str) -> str:
        return names.join(self._root, path)

    def _has(self, item: Item) -> bool:
        return names.under(item.path, self._root)

    def _inside(self, item: Item) -> Item:
        return replace(item, path=item.path[len(self._root) + 1 :])
