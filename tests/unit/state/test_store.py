"""A step happens whole or not at all; what is closed, and what a sync brings to the disk."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest
from tests.support.boundaries import watch
from tests.support.files import errno_from
from tests.unit.state.conftest import ITEM, again, failing, full_disk, grown, held, written

from jobfs.nodes import Kind
from jobfs.state import Change, State, edit
from jobfs.state.localbytes import BOOT
from jobfs.state.records import TRANSITIONS, Aside, Stage, Verb


def test_a_step_is_written_to_the_journal_before_the_tables(state: State) -> None:
    file = state.new_local_file(Kind.FILE, "a")
    change = state.plan_change(Verb.PUT, "a", file)
    assert file.change is change
    state.write(edit(file, generation=5, path="b"), edit(change, target="b"), transaction_id="t", is_new=True)
    assert (file.path, file.generation, file.recorded, change.target) == ("b", 5, True, "b")
    other = State(state.journal.path.parent)
    files, changes = other.store.load_records()
    assert (other.changes, other.index.file_at("b")) == ({}, None), "rows are taken up one by one"
    assert [(found.ino, found.path, found.generation) for found in files] == [(file.ino, "b", 5)]
    assert [(found.target, found.file, files[0].change) for found in changes] == [("b", files[0], changes[0])]
    assert state.journal.has_tombstone("t")
    other.close()


def test_a_step_that_the_disk_refuses_has_not_happened(state: State) -> None:
    """vfs/semantics.md 4.41: ENOSPC before anything has changed."""
    file, gone = written(state, "a"), written(state, "gone")
    change = state.plan_change(Verb.PUT, "a", file, asides=[Aside("x", "h")])
    state.write(edit(change))
    before = (file.path, change.stage, change.asides, state.index.edition)
    edits = edit(file, path="b"), edit(change, stage=Stage.STAGED, asides=[])
    with full_disk(state, spent=True):
        assert errno_from(state.write, *edits, remove=[gone], is_new=True) == errno.ENOSPC
        for call, record in ((state.end_change, change), (state.unlink_file, file), (state.drop_files, gone)):
            assert errno_from(call, record) == errno.ENOSPC
    assert (file.path, change.stage, change.asides, state.index.edition) == before
    assert state.index.file_at("a") == file
    assert state.index.file_at("gone") == gone
    assert state.index.file_at("b") is None
    assert (file.change, state.changes, gone.recorded) == (change, {change.seq: change}, True)
    assert not state.changes.ready


@pytest.mark.parametrize("stays", [True, False])
def test_bytes_belong_to_the_open_generation_until_closed(state: State, stays: bool) -> None:
    """save/protocol.md, Vocabulary, (w). After a restart a scratch file is shown as it was, closed or not."""
    file, gone = state.new_local_file(Kind.FILE, "a"), written(state, "gone")
    one, two, three = [state.bytes.create(file.ino, state.journal.next_number()) for _ in range(3)]
    state.apply_in_memory(file, never_sent=stays)
    for local, before in ((one, 0), (two, one.generation)):
        number = local.generation
        state.store.begin_generation(file, local, mode=number)
        there = (number, 0) if stays and not before else (before, number)
        assert held(file) == held(again(state).index.file_by_number(file.ino))
        assert (file.generation, file.open_generation, file.mode, file.local) == (*there, number, local)
        with full_disk(state, spent=True):
            assert errno_from(state.store.close_generation, file, local, remove=[gone]) == errno.ENOSPC
        assert ((file.generation, file.open_generation), local.closed_size, gone.recorded) == (there, 0, True)
        state.store.close_generation(file, local, remove=[gone] if before else [], sha256="ff")
        assert (file.generation, file.open_generation, file.boot, file.sha256) == (number, 0, BOOT, "ff")
        assert (local.may_change(local.size), gone.recorded) == (True, not before)
        assert held(file) == held(again(state).index.file_by_number(file.ino))
    assert state.bytes.retired == [one.path]
    state.unlink_file(file)
    state.store.begin_generation(file, three)
    assert (file.local, file.recorded) == (three, False)
    for local in (one, two, three):
        local.release()


def on_disk(state: State) -> dict[str, bytes]:
    return {path.name.partition(".")[2]: path.read_bytes() for path in state.bytes.directory.iterdir()}


def test_appended_and_closed_bytes_stay_in_the_same_generation(state: State) -> None:
    """vfs/semantics.md 4.49; save/protocol.md, Vocabulary, local bytes: the journal says how many bytes are closed."""
    file, local = grown(state)
    assert (file.has_unclosed_bytes, file.size, file.generation) == (True, 6, local.generation)
    state.store.close_generation(file, local)
    assert not file.has_unclosed_bytes
    assert file.size == 10
    assert file.generation == local.generation
    assert local.closed_size == 10
    assert (state.bytes.retired, held(file)) == ([], held(again(state).index.file_by_number(file.ino)))
    local.release()


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("further", [False, True], ids=["the draft is the same", "a later draft was begun"])
def test_closed_bytes_are_separated_from_appended_bytes(state: State, synced: bool, further: bool) -> None:
    """save/protocol.md, Vocabulary, local bytes: what is sent never changes; what is on the disk stays there."""
    file, local = grown(state)
    mixed = draft = local.generation
    if synced:
        state.store.sync()
        assert (file.boot, state.bytes.needs_sync) == ("", False)
    if further:
        later = state.bytes.create(file.ino, state.journal.next_number(), local.path)
        state.store.begin_generation(file, later)
        draft = later.generation
        local.release()
        local = later
    state.store.separate_closed_bytes(file)
    assert (file.size, file.open_generation, file.local, file.has_unclosed_bytes) == (6, draft, local, True)
    assert on_disk(state)[str(file.generation)] == b"closed"
    assert on_disk(state)[str(draft)] == b"closedmore"
    assert state.bytes.retired == [state.bytes.generation_path(file.ino, mixed)] * further
    assert (local.may_change(0), state.bytes.is_synced(file.ino, file.generation)) == (further, synced)
    assert file.boot == ("" if synced else BOOT)
    assert held(file) == held(again(state).index.file_by_number(file.ino))
    before = on_disk(state)
    state.store.separate_closed_bytes(file)
    assert on_disk(state) == before, "once is enough"
    state.store.close_generation(file, local)
    assert (file.generation, file.size, file.open_generation) == (draft, 10, 0)
    local.release()


@pytest.mark.parametrize("started", [True, False])
def test_earlier_bytes_are_freed_at_the_next_close_unless_being_sent(state: State, started: bool) -> None:
    """save/protocol.md, Vocabulary, local bytes: what is sent stays until it was sent."""
    file, local = grown(state)
    earlier = file.generation
    state.plan_change(Verb.PUT, "a", file, generation=earlier, started=started)
    later = state.bytes.create(file.ino, state.journal.next_number())
    closes = file.close_count
    state.store.close_generation(file, later)
    assert state.bytes.retired == [state.bytes.generation_path(file.ino, earlier)] * (not started)
    assert file.close_count == closes + 1
    for each in (local, later):
        each.release()


@pytest.mark.parametrize("fault", ["journal", "room", "copy", "sync"])
def test_closed_bytes_that_cannot_be_separated_are_left_unchanged(state: State, fault: str) -> None:
    """vfs/semantics.md 4, A full disk: the spare room is for what has happened, not for a copy that a save needs."""
    file, local = grown(state)
    state.store.sync()
    was, there = held(file), on_disk(state)
    refused = {
        "journal": full_disk(state, spent=True), "room": full_disk(state),
        "copy": failing("truncate", errno.ENOSPC), "sync": failing("fdatasync", errno.EIO),
    }[fault]  # fmt: skip
    with refused:
        answer = errno_from(state.store.separate_closed_bytes, file)
    assert answer == (errno.EIO if fault == "sync" else errno.ENOSPC)
    assert (held(file), on_disk(state), local.closed_size, state.bytes.retired) == (was, there, 6, [])
    local.release()


def test_bytes_closed_during_a_sync_wait_for_the_next_sync(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.4: after a loss of power only what was seen on the disk counts."""
    file, local = grown(state)
    real, closes = os.fdatasync, [partial(state.store.close_generation, file, local)]

    def sync(handle: int) -> None:
        real(handle)
        for close in closes:
            closes.clear()
            close()

    monkeypatch.setattr(os, "fdatasync", sync)
    state.store.sync()
    assert (file.size, file.boot, state.store.needs_sync) == (10, BOOT, True)
    state.store.sync()
    assert (file.boot, state.store.needs_sync) == ("", False)
    local.release()


