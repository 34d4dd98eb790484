"""Local bytes: generations, sharing, what is kept and what goes."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from jobfs.errors import FsError
from jobfs.state.disk import failure
from jobfs.writeback.localbytes import LocalBytes, Orphan, label_of


@pytest.fixture
def store(tmp_path: Path) -> LocalBytes:
    return LocalBytes(tmp_path / "bytes", tmp_path / "trash")


def test_what_is_written_is_read(store: LocalBytes) -> None:
    local = store.new(7, 1)
    assert local.write(b"hello", 0) == 5
    assert local.write(memoryview(b"!"), 9) == 1
    assert (local.read(0, 100), local.read(3, 2), local.read(10, 5)) == (b"hello\0\0\0\0!", b"lo", b"")
    assert local.size == 10
    local.truncate(2)
    assert (local.size, local.read(0, 9)) == (2, b"he")
    local.truncate(3)
    assert local.read(0, 9) == b"he\0"
    local.close()


def test_a_generation_begins_with_another_and_never_touches_it(store: LocalBytes) -> None:
    """save-protocol, Vocabulary: freeing generation n never touches n+1."""
    first = store.new(7, 1)
    first.write(b"first", 0)
    store.seal(first)
    second = store.new(7, 2, first)
    second.write(b"SE", 0)
    assert (first.read(0, 9), second.read(0, 9)) == (b"first", b"SErst")
    store.retire(first)
    store.sync()
    store.remove(store.retired())
    assert [path.name for path in store.directory.iterdir()] == [f"{7:016x}.2"]
    assert second.read(0, 9) == b"SErst"
    second.close()


def test_a_generation_may_begin_with_any_file(store: LocalBytes, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    local = store.new(7, 1, source)
    assert local.read(0, 200_000) == source.read_bytes()
    assert local.size == 100_000
    local.close()


def test_a_source_that_is_gone_leaves_nothing(store: LocalBytes, tmp_path: Path) -> None:
    with pytest.raises(FsError) as caught:
        store.new(7, 1, tmp_path / "gone")
    assert caught.value.errno == errno.EIO
    assert list(store.directory.iterdir()) == []


def test_what_an_earlier_run_left_is_opened_sealed(store: LocalBytes) -> None:
    local = store.new(7, 1)
    local.write(b"x", 0)
    local.close()
    again = store.open(7, 1)
    assert again is not None
    assert (again.sealed, again.size, again.read(0, 9)) == (True, 1, b"x")
    again.close()
    assert store.open(7, 2) is None


def test_the_file_goes_with_its_last_user(store: LocalBytes) -> None:
    local = store.new(7, 1)
    reader = local.acquire()
    local.write(b"x", 0)
    store.remove([local])
    assert local.path.exists()
    assert reader.read(0, 9) == b"x"
    reader.close()
    assert not local.path.exists()


def test_the_hash_is_that_of_the_bytes(store: LocalBytes) -> None:
    local = store.new(7, 1)
    data = os.urandom(3 << 20)
    local.write(data, 0)
    store.seal(local)
    assert local.sha256() == hashlib.sha256(data).hexdigest()
    store.sync()
    local.close()


@pytest.mark.parametrize("count", [1, 40])
def test_a_sync_covers_all_that_is_sealed(store: LocalBytes, count: int) -> None:
    files = [store.new(number, 1) for number in range(count)]
    for local in files:
        store.seal(local)
        store.seal(local)
    assert store.unsynced
    store.sync()
    assert not store.unsynced
    assert all(local.synced for local in files)
    for local in files:
        local.close()


def test_a_sync_that_fails_is_made_up_for_by_the_next(
    store: LocalBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(handle: int) -> None:
        raise OSError(errno.EIO, "broken")

    local = store.new(7, 1)
    store.seal(local)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(FsError) as caught:
            store.sync()
    assert caught.value.errno == errno.EIO
    assert store.unsynced
    store.sync()
    assert local.synced
    local.close()


def test_what_no_record_names_goes_to_the_trash_not_away(store: LocalBytes) -> None:
    """semantics 4, Nothing is forgotten."""
    for generation, content in ((1, b"named"), (2, b"not named"), (3, b"")):
        local = store.new(7, generation)
        local.write(content, 0)
        local.close()
    (store.directory / "strange").write_bytes(b"strange")
    lost, moved = store.sweep({(7, 1)}, 100)
    assert lost == []
    assert sorted(path.read_bytes() for path in moved) == [b"not named", b"strange"]
    assert all(path.parent == store.trash for path in moved)
    assert [path.name for path in store.directory.iterdir()] == [f"{7:016x}.1"]


def test_the_disk_has_room(store: LocalBytes) -> None:
    free, total = store.free()
    assert 0 < free <= total


def test_closed_bytes_that_are_newer_than_the_journal_are_found_again(store: LocalBytes) -> None:
    """save-protocol, Recovery: bytes that were closed are not lost with the end of the journal."""
    for generation, closed in ((1, True), (5, True), (6, False), (7, True)):
        local = store.new(7, generation)
        local.write(b"content", 0)
        store.seal(local)
        if closed:
            store.label(local, f"dir/file{generation}")
        if generation == 7:
            store.retire(local)
        local.close()
    store.sync()
    lost, moved = store.sweep(set(), 4)
    assert lost == [Orphan(7, 5, 7, "dir/file5")]
    assert len(moved) == 3
    assert label_of(store.directory / f"{7:016x}.5") == (7, "dir/file5")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (errno.ENOSPC, errno.ENOSPC),
        (errno.EDQUOT, errno.EDQUOT),
        (errno.EROFS, errno.EROFS),
        (errno.ENOENT, errno.EIO),
        (errno.EACCES, errno.EIO),
        (None, errno.EIO),
    ],
)
def test_what_the_disk_answers_never_looks_like_an_answer_about_the_file(
    answer: int | None, told: int
) -> None:
    """semantics 1: "not there" is not "could not ask"."""
    assert failure(OSError(answer, "the disk")) == told


def test_a_disk_that_is_gone_is_an_input_output_error(tmp_path: Path) -> None:
    """semantics 1: "not there" is not "could not ask"."""
    store = LocalBytes(tmp_path / "bytes", tmp_path / "trash")
    (tmp_path / "bytes").rmdir()
    with pytest.raises(FsError) as caught:
        store.new(7, 1)
    assert caught.value.errno == errno.EIO
