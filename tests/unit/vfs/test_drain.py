"""What `jobfs flush` and an unmount send, what they wait for, and what they name when their time is over."""

from __future__ import annotations

import errno
import os

import pytest
from tests.support.files import errno_from
from tests.support.items import TID, hidden
from tests.unit.state.conftest import full_disk

from jobfs import names
from jobfs.errors import TooLargeError
from jobfs.nodes import SendProgress
from jobfs.state.records import Verb

from .world import CALLER, World


@pytest.fixture
def sending(world: World) -> World:
    """A world whose queue runs."""
    world.seed({})
    world.write_back.queue.start()
    return world


def test_a_flush_sends_closed_and_open_files_and_counts_them(sending: World) -> None:
    """vfs/semantics.md 4.8: also what has not been closed; a file of this machine only is not counted."""
    sending.write("closed", b"123")
    sending.write("scratch~", b"stays")
    open_file = sending.files.create("open", 0o644, os.O_RDWR, CALLER)
    sending.files.write(open_file.fh, b"12345", 0)
    seen: list[SendProgress] = []
    assert sending.drain.flush_all(None, 20.0, seen.append) == []
    assert sorted(sending.server.paths.values()) == ["closed", "open"]
    assert (seen[-1].files, seen[-1].all_files, seen[-1].bytes, seen[-1].all_bytes) == (2, 2, 8, 8)


def test_a_flush_sends_what_a_full_disk_let_nobody_close(sending: World) -> None:
    """vfs/semantics.md 4.8, 4.41: no program has the file open any more, and its close was not recorded."""
    fh = sending.files.create("file", 0o644, os.O_RDWR, CALLER).fh
    sending.files.write(fh, b"123", 0)
    with full_disk(sending.state, spent=True):
        assert errno_from(sending.files.release, fh) == errno.ENOSPC
    assert sending.drain.flush_all(None, 20.0, None) == []
    assert list(sending.server.paths.values()) == ["file"]


def test_a_flush_of_a_path_leaves_the_others(sending: World) -> None:
    """vfs/semantics.md 4.8."""
    sending.tree.mkdir("dir", 0o755, CALLER)
    sending.write("dir/file", b"1")
    sending.write("directory", b"2")
    assert sending.drain.flush_all("dir", 20.0, None) == []
    assert sorted(sending.server.paths.values()) == ["dir", "dir/file"]
    assert [entry["path"] for entry in sending.report.list_unsent()] == ["directory"]


def test_a_flush_names_the_unsent_files_after_its_timeout(world: World) -> None:
    """vfs/semantics.md 4.8, 6.4: the queue does not run, so nothing is sent."""
    world.seed({})
    world.write("dir-less", b"123")
    open_file = world.files.create("open", 0o644, os.O_RDWR, CALLER)
    world.files.write(open_file.fh, b"12345", 0)
    seen: list[SendProgress] = []
    left = world.drain.flush_all(None, 0.0, seen.append)
    assert [(entry["path"], entry["size"]) for entry in left] == [("dir-less", 3), ("open", 5)]
    assert seen == [SendProgress(0, 2, 0, 8)]


def test_a_refused_file_does_not_keep_a_flush_waiting(sending: World) -> None:
    """vfs/semantics.md 4.11, 4.13: it is named at once, and the others are sent."""
    sending.server.fail("create", TooLargeError("too large", status=413))
    sending.write("large", b"123")
    sending.write_back.queue.drain(20.0, "")
    sending.write("small", b"1")
    (left,) = sending.drain.flush_all(None, 3600.0, None)
    assert (left["path"], left["state"]) == ("large", "failed")
    # A question of the mount to the server, in the background, has hidden items for a moment.
    shown = [path for path in sending.server.paths.values() if names.parse_hidden_name(path) is None]
    assert shown == ["small"]


def test_a_flush_waits_for_the_cleanup_of_asides(sending: World) -> None:
    """vfs/semantics.md 4.18: the old version is deleted when it returns."""
    sending.seed({"file": b"old"})
    sending.write("file", b"new")
    assert sending.drain.flush_all(None, 20.0, None) == []
    uncleaned = sending.write_back.queue.wait_and_count_uncleaned(0, includes_waiting=True)
    assert (list(sending.server.paths.values()), uncleaned) == (["file"], 0)


def test_only_hidden_items_of_this_mount_are_listed_and_exposed(world: World) -> None:
    """vfs/semantics.md 4.23, 4.24: those of another mount are left alone; no file is deleted."""
    mine, theirs = (hidden("dir/file", mount=mount) for mount in (world.slot.mount_id, "f" * 12))
    world.seed(
        {"dir": None, mine: b"kept", theirs: b"another mount's", "dir/.jobfs-notes": b"an ordinary file"}
    )
    assert [item.path for item in world.drain.hidden_items_of(world.slot.mount_id)] == [mine]
    assert world.drain.wait_for_cleanup(0.0) == [mine]
    world.state.plan_change(Verb.PUT, "dir/file", tid=TID)  # it would show the item later
    (line,) = world.drain.expose_hidden_items(world.slot.mount_id)
    assert "dir/file" in line
    assert world.view.get("dir/file").path == "dir/file"
    world.requests()
    assert (world.drain.wait_for_cleanup(20.0), world.requests()) == ([], ["list"])
    assert theirs in world.server.paths.values()
