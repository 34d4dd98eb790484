"""The files of the cache directory."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from jobfs.content.disk import DiskCache, file_name_of, write_all
from jobfs.nodes import Version

from .world import Lock

Start = Callable[..., DiskCache]
#: A user that is not this one.
OTHER = 65534
AS_ROOT = pytest.mark.needs_root("only root can give files to another user")

VERSIONS = [Version(f"{number:024d}", "now", 100) for number in range(6)]


@pytest.fixture
def start(tmp_path: Path, lock: Any) -> Iterator[Start]:
    """Opens a cache of 1,000 bytes in `tmp_path`/cache, as a mount does when it starts; the machine is in its boot "first"."""
    (tmp_path / "boot_id").write_text("first\n")
    with ExitStack() as stack:

        def start(limit: int = 1000) -> DiskCache:
            return stack.enter_context(
                closing(
                    DiskCache(tmp_path / "cache", limit, lock, tmp_path / "boot_id", state_directory=tmp_path)
                )
            )

        yield start


@pytest.fixture
def disk(start: Start) -> DiskCache:
    return start()


def keep(disk: DiskCache, *versions: Version) -> None:
    for version in versions:
        part = disk.create_partial()
        write_all(part.fd, bytes(100), 0)
        assert disk.commit(part, version, 100)


def path_of(directory: Path, version: Version) -> Path:
    name = file_name_of(version)
    return directory / name[:2] / name


def sizes(disk: DiskCache) -> list[int | None]:
    return [disk.complete_size(version) for version in VERSIONS]


def test_each_version_has_a_name() -> None:
    versions = {Version(*each) for each in product(("a", "\udc80"), ("x", "y"), (1, 2, None))}
    assert len({file_name_of(version) for version in versions}) == len(versions) == 12


def test_a_file_of_the_wrong_length_is_removed(disk: DiskCache) -> None:
    keep(disk, VERSIONS[0])
    assert [disk.open_complete(VERSIONS[0], size) for size in (99, 100)] == [None, None]
    assert disk.used_bytes == 0


def test_eviction_frees_the_oldest_files_and_spares_those_in_use(disk: DiskCache) -> None:
    """vfs/semantics.md 3.11: unfinished files count as well."""
    keep(disk, *VERSIONS)
    assert disk.pin_and_get_size(VERSIONS[0]) == 100, "the one used last"
    disk.unpin(VERSIONS[0])
    for change in (disk.pin_and_get_size, disk.pin_and_get_size, disk.unpin):
        change(VERSIONS[2])
    keep(disk, VERSIONS[5])
    part = disk.create_partial()
    part.bytes = 50
    assert disk.used_bytes == 650
    disk.limit = 400
    disk.evict_to_limit()
    assert sizes(disk) == [100, None, 100, None, None, 100]
    assert disk.evict_bytes(300)
    assert sizes(disk) == [None, None, 100, None, None, None]
    assert not disk.evict_bytes(100)
    disk.unpin(VERSIONS[2])
    assert disk.evict_bytes(100)


def test_content_reused_during_an_eviction_is_kept(disk: DiskCache, lock: Lock) -> None:
    """vfs/semantics.md 4.36: a handle that has it open goes by it that every byte is here."""
    keep(disk, *VERSIONS[:3])

    def reuse() -> None:
        keep(disk, VERSIONS[2])
        assert disk.pin_and_get_size(VERSIONS[2]) == 100

    lock.before(2, reuse)  # the first file is removed
    assert disk.evict_bytes(300)
    assert (sizes(disk)[:3], disk.used_bytes) == ([None, None, 100], 100)
    assert disk.open_complete(VERSIONS[2], 100) is not None


def test_the_oldest_file_is_evicted_first_after_a_remount(start: Start, tmp_path: Path) -> None:
    """vfs/semantics.md 3.11: the files of an earlier mount."""
    keep(start(), *VERSIONS)
    for age, version in enumerate(VERSIONS):
        os.utime(path_of(tmp_path / "cache", version), (0, 1000 - age))
    disk = start()
    assert disk.evict_bytes(400)
    assert sizes(disk) == [100, 100, None, None, None, None]


def test_the_number_of_cached_files_is_bounded(start: Start) -> None:
    """vfs/semantics.md 6, Bounds: a small file that the job rewrites all day is a version each time."""
    versions = [Version(f"{number:024d}", "now", 100) for number in range(1002)]
    keep(disk := start(limit=1 << 20), *versions)
    disk.evict_to_limit()
    assert [disk.complete_size(version) for version in versions] == [None] * 2 + [100] * 1000


def test_files_that_jobfs_did_not_make_are_left_alone(start: Start, tmp_path: Path) -> None:
    (tmp_path / "cache" / "aa").mkdir(parents=True)
    foreign = [tmp_path / "cache" / "aa" / "notes.txt", tmp_path / "cache" / "README"]
    for path in foreign:
        path.write_bytes(b"mine")
    disk = start()
    disk.limit = 1
    keep(disk, VERSIONS[0])
    disk.evict_to_limit()
    assert (disk.used_bytes, *(path.exists() for path in foreign)) == (0, True, True)


def test_files_that_a_power_loss_may_have_damaged_are_removed(start: Start, tmp_path: Path) -> None:
    """vfs/semantics.md 3.2: a file of the right length may hold zeros that the kernel never replaced by the bytes."""
    disk, newest = start(), time.time() - 3600
    for version, age in zip(VERSIONS, (500, 70, 50, 0), strict=False):
        keep(disk, version)
        os.utime(path_of(tmp_path / "cache", version), (newest, newest - age))
    assert start().used_bytes == 400
    (tmp_path / "boot_id").write_text("second\n")
    assert [start().complete_size(version) for version in VERSIONS[:4]] == [100, 100, None, None]


def planted(directory: Path, version: Version, how: str) -> None:
    """Put a file of 100 bytes into the cache as another program would, or as a link to one."""
    path = path_of(directory, version)
    path.parent.mkdir(mode=0o700)
    if how == "link":
        elsewhere = directory.parent / "elsewhere"
        elsewhere.write_bytes(bytes(100))
        path.symlink_to(elsewhere)
    else:
        path.write_bytes(bytes(100))
        path.chmod(0o666 if how == "writable" else 0o600)
        os.chown(path, OTHER if how == "foreign" else -1, -1)


@pytest.mark.parametrize("how", ["foreign", "writable", "link"])
@AS_ROOT
def test_files_of_other_users_are_not_trusted(start: Start, tmp_path: Path, how: str) -> None:
    start()
    planted(tmp_path / "cache", VERSIONS[0], how)
    disk = start()
    assert (disk.complete_size(VERSIONS[0]), disk.open_complete(VERSIONS[0], 100)) == (None, None)
    assert disk.used_bytes == 0
    keep(disk, VERSIONS[0])
    assert disk.open_complete(VERSIONS[0], 100) is not None


# -- unfinished files


def test_a_write_that_a_disk_cuts_off_is_continued(disk: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 3.2: else the file would have a hole, which is read as zeros."""
    part, write = disk.create_partial(), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, position: write(fd, data[:3], position))
    write_all(part.fd, b"ten bytes.", 0)
    assert Path(part.path).read_bytes() == b"ten bytes."


