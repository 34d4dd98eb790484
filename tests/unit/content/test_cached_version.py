"""The bytes of a version that are on this machine."""

from __future__ import annotations

import errno
import os

import pytest
from tests.unit.state.conftest import refusing

from jobfs.content.disk import CacheFile, DiskCache

from .world import Open


def test_forgotten_bytes_are_not_read_from_a_hole(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may restart before a reader reads the present bytes, and before written bytes are announced."""
    file = opened(300)
    cached = file.store.attach_fetcher(file.handle).cached
    cached.store_bytes(0, b"x" * 100)
    cached.verified.add(0, 100)
    assert cached.load_or_forget_bytes(0, 100) == b"x" * 100
    cached.forget_bytes()
    cached.store_bytes(200, b"y" * 100)
    cached.store_bytes(150, b"z" * 100)
    cached.verified.add(200, 300)
    assert cached.load_or_forget_bytes(0, 100) is None
    assert cached.load_or_forget_bytes(200, 300) == b"y" * 100
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", refusing(errno.EIO))
        assert cached.load_or_forget_bytes(200, 300) is None
        cached.store_bytes(200, b"y" * 4)
        cached.verified.add(200, 204)
        assert cached.load_or_forget_bytes(200, 204) is None, "however few are asked for"
    cached.store_bytes(200, b"z" * 100)
    assert file.store.refusal_reason == os.strerror(errno.EIO), "what comes now is held in memory"
    write = os.pwrite

    def overtaken(fd: int, data: bytes, position: int) -> int:
        cached.forget_bytes()
        return write(fd, data, position)

    monkeypatch.setattr(os, "pwrite", overtaken)
    cached.store_bytes(0, b"x" * 100)
    assert not cached.available


def test_two_transfers_that_create_the_file_at_once_share_it(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the bytes of one of them are fetched again."""
    file = opened(300)
    cached, create = file.store.attach_fetcher(file.handle).cached, DiskCache.create_partial

    def overtaken(disk: DiskCache) -> CacheFile:
        monkeypatch.undo()
        cached.store_bytes(100, b"y" * 100)
        return create(disk)

    monkeypatch.setattr(DiskCache, "create_partial", overtaken)
    cached.store_bytes(0, b"x" * 100)
    cached.verified.add(0, 200)
    assert cached.available.covers(0, 200)
    assert cached.load_or_forget_bytes(0, 200) == b"x" * 100 + b"y" * 100
