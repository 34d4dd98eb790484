"""What is known of requests that may still be carried out, and of versions that saves replace (save/protocol.md R1, R2, R7)."""

from __future__ import annotations

import contextlib
import errno
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.clocks import Clock

from jobfs.api.client import Client
from jobfs.api.connection_queue import Priority
from jobfs.api.wire import HeldConnection
from jobfs.errors import FsError, ItemChangedError, NotFoundError
from jobfs.nodes import Item, Kind, Permission, implicit_directory
from jobfs.save.context import Observation, fetch_sha256, item_if_bytes_match
from jobfs.state import edit
from jobfs.state.processes import Process
from jobfs.state.records import Base, Verb

from .world import World, away, hidden, sha

CONTENT = b"content"


def test_an_item_is_unsure_for_the_lifetime_of_an_unanswered_request(world: World) -> None:
    context, before = world.context, time.monotonic()
    first = context.mark_unanswered("a")
    assert before + 30.0 <= first <= time.monotonic() + 30.0
    assert (context.unsure_until("a"), context.unsure_until("b")) == (first, 0.0)
    assert context.mark_unanswered("a") >= first, "a second request begins the wait again"
    context.lifetime = 0.0
    context.mark_unanswered("a")
    context.mark_unanswered("b")
    assert context.unsure_until("a") == 0.0, "what is over is forgotten"


class Readers:
    """An open reader of the item; it notes what is carried over to the next version."""

    def __init__(self) -> None:
        self.carried: list[tuple[Item, Item]] = []

    def accept_as_same_version(self, before: Item, after: Item) -> None:
        self.carried.append((before, after))


@pytest.fixture
def clock(world: World) -> Clock:
    clock = world.context.clock = Clock()
    return clock


@pytest.mark.parametrize(("age", "lasts", "latency", "asked"), [
    (0.0, 0.0, 0.0, False), (0.04, 0.0, 0.0, False), (0.1, 0.0, 0.0, True), (0.1, 0.0, 0.5, False), (0.5, 0.0, 0.5, False),
    (0.6, 0.0, 0.5, True), (0.6, 1.0, 0.0, False), (1.1, 1.0, 0.0, True), (math.inf, 1.0, 9.0, True),
])  # fmt: skip
def test_a_look_is_repeated_once_it_is_older_than_its_limit(
    world: World, clock: Clock, age: float, lasts: float, latency: float, asked: bool
) -> None:
    """save/protocol.md R8: checked when the request has its connection."""
    item = world.client.put("a", "file")
    world.client.health.latency = latency
    gets: list[str] = []
    world.client.before["get"] = [lambda: gets.append("asked")]
    world.client.before["turn"] = [lambda: clock.advance(age)]
    with world.context.hold_connection(Observation(item, clock.now, lasts)) as (_, found):
        assert found == item
    assert bool(gets) is asked


def test_a_repeated_look_is_dated_by_its_reply(world: World, clock: Clock) -> None:
    """save/protocol.md R8: else one that took longer than usual would be repeated a second time, on connections that are held."""
    look = Observation(world.client.put("a", "file"), -math.inf)
    world.client.before["get"] = [lambda: clock.advance(0.1), away]
    turn = HeldConnection(Priority.SMALL)
    repeated = world.context.renew_if_old(look, turn)
    assert repeated.observed_at == 1000.1
    assert world.context.renew_if_old(repeated, turn) is repeated


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("job", ["nothing", "writes", "renames", "deletes"])
def test_a_repeated_look_decides_whether_the_request_is_sent(world: World, job: str, exact: bool) -> None:
    """save/protocol.md R8."""
    look = Observation(world.client.put("a", "file", CONTENT), -math.inf, is_exact=exact)
    if job == "writes":
        world.client.touched("a")
    elif job == "renames":
        world.client.put("a", "elsewhere", CONTENT)
    elif job == "deletes":
        del world.client.items["a"]
    error = {"renames": ItemChangedError, "deletes": NotFoundError}.get(job)
    if job == "writes" and exact:
        error = ItemChangedError
    with pytest.raises(error) if error else contextlib.nullcontext():
        world.context.delete_item(look)
    assert world.client.done == ([] if error else ["delete a"])
    assert world.namespace.updates == (["touch file"] if error is ItemChangedError else [])


@pytest.mark.parametrize("read", [True, False])
def test_an_item_being_read_is_checked_before_it_is_changed(world: World, read: bool) -> None:
    """save/protocol.md R8, vfs/semantics.md 3.13: else the answer's `updatedAt` would hide a write of the job."""
    item, readers = world.client.put("a", "file", CONTENT), Readers()
    written = world.client.touched("a")
    if read:
        world.content.readers = cast(Any, readers)
    answer = world.context.update_item(Observation(item, time.monotonic(), valid_for=60.0), path="new")
    assert (answer.path, readers.carried) == ("new", [(written, answer)] if read else [])


