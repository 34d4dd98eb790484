"""The verb: stage, look, set aside, place (save/protocol.md, The steps)."""

from __future__ import annotations

import errno
import os
import re
import time
from functools import partial

import pytest
from tests.support.files import errno_from
from tests.support.waiting import eventually
from tests.unit.state.conftest import failing

from jobfs import errors, names
from jobfs.errors import BadRequestError, NoDirectoryError, UnavailableError, WrongAnswerError
from jobfs.nodes import Item, Kind, Lifecycle, Permission
from jobfs.state import Change, File, edit
from jobfs.state.records import Aside, Base, Handle, Stage, Verb

from .world import World, away, hidden, sha

OLD, NEW = b"old", b"new!"
pytestmark = pytest.mark.usefixtures("unasked")


def old(world: World, path: str = "dir/file.txt", **values: object) -> Item:
    return world.client.put("o", path, OLD, **values)


def contents(world: World) -> dict[str, bytes]:
    """What is shown on the server."""
    return {
        item.path: world.client.contents[item.id]
        for item in world.client.items.values()
        if names.parse_hidden_name(names.basename(item.path)) is None
    }


def steps(world: World) -> list[str]:
    """The changing requests, with the role of hidden names in place of them."""
    return [re.sub(r"\S*\.jobfs-\w+-\w+-(\w+)-\S+", r"\1", step) for step in world.changes()]


def test_a_saved_version_is_the_base_of_the_next_save(world: World) -> None:
    """save/protocol.md R2: after a save, base is H with the hash of the sent bytes."""
    file = world.closed("dir/file.txt", NEW, old(world))
    file.pending_permission, before = Permission.READ_ONLY, world.client.before
    before |= {"find": [lambda: None], "create": [lambda: eventually(lambda: not before["find"])]}
    world.write_back.wait_until_uploaded(file)
    assert file.item is not None
    assert file.base == Base.from_item(file.item, sha256=sha(NEW), racy=True)
    assert world.content.adopted == [(file.item_id, NEW)]
    assert world.state.index.file_of(file.item) is file
    (row,) = world.rows(File)
    assert (row.generation, row.size, row.boot, row.refused, row.pending_permission) == (0, 0, "", "", None)
    assert (row.sha256, row.version, row.base) == (sha(NEW), file.item.updated_at, file.base)
    world.state.store.sync()
    assert not [*world.state.bytes.directory.iterdir()]


def test_the_transaction_id_is_in_the_journal_before_the_create(world: World) -> None:
    """save/protocol.md, The steps, `staging` (w)."""
    seen: list[str] = []
    look = lambda: seen.extend(change.tid for change in world.rows(Change))  # noqa: E731
    world.client.before["create"] = [look]
    world.save("file", NEW)
    parts = names.parse_hidden_name(world.client.done[0].removeprefix("create "))
    assert parts is not None
    assert seen == [parts.transaction]
    assert world.state.journal.has_tombstone(parts.transaction)


def test_bytes_that_are_being_sent_cannot_be_overwritten(world: World) -> None:
    """save/protocol.md, Vocabulary, (w): what a program writes from now on goes into a generation of its own."""
    file, sealed = world.closed("file", NEW), list[bool]()
    local = file.local
    assert local is not None
    assert local.may_change(local.size)
    world.client.before["create"] = [lambda: sealed.append(not local.may_change(local.size))]
    world.write_back.wait_until_uploaded(file)
    assert sealed == [True]


def test_a_save_keeps_lifecycle_and_permission(world: World) -> None:
    item = old(world, lifecycle=Lifecycle.APPLICATION, permission=Permission.READ_ONLY)
    file = world.save("dir/file.txt", NEW, item)
    assert file.item is not None
    assert (file.item.lifecycle, file.item.permission) == (Lifecycle.APPLICATION, Permission.READ_ONLY)
    new = world.closed("new", NEW)
    world.client.before["update"] = [lambda: setattr(new, "pending_permission", Permission.READ_ONLY)]
    world.write_back.wait_until_uploaded(new)
    assert new.pending_permission is Permission.READ_ONLY, "it was set after the request"


@pytest.mark.parametrize("content", [OLD, None])
def test_an_aside_is_synced_to_the_journal_before_it_is_moved(world: World, content: bytes | None) -> None:
    """save/protocol.md, The steps, `staged` (S): its id and its hidden name, and the bytes that take its place; R7."""
    item, until = world.client.put("o", "dir/file.txt", content), world.context.mark_unanswered("o")
    seen: list[tuple[bool, list[Change]]] = []
    look = lambda: seen.append((world.state.store.needs_sync, world.rows(Change)))  # noqa: E731
    world.client.before["update"] = [lambda: None, look]
    world.save("dir/file.txt", NEW)
    ((unsynced, (row,)),) = seen
    (aside,) = row.asides
    assert (unsynced, aside.id, aside.path) == (False, "o", world.client.paths["o"])
    assert (parts := names.parse_hidden_name(names.basename(aside.path))) is not None
    assert (names.parent(aside.path), parts.name) == ("dir", "file.txt"), "beside its path"
    assert world.state.journal.has_tombstone(parts.transaction), "of a known transaction"
    assert (aside.kind, aside.size, aside.updated_at) == (item.kind, item.size, item.updated_at)
    assert [a.unsure_until for c in world.state.changes.values() for a in c.asides] == [until]


