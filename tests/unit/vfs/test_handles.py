"""Open files: the version that each shows, whatever the job does to the file (vfs/semantics.md 3, Open files are pinned), and
when the kernel may keep its pages.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.support.files import errno_from

from jobfs.nodes import Item, Kind, Version
from jobfs.state import File
from jobfs.state.records import Handle
from jobfs.vfs.handles import OpenFile, PageCacheTracker

from .world import CALLER, World

ONE, OTHER = Version("a", "1", 10), Version("a", "2", 10)
ITEM = Item("a", Kind.FILE, "file", updated_at="1")
LOG = b"".join(b"line %d\n" % number for number in range(1000))
OLD, NEW, MINE = b"an old line\n", b"an old line\nand more\n", b"mine\n"
LARGE = b"x" * (2 << 20)
READ, WRITE, APPEND = os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND


def test_a_rename_by_this_mount_keeps_the_base_of_later_saves() -> None:
    """save/protocol.md, Vocabulary, base: what was opened; the answer may have the time of what the job wrote since."""
    handle = Handle(File(7), ITEM, os.O_RDWR)
    renamed = replace(ITEM, path="other", updated_at="2")
    handle.follow_rename(renamed)
    assert (handle.item, handle.base_item) == (renamed, ITEM)
    handle.follow_rename(replace(renamed, id="z"))
    assert (handle.item, handle.base_item) == (renamed, ITEM), "that is another file"
    handle.item = followed = replace(ITEM, updated_at="3")
    handle.follow_rename(replace(followed, path="other"))
    assert handle.base_item == ITEM


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
    item = None if version is None else replace(ITEM, updated_at=version.updated_at, size=version.size)
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


def test_no_pages_are_kept_of_a_version_that_was_forgotten(pages: PageCacheTracker) -> None:
    visit(pages, "x", ONE)
    visit(pages, "y", ONE)
    pages.forget_version("x")
    assert (visit(pages, "x", ONE), visit(pages, "y", ONE)) == (False, True)


def test_no_pages_are_kept_after_a_writer(pages: PageCacheTracker) -> None:
    visit(pages, "x", ONE)
    writer = opened(pages, "x", None)
    assert not visit(pages, "x", ONE)
    closed(pages, writer)
    assert [visit(pages, "x", ONE) for _ in range(2)] == [False, True]


def test_no_pages_are_kept_after_a_handle_followed_a_newer_version(pages: PageCacheTracker) -> None:
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
    assert pages.handles_at("dir") == pages.handles_at("") == ()
    assert (pages.has_open_within("dir"), pages.has_open_within("di")) == (True, False)
    pages.note_node_moved("dir/0", "dir/1", directory=False)
    assert (pages.handles_at("dir/0"), pages.handles_at("dir/1"), second.node_path) == ((), (handles[0],), "")
    pages.note_node_moved("dir", "other", directory=True)
    assert (pages.handles_at("other/1"), pages.handles_at("other/2")) == ((handles[0],), (handles[2],))
    pages.note_node_detached("other/1")
    assert handles[0].node_path == ""
    assert (pages.has_open_within("other/1"), pages.has_open_within("other")) == (False, True)
    pages.handles = everything
    for handle in (*handles, second):
        closed(pages, handle)
    assert (pages.handles, pages._at) == ({}, {}), "nothing is left of a file that is closed"
    assert pages.unregister(7) is None


def test_a_handle_may_be_at_the_end_because_of_another_handle(pages: PageCacheTracker) -> None:
    """vfs/semantics.md 3.14: of the same version; and where the kernel keeps the pages of a handle that was closed."""
    reading, other, beside = (opened(pages, "file", version) for version in (ONE, OTHER, ONE))
    assert not beside.end_in_pages
    pages.note_end_read(reading)
    assert [each.end_in_pages for each in (reading, other, beside)] == [False, False, True]
    first, again, elsewhere = (opened(pages, path, ONE) for path in ("kept", "kept", "new"))
    assert [each.end_in_pages for each in (first, again, elsewhere)] == [False, True, False]


def open_file(world: World, path: str, flags: int = READ) -> OpenFile:
    handle = world.files.get_handle(world.open(path, flags, pid=CALLER.pid).fh)
    assert isinstance(handle, OpenFile)
    return handle


def recreate(world: World, path: str, content: bytes, *, after: float = 1.0) -> None:
    """The job replaces the file by another one; the mount has not looked since, for `after` seconds."""
    del world.server.items[f"id of {path}"], world.server.contents[f"id of {path}"]
    world.server.put(f"another id of {path}", path, content)
    world.clock.advance(after)


# A version that the server still has, or that is here


def test_an_open_file_keeps_its_version(world: World) -> None:
    world.seed({"file": OLD})
    handle = open_file(world, "file")
    assert handle.read(2, 3) == b"ol"
    world.seed({"file": NEW})
    assert (handle.read(100, 0), handle.shown_size(), handle.attr().size) == (OLD, len(OLD), len(OLD))
    assert open_file(world, "file").read(100, 0) == NEW


@pytest.mark.parametrize(("now", "follows"), [
    (LOG + b"more\n", True), (LOG.replace(b"line 0\n", b"LINE 0\n") + b"more\n", True),
    (LOG[:-2] + b"!\nmore\n", False), (LOG.replace(b"line 600\n", b"LINE 600\n") + b"more\n", False),
    (b"new", False), (LOG, False),
], ids=["grown", "changed long before", "changed just before", "changed within the tail", "shorter", "touched"])  # fmt: skip
def test_a_reader_at_the_end_follows_a_file_if_it_has_grown(world: World, now: bytes, follows: bool) -> None:
    """vfs/semantics.md 3.14: with a newer version that is longer and has the same last 4 KiB before the reader's place."""
    world.seed({"log": LOG})
    handle = open_file(world, "log")
    assert [handle.read(len(LOG), 0), handle.read(100, len(LOG))] == [LOG, b""]
    world.seed({"log": now})
    for _ in range(2):
        assert handle.read(100, len(LOG)) == (b"more\n" if follows else b"")
    assert handle.read(len(LOG), 0) == (now[: len(LOG)] if follows else LOG)


