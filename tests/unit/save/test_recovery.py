"""What an earlier mount left is taken up by looking at the server (save/protocol.md, Recovery)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobfs import names
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
    monkeypatch.setattr(Upload, "count_new", lambda self, path: None)


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
    """What the server shows once all changes that were taken up are done; no hidden item stays."""
    for change in list(world.state.changes.values()):
        if change.stage in (Stage.STAGING, Stage.STAGED):
            world.write_back.queue.commit(change)
    for file in world.state.left().files:
        world.write_back.commit(file)
    for change in world.state.changes.values():
        for aside in change.asides:
            aside.unsure_until = 0.0
    for _ in range(2):  # what was touched since it was set aside is looked at twice
        world.clean_up()
    world.write_back.cleanup.expose_orphans()
    assert world.state.changes == {}
    assert world.namespace.hidden() == []
    return {item.path: world.client.contents[item.id] for item in world.client.items.values()}


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
    assert taken_up.asides[0].unsure_until > time.monotonic() + 20, "any request may still be carried out"
    assert again.context.unsure_until("o") > time.monotonic() + 20
    shown = finish(again)
    assert shown.pop("file") == NEW
    assert list(shown.values()) == [JOBS]


@pytest.mark.parametrize("remains", [None, b"ne"], ids=["nothing", "a part"])
@pytest.mark.parametrize("over", [False, True], ids=["new", "over"])
def test_bytes_lost_here_with_the_power_and_staged_on_the_server_are_placed(
    world: World, remount: Remount, remains: bytes | None, over: bool
) -> None:
    """Recovery, `staging`, the hidden name: find T, go on."""
    if over:
        world.client.put("o", "file", OLD)
    file, _ = left(world, Stage.STAGING)
    (change,) = world.state.changes.values()
    world.state.write(edit(change, sha256=""))
    world.client.put("n", STAGED, NEW)
    assert file.local is not None
    if remains is None:
        file.local.path.unlink()
    else:
        file.local.path.write_bytes(remains)
    again = remount()
    assert finish(again) == {"file": NEW}


def test_bytes_that_no_record_names_are_removed(world: World, remount: Remount) -> None:
    """design.md, Things to know: they were sent, or unlinked."""
    path = world.state.bytes.path(7, 1)
    path.write_bytes(NEW)
    kept = world.closed("file", NEW)
    again = remount()
    assert list(again.state.bytes.directory.iterdir()) == [again.state.bytes.path(kept.ino, kept.generation)]


def test_bytes_that_the_power_may_have_taken_are_not_shown_to_a_program(
    world: World, remount: Remount
) -> None:
    """vfs/semantics.md 4.4: they come back beside the name, and a read of the name shows the server's version."""
    item = world.client.put("o", "file", OLD)
    file = world.closed("file", NEW, item)
    world.state.write(edit(file, item_id="o", boot="an earlier run of this machine"))
    again = remount()
    opened = again.state.open(item)
    assert (opened.generation, opened.local) == (0, None)
    found = finish(again)
    assert found.pop("file") == OLD
    assert [(names.kept_beside(path) is not None, content) for path, content in found.items()] == [
        (True, NEW)
    ]