# -- the job in the middle


@pytest.mark.usefixtures("stale_looks")
@pytest.mark.parametrize("job", ["has a fresh look", "does nothing", "moves it", "makes another"])
def test_an_old_look_is_repeated_before_a_move(world: World, job: str) -> None:
    """save/protocol.md R8: older than a usual round trip, T is looked at again; an item that was renamed is not ours to move."""
    world.context.server.learn(moves_keep_updated_at=True)  # else bytes are read, with a look of their own
    fresh, moves = job == "has a fresh look", job in ("moves it", "makes another")
    world.client.health.latency = 60.0 if fresh else 0.0
    changed: list[int] = []

    def act() -> None:
        changed.append(len(world.client.done))
        if moves:
            old(world, "elsewhere")
        if job == "makes another":
            world.client.put("b", "dir/file.txt", OLD)

    world.client.before["get"] = [act]
    world.save("dir/file.txt", NEW, old(world))
    assert (changed[:1] == [1]) is not fresh, "looked at again after the create, before anything was moved"
    assert contents(world) == {"dir/file.txt": NEW} | ({"elsewhere": OLD} if moves else {})
    assert steps(world) == ["create staged", *["move aside"] * (job != "moves it"), "move dir/file.txt"]


def test_a_refused_set_aside_is_a_refused_save(world: World) -> None:
    """vfs/semantics.md 4: refused for good (400): `failed`, with the server's reason; nothing is tried again."""
    item = old(world)
    world.client.fail("update", BadRequestError("Item is read only"))
    with pytest.raises(BadRequestError):
        world.save("dir/file.txt", NEW, item)
    file = world.state.index.file_at("dir/file.txt")
    assert file is not None
    assert (file.refused, file.needs_upload) == ("Item is read only", True)
    assert world.client.before["update"] == []
    assert contents(world) == {"dir/file.txt": OLD}


def test_a_refused_request_leaves_nothing_to_wait_for(world: World) -> None:
    """save/protocol.md R7: waiting is for answers that never came; "try again later" is an answer."""
    file = world.closed("dir/file.txt", NEW, old(world))
    busy = [partial(away, UnavailableError("too many requests", status=429))]
    world.client.before = {"update": [*busy, lambda: None, *busy]}
    change = world.scheduled(file)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            world.replacer.run_change(change)
    world.replacer.run_change(change)
    assert contents(world) == {"dir/file.txt": NEW}
    assert [aside.unsure_until for aside in change.asides] == [0.0]
    assert world.content.adopted == [(file.item_id, NEW)]


@pytest.mark.parametrize("answer", ["comes", "is lost", "comes early"])
def test_the_hash_of_an_upload_is_computed_while_it_is_sent(world: World, answer: str) -> None:
    """save/protocol.md R2: the local bytes are read again only where not all of them were seen to go out before the answer."""
    file = world.closed("dir/file.txt", NEW, old(world))
    assert file.local is not None
    here, found = file.local.path, NEW if answer == "comes" else b"NEW?"
    # So the bytes show whether they are read after they were sent.
    world.client.before["create"] = [lambda: here.write_bytes(b"NEW?")]
    world.client.answers_early, world.client.lose = answer == "comes early", int(answer == "is lost")
    world.write_back.wait_until_uploaded(file)
    assert (file.base.sha256, file.sha256) == (sha(found), sha(found))
    (change,) = world.state.changes.values()
    assert change.sha256 == sha(found)


@pytest.mark.parametrize("wrong", [False, True])
def test_only_the_item_of_an_unanswered_set_aside_is_checked(world: World, wrong: bool) -> None:
    """save/protocol.md R2: the promote's own answer counts if no promote was sent before; R7: the other is waited for."""
    world.client.lost = WrongAnswerError if wrong else world.client.lost
    world.client.before["update"] = [lambda: setattr(world.client, "lose", 1)]
    file = world.save("dir/file.txt", NEW, old(world))
    (change,) = world.state.changes.values()
    assert change.asides[0].unsure_until > time.monotonic()
    assert world.context.unsure_until("o") > time.monotonic()
    assert world.namespace.updates == ["forget o", "publish dir/file.txt"]
    assert contents(world) == {"dir/file.txt": NEW}
    assert file.base.sha256 == sha(NEW)
    assert world.content.adopted == [(file.item_id, NEW)]


