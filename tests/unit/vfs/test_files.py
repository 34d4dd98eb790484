"""Opens: with which errno they fail, which bytes the handle shows, and how the kernel caches them."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.files import errno_from, open_below
from tests.support.waiting import eventually

from jobfs.nodes import Permission
from jobfs.vfs.handles import ControlFile, KernelFile

from .conftest import MakeWorld
from .world import CALLER, World

WRITE, TRUNCATE, APPEND = os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND

OPENS = [
    ("file", WRITE, 0),
    ("dir", os.O_RDONLY, errno.EISDIR),
    ("none", os.O_RDONLY, errno.ENOENT),
    ("file/below", os.O_RDONLY, errno.ENOTDIR),
    ("fixed", os.O_RDONLY, 0),
    ("fixed", WRITE, errno.EACCES),
    ("fixed", os.O_RDONLY | os.O_TRUNC, errno.EACCES),
    (".jobfs/pending", os.O_RDONLY, 0),
    (".jobfs/pending", WRITE, errno.EACCES),
    (".jobfs/none", os.O_RDONLY, errno.ENOENT),
]
CREATES = [
    ("new", 0, 0),
    ("file", 0, 0),
    ("file", os.O_EXCL, errno.EEXIST),
    ("dir", 0, errno.EISDIR),
    ("none/new", 0, errno.ENOENT),
    ("sealed/new", 0, errno.EACCES),
    (".jobfs/new", 0, errno.EPERM),
    ("n" * 256, 0, errno.ENAMETOOLONG),
]


def test_an_open_fails_as_on_a_disk(world: World) -> None:
    """vfs/semantics.md 4.38, 6.7: for root too."""
    world.put("fixed", b"x", permission=Permission.READ_ONLY)
    world.seed({"file": b"x", "dir": None})
    assert [(path, flags, errno_from(world.open, path, flags)) for path, flags, _ in OPENS] == OPENS


def test_a_create_fails_as_on_a_disk(world: World) -> None:
    """vfs/semantics.md 4.38: an existing file is opened, unless it must not exist."""
    world.put("sealed", None, permission=Permission.READ_ONLY)
    world.seed({"file": b"x", "dir": None})

    def create(path: str, flags: int) -> int:
        return errno_from(world.files.create, path, 0o644, os.O_RDWR | flags, CALLER)

    assert [(path, flags, create(path, flags)) for path, flags, _ in CREATES] == CREATES


@pytest.mark.parametrize("exists", [False, True])
def test_a_version_read_only_to_back_it_up_is_not_replaced(world: World, exists: bool) -> None:
    """vfs/semantics.md 4.45: whether the backup is a new file, or one that an earlier save has made."""
    world.seed({"file": b"first"})
    if exists:
        world.write("file~", b"an earlier backup")
    program = {"pid": os.getpid()}
    world.files.release(world.open("file", os.O_RDONLY, **program).fh)
    read = world.server.items["id of file"]
    world.put("file", b"the job's", updated_ns=9)
    world.list_again()
    world.files.release(world.open("file", os.O_RDONLY, **program).fh)
    world.files.release(world.files.create("file~", 0o644, TRUNCATE, CALLER).fh)
    world.open("file", TRUNCATE, **program)
    file = world.state.index.file_at("file")
    assert file is not None
    assert (file.base.id, file.base.updated_at) == (read.id, read.updated_at)


def test_a_closed_handle_is_not_usable(world: World) -> None:
    world.seed({})
    fh = world.files.create("file", 0o644, WRITE, CALLER).fh
    world.files.release(fh)
    world.files.release(fh)
    assert errno_from(world.files.get_handle, fh) == errno.EBADF
    assert errno_from(world.files.write, fh, b"", 0) == errno.EBADF
    assert errno_from(world.files.fsync, fh) == errno.EBADF


def test_an_open_downloads_what_its_flags_need(world: World) -> None:
    """vfs/semantics.md 4.1: `O_TRUNC` needs no old bytes, a write in place needs all."""
    world.seed({"file": b"0123456789"})
    emptied = world.open("file", TRUNCATE)
    assert (world.requests(), world.lookup.getattr("file").size) == ([], 0)
    world.files.write(emptied.fh, b"new", 0)
    assert world.files.get_handle(emptied.fh).shown_size() == 3
    world.seed({"other": b"0123456789"})
    edited = world.open("other", WRITE)
    assert world.requests() == ["download id of other"]
    world.files.write(edited.fh, b"ab", 2)
    world.files.ftruncate(edited.fh, 5)
    assert world.files.get_handle(edited.fh).read(100, 0) == b"01ab4"
    added = world.open("other", APPEND)
    world.files.write(added.fh, b"!", 0)
    world.files.write(added.fh, b"M", 0, mapped=True)
    assert world.files.get_handle(edited.fh).read(100, 0) == b"M1ab4!", "a page of a mapping is not appended"


def test_the_kernel_keeps_the_pages_of_a_cached_version(world: World) -> None:
    """vfs/semantics.md 3.2: bytes that are changed here, or part of the control directory, have no pages to keep."""
    world.seed({"file": b"content"})

    def open_and_fetch(path: str = "file") -> tuple[bool, bool]:
        opened = world.open(path, os.O_RDONLY)
        world.files.get_handle(opened.fh).fetch_whole()
        world.files.release(opened.fh)
        return opened.direct_io, opened.keep_cache

    assert [open_and_fetch() for _ in range(2)] == [(False, False), (False, True)]
    world.put("file", b"another content")
    world.list_again()
    assert [open_and_fetch() for _ in range(2)] == [(False, False), (False, True)]
    world.write("file", b"ours")
    assert open_and_fetch() == (False, False)
    assert open_and_fetch(".jobfs/pending") == (True, False)
    world.seed({"large": bytes(2 << 20)})
    assert [world.open("large", os.O_RDONLY).keep_cache for _ in range(2)] == [False] * 2, "no byte was read"


@pytest.mark.parametrize("flags", [os.O_RDONLY, WRITE])
def test_an_open_file_that_is_renamed_to_a_scratch_name_can_be_mapped_there(world: World, flags: int) -> None:
    """vfs/semantics.md 2.15, 4.34: it is one file, with the same bytes for both handles."""
    world.seed({"file": b"content"})
    world.open("file", flags)
    world.tree.rename("file", "file~")
    assert world.open("file~", flags).direct_io is False


@pytest.mark.parametrize(("flags", "at_once", "at_retry"), [
    (os.O_RDONLY, errno.ESTALE, 0),
    (WRITE, errno.ESTALE, 0),
    (APPEND, errno.ESTALE, 0),
    (TRUNCATE, 0, 0),
])  # fmt: skip
def test_an_open_never_yields_a_size_other_than_the_kernels(
    world: World, flags: int, at_once: int, at_retry: int
) -> None:
    """vfs/semantics.md 3.17: at the retry a program gets the file past the kernel's cache; `O_TRUNC` needs no size."""
    world.seed({"file": b"12345"})
    for size in (3, None):
        assert errno_from(world.open, "file", flags, kernel=KernelFile(size)) == at_once
    assert world.open("file", os.O_RDONLY, kernel=KernelFile(5 if at_once else 0)).direct_io is False
    assert errno_from(world.open, "file", flags, kernel=KernelFile(3, is_retry=True)) == at_retry
    if flags != TRUNCATE:
        opened = world.open("file", flags, kernel=KernelFile(3, is_retry=True))
        assert (opened.direct_io, opened.keep_cache) == (True, False)


