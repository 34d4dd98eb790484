"""What takes which name: the victim of a rename, scratch names, directories (vfs/semantics.md 4)."""

from __future__ import annotations

import errno
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.boundaries import Death, watch
from tests.support.files import errno_from
from tests.unit.state.conftest import failing, full_disk

from jobfs import names
from jobfs.errors import UnauthorizedError, UnavailableError
from jobfs.nodes import Item, Kind
from jobfs.save import Displaced
from jobfs.state import Change, File, edit
from jobfs.state.processes import Process
from jobfs.state.records import Base, Stage, Verb

from .world import World, opened, scratch

OLD, NEW = b"old", b"new"


def test_a_directory_rename_moves_everything_below_it(world: World) -> None:
    """vfs/semantics.md 4.28, 4.46: an unsent file, one being taken back, a scratch file, a note of what was read."""
    read, program = Item("r", Kind.FILE, "old/read"), world.state.read_log.process_of(os.getpid())
    world.state.read_log.note_read(program, read.path, read)
    unsent, local = world.closed("old/sub/file", b"new"), scratch(world, "old/a~")
    change, shows = world.scheduled(unsent), {"old/gone": None, "other": None}
    cancelled = world.plan(Stage.CANCELLED, "old/gone", tid="t", started=True, shows=shows)
    world.renamer.rename_directory(world.client.put("d", "old", None), "new")
    assert world.client.done == ["move new"]
    shown = world.state.index
    assert world.state.read_log.has_note_of(replace(read, path="new/read"))
    files = [shown.file_at(path) for path in ("new/sub/file", "new/a~", "old/sub/file")]
    assert files == [unsent, local, None]
    assert [shown.has_override(path) for path in ("old/gone", "new/gone", "other")] == [False, True, True]
    targets = {c.seq: c.target for c in world.state.changes.values()}
    assert targets == {change.seq: "new/sub/file", cancelled.seq: "new/gone"}
    assert [c.target for c in world.rows(Change)] == ["new/gone"]


def test_an_item_of_a_renamed_directory_is_not_taken_for_a_late_move(world: World) -> None:
    """save/protocol.md R1: a request that went unanswered may bring it back to its old path, not to its new one."""
    item = world.client.put("d", "old", None)
    world.client.put("x", "old/file")
    world.context.mark_unanswered("x")
    world.context.note_rename("x", "old/file")
    world.context.server.learn(moves_carry=True)
    world.renamer.rename_directory(item, "new")
    late = [world.context.may_be_late_move("x", path) for path in ("old/file", "new/file")]
    assert late == [True, False]


def test_an_item_renamed_over_a_file_is_not_taken_for_a_late_move(world: World, draft: Item) -> None:
    """save/protocol.md R1: a request that went unanswered may bring it back to its old path, not to its new one."""
    world.context.mark_unanswered("s")
    displaced = world.renamer.find_displaced("file", world.client.items["o"])
    world.renamer.move_item_over(draft, "file", displaced)
    late = [world.context.may_be_late_move("s", path) for path in ("draft", "file")]
    assert late == [True, False]


def test_local_files_of_a_deleted_directory_become_conflict_copies(world: World) -> None:
    """vfs/semantics.md 4.50: scratch files, links and unsent files with their Change, in the journal too; others stay."""
    for path in ("old/a.txt~", "old/b.txt", "old/link"):
        scratch(world, path)
    link = world.state.new_local_file(Kind.FILE, "new/link")
    world.state.write(edit(link, link="a.txt~", never_sent=True))
    moments = [datetime.now(UTC) + timedelta(seconds=seconds) for seconds in range(60)]
    stamped = partial(names.second_version_path, "new/a.txt~", "conflict")
    first, second = ([stamped(moment, number) for moment in moments] for number in (0, 1))
    for path in first:
        scratch(world, path)
    gone = [scratch(world, "new/a.txt~"), world.closed("new/b.txt", OLD), link, scratch(world, "new/c.txt~")]
    change = world.scheduled(gone[1])
    world.renamer.rename_directory(world.client.put("d", "old", None), "new")
    kept = [file.path or "" for file in gone]
    assert kept[3] == "new/c.txt~"
    assert kept[0] in second, "a name that is free"
    of = ["new/a.txt~", "new/b.txt", "new/link"]
    assert [names.parse_second_version(path) for path in kept[:3]] == [("conflict", path) for path in of]
    assert change.target == kept[1]
    assert sorted(file.path or "" for file in world.rows(File)) == sorted([*kept, *of, *first])
    assert [world.state.index.file_at(path) for path in kept] == gone


