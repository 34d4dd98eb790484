"""The whole list of items, in the order in which the server gives it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from jobfs.api import MOST_ITEMS, Client, Page
from jobfs.api.deadline import carried
from jobfs.nodes import Item

#: Most items that the API gives in a page.
TAKE = 100
_THREADS = 8


class Listing(NamedTuple):
    """All pages' items one after another; an item may come twice, or be missed, where the list moved meanwhile."""

    items: list[Item]
    total: int
    pages: int
    first: Page


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
    items = [item for page in (first, *others) for item in page.items]
    return Listing(items, total, 1 + len(others), first)
