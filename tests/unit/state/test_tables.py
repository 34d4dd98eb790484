"""The tables: what a path shows, which file is which, and that a step happens whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests.support.files import errno_from
from tests.unit.state.conftest import held, refusing

from jobfs.api import deadline
from jobfs.errors import FsError, OutOfTimeError
from jobfs.nodes import Item, Kind, implicit_directory, inode_number
from jobfs.state import Change, File, State, edit
from jobfs.state.localbytes import BOOT, Local
from jobfs.state.records import TRANSITIONS, UNSET, Aside, Handle, Stage, Verb

ITEM = Item("one", Kind.FILE, "dir/a", updated_at="1", updated_ns=1)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path)
    with closing(state.journal):
        yield state


def again(state: State) -> State:
    """What the next mount finds."""
    other = State(state.journal.path.parent)
    other.store.load()
    other.journal.close()
    return other


def written(state: State, path: str, *, item: Item | None = None, content: bytes = b"x") -> File:
    """A file with bytes that were closed here, as files.py and writeback.py make it; open as long as a test likes."""
    file = state.open(item) if item is not None else state.new(Kind.FILE, path)
    local = state.bytes.new(file.ino, state.journal.next_number())
    local.write(content, 0)
    state.bytes.cover(file.ino, local)
    local.release()
    state.apply(file, local=local)
    state.write(edit(file, generation=local.generation, size=local.size), new=True)
    return file


def opens(file: File) -> None:
    """A program opens it."""
    file.handles.append(Handle(file, file.item, os.O_RDONLY))


def full(*edits: object, **more: object) -> None:
    raise FsError(errno.ENOSPC)


# -- what is shown


def test_a_file_is_shown_while_this_machine_knows_more_of_it_than_the_server(state: State) -> None:
    """vfs/semantics.md 1; design.md, What a path shows."""
    assert not state
    file = written(state, "dir/b")
    assert (bool(state), state.index.at("dir/b"), state.index.children("dir")) == (
        True,
        file,
        ({"b": file}, {}),
    )
    state.write(edit(file, item_id="two", generation=0), edit(file, path="dir/c"))
    assert (state.index.at("dir/b"), state.index.at("dir/c")) == (None, file)
    state.apply(file, local=None)
    assert (state.index.at("dir/c"), bool(state)) == (None, False), "the namespace has the word"
    state.drop(written(state, "dir/d"))
    assert (state.index.at("dir/d"), bool(state)) == (None, False)


def test_an_item_that_a_change_shows_is_shown_until_the_change_ends(state: State) -> None:
    """design.md, What a path shows: a name stops being hidden when its Change ends; nobody has to lift it."""
    change = state.change(Verb.REMOVE, "dir/a", shows={"dir/a": None, "top": ITEM}, stage=Stage.STAGED)
    assert (state.index.hidden("dir/a"), state.index.meanwhile("dir/a"), state.index.meanwhile("top")) == (
        True,
        None,
        ITEM,
    )
    assert state.index.children("dir") == ({}, {"a": None})
    other = state.change(Verb.MOVE, "dir/a", shows={"dir/a": ITEM}, stage=Stage.STAGED)
    assert state.index.meanwhile("dir/a") is ITEM, "the later one has the word"
    state.end(other)
    assert state.index.hidden("dir/a")
    state.end(change)
    assert (state.index.hidden("dir/a"), state.index.meanwhile("dir/a"), bool(state)) == (False, None, False)


def test_open_and_unsent_files_below_a_directory_are_found(state: State) -> None:
    """vfs/semantics.md 4: rename of a directory: open and unsent files are re-keyed."""
    unsent = [written(state, path) for path in ("dir/b", "dir/sub/c", "dirt/d")]
    opened, remembered = state.open(replace(ITEM, id="o", path="dir/o")), state.open(ITEM)
    opens(opened)
    state.write(edit(remembered, mode=0o600))
    assert set(state.index.beneath("dir")) == {*unsent[:2], opened}
    assert set(state.index.beneath("")) == {*unsent, opened}


def test_the_edition_grows_whenever_a_path_shows_something_else(state: State) -> None:
    editions = [state.index.edition]
    for step in (
        lambda: written(state, "a"),
        lambda: state.apply(state.index.at("a") or File(0), mode=0o600),
        lambda: state.apply(state.index.at("a") or File(0), path="c"),
        lambda: state.change(Verb.MOVE, "a", shows={"b": None}),
        lambda: state.end(*state.changes.values()),
        lambda: state.touch(ITEM),
    ):
        step()
        editions.append(state.index.edition)
    assert editions == sorted(set(editions))
    state.let_go(state.open(replace(ITEM, id="opened", path="opened")))
    assert state.index.edition == editions[-1], "a file that is only opened shows nothing else"


# -- which file is which


def test_an_inode_number_is_made_from_the_item_until_a_file_has_the_number(state: State) -> None:
    """vfs/semantics.md 1: inode numbers are stable: derived from the item id; a save keeps the file's inode number."""
    file = written(state, "dir/a", item=ITEM)
    assert state.index.number(ITEM) == file.ino == inode_number("one")
    saved = replace(ITEM, id="two", updated_at="2")
    state.write(edit(file, item_id="two", generation=0))
    assert (state.index.of(saved), state.index.number(saved)) == (file, file.ino)
    assert state.index.number(ITEM) not in (file.ino, 0), "the version that is kept beside it has another one"
    assert again(state).index.number(saved) == file.ino


