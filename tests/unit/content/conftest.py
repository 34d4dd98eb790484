"""Stores that are closed after the test, over a client double."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jobfs.content import ContentHandle, ContentStore
from jobfs.nodes import Item

from .server import FakeClient, item_of, pattern

MakeStore = Callable[..., ContentStore]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    home = tmp_path / "cache" / "job"
    home.mkdir(parents=True)
    return home / "0123456789ab"


@pytest.fixture
def make_store(cache: Path, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes a store over a FakeClient; a generous limit and a deadline that no test waits for."""
    stores: list[ContentStore] = []

    def make(client: FakeClient, *, limit: int = 1 << 30, timeout: float = 20.0) -> ContentStore:
        store = ContentStore(client, cache, owner=tmp_path, limit=limit, timeout=timeout)  # type: ignore[arg-type]
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


class Opened(NamedTuple):
    """An open file, and all behind it."""

    client: FakeClient
    store: ContentStore
    item: Item
    handle: ContentHandle

    def is_right(self, offset: int, size: int = 4096) -> bool:
        """Read there; False if other bytes come than those that the server has."""
        return self.handle.read(offset, size) == self.client.data[offset : offset + size]


Open = Callable[..., Opened]


@pytest.fixture
def opened(make_store: MakeStore) -> Iterator[Open]:
    """Opens a file of so many bytes, on a server that behaves as the other arguments say."""
    with contextlib.ExitStack() as stack:

        def start(size: int, *, timeout: float = 20.0, **behaviour: Any) -> Opened:
            client, item = FakeClient(pattern(size), **behaviour), item_of(size)
            store = make_store(client, timeout=timeout)
            return Opened(client, store, item, stack.enter_context(store.open(item)))

        yield start
