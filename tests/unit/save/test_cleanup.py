"""Cleanup: asides are judged, cancelled changes taken back, unexplained items shown (save/protocol.md R1, R3, R4, R7, R10)."""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from jobfs import names
from jobfs.errors import (
    AnswerLostError,
    BadRequestError,
    ItemChangedError,
    NoDirectoryError,
    PathExistsError,
    UnavailableError,
)
from jobfs.nodes import Kind
from jobfs.state import Change, File, edit
from jobfs.state.records import Aside, Base, Stage, Verb

from .world import TID, World, away, hidden, sha

OLD, NEW = b"old", b"new"
STAGED = hidden("file", names.Role.STAGED)
CONTENT, OTHER = b"the old content", b"the new content"
TARGET, OWN, OTHERS = "dir/file.txt", "0123456789ab", "f" * 12
#: The base as it was opened; the move has changed its `updatedAt`.
SAVED, GIVEN_UP, REMOVED = (Verb.PUT, Stage.PLACED), (Verb.MOVE, Stage.CANCELLED), (Verb.REMOVE, Stage.PLACED)
BASE = Base("a", "before", len(CONTENT), sha(CONTENT))
#: The version that a save replaces.
VERSION = Base("o", "then", 3, sha(OLD))


def placed_change(world: World, *asides: Aside) -> Change:
    sent, base = {"tid": TID, "staged_id": "n", "sha256": sha(NEW)}, Base("o", "", 3, sha(OLD))
    return world.plan(Stage.PLACED, asides=list(asides), base=base, **sent)


def set_aside(world: World, item_id: str, content: bytes, **values: Any) -> Aside:
    item = world.client.put(item_id, hidden("file", tid=item_id * 16), content)
    values = {"moved": True, "size": item.size, "updated_at": item.updated_at, **values}
    return Aside(item_id, item.path, **values)


# -- placed


def test_the_placed_stage_is_synced_before_the_first_delete(world: World) -> None:
    """save/protocol.md R3; vfs/semantics.md 5.2: no retry storm: the pauses grow with each reported failure."""
    change = placed_change(world, set_aside(world, "o", OLD))
    assert world.state.store.needs_sync
    world.client.before["get"] = [away]
    with pytest.raises(UnavailableError):
        world.cleanup.clean_up(change)
    assert (change.stage, len(change.asides)) == (Stage.PLACED, 1)
    world.state.write(edit(change, sha256=change.sha256))
    unsynced: list[bool] = []
    world.client.before["delete"] = [lambda: unsynced.append(world.state.journal.needs_sync)]
    world.cleanup.clean_up(change)
    assert unsynced == [False]


@pytest.mark.usefixtures("stale_looks")
@pytest.mark.parametrize(
    ("stage", "place", "values"),
    [
        (Stage.PLACED, hidden("file"), {"base": VERSION, "asides": [Aside("o", hidden("file"), updated_at="then", size=3)]}),
        (Stage.CANCELLED, "file", {"base": VERSION}),
        (Stage.CANCELLED, "file", {"staged_id": "o"}),
        (Stage.CANCELLED, "file", {"direct": True}),
    ],
    ids=["set aside", "unlinked", "placed unseen", "created directly"],
)  # fmt: skip
def test_an_item_the_job_writes_to_before_its_delete_is_kept(
    world: World, stage: Stage, place: str, values: dict[str, Any]
) -> None:
    """save/protocol.md R8: a delete that was decided by version or bytes is for these only."""
    world.client.put("o", place, OLD, updated_at="then")
    change = world.plan(stage, tid=TID, sha256=sha(OLD), size=3, **values)
    world.client.before["turn"] = [lambda: world.client.put("o", place, b"job")]
    with suppress(ItemChangedError):
        world.cleanup.clean_up(change)
    assert (world.client.contents, world.changes()) == ({"o": b"job"}, [])
    world.cleanup.clean_up(change)
    assert world.client.contents == {"o": b"job"}, "nor later"


def test_an_aside_that_must_wait_delays_no_other(world: World) -> None:
    """save/protocol.md R7: nobody waits for this, no other aside either."""
    late = time.monotonic() + 100
    change = placed_change(world, set_aside(world, "w", OLD, unsure_until=late), set_aside(world, "o", OLD))
    assert world.cleanup.clean_up(change) == late
    assert set(world.client.items) == {"w"}
    assert [aside.id for found in world.rows(Change) for aside in found.asides] == ["w"]


