"""What an earlier mount left is taken up by looking at the server (save/protocol.md, Recovery)."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.state.conftest import failing

from jobfs import names
from jobfs.errors import FsError
from jobfs.nodes import Item, Kind
from jobfs.save import restore_journal
from jobfs.state import Change, File, edit
from jobfs.state.records import Aside, Base, Stage, Verb

from .world import TID, World, hidden, scratch

OLD, NEW, JOBS = b"old", b"new!", b"the job's"
STAGED = hidden("file", names.Role.STAGED)
pytestmark = pytest.mark.usefixtures("unasked")
Remount = Callable[[], World]


@pytest.fixture
def remount(world: World, tmp_path: Path) -> Iterator[Remount]:
    """The next mount of a state directory, after the process of this one has died."""
    made: list[World] = []

    def remount() -> World:
        made.append(World(tmp_path, world.client))
        made[-1].write_back.taken_up = restore_journal(made[-1].write_back)
        return made[-1]

    yield remount
    for other in made:
        other.close()


def finish(world: World) -> dict[str, bytes]:
    """What the server shows once all changes that were taken up are done; no hidden item stays."""
    for change in list(world.state.changes.values()):
        if change.stage in (Stage.STAGING, Stage.STAGED):
            world.queue.run_until_finished(change)
    for file in world.state.backlog().files:
        world.write_back.wait_until_uploaded(file)
    for change in world.state.changes.values():
        for aside in change.asides:
            aside.unsure_until = 0.0
    for _ in range(2):  # what was touched since it was set aside is looked at twice
        world.clean_up()
    world.cleanup.expose_orphans()
    assert world.state.changes == {}
    assert world.namespace.hidden_items() == []
    return {item.path: world.client.contents[item.id] for item in world.client.items.values()}


@pytest.mark.parametrize("begun", [False, True])
def test_bytes_that_a_power_loss_may_have_damaged_are_not_shown(
    world: World, remount: Remount, begun: bool
) -> None:
    """vfs/semantics.md 4.4: they come back beside the name, and a read of it shows the server's version: if begun, their save."""
    item = world.client.put("o", "file", OLD)
    file = world.closed("file", NEW, item)
    world.state.write(edit(file, item_id="o", boot="an earlier run of this machine"))
    if begun:
        world.client.put("h", STAGED, NEW)
        sent = {"tid": TID, "staged_id": "h", "generation": file.generation}
        world.plan(Stage.STAGED, file=file, base=Base.from_item(item), **sent)
    again = remount()
    opened = again.state.get_or_add_file(item)
    assert (opened.generation, opened.size, opened.local) == (0, 0, None)
    (doubtful,) = again.state.backlog().files
    assert doubtful.change is not None
    assert doubtful.change.due <= time.monotonic()
    found = finish(again)
    assert found.pop("file") == (NEW if begun else OLD)
    ((path, content),) = found.items()
    assert (names.parse_second_version(path), content) == (("recovered", "file"), NEW)


#: The rename of the directory `old`, whose answer never came.
MOVED: dict[str, Any] = {"source": "old", "staged_id": "d", "direct": True}


@pytest.mark.parametrize("path", ["new", "old"])
def test_recovery_applies_a_directory_rename_if_it_was_done(
    world: World, remount: Remount, path: str
) -> None:
    """save/protocol.md, Recovery; vfs/semantics.md 4.46, 4.53: what is below it goes along, notes and kept saves, too."""
    world.client.put("d", path, None)
    read, log, saves = Item("r", Kind.FILE, "old/read"), world.state.read_log, world.state.saves
    log.note_read(log.process_of(os.getpid()), read.path, read)
    file = world.closed("old/file", NEW)
    assert file.local is not None
    saves.commit("old/file", saves.prepare("old/file", file.local.path, len(NEW)))
    world.plan(Stage.STAGED, "new", Verb.MOVE, **MOVED)
    again = remount()
    noted = [again.state.read_log.has_note_of(replace(read, path=f"{name}/read")) for name in ("old", "new")]
    assert (noted, again.state.saves.paths()) == ([path == "old", path == "new"], [f"{path}/file"])
    (file,) = again.state.backlog().files
    assert (file.path, file.local is not None and file.local.sealed) == (f"{path}/file", True)
    assert again.write_back.taken_up == [
        "new: was started and not finished",
        f"{path}/file: was not sent yet",
    ]
    assert [found.verb for found in again.state.changes.values()] == [Verb.PUT]


