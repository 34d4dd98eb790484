"""Changes of names: what is refused before any request, what is done on the server, and what stays on this machine."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Any

import pytest
from tests.support.files import errno_from
from tests.support.items import hidden
from tests.unit.save.world import sha
from tests.unit.state.conftest import again, full_disk

from jobfs.nodes import Kind, Permission, Version
from jobfs.state.copies import SAVES, read_copy
from jobfs.vfs.handles import Caller

from .conftest import MakeWorld
from .world import CALLER, World

HIDDEN = hidden("x")

REFUSED = [
    ("mkdir", ("dir",), errno.EEXIST),
    ("mkdir", (".jobfs",), errno.EPERM),
    ("mkdir", ("none/new",), errno.ENOENT),
    ("mkdir", ("file/new",), errno.ENOTDIR),
    ("mkdir", ("sealed/new",), errno.EACCES),
    ("mkdir", ("n" * 256,), errno.ENAMETOOLONG),
    ("mkdir", (HIDDEN,), errno.EPERM),
    ("rmdir", ("",), errno.EBUSY),
    ("rmdir", ("file",), errno.ENOTDIR),
    ("rmdir", ("none",), errno.ENOENT),
    ("rmdir", ("implicit",), errno.ENOTEMPTY),
    ("rmdir", ("edited",), errno.ENOTEMPTY),
    ("rmdir", ("sealed",), errno.EPERM),
    ("unlink", ("dir",), errno.EISDIR),
    ("unlink", ("none",), errno.ENOENT),
    ("unlink", ("fixed",), errno.EPERM),
    ("unlink", ("sealed/file",), errno.EACCES),
    ("unlink", (".jobfs/pending",), errno.EPERM),
    ("rename", ("none", "new"), errno.ENOENT),
    ("rename", ("file", "none/new"), errno.ENOENT),
    ("rename", ("file", HIDDEN), errno.EPERM),
    ("rename", ("file", ".jobfs/new"), errno.EPERM),
    ("rename", ("file", "sealed/new"), errno.EACCES),
    ("rename", ("sealed/file", "new"), errno.EACCES),
    ("rename", ("fixed", "new"), errno.EPERM),
    ("rename", ("file", "fixed"), errno.EPERM),
    ("rename", ("file", "dir"), errno.EISDIR),
    ("rename", ("dir", "file"), errno.ENOTDIR),
    ("rename", ("dir", "dir/below"), errno.EINVAL),
    ("rename", ("dir", "implicit"), errno.ENOTEMPTY),
    ("rename", ("dir", "dir~"), errno.EXDEV),
    ("symlink", ("file",), errno.EEXIST),
    ("symlink", ("link",), errno.EPERM),
    ("readlink", ("file",), errno.EINVAL),
]


def call(world: World, operation: str, *paths: str) -> Any:
    """Call an operation with what it needs besides paths."""
    more = {"mkdir": (0o755, CALLER), "symlink": ("target", CALLER)}.get(operation, ())
    return getattr(world.tree, operation)(*paths, *more)


def settle(world: World, path: str) -> None:
    """Wait until the save of a file has ended, and what it set aside is deleted or has a visible name."""
    world.drain_file(path)
    for change in list(world.state.changes.values()):
        world.write_back.cleanup.clean_up(change)
    world.list_again()


def test_refused_operations_make_no_request(world: World) -> None:
    """vfs/semantics.md 4.28, 4.29, 4.38, 2.12: with the errnos of a local disk, or of the table in section 8."""
    world.put("sealed", None, permission=Permission.READ_ONLY)
    world.put("fixed", b"", permission=Permission.READ_ONLY)
    world.seed({"file": b"", "dir": None, "edited": None, "implicit/file": b"", "sealed/file": b""})
    world.write("edited/new", b"unsent")
    before = world.view.list("")
    found = [
        (operation, paths, errno_from(call, world, operation, *paths)) for operation, paths, _ in REFUSED
    ]
    assert found == REFUSED
    assert (world.requests(), world.view.list("")) == ([], before)


@pytest.mark.parametrize("attributes", [(0o2750, 1, 2), (0o755, 3, 2), (0o755, 1, 3)])
def test_mkdir_remembers_mode_bits_and_owners_that_the_api_lacks(
    world: World, attributes: tuple[int, int, int]
) -> None:
    """vfs/semantics.md 2.11, 4.31: the directory is on the server before the call returns."""
    world.seed({})
    mode, uid, gid = attributes
    began = time.time_ns()
    world.tree.mkdir("made", mode, Caller(uid, gid, CALLER.pid))
    assert "made" in world.server.paths.values()
    attr = world.lookup.getattr("made")
    assert (attr.mode & 0o7777, attr.uid, attr.gid) == attributes
    assert attr.atime_ns == attr.mtime_ns == attr.ctime_ns > began, "the clock of this machine"
    assert errno_from(call, world, "mkdir", "made") == errno.EEXIST


def test_mkdir_in_an_outage_is_kept_with_what_is_created_in_it(world: World) -> None:
    """vfs/semantics.md 4.31: the server makes both later."""
    world.seed({})
    world.server.before["create"] = [world.go_away]
    world.tree.mkdir("made", 0o750, CALLER)
    attr = world.lookup.getattr("made")
    assert (attr.mode & 0o7777, attr.uid, attr.gid) == (0o750, CALLER.uid, CALLER.gid)
    world.server.is_away = False
    world.tree.mkdir("made/below", 0o755, CALLER)
    assert [name for name, _ in world.lookup.listdir("made")] == ["below"]
    assert world.server.items == {}
    assert [entry["path"] for entry in world.report.list_unsent()] == ["made", "made/below"]


def test_a_directory_made_in_an_outage_is_on_the_server_before_its_rename(world: World) -> None:
    """vfs/semantics.md 4.31, 4.34."""
    world.seed({})
    world.server.before["create"] = [world.go_away]
    world.tree.mkdir("made", 0o755, CALLER)
    world.server.is_away = False
    world.tree.rename("made", "new")
    assert [*world.server.paths.values()] == ["new"]
    assert "find made" not in world.requests(), "this mount has just made it"


def test_rmdir_and_unlink_rely_on_answers_of_the_last_second(world: World) -> None:
    """vfs/semantics.md 4.29, 4.32: what the job has made since then is not deleted."""
    world.seed({"dir": None, "dir/file": b"1", "implicit/file": b"1", "file": b"2"})
    for directory, result in (("dir", 0), ("implicit", errno.ENOENT)):
        world.clock.advance(2.0)
        del world.server.items[f"id of {directory}/file"]
        assert errno_from(world.tree.rmdir, directory) == result
        assert world.requests()[0] == "list"
    world.clock.advance(2.0)
    del world.server.items["id of file"]
    new = world.server.put("another", "file", b"the job's")
    world.tree.unlink("file")
    assert (world.requests()[0], new.id in world.server.items) == ("find file", False)
    assert world.view.list("") == {}


def test_a_rename_of_an_item_is_one_move_and_keeps_its_inode(world: World) -> None:
    """vfs/semantics.md 1.22, 4.27: programs that have it open find it at its new name. The directory it leaves stays (1.19)."""
    world.seed({"old/file": b"1", "dir": None})
    handle, ino, began = world.open("old/file"), world.lookup.getattr("old/file").ino, time.time_ns()
    world.tree.rename("old/file", "dir/new")
    assert world.requests()[-1] == "move dir/new"
    attr = world.lookup.getattr("dir/new")
    assert (world.view.find("old/file"), attr.ino, attr.ctime_ns >= began) == (None, ino, True)
    assert world.lookup.listdir("old") == []
    world.files.write(handle.fh, b"2", 0)
    assert [entry["path"] for entry in world.report.list_unsent()] == ["dir/new"]


def test_an_implicit_directory_that_the_job_has_made_since_is_renamed(world: World) -> None:
    """vfs/semantics.md 1.19, 4.28: the listing does not have its item yet."""
    world.seed({"dir/file": b"1"})
    world.write_back.context.server.learn(moves_carry=True)
    world.put("dir", None)
    world.clock.advance(1)
    world.tree.rename("dir", "new")
    assert world.server.items["id of dir"].path == "new"


def test_a_failed_unlink_leaves_a_save_that_has_sent_nothing(world: World) -> None:
    """vfs/semantics.md 4.10, 4.31: its first run has found the disk full, and now the server can't be asked."""
    world.seed({"file": b"old"})
    world.write("file", b"new")
    (change,) = world.state.changes.values()
    change.started, world.server.is_away = True, True
    assert errno_from(world.tree.unlink, "file") == errno.EIO
    assert [(change.target, change.due > 0) for change in world.state.changes.values()] == [("file", True)]
    world.server.is_away = False
    world.drain_file("file")
    assert b"new" in world.server.contents.values()