def removed(world: World, name: str) -> Change:
    """A directory that was taken away just now."""
    item = world.client.put(name, hidden(f"dir{name}", names.Role.REMOVED, name * 16), None)
    aside = Aside(name, item.path, item.kind, moved=True)
    return world.plan(Stage.PLACED, f"dir{name}", Verb.REMOVE, asides=[aside])


def test_one_listing_serves_all_removed_directories(world: World) -> None:
    """save/protocol.md R12: in the background one listing, begun after the moves, for all such directories."""
    for change in [removed(world, name) for name in "de"]:
        assert world.cleanup.clean_up(change) == 0.0
    assert (world.client.items, world.namespace.refreshed) == ({}, 1)
    late = removed(world, "f")
    assert world.cleanup.clean_up(late) > time.monotonic(), "not more than one in two seconds"
    assert (list(world.client.items), world.namespace.refreshed) == (["f"], 1)
    world.namespace.refresh()
    assert world.cleanup.clean_up(late) == 0.0, "any listing will do"
    later = removed(world, "a")
    world.cleanup._list_at = 0.0
    assert world.cleanup.clean_up(later) == 0.0
    assert (world.client.items, world.namespace.refreshed) == ({}, 3)


def test_a_listing_that_fails_is_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """save/protocol.md R12: else no removed directory would be deleted any more."""
    monkeypatch.setattr("jobfs.save.cleanup._LIST_EVERY", 0.0)
    change = removed(world, "d")
    with monkeypatch.context() as outage:
        outage.setattr(world.namespace, "refresh", away)
        with pytest.raises(UnavailableError):
            world.cleanup.clean_up(change)
    assert world.cleanup.clean_up(change) == 0.0


# -- what no record explains (R4)


@pytest.mark.parametrize(
    ("record", "stays"),
    [({"staged_id": "h"}, True), ({"tid": TID}, True), ({"asides": [Aside("h", hidden("x"))]}, True), ({}, False)],
    ids=["staged", "being made", "set aside", "another"],
)  # fmt: skip
def test_a_new_hidden_item_is_explained_by_its_record(
    world: World, caplog: pytest.LogCaptureFixture, record: dict[str, Any], stays: bool
) -> None:
    """save/protocol.md R4: a hidden item of ours that an open record names; what is just being made is explained too."""
    world.client.put("h", hidden("x"), b"content")
    other = world.client.put("other", hidden("x", mount="f" * 12), b"of another mount")
    world.state.plan_change(Verb.PUT, "x", stage=Stage.STAGED, **record)
    world.client.fail("update", BadRequestError("not now"))
    caplog.set_level("INFO", "jobfs.save")
    world.cleanup.expose_orphans()
    assert caplog.messages == [f"{hidden('x')} can't be shown: not now"] * (not stays)
    world.cleanup.expose_orphans()
    assert (world.client.paths["h"] == hidden("x"), world.client.paths["other"]) == (stays, other.path)


@pytest.mark.parametrize(
    ("role", "taken", "known", "shown"),
    [
        (names.Role.ASIDE, False, True, "x"), (names.Role.ASIDE, True, True, "x.conflict-"),
        (names.Role.REMOVED, False, True, "x"), (names.Role.STAGED, False, True, ""),
        (names.Role.STAGED, False, False, "x.recovered-"),
    ],
)  # fmt: skip
def test_an_unexplained_hidden_item_gets_a_descriptive_name(
    world: World, role: names.Role, taken: bool, known: bool, shown: str
) -> None:
    """save/protocol.md R4: only a staged item whose own transaction is a tombstone is deleted; one that is none is never T."""
    world.client.put("h", hidden("x", role), b"content")
    if taken:
        world.client.put("t", "x")
    if known:
        world.state.write(transaction_id=TID)
    world.client.lose = int(shown != "")
    world.cleanup.expose_orphans()
    path = world.client.paths.get("h", "")
    assert (path.startswith(shown), path == shown) == (True, shown in ("x", ""))


def test_a_hidden_item_is_checked_again_before_it_gets_a_name(world: World) -> None:
    listed = world.client.put("h", hidden("x"), b"content")
    world.client.put("h", "given back by a request that was late", b"content")
    gone = world.client.put("g", hidden("y"), b"content")
    world.state.write(edit(world.state.get_or_add_file(gone), mode=0o600))
    del world.client.items["g"]
    assert (world.cleanup.expose(listed), world.cleanup.expose(gone)) == ("", "")
    assert (world.client.done, world.namespace.updates) == ([], ["forget g"])
    assert world.rows(File) == [], "the attributes of the item that is gone"