def test_the_reason_for_not_caching_is_logged(disk: DiskCache, caplog: pytest.LogCaptureFixture) -> None:
    """vfs/semantics.md 3.12: handles still serve the bytes; a person sees why the cache stays empty."""
    part = disk.create_partial()
    os.unlink(part.path)
    assert not disk.commit(part, VERSIONS[0], 100)
    (message,) = caplog.messages
    assert message.startswith(
        "a file can't be kept in the content cache: [Errno 2] No such file or directory"
    )


def test_the_part_files_of_a_killed_mount_are_removed(start: Start) -> None:
    left = start().create_partial()
    assert left.is_linked()
    again = start()
    assert (left.is_linked(), again.create_partial().is_linked()) == (False, True)


@pytest.mark.parametrize("linked", [True, False], ids=["linked", "from another file system"])
def test_a_saved_file_becomes_a_private_part_file(
    disk: DiskCache, tmp_path: Path, in_memory: Path, linked: bool
) -> None:
    source = (tmp_path if linked else in_memory) / "source"
    source.write_bytes(b"hello")
    file = disk.create_partial_from(source, 5)
    assert (os.fstat(file.fd).st_ino == source.stat().st_ino) is linked
    path = Path(file.path)
    assert path.read_bytes() == b"hello"
    del file
    assert not path.exists(), "nobody refers to it"


def test_a_directory_open_to_others_becomes_private(start: Start, tmp_path: Path) -> None:
    """vfs/semantics.md 3.10: the content cache has mode 0700."""
    (tmp_path / "cache").mkdir(mode=0o755)
    start()
    assert [path.stat().st_mode & 0o77 for path in (tmp_path / "cache", tmp_path / "cache/tmp")] == [0, 0]


@AS_ROOT
def test_a_cache_recreated_by_another_user_is_not_used(disk: DiskCache, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").mkdir(mode=0o777)
    os.chown(tmp_path / "cache", OTHER, -1)
    with pytest.raises(PermissionError, match=rf"{errno.EACCES}\] the cache .* belongs to .* --cache-dir"):
        disk.create_partial()


# -- the caches of mounts that are gone


def test_a_cache_is_removed_with_its_state_directory_only(tmp_path: Path) -> None:
    """The cache directory may be that of all programs: their files, and files behind a link, are not touched."""
    caches, gone = tmp_path / "cache", tmp_path / "gone"

    def cache(directory: Path, owner: Path) -> DiskCache:
        disk = DiskCache(directory, 1000, threading.RLock(), state_directory=tmp_path)
        keep(disk, VERSIONS[0])
        disk.record_owner(owner)
        return disk

    own = cache(caches / "job" / "0123456789ab", tmp_path)
    abandoned = cache(caches / "another" / "fedcba987654", gone)
    others = [
        cache(caches / "another" / "aaaaaaaaaaaa", tmp_path),
        cache(caches / "program" / "settings", gone),
        cache(tmp_path / "elsewhere", gone),
    ]
    (caches / "job" / "fedcba987654").symlink_to(others[-1].directory)
    (caches / "job" / "0000000000ff").mkdir()
    (caches / "job" / "0000000000fe" / "owner").mkdir(parents=True)
    (abandoned.directory / "link").symlink_to(others[-1].directory)
    own.remove_orphaned_caches()
    assert not abandoned.directory.exists()
    assert [disk.complete_size(VERSIONS[0]) for disk in (own, *others)] == [100] * 4
    assert (caches / "job" / "0000000000ff").exists()