@pytest.mark.parametrize("way", [("unlink", "file"), ("rename", "new", "file")])
def test_an_open_file_keeps_its_attributes_without_its_name(world: World, way: tuple[str, ...]) -> None:
    """vfs/semantics.md 2.6, 4.33: those of the version that it shows, not what is remembered of an earlier one."""
    world.seed({"file": b"x", "new": b"another"})
    world.attributes.utimens("file", 5, 7)
    world.put("file", b"the job's", updated_ns=77)
    world.list_again()
    handle = world.files.get_handle(world.open("file", os.O_RDONLY).fh)
    before = handle.attr()
    call(world, *way)
    after = handle.attr()
    assert after == before._replace(nlink=0, ctime_ns=after.ctime_ns)


def test_a_renamed_directory_takes_no_unfinished_removal_along(world: World) -> None:
    """vfs/semantics.md 4.28, 4.35: an editor has just made its backup in it; and nothing is left of its old name."""
    world.seed({"dir/file": b"1", "dir/other": b"2"})
    world.write_back.context.server.learn(moves_carry=True)
    world.tree.rename("dir/file", "dir/file~")
    world.requests()
    world.tree.rename("dir", "new")
    found = [request for request in world.requests() if not request.startswith(("find", "get", "list"))]
    assert (found[0], found[-1]) == ("delete id of dir/file", "move new")
    assert sorted(world.view.list("new")) == ["file~", "other"]
    assert not [file for file in world.state.index.all_files() if file.path == "dir"]


