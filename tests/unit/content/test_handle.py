"""Handles on contents."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from jobfs.errors import FsError

from .conftest import MakeStore
from .server import FakeClient, item_of, pattern


def test_a_handle_shows_its_version_and_size(make_store: MakeStore) -> None:
    item = item_of(5)
    with make_store(FakeClient(b"hello")).open(item) as handle:
        assert handle.version == item.version
        assert handle.size == 5


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
@pytest.mark.parametrize("offset", [0, 1, 4999, 5000, 9000])
def test_a_whole_content_is_read_like_any_file(make_store: MakeStore, offset: int, size: int) -> None:
    data = pattern(5000)
    with make_store(FakeClient(data)).open(item_of(5000)) as handle:
        assert handle.read(offset, size) == data[offset : offset + size], "while it comes"
        handle.fetch()
        assert handle.read(offset, size) == data[offset : offset + size]


def test_a_closed_handle_gives_out_no_file(make_store: MakeStore) -> None:
    handle = make_store(FakeClient(b"hello")).open(item_of(5))
    handle.fetch()
    handle.close()
    handle.close()
    assert handle.sha256() is None
    with pytest.raises(FsError) as caught:
        handle.fetch()
    assert caught.value.errno == errno.EBADF


def test_a_read_that_close_overtakes_still_gets_its_bytes(make_store: MakeStore, cache: Path) -> None:
    """Where one thread follows a newer version, another may be about to read the handle of the older one."""
    store = make_store(FakeClient(b"hello", updated_at=""))
    handle = store.open(item_of(5, updated_at="", ns=0))
    handle.close()
    assert handle.read(0, 10) == b"hello"
    eventually(lambda: not list(cache.rglob("*.part")), "nothing is left of it")