def test_a_version_that_does_not_continue_a_log_is_fetched_once(world: World) -> None:
    world.seed({"log": LOG})
    handle = open_file(world, "log")
    handle.read(len(LOG) + 1, 0)
    world.seed({"log": b"new" + LOG})
    for _ in range(3):
        assert handle.read(100, len(LOG)) == b""
    assert [request for request in world.requests() if request.startswith("download")] == [
        "download id of log"
    ]


def test_a_stat_at_the_end_shows_that_a_log_has_grown(world: World) -> None:
    """vfs/semantics.md 3.14: the kernel asks once before it delivers the last bytes; of an empty file at once."""
    world.seed({"log": OLD, "empty": b""})
    log, empty = open_file(world, "log"), open_file(world, "empty")
    assert [log.attr().size, log.read(len(OLD), 0)] == [len(OLD), OLD], "what it asked before does not count"
    world.seed({"log": NEW, "empty": b"no more\n"})
    assert [log.attr().size for _ in range(3)] == [len(OLD), len(NEW), len(NEW)]
    assert (log.read(100, len(OLD)), empty.attr().size) == (NEW[len(OLD) :], 8)


def test_a_reader_follows_a_log_of_which_another_reads_each_end(world: World) -> None:
    """vfs/semantics.md 3.14: the kernel has read the new end for the other before this one shows the newer version."""
    world.seed({"log": LOG})
    first, second = open_file(world, "log"), open_file(world, "log")
    assert first.read(len(LOG) + 1, 0) == LOG
    for number in range(1, 4):
        shown = LOG + b"more\n" * number
        world.seed({"log": shown})
        assert [first.attr().size for _ in range(2)][-1] == len(shown)
        assert first.read(len(shown) + 1, 0) == shown
        assert [second.attr().size for _ in range(2)][-1] == len(shown)