def test_bytes_that_are_written_during_a_rename_get_the_new_name(world: World) -> None:
    """vfs/semantics.md 4.27, 4.3: the rename waits for the save of what was written before; a kill loses neither."""
    world.seed({"file": b"old"})
    handle = world.open("file")
    world.files.write(handle.fh, b"one", 0)

    def write_again() -> None:
        world.files.write(handle.fh, b"two", 0)

    world.server.before["create"] = [write_again]
    world.tree.rename("file", "new")
    file = world.files.get_handle(handle.fh).file
    assert (file.path, world.state.index.file_at("new"), world.view.find("file")) == ("new", file, None)
    assert [(each.path, each.open_generation > 0) for each in again(world.state).index.all_files()] == [
        ("new", True)
    ]


def test_a_file_that_a_rename_replaces_lives_on_in_its_handles(world: World) -> None:
    """vfs/semantics.md 4.27, 4.33: `fstat` shows no name for it."""
    world.seed({"old": b"old bytes", "new": b"new"})
    replaced = world.open("old")
    world.tree.rename("new", "old")
    handle = world.files.get_handle(replaced.fh)
    assert (handle.attr().nlink, handle.read(100, 0)) == (0, b"old bytes")
    assert (world.lookup.getattr("old").size, list(world.view.list(""))) == (3, ["old"])


