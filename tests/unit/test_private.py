"""Directories and files that only this user writes."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

import pytest

from jobfs.errors import UsageError
from jobfs.private import open_own_directory, user_name

OTHER = 65534
pytestmark = pytest.mark.needs_root("only root can give files to another user")


def take(path: Path) -> int:
    """The inode of the directory that is used."""
    with open_own_directory(path, "cache", "--cache-dir") as handle:
        return os.fstat(handle).st_ino


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_directory_that_others_change_or_rename_is_refused(tmp_path: Path, mode: int) -> None:
    above = tmp_path / "a b"
    (above / "between").mkdir(parents=True)
    new = above / "between" / "new"
    above.chmod(mode)
    os.chown(above, -1, OTHER)
    remedy = f"new: other users may write to {above}: run chmod go-w '{above}',.*--cache-dir"
    with pytest.raises(UsageError, match=remedy):
        take(new)
    assert os.listdir(new.parent) == []
    above.chmod(mode | 0o1000)
    take(new)
    os.chown(new.parent, OTHER, -1)
    for path in (above, new):
        with pytest.raises(UsageError, match="may write to"):
            take(path)


def test_a_directory_below_one_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "his").mkdir()
    os.chown(tmp_path / "his", OTHER, -1)
    (tmp_path / "link").symlink_to("his/mine")
    for path in (tmp_path / "his" / "mine", tmp_path / "link"):
        with pytest.raises(UsageError, match=f"his belongs to {user_name(OTHER)}: .*--cache-dir"):
            take(path)


def test_directories_made_on_the_way_are_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        take(tmp_path / "one" / "two" / "three")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")] == [0o700] * 3


def test_a_group_of_one_user_is_no_other_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the umask is 002, every file that a user makes is writable for his own group."""
    tmp_path.chmod(0o775)
    take(tmp_path / "new")
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("root", "x", gid, ["other"])))
    with pytest.raises(UsageError, match="may write to"):
        take(tmp_path / "new")


def test_links_are_followed_as_by_the_kernel_and_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "up").symlink_to("real/deep/..")
    (tmp_path / "over").symlink_to(tmp_path / "up" / "deep")
    assert take(tmp_path / "over") == (tmp_path / "real" / "deep").stat().st_ino
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "file").touch()
    for path in (tmp_path / "round", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError):
            take(path)
