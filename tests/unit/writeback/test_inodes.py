"""The overlay and the table of inodes."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from jobfs.nodes import Item, Kind
from jobfs.writeback.inodes import WHITEOUT, Inode, InodeTable, Overlay, new_inode_number
from jobfs.writeback.localbytes import LocalBytes


def file(path: str, ino: int = 7) -> Inode:
    return Inode(ino, Kind.FILE, path)


def test_an_entry_is_shown_until_it_is_removed() -> None:
    overlay, inode = Overlay(), file("dir/a")
    overlay.put("dir/a", inode)
    overlay.put("top", WHITEOUT)
    assert overlay.get("dir/a") is inode
    assert overlay.get("dir/b") is None
    assert overlay.children("dir") == {"a": inode}
    assert overlay.children("") == {"top": WHITEOUT}
    overlay.remove("dir/a", file("dir/a"))
    assert overlay.get("dir/a") is inode, "another entry was meant"
    overlay.remove("dir/a", inode)
    overlay.remove("dir/a")
    assert overlay.get("dir/a") is None
    assert overlay.children("dir") == {}


def test_everything_beneath_a_directory_is_found() -> None:
    overlay = Overlay()
    for path in ("a", "dir/b", "dir/sub/c", "dirt/d"):
        overlay.put(path, file(path))
    assert sorted(path for path, _ in overlay.beneath("dir")) == ["dir/b", "dir/sub/c"]
    assert len(overlay.beneath("")) == 4


def test_a_renamed_directory_takes_all_beneath_along() -> None:
    """semantics 4: rename of a directory: open and unsent files are re-keyed."""
    overlay = Overlay()
    inodes = {path: file(path) for path in ("old/a", "old/sub/b", "older/c")}
    for path, inode in inodes.items():
        overlay.put(path, inode)
    overlay.put("old/gone", WHITEOUT)
    overlay.put("new/there", WHITEOUT)
    overlay.move_tree("old", "new")
    assert overlay.get("new/a") is inodes["old/a"]
    assert overlay.get("new/sub/b") is inodes["old/sub/b"]
    assert overlay.get("new/gone") is WHITEOUT
    assert overlay.get("new/there") is WHITEOUT
    assert overlay.beneath("old") == []
    assert [inode.path for inode in inodes.values()] == ["new/a", "new/sub/b", "older/c"]


@pytest.mark.parametrize(
    ("other", "waits"), [("dir", True), ("dir/a", True), ("", True), ("dirt", False), ("b", False)]
)
def test_names_that_touch_are_changed_one_after_the_other(other: str, waits: bool) -> None:
    overlay, entered = Overlay(), threading.Event()

    def second() -> None:
        with overlay.changing(other):
            entered.set()

    thread = threading.Thread(target=second)
    with overlay.changing("dir", "dir/a/b"):
        thread.start()
        if not waits:
            assert entered.wait(10)
        else:
            assert not entered.wait(0.05)
    assert entered.wait(10)
    thread.join()


def test_names_are_free_again_after_an_error() -> None:
    overlay = Overlay()
    with pytest.raises(KeyError), overlay.changing("a"):
        raise KeyError
    with overlay.changing("a"):
        pass


def test_one_number_is_one_inode_as_long_as_it_is_needed() -> None:
    table, item = InodeTable(lambda item: 7), Item("1", Kind.FILE, "a")
    inode = table.hold(item, "a")
    assert table.hold(replace(item, path="other"), "other") is inode
    assert table.get(7) is inode
    table.drop(file("a"))
    assert table.all() == [inode], "another inode of that number was meant"
    table.drop(inode)
    assert table.get(7) is None
    table.add(inode)
    assert table.all() == [inode]


def test_a_file_that_was_changed_here_is_not_what_the_job_renames(tmp_path: Path) -> None:
    """semantics 1: two files never have one number."""
    table, item = InodeTable(lambda item: 7), Item("1", Kind.FILE, "dir/a")
    inode = table.hold(item, "dir/a")
    renamed = replace(item, path="new/a")
    assert table.of(renamed) is inode, "nothing was written to it"
    inode.local = LocalBytes(tmp_path / "bytes", tmp_path / "trash").new(7, 1)
    assert table.of(item) is inode
    assert table.of(renamed) is None
    assert table.number(renamed) != 7
    with table.moving("dir", "new"):
        assert table.of(renamed) is inode, "it is being renamed here"
    other = table.hold(renamed, "new/a")
    assert other is not inode
    assert table.of(renamed) is other
    inode.local.close()


def test_numbers_of_new_files_are_fit_for_the_kernel() -> None:
    numbers = {new_inode_number() for _ in range(1000)}
    assert len(numbers) == 1000
    assert all(2 < number < 1 << 63 for number in numbers)


def test_a_write_is_noticed() -> None:
    inode = file("a")
    assert not inode.dirty
    assert not inode.written
    inode.touch()
    assert inode.written
    assert inode.mtime_ns == inode.ctime_ns > 0