def test_a_server_that_moves_no_content_gets_no_directory_rename(world: World) -> None:
    """vfs/semantics.md 4.34: mv copies then; the first directory that is not empty shows it."""
    item, inside = world.client.put("d", "old", None), world.client.put("x", "old/x")
    world.client.fail("get", UnavailableError("nobody there"))
    world.renamer.rename_directory(item, "new")
    assert world.context.server.facts.moves_carry is None, "it could not be asked"
    world.client.items |= {"d": item, "x": inside}
    for requests in (["move new", "move old"], []):
        world.client.done.clear()
        assert errno_from(world.renamer.rename_directory, item, "new") == errno.EXDEV
        assert (world.client.done, world.client.paths) == (requests, {"d": "old", "x": "old/x"})
    assert world.state.changes == {}


def test_the_displaced_version_is_the_one_that_was_shown_last(world: World) -> None:
    """save/protocol.md, Vocabulary, base: for a rename over T: the version this mount last showed."""
    displaced, item = world.renamer.find_displaced, world.client.put("o", "file", OLD)
    assert displaced("none", None) == Displaced()
    assert displaced("file", item) == Displaced(Base.from_item(item), item)
    reader, read = Process(None), world.client.touched("o")
    world.state.read_log.note_read(reader, "file", read)
    expected = Displaced(Base.from_item(read, racy=True), item)
    assert displaced("file", item, reader) == expected, "to who has read that"
    file = world.closed("file", NEW, item)
    assert displaced("file", file) == Displaced(file.base, item, file)
    assert displaced("a~", scratch(world, "a~")) == Displaced(), "no item is replaced"


@pytest.mark.parametrize(
    ("values", "waits"), [({}, True), ({"started": True}, False), ({"verb": Verb.MOVE}, False)]
)
def test_unsent_bytes_pass_their_due_time_to_what_displaces_them(
    world: World, values: dict[str, Any], waits: bool
) -> None:
    """vfs/semantics.md 4.5: the upload begins after the first close, whatever is written or renamed over it since."""
    file = world.closed("file", NEW)
    change = world.scheduled(file)
    world.state.apply_in_memory(change, **values)
    assert (Displaced(file=file).due, Displaced().due) == (change.due if waits else 0.0, 0.0)


@pytest.mark.parametrize("begun", [False, True])
def test_a_removal_that_was_not_started_is_taken_over(world: World, begun: bool) -> None:
    """vfs/semantics.md 4, Rename: renamed over: that Change takes the removal over."""
    item = world.client.put("o", "file", OLD)
    world.write_back.delete_once_fetched(item)
    (change,) = world.state.changes.values()
    assert change.stage is Stage.STAGED
    assert change.due <= time.monotonic()
    change.started = begun
    expected = Displaced() if begun else Displaced(Base.from_item(item), item, None, change)
    assert world.renamer.find_displaced("file", None) == expected


@pytest.mark.parametrize("stays", [False, True])
def test_a_rename_and_what_it_displaces_are_one_journal_write(world: World, stays: bool) -> None:
    """vfs/semantics.md 4, rename: in one step, or not at all."""
    item = world.client.put("o", "file", OLD)
    file = scratch(world, "a~") if stays else world.closed("draft", NEW)
    change = None if stays else world.scheduled(file)
    world.state.write(edit(file, refused="a name that the server does not take"))
    over = world.renamer.find_displaced("file", item)
    if stays:
        world.written(file, b"never closed")
    with full_disk(world.state):
        assert errno_from(world.renamer.rename_unsent_over, file, "file", over) == errno.ENOSPC
        assert world.state.index.file_at("file") is None
    world.renamer.rename_unsent_over(file, "file", over)
    (row,) = world.rows(File)
    assert (row.path, row.never_sent, row.item_id, row.base) == ("file", False, "o", Base.from_item(item))
    assert (row.size, row.refused) == (12 if stays else 3, "")
    assert file.change is not None
    assert (file.item, file.change.target, change in (None, file.change)) == (item, "file", True)


def test_a_rename_leaves_no_row_of_what_it_displaces(world: World) -> None:
    """vfs/semantics.md 4, rename: in one step: after a kill, no older file has the name."""
    over = world.closed("file", OLD, world.client.put("o", "file", OLD))
    file, displaced = world.closed("draft", NEW), world.renamer.find_displaced("file", over)

    def die(step: str) -> None:
        if step == "written":
            raise Death(step)

    watch(world.state.journal, die)
    with pytest.raises(Death):
        world.renamer.rename_unsent_over(file, "file", displaced)
    assert [(row.ino, row.path) for row in world.rows(File)] == [(file.ino, "file")]