def test_a_rename_forgets_the_attributes_of_the_file_that_it_replaces(world: World) -> None:
    """vfs/semantics.md 2.11."""
    world.seed({"old": b"old bytes", "new": b"new"})
    world.attributes.chmod("old", 0o750)
    world.tree.rename("new", "old")
    assert world.mode("old") == 0o644
    assert world.state.index.file_by_item_id("id of old") is None


def test_a_rename_to_a_scratch_name_needs_room_on_the_disk(world: World) -> None:
    """vfs/semantics.md 4.34, 4.41: its bytes become local; nothing has changed if they can't."""
    world.seed({"file": b"1"})
    with full_disk(world.state):
        assert errno_from(world.tree.rename, "file", "file~") == errno.ENOSPC
    assert (list(world.view.list("")), world.lookup.getattr("file").size) == (["file"], 1)


def test_a_rename_over_an_unsent_file_replaces_its_bytes(world: World) -> None:
    """vfs/semantics.md 4.6, 4.27: neither file was sent, so no request is made; an open handle keeps the old bytes."""
    world.seed({})
    world.write("old", b"old bytes")
    replaced = world.open("old")
    world.write("new", b"new")
    world.tree.rename("new", "old")
    assert [(entry["path"], entry["size"]) for entry in world.report.list_unsent()] == [("old", 3)]
    assert world.files.get_handle(replaced.fh).read(100, 0) == b"old bytes"
    assert world.files.get_handle(replaced.fh).attr().nlink == 0
    assert world.requests() == []


def test_a_save_beside_a_backup_has_a_delay_of_its_own(world: World) -> None:
    """vfs/semantics.md 4.6: unlike a file that is rewritten, or that a rename replaces."""
    world.seed({})

    def due() -> float:
        (change,) = (change for change in world.state.changes.values() if change.target == "file")
        return change.due

    world.write("file", b"1")
    first = due()
    world.write("file", b"2")
    world.write("new", b"3")
    world.tree.rename("new", "file")
    assert due() == first > 0
    world.tree.rename("file", "file~")
    world.write("file", b"4")
    assert due() > first


def test_a_scratch_file_makes_no_request_until_it_has_a_real_name(world: World) -> None:
    """vfs/semantics.md 4.14, 4.34: also where the server's item is renamed to it, if its bytes are here."""
    world.seed({"file": b"1"})
    world.write(".file.swp", b"swap")
    world.tree.rename(".file.swp", ".file.swo")
    world.tree.symlink(".#file", "user@host", CALLER)
    assert world.tree.readlink(".#file") == "user@host"
    world.tree.unlink(".#file")
    assert world.requests() == []
    world.tree.rename("file", "file~")
    assert world.requests() == ["download id of file"]
    assert sorted(world.view.list("")) == [".file.swo", "file~"]
    world.tree.rename(".file.swo", "file")
    assert [entry["path"] for entry in world.report.list_unsent()] == ["file"]


def test_a_link_that_a_full_disk_does_not_rename_replaces_nothing(world: World) -> None:
    """vfs/semantics.md 4.41: the item at its new name is the job's, and stays."""
    world.seed({".#job": b"1"})
    world.tree.symlink(".#file", "user@host", CALLER)
    with full_disk(world.state):
        assert errno_from(world.tree.rename, ".#file", ".#job") == errno.ENOSPC
    assert world.requests() == []
    world.tree.rename(".#file", ".#job")
    assert (list(world.view.list("")), world.server.items) == ([".#job"], {})


def test_a_rename_to_a_scratch_name_fetches_the_newest_version(world: World) -> None:
    """vfs/semantics.md 4.34, 5: the known version is gone."""
    world.seed({"file": b"1"})
    del world.server.items["id of file"], world.server.contents["id of file"]
    world.server.put("another", "file", b"the job's", updated_ns=77)
    world.clock.advance(1)
    world.tree.rename("file", "file~")
    attr = world.lookup.getattr("file~")
    assert (list(world.view.list("")), attr.size, attr.mtime_ns) == (["file~"], 9, 77)


