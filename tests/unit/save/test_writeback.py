"""What the file system asks of write-back: close, fsync, and what takes which name (vfs/semantics.md 4)."""

from __future__ import annotations

import errno
import math
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.boundaries import watch
from tests.support.files import errno_from
from tests.support.waiting import eventually

from jobfs import names, process
from jobfs.errors import FsError, OutOfTimeError, UnauthorizedError, UnavailableError
from jobfs.nodes import Kind
from jobfs.save import Victim
from jobfs.save import writeback as module
from jobfs.save.queue import WHILE_OPEN
from jobfs.state import Change, File, edit
from jobfs.state.processes import Process
from jobfs.state.records import Aside, Base, Handle, Stage, Verb

from .world import TID, World, away, hidden, sha

OLD, NEW = b"old", b"new"


def full(world: World, monkeypatch: pytest.MonkeyPatch, *, spent: bool = False) -> None:
    """The disk takes nothing new; what has happened is recorded, unless the spare room is `spent` too."""
    real = world.state.journal.write

    def write(*edits: Any, new: bool = False, **more: Any) -> None:
        if new or spent:
            raise FsError(errno.ENOSPC)
        real(*edits, **more)

    monkeypatch.setattr(world.state.journal, "write", write)


def opened(file: File, *, writable: bool = True) -> File:
    file.handles.append(Handle(file, None, os.O_RDWR if writable else os.O_RDONLY))
    if file.local is not None:
        file.local.acquire()
    return file


def scratch(world: World, path: str, content: bytes = NEW) -> File:
    file = world.closed(path, content)
    world.state.write(edit(file, stays=True))
    return file


