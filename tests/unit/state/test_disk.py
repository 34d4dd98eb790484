"""Copying and syncing on the local disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jobfs.state import localbytes


def copied(source: Path, target: Path) -> bytes:
    handle = os.open(target, os.O_RDWR | os.O_CREAT)
    try:
        localbytes.copy_into(source, handle)
    finally:
        os.close(handle)
    return target.read_bytes()


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_copy_is_whole(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    monkeypatch.setattr(localbytes, "_COPY_CHUNK", 30_000)
    assert copied(source, tmp_path / "copy") == source.read_bytes()


def test_a_copy_is_whole_where_the_kernel_cannot_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(errno.EXDEV, "not across file systems")

    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    monkeypatch.setattr(localbytes, "_COPY_CHUNK", 30_000)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    assert copied(source, tmp_path / "copy") == source.read_bytes()


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    source = tmp_path / "source"
    source.write_bytes(b"x" * 10_000)
    monkeypatch.setattr(os, "copy_file_range", full)
    monkeypatch.setattr("fcntl.ioctl", full)
    with pytest.raises(OSError, match="full"):
        copied(source, tmp_path / "copy")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (errno.ENOSPC, errno.ENOSPC),
        (errno.EDQUOT, errno.EDQUOT),
        (errno.EROFS, errno.EROFS),
        (errno.ENOENT, errno.EIO),
        (errno.EACCES, errno.EIO),
        (None, errno.EIO),
    ],
)
def test_what_the_disk_answers_never_looks_like_an_answer_about_the_file(
    answer: int | None, told: int
) -> None:
    """vfs/semantics.md 1: "not there" is not "could not ask"."""
    assert localbytes.failure(OSError(answer, "the disk")) == told