def test_remembered_attributes_of_vanished_items_are_dropped(world: World) -> None:
    """vfs/semantics.md 2: attributes go when the job replaces or deletes the item; an open or changed file stays."""
    for name in "fabc":
        world.state.write(edit(world.state.get_or_add_file(world.client.put(name, name)), mode=0o600))
    begins = world.client.items["f"]
    world.opened(world.client.items["c"])
    changed, unread = (world.closed(name, NEW, world.client.put(name, name)) for name in "de")
    unread.local = unread.change = None  # a restart could not open its bytes
    gone = [world.client.items.pop(name) for name in "facde"]
    # A program has just written to `f`.
    world.namespace.before_peek["b"] = lambda: world.closed("f", NEW, begins)
    world.cleanup.forget_vanished()
    assert [world.state.index.file_of(item) is None for item in gone] == [False, True, False, False, False]
    assert sorted(row.path or "" for row in world.rows(File)) == ["b", "c", "d", "e", "f"]
    assert world.state.index.file_of(world.client.items["b"]) is not None
    assert changed.needs_upload


# -- a save whose file was unlinked is taken back (R10)


@pytest.mark.parametrize(
    ("staged_id", "place", "content", "goes"),
    [("", "", NEW, True), ("new", "", NEW, True), ("new", "dir/file", NEW, True), ("new", "dir/file", b"job", False),
     ("new", "dir/moved", NEW, False), ("", "dir/file", NEW, True), ("", "dir/file", b"job", False)],
    ids=["unseen", "staged", "placed unseen", "written to since", "renamed since", "created directly", "made by the job"],
)  # fmt: skip
def test_a_cancelled_save_is_undone(
    world: World, staged_id: str, place: str, content: bytes, goes: bool
) -> None:
    """save/protocol.md R10: H is deleted only under its hidden name or with its own bytes; open handles get them first."""
    opened = world.opened(world.client.put("new", place or hidden("dir/file", names.Role.STAGED), content))
    sent = {"tid": TID, "staged_id": staged_id, "sha256": sha(NEW), "size": 3}
    direct = bool(place and not staged_id)
    base = Base("o" * bool(place and staged_id))
    change = world.plan(Stage.CANCELLED, "dir/file", base=base, direct=direct, **sent)
    world.cleanup.clean_up(change)
    assert (world.client.paths == {}, change.stage) == (goes, Stage.DONE)
    assert (change.staged_id, change.direct, opened.fetched) == ("", False, bool(staged_id))
    (shown,) = world.state.index.children_of("")[0].values()
    assert (shown.path, shown.atime_ns) == ("dir", shown.mtime_ns), "shown, though no item stands for it"


def test_the_jobs_write_after_an_unlink_gets_its_name_back(world: World) -> None:
    """save/protocol.md R10: foreign asides go back to T, if the save of the unlinked file was not placed."""
    aside = set_aside(world, "1", b"the job's")
    world.client.put("new", STAGED, NEW)
    sent, base = {"tid": TID, "staged_id": "new", "sha256": sha(NEW)}, Base("o", "", 3, sha(OLD))
    change = world.plan(Stage.CANCELLED, asides=[aside], base=base, **sent)
    world.cleanup.clean_up(change)
    assert (world.client.paths, change.stage) == ({"1": "file"}, Stage.DONE)


def test_the_aside_of_an_unlinked_save_is_not_shown_at_its_name(world: World) -> None:
    """save/protocol.md R10, R7: though cleanup must wait before it can judge the item."""
    shown = world.client.put("o", "file", OLD)
    aside = set_aside(world, "o", OLD, unsure_until=time.monotonic() + 100)
    base = Base.from_item(shown)
    change = world.plan(Stage.CANCELLED, tid=TID, asides=[aside], displaced=(shown,), base=base)
    assert world.cleanup.clean_up(change) > time.monotonic()
    assert world.namespace.updates == ["forget o"]