def test_a_file_that_was_changed_here_is_not_the_file_that_the_job_renames(state: State) -> None:
    """vfs/semantics.md 1: two files never have one number."""
    file = state.open(ITEM)
    renamed = replace(ITEM, path="new/a")
    assert (state.index.of(renamed), state.open(renamed).path) == (file, "new/a"), "nothing was written to it"
    written(state, "dir/a", item=ITEM)
    assert (state.index.of(ITEM), state.index.of(renamed)) == (file, None)
    assert state.index.number(renamed) != file.ino


def test_a_file_that_nothing_needs_is_let_go_of(state: State) -> None:
    """vfs/semantics.md 6, Bounds: memory does not grow with the number of files or hours."""
    kinds = ("handle", "row", "change", "nothing", "bytes", "here")
    items = {name: replace(ITEM, id=name, path=name) for name in kinds}
    needed = {name: state.open(item) for name, item in items.items()}
    written(state, "bytes", item=items["bytes"])
    state.apply(needed["here"], stays=True)
    opens(needed["handle"])
    state.write(edit(needed["row"], mode=0o600))
    state.change(Verb.PUT, "change", needed["change"])
    for file in needed.values():
        state.let_go(file)
    known = {name for name, file in needed.items() if state.index.file(file.ino) is file}
    assert (known, state.index.of(items["nothing"])) == ({*kinds} - {"nothing"}, None)


# -- steps


def test_a_step_is_in_the_journal_and_then_in_the_tables(state: State) -> None:
    file = state.new(Kind.FILE, "a")
    change = state.change(Verb.PUT, "a", file)
    assert file.change is change
    state.write(edit(file, generation=5, path="b"), edit(change, target="b"), used="t", new=True)
    assert (file.path, file.generation, file.recorded, change.target) == ("b", 5, True, "b")
    other = State(state.journal.path.parent)
    files, changes = other.store.load()
    assert (other.changes, other.index.at("b")) == ({}, None), "rows are taken up one by one"
    assert [(found.ino, found.path, found.generation) for found in files] == [(file.ino, "b", 5)]
    assert [(found.target, found.file, files[0].change) for found in changes] == [("b", files[0], changes[0])]
    assert state.journal.tombstone("t")
    other.journal.close()


