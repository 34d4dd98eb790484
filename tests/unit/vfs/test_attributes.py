"""Attributes: what goes to the server, what this machine remembers, and for how long."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from tests.support.files import errno_from
from tests.unit.state.conftest import full_disk

from jobfs.nodes import Permission

from .conftest import MakeWorld
from .world import CALLER, World


def test_only_the_owners_write_bit_is_sent_to_the_server(world: World) -> None:
    """vfs/semantics.md 2.4: the other bits are remembered on this machine."""
    world.seed({"file": b"x"})
    world.attributes.chmod("file", 0o755)
    assert (world.mode("file"), world.requests()) == (0o755, [])
    world.attributes.chmod("file", 0o555)
    assert (world.mode("file"), world.requests()[-1:]) == (0o555, ["move None"])
    assert world.server.items["id of file"].permission is Permission.READ_ONLY
    world.attributes.chmod("file", 0o500)
    assert (world.mode("file"), world.requests()) == (0o500, [])


def test_the_mode_of_an_unsent_file_is_sent_with_its_bytes(world: World) -> None:
    """vfs/semantics.md 2.4: no request is made for a file that the server does not have."""
    world.seed({})
    world.write("file", b"x")
    world.attributes.chmod("file", 0o426)
    assert (world.mode("file"), world.requests()) == (0o426, [])
    world.drain_file("file")
    (item,) = world.server.items.values()
    assert (world.mode("file"), item.permission) == (0o426, Permission.READ_ONLY)
    assert errno_from(world.open, "file", os.O_RDWR) == errno.EACCES


def test_a_file_that_was_never_closed_has_the_attributes_that_were_set(world: World) -> None:
    """vfs/semantics.md 2.4, 2.6, 2.8: nor is it on the server; mode 0 is a mode."""
    world.seed({})
    handle = world.files.create("new", 0o644, os.O_RDWR, CALLER)
    assert [world.attributes.info("new")[name] for name in ("state", "error")] == ["dirty", ""]
    world.attributes.chmod("new", 0)
    world.attributes.chown("new", 77, 88)
    world.attributes.utimens("new", 5, 7)
    attr = world.lookup.getattr("new")
    assert (attr.mode, attr.uid, attr.gid, attr.atime_ns, attr.mtime_ns) == (stat.S_IFREG, 77, 88, 5, 7)
    assert world.files.get_handle(handle.fh).attr() == attr
    assert world.requests() == []


def test_attributes_are_not_set_on_a_full_disk(world: World) -> None:
    """vfs/semantics.md 4.41: the reserved space is for what has happened on the server."""
    world.seed({"file": b"x", "sealed": b"x"})
    with full_disk(world.state):
        assert errno_from(world.attributes.chmod, "file", 0o755) == errno.ENOSPC
        world.attributes.chmod("sealed", 0o400)
        world.tree.mkdir("made", 0o700, CALLER)
    assert [world.mode(path) for path in ("file", "sealed", "made")] == [0o644, 0o400, 0o700]


@pytest.mark.parametrize("by", ["chmod", "jobfs set"])
def test_a_new_permission_keeps_the_times_that_were_set(make_world: MakeWorld, by: str) -> None:
    """vfs/semantics.md 2.6, 2.11, 2.17: also where it gives the item another `updatedAt`, and after a remount."""
    world = make_world()
    world.seed({"file": b"x"})
    world.server.moves_touch = True
    world.attributes.utimens("file", 5, 7)
    before = world.server.items["id of file"].updated_at
    if by == "chmod":
        world.attributes.chmod("file", 0o444)
    else:
        world.attributes.upload_then_set_attributes("file", {"permission": "readOnly"})
    assert world.server.items["id of file"].updated_at != before
    shown = [world.lookup.getattr("file")]
    vfs = make_world(after=world).vfs
    vfs.start()
    shown.append(vfs.getattr("file"))
    assert [(attr.mode & 0o777, attr.atime_ns, attr.mtime_ns) for attr in shown] == [(0o444, 5, 7)] * 2


def test_a_mode_belongs_to_the_item_and_times_to_its_version(world: World) -> None:
    """vfs/semantics.md 2.6, 2.8, 2.11."""
    world.seed({"file": b"x"})
    world.attributes.chmod("file", 0o750)
    world.attributes.chown("file", 77, 88)
    world.attributes.utimens("file", 5, None)
    world.attributes.utimens("file", None, 7)
    attr = world.lookup.getattr("file")
    assert (attr.mode & 0o777, attr.uid, attr.gid, attr.atime_ns, attr.mtime_ns) == (0o750, 77, 88, 5, 7)
    assert world.requests() == []
    world.put("file", b"the job's", updated_ns=9)
    world.list_again()
    attr = world.lookup.getattr("file")
    assert (attr.mode & 0o777, attr.uid, attr.gid, attr.atime_ns, attr.mtime_ns) == (0o750, 77, 88, 9, 9)
    world.server.items.clear()
    world.server.put("another", "file", b"another file", updated_ns=9)
    world.list_again()
    attr = world.lookup.getattr("file")
    assert (attr.mode & 0o777, attr.uid, attr.gid) == (0o644, 1, 2)


def test_chown_with_minus_one_leaves_owner_or_group(world: World) -> None:
    """vfs/semantics.md 2.8: chown(2) has it so; libfuse passes it on unsigned."""
    world.seed({"file": b"x"})
    owners = []
    for uid, gid in ((5, 0xFFFFFFFF), (-1, 6), (0xFFFFFFFF, -1), (0, 0)):
        world.attributes.chown("file", uid, gid)
        attr = world.lookup.getattr("file")
        owners.append((attr.uid, attr.gid))
    assert owners == [(5, 2), (5, 6), (5, 6), (0, 0)], "0 is root"


def test_an_implicit_directory_is_made_before_its_mode_is_remembered(world: World) -> None:
    """vfs/semantics.md 1.19: an operation that needs an item makes it; the root has none."""
    world.seed({"dir/file": b"x", "theirs/file": b"x"})
    world.put("theirs", None)  # the job has made it since
    world.clock.advance(1)
    for path in ("dir", "theirs"):
        world.attributes.chmod(path, 0o700)
        (item,) = (item for item in world.server.items.values() if item.path == path)
        assert (world.mode(path), world.state.index.file_by_item_id(item.id) is None) == (0o700, False)
    assert errno_from(world.attributes.chmod, "", 0o700) == errno.EPERM
    assert errno_from(world.attributes.chmod, "none", 0o700) == errno.ENOENT


def test_info_shows_the_progress_of_a_save(world: World) -> None:
    """vfs/semantics.md 2.9."""
    second = "file.conflict-20260101T000000Z"
    world.seed({"file": b"x", second: b"the job's"})
    info = world.attributes.info
    assert [(info(path)["state"], info(path)["error"]) for path in ("file", second)] == [
        ("clean", ""),
        ("conflict", ""),
    ]
    expected = ["type", "id", "owner", "permission", "mime_type", "key", "created_at", "updated_at"]
    assert info("file").keys() >= {*expected}
    file = world.write("file", b"changed")
    assert (info("file")["state"], info("file")["size"], info("file")["error"]) == ("dirty", 7, "")
    assert file.change is not None
    world.state.apply_in_memory(file, refused="too large")
    assert (info("file")["state"], info("file")["error"]) == ("failed", "too large")
    world.state.apply_in_memory(file, refused="")
    during: list[str] = []
    world.server.before["create"] = [lambda: during.append(info("file")["state"])]
    world.drain_file("file")
    assert (during, info("file")["state"], info("file")["lifecycle"]) == (["uploading"], "clean", "expertJob")
    world.write("file~", b"scratch")
    assert (info("file~")["state"], info("file~")["error"], "id" in info("file~")) == ("local", "", False)


def test_set_waits_for_the_bytes_and_changes_server_attributes(world: World) -> None:
    """vfs/semantics.md 2.17: a file of this machine only has neither lifecycle nor permission."""
    world.seed({"file": b"x"})
    world.write("file", b"unsent")
    world.attributes.upload_then_set_attributes("file", {"lifecycle": "application", "permission": None})
    (item,) = (item for item in world.server.items.values() if item.path == "file")
    assert (item.lifecycle, item.permission, item.size) == ("application", "readWrite", 6)
    world.write("file~", b"scratch")
    assert errno_from(world.attributes.upload_then_set_attributes, "file~", {}) == errno.EOPNOTSUPP
