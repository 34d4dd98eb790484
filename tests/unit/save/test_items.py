"""Requests on one item, removals: never what the user did not see (vfs/semantics.md 4; save/protocol.md R10, R12)."""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import partial

import pytest
from tests.support.files import errno_from

from jobfs import names
from jobfs.api import deadline
from jobfs.errors import AnswerLostError, BadRequestError, NoDirectoryError, NotFoundError, UnavailableError
from jobfs.nodes import Lifecycle, Permission
from jobfs.state import Change, edit
from jobfs.state.records import Aside, Base, Stage, Verb

from .world import World, hidden, sha


@pytest.mark.parametrize("lose", [0, 1])
def test_an_item_gets_a_free_name_with_one_request(world: World, lose: int) -> None:
    """vfs/semantics.md 4: rename of clean items is synchronous; 5: a lost answer is looked at."""
    item = world.client.put("a", "file")
    world.client.lose = lose
    assert world.items.update_item(item, path="new").path == "new"
    assert world.client.done == ["move new"]
    assert world.namespace.updates == ["publish new from file"]
    elsewhere = [world.context.may_be_late_move("a", path) for path in ("file", "new")]
    assert elsewhere == [bool(lose), False], "a late request may bring it to its old name"


@pytest.mark.parametrize(
    ("endpoint", "wanted", "message"),
    [("update", {"path": "dir/new"}, "nobody there"), ("delete", {}, "file could not be deleted: try again later")],
)  # fmt: skip
def test_a_postponed_request_is_sent_again_before_its_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch, endpoint: str, wanted: dict[str, str], message: str
) -> None:
    """vfs/semantics.md 5: 429 and 503 are tried again; the error is the call's when its time is up."""
    item = world.client.put("a", "file")
    call = partial(getattr(world.items, f"{endpoint}_item"), item, **wanted)
    busy = UnavailableError("busy")
    busy.wait = 5.0
    world.client.fail(endpoint, busy, *[UnavailableError("nobody there")] * 2)
    with deadline.limit_time(5.0), pytest.raises(UnavailableError, match="busy"):
        call()
    with monkeypatch.context() as patch:
        patch.setattr("jobfs.save.items._LOOKS", 1)
        with pytest.raises(UnavailableError, match=f"^{message}$"):
            call()
    assert world.client.paths == {"a": "file"}
    world.client.fail(endpoint, *[NoDirectoryError("no directory")] * len(wanted))
    call()
    assert world.client.paths.get("a") == wanted.get("path")
    assert [path for item_id, path in world.client.paths.items() if item_id != "a"] == ["dir"] * len(wanted)


def test_a_rename_reports_a_target_whose_directory_keeps_vanishing(world: World) -> None:
    """vfs/semantics.md 5: the error says what is in the way."""
    item = world.client.put("a", "file")
    world.client.put("d", "dir", None)
    world.client.fail("update", *[NoDirectoryError("no directory")] * 8)
    with pytest.raises(UnavailableError, match=r"^the directory of dir/new keeps being removed$"):
        world.items.update_item(item, path="dir/new")
    assert world.client.paths["a"] == "file"


def test_a_name_that_the_server_normalises_is_moved_back(world: World) -> None:
    """save/protocol.md R6: this server changes names."""
    item = world.client.put("a", "file")

    def unanswered() -> None:
        world.client.put("a", "NEW")
        raise AnswerLostError("lost")

    world.client.before["update"] = [unanswered]
    with pytest.raises(BadRequestError):
        world.items.update_item(item, path="new")
    assert world.client.paths == {"a": "file"}


def test_remembered_times_carry_over_to_the_version_of_an_own_move(world: World) -> None:
    item = world.client.put("a", "file")
    world.state.write(edit(world.state.get_or_add_file(item), version=item.updated_at, mtime_ns=5))
    world.client.moves_touch = True
    moved = world.items.update_item(item, path="new")
    assert (file := world.state.index.file_of(moved)) is not None
    assert (file.version, file.mtime_ns) == (moved.updated_at, 5)
    for world.client.carried_out, path in ((False, "newer"), (True, "newest")):
        world.client.lose = 1
        again = world.items.update_item(world.client.items["a"], path=path)
        lost = world.client.carried_out  # the job may have written to it before the look (R2)
        assert (file.version != again.updated_at) is lost


