"""The whole list of items, in the order in which the server gives it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from jobfs.api import MOST_ITEMS, Client
from jobfs.api.deadline import carried
from jobfs.nodes import Item

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