def test_a_failed_rename_keeps_the_file_at_its_target(world: World) -> None:
    """save/protocol.md, The steps: a rename over a file that has failed for its caller is cancelled."""
    over = world.client.put("o", "file", OLD)
    base, moved = Base.from_item(over), {"source": "x", "staged_id": "x", "started": True}
    change = world.plan(Stage.STAGED, "file", Verb.MOVE, base=base, shows={"file": over}, **moved)
    world.replacer.abandon_change(change)
    assert not world.state.index.has_override("file"), "the name shows what the server has"
    world.cleanup.clean_up(change)
    assert (world.client.paths, change.stage) == ({"o": "file"}, Stage.DONE)


# -- undo: what was set aside goes back, the newest first (R11)


def change_of(world: World, *asides: Aside, verb: Verb = Verb.PUT, **values: Any) -> Change:
    """A change under way whose staged item is `new`, in the journal."""
    values = {"tid": TID, "staged_id": "new", "asides": list(asides), **values}
    return world.plan(Stage.STAGED, "file", verb, **values)


def undone(world: World, change: Change) -> Change:
    world.cleanup.undo_refused_change(change, "refused", errno.EFBIG)
    return change


def test_the_newest_aside_is_restored_and_older_ones_become_copies(world: World) -> None:
    """save/protocol.md R11."""
    older, newer, taken, gone = (set_aside(world, name, OLD) for name in "1234")
    world.client.put("3", "taken by the job")
    del world.client.items["4"]
    world.client.put("new", hidden("file", names.Role.STAGED))
    change = undone(world, change_of(world, older, newer, taken, gone))
    assert (world.client.paths["2"], world.client.paths["3"]) == ("file", "taken by the job")
    assert world.client.paths["1"].startswith("file.conflict-")
    assert "new" not in world.client.paths, "the staged item's bytes are here"
    assert [step for step in world.client.done if step.startswith("download")] == [], "none is judged"
    assert (change.stage, world.state.changes, world.rows(Change)) == (Stage.DONE, {}, [])


@pytest.mark.parametrize(("verb", "closed"), [(Verb.MOVE, 5), (Verb.PUT, 6)], ids=["renamed", "newer"])
def test_a_refusal_is_only_for_the_bytes_that_were_sent(world: World, verb: Verb, closed: int) -> None:
    """vfs/semantics.md 4, Rename: the target of a rename keeps its bytes, and they are sent after all; so are newer ones."""
    file = world.state.new_local_file(Kind.FILE, "file")
    world.state.write(edit(file, generation=closed))
    world.state.bytes.create(file.ino, 5).release()
    undone(world, change_of(world, verb=verb, source="draft", file=file, generation=5))
    assert (file.refused, file.needs_upload) == ("", True)
    world.state.store.sync()
    assert bool([*world.state.bytes.directory.iterdir()]) is (closed == 5), "nothing needs the older ones"


def test_a_save_cancelled_during_its_refusal_remains_cancelled(world: World) -> None:
    """save/protocol.md R10: its file was unlinked, and does not become a refused one."""
    file = world.state.new_local_file(Kind.FILE, "file")
    world.state.write(edit(file, generation=5))
    change = change_of(world, set_aside(world, "1", OLD), file=file, generation=5)
    world.state.cancel_change(change)
    assert (undone(world, change).stage, file.refused) == (Stage.DONE, "")
    assert world.client.paths == {"1": "file"}


@pytest.mark.parametrize(
    ("verb", "place"),
    [(Verb.PUT, "file"), (Verb.PUT, "there"), (Verb.PUT, hidden("file", mount="f" * 12)), (Verb.MOVE, "file")],
    ids=["T", "another name", "set aside by another mount", "moved"],
)  # fmt: skip
def test_nothing_is_deleted_where_a_refused_save_was_placed(world: World, verb: Verb, place: str) -> None:
    """save/protocol.md R6: under any other name it is promoted."""
    aside, values = set_aside(world, "1", OLD), {"source": "draft", "sha256": sha(NEW), "tid": "e" * 16}
    change = change_of(world, aside, verb=verb, **values)
    world.client.put("new", place, NEW)
    undone(world, change)
    assert world.client.paths["new"] == place
    assert world.client.paths["1"].startswith("file.conflict-" if place == "file" else "file")
    assert change.stage is Stage.DONE