def test_permission_and_lifecycle_change_despite_a_lost_answer(world: World) -> None:
    """vfs/semantics.md 2.4; 5: look at the server first."""
    item = world.client.put("a", "file")
    for lose, carried_out in ((0, True), (1, True), (1, False)):
        world.client.lose, world.client.carried_out = lose, carried_out
        for permission in (Permission.READ_ONLY, Permission.READ_WRITE):
            assert world.items.update_item(item, permission=permission).permission is permission
        for lifecycle in (Lifecycle.APPLICATION, Lifecycle.EXPERT_JOB):
            item = world.items.update_item(item, lifecycle=lifecycle)
            assert item.lifecycle is lifecycle
    assert set(world.namespace.updates) == {"publish file"}, "such a change moves nothing"


# -- directories


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("job_made", [b"a file", None], ids=["file", "directory"])
def test_the_item_that_took_a_deleted_items_name_is_checked(
    world: World, lost: bool, job_made: bytes | None
) -> None:
    """vfs/semantics.md 4, unlink: 404 means look again: a file there is unlinked, a directory stays; a lost answer may have been
    carried out, and what is there is the job's."""
    gone = world.client.put("a", "file")
    if not lost:
        del world.client.items["a"]
    world.client.lose = int(lost)
    world.client.before["delete"] = [lambda: world.client.put("b", "file", job_made)]
    world.items.delete_item(gone)
    stays = lost or job_made is None
    assert world.client.paths == ({"b": "file"} if stays else {})
    assert world.client.done == ["delete a"] + ["delete b"] * (not stays)
    assert world.namespace.updates[-1] == ("touch file" if stays else "forget b")


def test_open_handles_fetch_their_bytes_before_a_delete(world: World) -> None:
    """vfs/semantics.md 4: a version is not deleted on the server while an open handle still needs its bytes."""
    item = world.client.put("a", "file")
    content = world.opened(item, UnavailableError("not now"))
    world.opened(item, NotFoundError("its bytes are gone"))
    assert errno_from(world.items.delete_item, item) == errno.EIO
    assert world.client.paths == {"a": "file"}
    content.error = None
    world.client.before["delete"] = [lambda: None if content.fetched else pytest.fail("not fetched")]
    world.items.delete_item(item)


# -- what goes a little later


def unlinked(world: World, base: Base) -> Change:
    return world.state.plan_change(Verb.REMOVE, "file", stage=Stage.STAGED, base=base, shows={"file": None})


def test_the_bytes_of_a_file_are_synced_before_its_item_is_deleted(world: World) -> None:
    """save/protocol.md, Vocabulary, (S): a file that has a scratch name now is on the server or on the disk."""
    item, unsynced = world.client.put("a", "file", b"content"), list[bool]()
    world.closed("file~", b"content")
    world.client.before["delete"] = [lambda: unsynced.append(world.state.bytes.needs_sync)]
    world.client.lose, world.client.carried_out = 1, False
    world.items.run_removal(unlinked(world, Base.from_item(item)))
    assert (unsynced, world.client.items) == ([False], {})


@pytest.mark.parametrize("act", ["write", "rename", "replace", "refuse"])
def test_a_change_of_the_job_after_the_unlink_is_kept(world: World, act: str) -> None:
    """vfs/semantics.md 4, Unlink: the item is looked at: what the job has written since stays, and so does what may not go."""
    item = world.client.put("a", "file", b"content")
    base = Base.from_item(item)
    if act == "rename":
        world.client.items["a"] = replace(item, path="other")
    elif act == "refuse":
        world.client.fail("delete", BadRequestError("no"))
    else:
        del world.client.items["a"]
        world.client.put("a" if act == "write" else "b", "file", b"the job's")
    there = dict(world.client.paths)
    change = unlinked(world, base)
    assert errno_from(world.items.run_removal, change) == (errno.EIO if act == "refuse" else 0)
    assert (world.client.paths, change.stage) == (there, Stage.DONE)