def test_a_rename_that_fails_leaves_no_name_in_doubt(world: World) -> None:
    """vfs/semantics.md 4, Rename: if its answer is lost, and the server can't be asked, both names are looked up again."""
    world.seed({"file": b"1"})

    def lose_answer() -> None:
        world.server.lose, world.server.is_away = 1, True

    world.server.before["update"] = [lose_answer]
    assert errno_from(world.tree.rename, "file", "new") == errno.EIO
    world.server.is_away = False
    assert (errno_from(world.view.get, "file"), world.lookup.getattr("new").size) == (errno.ENOENT, 1)
    assert list(world.view.list("")) == ["new"]


def test_a_backup_has_the_attributes_of_its_file(world: World) -> None:
    """vfs/semantics.md 2.11, 4.34: those of the server's item, too."""
    world.put("file", b"x", updated_ns=77)
    world.list_again()
    world.attributes.chmod("file", 0o600)
    before = world.lookup.getattr("file")
    world.tree.rename("file", "file~")
    after = world.lookup.getattr("file~")
    assert after == before._replace(ctime_ns=after.ctime_ns)


@pytest.mark.parametrize("renamed", ["unsent", "scratch~"])
def test_a_replaced_scratch_file_lives_on_in_its_handles(world: World, renamed: str) -> None:
    """vfs/semantics.md 4.33, 4.34, 6.15: `fstat` shows no name for it; then its bytes go."""
    world.seed({})
    world.write("file~", b"old bytes")
    handle = world.files.get_handle(world.open("file~").fh)
    world.write(renamed, b"new")
    world.tree.rename(renamed, "file~")
    assert (handle.attr().nlink, handle.read(100, 0)) == (0, b"old bytes")
    assert (list(world.view.list("")), world.lookup.getattr("file~").size) == (["file~"], 3)
    assert (world.requests(), world.state.changes) == ([], {}), "the server had neither"
    world.files.release(handle.fh)
    world.write("other~", b"newer")
    world.tree.rename("other~", "file~")
    local_bytes = world.state.bytes
    kept = {*local_bytes.directory.iterdir()} - {*local_bytes.retired}
    assert [path.read_bytes() for path in kept] == [b"newer"]


def test_kept_saves_move_with_a_renamed_directory(world: World) -> None:
    """vfs/semantics.md 4.53."""
    world.seed({"dir": None})
    world.write_back.context.server.learn(moves_carry=True)
    world.write("dir/file", b"saved", fsync=True)
    world.tree.rename("dir", "new")
    kept = [read_copy(world.slot.path / SAVES, path) for path in ("dir/file", "new/file")]
    assert kept == [None, b"saved"]


def test_a_scratch_directory_is_on_this_machine_only(world: World) -> None:
    """vfs/semantics.md 4.14: with everything that is made in it."""
    world.seed({"item": b"x"})
    world.tree.mkdir("dir~", 0o700, CALLER)
    attr = world.lookup.getattr("dir~")
    assert (attr.mode, attr.uid, attr.gid) == (stat.S_IFDIR | 0o700, CALLER.uid, CALLER.gid)
    assert attr.ctime_ns == attr.mtime_ns == attr.atime_ns > 0
    world.write("dir~/file", b"scratch")
    assert errno_from(world.tree.rename, "item", "dir~/item") == errno.EXDEV, "`mv` copies"
    assert [name for name, _ in world.lookup.listdir("dir~")] == ["file"]
    assert (world.requests(), world.report.list_unsent()) == ([], [])


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_rename_over_a_version_that_its_program_has_not_read_keeps_it(world: World, is_sent: bool) -> None:
    """vfs/semantics.md 4.20, 4.42: the program has read an older version, whether the renamed file was sent or not."""
    world.seed({"file": b"read"})
    handle = world.open("file", os.O_RDONLY, pid=CALLER.pid)
    world.files.release(handle.fh)
    world.put("file", b"the job's")
    world.list_again()
    world.write("new", b"ours", fsync=is_sent)
    world.tree.rename("new", "file", CALLER.pid)
    settle(world, "file")
    copy, mine = sorted(world.view.list(""), key=len, reverse=True)
    assert (mine, copy.startswith("file.conflict-"), world.lookup.getattr(copy).size) == ("file", True, 9)


