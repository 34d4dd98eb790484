"""The bytes of a version that are on this machine; what another thread does in between is done before the lock is taken."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import pytest

from jobfs.content.cached_version import CachedVersion
from jobfs.content.disk import CacheFile, DiskCache, write_all

from .world import STILL, Lock, item_of


@pytest.fixture
def disk(cache: Path, lock: Any, tmp_path: Path) -> Iterator[DiskCache]:
    with closing(DiskCache(cache, 1000, lock, state_directory=tmp_path)) as disk:
        yield disk


@pytest.fixture
def cached(disk: DiskCache) -> CachedVersion:
    return CachedVersion(item_of(300).version, 300, disk, STILL)


def make_unreadable(cached: CachedVersion) -> None:
    """Let reads of the file fail with EBADF."""
    assert cached.file is not None
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), cached.file.fd)


def test_forgotten_bytes_are_not_read_from_a_hole(cached: CachedVersion, disk: DiskCache, lock: Lock) -> None:
    """Another thread may restart before a reader reads the present bytes, and before written bytes are announced."""
    cached.store_bytes(0, b"x" * 100)
    cached.verified.add(0, 100)
    assert cached.load_or_forget_bytes(0, 100) == b"x" * 100
    cached.forget_bytes()
    cached.store_bytes(200, b"y" * 100)
    cached.store_bytes(150, b"z" * 100)
    cached.verified.add(200, 300)
    assert cached.load_or_forget_bytes(0, 100) is None
    assert cached.load_or_forget_bytes(200, 300) == b"y" * 100
    make_unreadable(cached)
    assert cached.load_or_forget_bytes(200, 300) is None
    cached.store_bytes(200, b"y" * 4)
    cached.verified.add(200, 204)
    make_unreadable(cached)
    assert cached.load_or_forget_bytes(200, 204) is None, "however few are asked for"
    cached.store_bytes(200, b"z" * 100)
    assert disk.refusal_reason == os.strerror(errno.EBADF), "what comes now is held in memory"
    lock.before(2, cached.forget_bytes)  # the bytes are written, and not announced yet
    cached.store_bytes(0, b"x" * 100)
    assert not cached.available


def test_two_transfers_that_create_the_file_at_once_share_it(cached: CachedVersion, lock: Lock) -> None:
    """Else the bytes of one of them are fetched again."""
    lock.before(2, lambda: cached.store_bytes(100, b"y" * 100))
    cached.store_bytes(0, b"x" * 100)
    cached.verified.add(0, 200)
    assert cached.available.covers(0, 200)
    assert cached.load_or_forget_bytes(0, 200) == b"x" * 100 + b"y" * 100


@pytest.fixture
def saved(disk: DiskCache) -> CacheFile:
    """A file with the whole content, as of a save."""
    saved = disk.create_partial()
    write_all(saved.fd, b"y" * 300, 0)
    return saved


def test_a_failed_write_leaves_a_file_installed_during_it(
    cached: CachedVersion, saved: CacheFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that were saved here may be on no server any more."""

    def fail(*_: object) -> NoReturn:
        cached.install_file(saved)
        raise OSError(errno.EIO, "the disk")

    cached.store_bytes(0, b"x" * 100)
    monkeypatch.setattr(os, "pwrite", fail)
    cached.store_bytes(100, b"x" * 100)
    assert cached.load_or_forget_bytes(0, 300) == b"y" * 300


def test_unreadable_content_is_not_offered_again(
    cached: CachedVersion, saved: CacheFile, disk: DiskCache
) -> None:
    cached.install_file(saved)
    cached.commit_to_cache()
    assert disk.complete_size(cached.version) == 300
    make_unreadable(cached)
    assert cached.load_or_forget_bytes(0, 300) is None
    assert disk.complete_size(cached.version) is None


def test_a_file_installed_while_another_is_created_stays_whole(
    cached: CachedVersion, saved: CacheFile, lock: Lock
) -> None:
    """The complete file may be the one that was saved here."""
    lock.before(2, lambda: cached.install_file(saved))
    for data in (b"x" * 100, b"z" * 100):
        cached.store_bytes(0, data)
    assert cached.is_complete
    assert cached.load_or_forget_bytes(0, 300) == b"y" * 300
