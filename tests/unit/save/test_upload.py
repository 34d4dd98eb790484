"""How new content comes to the server: hidden, or at its target where the server was seen to refuse a second create (R9)."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import eventually

from jobfs import names
from jobfs.errors import AnswerLostError, UnavailableError
from jobfs.nodes import Kind, Lifecycle, Permission
from jobfs.save.upload import inherited_attributes
from jobfs.state import Change
from jobfs.state.records import Aside, Base, Verb
from jobfs.state.server import KnownServer, ServerFacts
from jobfs.trial.questions import TELLTALE

from .world import TID, World, hidden, sha

STAGED = hidden("dir/file", names.Role.STAGED)


def put(world: World, content: bytes = b"content", **values: object) -> Change:
    file = world.state.new_local_file(Kind.FILE, "dir/file")
    local = world.state.bytes.create(file.ino, 1)
    local.write(content, 0)
    local.release()
    return world.state.plan_change(
        Verb.PUT, "dir/file", file, tid=TID, generation=1, size=len(content), sha256=sha(content), **values
    )


def finish_requests(world: World) -> None:
    """Wait until the pool has ended its earlier requests: only then do all its threads meet."""
    together = threading.Barrier(2)
    for meeting in [world.context.io_pool.submit(together.wait) for _ in range(together.parties)]:
        meeting.result()


@pytest.mark.parametrize("was", [None, Aside("o", "file")])
def test_a_move_to_the_target_sets_only_what_differs(world: World, was: Aside | None) -> None:
    """save/protocol.md, The steps, promote: with A's lifecycle and permission."""
    staged = world.client.put("h", STAGED)
    assert inherited_attributes(put(world), staged, was) == (None, None)
    other = Aside("o", "file", lifecycle=Lifecycle.APPLICATION, permission=Permission.READ_ONLY)
    assert inherited_attributes(put(world), staged, other) == (Lifecycle.APPLICATION, Permission.READ_ONLY)


@pytest.mark.parametrize("wish", [None, Permission.READ_ONLY])
def test_the_users_permission_is_set_only_at_the_target(world: World, wish: Permission | None) -> None:
    """A server may refuse to move what is readOnly."""
    change, upload = put(world), world.uploader
    assert change.file is not None
    change.file.pending_permission = wish
    assert upload.create_item(change, STAGED).permission is Permission.READ_WRITE
    assert upload.create_item(change, change.target).permission is (wish or Permission.READ_WRITE)


def test_the_server_is_probed_once(world: World, tmp_path: Path) -> None:
    """save/protocol.md R9: after a few that are new, what the server does is asked once and kept."""
    upload = world.uploader
    for _ in range(3):
        upload.count_create_and_probe("dir/file")
    finish_requests(world)
    assert world.client.done == [], "a file or two that are gone before they are sent cost nothing"
    world.write_back.make_directory("dir")
    eventually(lambda: world.context.server.facts.rejects == dict.fromkeys(Kind, True))
    eventually(lambda: [*world.client.paths.values()] == ["dir"])
    asked = len(world.client.done)
    for _ in range(100):
        upload.count_create_and_probe("dir/file")
    assert len(world.client.done) == asked
    eventually(lambda: KnownServer(tmp_path, world.client.base_url).facts == world.context.server.facts)
    assert KnownServer(tmp_path, "https://other.example.com").facts == ServerFacts()


def test_a_probe_item_is_in_the_journal_before_its_create(world: World) -> None:
    """save/protocol.md R9: the transaction of a mount's question is a tombstone."""
    seen: list[bool] = []

    def look() -> None:
        (change,) = world.state.changes.values()
        named = change.target == hidden(f"dir/{TELLTALE}", names.Role.STAGED, change.tid)
        seen.append(named and world.state.journal.has_tombstone(change.tid))

    world.client.before["create"] = [look]
    world.client.lose = 1
    with pytest.raises(AnswerLostError):
        world.uploader.probe_creates("dir/file")
    assert seen == [True]
    assert world.context.relist_after > time.monotonic(), "what goes unanswered may be carried out late (R4)"
    assert world.context.server.facts.rejects == {}


