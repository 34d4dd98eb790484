"""What a path shows, and what may be done with it: a File, the override of a Change, or the server's item."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

import pytest
from tests.support.files import errno_from
from tests.support.items import hidden

from jobfs.errors import UnavailableError
from jobfs.nodes import Item, Permission
from jobfs.state import File
from jobfs.vfs.view import adjust_write_bits, check_new_name

from .conftest import MakeWorld
from .world import CALLER, STALE, World


def test_a_path_shows_its_file_then_an_override_then_the_servers_item(world: World) -> None:
    """design.md, What a path shows: there is no second structure that must be kept in step."""
    world.seed({"dir/a": b"1", "dir/b": b"2", "dir/c": b"3"})
    view = world.view
    a, b = view.get("dir/a"), view.get("dir/b")
    assert isinstance(a, Item)
    change = world.override({"dir/a": None, "dir/b": a})
    assert errno_from(view.get, "dir/a") == errno.ENOENT
    assert view.get("dir/b") is a
    assert view.list("dir") == {"b": a, "c": view.get("dir/c")}
    file = world.write("dir/a", b"new")
    assert view.get("dir/a") is file
    assert view.list("dir") == {"a": file, "b": a, "c": view.get("dir/c")}
    world.state.end_change(change)
    assert (view.get("dir/a"), view.get("dir/b")) == (file, b)


def test_each_entry_of_a_listing_agrees_with_a_lookup(world: World) -> None:
    """vfs/semantics.md 1.6: whoever lists a directory and whoever looks a name up see the same."""
    world.seed({"dir": None, "dir/item": b"1", "dir/edited": b"2", "dir/gone": b"3", "dir/sub": None})
    world.write("dir/edited", b"new")
    world.write("dir/.new.swp", b"scratch")
    world.tree.mkdir("dir/backup~", 0o700, CALLER)
    world.override({"dir/gone": None})
    listed = world.view.list("dir")
    assert sorted(listed) == [".new.swp", "backup~", "edited", "item", "sub"]
    assert listed == {name: world.view.get(f"dir/{name}") for name in listed}
    assert listed == {name: world.view.find_cached(f"dir/{name}") for name in listed}
    assert world.view.find_cached("dir/gone") is None


def test_a_missing_name_below_a_file_is_enotdir(world: World) -> None:
    world.seed({"file": b"", "dir": None})
    assert errno_from(world.view.get, "dir/none") == errno.ENOENT
    assert errno_from(world.view.get, "none/none") == errno.ENOENT
    assert errno_from(world.view.get, "file/none") == errno.ENOTDIR
    assert errno_from(world.view.list, "file") == errno.ENOTDIR


def test_a_name_in_a_local_directory_needs_no_request(world: World) -> None:
    """vfs/semantics.md 4.16, 4.31: the server has nothing below a scratch directory, nor below one that it lacks."""
    world.seed({})
    world.tree.mkdir("build~", 0o755, CALLER)
    world.server.before["create"] = [world.go_away]
    world.tree.mkdir("made", 0o755, CALLER)
    world.server.is_away = False
    world.expire()
    world.requests()
    assert world.view.find("build~/x") is world.view.find("made/x") is None
    assert world.view.is_local_only("build~/x")
    assert not world.view.is_local_only("made/x")
    assert world.requests() == []


def test_an_unsent_file_stays_reachable_by_path_in_an_outage(world: World) -> None:
    """vfs/semantics.md 1.13, 1.15: a directory with something unsent is listed as it was last; others fail."""
    world.seed({"a/b/old": b"1", "c/old": b"2"})
    file = world.write("a/b/new", b"unsent")
    world.clock.advance(STALE + 1)
    world.server.is_away = True
    assert sorted(world.view.list("a/b")) == ["new", "old"]
    assert world.view.get("a/b/new") is file
    for path in ("a/b/old", "c"):
        with pytest.raises(UnavailableError):
            world.view.get(path)
    with pytest.raises(UnavailableError):
        world.view.list("c")


def test_a_listing_that_has_grown_old_is_not_shown_in_an_outage(world: World) -> None:
    """vfs/semantics.md 1.13, 1.15: nothing unsent is in the directory."""
    world.seed({"old": b"1"})
    world.clock.advance(STALE + 1)
    world.server.is_away = True
    with pytest.raises(UnavailableError):
        world.view.list("")


@pytest.mark.parametrize(("before", "mode"), [(None, 0o750), (0o700, 0o700)])
def test_a_directory_that_only_this_machine_knows_has_all_attributes(
    make_world: MakeWorld, before: int | None, mode: int
) -> None:
    """vfs/semantics.md 1.19, 2.3, 2.7: an implicit directory stays once its last file is unlinked here."""
    world = make_world(umask="027")
    world.seed({"dir/file": b"1"})
    began = time.time_ns()
    world.tree.unlink("dir/file")
    if before is not None:
        world.attributes.chmod("dir", before)
    node, attr = world.view.get("dir"), world.lookup.getattr("dir")
    assert isinstance(node, File)
    assert attr[:6] == (node.ino, stat.S_IFDIR | mode, 1, 1, 2, 0)
    assert all(began <= time_ns <= time.time_ns() for time_ns in attr[6:])


def test_attributes_of_an_item_are_the_servers_minus_the_umask(make_world: MakeWorld) -> None:
    """vfs/semantics.md 2.2, 2.3, 2.5, 2.7."""
    world = make_world(umask="027")
    items = [
        world.put("file", b"12345", updated_ns=7),
        world.put("dir", None, updated_ns=8),
        world.put("fixed", b"", permission=Permission.READ_ONLY),
        world.put("sealed", None, permission=Permission.READ_ONLY),
    ]
    attrs = [world.view.attr_of_node(item) for item in items]
    assert [attr.mode & 0o7777 for attr in attrs] == [0o640, 0o750, 0o440, 0o550]
    assert [(attr.uid, attr.gid) for attr in attrs] == [(1, 2)] * 4
    assert attrs[0][5:] == (5, 7, 7, 7)
    assert attrs[1].mtime_ns == 8
    assert len({attr.ino for attr in attrs}) == 4


def test_the_write_bit_of_a_remembered_mode_follows_the_permission() -> None:
    """vfs/semantics.md 2.4: the other bits stay."""
    fixed, free = Permission.READ_ONLY, Permission.READ_WRITE
    assert adjust_write_bits(0o765, free, free) == 0o765
    assert adjust_write_bits(0o765, free, fixed) == 0o545
    assert adjust_write_bits(0o545, fixed, free) == 0o745
    assert adjust_write_bits(0o565, fixed, fixed) == 0o565, "as `chmod 565` has set it here"


def test_a_read_only_item_can_be_neither_written_nor_replaced(world: World) -> None:
    """vfs/semantics.md 4.38, 4.39: what `chmod u-w` in this mount has made readOnly may be replaced."""
    world.put("theirs", b"", permission=Permission.READ_ONLY)
    world.seed({"ours": b""})
    world.attributes.chmod("ours", 0o555)
    found = {path: world.view.get(path) for path in ("theirs", "ours")}
    for node in found.values():
        assert errno_from(world.view.check_may_write, node) == errno.EACCES
    assert errno_from(world.view.check_may_replace, found["theirs"]) == errno.EPERM
    assert errno_from(world.view.check_may_replace, found["ours"]) == 0


def test_the_control_directory_is_not_changed(world: World) -> None:
    """vfs/semantics.md 6.7."""
    assert errno_from(world.view.check_may_change, "file", ".jobfs/pending") == errno.EPERM


def test_the_limit_of_a_path_counts_the_servers_leading_slash() -> None:
    """api/wire.md: 1,024 units of UTF-16, the leading slash among them where the server's paths have one."""
    directory = "/".join(["d" * 200] * 5) + "/"
    for name in ("n" * 18, "\N{GRINNING FACE}" * 9):
        check_new_name(directory + name)
        assert errno_from(check_new_name, directory + name + "n") == errno.ENAMETOOLONG
    assert errno_from(check_new_name, "n" * 256) == errno.ENAMETOOLONG
    assert errno_from(check_new_name, hidden("x")) == errno.EPERM


def size_after_open(world: World, path: str) -> int:
    return world.files.get_handle(world.open(path, os.O_RDONLY).fh).shown_size()


@pytest.mark.parametrize("size_of", [
    lambda world, path: world.lookup.getattr(path).size, lambda world, path: world.attributes.info(path)["size"], size_after_open,
], ids=["stat", "info", "open"])  # fmt: skip
def test_a_size_that_the_server_omits_comes_from_a_download(
    world: World, size_of: Callable[[World, str], int]
) -> None:
    """vfs/semantics.md 2.2: for a version that is gone by then, that of what the path shows."""
    world.put("file", b"old")
    world.omit_size("file")
    world.list_again()
    world.server.items.clear()
    world.server.contents.clear()
    world.server.put("another", "file", b"content")
    world.clock.advance(0.1)
    assert size_of(world, "file") == 7
    assert world.view.item_without_size(world.view.get("file")) is None
    world.put("other", b"content")
    other = world.omit_size("other")
    world.list_again()
    assert (world.view.item_without_size(other), world.view.attr_of_node(other).size) == (other, 0)
    assert size_of(world, "other") == 7
    assert world.view.item_without_size(other) is None