def test_the_kernel_keeps_no_pages_after_an_open_that_failed(world: World) -> None:
    """vfs/semantics.md 3.2, 3.17: its second open of a version that is in the cache drops those of the first one."""
    world.seed({"file": b"12345"})
    handle = world.files.get_handle(world.open("file", os.O_RDONLY, kernel=KernelFile(5)).fh)
    handle.fetch_whole()
    world.files.release(handle.fh)
    with world.content.open(world.put("file", b"newer version")) as content:
        content.fetch_file()
        world.list_again()
        assert errno_from(world.open, "file", os.O_RDONLY, kernel=KernelFile(5)) == errno.ESTALE
        assert not world.open("file", os.O_RDONLY, kernel=KernelFile(13, is_retry=True)).keep_cache


@pytest.mark.parametrize("flags", [WRITE, os.O_WRONLY, APPEND])
@pytest.mark.parametrize("content", [b"old bytes", bytes(2 << 20)], ids=["small", "large"])
def test_an_open_for_writing_succeeds_without_the_bytes(world: World, flags: int, content: bytes) -> None:
    """vfs/semantics.md 4.1: the first write fetches them, or fails; to empty the file, none are needed."""
    world.seed({"file": content})
    world.server.is_away = True
    fh = world.open("file", flags, kernel=KernelFile(len(content))).fh
    assert errno_from(world.files.write, fh, b"mine", 0) == errno.EIO
    world.server.is_away = False
    eventually(lambda: errno_from(world.files.write, fh, b"mine", 0) == 0)
    expected = content + b"mine" if flags == APPEND else b"mine" + content[4:]
    assert world.files.get_handle(fh).read(len(content) + 4, 0) == expected
    world.files.release(fh)


def test_an_open_to_empty_a_file_later_needs_no_server(world: World) -> None:
    """vfs/semantics.md 4.1: as vim does, which deletes a file that it can't open."""
    world.seed({"file": b"old bytes"})
    world.server.is_away = True
    fh = world.open("file", os.O_WRONLY, kernel=KernelFile(9)).fh
    world.files.ftruncate(fh, 0)
    world.files.write(fh, b"new", 0)
    assert world.files.get_handle(fh).read(9, 0) == b"new"


@pytest.mark.parametrize("flags", [WRITE, os.O_WRONLY, APPEND])
@pytest.mark.parametrize("size", [5, 2 << 20], ids=["small", "large"])
def test_a_file_that_grows_with_every_request_can_be_opened(world: World, flags: int, size: int) -> None:
    """vfs/semantics.md 3.17: the second open gives the version that the kernel has looked up."""
    world.seed({"file": bytes(size)})
    world.server.on_request = lambda: world.put("file", world.server.contents["id of file"] + b"+")
    world.clock.advance(60)
    assert errno_from(world.open, "file", flags, kernel=KernelFile(size)) == errno.ESTALE
    shown = world.lookup.getattr("file").size
    opened = world.open("file", flags, kernel=KernelFile(shown, is_retry=True))
    assert (opened.direct_io, world.files.get_handle(opened.fh).shown_size()) == (False, shown)