def test_what_a_failed_probe_leaves_is_looked_for_once_nothing_explains_it(world: World) -> None:
    """save/protocol.md R4, R9: also if only its delete has failed. A listing leaves there what a record explains."""
    explained: list[bool] = []

    def look() -> float:
        explained.extend(map(world.state.changes.explains, world.client.items.values()))
        return time.monotonic()

    world.context.clock = look
    world.client.fail("delete", UnavailableError("not now"))
    with pytest.raises(UnavailableError):
        world.uploader.probe_creates("dir/file")
    assert (world.context.relist_after > time.monotonic(), explained) == (True, [False])


def test_a_probe_item_is_not_removed_while_it_is_needed(world: World) -> None:
    """save/protocol.md R9: else the second create would be the first, and the server be taken for one that allows two."""
    explained: list[bool] = []

    def listed() -> None:
        world.cleanup.expose_orphans()
        explained.append(bool(world.state.changes))

    kinds: list[Kind] = []
    world.client.before["create"] = [listed] * 4
    world.client.before["delete"] = [lambda: kinds.extend(i.kind for i in world.client.items.values())] * 2
    world.uploader.probe_creates("dir/file")
    assert kinds == list(Kind)
    assert (explained, world.client.paths, world.state.changes) == ([True] * 4, {}, {})
    assert world.context.server.facts.rejects == dict.fromkeys(Kind, True)


@pytest.mark.parametrize("why", [{}, {"base": Base("a")}, {"staged_id": "h"}, {"verb": Verb.MKDIR}])
def test_only_a_new_file_is_created_at_its_target(world: World, why: dict[str, Any]) -> None:
    """save/protocol.md R9: new files."""
    world.uploader.probe_creates("dir/file")
    change = put(world)
    world.state.apply_in_memory(change, **why)
    assert world.uploader.may_create_directly(change) is (not why)


@pytest.mark.parametrize(("content", "found"), [(b"content", True), (b"conten", False), (None, False)])
def test_an_unanswered_create_is_recognised_by_kind_and_size(
    world: World, content: bytes | None, found: bool
) -> None:
    """save/protocol.md, The steps, `staging`: after a lost answer, the item at the hidden name, if it has the right size."""
    change = put(world)
    item = world.client.put("h", STAGED, content)
    assert world.uploader.find_staged(change) == (item if found else None)


@pytest.mark.parametrize("carried_out", [True, False])
def test_an_unanswered_create_of_a_directory_is_looked_up(world: World, carried_out: bool) -> None:
    """save/protocol.md R9: if it is not there, it is made the hidden way."""
    world.context.server.learn(rejects={Kind.DIRECTORY: True})
    world.client.lose, world.client.carried_out = 1, carried_out
    made = world.uploader.try_make_directory("dir")
    assert made == (next(iter(world.client.items.values())) if carried_out else None)


def test_the_server_is_probed_once_for_refused_moves(world: World) -> None:
    """save/protocol.md R13: before the first overlap, after a few saves in place; the items of the question are taken away."""
    upload = world.uploader
    for _ in range(3):
        upload.count_replacement_and_probe("dir/file")
    finish_requests(world)
    assert world.client.done == []
    upload.count_replacement_and_probe("dir/file")
    eventually(lambda: world.context.server.facts.moves_refused)
    eventually(lambda: not world.client.items)
    asked = len(world.client.done)
    for _ in range(100):
        upload.count_replacement_and_probe("dir/file")
    assert len(world.client.done) == asked == 5
    assert all(".jobfs-" in step for step in world.client.done if not step.startswith("delete"))


def test_an_inconclusive_probe_of_moves_is_repeated_later(world: World) -> None:
    """save/protocol.md R13: only a refusal that was seen counts."""
    world.client.carried_out = False
    world.client.before["update"] = [lambda: setattr(world.client, "lose", 1)]
    with pytest.raises(AnswerLostError):
        world.uploader.probe_moves("dir/file")
    assert world.context.server.facts.moves_refused is None
    assert world.context.relist_after > time.monotonic(), "what goes unanswered may be carried out late (R4)"
    assert (world.client.items, world.state.changes) == ({}, {})