def test_a_close_writes_soon_what_it_could_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 4.4: a loss of power is covered within a second; a listing leaves young transactions known (R4)."""
    file, seen, listings = world.closed("file", OLD), list[str](), list[int]()
    with monkeypatch.context() as patch:
        full(world, patch, spent=True)
        assert errno_from(world.closed, "file", NEW, of=file) == errno.ENOSPC
    assert (world.state.unclosed, world.state.unsynced) == ({file}, True)
    for every in ("_SYNC_EVERY", "_TIDY_EVERY", "_GIVE_BACK_EVERY"):
        monkeypatch.setattr(module, every, 0.02)
    monkeypatch.setattr("jobfs.process.give_back", lambda: listings.append(world.namespace.refreshed))
    monkeypatch.setattr(world.namespace, "snapshot_number", 1, raising=False)
    world.state.write(used=TID)
    world.write_back.start()
    daemons = {thread.name for thread in threading.enumerate() if thread.daemon}
    eventually(lambda: (world.state.unclosed, world.state.unsynced, file.refused) == (set(), False, ""))
    eventually(lambda: len(listings) > 2)
    assert (set(listings), world.state.journal.tombstone(TID)) == ({0}, True), "no listing is due yet"
    monkeypatch.setattr(world.state.journal, "close", lambda: None)  # that is the world's
    world.write_back.stop()
    assert {"jobfs-sync", "jobfs-tidy"} <= daemons
    watch(world.state.journal, seen.append)
    world.write_back.seal(file)
    assert seen == []


@pytest.mark.parametrize("failing", ["spare", "sync", "memory", "listing"])
def test_sync_and_tidy_survive_any_error(world: World, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """vfs/semantics.md 4.4: a loss of power is covered within a second, whatever failed before."""
    state = world.state
    place, name = {
        "spare": (type(state.journal.spare), "restore"), "sync": (type(state), "sync"),
        "memory": (process, "give_back"), "listing": (world.write_back.cleanup, "expose_orphans"),
    }[failing]  # fmt: skip
    real, failures = getattr(place, name), [OSError(errno.EIO, "once"), ValueError("a fault")]

    def fails(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*args)

    for every in ("_SYNC_EVERY", "_TIDY_EVERY", "_GIVE_BACK_EVERY"):
        monkeypatch.setattr(module, every, 0.02)
    for thread in world.write_back._threads:
        thread._retry = 0.02
    monkeypatch.setattr(place, name, fails)
    monkeypatch.setattr(world.namespace, "snapshot_number", 1, raising=False)
    world.write_back.start()
    world.closed("file", NEW)
    eventually(lambda: not (failures or state.unsynced))
    eventually(lambda: world.write_back._snapshot == 1)
    monkeypatch.setattr(state.journal, "close", lambda: None)  # that is the world's
    world.write_back.stop()


def test_an_unmount_ends_what_runs_beside_a_save(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    submit = world.context.io_pool.submit
    looks = [submit(lambda: [ended.wait(20), threading.Event().wait(0.3)]) for _ in range(3)]
    looks[2].add_done_callback(lambda look: ended.set())
    world.context.server.learn(moves_keep_updated_at=True)  # else bytes are read, beside the save too
    assert world.save("file", NEW, world.client.put("o", "file", OLD)).item, "no save waits for these"
    with monkeypatch.context() as patch:
        patch.setattr(world.state.journal, "close", lambda: None)  # that is the world's
        world.write_back.stop()
    assert [(look.done(), look.cancelled()) for look in looks] == [(True, False)] * 2 + [(True, True)]


@pytest.mark.parametrize("writing", [True, False])
def test_the_save_of_a_file_that_a_program_still_writes_to_waits(world: World, writing: bool) -> None:
    """vfs/semantics.md 4: the upload starts after --write-back-delay; coalesces rewrites."""
    world.write_back.queue.delay = 1.0
    file = opened(world.closed("file", NEW), writable=writing)
    assert world.write_back.queue.save(file) is file.change is not None
    due = file.change.due
    assert (due > time.monotonic() + WHILE_OPEN / 2) is writing
    world.write_back.queue.save(file)
    assert file.change.due == due, "another close does not put it off"
    later = world.write_back.queue.save(file, WHILE_OPEN)
    assert later is file.change
    assert world.client.done == []


@pytest.mark.parametrize("direct", [False, True])
def test_an_fsync_waits_for_what_was_closed_before_it(world: World, direct: bool) -> None:
    """vfs/semantics.md 4: bytes that were closed since are for another call."""
    world.context.server.learn(rejects={Kind.FILE: direct})
    file = world.closed("file", OLD)
    world.client.before["create" if direct else "update"] = [lambda: world.closed("file", NEW, of=file)]
    world.write_back.commit(file)
    assert (list(world.client.contents.values()), file.unsaved) == ([OLD], True)
    change = world.write_back.queue.save(file)
    assert change is not None
    change.begun, world.client.before["create"] = True, [away]
    with pytest.raises(UnavailableError):
        world.write_back.replace.run(change)
    world.closed("file", b"newest", of=file)
    world.write_back.commit(file)
    assert (world.client.contents[file.item_id], file.unsaved) == (b"newest", False), "not of older ones only"


def test_a_save_that_is_unlinked_before_its_first_record_sends_nothing(world: World) -> None:
    """save/protocol.md R10: until the item is deleted, the journal has the file as it was closed."""
    file = world.closed("file", NEW, world.client.put("o", "file", OLD))
    change = world.write_back.queue.save(file)
    assert change is not None
    change.begun = True
    assert world.write_back.cancel(file), "the caller deletes the item"
    assert world.write_back.cancel(world.state.new(Kind.FILE, "other")), "nothing is being sent"
    world.write_back.replace.run(change)
    assert (world.client.done, world.state.changes, file.unsaved) == ([], {}, True)
    assert [row.path for row in world.state.journal.load(File)] == ["file"]


def test_a_file_that_is_unlinked_while_it_is_saved_is_gone_here_at_once(world: World) -> None:
    """save/protocol.md R10: recorded before it returns; its name is hidden until the save is taken back."""
    file, _ = begun(world)
    assert not world.write_back.cancel(file)
    assert (world.state.journal.load(File), world.state.hidden("file")) == ([], True)
    assert [row.stage for row in world.state.journal.load(Change)] == [Stage.CANCELLED]


@pytest.mark.parametrize(("out", "late"), [(True, False), (False, False), (False, True)])
def test_a_save_that_was_begun_is_waited_for_or_begun_anew(world: World, out: bool, late: bool) -> None:
    """vfs/semantics.md 4: what it was to replace stays. `out`: the server is unreachable; `late`: there is no time to wait."""
    item = world.client.put("o", "file", OLD)
    file = world.closed("file", NEW, item)
    change = world.write_back.queue.save(file)
    assert change is not None
    change.begun, world.namespace.unreachable = True, out
    sent = {"tid": TID, "generation": file.generation, "size": len(NEW)}
    world.state.write(edit(change, base=Base.of(item), **sent))
    world.client.before["find"], anew = [partial(away, OutOfTimeError("late"))] * late, out or late
    world.write_back.bring_to_rest(file)
    assert (change.stage is Stage.CANCELLED, file.unsaved) == (anew, anew)
    world.clean_up()
    assert [path for path in world.client.paths.values() if path == "file"] == ["file"]
    assert ("o" in world.client.items) is anew
    assert file.change is not change


def test_a_victim_is_the_version_that_was_shown_last(world: World) -> None:
    """save/protocol.md, Vocabulary, base: for a rename over T: the version this mount last showed."""
    victim = world.write_back.victim
    item = world.client.put("o", "file", OLD)
    assert victim("none", None) == Victim()
    assert victim("file", item) == Victim(Base.of(item), item)
    reader, read = Process(None), world.client.touched("o")
    world.state.readers.read(reader, "file", read)
    assert victim("file", item, reader) == Victim(Base.of(read, young=True), item), "to who has read that"
    file = world.closed("file", NEW, item)
    assert victim("file", file) == Victim(file.base, item, file)
    assert victim("a~", scratch(world, "a~")) == Victim(), "no item is replaced"


@pytest.mark.parametrize("begun", [False, True])
def test_the_removal_of_an_unlinked_item_is_taken_over_unless_it_was_begun(world: World, begun: bool) -> None:
    """vfs/semantics.md 4, Rename: renamed over meanwhile: that Change takes it over."""
    item = world.client.put("o", "file", OLD)
    world.write_back.remove_later(item)
    (change,) = world.state.changes.values()
    assert (change.stage, change.due <= time.monotonic()) == (Stage.STAGED, True)
    change.begun = begun
    expected = Victim() if begun else Victim(Base.of(item), item, None, change)
    assert world.write_back.victim("file", None) == expected


@pytest.mark.parametrize("stays", [False, True])
def test_a_file_that_takes_a_name_is_in_the_journal_with_what_it_replaces(
    world: World, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """vfs/semantics.md 4, rename: in one step, or not at all."""
    item = world.client.put("o", "file", OLD)
    file = scratch(world, "a~") if stays else world.closed("draft", NEW)
    change = None if stays else world.write_back.queue.save(file)
    victim = world.write_back.victim("file", item)
    if stays:
        world.written(file, b"never closed")
    with monkeypatch.context() as patch:
        full(world, patch)
        assert errno_from(world.write_back.take_place, file, "file", victim) == errno.ENOSPC
        assert world.state.at("file") is None
    world.write_back.take_place(file, "file", victim)
    (row,) = world.state.journal.load(File)
    assert (row.path, row.stays, row.item_id, row.base) == ("file", False, "o", Base.of(item))
    assert row.size == (12 if stays else 3)
    assert file.change is not None
    assert (file.change.target, change in (None, file.change)) == ("file", True)


def test_a_move_over_that_is_refused_leaves_both(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source, over = world.client.put("s", "draft", NEW), world.client.put("o", "file", OLD)
    victim, other = world.write_back.victim("file", over), world.closed("other", NEW)
    with monkeypatch.context() as patch:
        full(world, patch)
        assert errno_from(world.write_back.move_over, source, "file", victim) == errno.ENOSPC
        assert errno_from(world.write_back.remove_later, over) == errno.ENOSPC
        assert errno_from(world.write_back.stay, other, "other", "a~", {}, None) == errno.ENOSPC
    assert (world.client.done, world.state.changes) == ([], {})
    world.client.before["update"] = [partial(away, UnauthorizedError("no"))]
    with pytest.raises(UnauthorizedError):
        world.write_back.move_over(source, "file", victim)
    world.clean_up()
    assert (world.client.paths, world.state.changes) == ({"s": "draft", "o": "file"}, {})
    world.client.before["update"] = [lambda: None, lambda: world.client.items.pop("s")]
    with pytest.raises(Exception, match="not on the server"):
        world.write_back.move_over(source, "file", victim)
    assert (world.client.paths, world.state.changes) == ({"o": "file"}, {})
    assert "forget s" in world.namespace.told
    file, inos = world.closed("file", NEW, over), list[int]()
    world.written(file, NEW)

    def noted() -> None:
        inos.extend(change.ino for change in world.state.journal.load(Change))
        assert world.state.meanwhile("file") == over, "until it is done, what was there is shown"
        raise UnauthorizedError("no")

    world.client.before["update"] = [noted]
    with pytest.raises(UnauthorizedError):
        world.write_back.move_over(source, "file", world.write_back.victim("file", file))
    assert (file.unsaved, inos, world.state.unclosed) == (True, [file.ino], {file})
    assert file.change is not None, "its bytes are sent after all"
    assert file.change.due > 0
    world.write_back.stay(file, "file", "a~", {}, None)
    assert [row.verb for row in world.state.journal.load(Change)] == [Verb.REMOVE], "of its item"


def refused(world: World, path: str = "file") -> File:
    file = world.closed(path, NEW)
    world.state.write(edit(file, refused="too large", refused_errno=errno.EFBIG))
    return file


def begun(world: World, stage: Stage = Stage.STAGED) -> tuple[File, Change]:
    """A save over `o` that has set `o` aside."""
    item = world.client.put("o", hidden("file"), OLD)
    world.client.put("n", hidden("file", names.Role.STAGED), NEW)
    file = world.closed("file", NEW)
    change = world.write_back.queue.save(file)
    assert change is not None
    change.begun = True
    world.state.write(
        edit(
            change, stage=stage, tid=TID, staged_id="n", sha256=sha(NEW), size=3, base=Base.of(item),
            asides=[Aside("o", item.path, moved=True, size=3)],
        )
    )  # fmt: skip
    return file, change


def test_a_refused_file_is_tried_again(world: World) -> None:
    files = [refused(world, "dir/a"), refused(world, "b")]
    world.closed("dir/waiting", NEW)
    assert world.write_back.retry("dir") == ["dir/a"]
    assert [(file.refused, file.refused_errno) for file in files] == [("", 0), ("too large", errno.EFBIG)]
    assert files[0].change is not None
    assert files[0].change.due <= time.monotonic()
    with pytest.raises(FsError, match="b was refused by the server: too large"):
        world.write_back.commit(files[1])
    assert world.write_back.retry(None) == ["b"]
    for begun in (False, True):
        files[0].change.begun, files[0].change.attempts, files[0].change.due = begun, 1, math.inf
        assert world.write_back.retry("dir") == ["dir/a"]
        assert files[0].change.due <= time.monotonic()
    world.write_back.commit(files[1])
    assert world.client.contents[files[1].item_id] == NEW


@pytest.mark.parametrize("path", ["file", ""])
def test_a_discarded_file_is_kept_and_the_servers_version_shown_again(world: World, path: str) -> None:
    """vfs/semantics.md 4: `jobfs discard`; nothing is forgotten."""
    file = refused(world)
    if path:
        file.local = None  # it could not be taken up after a restart
    ((given_up, kept),) = world.write_back.discard(path)
    assert (given_up, Path(kept).read_bytes()) == ("file", NEW)
    assert (world.state.at("file"), world.state.file(file.ino), world.state.changes) == (None, None, {})
    assert len(world.state.journal.load(File)) == 0
    assert world.namespace.told == ["touch file"]
    assert world.client.done == []
    with pytest.raises(FsError, match=f"^nothing is unsent at {path or 'this mount'}$") as caught:
        world.write_back.discard(path)
    assert caught.value.errno == errno.ENOENT


def test_what_is_in_a_directory_is_discarded_before_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, file = world.state.new(Kind.DIRECTORY, "dir"), world.closed("dir/file", NEW)
    world.state.write(edit(directory, mode=0o700))
    assert [path for path, _ in world.write_back.discard("dir")] == ["dir/file", "dir"]
    file = opened(world.closed("dir/file", NEW))
    with pytest.raises(FsError, match=r"^dir/file is open in a program: close it first$") as caught:
        world.write_back.discard("")
    assert caught.value.errno == errno.EBUSY
    file.handles.clear()
    left = world.state.left("")
    world.write_back.commit(file)
    monkeypatch.setattr(world.state, "left", lambda path: left)
    with pytest.raises(FsError, match=r"^dir/file was just sent$") as caught:
        world.write_back.discard("")
    assert caught.value.errno == errno.ENOENT


def test_a_save_that_was_begun_is_taken_back_by_a_discard(world: World) -> None:
    file, change = begun(world)
    assert errno_from(world.write_back.discard, "file") == errno.EBUSY
    assert file.unsaved, "it has set something aside"
    world.client.put("o", "file", OLD)
    change.asides.clear()
    world.write_back.discard("file")
    world.clean_up()
    assert world.client.paths == {"o": "file"}
    assert (world.state.left().files, world.state.changes, file.generation) == ([], {}, 0)