def test_a_file_of_the_control_directory_is_fixed_at_its_open(world: World) -> None:
    """vfs/semantics.md 6.7."""
    world.seed({})
    world.write("one", b"1")
    handle = world.files.get_handle(world.open(".jobfs/pending", os.O_RDONLY).fh)
    world.write("two", b"2")
    assert isinstance(handle, ControlFile)
    assert (handle.read(100, 0), handle.attr().size) == (b"one\n", 4)


def test_pages_of_a_mapping_that_outlives_its_descriptor_are_kept(make_world: MakeWorld) -> None:
    """vfs/semantics.md 2.15, 4.3: the kernel writes them after the close, and releases the file once they are unmapped."""
    world = make_world()
    world.seed({})
    fh = world.files.create("file", 0o644, WRITE, CALLER).fh
    world.files.write(fh, b"closed", 0)
    world.files.flush(fh)
    world.files.write(fh, b"mapped", 0, mapped=True)
    world.files.release(fh)
    vfs = make_world(after=world).vfs
    vfs.start()
    assert (vfs.read(vfs.open("file", os.O_RDONLY).fh, 100, 0), vfs.warnings) == (b"mapped", [])


def test_no_operation_on_a_scratch_file_costs_a_request(world: World) -> None:
    """vfs/semantics.md 4.14, 4.16: fsync syncs the local disk."""
    world.seed({})
    file = world.write("file~", b"scratch", fsync=True)
    assert (file.never_sent, file.size, world.requests()) == (True, 7, [])
    assert not world.state.journal.needs_sync
    world.files.truncate("file~", 3)
    assert (world.lookup.getattr("file~").size, world.report.list_unsent()) == (3, [])


def test_an_fsync_of_a_scratch_file_syncs_bytes_changed_in_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.16: also where the size stays."""
    world.seed({})
    fh = world.files.create("file~", 0o644, os.O_RDWR, CALLER).fh
    world.files.write(fh, b"scratch", 0)
    world.files.fsync(fh)
    synced, fdatasync = list[bytes](), os.fdatasync

    def note_sync(number: int) -> None:
        fdatasync(number)
        with suppress(OSError):
            synced.append(Path(f"/proc/self/fd/{number}").read_bytes())

    monkeypatch.setattr(os, "fdatasync", note_sync)
    world.files.write(fh, b"changed", 0)
    world.files.fsync(fh)
    world.files.release(fh)
    assert b"changed" in synced


@pytest.mark.parametrize("ends", [[], [b"more"]], ids=["at once", "once it is written again"])
def test_an_unlinked_file_takes_no_room_after_its_last_close(world: World, ends: list[bytes]) -> None:
    """vfs/semantics.md 4.33, 6.15: nor do the bytes that were closed before."""
    world.seed({})
    fh = world.files.create("file", 0o644, WRITE, CALLER).fh
    world.files.write(fh, b"closed", 0)
    world.files.flush(fh)
    world.tree.unlink("file")
    for content in ends:
        world.files.write(fh, content, 0)
    world.files.release(fh)
    assert list(world.state.bytes.directory.iterdir()) == []


def test_all_handles_of_a_written_file_share_one_descriptor(world: World) -> None:
    """vfs/semantics.md 4.2, 6.15."""
    world.seed({"file": b"content"})
    readers = [world.files.get_handle(world.open("file", os.O_RDONLY).fh) for _ in range(9)]
    assert [reader.read(7, 0) for reader in readers] == [b"content"] * 9
    world.files.write(world.open("file").fh, b"C", 0)
    assert [reader.read(7, 0) for reader in readers] == [b"Content"] * 9
    assert [open_below(place) for place in (world.settings.cache_dir, world.state.bytes.directory)] == [0, 1]


def test_a_save_begins_soon_after_the_last_close(make_world: MakeWorld) -> None:
    """vfs/semantics.md 4.5: not only a minute later, as while the file is open for writing."""
    world = make_world(write_back_delay=0.0)
    world.seed({})
    world.write_back.start()
    world.write("file", b"content")
    eventually(lambda: [*world.server.paths.values()] == ["file"])


def test_a_close_records_what_was_written_and_an_fsync_sends_it(make_world: MakeWorld) -> None:
    """vfs/semantics.md 4.3, 4.7, 4.9: with --sync-on-close, a close sends it too."""
    for options, sent_by_close in (({}, False), ({"sync_on_close": True}, True)):
        world = make_world(**options)
        world.seed({})
        file = world.write("file", b"1")
        assert (file.generation > 0, list(world.server.paths.values())) == (
            not sent_by_close,
            ["file"] * sent_by_close,
        )
        world.write("other", b"2", fsync=True)
        assert "other" in world.server.paths.values()