def test_a_reader_that_is_not_at_the_end_follows_nothing(world: World) -> None:
    world.seed({"log": OLD})
    handle = open_file(world, "log")
    assert handle.read(len(OLD) - 1, 0) == OLD[:-1]
    world.seed({"log": NEW})
    assert [handle.attr().size for _ in range(3)] == [len(OLD)] * 3
    assert [handle.read(100, 3) for _ in range(2)] == [OLD[3:]] * 2, "the kernel reads ahead"
    assert handle.read(100, 3) == NEW[3:], "a program that knows of more bytes asks again"


def grow(world: World, path: str, content: bytes) -> None:
    """The job writes to the file; the mount has not looked since."""
    world.put(path, content)
    world.clock.advance(1)


@pytest.mark.parametrize("write", [grow, recreate])
def test_a_reader_follows_a_log_that_grows_again_while_it_is_fetched(
    world: World, write: Callable[[World, str, bytes], None]
) -> None:
    """vfs/semantics.md 3.14, 5: the listed version has gone since, so the name is looked up again."""
    world.seed({"log": OLD})
    handle = open_file(world, "log")
    assert handle.read(100, 0) == OLD
    world.seed({"log": NEW})
    write(world, "log", NEW + MINE)
    assert handle.read(100, len(OLD)) == (NEW + MINE)[len(OLD) :]


def test_a_reader_of_a_log_gets_its_beginning_from_a_newer_version(world: World) -> None:
    """vfs/semantics.md 3.14: where the version that it follows is gone, however recently the name was looked up."""
    world.seed({"log": LARGE})
    handle = open_file(world, "log")
    assert handle.read(100, len(LARGE) - 3) == LARGE[:3]
    world.seed({"log": LARGE + OLD})
    assert handle.read(100, len(LARGE)) == OLD
    recreate(world, "log", LARGE + NEW, after=0.5)
    assert handle.read(100, 0) == LARGE[:100]
    assert (handle.shown_size(), handle.read(100, len(LARGE))) == (len(LARGE + NEW), NEW)


@pytest.mark.parametrize("lose", [0, 1])
def test_a_reader_at_the_end_of_what_was_saved_here_stays_there(world: World, lose: int) -> None:
    """vfs/semantics.md 3.14, 4.2: the bytes are an item now, even if the reply to that was lost; none is newer."""
    world.seed({})
    world.write("log", OLD)
    handle = open_file(world, "log")
    world.server.before["update"] = [lambda: setattr(world.server, "lose", lose)]
    world.drain_file("log")
    assert [handle.read(100, 0), handle.read(100, len(OLD))] == [OLD, b""]
    assert [handle.attr().size for _ in range(2)] == [len(OLD)] * 2


def test_a_reader_follows_a_log_without_a_size(world: World) -> None:
    """vfs/semantics.md 2.2, 3.14: the listed version has gone before its size was measured."""
    world.seed({"log": OLD})
    handle = open_file(world, "log")
    assert handle.read(100, 0) == OLD
    world.put("log", NEW)
    world.omit_size("log")
    world.list_again()
    recreate(world, "log", NEW + MINE)
    assert handle.read(100, len(OLD)) == (NEW + MINE)[len(OLD) :]


def test_a_writer_follows_no_log(world: World) -> None:
    """vfs/semantics.md 4, Keep both: its saves keep what the job has written since its open."""
    world.seed({"log": OLD})
    handle = open_file(world, "log", WRITE)
    assert handle.read(100, 0) == OLD
    world.seed({"log": NEW})
    assert [handle.read(100, len(OLD)) for _ in range(4)] == [b""] * 4
    assert (handle.attr().size, handle.base_item) == (len(OLD), handle.item)


