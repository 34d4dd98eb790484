"""What looking costs, and what is answered without a request."""

from __future__ import annotations

import errno
import os

import pytest
from tests.support.files import errno_from

from jobfs.errors import UnavailableError
from jobfs.nodes import Attr

from .world import CALLER, World


def test_a_name_costs_one_find_per_ttl_whether_it_exists_or_not(world: World) -> None:
    """vfs/semantics.md 1.7, 1.8: a listing answers for all names, also for those that it lacks."""
    world.seed({"dir/file": b"1"})

    def look(path: str) -> list[str]:
        errno_from(world.lookup.getattr, path)
        return world.requests()

    assert [look(path) for path in ("dir/file", "dir/none", "dir/file")] == [[], [], []]
    world.expire()
    assert [look("dir/file") for _ in range(2)] == [["find dir/file"], []]
    world.put("dir/none", b"it is there by now")
    assert (errno_from(world.lookup.getattr, "dir/none"), world.requests()[:1]) == (0, ["list"])


@pytest.mark.parametrize(("is_freed_here", "base"), [(True, "id of file"), (False, "")])
def test_a_name_that_this_mount_has_freed_is_not_missing(
    world: World, is_freed_here: bool, base: str
) -> None:
    """vfs/semantics.md 4.62: a file that is made there replaces the one that is about to be removed from the server."""
    item = world.put("file", b"old")
    world.override({"file": None} if is_freed_here else {})
    world.lookup.note_missing("file", CALLER.pid)
    process = world.state.read_log.process_of(CALLER.pid)
    assert world.write_back.context.base_of(item, process=process).id == base


def test_an_unreachable_server_is_no_missing_name(world: World) -> None:
    """vfs/semantics.md 1.12, 1.13, 1.15."""
    world.server.is_away = True
    for look in (world.lookup.getattr, world.lookup.listdir):
        with pytest.raises(UnavailableError):
            look("file")
    world.server.is_away = False
    world.seed({"file": b"known"})
    world.expire()
    world.server.is_away = True
    assert world.lookup.getattr("file").size == 5
    assert errno_from(world.lookup.getattr, "none") == errno.ENOENT, "the last listing does not have it"


def test_a_listing_gives_the_attributes_of_a_stat_without_a_request(world: World) -> None:
    """vfs/semantics.md 2.2, 2.3: also those of files that were changed here."""
    world.seed({"dir/a": b"1", "dir/b": b"22", "dir/sub/x": b"3", "dir/gone": b"4"})
    world.write("dir/b", b"changed")
    world.write("dir/new", b"new")
    world.tree.mkdir("dir/made", 0o700, CALLER)
    world.override({"dir/gone": None})
    world.list_again()
    listed = dict(world.lookup.listdir("dir"))
    assert sorted(listed) == ["a", "b", "made", "new", "sub"]
    assert listed == {name: world.lookup.cached_getattr(f"dir/{name}") for name in listed}
    assert listed == {name: world.lookup.getattr(f"dir/{name}") for name in listed}
    assert errno_from(world.lookup.cached_getattr, "dir/gone") == errno.ENOENT
    assert world.requests() == []
    world.expire()
    assert errno_from(world.lookup.cached_getattr, "dir/a") == errno.ENOENT, "a stat makes a request"
    assert world.requests() == []


def test_entries_are_listed_by_their_inode_numbers(world: World) -> None:
    """vfs/prefetch.py: all programs read the files of a directory in one order, which is fetched ahead."""
    world.seed({f"dir/{number}": b"" for number in range(20)})
    numbers = [attr.ino for _, attr in world.lookup.listdir("dir")]
    assert numbers == sorted(numbers) != [world.lookup.getattr(f"dir/{number}").ino for number in range(20)]


def test_entries_changed_or_opened_since_a_listing_are_computed_again(world: World) -> None:
    """vfs/semantics.md 2: attributes that a listing computes once are shown only while a `stat` would show the same."""
    world.seed({"dir/a": b"1", "dir/b": b"22", "dir/open": b"3", "dir/sub/x": b"4", "dir/gone": b"5"})
    world.write("dir/b", b"changed")
    handle = world.open("dir/open", os.O_RDONLY)
    world.override({"dir/gone": None})
    names = ("a", "b", "open", "sub", "gone", "missing")
    assert [name for name in names if world.lookup.may_repeat_listed_attr(f"dir/{name}")] == ["a", "sub"]
    world.files.release(handle.fh)
    assert world.lookup.may_repeat_listed_attr("dir/open")
    world.namespace.invalidate("dir/a")
    assert not world.lookup.may_repeat_listed_attr("dir/a"), "a lookup would make a request"


def test_a_size_that_must_be_measured_is_not_in_a_listing(world: World) -> None:
    """vfs/semantics.md 2.2: a size that the server omits is measured by a `stat`."""
    world.put("file", b"content")
    world.omit_size("file")
    world.list_again()
    for look in (world.lookup.cached_getattr, world.lookup.last_attr):
        assert errno_from(look, "file") == errno.ENOENT
    assert world.lookup.getattr("file").size == 7
    assert world.lookup.cached_getattr("file").size == world.lookup.last_attr("file").size == 7
    assert not world.lookup.may_repeat_listed_attr("file"), "the listing did not have that size"