def test_a_program_may_replace_what_it_has_renamed_without_reading_it(world: World) -> None:
    """vfs/semantics.md 4.42: it knows what it has put there, so no second version is kept."""
    world.seed({"old": b"1"})
    world.tree.rename("old", "file", CALLER.pid)
    handle = world.open("file", os.O_WRONLY | os.O_TRUNC, pid=CALLER.pid)
    world.files.write(handle.fh, b"2", 0)
    world.files.release(handle.fh)
    settle(world, "file")
    assert list(world.view.list("")) == ["file"]


def test_a_symbolic_link_is_a_local_file(make_world: MakeWorld) -> None:
    """vfs/semantics.md 2.12: with --local-symlinks it may have any name, and replaces what is there, for later mounts too."""
    world = make_world(local_symlinks=True)
    world.seed({"item": b"x", "edited": b"x"})
    world.write("edited", b"y")
    world.write("unsent", b"y")
    world.write("scratch~", b"z")
    names = ("item", "edited", "unsent", "scratch~")
    for name in names:
        world.tree.symlink("link", name, CALLER)
        world.tree.rename("link", name)
        assert (world.tree.readlink(name), world.lookup.getattr(name).mode) == (name, 0o120777)
    assert (world.server.items, world.report.list_unsent()) == ({}, [])
    vfs = make_world(after=world, local_symlinks=True).vfs
    vfs.start()
    assert sorted(vfs.readlink(name) for name, _ in vfs.listdir("")) == sorted(names)


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_file_replaces_a_symbolic_link_for_later_mounts_too(make_world: MakeWorld, is_sent: bool) -> None:
    """vfs/semantics.md 2.12, 4.27."""
    world = make_world(local_symlinks=True)
    world.seed({})
    world.tree.symlink("link", "target", CALLER)
    world.write("file", b"1", fsync=is_sent)
    world.tree.rename("file", "link")
    vfs = make_world(after=world, local_symlinks=True).vfs
    vfs.start()
    assert [(name, stat.S_ISREG(attr.mode)) for name, attr in vfs.listdir("")] == [("link", True)]


def test_a_file_is_removed_only_if_it_is_the_compared_version(world: World) -> None:
    """vfs/semantics.md 4.57: a copy is deleted that still is the version that was read, by its bytes too."""
    world.seed({"copy": b"read", "kept": b"unsent"})
    item, digest = world.server.items["id of copy"], sha(b"read")
    remove, before = world.tree.unlink_if_version, world.lookup.getattr("")
    assert not remove("copy", Version(item.id, "another version", 4), digest)
    assert not remove("copy", item.version, sha(b"else"))
    world.write("kept", b"edited")
    assert not remove("kept", world.server.items["id of kept"].version, sha(b"unsent"))
    assert (len(world.server.items), world.lookup.getattr("")) == (2, before), "no name has gone (2.18)"
    world.open("copy", os.O_RDONLY)
    assert remove("copy", item.version, digest)
    assert world.lookup.getattr("").mtime_ns > before.mtime_ns
    assert [item.path for item in world.server.items.values() if item.kind is Kind.FILE] == ["kept"]
    assert world.pages.handles_at("copy") == (), "a file that is made there is another one for the kernel"
    world.write("kept", b"edited", fsync=True)
    (item,) = (each for each in world.server.items.values() if each.path == "kept")
    assert remove("kept", item.version, sha(b"edited"))
    assert read_copy(world.slot.path / SAVES, "kept") is None