@pytest.mark.parametrize("known", [{}, {"generation": 3}, {"item_id": "one"}], ids=repr)
def test_dropping_the_open_generation_keeps_the_rest_of_the_file(state: State, known: dict[str, Any]) -> None:
    """save/protocol.md, Recovery: bytes that were written and not closed before a kill."""
    file, kept = state.new_local_file(Kind.FILE, "a"), state.new_local_file(Kind.FILE, "b")
    state.write(edit(file, open_generation=9, **known))
    state.unclosed.add(file)
    for edits in ([], [edit(kept, size=7)]):
        state.store.forget_open_generation(file, *edits)
    rows = {found.ino: (found.open_generation, found.size) for found in again(state).index.all_files()}
    assert rows == {kept.ino: (0, 7), **({file.ino: (0, 0)} if known else {})}
    assert (file.open_generation, file.recorded, state.backlog().files) == (0, bool(known), [file])


@pytest.mark.parametrize("fails", ["", "write", "sync"])
def test_a_sync_covers_all_generations_and_then_removes_old_ones(state: State, fails: str) -> None:
    """save/protocol.md, Vocabulary, (S): synced to disk, with all earlier records and the local bytes; R3. The next sync does
    the work of a failed one: a full disk gets the room of bytes that nobody needs, and bytes on the disk are known to be there.
    """
    file, gone = written(state, "a"), written(state, "gone")
    state.write(edit(file, boot="this boot"))
    state.unlink_file(gone)
    state.set_times(replace(ITEM, id="t"))
    if fails:
        with full_disk(state, spent=True) if fails == "write" else failing("fdatasync", errno.EIO):
            assert errno_from(state.store.sync) == (errno.ENOSPC if fails == "write" else errno.EIO)
    there: list[int] = []
    watch(state.journal, lambda step: there.append(len(on_disk(state))) if step == "sync" else None)
    assert state.store.needs_sync
    state.store.sync()
    assert (there, state.store.needs_sync) == ([2], False)
    assert file.boot == "", "its bytes are on the disk"
    assert {found.boot for found in again(state).index.all_files()} == {""}
    assert os.listdir(state.bytes.directory) == [f"{file.ino:016x}.{file.generation}"]


