"""Unfinished files of the cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from jobfs.content.parts import Parts, claim, remove_abandoned


def started(directory: Path) -> Parts:
    parts = Parts(directory)
    parts.start()
    return parts


def test_what_a_killed_mount_left_is_removed(tmp_path: Path) -> None:
    killed = started(tmp_path)
    left = killed.new()
    assert left.there()
    parts = started(tmp_path)
    assert not left.there()
    part = parts.new()
    assert part.there()
    parts.close()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    """vfs/semantics.md 3.10: the content cache has mode 0700."""
    directory = tmp_path / "cache"
    directory.mkdir(mode=0o755)
    parts = started(directory)
    assert directory.stat().st_mode & 0o077 == 0
    parts.close()


def test_a_link_shares_its_bytes_and_becomes_private(tmp_path: Path) -> None:
    parts = started(tmp_path / "cache")
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    source.chmod(0o644)
    file = parts.link(source, 5)
    assert os.fstat(file.fd).st_ino == source.stat().st_ino
    assert os.fstat(file.fd).st_mode & 0o777 == 0o600
    copy = parts.copy(file.fd, 5)
    path = Path(copy.path)
    assert path.read_bytes() == b"hello"
    del copy
    assert not path.exists(), "nobody refers to it"
    parts.close()


@pytest.mark.usefixtures("root")
def test_a_cache_that_was_cleared_and_made_again_by_another_user_is_not_used(tmp_path: Path) -> None:
    parts = started(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").mkdir(mode=0o777)
    os.chown(tmp_path / "cache", 65534, -1)
    with pytest.raises(PermissionError, match="belongs to"):
        parts.new()
    parts.close()


# -- the caches of mounts that are gone


def cache_of(directory: Path, owner: Path) -> Path:
    (directory / "ab").mkdir(parents=True)
    (directory / "ab" / "content").write_bytes(b"x")
    claim(directory, owner)
    return directory


def test_a_cache_goes_with_its_state_directory_and_not_before(tmp_path: Path) -> None:
    caches, state = tmp_path / "cache", tmp_path / "state"
    state.mkdir()
    own = cache_of(caches / "job" / "0123456789ab", tmp_path)
    other = cache_of(caches / "another" / "fedcba987654", state)
    remove_abandoned(own)
    assert (other / "ab" / "content").exists()
    state.rmdir()
    remove_abandoned(own)
    assert not other.exists()
    assert (own / "ab" / "content").exists()


def test_what_is_no_cache_stays(tmp_path: Path) -> None:
    """The cache directory may be that of all programs: what is theirs, or behind a link, is not touched."""
    own = cache_of(tmp_path / "cache" / "job" / "0123456789ab", tmp_path)
    gone = tmp_path / "gone"
    program = cache_of(tmp_path / "cache" / "program" / "settings", gone)
    linked = cache_of(tmp_path / "elsewhere", gone)
    (tmp_path / "cache" / "job" / "fedcba987654").symlink_to(linked)
    (tmp_path / "cache" / "job" / "0000000000ff").mkdir()
    remove_abandoned(own)
    assert (program / "ab" / "content").exists()
    assert (linked / "ab" / "content").exists()
    assert (tmp_path / "cache" / "job" / "0000000000ff").exists()
