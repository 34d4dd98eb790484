"""Stores that are closed after the test, over a client double."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobfs.content import ContentStore

from .world import FakeClient, MakeStore, Open, Opened, item_of, pattern


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


@pytest.fixture
def opened(make_store: MakeStore) -> Iterator[Open]:
    """Opens a file of so many bytes, on a server that behaves as the other arguments say."""
    with contextlib.ExitStack() as stack:

        def start(size: int, *, timeout: float = 20.0, **behaviour: Any) -> Opened:
            client, item = FakeClient(pattern(size), **behaviour), item_of(size)
            store = make_store(client, timeout=timeout)
            return Opened(client, store, item, stack.enter_context(store.open(item)))

        yield start