def test_an_undo_that_cannot_finish_is_resumed_later(world: World) -> None:
    """save/protocol.md, The steps, undo: until it succeeds; from now on the name shows what the server has."""
    world.client.fail("update", UnavailableError("not now"))
    shows = {"file": world.client.put("1", "file", OLD)}
    change = undone(
        world, change_of(world, set_aside(world, "1", OLD), verb=Verb.MOVE, source="draft", shows=shows)
    )
    assert not world.state.index.has_override("file")
    recorded = (change, *world.rows(Change))
    assert [(row.stage, row.ino) for row in recorded] == [(Stage.CANCELLED, 0)] * 2
    world.clean_up()
    assert (world.client.paths, world.state.changes) == ({"1": "file"}, {})


# -- what becomes of an aside (R1, R3, R7)


class Checked:
    """One item `a` that was set aside."""

    def __init__(self, world: World, content: bytes | None = CONTENT) -> None:
        self.world, self.client = world, world.client
        item = self.client.put("a", hidden(TARGET), content, updated_at="moved")
        self.aside = Aside("a", item.path, kind=item.kind, moved=True, size=item.size, updated_at="moved")
        self.check = world.cleanup

    def settle(self, base: Base = BASE, saved: str = "", of: tuple[Verb, Stage] = SAVED, **now: Any) -> bool:
        self.aside = replace(self.aside, **now)
        verb, stage = of
        change = Change(1, verb, TARGET, stage, base=base, sha256=saved)
        return self.check.decide_aside(self.aside, change, restore=change.restores_asides)

    @property
    def kept(self) -> bool:
        path = self.client.paths.get("a", "")
        return path.startswith("dir/file.conflict-") and path.endswith(".txt")


@pytest.fixture
def checked(world: World) -> Checked:
    return Checked(world)


# -- R1: by content


#: What `settle` is given, and the requests that follow if it is deleted; None: it is kept. In the order of R1.
READ = ["download a", "delete a"]
TABLE: dict[str, tuple[dict[str, Any], list[str] | None]] = {
    "the bytes of the base": ({}, READ),
    "what was just saved": ({"base": replace(BASE, sha256=""), "saved": sha(CONTENT)}, READ),
    "a directory": ({"base": Base("a", "moved")}, None),
    "another size": ({"base": replace(BASE, size=3)}, None),
    "what a late request may have moved here": ({}, None),
    "other bytes": ({"base": replace(BASE, sha256=sha(OTHER))}, None),
    "the same version, which moves keep": ({"base": Base("a", "moved", len(CONTENT))}, ["delete a"]),
    "the same version, young": ({"base": Base("a", "moved", len(CONTENT), racy=True)}, None),
    "young, but its bytes": ({"base": Base("a", "moved", len(CONTENT), sha(CONTENT), racy=True)}, READ),
    "another version, bytes not known": ({"base": Base("a", "before", len(CONTENT))}, None),
    "another item": ({"base": Base("other", "moved", len(CONTENT))}, None),
    "nothing known": ({"base": Base()}, None),
}


