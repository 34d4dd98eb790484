"""Directories and files that only this user writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobfs.errors import UsageError
from jobfs.private import own_directory, user_name

OTHER = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def take(path: Path) -> int:
    """The inode of the directory that is used."""
    with own_directory(path, "cache", "--cache-dir") as handle:
        return os.fstat(handle).st_ino


def test_a_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    inode = take(tmp_path / "new" / "below")
    info = (tmp_path / "new" / "below").stat()
    assert (info.st_ino, info.st_mode & 0o777) == (inode, 0o700)


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, OTHER, -1)
    with pytest.raises(UsageError, match=f"cache directory .* belongs to {user_name(OTHER)}.*--cache-dir"):
        take(tmp_path)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_directory_in_which_others_write_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(UsageError, match=f"others? users? may write in .*chmod go-w {tmp_path}.*--cache-dir"):
        take(tmp_path)


def test_a_link_is_followed_if_this_user_made_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert take(tmp_path / "link") == (tmp_path / "real").stat().st_ino
    os.chown(tmp_path / "link", OTHER, -1, follow_symlinks=False)
    with pytest.raises(UsageError, match=f"belongs to {user_name(OTHER)}"):
        take(tmp_path / "link")


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        take(tmp_path / "file")


def test_a_user_without_a_name_has_a_number() -> None:
    assert user_name(4_000_000_001) == "user 4000000001"
