"""What takes which name: the victim of a rename, scratch names, directories (vfs/semantics.md 4)."""

from __future__ import annotations

import contextlib
import errno
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.files import errno_from

from jobfs import names
from jobfs.errors import FsError, UnauthorizedError
from jobfs.nodes import Kind
from jobfs.save import Displaced
from jobfs.save.rename import Renamer
from jobfs.state import Change, File, edit
from jobfs.state.processes import Process
from jobfs.state.records import Base, Stage, Verb

from .world import World, away, full, scratch

OLD, NEW = b"old", b"new"


@pytest.fixture
def rename(world: World) -> Renamer:
    return world.write_back.renamer


def test_a_directory_rename_moves_everything_below_it(world: World, rename: Renamer) -> None:
    """All that this machine knows more of: an unsent file, one being taken back, a scratch file."""
    unsent, scratch = world.closed("old/sub/file", b"new"), world.closed("old/a~", b"x")
    world.state.write(edit(scratch, never_sent=True))
    change = world.write_back.queue.schedule(unsent)
    assert change is not None
    cancelled = world.state.plan_change(Verb.PUT, "old/gone", tid="t", started=True)
    world.state.write(edit(cancelled, stage=Stage.CANCELLED, shows={"old/gone": None, "other": None}))
    item = world.client.put("d", "old", None)
    rename.rename_directory(item, "new")
    assert world.client.done == ["move new"]
    assert (world.state.index.file_at("new/sub/file"), world.state.index.file_at("new/a~")) == (
        unsent,
        scratch,
    )
    assert (world.state.index.file_at("old/sub/file"), world.state.index.has_override("old/gone")) == (
        None,
        False,
    )
    assert (world.state.index.has_override("new/gone"), world.state.index.has_override("other")) == (
        True,
        True,
    )
    targets = {c.seq: c.target for c in world.state.changes.values()}
    assert targets == {change.seq: "new/sub/file", cancelled.seq: "new/gone"}
    assert [c.target for c in world.state.journal.load_records(Change)] == ["new/gone"]


def test_local_files_of_a_deleted_directory_become_conflict_copies(world: World, rename: Renamer) -> None:
    """vfs/semantics.md 4.50: scratch files, links and unsent files with their Change, in the journal too; others stay."""
    for path in ("old/a.txt~", "old/b.txt", "old/link"):
        scratch(world, path)
    gone = [scratch(world, "new/a.txt~"), world.closed("new/b.txt", OLD), scratch(world, "new/c.txt~")]
    change = world.write_back.queue.schedule(gone[1])
    link = world.state.new_local_file(Kind.FILE, "new/link")
    world.state.add_file(link)
    world.state.write(edit(link, link="a.txt~", never_sent=True))
    rename.rename_directory(world.client.put("d", "old", None), "new")
    kept = [file.path or "" for file in gone]
    assert kept[2] == "new/c.txt~"
    assert [names.parse_second_version(path) for path in (*kept[:2], link.path or "")] == [
        ("conflict", "new/a.txt~"),
        ("conflict", "new/b.txt"),
        ("conflict", "new/link"),
    ]
    assert change is not None
    assert change.target == kept[1]
    rows = sorted(file.path or "" for file in world.state.journal.load_records(File))
    assert rows == sorted([*kept, link.path or "", "new/a.txt~", "new/b.txt", "new/link"])
    assert [world.state.index.file_at(path) for path in kept] == gone


def test_a_server_that_moves_no_content_gets_no_directory_rename(world: World, rename: Renamer) -> None:
    """vfs/semantics.md 4.34: mv copies then; the first directory that is not empty shows it."""
    item, inside = world.client.put("d", "old", None), world.client.put("x", "old/x")
    world.client.before["get"] = [away]
    rename.rename_directory(item, "new")
    assert world.context.server.facts.moves_carry is None, "it could not be asked"
    world.client.items |= {"d": item, "x": inside}
    for requests in (["move new", "move old"], []):
        world.client.done.clear()
        assert errno_from(rename.rename_directory, item, "new") == errno.EXDEV
        assert (world.client.done, world.client.paths) == (requests, {"d": "old", "x": "old/x"})
    assert world.state.changes == {}


