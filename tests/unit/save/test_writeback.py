"""What the file system asks of write-back: close, fsync, and what takes which name (vfs/semantics.md 4)."""

from __future__ import annotations

import errno
import threading
import time
from functools import partial
from typing import Any

import pytest
from tests.support.boundaries import watch
from tests.support.files import errno_from
from tests.support.waiting import eventually

from jobfs import process
from jobfs.errors import OutOfTimeError, UnavailableError
from jobfs.nodes import Kind
from jobfs.save import writeback as module
from jobfs.save.queue import WHILE_OPEN, ChangeQueue
from jobfs.state import Change, File, edit
from jobfs.state.records import Base, Stage

from .world import TID, World, away, begun, full, opened

OLD, NEW = b"old", b"new"


def test_a_close_that_could_not_be_recorded_is_recorded_soon(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.4: a loss of power is covered within a second; a listing leaves young transactions known (R4)."""
    file, seen, listings = world.closed("file", OLD), list[str](), list[int]()
    with monkeypatch.context() as patch:
        full(world, patch, spent=True)
        assert errno_from(world.closed, "file", NEW, of=file) == errno.ENOSPC
    assert (world.state.unclosed, world.state.store.needs_sync) == ({file}, True)
    for every in ("_SYNC_EVERY", "_TIDY_EVERY", "_TRIM_EVERY"):
        monkeypatch.setattr(module, every, 0.02)
    monkeypatch.setattr("jobfs.process.trim_memory", lambda: listings.append(world.namespace.refreshed))
    monkeypatch.setattr(world.namespace, "snapshot_number", 1, raising=False)
    world.state.write(transaction_id=TID)
    world.write_back.start()
    daemons = {thread.name for thread in threading.enumerate() if thread.daemon}
    eventually(
        lambda: (world.state.unclosed, world.state.store.needs_sync, file.refused) == (set(), False, "")
    )
    eventually(lambda: len(listings) > 2)
    assert (set(listings), world.state.journal.has_tombstone(TID)) == ({0}, True), "no listing is due yet"
    monkeypatch.setattr(world.state.journal, "close", lambda: None)  # that is the world's
    world.write_back.close()
    assert {"jobfs-sync", "jobfs-tidy"} <= daemons
    watch(world.state.journal, seen.append)
    world.write_back.record_closed(file)
    assert seen == []


def test_closed_files_are_synced_during_an_eviction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 4.4: a loss of power is covered within a second, also after a save that has filled the cache."""
    removing, removed = threading.Event(), threading.Event()

    def fit() -> None:
        removing.set()
        removed.wait(20)

    monkeypatch.setattr(world.content, "evict_to_limit", fit)
    monkeypatch.setattr(world.namespace, "snapshot_number", 0, raising=False)
    monkeypatch.setattr(module, "_SYNC_EVERY", 0.02)
    monkeypatch.setattr(world.state.journal, "close", lambda: None)  # that is the world's
    world.write_back.start()
    try:
        assert removing.wait(20)
        file = world.closed("file", NEW)
        eventually(lambda: (file.boot, world.state.store.needs_sync) == ("", False))
    finally:
        removed.set()
        world.write_back.close()


@pytest.mark.parametrize("failing", ["spare", "sync", "memory", "listing"])
def test_sync_and_tidy_survive_any_error(world: World, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """vfs/semantics.md 4.4: a loss of power is covered within a second, whatever failed before."""
    state = world.state
    place, name = {
        "spare": (type(state.journal.spare), "try_refill"), "sync": (type(state.store), "sync"),
        "memory": (process, "trim_memory"), "listing": (world.write_back.cleanup, "expose_orphans"),
    }[failing]  # fmt: skip
    real, failures = getattr(place, name), [OSError(errno.EIO, "once"), ValueError("a fault")]

    def fails(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(*args)

    for every in ("_SYNC_EVERY", "_TIDY_EVERY", "_TRIM_EVERY"):
        monkeypatch.setattr(module, every, 0.02)
    for thread in world.write_back._threads:
        thread._retry = 0.02
    monkeypatch.setattr(place, name, fails)
    monkeypatch.setattr(world.namespace, "snapshot_number", 1, raising=False)
    world.write_back.start()
    world.closed("file", NEW)
    eventually(lambda: not (failures or state.store.needs_sync))
    eventually(lambda: world.write_back._snapshot == 1)
    monkeypatch.setattr(state.journal, "close", lambda: None)  # that is the world's
    world.write_back.close()


def test_an_unmount_ends_the_background_work_of_saves(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    submit = world.context.io_pool.submit
    looks = [submit(lambda: [ended.wait(20), threading.Event().wait(0.3)]) for _ in range(3)]
    looks[2].add_done_callback(lambda look: ended.set())
    world.context.server.learn(moves_keep_updated_at=True)  # else bytes are read, beside the save too
    assert world.save("file", NEW, world.client.put("o", "file", OLD)).item, "no save waits for these"
    with monkeypatch.context() as patch:
        patch.setattr(world.state.journal, "close", lambda: None)  # that is the world's
        world.write_back.close()
    assert [(look.done(), look.cancelled()) for look in looks] == [(True, False)] * 2 + [(True, True)]


@pytest.mark.parametrize("writing", [True, False])
def test_the_save_of_a_file_that_is_still_written_waits(world: World, writing: bool) -> None:
    """vfs/semantics.md 4: the upload starts after --write-back-delay; coalesces rewrites."""
    world.write_back.queue.delay = 1.0
    file = opened(world.closed("file", NEW), writable=writing)
    assert world.write_back.queue.schedule(file) is file.change is not None
    due = file.change.due
    assert (due > time.monotonic() + WHILE_OPEN / 2) is writing
    world.write_back.queue.schedule(file)
    assert file.change.due == due, "another close does not put it off"
    later = world.write_back.queue.schedule(file, WHILE_OPEN)
    assert later is file.change
    assert world.client.done == []


def test_an_fsync_runs_its_save_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 4.7: it is put into the queue only where it fails before it has begun."""
    file, queued = opened(world.closed("file", NEW)), []
    monkeypatch.setattr(ChangeQueue, "_push", lambda queue, change, due: queued.append(change))
    world.client.health.require_reachable = lambda subject: away()  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        world.write_back.wait_until_uploaded(file)
    assert (queued, world.client.done) == ([file.change], [])
    queued.clear()
    world.client.health.require_reachable = lambda subject: None  # type: ignore[method-assign]
    world.write_back.wait_until_uploaded(file)
    assert (queued, file.needs_upload) == ([], False)


def test_the_cache_is_trimmed_to_its_limit_after_a_save(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 3.11: an fsync does not wait for the removal of other contents."""
    fits: list[bool] = []
    monkeypatch.setattr(world.content, "evict_to_limit", lambda: fits.append(True))
    world.save("file", NEW)
    assert fits == []
    world.write_back._trim_cache()
    assert fits == [True]


@pytest.mark.parametrize("direct", [False, True])
def test_an_fsync_waits_for_earlier_closes_of_the_file(world: World, direct: bool) -> None:
    """vfs/semantics.md 4: bytes that were closed since are for another call."""
    world.context.server.learn(rejects={Kind.FILE: direct})
    file = world.closed("file", OLD)
    world.client.before["create" if direct else "update"] = [lambda: world.closed("file", NEW, of=file)]
    world.write_back.wait_until_uploaded(file)
    assert (list(world.client.contents.values()), file.needs_upload) == ([OLD], True)
    change = world.write_back.queue.schedule(file)
    assert change is not None
    change.started, world.client.before["create"] = True, [away]
    with pytest.raises(UnavailableError):
        world.write_back.replacer.run_change(change)
    world.closed("file", b"newest", of=file)
    world.write_back.wait_until_uploaded(file)
    assert (world.client.contents[file.item_id], file.needs_upload) == (b"newest", False), (
        "not of older ones only"
    )


def test_a_save_unlinked_before_its_first_record_sends_nothing(world: World) -> None:
    """save/protocol.md R10: until the item is deleted, the journal has the file as it was closed."""
    file = world.closed("file", NEW, world.client.put("o", "file", OLD))
    change = world.write_back.queue.schedule(file)
    assert change is not None
    change.started = True
    assert world.write_back.cancel_save(file), "the caller deletes the item"
    assert world.write_back.cancel_save(world.state.new_local_file(Kind.FILE, "other")), (
        "nothing is being sent"
    )
    world.write_back.replacer.run_change(change)
    assert (world.client.done, world.state.changes, file.needs_upload) == ([], {}, True)
    assert [row.path for row in world.state.journal.load_records(File)] == ["file"]


def test_a_file_unlinked_during_its_save_is_gone_at_once(world: World) -> None:
    """save/protocol.md R10: recorded before it returns; its name is hidden until the save is taken back."""
    file, _ = begun(world)
    assert not world.write_back.cancel_save(file)
    assert (world.state.journal.load_records(File), world.state.index.has_override("file")) == ([], True)
    assert [row.stage for row in world.state.journal.load_records(Change)] == [Stage.CANCELLED]


@pytest.mark.parametrize(("out", "late"), [(True, False), (False, False), (False, True)])
def test_quiescing_a_started_save_waits_for_it_or_restarts_it(world: World, out: bool, late: bool) -> None:
    """vfs/semantics.md 4: what it was to replace stays. `out`: the server is unreachable; `late`: there is no time to wait."""
    item = world.client.put("o", "file", OLD)
    file = world.closed("file", NEW, item)
    change = world.write_back.queue.schedule(file)
    assert change is not None
    change.started, world.namespace.is_unreachable = True, out
    sent = {"tid": TID, "generation": file.generation, "size": len(NEW)}
    world.state.write(edit(change, base=Base.from_item(item), **sent))
    world.client.before["find"], restarts = [partial(away, OutOfTimeError("late"))] * late, out or late
    world.write_back.wait_or_withdraw_save(file)
    assert (change.stage is Stage.CANCELLED, file.needs_upload) == (restarts, restarts)
    world.clean_up()
    assert [path for path in world.client.paths.values() if path == "file"] == ["file"]
    assert ("o" in world.client.items) is restarts
    assert file.change is not change