def test_an_open_file_keeps_the_attributes_of_its_version(world: World) -> None:
    """vfs/semantics.md 3.13, 7.7: an event makes no request, and no file becomes shorter under its reader."""
    world.seed({"dir/file": b"old content"})
    shown = world.lookup.getattr("dir/file")
    handle = world.open("dir/file", os.O_RDONLY)
    assert world.lookup.handles_on_other_versions("dir/file") == ()
    new = world.put("dir/file", b"new")
    world.list_again()
    assert [each.fh for each in world.lookup.handles_on_other_versions("dir/file")] == [handle.fh]
    assert world.lookup.last_attr("dir/file") == world.lookup.attr_of_item(new, "dir/file") == shown
    assert errno_from(world.lookup.cached_getattr, "dir/file") == errno.ENOENT
    assert [world.lookup.is_open(path) for path in ("dir", "dir/file", "dir/f")] == [True, True, False]
    world.files.release(handle.fh)
    assert world.lookup.last_attr("dir/file").size == world.lookup.cached_getattr("dir/file").size == 3
    assert (world.lookup.is_open("dir"), world.requests()) == (False, [])


def test_foreign_changes_are_reported_unless_a_local_file_hides_them(world: World) -> None:
    """vfs/semantics.md 7.2: not at a path with unsent bytes, nor where a change of ours decides what is shown."""
    world.seed({f"dir/{name}": b"1" for name in ("theirs", "unsent", "overridden")})
    world.lookup.take_differences()
    world.write("dir/unsent", b"ours")
    world.override({"dir/overridden": None})
    for name in ("theirs", "unsent", "overridden"):
        world.put(f"dir/{name}", b"the job's")
    world.list_again()
    assert [found.path for found in world.lookup.take_differences()] == ["dir/theirs"]
    assert world.lookup.take_differences() == []


def test_a_rename_from_or_to_a_local_file_is_reported_at_its_other_end(world: World) -> None:
    """vfs/semantics.md 7.1, 7.3: the name with unsent bytes shows these before and afterwards."""
    world.seed({"from": b"1", "gone": b"2", "both": b"3"})
    for name in ("from", "to", "both", "ends"):
        world.write(name, b"ours")
    for old, new in (("from", "come"), ("gone", "to"), ("both", "ends")):
        world.server.put(f"id of {old}", new, b"renamed")
    world.list_again()
    found = [(each.kind, each.path, each.old, each.item.id) for each in world.lookup.take_differences()]
    assert sorted(found) == [("created", "come", "", "id of from"), ("deleted", "gone", "", "id of gone")]


def test_replies_are_cached_by_edition_only_if_they_are_the_servers(world: World) -> None:
    """vfs/semantics.md 1.6: a write here is visible at once, although the edition of the listing is the same."""
    world.seed({"theirs": b"1", "ours": b"2"})
    edition = world.lookup.edition_if_fresh()
    assert edition == world.lookup.edition_if_fresh() > 0
    world.write("ours", b"changed")
    assert world.lookup.edition_if_fresh() > edition
    known = [world.lookup.changes_only_with_edition(path) for path in ("theirs", "ours", "none")]
    assert known == [True, False, False]
    world.expire()
    assert world.lookup.edition_if_fresh() == 0


def test_statfs_counts_known_sizes_as_used(world: World) -> None:
    """vfs/semantics.md 2.10."""
    world.seed({"one": b"1" * 4097, "two": b"2"})
    facts = world.lookup.statfs()
    assert (facts["f_blocks"] - facts["f_bfree"], facts["f_files"] - facts["f_ffree"]) == (2, 2)
    assert (facts["f_bavail"] > 0, facts["f_namemax"]) == (True, 255)


def test_the_control_directory_is_found_but_not_listed(world: World) -> None:
    """vfs/semantics.md 6.7."""
    world.seed({"file": b""})
    assert [name for name, _ in world.lookup.listdir("")] == ["file"]
    inside = world.lookup.listdir(".jobfs")
    assert sorted(name for name, _ in inside) == ["job.json", "pending", "status.json"]
    assert all(isinstance(attr, Attr) and attr.mode & 0o7777 == 0o400 for _, attr in inside)
    assert world.mode(".jobfs") == 0o500
    assert errno_from(world.lookup.getattr, ".jobfs/none") == errno.ENOENT


def test_requests_for_programs_that_watch_are_counted(world: World) -> None:
    """vfs/semantics.md 7.6: the listing is read each TTL, and not more often."""
    world.seed({})
    world.lookup.refresh_if_stale()
    assert world.report.watching["requests"] == 0
    world.expire()
    world.lookup.refresh_if_stale()
    assert (world.report.watching["requests"], world.requests()) == (1, ["list"])
