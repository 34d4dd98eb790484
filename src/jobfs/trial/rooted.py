"""A client for which a directory of the workspace is the whole workspace: what a temporary mount of a try is built on."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, cast

from jobfs import names
from jobfs.api import Client, Page
from jobfs.errors import NotFoundError
from jobfs.nodes import Item
from jobfs.trial.listing import everything


def rooted(client: Client, root: str) -> Client:
    """`client`, seeing only what lies below `root`, by paths that begin there."""
    return cast(Client, _Rooted(client, root))


class _Rooted:
    """Whatever is not about paths is the client's own."""

    def __init__(self, client: Client, root: str) -> None:
        self._client, self._root = client, root
        self._lock = threading.Lock()
        self._items: list[Item] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def list_page(self, take: int, skip: int, **more: Any) -> Page:
        with self._lock:
            if skip == 0:
                self._items = [self._inside(item) for item in everything(self._client) if self._has(item)]
            return Page(self._items[skip : skip + take], len(self._items), take, skip)

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
