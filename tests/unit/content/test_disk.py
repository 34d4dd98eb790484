"""The files of the cache directory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobfs.content import disk as disk_module
from jobfs.content.disk import Backing, DiskCache, version_name
from jobfs.content.parts import CacheFile, write_all
from jobfs.nodes import Version

#: A user that is not this one.
OTHER = 65534

VERSIONS = [Version(f"{number:024d}", "now", 100) for number in range(6)]
NAMES = [version_name(version) for version in VERSIONS]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskCache]:
    made = DiskCache(tmp_path, 1000, threading.RLock())
    made.scan()
    yield made
    made.parts.close()


def keep(disk: DiskCache, name: str, size: int = 100) -> None:
    part = disk.parts.new()
    write_all(part.fd, bytes(size), 0)
    disk.keep(part, name, size)


def test_each_version_has_a_name() -> None:
    versions = [
        ("a", "x", 1),
        ("a", "x", 2),
        ("a", "x", None),
        ("a", "y", 1),
        ("b", "x", 1),
        ("a\udc80", "x", 1),
    ]
    assert len({version_name(Version(*version)) for version in versions}) == len(versions)


def test_a_file_of_the_wrong_length_is_removed(disk: DiskCache) -> None:
    keep(disk, NAMES[0])
    assert disk.open(NAMES[0], 99) is None
    assert disk.open(NAMES[0], 100) is None
    assert disk.used == 0


def test_eviction_frees_what_is_needed_oldest_first_and_spares_what_is_in_use(disk: DiskCache) -> None:
    for name in NAMES:
        keep(disk, name)
    disk.touch(NAMES[0])
    disk.pinned[NAMES[2]] += 1
    disk.limit = 350
    disk.fit()
    assert [disk.size(version) for version in VERSIONS] == [100, None, 100, None, None, 100]
    assert disk.free(100)
    assert [disk.size(version) for version in VERSIONS] == [None, None, 100, None, None, None]
    assert not disk.free(100)


def test_there_are_not_more_of_them_than_the_limit_has_room_for(
    disk: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 6, Bounds: nothing grows with the hours;
    a small file that the job rewrites all day is a version each time.
    """
    monkeypatch.setattr(disk_module, "_FEW", 4)
    for name in NAMES:
        keep(disk, name)
    disk.fit()
    assert [disk.size(version) for version in VERSIONS] == [None, None, 100, 100, 100, 100]


def test_a_content_that_is_just_being_put_in_its_place_counts_once(
    disk: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted twice, it would cost another content its place: the limit is looked at by any thread at any time."""
    for name in NAMES[1:]:
        keep(disk, name)
    disk.limit = 600
    backing, put = Backing(VERSIONS[0], 100, disk), disk.keep
    backing.write(0, b"x" * 100)

    def overtaken(file: CacheFile, name: str, size: int) -> CacheFile:
        file = put(file, name, size)
        disk.fit()
        return file

    monkeypatch.setattr(disk, "keep", overtaken)
    backing.keep()
    assert (disk.used, [disk.size(version) for version in VERSIONS]) == (600, [100] * 6)


def test_what_another_thread_removes_while_the_directory_is_read_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = DiskCache(tmp_path, 1000, threading.RLock())
    keep(disk, NAMES[0])
    read = disk._files

    def overtaken() -> Iterator[disk_module._Found]:
        found = list(read())
        monkeypatch.undo()
        disk.scan()
        disk.remove(NAMES[0])
        yield from found

    monkeypatch.setattr(disk, "_files", overtaken)
    disk.scan()
    assert disk.used == 0
    disk.parts.close()


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "aa").mkdir(mode=0o700)
    (tmp_path / "aa" / "notes.txt").write_bytes(b"mine")
    (tmp_path / "README").write_bytes(b"mine")
    disk = DiskCache(tmp_path, 1, threading.RLock())
    disk.scan()
    keep(disk, NAMES[0])
    disk.fit()
    assert disk.used == 0
    assert (tmp_path / "aa" / "notes.txt").exists()
    assert (tmp_path / "README").exists()
    disk.parts.close()


def test_the_last_minute_before_a_power_cut_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the right length may hold zeros that the kernel never replaced by the bytes."""
    boot = tmp_path / "boot_id"
    boot.write_text("first\n")
    monkeypatch.setattr(disk_module, "_BOOT_ID", boot)
    directory = tmp_path / "cache"
    disk = DiskCache(directory, 1000, threading.RLock())
    now = time.time()
    for name, age in zip(NAMES, (500, 70, 50, 0), strict=False):
        keep(disk, name)
        os.utime(directory / name[:2] / name, (now, now - age))
    disk.parts.close()
    same = DiskCache(directory, 1000, threading.RLock())
    assert same.used == 400
    same.parts.close()
    boot.write_text("second\n")
    rebooted = DiskCache(directory, 1000, threading.RLock())
    assert [rebooted.size(version) for version in VERSIONS[:4]] == [100, 100, None, None]
    rebooted.parts.close()


def planted(directory: Path, name: str, how: str) -> None:
    """Puts a file of 100 bytes into the cache as somebody else would, or as a link to one."""
    path = directory / name[:2] / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    if how == "link":
        elsewhere = directory.parent / "elsewhere"
        elsewhere.write_bytes(bytes(100))
        path.symlink_to(elsewhere)
    elif how == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(bytes(100))
        path.chmod(0o666 if how == "writable" else 0o600)
        os.chown(path, OTHER if how == "foreign" else -1, -1)


@pytest.mark.parametrize("how", ["foreign", "writable", "link", "pipe"])
@pytest.mark.usefixtures("root")
def test_nothing_that_another_user_can_have_written_is_believed(
    disk: DiskCache, tmp_path: Path, how: str
) -> None:
    planted(tmp_path, NAMES[0], how)
    assert disk.size(VERSIONS[0]) is None
    disk.scan()
    assert disk.used == 0
    assert disk.open(NAMES[0], None) is None
    keep(disk, NAMES[0])
    assert disk.open(NAMES[0], 100) is not None


@pytest.mark.usefixtures("root")
def test_a_mark_of_the_boot_that_another_user_made_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("first\n")
    monkeypatch.setattr(disk_module, "_BOOT_ID", boot)
    directory, victim = tmp_path / "cache", tmp_path / "victim"
    directory.mkdir()
    victim.write_text("as it was")
    (directory / "boot").symlink_to(victim)
    made = DiskCache(directory, 1000, threading.RLock())
    keep(made, NAMES[0])
    made.parts.close()
    assert victim.read_text() == "as it was"
    assert (directory / "boot").read_text() == "first"
    os.chown(directory / "boot", OTHER, -1)
    again = DiskCache(directory, 1000, threading.RLock())
    assert again.size(VERSIONS[0]) is None
    again.parts.close()


def test_bytes_that_were_forgotten_are_not_read_from_the_hole_of_a_newer_part(disk: DiskCache) -> None:
    """A reader learns that its bytes are there, and another thread may begin anew before it reads them."""
    backing = Backing(VERSIONS[0]._replace(size=300), 300, disk)
    backing.write(0, b"x" * 100)
    backing.reset()
    backing.write(200, b"y" * 100)
    assert backing.load(0, 100) is None
    assert backing.load(200, 300) == b"y" * 100
