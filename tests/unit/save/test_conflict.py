"""The conflict check: what becomes of an item that was set aside (save/protocol.md R1, R3, R7)."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest

from jobfs import names
from jobfs.errors import NoDirectoryError, PathExistsError, UnavailableError
from jobfs.state import Change
from jobfs.state.records import Aside, Base, Stage, Verb

from .world import TID, World, hidden, sha

CONTENT, OTHER = b"the old content", b"the new content"
TARGET, OWN, OTHERS = "dir/file.txt", "0123456789ab", "f" * 12
#: The base as it was opened; the move has changed its `updatedAt`.
SAVED, GIVEN_UP, REMOVED = (Verb.PUT, Stage.PLACED), (Verb.MOVE, Stage.CANCELLED), (Verb.REMOVE, Stage.PLACED)
BASE = Base("a", "before", len(CONTENT), sha(CONTENT))


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


@pytest.mark.parametrize("content", [CONTENT, OTHER])
def test_an_item_changed_while_its_bytes_are_read_is_read_again(checked: Checked, content: bytes) -> None:
    """save/protocol.md R1: to read bytes safely: download, then get. Never guess."""
    checked.client.after_download = lambda: checked.client.put("a", hidden(TARGET), content)
    assert not checked.settle()
    checked.client.after_download = lambda: None
    assert checked.settle()
    assert checked.client.done.count("download a") == 2
    assert checked.kept is (content is OTHER)


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
    assert not checked.settle()
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