@pytest.mark.parametrize("moves", [True, False])
def test_the_reply_to_a_move_shows_which_version_was_moved(world: World, moves: bool) -> None:
    """vfs/semantics.md 4.46, save/protocol.md R8: what the job wrote since the look does not count as read here."""
    world.context.server.learn(moves_keep_updated_at=True)
    seen = world.client.put("a", "file", CONTENT)
    written = world.client.put("a", "file", b"the job's")
    wanted = {"path": "new"} if moves else {"permission": Permission.READ_ONLY}
    before, after = world.context.update_item_and_compare(Observation(seen, time.monotonic()), **wanted)
    assert before.path == "file"
    assert before.version == (written.version if moves else seen.version)
    assert after.version == written.version


def test_a_look_of_a_program_lasts_for_the_ttl_plus_a_second(world: World) -> None:
    """save/protocol.md R8."""
    item = world.client.put("a", "file", CONTENT)
    for shown, lasts, expected in ((4.0, None, 4.0), (0.0, None, 1.0), (4.0, 0.0, 1.0)):
        world.namespace.lookup_ttl = shown
        assert world.context.last_observation_of(item, lasts).valid_for == expected
    world.namespace.doubted.add("a")
    assert world.context.last_observation_of(item).observed_at == -math.inf


#: What has happened to an item: `lost`: a request on it went unanswered; `expired`: for long enough; `to PATH`: this mount has
#: renamed it; `at PATH`: it is seen there; `moved`: this mount has renamed `dir` to `done`. Whether a late request may have moved
#: it to a path.
LATE = [
    # Without an unanswered request, the job may have moved it.
    ("to file", "other", False), ("lost, expired, to other", "file", False),
    ("to file, lost, to second", "file", True), ("to file, lost, to second", "second", False),
    ("lost, to second, expired, to third", "second", True), ("lost, to second, expired, to third", "third", False),
    # In a directory that was renamed since.
    ("lost, to dir/file, at done/file, moved", "done/file", False), ("lost, to dir/file, at done/file, moved", "dir/file", True),
    ("lost, at done/file, moved", "done/file", False), ("lost, at done/file, moved", "dir/file", True),
    ("lost, to other/file, at other/file, moved", "other/file", False),
    # One that is set aside has no name of its own; one that was set aside before is at the new path of its target.
    (f"lost, at {hidden('done/file')}, moved", "done/file", False),
    (f"lost, to dir/file, at {hidden('done/file')}, moved", "done/file", False),
    (f"lost, to dir/file, at {hidden('done/file')}, moved", "dir/file", True),
]  # fmt: skip


@pytest.mark.parametrize(("past", "path", "late"), LATE)
def test_an_item_may_be_moved_late_from_where_this_mount_has_moved_it(
    world: World, past: str, path: str, late: bool
) -> None:
    """save/protocol.md R1: never deleted as a base; What the API does not allow: a name may flip, and no content is lost."""
    context = world.context
    for what, _, where in (step.partition(" ") for step in past.split(", ")):
        match what:
            case "lost":
                context.mark_unanswered("a")
            case "expired":
                context.lifetime = 0.0
                context.mark_unanswered("a")
            case "to":
                context.note_rename("a", where)
            case "at":
                world.client.put("a", where)
            case "moved":
                context.note_directory_rename("dir", "done")
    assert context.may_be_late_move("a", path) is late


def test_creating_an_item_changes_its_directorys_time(world: World) -> None:
    """vfs/semantics.md 2.18: a directory that the server has not got yet, and one that it has; a file has no names in it."""
    new, before = world.state.new_local_file(Kind.DIRECTORY, "new"), time.time_ns()
    world.state.add_file(new)
    world.client.put("d", "dir", None)
    world.client.put("f", "file")
    for path in ("new", "dir", "file", "none", ""):
        world.context.touch_directory(path)
    assert before <= new.mtime_ns == new.ctime_ns <= time.time_ns()
    assert world.namespace.updates == ["names of dir"]


def test_implicit_directories_stay_when_this_mount_removes_their_last_file(world: World) -> None:
    """vfs/semantics.md 1.19: as on a disk, all of them stay, up to one that the server has."""
    world.client.put("d", "dir", None)
    world.context.keep_implicit_parent("dir/a/b/file")
    kept = [world.state.index.file_at(path) is not None for path in ("dir", "dir/a", "dir/a/b")]
    assert kept == [False, True, True]


def item(world: World, seconds: float = 60.0) -> Item:
    """An item that was changed so many seconds ago."""
    return world.client.put("a", "file", CONTENT, updated_ns=int((time.time() - seconds) * 1e9))


@pytest.mark.parametrize(("seconds", "young"), [(0.5, True), (60.0, False)])
def test_whether_a_version_is_racy_depends_on_the_servers_clock(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: float, young: bool
) -> None:
    """save/protocol.md R1: unless base is younger than 2 s when it was opened (clock resolution); nobody sets the clock."""
    shown = item(world, seconds)
    monkeypatch.setattr(time, "time", lambda: 0.0 if seconds > 2 else 1e10)
    assert world.context.base_of(shown).racy is young
    monkeypatch.undo()
    world.client.server_time_offset = 30.0
    assert not world.context.base_of(item(world, seconds)).racy
    assert world.context.base_of(item(world, seconds), racy=True).racy


