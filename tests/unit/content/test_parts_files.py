"""Open files of the cache."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jobfs.content.parts import CacheFile, clone, read_all, write_all
from jobfs.errors import FsError


def opened(path: Path, data: bytes = b"") -> CacheFile:
    path.write_bytes(data)
    return CacheFile(os.open(path, os.O_RDWR | os.O_CLOEXEC), str(path))


def test_the_descriptor_is_closed_with_the_last_reference(tmp_path: Path) -> None:
    file = opened(tmp_path / "a")
    fd = file.fd
    reader = file
    del file
    os.fstat(fd)
    del reader
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_it_knows_whether_its_path_still_leads_to_it(tmp_path: Path) -> None:
    file = opened(tmp_path / "a")
    assert file.there()
    (tmp_path / "b").write_bytes(b"")
    os.replace(tmp_path / "b", tmp_path / "a")
    assert not file.there()
    os.unlink(tmp_path / "a")
    assert not file.there()


def test_everything_is_written_and_read_back(tmp_path: Path) -> None:
    file = opened(tmp_path / "a")
    write_all(file.fd, b"hello", 3)
    assert read_all(file.fd, 0, 100) == b"\0\0\0hello"
    assert read_all(file.fd, 5, 2) == b"ll"
    assert read_all(file.fd, 50, 2) == b""


def test_a_write_that_takes_only_a_part_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = opened(tmp_path / "a")
    real_write, real_read = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real_write(fd, data[:2], offset))
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real_read(fd, min(size, 2), offset))
    write_all(file.fd, b"hello", 0)
    assert read_all(file.fd, 0, 5) == b"hello"
    assert read_all(file.fd, 1, 100) == b"ello"


def test_a_clone_has_the_same_bytes_and_a_source_too_short_is_an_error(tmp_path: Path) -> None:
    source, target = opened(tmp_path / "a", b"hello"), opened(tmp_path / "b")
    clone(source.fd, target.fd, 5)
    assert (tmp_path / "b").read_bytes() == b"hello"
    longer = opened(tmp_path / "c")
    with pytest.raises(FsError) as caught:
        clone(source.fd, longer.fd, 6)
    assert caught.value.errno == errno.EIO
