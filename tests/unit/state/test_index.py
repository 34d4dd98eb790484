"""What a path shows, and which file is which."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.state.conftest import ITEM, again, opens, written

from jobfs.nodes import Kind, inode_number
from jobfs.state import File, State, edit
from jobfs.state.records import Stage, Verb


def test_a_file_is_shown_while_it_has_more_than_the_servers_state(state: State) -> None:
    """vfs/semantics.md 1; design.md, What a path shows."""
    assert not state.overrides_namespace
    file = written(state, "dir/b")
    assert state.overrides_namespace
    assert state.index.file_at("dir/b") == file
    assert state.index.children_of("dir") == ({"b": file}, {})
    state.write(edit(file, item_id="two", generation=0), edit(file, path="dir/c"))
    assert (state.index.file_at("dir/b"), state.index.file_at("dir/c")) == (None, file)
    state.apply_in_memory(file, local=None)
    # The namespace has the word.
    assert (state.index.file_at("dir/c"), state.overrides_namespace) == (None, False)
    state.drop_files(written(state, "dir/d"))
    assert (state.index.file_at("dir/d"), state.overrides_namespace) == (None, False)


def test_an_item_that_a_change_shows_is_shown_until_the_change_ends(state: State) -> None:
    """design.md, What a path shows: a name stops being hidden when its Change ends; nobody has to lift it."""
    change = state.plan_change(Verb.REMOVE, "dir/a", shows={"dir/a": None, "top": ITEM}, stage=Stage.STAGED)
    assert state.index.has_override("dir/a")
    assert state.index.item_shown_by_override("dir/a") is None
    assert state.index.item_shown_by_override("top") == ITEM
    assert state.index.children_of("dir") == ({}, {"a": None})
    other = state.plan_change(Verb.MOVE, "dir/a", shows={"dir/a": ITEM}, stage=Stage.STAGED)
    assert state.index.item_shown_by_override("dir/a") is ITEM, "the later one has the word"
    state.end_change(other)
    assert state.index.has_override("dir/a")
    state.end_change(change)
    assert not state.index.has_override("dir/a")
    assert state.index.item_shown_by_override("dir/a") is None
    assert not state.overrides_namespace


def test_open_and_unsent_files_below_a_directory_are_found(state: State) -> None:
    """vfs/semantics.md 4: rename of a directory: open and unsent files are re-keyed."""
    unsent = [written(state, path) for path in ("dir/b", "dir/sub/c", "dirt/d")]
    opened = state.get_or_add_file(replace(ITEM, id="o", path="dir/o"))
    remembered = state.get_or_add_file(ITEM)
    opens(opened)
    state.write(edit(remembered, mode=0o600))
    assert set(state.index.local_files_below("dir")) == {*unsent[:2], opened}
    assert set(state.index.local_files_below("")) == {*unsent, opened}


def test_the_edition_grows_whenever_a_shown_path_changes(state: State) -> None:
    editions = [state.index.edition]
    for step in (
        lambda: written(state, "a"),
        lambda: state.apply_in_memory(state.index.file_at("a") or File(0), mode=0o600),
        lambda: state.apply_in_memory(state.index.file_at("a") or File(0), path="c"),
        lambda: state.plan_change(Verb.MOVE, "a", shows={"b": None}),
        lambda: state.end_change(*state.changes.values()),
        lambda: state.set_times(ITEM),
    ):
        step()
        editions.append(state.index.edition)
    assert editions == sorted(set(editions))
    state.forget_if_unused(state.get_or_add_file(replace(ITEM, id="opened", path="opened")))
    assert state.index.edition == editions[-1], "a file that is only opened shows nothing else"
    file = state.index.file_of(ITEM)
    assert file is not None
    change = state.plan_change(Verb.PUT, "dir/a", file)
    state.write(edit(change, stage=Stage.STAGED), edit(file, generation=9, size=9, sha256="f"), is_new=True)
    state.end_change(change)
    assert state.index.edition == editions[-1], "nor does a step of a save"


def test_a_reader_of_the_new_edition_sees_its_changes(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers have no lock: an answer of before that is kept under the new edition would stay."""
    seen: list[tuple[int, bool]] = []

    class Watched(dict[str, dict[str, File]]):
        def setdefault(self, directory: str, files: dict[str, File] | None = None) -> dict[str, File]:
            seen.append((state.index.edition, state.index.file_at("dir/a") is not None))
            return super().setdefault(directory, {})

    monkeypatch.setattr(state.index, "_shown", Watched())
    file = state.new_local_file(Kind.FILE, "dir/a")
    file.never_sent = True
    before = state.index.edition
    state.add_file(file)
    assert seen == [(before, False)]
    assert (state.index.edition > before, state.index.file_at("dir/a")) == (True, file)


def test_an_inode_number_is_derived_from_the_item_unless_a_file_has_it(state: State) -> None:
    """vfs/semantics.md 1: inode numbers are stable: derived from the item id; a save keeps the file's inode number."""
    file = written(state, "dir/a", item=ITEM)
    assert state.index.inode_of(ITEM) == file.ino == inode_number("one")
    saved = replace(ITEM, id="two", updated_at="2")
    state.write(edit(file, item_id="two", generation=0))
    assert (state.index.file_of(saved), state.index.inode_of(saved)) == (file, file.ino)
    # The version that is kept beside it has another one.
    assert state.index.inode_of(ITEM) not in (file.ino, 0)
    assert again(state).index.inode_of(saved) == file.ino


def test_a_file_with_local_changes_does_not_follow_the_jobs_rename(state: State) -> None:
    """vfs/semantics.md 1: two files never have one number."""
    file = state.get_or_add_file(ITEM)
    renamed = replace(ITEM, path="new/a")
    # Nothing was written to it.
    assert (state.index.file_of(renamed), state.get_or_add_file(renamed).path) == (file, "new/a")
    written(state, "dir/a", item=ITEM)
    assert (state.index.file_of(ITEM), state.index.file_of(renamed)) == (file, None)
    assert state.index.inode_of(renamed) != file.ino
