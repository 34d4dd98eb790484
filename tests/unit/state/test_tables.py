"""How a File and a Change come and go."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.state.conftest import ITEM, again, full_disk, held, opens, written

from jobfs.nodes import implicit_directory
from jobfs.state import Change, State, edit
from jobfs.state.records import UNSET, Stage, Verb


def copied(state: State, *paths: str) -> list[bool]:
    """Whether a save and the base of a conflict copy are kept of these paths."""
    return [store.find(path) is not None for store in (state.saves, state.bases) for path in paths]


def keep_copy(state: State, path: str, source: Path) -> None:
    for store in (state.saves, state.bases):
        store.commit(path, store.prepare(path, source, source.stat().st_size))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.write_bytes(b"bytes")
    return source


def test_the_last_saves_are_kept_up_to_the_users_limit(tmp_path: Path, source: Path) -> None:
    """vfs/semantics.md 4.52: `--keep-saves`; bases have a bound of their own (4.61)."""
    with closing(State(tmp_path, keep_saves=1)) as state:
        for path in ("a", "b"):
            keep_copy(state, path, source)
        assert copied(state, "a", "b") == [False, True, True, True]


@pytest.mark.parametrize("directory", [True, False])
def test_kept_copies_move_with_a_rename(state: State, source: Path, directory: bool) -> None:
    """vfs/semantics.md 4.52, 4.61: of a file, and of all files below a directory."""
    old, new = ("old/a", "new/a") if directory else ("old", "new")
    keep_copy(state, old, source)
    state.rename_copies("old", "new", directory=directory)
    assert copied(state, old, new) == [False, True] * 2


def test_a_file_that_nothing_needs_is_forgotten(state: State) -> None:
    """vfs/semantics.md 6, Bounds: memory does not grow with the number of files or hours."""
    kinds = ("handle", "row", "change", "nothing", "bytes", "here")
    items = {name: replace(ITEM, id=name, path=name) for name in kinds}
    needed = {name: state.get_or_add_file(item) for name, item in items.items()}
    written(state, "bytes", item=items["bytes"])
    state.apply_in_memory(needed["here"], never_sent=True)
    opens(needed["handle"])
    state.write(edit(needed["row"], mode=0o600))
    state.plan_change(Verb.PUT, "change", needed["change"])
    for file in needed.values():
        state.forget_if_unused(file)
    known = {name for name, file in needed.items() if state.index.file_by_number(file.ino) is file}
    assert (known, state.index.file_of(items["nothing"])) == ({*kinds} - {"nothing"}, None)


def test_a_cleaned_up_change_leaves_no_row_and_frees_its_file(state: State) -> None:
    file = written(state, "a")
    placed = state.plan_change(Verb.MOVE, "b", stage=Stage.STAGED)
    change = state.plan_change(Verb.PUT, "a", file, started=True)
    state.write(edit(placed, stage=Stage.PLACED))
    state.write(edit(change, stage=Stage.CANCELLED))
    state.write(edit(placed, asides=[]))
    assert list(state.changes.ready) == [placed, change], "once each"
    assert min(placed.finished_at, placed.planned_at) > 0
    state.end_change(placed)
    state.end_change(change)
    assert (change.stage, file.change, state.changes) == (Stage.DONE, None, {})
    state.end_change(change)
    state.apply_in_memory(change, asides=[])
    # What has ended does not come back.
    assert (state.changes, state.journal.load_records(Change)) == ({}, [])


@pytest.mark.parametrize("sent", [True, False])
def test_a_cancelled_save_frees_bytes_that_only_it_sends(state: State, sent: bool) -> None:
    """save/protocol.md, Vocabulary: the bytes that it sends stay while it runs, newer ones after it."""
    file, gone = written(state, "a"), written(state, "gone")
    older = [state.bytes.generation_path(file.ino, file.generation)]
    change = state.plan_change(Verb.PUT, "a", file, generation=file.generation if sent else 0, started=True)
    local = state.bytes.create(file.ino, state.journal.next_number())
    state.store.close_generation(file, local)
    local.release()
    assert state.bytes.retired == ([] if sent else older)
    state.cancel_change(change, remove=[gone], size=3)
    assert (state.bytes.retired, gone.recorded) == (older, False)
    assert (change.stage, change.size, change.file, file.change) == (Stage.CANCELLED, 3, None, None)
    (found,) = state.journal.load_records(Change)
    assert held(found) == held(change)


@pytest.mark.parametrize("stage", [Stage.PLACED, Stage.CANCELLED, Stage.STAGED])
def test_a_change_that_its_caller_ran_is_left_to_cleanup(state: State, stage: Stage) -> None:
    """design.md, What a path shows, Change: one that was placed or cancelled still needs it."""
    with state.plan_for_caller(Verb.REMOVE, "dir", stage=Stage.STAGED) as change:
        state.write(edit(change, stage=stage))
        state.changes.ready.clear()
    assert list(state.changes.ready) == [change] * (stage is not Stage.STAGED)
    assert not change.is_running


@pytest.mark.parametrize("newer", [False, True], ids=["closed", "written since"])
def test_an_open_file_exists_until_its_last_handle_closes(state: State, newer: bool) -> None:
    """vfs/semantics.md 4.33: the bytes that its handles have, and no others, stay."""
    file = written(state, "a", content=b"content")
    assert file.local is not None
    state.unclosed.add(file)
    if newer:
        second = state.bytes.create(file.ino, state.journal.next_number(), file.local.path)
        state.apply_in_memory(file, local=second)
    local = file.local.acquire()
    opens(file)
    state.write(edit(file, item_id="one", boot="this boot", refused="why", ctime_ns=7, mode=0o600))
    state.plan_change(Verb.PUT, "a", file)
    was = {**held(file), "path": None, "item_id": "", "generation": 0, "size": 0, "boot": "", "refused": ""}
    state.unlink_file(file)
    state.store.sync()
    assert held(file) == {**was, "ctime_ns": file.ctime_ns}
    assert time.time_ns() - 60e9 < file.ctime_ns
    assert state.index.file_at("a") is None
    assert state.index.file_of(ITEM) is None
    assert not file.recorded
    assert state.changes == {}
    assert (file.local, local.read(0, 9)) == (local, b"content")
    assert state.unclosed == set(), "nothing of it is sent"
    assert list(state.bytes.directory.iterdir()) == [local.path]
    assert again(state).index.all_files() == []
    for _ in range(local.users):
        local.release()


def test_attributes_survive_a_remount_but_not_the_end_of_their_item(state: State) -> None:
    """vfs/semantics.md 2.11: kept in the state directory per item; goes when the item goes."""
    state.write(edit(state.get_or_add_file(ITEM), mode=0o755))
    state.set_times(ITEM, content=True)
    state.set_times(ITEM)
    file = state.index.file_of(ITEM)
    assert file is not None
    assert file.ctime_ns >= file.mtime_ns > 0
    assert (file.mode, file.atime_ns, file.version) == (0o755, UNSET, "1")
    assert [held(found) for found in again(state).index.all_files()] == [held(file)]
    with full_disk(state):
        state.set_times(ITEM, is_new=True)
    assert file.atime_ns == file.mtime_ns, "on a full disk for this mount"
    assert [found.atime_ns for found in again(state).index.all_files()] == [UNSET]
    state.set_times(replace(ITEM, updated_at="2"))
    assert (file.mode, file.atime_ns, file.mtime_ns, file.version) == (0o755, UNSET, UNSET, "2")
    state.set_times(implicit_directory("x"))
    assert [found.item_id for found in again(state).index.all_files()] == ["one"]
    for _ in range(2):
        state.forget_item("one")
    assert (state.index.file_of(ITEM), again(state).index.file_of(ITEM)) == (None, None)


def test_unsent_bytes_are_kept_when_the_job_deletes_their_item(state: State) -> None:
    """vfs/semantics.md 4: a save recreates a deleted target; a file that is only open remains usable."""
    opened = state.get_or_add_file(replace(ITEM, id="two", path="b"))
    opens(opened)
    state.write(edit(opened, mode=0o755))
    state.forget_item("two")
    assert (opened.item_id, opened.mode, state.index.file_by_number(opened.ino)) == ("", 0o755, opened)
    begun = state.get_or_add_file(replace(ITEM, id="three", path="c"))
    state.write(edit(begun, open_generation=9))
    state.forget_item("three")
    file = written(state, "dir/a", item=ITEM)
    state.apply_in_memory(file, atime_ns=7)
    state.set_times(replace(ITEM, updated_at="2"))
    state.forget_item("one")
    assert state.index.file_at("dir/a") == file
    assert state.index.file_of(ITEM) is None
    assert file.needs_upload
    assert file.atime_ns == 7
    rows = {(found.path, found.generation, found.open_generation) for found in again(state).index.all_files()}
    assert rows == {("dir/a", file.generation, 0), ("c", 0, 9)}, "closed or not"