@pytest.mark.usefixtures("stale_looks")
def test_the_jobs_write_between_look_and_delete_is_kept(world: World) -> None:
    """save/protocol.md R8: a delete that was decided by version is for that version only."""
    item = world.client.put("a", "file", b"content")
    world.client.before["turn"] = [lambda: world.client.put("a", "file", b"the job's")]
    world.items.run_removal(unlinked(world, Base.from_item(item)))
    assert (world.client.contents, world.client.done) == ({"a": b"the job's"}, [])


def test_an_own_version_without_an_answer_is_recognised_by_its_bytes(world: World) -> None:
    """save/protocol.md R2."""
    for content, deleted in ((b"ours", True), (b"the job's", False)):
        world.client.put("a", "file", content)
        world.items.run_removal(unlinked(world, Base("a", "", None, sha(b"ours"))))
        assert (world.client.items == {}) is deleted


# -- a directory


@pytest.mark.parametrize("inside", ["dir/file", f"dir/{hidden('x', mount='f' * 12)}"])
def test_a_directory_that_is_not_empty_is_kept(world: World, inside: str) -> None:
    """vfs/semantics.md 4, rmdir: else ENOTEMPTY; save/protocol.md R12: hidden items count as content."""
    item = world.client.put("d", "dir", None)
    world.client.put("x", inside)
    assert errno_from(world.items.hide_empty_directory, item) == errno.ENOTEMPTY
    assert (world.client.done, world.state.changes) == ([], {})


@pytest.mark.parametrize("deep", [False, True])
def test_a_removed_directory_is_recorded_before_it_is_moved(world: World, deep: bool) -> None:
    """save/protocol.md R4: a record names it; R12: beside its name, or at the top if something of ours is hidden in it."""
    item, _beside = world.client.put("d", "a/dir", None), world.client.put("x", "a/dirt")
    world.state.write(edit(world.state.get_or_add_file(item), mode=0o700))
    world.state.plan_change(Verb.PUT, "other", asides=[Aside("o", hidden("other"))])
    if deep:
        world.state.plan_change(Verb.REMOVE, "a/dir/b", asides=[Aside("i", hidden("a/dir/b"))])
    seen: list[Change] = []
    world.client.before["update"] = [lambda: seen.extend(world.rows(Change))]
    world.items.hide_empty_directory(item)
    assert [aside.id for change in seen for aside in change.asides] == ["d"]
    assert (parts := names.parse_hidden_name(names.basename(world.client.paths["d"]))) is not None
    assert (names.parent(world.client.paths["d"]), parts.name) == ("" if deep else "a", "dir")
    assert world.namespace.updates == [f"publish {world.client.paths['d']} from a/dir", "forget d at a/dir"]
    assert world.state.index.file_of(item) is None, "its attributes are forgotten"


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_move_without_an_answer_is_checked(world: World, carried_out: bool) -> None:
    """save/protocol.md R7: and an item that is still unsure is not deleted before its time."""
    world.client.lose, world.client.carried_out = 1, carried_out
    world.items.hide_empty_directory(world.client.put("d", "dir", None))
    (change,) = world.state.changes.values()
    assert world.client.paths == {"d": change.asides[0].path}
    assert len(world.client.done) == (1 if carried_out else 2)
    assert change.asides[0].unsure_until > 0


def test_cleanup_checks_a_directory_that_may_have_been_moved(world: World) -> None:
    item = world.client.put("d", "dir", None)
    world.client.fail("update", BadRequestError("no"))
    with pytest.raises(BadRequestError):
        world.items.hide_empty_directory(item)
    assert world.state.changes == {}, "it was not moved"
    world.client.lose, world.client.carried_out = 100, False
    assert errno_from(world.items.hide_empty_directory, item) == errno.EIO
    (change,) = world.state.changes.values()
    assert (change.stage, len(change.asides)) == (Stage.PLACED, 1)
    assert world.namespace.updates == ["touch dir"] * 2
