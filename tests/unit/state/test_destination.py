"""Copies to a directory of the user's (vfs/semantics.md 6.19)."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from tests.support.files import errno_from, on_disk
from tests.unit.state.conftest import failing

from jobfs.state.destination import Destination
from jobfs.state.records import UNSET


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    os.utime(path, ns=(5, 5))
    return path


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "made" / "to"


@pytest.fixture
def to(top: Path) -> Destination:
    return Destination(top)


def facts(path: Path) -> tuple[int, int]:
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_mtime_ns


def test_a_copy_has_its_path_mode_and_time(to: Destination, top: Path, source: Path) -> None:
    to.sync()
    assert not top.exists(), "before anything is copied"
    assert to.copy("dir/sub/a", source, None, 0o640, 9) == 7
    assert to.copy("b", source, 3, UNSET, UNSET) == 3
    assert to.copy("dir/program", source, 0, 0o4755, UNSET) == 0
    to.make_directory("closed", 0o500)
    to.make_directory("dir/plain", UNSET)
    to.make_directory("dir", 0o700)
    to.copy("closed/c", source, None, 0o400, 9)
    to.sync()
    umask = os.umask(0)
    os.umask(umask)
    assert (facts(top / "dir/sub/a"), facts(top / "dir/program")) == ((0o640, 9), (0o755, 5))
    assert facts(top / "b") == (0o666 & ~umask, 5)
    assert [facts(path)[0] for path in (top, top / "closed", top / "dir", top / "dir/plain")] == [
        0o700, 0o700, 0o777 & ~umask, 0o777 & ~umask,
    ]  # fmt: skip
    assert on_disk(top) == {
        "b": b"con", "closed": None, "closed/c": b"content", "dir": None, "dir/plain": None, "dir/program": b"",
        "dir/sub": None, "dir/sub/a": b"content",
    }  # fmt: skip


def test_a_file_system_without_modes_and_times_gets_the_bytes(
    to: Destination, top: Path, source: Path
) -> None:
    """vfs/semantics.md 6.19: such as a USB stick."""
    with failing("fchmod", errno.EPERM), failing("utime", errno.ENOTSUP):
        assert to.copy("dir/a", source, None, 0o640, 9) == 7
        to.make_directory("plain", 0o750)
    assert on_disk(top) == {"dir": None, "dir/a": b"content", "plain": None}


def test_nothing_is_overwritten_and_no_link_is_followed(
    to: Destination, top: Path, source: Path, tmp_path: Path
) -> None:
    """vfs/semantics.md 6.19."""
    (tmp_path / "elsewhere").mkdir()
    (top / "dir").mkdir(parents=True)
    (top / "file").write_bytes(b"the user's")
    (top / "link").symlink_to(tmp_path / "elsewhere")
    (top / "dangling").symlink_to(tmp_path / "new")
    for path, code in (
        ("file", errno.EEXIST), ("dir", errno.EEXIST), ("dangling", errno.EEXIST), ("link", errno.EEXIST),
        ("link/a", errno.ENOTDIR), ("file/a", errno.ENOTDIR), ("dir/" + "n" * 256, errno.ENAMETOOLONG),
    ):  # fmt: skip
        assert errno_from(to.copy, path, source, None, UNSET, UNSET) == code, path
    assert errno_from(to.make_directory, "file", UNSET) == errno.ENOTDIR
    assert errno_from(to.make_directory, "link", UNSET) == errno.ENOTDIR
    assert on_disk(tmp_path / "elsewhere") == {}
    assert on_disk(top) == {"dir": None, "file": b"the user's"}


def test_an_incomplete_source_leaves_no_copy(
    to: Destination, top: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert errno_from(to.copy, "a", source, 8, UNSET, UNSET) == errno.EIO
    assert errno_from(to.copy, "a", source.with_name("none"), None, UNSET, UNSET) == errno.ENOENT
    monkeypatch.setattr(os, "sendfile", lambda *_: 0)
    assert errno_from(to.copy, "b", source, None, UNSET, UNSET) == errno.EIO
    assert on_disk(top) == {}


def test_a_copy_keeps_holes(to: Destination, top: Path, source: Path) -> None:
    """A file of 4 GiB that holds three bytes is copied at once, and takes no room."""
    large = 4 << 30
    with source.open("r+b") as file:
        os.truncate(file.fileno(), large)
        os.pwrite(file.fileno(), b"mid", large // 2)
    assert to.copy("whole", source, None, UNSET, UNSET) == large
    assert to.copy("cut", source, large // 2 + 2, UNSET, UNSET) == large // 2 + 2
    for name, size, expected in (("whole", large, b"mid"), ("cut", large // 2 + 2, b"mi")):
        copied = top / name
        with copied.open("rb") as file:
            assert (file.read(8), os.pread(file.fileno(), 3, large // 2)) == (b"content\0", expected)
        assert (copied.stat().st_size, copied.stat().st_blocks < 1000) == (size, True)
