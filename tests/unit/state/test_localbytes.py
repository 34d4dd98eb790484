"""Local bytes: generations, sharing, what is kept and what goes."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.support.files import errno_from, open_below
from tests.unit.state.conftest import failing

from jobfs.errors import FsError
from jobfs.state.localbytes import LocalBytes, errno_for_writer


@pytest.fixture
def store(tmp_path: Path) -> LocalBytes:
    return LocalBytes(tmp_path / "bytes", tmp_path / "trash", threading.Condition())


def sealed_generation(store: LocalBytes, generation: int, content: bytes = b"content") -> Path:
    """A closed generation of file 7."""
    local = store.create(7, generation)
    local.write(content, 0)
    store.mark_unsynced(7, local)
    local.release()
    return local.path


def test_written_bytes_can_be_read_back(store: LocalBytes) -> None:
    store.generation_path(7, 1).write_bytes(b"left by a mount that was killed")
    local = store.create(7, 1)
    assert (local.write(b"hello", 0), local.write(memoryview(b"!"), 9)) == (5, 1)
    read = local.read(0, 100), local.read(3, 2), local.read(10, 5)
    assert (*read, local.size) == (b"hello\0\0\0\0!", b"lo", b"", 10)
    for size, content in ((2, b"he"), (3, b"he\0")):
        local.truncate(size)
        assert (local.size, local.read(0, 9)) == (size, content)
    local.release()


def test_a_generation_starts_from_another_and_never_changes_it(store: LocalBytes) -> None:
    """save/protocol.md, Vocabulary: freeing generation n never touches n+1."""
    first = store.create(7, 1)
    first.write(b"first", 0)
    second = store.create(7, 2, first.stable_path)
    assert second.write(b"SE", 0) == 2
    assert (first.read(0, 9), second.read(0, 9)) == (b"first", b"SErst")
    store.remove_after_sync(7, 1)
    store.remove_retired(list(store.retired))
    assert [path.name for path in store.directory.iterdir()] == [f"{7:016x}.2"]
    third = store.create(7, 3, first.stable_path)
    assert first.read(0, 9) == third.read(0, 9) == b"first", "who has it open reads it, and may copy it"
    for local in (first, second, third):
        local.release()


def test_closed_bytes_and_sealed_generations_never_change(store: LocalBytes) -> None:
    """save/protocol.md, Vocabulary, local bytes."""
    local = store.create(7, 1)
    local.write(b"content", 0)
    assert local.may_change(0)
    local.closed_size = 4
    assert [local.may_change(position) for position in (0, 3, 4, 7, 9)] == [False, False, True, True, True]
    local.sealed = True
    assert not local.may_change(9)
    part = store.create(7, 2, local.path, 4)
    assert (part.size, part.read(0, 9), part.may_change(0), store.file_size(7, 2), store.file_size(7, 3)) == (
        4, b"cont", True, 4, -1,
    )  # fmt: skip
    for each in (local, part):
        each.release()
    left = store.open(7, 1)
    assert left is not None
    assert (left.closed_size, left.may_change(7)) == (7, False)


@pytest.mark.parametrize("fault", ["no source", "no directory", "full"])
def test_a_copy_that_the_disk_rejects_leaves_nothing(store: LocalBytes, tmp_path: Path, fault: str) -> None:
    """vfs/semantics.md 6.15: no descriptor either."""
    source, full, descriptors = tmp_path / "source", fault == "full", open_below(tmp_path)
    if full:
        source.write_bytes(b"x")
    if fault == "no directory":
        store.directory.rmdir()
    refused = pytest.raises(FsError, match=f"^can't make {store.generation_path(7, 1)}: ")
    with failing("sendfile", errno.ENOSPC) if full else nullcontext(), refused as caught:
        store.create(7, 1, source)
    assert caught.value.errno == (errno.ENOSPC if full else errno.EIO)
    assert not [*store.directory.glob("*")]
    assert open_below(tmp_path) == descriptors


def test_a_descriptor_is_open_only_while_it_is_used(store: LocalBytes) -> None:
    """vfs/semantics.md 6.15: descriptors do not grow with what is unsent."""
    before = open_below(store.directory)
    path = sealed_generation(store, 1)
    local = store.open(7, 1)
    assert local is not None
    assert (local.sealed, local.size, local.stable_path, store.open(7, 2)) == (True, 7, path, None)
    assert (open_below(store.directory), errno_from(local.read, 0, 9)) == (before, errno.EBADF)
    local.acquire()
    assert local.acquire().read(0, 9) == b"content"
    assert open_below(store.directory) == before + 1
    local.release()
    assert local.read(0, 9) == b"content", "one of two users is left"
    local.release()
    assert open_below(store.directory) == before
    unclosed = store.open(7, 1, sealed=False)
    assert unclosed is not None
    assert unclosed.acquire().write(b"C", 0) == 1
    assert not os.get_inheritable(unclosed.handle)
    unclosed.release()
    assert path.read_bytes() == b"Content"


def test_closed_bytes_are_readable_on_a_failing_disk(
    store: LocalBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.41: reads still work."""
    path, real = sealed_generation(store, 1), os.open
    local = store.open(7, 1, sealed=False)
    assert local is not None
    code = [errno.EMFILE]

    def refuses(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(code[0], "refused")
        return real(path, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuses)
        assert errno_from(local.acquire) == errno.EMFILE
        code[0] = errno.EROFS
        assert local.acquire().read(0, 9) == path.read_bytes()
    assert not local.may_change(local.size)
    local.release()


@pytest.mark.parametrize("count", [1, 17, 40])
def test_a_sync_covers_all_closed_bytes_and_is_repeated_after_a_failure(
    store: LocalBytes, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    for generation in range(count):
        sealed_generation(store, generation)
    assert store.link_to_file(7, 0, 8).size == 7
    with failing("fdatasync", errno.EIO), monkeypatch.context() as patch:
        patch.setattr("jobfs.state.localbytes._libc.syncfs", lambda handle: -os.fstat(handle).st_nlink)
        ctypes.set_errno(errno.EIO)
        with pytest.raises(FsError, match=r"^local bytes can't be synced: Input/output error$") as caught:
            store.sync()
    assert (caught.value.errno, store.needs_sync) == (errno.EIO, True)
    assert sorted(store.sync()) == [*((7, generation) for generation in range(count)), (8, 0)]
    assert (store.needs_sync, store.sync()) == (False, [])
    sealed_generation(store, 2).unlink()
    assert store.sync() == [(7, 2)], "unlinked bytes need no sync"


def test_unreadable_bytes_are_distinguished_from_missing_bytes(store: LocalBytes) -> None:
    store.generation_path(7, 2).symlink_to(store.generation_path(7, 2))
    with pytest.raises(
        FsError, match=f"^its file {store.generation_path(7, 2)} can't be read: Too many levels"
    ):
        store.open(7, 2)


def test_a_failed_removal_prevents_no_other(store: LocalBytes, caplog: pytest.LogCaptureFixture) -> None:
    """vfs/semantics.md 4, Nothing is forgotten: the next sync has it on the disk all the same."""
    store.generation_path(7, 1).mkdir()
    gone = sealed_generation(store, 2)
    for number in (1, 2):
        store.remove_after_sync(7, number)
    store.remove_retired(list(store.retired))
    assert (store.needs_sync, gone.exists(), store.generation_path(7, 1).exists()) == (False, False, True)
    assert caplog.messages == [f"{store.generation_path(7, 1)} can't be removed: Is a directory"]


def test_discarded_bytes_are_kept_in_the_trash_under_their_name(store: LocalBytes) -> None:
    """vfs/semantics.md 4.41: a person who discards a file learns why it could not be kept."""
    path = sealed_generation(store, 5)
    local = store.open(7, 5)
    assert local is not None
    kept = store.keep_in_trash(local, "notes.txt")
    store.keep_in_trash(local, "notes.txt")
    assert store.keep_in_trash(local, "ü" * 127 + "x").name == "5-" + "ü" * 126
    with failing("link", errno.ENOSPC):
        assert errno_from(store.keep_in_trash, local, "full") == errno.ENOSPC
    path.unlink()
    assert (kept.parent, kept.name, kept.read_bytes()) == (store.trash, "5-notes.txt", b"content")
    store.empty_trash()
    assert not store.trash.exists()
    store.trash.mkdir()
    with pytest.raises(FsError, match=f"^can't keep a copy in {store.trash}: No such file") as caught:
        store.keep_in_trash(local, "gone")
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize(("offset", "left"), [(3, b"123"), (1, b"1ab")])
def test_a_failed_write_leaves_the_size(store: LocalBytes, offset: int, left: bytes) -> None:
    """vfs/semantics.md 4: else the bytes would be taken for not whole, and the next append would be torn."""
    local, limits = store.create(7, 1), resource.getrlimit(resource.RLIMIT_FSIZE)
    assert local.write(b"123", 0) == 3
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (5, limits[1])
    )  # the system carries out the first half of the write
    try:
        assert errno_from(local.write, b"abcdef", offset) == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (local.size, local.path.read_bytes()) == (3, left)
    local.release()


def test_a_disk_error_never_looks_like_a_result_about_the_file() -> None:
    """vfs/semantics.md 1: "not there" is not "could not ask"."""
    passed_on = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE)
    for code in (*passed_on, errno.ENOENT, errno.EACCES, None):
        assert errno_for_writer(OSError(code, "the disk")) == (code if code in passed_on else errno.EIO)