# A version that the server has no longer, and that was not fetched


def test_a_reader_of_a_lost_version_gets_all_of_the_next_one(world: World) -> None:
    """vfs/semantics.md 3.17: a large file is fetched after its open."""
    world.seed({"file": LARGE})
    handle = open_file(world, "file")
    ino = handle.attr().ino
    recreate(world, "file", NEW)
    assert (handle.read(100, 0), handle.attr().size, handle.attr().ino) == (NEW, len(NEW), ino)
    assert handle.item is not None
    assert handle.item.id == "another id of file"


class ReplacedDuringRead:
    """The bytes of a handle, which another read of the program replaces by those of the next version."""

    def __init__(self, handle: OpenFile) -> None:
        self._handle, self._content = handle, handle.content
        handle.content = self

    def read(self, offset: int, size: int) -> bytes:
        assert self._content is not None
        data = self._content.read(offset, size)
        assert self._handle.follow_newer(max_age=0.0)
        return data

    def close(self) -> None:
        """The test closes the world."""


def test_bytes_of_a_version_that_another_read_has_replaced_are_not_delivered(world: World) -> None:
    """vfs/semantics.md 3.13: all bytes that one handle returns are of one version."""
    world.seed({"file": OLD})
    handle = open_file(world, "file")
    ReplacedDuringRead(handle)
    recreate(world, "file", MINE)
    assert (handle.read(100, 0), handle.has_read) == (MINE, True)


@pytest.mark.parametrize(("new", "is_known"), [(b"y" * len(LARGE), True), (LARGE + NEW, False)])
def test_a_version_of_another_size_that_replaced_a_lost_one_is_not_read(
    world: World, new: bytes, is_known: bool
) -> None:
    """vfs/semantics.md 3.17, 4.42: the program may have got only a part of it, so its save does not replace it."""
    world.seed({"file": LARGE})
    handle = open_file(world, "file")
    recreate(world, "file", new)
    assert handle.read(100, 0) == new[:100]
    world.files.release(handle.fh)
    writer = open_file(world, "file", os.O_WRONLY | os.O_TRUNC)
    assert writer.file.base.id == ("another id of file" if is_known else "id of file")


def test_a_reader_of_a_lost_version_gets_no_bytes_of_another(world: World) -> None:
    """vfs/semantics.md 3.13: it has read from the version, if only from pages that the kernel read for another program."""
    world.seed({"file": LARGE})
    first, second = open_file(world, "file"), open_file(world, "file")
    recreate(world, "file", NEW)
    assert [errno_from(handle.read, 100, 0) for handle in (first, second)] == [errno.ESTALE] * 2
    assert world.lookup.getattr("file").size == len(NEW), "the name is looked up again"
    assert open_file(world, "file").read(100, 0) == NEW


def test_a_reader_asks_once_for_bytes_that_are_gone_from_a_listed_version(world: World) -> None:
    """vfs/semantics.md 3.13: the name still shows the version that is open, so there is no other one to read."""
    world.seed({"file": LARGE})
    handle = open_file(world, "file")
    world.requests()
    world.server.contents.pop("id of file")
    assert errno_from(handle.read, 100, 0) == errno.ENOENT
    assert [request for request in world.requests() if request.startswith("download")] == [
        "download id of file"
    ]


@pytest.mark.parametrize("flags", [READ, WRITE])
def test_an_open_finds_a_newer_file_beside_one_that_is_open(world: World, flags: int) -> None:
    """vfs/semantics.md 3.13, 5: the known version has gone; no program has got bytes of it, and the open one stays."""
    world.seed({"file": OLD})
    beside = open_file(world, "file")
    world.seed({"file": MINE})
    recreate(world, "file", NEW)
    handle = open_file(world, "file", flags)
    assert (handle.read(100, 0), handle.base_item) == (NEW, handle.item)
    assert beside.read(100, 0) == OLD


