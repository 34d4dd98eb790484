"""Handles: the version that each goes on with (vfs/semantics.md 3, Open files are pinned),
and when the kernel may keep its pages.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from jobfs.nodes import Item, Kind, Version
from jobfs.state import File
from jobfs.state.records import Handle
from jobfs.vfs.handles import OpenFile, PageCacheTracker

ONE, OTHER = Version("a", "1", 10), Version("a", "2", 10)
OLD = Item("a", Kind.FILE, "file", updated_at="1")


def test_a_rename_by_this_mount_keeps_the_base_of_later_saves() -> None:
    """save/protocol.md, Vocabulary, base: what was opened; the answer may have the time of what the job wrote since."""
    handle = Handle(File(7), OLD, os.O_RDWR)
    renamed = replace(OLD, path="other", updated_at="2")
    handle.follow_rename(renamed)
    assert (handle.item, handle.base_item) == (renamed, OLD)
    handle.follow_rename(replace(renamed, id="z"))
    assert (handle.item, handle.base_item) == (renamed, OLD), "that is another file"
    handle.item = followed = replace(OLD, updated_at="3")
    handle.follow_rename(replace(followed, path="other"))
    assert handle.base_item == OLD


@pytest.fixture
def pages() -> PageCacheTracker:
    return PageCacheTracker()


def visit(pages: PageCacheTracker, path: str, version: Version | None) -> bool:
    """Opens and closes; True if the pages were kept."""
    kept = pages.register(handle := reader(pages, version), path, version)
    assert pages.unregister(handle.fh) is handle
    return kept


def closed(pages: PageCacheTracker, handle: OpenFile) -> None:
    pages.unregister(handle.fh)


def reader(pages: PageCacheTracker, version: Version | None) -> OpenFile:
    item = None if version is None else replace(OLD, updated_at=version.updated_at, size=version.size)
    view: Any = None
    return OpenFile(view, pages, File(7), item, os.O_RDONLY)


def opened(pages: PageCacheTracker, path: str, version: Version | None) -> OpenFile:
    handle = reader(pages, version)
    pages.register(handle, path, version)
    return handle


def test_the_same_version_at_the_same_path_keeps_its_pages(pages: PageCacheTracker) -> None:
    assert [visit(pages, "x", ONE) for _ in range(3)] == [False, True, True]
    assert not visit(pages, "y", ONE), "another path has other pages"
    assert [visit(pages, "x", version) for version in (OTHER, OTHER, ONE)] == [False, True, False]


def test_no_pages_are_kept_while_two_versions_are_open_nor_right_after(pages: PageCacheTracker) -> None:
    visit(pages, "x", OTHER)
    first = opened(pages, "x", ONE)
    second = opened(pages, "x", OTHER)
    closed(pages, second)
    assert not visit(pages, "x", OTHER), "the first one is still open, and may be read"
    closed(pages, first)
    assert not visit(pages, "x", OTHER)
    assert visit(pages, "x", OTHER)


def test_two_open_files_at_a_path_may_have_read_each_others_version(pages: PageCacheTracker) -> None:
    """vfs/semantics.md 3.13: the kernel has one set of pages for a path: what it has read for one program, it gives to others."""
    first, second = (opened(pages, "x", ONE) for _ in range(2))
    assert (first.has_read, second.has_read, opened(pages, "y", ONE).has_read) == (True, True, False)


def test_no_pages_are_kept_after_a_writer(pages: PageCacheTracker) -> None:
    visit(pages, "x", ONE)
    writer = opened(pages, "x", None)
    assert not visit(pages, "x", ONE)
    closed(pages, writer)
    assert [visit(pages, "x", ONE) for _ in range(2)] == [False, True]


def test_no_pages_are_kept_after_a_handle_followed_a_newer_version(
    pages: PageCacheTracker,
) -> None:
    follower = opened(pages, "x", ONE)
    pages.forget_version("x")
    follower.item = reader(pages, OTHER).item
    assert not visit(pages, "x", ONE)
    closed(pages, follower)
    assert not visit(pages, "x", ONE)


def test_open_files_move_with_their_directory(pages: PageCacheTracker) -> None:
    visit(pages, "dir/x", ONE)
    reader = opened(pages, "dir/x", ONE)
    opened(pages, "new/x", OTHER)
    pages.note_node_moved("dir", "new", directory=True)
    assert (reader.node_path, pages.is_only_version("new/x", ONE)) == ("new/x", True), (
        "what was there is at no path"
    )
    assert not pages.handles_at("dir/x")
    assert not visit(pages, "dir/x", ONE), "another file may be there now"


def test_the_handles_at_a_path_are_found_without_a_scan(pages: PageCacheTracker) -> None:
    """vfs/semantics.md 1.6: `ls -l` asks this of each entry, beside any number of open files."""
    handles = [opened(pages, f"dir/{number}", ONE) for number in range(3)]
    second = opened(pages, "dir/1", OTHER)

    class Unread(dict[int, OpenFile]):
        def values(self) -> Any:
            raise AssertionError("all handles are looked at")

        __iter__ = items = values

    everything, pages.handles = pages.handles, Unread(pages.handles)
    assert (pages.handles_at("dir/0"), pages.handles_at("dir/1")) == ((handles[0],), (handles[1], second))
    assert (
        pages.handles_at("dir"),
        pages.handles_at(""),
        pages.has_open_within("dir"),
        pages.has_open_within("di"),
    ) == (
        (),
        (),
        True,
        False,
    )
    pages.note_node_moved("dir/0", "dir/1", directory=False)
    assert (pages.handles_at("dir/0"), pages.handles_at("dir/1"), second.node_path) == ((), (handles[0],), "")
    pages.note_node_moved("dir", "other", directory=True)
    assert (pages.handles_at("other/1"), pages.handles_at("other/2")) == ((handles[0],), (handles[2],))
    pages.note_node_detached("other/1")
    assert (handles[0].node_path, pages.has_open_within("other/1"), pages.has_open_within("other")) == (
        "",
        False,
        True,
    )
    pages.handles = everything
    for handle in (*handles, second):
        closed(pages, handle)
    assert (pages.handles, pages._at) == ({}, {}), "nothing is left of a file that is closed"
    assert pages.unregister(7) is None