def test_bytes_retired_during_a_sync_are_removed_by_the_next(state: State) -> None:
    """save/protocol.md, Vocabulary, (S): a row that the disk has may still name them."""
    files = [written(state, "a"), written(state, "b")]
    state.unlink_file(files.pop())
    watch(state.journal, lambda step: state.unlink_file(files.pop()) if step == "synced" and files else None)
    state.store.sync()
    assert len(on_disk(state)) == 1
    state.store.sync()
    assert on_disk(state) == {}


def test_concurrent_syncs_share_one_disk_sync(state: State) -> None:
    """vfs/semantics.md 4.4: one disk sync serves many closes."""
    going, gate, calls = threading.Event(), threading.Event(), list[str]()

    def slow(step: str) -> None:
        calls.extend([step] * (step == "sync" and state.journal.needs_sync))
        if step == "synced":
            going.set()
            assert gate.wait(20)

    watch(state.journal, slow)
    state.write(transaction_id="first")
    with ThreadPoolExecutor(9) as pool:
        syncs = [pool.submit(state.store.sync)]
        assert going.wait(20)
        state.write(transaction_id="later")
        syncs += [pool.submit(state.store.sync) for _ in range(8)]
        gate.set()
    assert (len(calls), [sync.result() for sync in syncs], state.store.needs_sync) == (2, [None] * 9, False)


@pytest.mark.parametrize("journal", [True, False])
def test_a_change_makes_only_the_transitions_of_the_diagram(state: State, journal: bool) -> None:
    """save/protocol.md, The steps; a transition that is refused has not happened, not in the journal either."""
    for old, new in product(Stage, Stage):
        change = state.plan_change(Verb.PUT, "file", stage=old, shows={"file": None})
        state.write(edit(change))
        before, after = held(change), {**held(change), "stage": new, "target": "other"}
        allowed = new in {old, *TRANSITIONS[old]}
        shown = state.changes.copy(), state.index.has_override("file")
        with nullcontext() if allowed else pytest.raises(ValueError, match=f"can't go from {old} to {new}"):
            if journal:
                state.write(edit(change, stage=new, target="other"), transaction_id=f"{old} {new}")
            else:
                state.apply_in_memory(change, stage=new, target="other")
        (found,) = state.journal.load_records(Change)
        assert held(change) == (after if allowed else before)
        assert held(found) == (after if allowed and journal else before)
        assert state.journal.has_tombstone(f"{old} {new}") is (allowed and journal)
        assert allowed or (state.changes, state.index.has_override("file")) == shown
        state.end_change(change)