@pytest.mark.parametrize("flags", [READ, WRITE])
def test_an_open_finds_the_file_that_the_job_has_made_since(world: World, flags: int) -> None:
    """vfs/semantics.md 5: 404: the known item is dropped, and the name is looked up again."""
    world.seed({"file": OLD, "gone": OLD})
    recreate(world, "file", NEW)
    recreate(world, "gone", NEW)
    del world.server.items["another id of gone"]
    assert open_file(world, "file", flags).read(100, 0) == NEW
    assert errno_from(world.open, "gone", flags) == errno.ENOENT
    assert errno_from(world.lookup.getattr, "gone") == errno.ENOENT


@pytest.mark.parametrize("flags", [READ, WRITE])
def test_an_open_finds_a_version_that_only_its_length_distinguishes(world: World, flags: int) -> None:
    """vfs/semantics.md 2.2, 5: of a server that sends no sizes, and times of whole seconds."""
    world.put("file", OLD, updated_at="one second")
    world.omit_size("file")
    world.list_again()
    assert world.lookup.getattr("file").size == len(OLD)
    assert world.content.evict_on_disk_of(world.state.bytes.directory, 1 << 20)
    world.put("file", NEW, updated_at="one second")
    world.omit_size("file")
    world.clock.advance(1)
    handle = open_file(world, "file", flags)
    assert (handle.read(100, 0), handle.attr().size) == (NEW, len(NEW))


@pytest.mark.parametrize("flags", [READ, WRITE])
def test_an_open_of_a_large_file_looks_for_a_newer_version(world: World, flags: int) -> None:
    """vfs/semantics.md 3.17: its bytes are fetched later, so its size must be the newest; also beside an open one."""
    world.seed({"file": LARGE})
    beside = open_file(world, "file")
    grow(world, "file", LARGE + NEW)
    handle = open_file(world, "file", flags)
    assert (handle.shown_size(), handle.base_item) == (len(LARGE + NEW), handle.item)
    assert beside.shown_size() == len(LARGE)


def test_only_a_first_write_has_bytes_to_copy(world: World) -> None:
    """vfs/semantics.md 4.41: on a full disk, that much room is made before the write is tried again."""
    world.seed({"file": OLD})
    handle = open_file(world, "file", WRITE)
    assert handle.bytes_to_copy() == len(OLD)
    world.files.write(handle.fh, MINE, 0)
    assert handle.bytes_to_copy() == 0


# Writes that may rely on the end of another version


@pytest.mark.parametrize(("flags", "new", "place", "error"), [
    (WRITE, NEW, len(NEW), errno.ESTALE), (WRITE, NEW, len(OLD) + 1, errno.ESTALE), (WRITE, OLD[:-3], len(OLD) - 3, errno.ESTALE),
    (WRITE, NEW, 0, 0), (WRITE, NEW, len(OLD), 0), (WRITE, OLD[:-3], len(OLD), 0), (WRITE, OLD[::-1], len(OLD) + 9, 0),
    (APPEND, NEW, len(NEW), 0),
], ids=[
    "the newer end", "behind the opened end", "the newer, earlier end",
    "the start", "the opened end", "the opened end, behind the newer one", "behind both, of one size", "appended",
])  # fmt: skip
def test_a_first_write_at_the_end_of_a_newer_version_fails(
    world: World, flags: int, new: bytes, place: int, error: int
) -> None:
    """vfs/semantics.md 3.17, 4.20: elsewhere it changes the opened version; further writes may be anywhere."""
    world.seed({"file": OLD})
    handle = open_file(world, "file", flags)
    world.seed({"file": new})
    assert [errno_from(world.files.write, handle.fh, MINE, place) for _ in range(2)] == [error] * 2
    if error:
        assert errno_from(world.files.ftruncate, handle.fh, place) == error
    elif flags == WRITE:
        assert errno_from(world.files.write, handle.fh, MINE, 50) == 0
        assert handle.read(place, 0) == OLD.ljust(place, b"\0")[:place]