def test_a_saved_file_is_shown_until_the_namespace_has_its_item(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 1.6: a lookup takes no lock, and in between it would find the version before."""
    file, shown = world.closed("file", NEW), list[File | None]()
    file_at = world.state.index.file_at
    monkeypatch.setattr(world.namespace, "record_own_change", lambda _: shown.append(file_at("file")))
    world.write_back.wait_until_uploaded(file)
    assert (shown, file_at("file")) == ([file], None)


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_promote_whose_answer_is_lost_fills_no_cache(world: World, carried_out: bool) -> None:
    """save/protocol.md R2: the job may have written to it since; nor does the answer to the next promote say that it has not."""
    file = world.closed("file", NEW)
    local, handle = file.local, Handle(file, None, os.O_RDONLY)
    assert local is not None
    local.acquire()
    file.handles.append(handle)
    world.client.before["update"] = [lambda: setattr(world.client, "lose", 1)]
    world.client.carried_out = carried_out
    world.write_back.wait_until_uploaded(file)
    assert (contents(world), world.content.adopted) == ({"file": NEW}, [])
    assert world.context.unsure_until(file.item_id) > time.monotonic(), "it may be carried out late (R7)"
    assert (handle.content, handle.item) == (local, file.item), "bytes that were sent serve who has it open"
    assert file.item is not None
    placed = world.state.read_log.version_read_by(None, file.item)
    assert isinstance(placed, Base)
    assert placed.racy, "a later save compares its bytes"


@pytest.mark.parametrize("carried_out", [True, False])
def test_an_unanswered_create_is_looked_up_then_made_under_a_new_name(
    world: World, carried_out: bool
) -> None:
    world.client.lose, world.client.carried_out = 1, carried_out
    world.save("file", NEW)
    created = [step for step in world.client.done if step.startswith("create")]
    assert len(set(created)) == len(created) == (1 if carried_out else 2)
    assert contents(world) == {"file": NEW}
    assert carried_out or world.context.relist_after > time.monotonic(), "what comes late is looked for"


def test_a_late_create_is_looked_for_even_if_the_look_after_it_fails(world: World) -> None:
    """save/protocol.md R4: a listing after the request's lifetime shows its item."""
    world.client.lose, world.client.carried_out = 1, False
    world.client.fail("find", UnavailableError("not now"))
    world.save("file", NEW)
    assert len([step for step in world.client.done if step.startswith("create")]) == 2
    assert world.context.relist_after > time.monotonic()


def test_a_staged_item_that_vanished_is_created_again(world: World) -> None:
    """save/protocol.md, The steps, promote: 404: stage again from the local bytes."""
    rows: list[Change] = []
    again = lambda: rows.extend(world.rows(Change))  # noqa: E731
    world.client.before = {"update": [world.client.items.clear], "create": [lambda: None, again]}
    world.client.fail("find", AssertionError("nothing is known to be there"))
    world.save("file", NEW)
    assert [(row.stage, row.staged_id) for row in rows] == [(Stage.STAGING, "")]
    assert contents(world) == {"file": NEW}


def test_a_save_without_progress_is_postponed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobfs.save.replace._ROUNDS", 1)
    change = world.scheduled(world.closed("file", NEW))
    gone = "the staged item of file keeps vanishing from the server"
    taken = "the job keeps taking the name file: it is tried again"
    for answer, message in ((errors.NotFoundError, gone), (errors.PathExistsError, taken)):
        world.client.before["update"] = []
        world.client.fail("update", *[answer("no")] * 4)
        with pytest.raises(UnavailableError, match=message):
            world.replacer.run_change(change)


MAKES = ["create staged", "move dir"]
#: A request that is told that the directory is missing, whether files are created at their target, whether the directory is there
#: again, and the requests of the save.
MISSING = [
    ("update", False, False, ["create staged", "move aside", *MAKES, "move aside", "move dir/file.txt"]),
    ("update", False, True, ["create staged", "move aside", "move aside", "move dir/file.txt"]),
    ("create", False, False, ["create staged", *MAKES, "create staged", "move dir/file.txt"]),
    ("create", True, False, ["create dir/file.txt", *MAKES, "create dir/file.txt"]),
]


@pytest.mark.parametrize(("endpoint", "direct", "there", "requests"), MISSING)
def test_a_save_creates_its_missing_directory(
    world: World, endpoint: str, direct: bool, there: bool, requests: list[str]
) -> None:
    """vfs/semantics.md 4.22: the save brings it back; not if it is there again."""
    world.context.server.learn(rejects={Kind.FILE: direct, Kind.DIRECTORY: False})
    item = old(world) if endpoint == "update" else None
    if there:
        world.client.put("d", "dir", None)
    world.client.fail(endpoint, NoDirectoryError("no directory"))
    world.save("dir/file.txt", NEW, item)
    assert steps(world) == requests
    assert contents(world)["dir/file.txt"] == NEW


@pytest.mark.parametrize("touch", [False, True])
def test_a_set_aside_shows_whether_moves_keep_the_time(world: World, touch: bool) -> None:
    """save/protocol.md R1: of the server one fact is kept."""
    world.client.moves_touch = touch
    world.save("dir/file.txt", NEW, old(world))
    assert world.context.server.facts.moves_keep_updated_at is (not touch)


@pytest.mark.parametrize("job", [b"", b"jobs", b"longer than ours"], ids=["nothing", "its own", "longer"])
@pytest.mark.parametrize("lose", [0, 1])
def test_a_new_file_is_created_at_its_target_if_that_is_free(world: World, job: bytes, lose: int) -> None:
    """save/protocol.md R9: anything else at T: the hidden way, with no base; a lost answer is looked at."""
    world.context.server.learn(rejects={Kind.FILE: True, Kind.DIRECTORY: False})
    if job:
        world.client.put("j", "file", job)
    direct: list[bool] = []
    seen = lambda: direct.extend(change.direct for change in world.rows(Change))  # noqa: E731
    world.client.before["create"] = [seen, seen]
    world.client.lose, world.client.carried_out = lose, not job
    world.save("file", NEW)
    hidden = ["create staged", "move file", "move aside", "move file"] if job else []
    if not (lose and job):
        assert steps(world) == ["create file", *hidden]
    if not lose:
        assert direct == ([True, False] if job else [True])
    assert ("download j" in world.client.done) is (bool(lose) and len(job) == len(NEW))
    assert contents(world) == {"file": NEW}
    assert bool(world.content.adopted) is (bool(job) or not lose), "not what was found"


def test_an_item_that_was_created_directly_is_not_created_again(world: World) -> None:
    """save/protocol.md R9: after a journal write that failed, the next run looks at the server."""
    world.context.server.learn(rejects={Kind.FILE: True})
    file = world.closed("file", NEW)
    change = world.scheduled(file)
    with failing("prepare", errno.EIO, world.state.saves):
        assert errno_from(world.replacer.run_change, change) == errno.EIO
    world.write_back.wait_until_uploaded(file)
    assert (steps(world), contents(world)) == (["create file"], {"file": NEW})


# -- directories and moves


def test_a_directory_is_created_hidden_and_its_move_replaces_nothing(world: World) -> None:
    """save/protocol.md R9; vfs/semantics.md 4, mkdir: its errors are the caller's."""
    item = world.write_back.make_directory("dir")
    assert item is not None
    assert (item.path, steps(world)) == ("dir", ["create staged", "move dir"])
    assert errno_from(world.write_back.make_directory, "dir") == errno.EEXIST
    world.clean_up()
    assert world.client.paths == {item.id: "dir"}


def test_a_restored_item_gets_its_missing_parent_directories(world: World) -> None:
    """save/protocol.md R12: directories above it that were removed too are made again."""
    place = hidden("sub", names.Role.REMOVED)
    aside = Aside("d", place, Kind.DIRECTORY, moved=True)
    change = world.state.plan_change(
        Verb.REMOVE, "dir/sub", stage=Stage.PLACED, asides=[aside], finished_at=0.0
    )
    world.client.put("d", place, None)
    world.client.put("f", f"{place}/file", NEW)
    world.client.fail("update", NoDirectoryError("no directory"))
    world.namespace.listed = 1.0
    assert world.replacer.clean_up(change) == 0.0
    assert world.client.paths["d"] == "dir/sub"
    assert "dir" in world.client.paths.values()
    assert change.stage is Stage.DONE


def test_a_directory_made_in_an_outage_becomes_the_jobs_of_that_name(world: World) -> None:
    """vfs/semantics.md 6.3: acknowledged before the job made it."""
    file = world.state.new_local_file(Kind.DIRECTORY, "dir")
    world.state.write(edit(file, mode=0o700))
    change = world.scheduled(file)
    job = world.client.put("d", "dir", None)
    world.queue.run_until_finished(change)
    world.clean_up()
    assert (world.state.index.file_of(job), file.change, world.state.changes) == (file, None, {})
    assert world.client.paths == {"d": "dir"}, "what was staged is gone"
    assert steps(world) == ["create staged", "move dir", "delete made 1"], "what the job made is left alone"
    (row,) = world.rows(File)
    assert (row.mode, row.item_id, row.version, row.base) == (0o700, "d", job.updated_at, Base())
    world.state.write(edit(world.state.new_local_file(Kind.DIRECTORY, "other"), mode=0o700))
    world.client.put("f", "other", NEW)
    assert world.replacer.make_new_directory("other").is_dir, "a file of the job makes room"
