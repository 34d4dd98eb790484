"""The verb: stage, look, set aside, place (save/protocol.md, The steps)."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

import pytest

from jobfs import names
from jobfs.errors import BadRequestError, FsError, UnavailableError
from jobfs.nodes import Item, Lifecycle, Permission
from jobfs.save.upload import Upload
from jobfs.state import Change
from jobfs.state.records import Base

from .world import World, sha

OLD, NEW = b"old", b"new!"


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount does not ask the server how creates are taken."""
    monkeypatch.setattr(Upload, "count_new", lambda self, path: None)


def old(world: World, path: str = "dir/file.txt", **values: object) -> Item:
    return world.client.put("o", path, OLD, **values)


def contents(world: World) -> dict[str, bytes]:
    """What is shown on the server."""
    return {
        item.path: world.client.contents[item.id]
        for item in world.client.items.values()
        if names.parse_hidden(names.basename(item.path)) is None
    }


def steps(world: World) -> list[str]:
    """The changing requests, with the role of hidden names in place of them."""
    said = []
    for step in world.changes():
        verb, _, what = step.partition(" ")
        parts = names.parse_hidden(names.basename(what))
        said.append(f"{verb} {parts.role if parts is not None else what}")
    return said


def refuse(error: Exception) -> Callable[[], object]:
    def refuse() -> None:
        raise error

    return refuse


# -- a save


def test_a_saved_version_is_the_base_of_the_next_save(world: World) -> None:
    """save/protocol.md R2: after a save, base is H with the hash of what was sent."""
    file = world.save("dir/file.txt", NEW, old(world))
    assert file.item is not None
    assert file.base == Base.of(file.item, sha256=sha(NEW), young=True)
    assert world.content.adopted == [(file.item_id, NEW)]
    assert world.state.of(file.item) is file


def test_the_transaction_id_is_in_the_journal_before_the_create(world: World) -> None:
    """save/protocol.md, The steps, `staging` (w)."""
    seen: list[str] = []
    world.client.before["create"] = [
        lambda: seen.extend(change.tid for change in world.state.journal.load(Change))
    ]
    world.save("file", NEW)
    parts = names.parse_hidden(world.client.done[0].removeprefix("create "))
    assert parts is not None
    assert seen == [parts.transaction]
    assert world.state.journal.tombstone(parts.transaction)


def test_lifecycle_and_permission_stay(world: World) -> None:
    item = old(world, lifecycle=Lifecycle.APPLICATION, permission=Permission.READ_ONLY)
    file = world.save("dir/file.txt", NEW, item)
    assert file.item is not None
    assert (file.item.lifecycle, file.item.permission) == (Lifecycle.APPLICATION, Permission.READ_ONLY)


def test_an_aside_is_on_the_disk_before_it_is_moved(world: World) -> None:
    """save/protocol.md, The steps, `staged` (S): its id and its hidden name, and the bytes that take its place."""
    unsynced: list[bool] = []
    world.client.before["update"] = [lambda: unsynced.append(world.state.unsynced)]
    world.save("dir/file.txt", NEW, old(world))
    assert unsynced == [False]


# -- the job in the middle


def test_an_old_find_is_asked_again_before_its_item_is_moved(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md R8: after a long upload T is looked at again; an item that the job has renamed is not ours to move."""
    monkeypatch.setattr("jobfs.save.replace._FRESH", 0.0)
    monkeypatch.setattr(world.client.health, "latency", 0.0)
    item = old(world)
    world.client.before["find"] = [lambda: None, lambda: old(world, "elsewhere")]
    world.save("dir/file.txt", NEW, item)
    assert contents(world) == {"elsewhere": OLD, "dir/file.txt": NEW}


def test_a_server_that_refuses_to_move_the_old_item_has_refused_the_save(world: World) -> None:
    """vfs/semantics.md 4: refused for good (400): `failed`, with the server's reason; nothing is tried again."""
    item = old(world)
    world.client.before["update"] = [refuse(BadRequestError("Item is read only"))]
    with pytest.raises(BadRequestError):
        world.save("dir/file.txt", NEW, item)
    file = world.state.at("dir/file.txt")
    assert file is not None
    assert (file.refused, file.unsaved) == ("Item is read only", True)
    assert world.client.before["update"] == []
    assert contents(world) == {"dir/file.txt": OLD}


def test_a_refused_request_leaves_nothing_to_wait_for(world: World) -> None:
    """save/protocol.md R7: waiting is for answers that never came; "try again later" is an answer."""
    file = world.closed("dir/file.txt", NEW, old(world))
    busy = [refuse(UnavailableError("too many requests", status=429))]
    world.client.before = {"update": [*busy, lambda: None, *busy]}
    change = world.write_back.queue.save(file)
    assert change is not None
    for _ in range(2):
        with pytest.raises(UnavailableError):
            world.write_back.replace.run(change)
    world.write_back.replace.run(change)
    assert contents(world) == {"dir/file.txt": NEW}
    assert [aside.unsure_until for aside in change.asides] == [0.0]
    assert world.content.adopted == [(file.item_id, NEW)]


def test_a_set_aside_whose_answer_is_lost_is_looked_at_and_nothing_else_is_doubted(world: World) -> None:
    """save/protocol.md R2: the promote's own answer counts if no promote was sent before; R7: the other is waited for."""
    world.client.before["update"] = [lambda: setattr(world.client, "lose", 1)]
    file = world.save("dir/file.txt", NEW, old(world))
    (change,) = world.state.changes.values()
    assert change.asides[0].unsure_until > time.monotonic()
    assert contents(world) == {"dir/file.txt": NEW}
    assert file.base.sha256 == sha(NEW)
    assert world.content.adopted == [(file.item_id, NEW)]


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_promote_whose_answer_is_lost_fills_no_cache(world: World, carried_out: bool) -> None:
    """save/protocol.md R2: the job may have written to it since; nor does the answer to the next promote say that it has not."""
    file = world.closed("file", NEW)
    world.client.before["update"] = [lambda: setattr(world.client, "lose", 1)]
    world.client.carried_out = carried_out
    world.write_back.commit(file)
    assert (contents(world), world.content.adopted) == ({"file": NEW}, [])


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_lost_create_is_looked_for_then_made_under_another_name(world: World, carried_out: bool) -> None:
    world.client.lose, world.client.carried_out = 1, carried_out
    world.save("file", NEW)
    created = [step for step in world.client.done if step.startswith("create")]
    assert len(set(created)) == len(created) == (1 if carried_out else 2)
    assert contents(world) == {"file": NEW}
    assert carried_out or world.context.look_again > time.monotonic(), "what comes late is looked for"


# -- directories and moves


def test_a_directory_is_made_hidden_and_moved_and_never_replaces_anything(world: World) -> None:
    """save/protocol.md R9; vfs/semantics.md 4, mkdir: its errors are the caller's."""
    item = world.write_back.make_directory("dir")
    assert item is not None
    assert (item.path, steps(world)) == ("dir", ["create staged", "move dir"])
    with pytest.raises(FsError) as caught:
        world.write_back.make_directory("dir")
    assert caught.value.errno == errno.EEXIST
    world.clean_up()
    assert world.client.paths == {item.id: "dir"}