def test_a_step_that_the_disk_refuses_has_not_happened(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 4.41: ENOSPC before anything has changed."""
    file, gone = written(state, "a"), written(state, "gone")
    change = state.change(Verb.PUT, "a", file, asides=[Aside("x", "h")])
    state.write(edit(change))
    before = (file.path, change.stage, change.asides, state.index.edition)
    monkeypatch.setattr(state.journal, "write", full)
    edits = edit(file, path="b"), edit(change, stage=Stage.STAGED, asides=[])
    assert errno_from(state.write, *edits, gone=[gone], new=True) == errno.ENOSPC
    for call, record in ((state.end, change), (state.unname, file), (state.drop, gone)):
        assert errno_from(call, record) == errno.ENOSPC
    assert (file.path, change.stage, change.asides, state.index.edition) == before
    assert (state.index.at("a"), state.index.at("gone"), state.index.at("b")) == (file, gone, None)
    assert (file.change, state.changes, gone.recorded) == (change, {change.seq: change}, True)
    assert not state.changes.awake


def test_a_change_is_cleaned_up_and_then_leaves_no_row_and_frees_its_file(state: State) -> None:
    file = written(state, "a")
    placed = state.change(Verb.MOVE, "b", stage=Stage.STAGED)
    change = state.change(Verb.PUT, "a", file, begun=True)
    state.write(edit(placed, stage=Stage.PLACED))
    state.write(edit(change, stage=Stage.CANCELLED))
    state.write(edit(placed, asides=[]))
    assert (list(state.changes.awake), min(placed.since, placed.made) > 0) == ([placed, change], True), (
        "once each"
    )
    state.end(placed)
    state.end(change)
    assert (change.stage, file.change, state.changes) == (Stage.DONE, None, {})
    state.end(change)
    state.apply(change, asides=[])
    assert (state.changes, state.journal.load(Change)) == ({}, []), "what has ended does not come back"


@pytest.mark.parametrize("stays", [True, False])
def test_bytes_are_drafts_until_closed(state: State, monkeypatch: pytest.MonkeyPatch, stays: bool) -> None:
    """save/protocol.md, Vocabulary, (w). After a restart a scratch file is shown as it was, closed or not."""
    file, gone = state.new(Kind.FILE, "a"), written(state, "gone")
    one, two, three = [state.bytes.new(file.ino, state.journal.next_number()) for _ in range(3)]
    state.apply(file, stays=stays)
    for local, before in ((one, 0), (two, one.generation)):
        state.store.begin(file, local, mode=local.generation)
        there = (local.generation, 0) if stays and not before else (before, local.generation)
        assert held(file) == held(again(state).index.file(file.ino))
        assert (file.generation, file.draft, file.mode, file.local) == (*there, local.generation, local)
        with monkeypatch.context() as patch:
            patch.setattr(state.journal, "write", full)
            assert errno_from(state.store.close, file, local, gone=[gone]) == errno.ENOSPC
        assert ((file.generation, file.draft), local.closed, gone.recorded) == (there, 0, True)
        state.store.close(file, local, gone=[gone] if before else [], sha256="ff")
        assert (file.generation, file.draft, file.boot, file.sha256) == (local.generation, 0, BOOT, "ff")
        assert (local.may_change(local.size), gone.recorded) == (True, not before)
        assert held(file) == held(again(state).index.file(file.ino))
    assert state.bytes.retired == [one.path]
    state.unname(file)
    state.store.begin(file, three)
    assert (file.local, file.recorded) == (three, False)
    for local in (one, two, three):
        local.release()


def grown(state: State, behind: bytes = b"more") -> tuple[File, Local]:
    """A file that was closed, and has more behind that; a program has it open."""
    file = state.new(Kind.FILE, "a")
    local = state.bytes.new(file.ino, state.journal.next_number())
    local.write(b"closed", 0)
    state.store.begin(file, local)
    state.store.close(file, local)
    local.write(behind, 6)
    return file, local


def on_disk(state: State) -> dict[str, bytes]:
    return {path.name.partition(".")[2]: path.read_bytes() for path in state.bytes.directory.iterdir()}


def test_what_is_closed_behind_closed_bytes_is_the_same_generation(state: State) -> None:
    """vfs/semantics.md 4.49; save/protocol.md, Vocabulary, local bytes: the journal says how many bytes are closed."""
    file, local = grown(state)
    assert (file.written, file.size, file.generation) == (True, 6, local.generation)
    state.store.close(file, local)
    assert (file.written, file.size, file.generation, local.closed) == (False, 10, local.generation, 10)
    assert (state.bytes.retired, held(file)) == ([], held(again(state).index.file(file.ino)))
    local.release()


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("further", [False, True], ids=["the draft is the same", "a later draft was begun"])
def test_closed_bytes_are_set_apart_from_those_behind_them(state: State, synced: bool, further: bool) -> None:
    """save/protocol.md, Vocabulary, local bytes: what is sent never changes; what is on the disk stays there."""
    file, local = grown(state)
    mixed = draft = local.generation
    if synced:
        state.store.sync()
        assert (file.boot, state.bytes.waiting) == ("", False)
    if further:
        later = state.bytes.new(file.ino, state.journal.next_number(), local.path)
        state.store.begin(file, later)
        draft = later.generation
        local.release()
        local = later
    state.store.set_apart(file)
    assert (file.size, file.draft, file.local, file.written) == (6, draft, local, True)
    assert on_disk(state)[str(file.generation)] == b"closed"
    assert on_disk(state)[str(draft)] == b"closedmore"
    assert state.bytes.retired == [state.bytes.path(file.ino, mixed)] * further
    assert (local.may_change(0), state.bytes.is_synced(file.ino, file.generation)) == (True, synced)
    assert (file.boot, held(file)) == ("" if synced else BOOT, held(again(state).index.file(file.ino)))
    before = on_disk(state)
    state.store.set_apart(file)
    assert on_disk(state) == before, "once is enough"
    state.store.close(file, local)
    assert (file.generation, file.size, file.draft) == (draft, 10, 0)
    local.release()


@pytest.mark.parametrize("fault", ["journal", "copy", "sync"])
def test_closed_bytes_that_cannot_be_set_apart_stay_as_they_are(
    state: State, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    file, local = grown(state)
    state.store.sync()
    was, there = held(file), on_disk(state)
    with monkeypatch.context() as patch:
        if fault == "journal":
            patch.setattr(state.journal, "write", full)
        elif fault == "copy":
            patch.setattr(os, "truncate", refusing(errno.ENOSPC))
        else:
            patch.setattr(os, "fdatasync", refusing(errno.EIO))
        assert errno_from(state.store.set_apart, file) == (errno.EIO if fault == "sync" else errno.ENOSPC)
    assert (held(file), on_disk(state), local.closed, state.bytes.retired) == (was, there, 6, [])
    local.release()


def test_bytes_that_are_closed_while_others_are_synced_wait_for_the_next_sync(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.4: after a loss of power only what was seen on the disk counts."""
    file, local = grown(state)
    real = os.fdatasync

    def closes_meanwhile(handle: int) -> None:
        real(handle)
        monkeypatch.setattr(os, "fdatasync", real)
        state.store.close(file, local)

    monkeypatch.setattr(os, "fdatasync", closes_meanwhile)
    state.store.sync()
    assert (file.size, file.boot, state.store.unsynced) == (10, BOOT, True)
    state.store.sync()
    assert (file.boot, state.store.unsynced) == ("", False)
    local.release()


@pytest.mark.parametrize("sent", [True, False])
def test_a_save_that_is_cancelled_lets_go_of_bytes_that_only_it_sends(state: State, sent: bool) -> None:
    """save/protocol.md, Vocabulary: the bytes that it sends stay while it runs, newer ones after it."""
    file, gone = written(state, "a"), written(state, "gone")
    older = [state.bytes.path(file.ino, file.generation)]
    change = state.change(Verb.PUT, "a", file, generation=file.generation if sent else 0, begun=True)
    local = state.bytes.new(file.ino, state.journal.next_number())
    state.store.close(file, local)
    local.release()
    assert state.bytes.retired == ([] if sent else older)
    state.cancel(change, gone=[gone], size=3)
    assert (state.bytes.retired, gone.recorded) == (older, False)
    assert (change.stage, change.size, change.file, file.change) == (Stage.CANCELLED, 3, None, None)
    (found,) = state.journal.load(Change)
    assert held(found) == held(change)


# -- changes of one name


def test_changes_of_one_target_come_to_rest_in_order_and_cancelled_changes_first(state: State) -> None:
    first, second, third = (state.change(Verb.PUT, "a") for _ in range(3))
    other = state.change(Verb.PUT, "b")
    assert [state.changes.before(change) for change in (first, second, third, other)] == [
        None,
        first,
        first,
        None,
    ]
    state.apply(third, stage=Stage.CANCELLED)
    assert [state.changes.before(change) for change in (first, second, third)] == [third, third, None]
    state.end(third)
    state.apply(first, stage=Stage.STAGED)
    state.apply(first, stage=Stage.PLACED)
    assert state.changes.before(second) is None, "the server has the outcome: only cleanup is left"
    state.apply(second, target="b")
    assert state.changes.before(other) is second, "the older one goes first, wherever it was made"


def test_a_name_can_be_taken_from_a_change_that_was_not_begun(state: State) -> None:
    """vfs/semantics.md 4.34: a new file of the old name makes a removal void, and takes the item as its base."""
    change = state.change(Verb.REMOVE, "a", shows={"a": None}, stage=Stage.STAGED)
    assert (state.changes.pending("a"), state.changes.in_flight(Verb.REMOVE, "a")) == (change, [])
    change.begun = True
    assert (state.changes.pending("a"), state.changes.in_flight(Verb.REMOVE, "a")) == (None, [change])
    state.apply(change, stage=Stage.PLACED)
    assert (state.changes.pending("a"), state.changes.in_flight(Verb.REMOVE, "a")) == (None, [])


# -- a file loses its name


@pytest.mark.parametrize("newer", [False, True], ids=["closed", "written since"])
def test_an_open_file_lives_on_with_its_handles(state: State, newer: bool) -> None:
    """vfs/semantics.md 4.33: the bytes that its handles have, and no others, stay."""
    file = written(state, "a", content=b"content")
    assert file.local is not None
    if newer:
        state.apply(file, local=state.bytes.new(file.ino, state.journal.next_number(), file.local.path))
    local = file.local.acquire()
    opens(file)
    state.write(edit(file, item_id="one", boot="this boot", refused="why", ctime_ns=7, mode=0o600))
    state.change(Verb.PUT, "a", file)
    was = {**held(file), "path": None, "item_id": "", "generation": 0, "size": 0, "boot": "", "refused": ""}
    state.unname(file)
    state.store.sync()
    assert held(file) == {**was, "ctime_ns": file.ctime_ns}
    assert time.time_ns() - 60e9 < file.ctime_ns
    assert (state.index.at("a"), state.index.of(ITEM), file.recorded, state.changes) == (
        None,
        None,
        False,
        {},
    )
    assert (file.local, local.read(0, 9)) == (local, b"content")
    assert list(state.bytes.directory.iterdir()) == [local.path]
    assert again(state).index.files() == []
    for _ in range(local.users):
        local.release()


@pytest.mark.parametrize("known", [{}, {"generation": 3}, {"item_id": "one"}], ids=repr)
def test_a_draft_that_ends_leaves_what_else_is_known(state: State, known: dict[str, Any]) -> None:
    """save/protocol.md, Recovery: of what was written and not closed before a kill."""
    file, kept = state.new(Kind.FILE, "a"), state.new(Kind.FILE, "b")
    state.write(edit(file, draft=9, **known))
    state.unclosed.add(file)
    for edits in ([], [edit(kept, size=7)]):
        state.store.end_draft(file, *edits)
    rows = {found.ino: (found.draft, found.size) for found in again(state).index.files()}
    assert rows == {kept.ino: (0, 7), **({file.ino: (0, 0)} if known else {})}
    assert (file.draft, file.recorded, state.left().files) == (0, bool(known), [file])


# -- sync


@pytest.mark.parametrize("failing", ["", "write", "sync"])
def test_a_sync_covers_all_then_removes(state: State, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """save/protocol.md, Vocabulary, (S): synced to disk, with all earlier records and the local bytes; R3. The next sync does
    the work of a failed one: a full disk gets the room of bytes that nobody needs, and bytes on the disk are known to be there.
    """
    file, gone = written(state, "a"), written(state, "gone")
    state.write(edit(file, boot="this boot"))
    state.unname(gone)
    state.touch(replace(ITEM, id="t"))
    if failing:
        with monkeypatch.context() as patch:
            patch.setattr(state.journal, failing, full)
            assert errno_from(state.store.sync) == errno.ENOSPC
    assert state.store.unsynced
    there, real = list[int](), state.journal.sync

    def sync() -> None:
        there.append(len(os.listdir(state.bytes.directory)))
        real()

    monkeypatch.setattr(state.journal, "sync", sync)
    state.store.sync()
    assert (there, state.store.unsynced) == ([2], False)
    assert file.boot == "", "its bytes are on the disk"
    assert {found.boot for found in again(state).index.files()} == {""}
    assert os.listdir(state.bytes.directory) == [f"{file.ino:016x}.{file.generation}"]


def test_concurrent_syncs_share_one_disk_sync(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 4.4: one disk sync serves many closes."""
    going, gate, calls = threading.Event(), threading.Event(), []

    def slow(handle: int) -> None:
        calls.append(handle)
        going.set()
        assert gate.wait(20)

    monkeypatch.setattr(os, "fdatasync", slow)
    state.write(used="first")
    with ThreadPoolExecutor(9) as pool:
        syncs = [pool.submit(state.store.sync)]
        assert going.wait(20)
        state.write(used="later")
        syncs += [pool.submit(state.store.sync) for _ in range(8)]
        gate.set()
    assert (len(calls), [sync.result() for sync in syncs], state.store.unsynced) == (2, [None] * 9, False)


# -- what is remembered of items


def test_attributes_survive_a_remount_not_their_item(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 2.11: kept in the state directory per item; goes when the item goes."""
    state.write(edit(state.open(ITEM), mode=0o755))
    state.touch(ITEM, content=True)
    state.touch(ITEM)
    file = state.index.of(ITEM)
    assert file is not None
    assert file.ctime_ns >= file.mtime_ns > 0
    assert (file.mode, file.atime_ns, file.version) == (0o755, UNSET, "1")
    assert [held(found) for found in again(state).index.files()] == [held(file)]
    with monkeypatch.context() as patch:
        patch.setattr(state.journal.spare, "restore", lambda beside: False)
        state.touch(ITEM, made=True)
    assert file.atime_ns == file.mtime_ns, "on a full disk for this mount"
    assert [found.atime_ns for found in again(state).index.files()] == [UNSET]
    state.touch(replace(ITEM, updated_at="2"))
    assert (file.mode, file.atime_ns, file.mtime_ns, file.version) == (0o755, UNSET, UNSET, "2")
    state.touch(implicit_directory("x"))
    assert [found.item_id for found in again(state).index.files()] == ["one"]
    for _ in range(2):
        state.lose("one")
    assert (state.index.of(ITEM), again(state).index.of(ITEM)) == (None, None)


def test_unsent_bytes_stay_when_the_job_deletes_their_item(state: State) -> None:
    """vfs/semantics.md 4: if the target was deleted meanwhile, the save brings it back; what is only open lives on."""
    opened = state.open(replace(ITEM, id="two", path="b"))
    opens(opened)
    state.write(edit(opened, mode=0o755))
    state.lose("two")
    assert (opened.item_id, opened.mode, state.index.file(opened.ino)) == ("", 0o755, opened)
    file = written(state, "dir/a", item=ITEM)
    state.apply(file, atime_ns=7)
    state.touch(replace(ITEM, updated_at="2"))
    state.lose("one")
    assert (state.index.at("dir/a"), state.index.of(ITEM), file.unsaved, file.atime_ns) == (
        file,
        None,
        True,
        7,
    )
    assert [(found.path, found.generation) for found in again(state).index.files()] == [
        ("dir/a", file.generation)
    ]


# -- records: which way a Change may go, and what each record says of itself


@pytest.mark.parametrize("journal", [True, False])
def test_a_change_goes_only_where_the_diagram_has_an_arrow(state: State, journal: bool) -> None:
    """save/protocol.md, The steps; a transition that is refused has not happened, not in the journal either."""
    for old, new in product(Stage, Stage):
        change = state.change(Verb.PUT, "file", stage=old, shows={"file": None})
        state.write(edit(change))
        before, after = held(change), {**held(change), "stage": new, "target": "other"}
        shown, allowed = (state.changes.copy(), state.index.hidden("file")), new in {old, *TRANSITIONS[old]}
        with nullcontext() if allowed else pytest.raises(ValueError, match=f"can't go from {old} to {new}"):
            if journal:
                state.write(edit(change, stage=new, target="other"), used=f"{old} {new}")
            else:
                state.apply(change, stage=new, target="other")
        (found,) = state.journal.load(Change)
        assert held(change) == (after if allowed else before)
        assert held(found) == (after if allowed and journal else before)
        assert state.journal.tombstone(f"{old} {new}") is (allowed and journal)
        assert allowed or (state.changes, state.index.hidden("file")) == shown
        state.end(change)


def test_a_handle_goes_on_with_a_version_that_proves_little() -> None:
    """save/protocol.md R1: bytes that were placed just now."""
    handle = Handle(File(1), ITEM, os.O_RDONLY)
    assert (handle.readable, handle.writable, handle.process) == (True, False, None)
    handle.go_on(saved := replace(ITEM, updated_at="2"), Local(threading.Condition(), Path(), 1, 1))
    assert (handle.item, handle.seen, handle.young) == (saved, saved, True)


def test_an_item_is_known_as_staged_by_its_hidden_name_in_whatever_directory() -> None:
    """save/protocol.md R6: by the last component of its path."""
    tid, other = "0123456789abcdef", "f" * 16
    change = Change(1, Verb.PUT, "dir/file", tid=tid)
    named = [
        f"{where}/.jobfs-0123456789ab-{by}-staged-file"
        for where, by in (("dir", tid), ("moved", tid), ("dir", other))
    ]
    staged = [change.is_staged(Item("1", Kind.FILE, path)) for path in [*named, "dir/file"]]
    assert staged == [True, True, False, False]


def test_of_the_replaced_items_the_one_that_was_shown_is_kept() -> None:
    """vfs/semantics.md 4: promote with the old item's lifecycle and permission; only the item that is shown is replaced."""
    own, covered = Aside("own", "h2", moved=True), Aside("default", "h3", moved=True)
    asides = [Aside("not moved", "h1"), Aside("", "lost"), own, covered]
    assert Change(1, Verb.PUT, "file", asides=asides[:2]).replaced() is None
    assert Change(1, Verb.PUT, "file", asides=asides).replaced() is own


# -- reserved names


#: Names beside a reserved `dir`: if an operation waits for it, and if a change of the server may begin.
@pytest.mark.parametrize(
    ("name", "waits", "free"),
    [("dir", True, False), ("dir/a", True, False), ("", True, True), ("dirt", False, True), ("b", False, True)],
)  # fmt: skip
def test_names_that_touch_are_changed_in_turn(state: State, name: str, waits: bool, free: bool) -> None:
    """design.md, Things to know: operations reserve names and all below; vfs/semantics.md 4: a rename sees nothing half saved."""

    def waited(seconds: float) -> bool:
        with suppress(OutOfTimeError), deadline.within(seconds), state.reservations.held(name):
            return False
        return True

    against = state.reservations.against
    with ThreadPoolExecutor(1) as elsewhere:
        with state.reservations.held("dir", "dir/a/b"):
            assert elsewhere.submit(waited, 0.01).result(20) is waits
            assert (elsewhere.submit(against, name).result(20) is None) is free
            assert against(name) is None, "who holds the name may have it saved"
            later = elsewhere.submit(waited, 10)
            assert later.done() is False or not waits
        assert later.result(5) is False, "it goes on when the name is free"
        assert elsewhere.submit(against, name).result(20) is None
