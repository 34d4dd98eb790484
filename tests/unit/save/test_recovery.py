"""What an earlier mount left is taken up by looking at the server (save-protocol, Recovery)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobfs import names
from jobfs.nodes import Kind
from jobfs.save import restore
from jobfs.save.upload import Upload
from jobfs.state import Change, File, edit
from jobfs.state.records import Aside, Base, Stage, Verb

from .world import TID, World, hidden, sha

OLD, NEW, JOBS = b"old", b"new!", b"the job's"
STAGED = hidden("file", names.Role.STAGED)
Remount = Callable[[], World]


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Upload, "worth_asking", lambda self: False)


@pytest.fixture
def remount(world: World, tmp_path: Path) -> Iterator[Remount]:
    """The next mount of a state directory, after the process of this one has died."""
    made: list[World] = []

    def remount() -> World:
        made.append(World(tmp_path, world.client))
        restore(made[-1].write_back)
        return made[-1]

    yield remount
    for other in made:
        other.close()


def left(world: World, stage: Stage, **values: object) -> tuple[File, Change]:
    """A save of `file` over the item `o`, as the journal has it."""
    file = world.closed("file", NEW)
    base = Base.of(world.client.items["o"]) if "o" in world.client.items else Base()
    change = world.state.change(
        Verb.PUT, "file", file, generation=file.generation, size=len(NEW), sha256=sha(NEW), base=base, stage=stage,
        tid=TID, **values,
    )  # fmt: skip
    world.state.write(edit(file, base=base), edit(change), used=TID)
    return file, change


def finish(world: World) -> dict[str, bytes]:
    """What the server shows once all that was taken up is done; nothing hidden stays."""
    for change in list(world.state.changes.values()):
        if change.stage in (Stage.STAGING, Stage.STAGED):
            world.write_back.queue.commit(change)
    for file in world.state.unsaved():
        world.write_back.commit(file)
    for change in world.state.changes.values():
        for aside in change.asides:
            aside.unsure_until = 0.0
    world.clean_up()
    world.write_back.cleanup.expose_orphans()
    assert world.state.changes == {}
    assert world.namespace.hidden() == []
    return {item.path: world.client.contents[item.id] for item in world.client.items.values()}


def test_closed_bytes_are_shown_and_sent(world: World, remount: Remount) -> None:
    """semantics 4, Nothing is forgotten: killed at any point, the next mount of that job finishes it."""
    world.closed("file", NEW)
    again = remount()
    file = again.state.at("file")
    assert file is not None
    assert file.local is not None
    assert file.local.acquire().read(0, 9) == NEW
    assert finish(again) == {"file": NEW}


@pytest.mark.parametrize("made", [True, False])
def test_staging_with_or_without_its_hidden_item(world: World, remount: Remount, made: bool) -> None:
    """Recovery, `staging`: the hidden name: find T, go on; nothing, local bytes whole: create again."""
    world.client.put("o", "file", OLD)
    if made:
        world.client.put("n", STAGED, NEW)
    left(world, Stage.STAGING)
    assert finish(remount()) == {"file": NEW}
    assert ("n" in world.client.items) is made


def test_staging_without_whole_bytes_is_dropped(world: World, remount: Remount) -> None:
    """Recovery, `staging`: nothing, no whole local bytes: drop it: it was never acknowledged."""
    world.client.put("o", "file", OLD)
    file = world.closed("file", NEW)
    world.state.bytes.path(file.ino, file.generation).write_bytes(b"n")
    again = remount()
    assert again.state.at("file") is None
    assert finish(again) == {"file": OLD}


@pytest.mark.parametrize("moved", [True, False])
def test_staged_goes_on_where_it_was(world: World, remount: Remount, moved: bool) -> None:
    """Recovery, `staged`: H under its hidden name: find T, go on."""
    world.client.put("o", "file", OLD)
    world.client.put("n", STAGED, NEW)
    aside = Aside("o", hidden("file"))
    left(world, Stage.STAGED, staged_id="n", asides=[aside])
    if moved:
        world.client.update("o", path=aside.path)
    assert finish(remount()) == {"file": NEW}
    assert "n" in world.client.items


def test_staged_under_any_other_name_is_placed(world: World, remount: Remount) -> None:
    """Recovery, `staged`: H under any other name: `promoted`."""
    world.client.put("n", "renamed by the job", NEW)
    left(world, Stage.STAGED, staged_id="n")
    assert finish(remount()) == {"renamed by the job": NEW}


def test_staged_whose_item_is_gone_is_staged_again(world: World, remount: Remount) -> None:
    """Recovery, `staged`: H gone: stage again from local bytes."""
    left(world, Stage.STAGED, staged_id="n")
    assert finish(remount()) == {"file": NEW}


@pytest.mark.parametrize("source", [True, False])
def test_a_rename_over_goes_on_or_is_undone(world: World, remount: Remount, source: bool) -> None:
    """Recovery, `staged`: rename over: source still there: find T, go on; else undo."""
    world.client.put("o", hidden("file"), OLD)
    if source:
        world.client.put("s", "draft", NEW)
    change = world.state.change(
        Verb.MOVE, "file", stage=Stage.STAGED, source="draft", staged_id="s",
        base=Base("o", world.client.items["o"].updated_at, len(OLD), sha(OLD)), asides=[Aside("o", hidden("file"))],
    )  # fmt: skip
    world.state.write(edit(change))
    again = remount()
    if not source:
        with pytest.raises(Exception, match="not on the server"):
            finish(again)
    assert finish(again) == {"file": NEW if source else OLD}


def test_placed_is_only_cleaned_up(world: World, remount: Remount) -> None:
    """Recovery, `promoted`: sync, judge the asides; deletes wait as R7 says."""
    world.client.put("n", "file", NEW)
    item = world.client.put("o", hidden("file"), JOBS)
    change = world.state.change(
        Verb.PUT, "file", stage=Stage.PLACED, tid=TID, staged_id="n", base=Base("o", "", 3)
    )
    world.state.write(edit(change, asides=[Aside("o", item.path, moved=True, size=3)]))
    again = remount()
    (taken_up,) = again.state.changes.values()
    assert taken_up.asides[0].unsure_until > time.time() + 20, "any request may still be carried out"
    assert again.context.unsure_until("o") > time.time() + 20
    shown = finish(again)
    assert shown.pop("file") == NEW
    assert list(shown.values()) == [JOBS]


def test_cancelled_is_continued_and_not_shown_again(world: World, remount: Remount) -> None:
    """Recovery, `cancelled`: continue it."""
    world.client.put("o", "file", OLD)
    world.client.put("n", STAGED, NEW)
    file, change = left(world, Stage.STAGED, staged_id="n")
    world.state.write(edit(change, stage=Stage.CANCELLED), gone=[file])
    again = remount()
    assert again.state.at("file") is None
    assert again.state.hidden("file")
    assert finish(again) == {}
    assert not again.state.hidden("file")


@pytest.mark.parametrize(
    ("there", "shown"), [(None, [NEW]), (NEW, [NEW]), (JOBS, [JOBS, NEW])], ids=["nothing", "ours", "another"]
)  # fmt: skip
def test_a_direct_create_is_judged_by_what_is_there(
    world: World, remount: Remount, there: bytes | None, shown: list[bytes]
) -> None:
    """Recovery, direct create: nothing / same bytes / other: create / `promoted` / the hidden way."""
    if there is not None:
        world.client.put("t", "file", there)
    file = world.closed("file", NEW)
    change = world.state.change(
        Verb.PUT, "file", file, generation=file.generation, size=len(NEW), sha256=sha(NEW), direct=True
    )
    world.state.write(edit(change))
    found = finish(remount())
    assert found["file"] == NEW
    assert sorted(found.values()) == sorted(shown)
    assert ("t" in world.client.items) is (there is not None)


def test_hidden_items_without_a_record_are_exposed(world: World, remount: Remount) -> None:
    """Recovery, no record: own hidden items: R4."""
    world.client.put("a", hidden("file"), OLD)
    assert finish(remount()) == {"file": OLD}


def test_a_directory_on_its_way_out_is_looked_at_again(world: World, remount: Remount) -> None:
    """save-protocol R12."""
    item = world.client.put("d", hidden("dir", names.Role.REMOVED), None)
    change = world.state.change(Verb.REMOVE, "dir", stage=Stage.STAGED)
    world.state.write(edit(change, asides=[Aside("d", item.path, Kind.DIRECTORY)]))
    again = remount()
    (taken_up,) = again.state.changes.values()
    assert taken_up.stage is Stage.PLACED
    assert finish(again) == {}


def test_a_directory_that_nobody_was_told_of_is_taken_back(world: World, remount: Remount) -> None:
    world.client.put("d", hidden("dir", names.Role.STAGED), None)
    world.state.write(edit(world.state.change(Verb.MKDIR, "dir", tid=TID)))
    assert finish(remount()) == {}


@pytest.mark.parametrize("renamed", [True, False])
def test_a_directory_is_where_the_server_says(world: World, remount: Remount, renamed: bool) -> None:
    """semantics 4, rename of a directory: with everything under it: open and unsent files, open transactions."""
    world.client.put("d", "new" if renamed else "old", None)
    world.closed("old/file", NEW)
    change = world.state.change(
        Verb.MOVE, "new", stage=Stage.STAGED, source="old", staged_id="d", direct=True
    )
    world.state.write(edit(change))
    again = remount()
    place = "new/file" if renamed else "old/file"
    assert again.state.at(place) is not None
    assert finish(again)[place] == NEW


def test_a_backup_goes_on_to_wait_for_its_move(world: World, remount: Remount) -> None:
    """core.md, decision 1: no second life after a remount."""
    item = world.client.put("o", "file", OLD)
    source = world.state.bytes.directory / "source"
    source.write_bytes(OLD)
    assert world.write_back.back_up(item, "file~", source, {"mode": 0o640}, None)
    again = remount()
    file = again.state.at("file~")
    assert file is not None
    assert (file.stays, file.mode) == (True, 0o640)
    assert again.state.hidden("file")
    assert finish(again) == {"file~": OLD}
    assert (file.stays, file.item_id) == (False, "o")


def test_bytes_that_no_record_names_are_kept_aside(world: World, remount: Remount) -> None:
    """semantics 4, Nothing is forgotten: what was written and never closed."""
    local = world.state.bytes.new(7, 1)
    local.write(b"never closed", 0)
    local.release()
    again = remount()
    assert [path.read_bytes() for path in again.state.bytes.trash.iterdir()] == [b"never closed"]


def test_scratch_files_and_links_are_shown_again(world: World, remount: Remount) -> None:
    """semantics 4, Scratch names."""
    scratch = world.closed("a~", OLD)
    link = world.state.new(Kind.FILE, "b~")
    world.state.write(edit(scratch, stays=True), edit(link, stays=True, link="target"))
    again = remount()
    files, _ = again.state.children("")
    assert {name: (file.stays, file.link) for name, file in files.items()} == {
        "a~": (True, ""),
        "b~": (True, "target"),
    }
    assert finish(again) == {}