def test_the_displaced_version_is_the_one_that_was_shown_last(world: World) -> None:
    """save/protocol.md, Vocabulary, base: for a rename over T: the version this mount last showed."""
    victim = world.write_back.renamer.find_displaced
    item = world.client.put("o", "file", OLD)
    assert victim("none", None) == Displaced()
    assert victim("file", item) == Displaced(Base.from_item(item), item)
    reader, read = Process(None), world.client.touched("o")
    world.state.read_log.note_read(reader, "file", read)
    assert victim("file", item, reader) == Displaced(Base.from_item(read, racy=True), item), (
        "to who has read that"
    )
    file = world.closed("file", NEW, item)
    assert victim("file", file) == Displaced(file.base, item, file)
    assert victim("a~", scratch(world, "a~")) == Displaced(), "no item is replaced"


@pytest.mark.parametrize(
    ("values", "waits"), [({}, True), ({"started": True}, False), ({"verb": Verb.MOVE}, False)]
)
def test_unsent_bytes_pass_their_due_time_to_what_displaces_them(
    world: World, values: dict[str, Any], waits: bool
) -> None:
    """vfs/semantics.md 4.5: the upload begins after the first close, whatever is written or renamed over it since."""
    file = world.closed("file", NEW)
    change = world.write_back.queue.schedule(file)
    assert change is not None
    world.state.apply_in_memory(change, **values)
    assert (Displaced(file=file).due, Displaced().due) == (change.due if waits else 0.0, 0.0)


@pytest.mark.parametrize("begun", [False, True])
def test_a_removal_that_was_not_started_is_taken_over(world: World, begun: bool) -> None:
    """vfs/semantics.md 4, Rename: renamed over: that Change takes the removal over."""
    item = world.client.put("o", "file", OLD)
    world.write_back.delete_once_fetched(item)
    (change,) = world.state.changes.values()
    assert (change.stage, change.due <= time.monotonic()) == (Stage.STAGED, True)
    change.started = begun
    expected = Displaced() if begun else Displaced(Base.from_item(item), item, None, change)
    assert world.write_back.renamer.find_displaced("file", None) == expected