def test_a_rename_does_not_close_an_open_generation(world: World) -> None:
    """vfs/semantics.md 4.3: after a kill, bytes that were never closed come back beside the name, never under it."""
    file = world.state.new_local_file(Kind.FILE, "draft")
    world.state.add_file(file)
    local = world.written(file, NEW)
    world.state.store.begin_generation(file, local)
    world.renamer.rename_unsent_over(file, "file", Displaced())
    (row,) = world.rows(File)
    assert (row.path, row.generation, row.open_generation) == ("file", 0, local.generation)
    assert file.change is None, "nothing is sent yet"


@pytest.fixture
def draft(world: World) -> Item:
    """What is to be renamed over `file`, item `o`."""
    world.client.put("o", "file", OLD)
    return world.client.put("s", "draft", NEW)


def test_nothing_is_sent_that_the_journal_could_not_record(world: World, draft: Item) -> None:
    """vfs/semantics.md 4, A full disk."""
    over, other = world.client.items["o"], world.closed("other", NEW)
    displaced = world.renamer.find_displaced("file", over)
    with full_disk(world.state):
        for call in (
            partial(world.renamer.move_item_over, draft, "file", displaced),
            partial(world.write_back.delete_once_fetched, over),
            partial(world.renamer.make_local_only, other, "other", "a~", {}, None),
        ):
            assert errno_from(call) == errno.ENOSPC
    assert (world.client.done, world.state.changes) == ([], {})


def test_a_refused_rename_over_a_file_keeps_both(world: World, draft: Item) -> None:
    displaced = world.renamer.find_displaced("file", world.client.items["o"])
    world.client.fail("update", UnauthorizedError("no"))
    with pytest.raises(UnauthorizedError):
        world.renamer.move_item_over(draft, "file", displaced)
    world.clean_up()
    assert (world.client.paths, world.state.changes) == ({"s": "draft", "o": "file"}, {})
    world.client.before["update"] = [lambda: None, lambda: world.client.items.pop("s")]
    with pytest.raises(Exception, match="no longer on the server"):
        world.renamer.move_item_over(draft, "file", displaced)
    assert (world.client.paths, world.state.changes) == ({"o": "file"}, {})
    assert "forget s" in world.namespace.updates


@pytest.mark.parametrize("is_open", [False, True])
def test_a_refused_rename_over_unsent_bytes_lets_them_be_sent(
    world: World, draft: Item, is_open: bool
) -> None:
    """vfs/semantics.md 4.3, 4.41: bytes whose close failed count as closed later, not those of a program that still writes."""
    over = world.client.items["o"]
    file, inos = world.closed("file", NEW, over), list[int]()
    world.written(file, NEW)
    if is_open:
        opened(file)

    def refuse() -> None:
        inos.extend(change.ino for change in world.rows(Change))
        assert world.state.index.item_shown_by_override("file") == over, "until it is done"
        raise UnauthorizedError("no")

    world.client.before["update"] = [refuse]
    with pytest.raises(UnauthorizedError):
        world.renamer.move_item_over(draft, "file", world.renamer.find_displaced("file", file))
    assert (file.needs_upload, inos) == (True, [file.ino])
    assert world.state.unclosed == (set() if is_open else {file})
    assert file.change is not None
    assert file.change.due > 0
    base = file.base
    world.renamer.make_local_only(file, "file", "a~", {}, None)
    (removal,) = world.state.changes.values()
    assert [(row.verb, row.base) for row in world.rows(Change)] == [(Verb.REMOVE, base)]
    assert world.renamer.find_displaced("file", None) == Displaced(base, over, None, removal)


@pytest.mark.parametrize("fails", ["journal", "afterwards", ""])
def test_a_local_copy_exists_as_long_as_the_journal_names_it(
    world: World, tmp_path: Path, fails: str
) -> None:
    """vfs/semantics.md 4, Renames to a scratch name: a rename that fails leaves no copy, and one that is recorded keeps it."""
    item, source = world.client.put("o", "file", OLD), tmp_path / "content"
    source.write_bytes(OLD)
    refused: dict[str, tuple[AbstractContextManager[None], int]] = {
        "journal": (full_disk(world.state), errno.ENOSPC),
        "afterwards": (failing("add_change", errno.EIO, world.queue), errno.EIO),
        "": (nullcontext(), 0),
    }
    disk, answer = refused[fails]
    with disk:
        assert errno_from(world.renamer.make_local_only, item, "file", "a~", {}, None, source) == answer
    kept = [world.state.bytes.generation_path(row.ino, row.generation) for row in world.rows(File)]
    assert [path.read_bytes() for path in kept] == [OLD] * (fails != "journal")
    assert sorted(world.state.bytes.generation_path(1, 1).parent.iterdir()) == sorted(kept)
    if not fails:
        local = world.state.index.file_at("a~")
        assert local is not None
        assert local.local is not None
        assert local.local.users == 0, "no descriptor is open: no program has the file open"
        assert world.rows(Change) == [], "a kill before the removal leaves the item (4.35)"
