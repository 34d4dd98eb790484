"""What the file system asks of write-back: close, fsync, and what takes which name (vfs/semantics.md 4)."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest
from tests.support.boundaries import watch
from tests.support.files import errno_from
from tests.support.waiting import eventually
from tests.unit.state.conftest import full_disk

from jobfs import names, process
from jobfs.errors import OutOfTimeError, UnavailableError
from jobfs.nodes import Kind
from jobfs.save.queue import WHILE_OPEN
from jobfs.state import Change, File, edit
from jobfs.state.copies import SAVES_LIFETIME
from jobfs.state.records import Base, Stage

from .world import TID, World, away, begun, hidden, opened

OLD, NEW = b"old", b"new"


def test_a_close_that_could_not_be_recorded_is_recorded_soon(world: World) -> None:
    """vfs/semantics.md 4.4, 4.10: safe from a power loss within a second, and sent; young transactions stay known (R4)."""
    file, seen = world.closed("file", OLD), list[str]()
    with full_disk(world.state, spent=True):
        assert errno_from(world.closed, "file", NEW, of=file) == errno.ENOSPC
    assert (world.state.unclosed, world.state.store.needs_sync) == ({file}, True)
    world.state.write(transaction_id=TID)
    world.write_back.start()
    daemons = {thread.name for thread in threading.enumerate() if thread.daemon}
    eventually(lambda: not (world.state.unclosed or world.state.store.needs_sync or file.refused))
    eventually(lambda: [change.target for change in world.state.changes.values()] == ["file"])
    for world.namespace.snapshot_number in (1, 2, 3):
        world.client.put("h", hidden("orphan"))
        eventually(lambda: world.client.paths == {"h": "orphan"})
    assert world.namespace.refreshed == 0, "no listing is due"
    assert world.state.journal.has_tombstone(TID)
    assert {"jobfs-sync", "jobfs-tidy"} <= daemons
    watch(world.state.journal, seen.append)
    world.write_back.record_closed(file)
    assert seen == []
    world.end()


def test_closed_files_are_synced_during_an_eviction(world: World) -> None:
    """vfs/semantics.md 4.4: a loss of power is covered within a second; 3.11: the save that fills the cache does not wait."""
    evicting, evicted = threading.Event(), threading.Event()

    def evict() -> None:
        evicting.set()
        evicted.wait(20)

    world.content.evict_to_limit = evict
    world.save("other", NEW)
    assert not evicting.is_set()
    world.write_back.start()
    try:
        assert evicting.wait(20)
        file = world.closed("file", NEW)
        eventually(lambda: (file.boot, world.state.store.needs_sync) == ("", False))
    finally:
        evicted.set()
        world.end()


@pytest.mark.parametrize("failing", ["spare", "sync", "memory", "listing"])
def test_sync_and_tidy_survive_any_error(world: World, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """vfs/semantics.md 4.4: a loss of power is covered within a second, whatever failed before."""
    place, name = {
        "spare": (type(world.state.journal.spare), "try_refill"), "sync": (type(world.state.store), "sync"),
        "memory": (process, "trim_memory"), "listing": (world.cleanup, "expose_orphans"),
    }[failing]  # fmt: skip
    real, failures = getattr(place, name), [OSError(errno.EIO, "once"), ValueError("a fault")]
    monkeypatch.setattr(place, name, lambda *args: away(failures.pop()) if failures else real(*args))
    world.client.put("h", hidden("orphan"), b"")
    world.namespace.snapshot_number = 1
    world.write_back.start()
    world.closed("file", NEW)
    eventually(lambda: not (failures or world.state.store.needs_sync))
    eventually(lambda: world.client.paths == {"h": "orphan"})
    world.end()


def test_an_old_tombstone_still_explains_what_the_next_listing_shows(world: World) -> None:
    """save/protocol.md, Vocabulary, tombstone; R4: a late create leaves no second version."""
    world.client.put("h", hidden("file", names.Role.STAGED), NEW)
    world.state.write(transaction_id=TID)
    world.context.lifetime = 0.0
    world.namespace.snapshot_number = 1
    world.write_back.start()
    eventually(lambda: not world.state.journal.has_any_tombstone)
    world.end()
    assert world.client.paths == {}


@pytest.mark.parametrize("failures", [0, 1])
def test_a_listing_begins_after_every_late_create(world: World, failures: int) -> None:
    """save/protocol.md R4: not one that began before that and was processed afterwards; one that fails is repeated."""
    real, errors = world.namespace.refresh, [UnavailableError("not now")] * failures
    world.namespace.refresh = lambda: away(errors.pop()) if errors else real()  # type: ignore[method-assign]
    world.state.write(transaction_id=TID)
    world.namespace.snapshot_number, world.namespace.listed = 1, time.monotonic()
    world.context.relist_after = time.monotonic()
    world.write_back.start()
    eventually(lambda: world.namespace.refreshed)
    for world.namespace.snapshot_number in (2, 3):
        world.client.put("h", hidden("orphan"))
        eventually(lambda: world.client.paths == {"h": "orphan"})
    assert world.namespace.refreshed == 1
    world.end()


def test_a_kept_save_expires_in_a_mount_that_saves_nothing_more(world: World, tmp_path: Path) -> None:
    """vfs/semantics.md 4.52: after 30 days its bytes are gone from the disk."""
    saves = world.state.saves
    (tmp_path / "saved").write_bytes(NEW)
    copy = saves.prepare("file", tmp_path / "saved", len(NEW))
    assert copy is not None
    saves.commit("file", copy._replace(made=time.time() - SAVES_LIFETIME + 0.3))
    assert saves.file_path(copy).exists()

    def is_gone_after_a_listing() -> bool:
        world.namespace.snapshot_number += 1
        return not saves.file_path(copy).exists()

    world.write_back.start()
    eventually(is_gone_after_a_listing)
    world.end()


def test_an_unmount_ends_the_background_work_of_saves(world: World) -> None:
    ended = threading.Event()
    submit = world.context.io_pool.submit
    looks = [submit(lambda: [ended.wait(20), threading.Event().wait(0.3)]) for _ in range(3)]
    looks[2].add_done_callback(lambda look: ended.set())
    world.context.server.learn(moves_keep_updated_at=True)  # else bytes are read, beside the save too
    assert world.save("file", NEW, world.client.put("o", "file", OLD)).item, "no save waits for these"
    world.end()
    assert [(look.done(), look.cancelled()) for look in looks] == [(True, False)] * 2 + [(True, True)]


@pytest.mark.parametrize("writing", [True, False])
def test_the_save_of_a_file_that_is_still_written_waits(world: World, writing: bool) -> None:
    """vfs/semantics.md 4: the upload starts after --write-back-delay; coalesces rewrites."""
    world.queue.delay = 1.0
    file = opened(world.closed("file", NEW), writable=writing)
    change = world.scheduled(file)
    due = change.due
    assert (due > time.monotonic() + WHILE_OPEN / 2) is writing
    assert [world.scheduled(file), world.queue.schedule(file, WHILE_OPEN)] == [change] * 2
    assert (file.change, change.due) == (change, due), "another close does not put it off"
    assert world.client.done == []


def test_an_fsync_that_fails_before_its_save_has_begun_leaves_it_queued(world: World) -> None:
    """vfs/semantics.md 4.7: the save is tried again in the background."""
    file = opened(world.closed("file", NEW))
    world.client.health.require_reachable = lambda subject: away()  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        world.write_back.wait_until_uploaded(file)
    assert file.change is not None
    assert (file.change.due > time.monotonic(), world.client.done) == (True, [])


@pytest.mark.parametrize("direct", [False, True])
def test_an_fsync_waits_for_earlier_closes_of_the_file(world: World, direct: bool) -> None:
    """vfs/semantics.md 4: bytes that were closed since are for another call."""
    world.context.server.learn(rejects={Kind.FILE: direct})
    file = world.closed("file", OLD)
    world.client.before["create" if direct else "update"] = [lambda: world.closed("file", NEW, of=file)]
    world.write_back.wait_until_uploaded(file)
    assert (list(world.client.contents.values()), file.needs_upload) == ([OLD], True)
    change = world.scheduled(file)
    change.started = True
    world.client.fail("create", UnavailableError("not now"))
    with pytest.raises(UnavailableError):
        world.replacer.run_change(change)
    world.closed("file", b"newest", of=file)
    world.write_back.wait_until_uploaded(file)
    assert world.client.contents[file.item_id] == b"newest"
    assert not file.needs_upload, "not of older ones only"


def test_an_fsync_waits_for_bytes_that_were_written_during_a_save(world: World) -> None:
    """vfs/semantics.md 4.7: the save of earlier bytes, which has begun, does not count."""
    file = world.closed("file", OLD)
    change = world.scheduled(file)
    change.started = True
    world.client.fail("create", UnavailableError("not now"))
    with pytest.raises(UnavailableError):
        world.replacer.run_change(change)
    local = world.written(file, NEW)
    world.write_back.wait_until_uploaded(file)
    assert (world.client.contents[file.item_id], file.needs_upload) == (NEW, False)
    local.release()


def test_a_save_unlinked_before_its_first_record_sends_nothing(world: World) -> None:
    """save/protocol.md R10: until the item is deleted, the journal has the file as it was closed."""
    file = world.closed("file", NEW, world.client.put("o", "file", OLD))
    change = world.scheduled(file)
    change.started = True
    other = world.state.new_local_file(Kind.FILE, "other")
    assert world.write_back.cancel_save(file), "the caller deletes the item"
    assert world.write_back.cancel_save(other), "nothing is being sent"
    world.replacer.run_change(change)
    assert (world.client.done, world.state.changes, file.needs_upload) == ([], {}, True)
    assert [row.path for row in world.rows(File)] == ["file"]


def test_a_file_unlinked_during_its_save_is_gone_at_once(world: World) -> None:
    """save/protocol.md R10: recorded before it returns; its name is hidden until the save is taken back."""
    file, _ = begun(world)
    assert not world.write_back.cancel_save(file)
    assert (world.rows(File), world.state.index.has_override("file")) == ([], True)
    assert [row.stage for row in world.rows(Change)] == [Stage.CANCELLED]


@pytest.mark.parametrize(("out", "late"), [(True, False), (False, False), (False, True)])
def test_quiescing_a_started_save_waits_for_it_or_restarts_it(world: World, out: bool, late: bool) -> None:
    """vfs/semantics.md 4: what it was to replace stays. `out`: the server is unreachable; `late`: there is no time to wait."""
    item = world.client.put("o", "file", OLD)
    file = world.closed("file", NEW, item)
    change = world.scheduled(file)
    change.started, world.namespace.is_unreachable = True, out
    sent = {"tid": TID, "generation": file.generation, "size": len(NEW)}
    world.state.write(edit(change, base=Base.from_item(item), **sent))
    world.client.fail("find", *[OutOfTimeError("late")] * late)
    restarts = out or late
    world.write_back.wait_or_withdraw_save(file)
    assert (change.stage is Stage.CANCELLED, file.needs_upload) == (restarts, restarts)
    world.clean_up()
    assert [path for path in world.client.paths.values() if path == "file"] == ["file"]
    assert ("o" in world.client.items) is restarts
    assert file.change is not change