def test_a_completed_rename_over_a_file_carries_what_was_read(world: World, remount: Remount) -> None:
    """vfs/semantics.md 4.46, 4.63: else a version that the job has written since could be replaced unread."""
    log, read = world.state.read_log, world.client.put("s", "file", JOBS)
    log.note_read(log.process_of(os.getpid()), "draft", replace(read, path="draft"))
    world.plan(Stage.STAGED, "file", Verb.MOVE, source="draft", staged_id="s", base=Base("o", "", 3))
    again = remount()
    finish(again)
    newer, program = again.client.touched("s"), again.state.read_log.process_of(os.getpid())
    assert again.context.base_by_last_read(newer, program) == Base.from_item(read, racy=True)


def test_a_completed_directory_rename_leaves_one_file_per_name(world: World, remount: Remount) -> None:
    """vfs/semantics.md 4.50: after a kill, too, the renamed directory's file has a name that a hidden scratch file had."""
    world.client.put("d", "new", None)
    scratch(world, "old/a.txt~", NEW)
    scratch(world, "new/a.txt~", OLD)
    world.plan(Stage.STAGED, "new", Verb.MOVE, **MOVED)
    for _ in range(2):
        world = remount()
        found = {file.path or "": file.local for file in world.state.index.all_files()}
        (kept,) = found.keys() - {"new/a.txt~"}
        assert names.parse_second_version(kept) == ("conflict", "new/a.txt~")
        contents = [local.path.read_bytes() for local in (found["new/a.txt~"], found[kept]) if local]
        assert contents == [NEW, OLD]


#: What an earlier mount had begun, and what is on the server once it is done.
BEGUN = {
    "mkdir": {},  # it was never acknowledged
    "rmdir": {},
    "rmdir, recovered once already": {},
    "unlink": {},
    "save of an unlinked file": {},
    "save": {"file": NEW},
    "rename over": {"file": JOBS},
    "rename over unsent bytes": {"file": JOBS},
    "rename over unsent bytes, and newer ones": {"file": NEW, "conflict": JOBS},
    "placed over what the job wrote": {"file": NEW, "conflict": JOBS},
}


def begin(world: World, what: str) -> Change:
    staged, stage = {"tid": TID, "staged_id": "h"}, Stage.STAGED
    if what == "mkdir":
        world.client.put("h", hidden("dir", names.Role.STAGED), None)
        return world.plan(stage, "dir", Verb.MKDIR, **staged)
    if what.startswith("rmdir"):
        item = world.client.put("h", hidden("dir", names.Role.REMOVED), None)
        aside = Aside("h", item.path, kind=item.kind, moved=True)
        return world.plan(stage if what == "rmdir" else Stage.PLACED, "dir", Verb.REMOVE, asides=[aside])
    if what == "placed over what the job wrote":
        newer = world.closed("file", NEW, world.client.put("h", "file", b"first"))
        aside = Aside("o", world.client.put("o", hidden("file"), JOBS).path, moved=True, size=len(JOBS))
        older = world.state.bytes.create(newer.ino, world.state.journal.next_number())
        older.release()
        values = {"asides": [aside], "generation": older.generation, **staged}
        return world.plan(Stage.PLACED, base=Base("o", "", 3), file=newer, **values)
    over = world.client.put("o", "file", OLD)
    base = Base.from_item(over)
    if what == "unlink":
        return world.plan(stage, "file", Verb.REMOVE, base=base, item=over)
    if what == "save of an unlinked file":
        world.client.put("h", STAGED, NEW)
        return world.plan(Stage.CANCELLED, base=base, **staged)
    file = None if what == "rename over" else world.closed("file", b"first", over)
    if what == "save" and file is not None:
        world.client.put("h", STAGED, b"first")
        sent = {"generation": file.generation, "size": 5, "started": True, **staged}
        change = world.plan(stage, file=file, base=base, **sent)
        world.closed("file", NEW, over, of=file)
        return change
    item = world.client.put("s", "draft", JOBS)
    moved = {"source": "draft", "staged_id": "s"}
    return world.plan(stage, "file", Verb.MOVE, file=file, base=base, item=item, **moved)


@pytest.mark.parametrize("what", BEGUN)
def test_recovery_finishes_each_started_change(world: World, remount: Remount, what: str) -> None:
    """save/protocol.md, Recovery; bytes that were closed since a save was begun are sent after it."""
    begin(world, what)
    again = remount()
    for aside in (aside for taken_up in again.state.changes.values() for aside in taken_up.asides):
        until = min(aside.unsure_until, again.context.unsure_until(aside.id))
        assert until > time.monotonic() + 20, "any request may still be carried out"
    assert all(taken_up.due <= time.monotonic() for taken_up in again.state.changes.values())
    assert again.state.index.has_override("file") is ("unlink" in what), "else it is shown"
    tidied = "file: needs cleanup on the server" in again.write_back.taken_up
    assert tidied is (what == "save of an unlinked file")
    if what.endswith("newer ones"):
        again.closed("file", NEW, of=again.state.index.file_at("file"))
    found = {"conflict" if "conflict" in path else path: shown for path, shown in finish(again).items()}
    assert found == BEGUN[what]
    assert again.state.backlog().files == []
    assert again.state.index.file_at("file") is None
    assert again.state.index.file_at("dir") is None
    again.state.store.sync()
    assert [*again.state.bytes.directory.iterdir()] == [], "nothing needs local bytes"


