"""Stores that are closed after the test, over a client double."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from jobfs.api.client import Client
from jobfs.content import ContentStore
from jobfs.content.timing import Timing

from .world import STILL, FakeClient, Lock, MakeStore, Open, Opened, item_of, pattern


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    home = tmp_path / "cache" / "job"
    home.mkdir(parents=True)
    return home / "0123456789ab"


@pytest.fixture
def lock() -> Lock:
    return Lock()


@pytest.fixture
def make_store(cache: Path, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes a store over a FakeClient; a generous limit, a deadline that no test waits for, and a clock that stands still."""
    with contextlib.ExitStack() as stack:

        def make(client: FakeClient, directory: Path = cache, **options: Any) -> ContentStore:
            given = {"owner": tmp_path, "limit": 1 << 30, "timeout": 20.0, "timing": STILL, **options}
            store = ContentStore(cast(Client, client), directory, **given)
            stack.callback(store.close)
            return store

        yield make


@pytest.fixture
def opened(make_store: MakeStore) -> Iterator[Open]:
    """Opens a file of so many bytes, on a server that behaves as the other arguments say."""
    with contextlib.ExitStack() as stack:

        def start(size: int, *, timeout: float = 20.0, timing: Timing = STILL, **behaviour: Any) -> Opened:
            client, item = FakeClient(pattern(size), **behaviour), item_of(size)
            store = make_store(client, timeout=timeout, timing=timing)
            return Opened(client, store, item, stack.enter_context(store.open(item)))

        yield start