@pytest.mark.parametrize("stays", [False, True])
def test_a_rename_and_what_it_displaces_are_one_journal_write(
    world: World, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """vfs/semantics.md 4, rename: in one step, or not at all."""
    item = world.client.put("o", "file", OLD)
    file = scratch(world, "a~") if stays else world.closed("draft", NEW)
    change = None if stays else world.write_back.queue.schedule(file)
    victim = world.write_back.renamer.find_displaced("file", item)
    if stays:
        world.written(file, b"never closed")
    with monkeypatch.context() as patch:
        full(world, patch)
        assert errno_from(world.write_back.renamer.rename_unsent_over, file, "file", victim) == errno.ENOSPC
        assert world.state.index.file_at("file") is None
    world.write_back.renamer.rename_unsent_over(file, "file", victim)
    (row,) = world.state.journal.load_records(File)
    assert (row.path, row.never_sent, row.item_id, row.base) == ("file", False, "o", Base.from_item(item))
    assert row.size == (12 if stays else 3)
    assert file.change is not None
    assert (file.change.target, change in (None, file.change)) == ("file", True)


def test_a_rename_does_not_close_an_open_generation(world: World) -> None:
    """vfs/semantics.md 4.3: after a kill, bytes that were never closed come back beside the name, never under it."""
    file = world.state.new_local_file(Kind.FILE, "draft")
    world.state.add_file(file)
    local = world.written(file, NEW)
    world.state.store.begin_generation(file, local)
    world.write_back.renamer.rename_unsent_over(file, "file", Displaced())
    (row,) = world.state.journal.load_records(File)
    assert (row.path, row.generation, row.open_generation) == ("file", 0, local.generation)
    assert file.change is None, "nothing is sent yet"


def test_a_refused_rename_over_a_file_keeps_both(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source, over = world.client.put("s", "draft", NEW), world.client.put("o", "file", OLD)
    victim, other = world.write_back.renamer.find_displaced("file", over), world.closed("other", NEW)
    with monkeypatch.context() as patch:
        full(world, patch)
        assert errno_from(world.write_back.renamer.move_item_over, source, "file", victim) == errno.ENOSPC
        assert errno_from(world.write_back.delete_once_fetched, over) == errno.ENOSPC
        assert (
            errno_from(world.write_back.renamer.make_local_only, other, "other", "a~", {}, None)
            == errno.ENOSPC
        )
    assert (world.client.done, world.state.changes) == ([], {})
    world.client.before["update"] = [partial(away, UnauthorizedError("no"))]
    with pytest.raises(UnauthorizedError):
        world.write_back.renamer.move_item_over(source, "file", victim)
    world.clean_up()
    assert (world.client.paths, world.state.changes) == ({"s": "draft", "o": "file"}, {})
    world.client.before["update"] = [lambda: None, lambda: world.client.items.pop("s")]
    with pytest.raises(Exception, match="no longer on the server"):
        world.write_back.renamer.move_item_over(source, "file", victim)
    assert (world.client.paths, world.state.changes) == ({"o": "file"}, {})
    assert "forget s" in world.namespace.updates
    file, inos = world.closed("file", NEW, over), list[int]()
    world.written(file, NEW)

    def noted() -> None:
        inos.extend(change.ino for change in world.state.journal.load_records(Change))
        assert world.state.index.item_shown_by_override("file") == over, (
            "until it is done, what was there is shown"
        )
        raise UnauthorizedError("no")

    world.client.before["update"] = [noted]
    with pytest.raises(UnauthorizedError):
        world.write_back.renamer.move_item_over(
            source, "file", world.write_back.renamer.find_displaced("file", file)
        )
    assert (file.needs_upload, inos, world.state.unclosed) == (True, [file.ino], {file})
    assert file.change is not None, "its bytes are sent after all"
    assert file.change.due > 0
    world.write_back.renamer.make_local_only(file, "file", "a~", {}, None)
    assert [row.verb for row in world.state.journal.load_records(Change)] == [Verb.REMOVE], "of its item"


@pytest.mark.parametrize("fails", ["journal", "afterwards", ""])
def test_a_local_copy_exists_as_long_as_the_journal_names_it(
    world: World, rename: Renamer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: str
) -> None:
    """vfs/semantics.md 4, Renames to a scratch name: a rename that fails leaves no copy, and one that is recorded keeps it."""
    item, source = world.client.put("o", "file", OLD), tmp_path / "content"
    source.write_bytes(OLD)
    with monkeypatch.context() as patch:
        if fails == "journal":
            full(world, patch)
        elif fails == "afterwards":
            patch.setattr(
                world.write_back.queue, "add_change", lambda change, delay: away(FsError(errno.EIO))
            )
        with pytest.raises(FsError) if fails else contextlib.nullcontext():
            rename.make_local_only(item, "file", "a~", {}, None, source)
    rows = [(row.ino, row.generation) for row in world.state.journal.load_records(File)]
    kept = [world.state.bytes.generation_path(*row) for row in rows]
    assert [path.read_bytes() for path in kept] == [OLD] * (fails != "journal")
    assert sorted(world.state.bytes.generation_path(1, 1).parent.iterdir()) == sorted(kept)
    if not fails:
        scratch = world.state.index.file_at("a~")
        assert scratch is not None
        assert scratch.local is not None
        assert scratch.local.users == 0, "no descriptor is open: no program has the file open"
        assert world.state.journal.load_records(Change) == [], (
            "a kill before the removal leaves the item (4.35)"
        )