@pytest.mark.parametrize("what", TABLE)
def test_an_aside_is_deleted_if_base_or_just_saved_otherwise_kept(
    world: World, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """save/protocol.md R1, and vfs/semantics.md 4, Keep both: the item becomes `name.conflict-<UTC time>.ext`. Never guess."""
    checked = Checked(world, None if what == "a directory" else CONTENT)
    if what == "what a late request may have moved here":
        world.context.mark_unanswered("a")
        world.context.note_rename("a", "dir/renamed")
    given, requests = TABLE[what]
    assert checked.settle(**given)
    if requests is None:
        assert checked.kept
        assert what != "another size" or "download a" not in checked.client.done
        path = checked.client.paths["a"]
        assert world.namespace.updates == [f"publish {path} from {hidden(TARGET)}"]
        assert caplog.messages == [f"{TARGET}: another version of it is kept as {path}"]
    else:
        assert (checked.client.done, world.namespace.updates) == (requests, ["forget a"])


@pytest.mark.parametrize(
    ("content", "updated_at", "reads"),
    [(CONTENT, "later", 2), (OTHER, "later", 2), (b"longer, in the same second", "moved", 1)],
)
def test_an_item_changed_while_its_bytes_are_read_is_read_again(
    checked: Checked, content: bytes, updated_at: str, reads: int
) -> None:
    """save/protocol.md R1: to read bytes safely: download, then get. Never guess. Another size needs no second read."""
    change = partial(checked.client.put, "a", hidden(TARGET), content, updated_at=updated_at)
    checked.client.after_download = change
    assert not checked.settle()
    checked.client.after_download = lambda: None
    assert checked.settle()
    assert checked.client.done.count("download a") == reads
    assert checked.kept is (content is not CONTENT)


# -- R7: look again


@pytest.mark.parametrize(
    ("of", "job"),
    [*product([SAVED, GIVEN_UP, REMOVED], ["renames it", "deletes it"]), (SAVED, "renames it while it is read")],
)  # fmt: skip
def test_an_aside_renamed_or_gone_is_left_alone(checked: Checked, of: tuple[Verb, Stage], job: str) -> None:
    """save/protocol.md R7: its name is looked at again before a delete or a conflict rename; it must still be our aside name."""
    rename = partial(checked.client.put, "a", "dir/taken back", CONTENT)
    if job == "renames it while it is read":
        checked.client.after_download = rename
    else:
        rename()
    if job == "deletes it":
        checked.client.items.clear()
        checked.client.contents.clear()
    assert checked.settle(of=of)
    assert checked.world.changes() == []


def test_a_merge_base_follows_its_copy_after_a_kill(checked: Checked, tmp_path: Path) -> None:
    """vfs/semantics.md 4.61: the copy has got its name, and the journal does not have that yet."""
    bases, name = checked.world.state.bases, names.basename(checked.aside.path)
    (tmp_path / "base").write_bytes(OLD)
    bases.commit(name, bases.prepare(name, tmp_path / "base", len(OLD)))
    checked.client.put("a", "dir/file.conflict-20261125T130501Z.txt", CONTENT)
    assert checked.settle()
    assert bases.paths() == [checked.client.paths["a"]]


@pytest.mark.parametrize("of", [SAVED, GIVEN_UP, REMOVED])
def test_no_look_is_made_while_a_request_may_still_take_effect(
    checked: Checked, of: tuple[Verb, Stage]
) -> None:
    """save/protocol.md R7: first wait until `--request-lifetime` has passed, then look, then delete."""
    checked.client.before = {e: [lambda: pytest.fail("asked")] for e in ("get", "find", "update", "delete")}
    assert not checked.settle(of=of, unsure_until=time.monotonic() + 60)
    checked.client.before.clear()
    assert checked.settle(of=of, unsure_until=time.monotonic() - 1)
    assert checked.world.changes()


def test_a_delete_without_an_answer_is_checked_later(checked: Checked) -> None:
    """save/protocol.md R7."""
    checked.client.lose, checked.client.carried_out = 1, False
    with pytest.raises(AnswerLostError):
        checked.settle()
    assert checked.aside.unsure_until > time.monotonic() + 20
    assert checked.settle(unsure_until=0.0)
    assert checked.client.done.count("delete a") == 2


# -- keep both


def test_the_next_free_name_is_used_where_a_name_is_taken(checked: Checked) -> None:
    checked.client.fail("update", *[PathExistsError("exists")] * 52)
    assert not checked.settle(replace(BASE, sha256=sha(OTHER))), "it tries 50, and stays to be looked at"
    checked.client.done.clear()
    assert checked.settle(replace(BASE, sha256=sha(OTHER)))
    assert len(set(checked.client.done[1:])) == 3
    assert checked.kept


def test_a_conflict_copy_is_named_in_the_renamed_directory(world: World) -> None:
    """save/protocol.md R12: a removed directory that has something in it, beside its name in a directory that was renamed."""
    checked = Checked(world, content=None)
    world.client.put("a", there := f"renamed/{names.basename(hidden(TARGET))}", None, updated_at="moved")
    world.client.put("b", f"{there}/x")
    world.client.fail("update", NoDirectoryError("none"))
    assert checked.settle(of=REMOVED)
    assert world.client.paths["a"] == "renamed/file.txt"


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_conflict_rename_without_an_answer_is_checked(checked: Checked, carried_out: bool) -> None:
    checked.client.lose, checked.client.carried_out = 1, carried_out
    assert checked.settle(replace(BASE, sha256=sha(OTHER))) is carried_out
    assert checked.kept is carried_out
    assert carried_out or checked.aside.unsure_until > 0


# -- what is not checked


def test_hidden_items_that_a_record_will_remove_are_no_content(world: World) -> None:
    """save/protocol.md R12: hidden items of this mount that an open record is about to delete or name are no content."""
    checked = Checked(world, content=None)
    inside = f"{hidden(TARGET)}/{hidden('x', tid='f' * 16)}"
    world.client.put("b", inside, b"set aside")
    change = world.state.plan_change(Verb.PUT, f"{TARGET}/x", tid="f" * 16)
    assert not checked.settle(of=REMOVED), "it is waited for"
    assert world.changes() == []
    del world.client.items["b"]
    world.state.end_change(change)
    assert checked.settle(of=REMOVED)
    assert "a" not in world.client.items


def test_a_removed_directory_is_deleted_with_a_removed_one_in_it(world: World) -> None:
    """save/protocol.md R12: the removal of the inner one, too, has seen it empty."""
    checked = Checked(world, content=None)
    inner = world.client.put("b", f"{hidden(TARGET)}/{hidden('sub', names.Role.REMOVED, 'e' * 16)}", None)
    world.state.plan_change(Verb.REMOVE, f"{TARGET}/sub", asides=[Aside("b", inner.path, moved=True)])
    assert checked.settle(of=REMOVED)
    assert world.changes() == ["delete a"]


@pytest.mark.parametrize(("lost", "forgotten"), [(True, False), (False, True)])
def test_a_directory_is_listed_after_it_was_seen_at_its_hidden_name(
    world: World, lost: bool, forgotten: bool
) -> None:
    """save/protocol.md R12: one listing, begun after the moves; it counts as long as what it showed is known."""
    checked = Checked(world, content=None)
    change = Change(1, Verb.REMOVE, TARGET, Stage.PLACED, asides=[replace(checked.aside, moved=not lost)])
    before = time.monotonic()
    world.namespace.forgotten = {"a"} if forgotten else set()
    assert not checked.check.decide_aside(change.asides[0], change, restore=False)
    assert (world.changes(), change.finished_at >= before) == ([], True)
    world.namespace.forgotten.clear()
    assert checked.check.decide_aside(change.asides[0], change, restore=False)
    assert world.changes() == ["delete a"]


@pytest.mark.parametrize(
    ("role", "mount", "why", "content"),
    [
        (names.Role.STAGED, OWN, "a tombstone", False), (names.Role.ASIDE, OWN, "a record", False),
        (names.Role.ASIDE, OWN, "gone", False), (names.Role.ASIDE, OTHERS, "gone", False),
        (names.Role.STAGED, OWN, "", True), (names.Role.ASIDE, OWN, "a tombstone", True),
        (names.Role.ASIDE, OTHERS, "", True),
    ],
)  # fmt: skip
def test_a_hidden_item_is_content_unless_this_mount_is_removing_it(
    world: World, role: names.Role, mount: str, why: str, content: bool
) -> None:
    """save/protocol.md R12: hidden items of others count as content, ours do not; R4."""
    item = world.client.put("b", f"dir/{hidden('x', role, mount=mount)}")
    if why == "a tombstone":
        world.state.write(transaction_id=TID)
    elif why == "a record":
        world.state.plan_change(Verb.PUT, "dir/x", asides=[Aside("b", item.path)])
    elif why == "gone":
        world.namespace.after_listing = world.client.items.clear
    assert world.cleanup.has_lasting_children("dir") is content
    assert world.namespace.updates == (["forget b"] if why == "gone" else [])


def test_an_item_deleted_during_the_look_is_no_content(world: World) -> None:
    """save/protocol.md R12: the looks at the namespace and at the records have no deletion in between."""
    outer = world.client.put("o", "dir", None)
    inner = world.client.put("i", f"dir/{hidden('sub', names.Role.REMOVED, 'e' * 16)}", None)
    record = world.state.plan_change(Verb.REMOVE, "dir/sub", asides=[Aside("i", inner.path, moved=True)])

    def delete() -> None:
        world.client.items.pop("i", None)
        world.state.end_change(record)

    world.namespace.after_listing = delete
    world.items.hide_empty_directory(outer)
    assert world.client.paths["o"] != "dir"


# -- bytes that are needed here


def test_an_open_handle_fetches_its_bytes_before_the_item_is_deleted(checked: Checked) -> None:
    content = checked.world.opened(checked.client.items["a"], UnavailableError("not now"))
    other = checked.world.opened(checked.client.put("b", "b"))
    with pytest.raises(UnavailableError):
        checked.settle()
    assert checked.world.changes() == []
    content.error = None
    assert checked.settle()
    assert (content.fetched, other.fetched) == (1, 0)