def test_the_end_of_a_mapped_page_counts(world: World) -> None:
    """vfs/semantics.md 3.17: the kernel sends a page up to the end of the file as it knows it."""
    world.seed({"file": OLD})
    handle = open_file(world, "file", WRITE)
    world.seed({"file": NEW})
    page = OLD.ljust(len(NEW), b"\0")
    assert errno_from(world.files.write, handle.fh, page, 0, mapped=True) == errno.ESTALE


@pytest.mark.parametrize(("ours", "theirs"), [(OLD, NEW), (NEW, OLD)], ids=["longer", "shorter"])
def test_a_program_that_knows_another_size_of_a_changed_file_must_empty_it(
    world: World, ours: bytes, theirs: bytes
) -> None:
    """vfs/semantics.md 3.17: what another program changes is another version; it would leave a gap, or overwrite the end."""
    world.seed({"file": ours})
    first, appender = open_file(world, "file", WRITE), open_file(world, "file", APPEND)
    world.seed({"file": theirs})
    second = open_file(world, "file", WRITE)
    assert second.file is first.file
    world.files.write(first.fh, MINE, 0)
    changed = MINE + ours[len(MINE) :]
    for place in (0, len(theirs)):
        assert errno_from(world.files.write, second.fh, MINE, place) == errno.ESTALE
    assert errno_from(world.files.ftruncate, second.fh, len(theirs)) == errno.ESTALE
    assert second.read(100, 0) == changed, "it has written nothing, and may read"
    world.files.write(first.fh, MINE, len(ours))
    world.files.write(appender.fh, MINE, 0)
    again = open_file(world, "file", WRITE)
    world.files.write(again.fh, MINE, len(changed + MINE * 2))
    assert second.read(100, 0) == changed + MINE * 3
    world.files.ftruncate(second.fh, 0)
    world.files.write(second.fh, MINE, 3)
    assert first.read(100, 0) == bytes(3) + MINE


@pytest.mark.parametrize(("flags", "new", "error"), [
    (WRITE, LARGE + NEW, errno.ESTALE), (WRITE, LARGE[:-9], errno.ESTALE), (WRITE, b"y" * len(LARGE), 0),
    (APPEND, LARGE + NEW, 0),
], ids=["longer", "shorter", "of the same size", "appended"])  # fmt: skip
def test_a_write_to_a_lost_version_changes_only_a_matching_one(
    world: World, flags: int, new: bytes, error: int
) -> None:
    """vfs/semantics.md 3.17: a large file is fetched after its open; its end is elsewhere in the job's version."""
    world.seed({"file": LARGE})
    world.server.contents.pop("id of file")  # so that it is not fetched in the background
    handle = open_file(world, "file", flags)
    world.server.contents["id of file"] = LARGE
    recreate(world, "file", new)
    assert errno_from(world.files.write, handle.fh, MINE, 3) == error


@pytest.mark.parametrize(("flags", "is_base"), [(os.O_WRONLY, True), (WRITE, False)])
def test_only_a_writer_that_can_read_keeps_the_lost_version_as_base(
    world: World, flags: int, is_base: bool
) -> None:
    """vfs/semantics.md 4.42: the kernel may have served its reads; of what it could not read, a writer knows nothing."""
    world.seed({"file": LARGE})
    world.server.contents.pop("id of file")  # so that it is not fetched in the background
    handle = open_file(world, "file", flags)
    world.server.contents["id of file"] = LARGE
    recreate(world, "file", b"y" * len(LARGE))
    world.files.write(handle.fh, MINE, 3)
    assert handle.base_item is not None
    assert handle.base_item.id == ("another id of file" if is_base else "id of file")
