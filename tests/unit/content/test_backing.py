"""Where bytes are: in a file, in memory, or gone."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobfs.content import backing as module
from jobfs.content.backing import Backing
from jobfs.content.disk import DiskCache
from jobfs.errors import FsError

NAME = "0" * 48


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskCache]:
    made = DiskCache(tmp_path, 1000)
    yield made
    made.parts.close()


@pytest.fixture
def backing(disk: DiskCache) -> Backing:
    return Backing(disk, threading.Condition(), lambda size: False)


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)


def test_bytes_are_announced_and_can_be_read(backing: Backing) -> None:
    backing.put(10, b"abc")
    assert list(backing.have) == [(10, 13)]
    assert backing.load(11, 13) == b"bc"


def test_bytes_that_are_there_are_not_written_again(backing: Backing) -> None:
    backing.put(0, b"abc")
    backing.put(0, b"xyz")
    assert backing.load(0, 3) == b"abc"


def test_a_complete_file_is_kept_under_its_name(backing: Backing, disk: DiskCache) -> None:
    backing.put(0, b"abc")
    backing.keep(NAME, 3)
    assert disk.has(NAME, 3)
    backing.discard()
    assert backing.path(3).read_bytes() == b"abc"
    assert backing.digest(3) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_disk_that_is_full_is_replaced_by_memory_and_what_it_has_still_counts(
    backing: Backing, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    backing.put(0, b"disk")
    monkeypatch.setattr(module, "WINDOW", 8)
    request.getfixturevalue("no_room")
    backing.put(4, b"memory")
    assert backing.load(0, 10) == b"diskmemory"
    backing.put(10, b"more")
    assert list(backing.have) == [(0, 4), (10, 14)], "the window moved on"
    assert backing.load(0, 4) == b"disk"
    backing.leave_spill()
    assert list(backing.have) == [(0, 4)]


def test_bytes_that_have_gone_are_not_there_any_more(backing: Backing, disk: DiskCache) -> None:
    backing.put(0, b"abcdef")
    backing.keep(NAME, 6)
    os.truncate(backing.path(6), 3)
    assert backing.load(0, 6) is None
    assert not backing.have
    assert not disk.has(NAME, None)
    backing.put(0, b"abcdef")
    assert backing.load(0, 6) == b"abcdef", "from memory: that disk is not trusted again"


def test_a_file_that_came_from_elsewhere_is_not_written(backing: Backing, disk: DiskCache) -> None:
    part = disk.parts.new()
    os.write(part.fd, b"abc")
    backing.install(part, 3, None)
    backing.put(1, b"x")
    assert backing.load(0, 3) == b"abc"


def test_a_path_needs_a_disk_that_takes_it(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    backing = Backing(DiskCache(blocked / "cache", 10), threading.Condition(), lambda size: False)
    backing.put(0, b"abc")
    assert backing.load(0, 3) == b"abc"
    with pytest.raises(FsError):
        backing.path(3)


def test_bytes_that_were_on_their_way_when_all_were_forgotten_are_not_announced(
    backing: Backing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are of what was forgotten, and may be in a file that is not the content's any more."""
    backing.put(0, b"abc")
    real = os.pwrite

    def overtaken(fd: int, data: bytes, offset: int) -> int:
        written = real(fd, data, offset)
        backing.forget()
        return written

    monkeypatch.setattr(os, "pwrite", overtaken)
    backing.put(10, b"xyz")
    assert list(backing.have) == []