def test_an_upload_that_ended_before_the_kill_is_not_repeated(world: World, remount: Remount) -> None:
    """save/protocol.md, Recovery: the item is found under its hidden name, though the journal does not have its id."""
    file = world.closed("file", NEW, world.client.put("o", "file", OLD))
    world.client.put("h", STAGED, NEW)
    sent = {"generation": file.generation, "size": len(NEW), "tid": TID, "base": file.base}
    world.plan(Stage.STAGING, file=file, **sent)
    again = remount()
    assert finish(again) == {"file": NEW}
    assert [step for step in world.client.done if step.startswith("create")] == []
    assert world.client.paths == {"h": "file"}


@pytest.mark.parametrize("case", ["behind", "behind, and begun again", "on a full disk"])
def test_bytes_appended_to_closed_bytes_return_beside_them(world: World, remount: Remount, case: str) -> None:
    """vfs/semantics.md 2.11, 4.3; save/protocol.md, Recovery: what comes back has both, and the file's mode and owner."""
    item = world.client.put("o", "file", OLD)
    file = world.closed("file", NEW, item)
    world.state.write(edit(file, mode=0o600, uid=7, gid=8))
    assert file.local is not None
    file.local.acquire().write(b" more", len(NEW))
    file.local.release()
    if case == "behind, and begun again":
        draft = world.state.bytes.create(file.ino, world.state.journal.next_number())
        draft.write(b"another", 0)
        world.state.store.begin_generation(file, draft)
    if case == "on a full disk":
        with failing("truncate", errno.ENOSPC):
            failed = remount()
        assert [(left.path, left.refused != "") for left in failed.state.backlog().files] == [("file", True)]
        assert "file is not taken up: unclosed bytes behind" in failed.write_back.warnings[0]
    again = remount()
    (warning,) = again.write_back.warnings
    assert "file was written and never closed: what was written is kept as file.recovered-" in warning
    kept = again.state.index.file_at("file")
    assert kept is not None
    assert kept.local is not None
    assert (kept.local.size, kept.size, kept.open_generation) == (len(NEW), len(NEW), 0)
    shown = [(left.kind, left.mode, left.uid, left.gid) for left in again.state.backlog().files]
    assert shown == [(Kind.FILE, 0o600, 7, 8)] * 2
    beside = next(left for left in again.state.backlog().files if left.path != "file")
    assert beside.local is not None
    assert beside.mtime_ns == beside.local.path.stat().st_mtime_ns, "of their last write"
    found = finish(again)
    assert found.pop("file") == NEW
    assert [*found.values()] == [b"another" if case == "behind, and begun again" else NEW + b" more"]
    again.state.store.sync()
    assert [*again.state.bytes.directory.iterdir()] == []


def test_unclosed_bytes_of_a_scratch_file_are_not_sent(world: World, remount: Remount) -> None:
    """vfs/semantics.md 4.3, 4.14: they come back beside it, on this machine only."""
    file = scratch(world, "note~", NEW)
    begun = world.state.bytes.create(file.ino, world.state.journal.next_number())
    begun.write(b"rewritten", 0)
    world.state.store.begin_generation(file, begun)
    again = remount()
    assert finish(again) == {}
    found = [(left.size, left.never_sent) for left in again.state.index.all_files()]
    assert sorted(found) == [(len(NEW), True), (len(b"rewritten"), True)]


@pytest.mark.parametrize("lost", [lambda path: path.write_bytes(b""), Path.unlink], ids=["cut", "gone"])
def test_partial_bytes_are_dropped(
    world: World, remount: Remount, caplog: pytest.LogCaptureFixture, lost: Callable[[Path], object]
) -> None:
    """save/protocol.md, Recovery: the disk has lost them; a save of them that was begun is undone."""
    begun = begin(world, "save")
    del world.client.items["h"]
    for path in world.state.bytes.generation_path(begun.ino, 1).parent.iterdir():
        lost(path)
    again = remount()
    assert (again.state.index.file_at("file"), again.state.journal.load_records(File)) == (None, [])
    assert "file: its local bytes are not whole: it is dropped" in caplog.messages
    with pytest.raises(FsError, match="the local bytes of file are not whole"):
        again.write_back.queue.run_until_finished(again.state.changes[begun.seq])
    assert finish(again) == {"file": OLD}