def test_a_free_name_and_an_implicit_directory_have_no_base(world: World) -> None:
    """save/protocol.md, Vocabulary, base: a version of an item, and here is none."""
    assert world.context.base_of(None) == Base()
    assert world.context.base_of(implicit_directory("dir")) == Base()


def test_a_full_disk_drops_cached_contents_and_then_kept_copies(world: World, tmp_path: Path) -> None:
    """vfs/semantics.md 4.56: the content cache goes first; then the oldest kept copies, 1 MiB at least."""
    source, saves = tmp_path / "source", world.state.saves
    source.write_bytes(bytes(600 << 10))
    for path in "abc":
        saves.commit(path, saves.prepare(path, source, 600 << 10))
    world.state.bytes.remove_after_sync(7, 1)
    world.content.evictable = 2
    full = [OSError(errno.ENOSPC, "full"), FsError(errno.ENOSPC), FsError(errno.EDQUOT)]
    world.context.retry_with_room(lambda: away(full.pop(0)) if full else None, lambda: 100)
    assert (world.content.freed, saves.paths(), full) == ([100, 200, 400], ["c"], [])
    assert world.state.bytes.retired == [], "a kept copy shares its file with the bytes of its save"
    full.append(OSError(errno.ENOSPC, "full"))
    world.context.retry_with_room(lambda: away(full.pop(0)) if full else None)
    assert (world.content.freed[3:], saves.paths()) == ([1 << 20], [])


def test_the_hash_of_local_or_sent_bytes_is_known(world: World) -> None:
    """save/protocol.md R1: its bytes equal base's; R2: base is H with the hash of the sent bytes."""
    version = item(world)
    assert world.context.base_of(version).sha256 == ""
    world.content.cached.add("a")
    assert world.context.base_of(version).sha256 == sha(CONTENT)
    world.content.cached.clear()
    world.state.write(edit(world.state.get_or_add_file(version), version=version.updated_at, sha256="ff"))
    assert world.context.base_of(version).sha256 == "ff"
    assert world.context.base_of(replace(version, updated_at="later")).sha256 == ""


def test_a_program_replaces_the_version_that_it_has_read(world: World) -> None:
    """vfs/semantics.md 4.42: not the one that is shown; only its bytes show which it was (save/protocol.md R1)."""
    process, seen = Process(None), item(world)
    world.state.read_log.note_read(process, "file", seen)
    world.content.cached.add("a")
    shown, read = world.client.touched("a"), Base.from_item(seen, sha256=sha(CONTENT), racy=True)
    assert world.context.base_of(shown) == Base.from_item(shown, sha256=sha(CONTENT))
    assert world.context.base_of(shown, process=process) == read
    world.write_back.delete_once_fetched(shown)
    assert world.renamer.find_displaced("file", None, process).base == read


LEARNED: dict[str, tuple[dict[str, Any], str]] = {
    "up to the size of the cache": ({}, sha(CONTENT)),
    "larger": ({"size": 1 << 30}, ""),
    "young": ({"racy": True}, sha(CONTENT)),
    "young, in whole seconds": ({"racy": True, "whole": True}, ""),
    "another version by now": ({"updated_at": "earlier"}, ""),
    "recognised by its time, which moves leave alone": ({"kept": True}, ""),
    "written while it is read": ({}, ""),
    "refused": ({}, ""),
}


@pytest.mark.parametrize("what", LEARNED)
def test_unread_bytes_are_fetched_before_they_are_set_aside(world: World, what: str) -> None:
    """save/protocol.md R1: A is downloaded while H is staged, up to the size of the content cache; never a guess."""
    values, digest = LEARNED[what]
    whole = values.get("whole", False)
    world.context.server.learn(moves_keep_updated_at=values.get("kept", False))
    seen = {name: value for name, value in values.items() if name not in ("whole", "kept")}
    there = replace(item(world), size=values.get("size", len(CONTENT)), updated_ns=10**9 if whole else 1)
    change = world.state.plan_change(Verb.PUT, "file", base=replace(Base.from_item(there), **seen))
    if what == "written while it is read":
        world.client.after_download = lambda: world.client.touched("a")
    elif what == "refused":
        world.client.contents.clear()
    if world.context.needs_base_hash(change.base, there):
        world.context.learn_base_hash(change, there)
    assert change.base.sha256 == digest


def test_an_item_is_recognised_by_bytes_only_if_unchanged_during_the_read(world: World) -> None:
    """save/protocol.md R1: download, then get, and `updatedAt` still is the same."""
    version, client = item(world), cast(Client, world.client)
    assert fetch_sha256(client, "a", None) == sha(CONTENT)
    assert item_if_bytes_match(client, version, sha(CONTENT)) == version
    assert item_if_bytes_match(client, version, sha(b"other")) is None
    for act in (lambda: world.client.touched("a"), world.client.items.clear):
        world.client.after_download = act
        assert item_if_bytes_match(client, version, sha(CONTENT)) is None
