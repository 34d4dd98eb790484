"""The tree of names against the local server: what is asked, what is shown, what is never shown."""

from __future__ import annotations

import errno
import os

import pytest
from tests.support.files import errno_from
from tests.support.serverside import contents, visible
from tests.support.waiting import eventually, eventually_equal
from tests.support.workspaces import Start, Workspace, wait_until_settled

from jobfs.emulator import Server


def test_the_items_of_the_job_shadow_the_defaults(server: Server, start: Start) -> None:
    """vfs/semantics.md 1.16: expertJob shadows application; the newest wins; shadowed items are in the status."""
    server.store.seed({"both": "newer default"}, lifecycle="application")
    server.store.seed({"both": "of the job"}, age=100)
    server.store.seed({"twice": "older"}, age=100)
    server.store.seed({"twice": "newer"}, age=50)
    work = start()
    assert work.names() == ["both", "twice"]
    assert work.read("both") == b"of the job"
    assert work.read("twice") == b"newer"
    shadowed = str(work.vfs.status()["shadowed"])
    assert "both" in shadowed
    assert "twice" in shadowed


def test_an_implied_directory_is_shown_and_made_when_needed(server: Server, start: Start) -> None:
    """vfs/semantics.md 1.19: implicit directories are shown; an operation that needs the real item creates it."""
    files = {"x/y/z.txt": "deep", "over/file": "old", "new": "another", "open/file": "old"}
    server.store.seed(files, age=60, directories=False)
    work = start(write_back_delay=0)
    assert work.names("x/y") == ["z.txt"]
    work.write("x/y/new.txt", b"new", fsync=True)
    work.mkdir("x/sub")
    work.vfs.rename("new", "over/file")
    with work.opening("open/file", os.O_RDONLY) as fh:
        work.vfs.unlink("open/file")
        assert work.vfs.read(fh, 100, 0) == b"old"
    assert work.names("open") == []
    wait_until_settled(work, {
        "x": None, "x/sub": None, "x/y": None, "x/y/new.txt": b"new", "x/y/z.txt": b"deep", "over": None,
        "over/file": b"another",
    })  # fmt: skip


def test_an_implied_directory_vanishes_when_the_job_removes_its_content(server: Server, start: Start) -> None:
    """vfs/semantics.md 1: what the job changes is visible within the TTL, whatever was changed in that directory here."""
    server.set(implicit_directories="allowed")
    server.store.seed({"x/a": "a", "x/b": "b", "y/c": "c", "y/d/e": "e"}, directories=False, age=60)
    work = start(ttl=0.2)
    assert work.names() == ["x", "y"]
    for path in ("x/a", "y/c"):
        work.vfs.unlink(path)
    work.vfs.rename("y", "z")
    assert work.names() == ["x", "z"]
    assert work.names("z") == ["d"]
    server.store.delete("x/b")
    server.store.delete("z/d/e")
    eventually(lambda: (work.names(), work.names("z")) == (["z"], []))
    assert errno_from(work.vfs.getattr, "x") == errno.ENOENT


def test_attributes_come_from_the_item(server: Server, start: Start) -> None:
    """vfs/semantics.md 2.1, 2.2, 2.3, 2.7, 2.10: modes, readOnly ones too, less the umask; size, mtime, owner; statfs."""
    server.store.seed({"file": "1" * 5000, "dir": None})
    server.store.seed({"brief": "x" * 5000, "closed": None}, permission="readOnly")
    work = start(umask="050", uid=12, gid=34)
    modes = {name: attr.mode & 0o7777 for name, attr in work.vfs.listdir("")}
    assert modes == {"file": 0o604, "dir": 0o705, "brief": 0o404, "closed": 0o505}
    attr = work.vfs.getattr("file")
    assert (attr.size, attr.uid, attr.gid) == (5000, 12, 34)
    assert attr.mtime_ns // 1000 == server.store.item_at("file").updated_us // 1000 * 1000
    stat = work.vfs.statfs()
    assert (stat["f_namemax"], stat["f_frsize"], stat["f_blocks"] - stat["f_bfree"]) == (255, 4096, 3)
    assert stat["f_bavail"] > 0


def test_the_first_stat_has_the_size_that_the_server_omits(server: Server, start: Start) -> None:
    """vfs/semantics.md 2.2: a program that copies as many bytes as stat says must not take the file for an empty one."""
    server.set(sizes="omitted")
    server.store.seed({"file": b"x" * 200_000, "dir/empty": b""}, age=60)
    work = start()
    for _ in range(2):
        assert work.vfs.getattr("file").size == 200_000
        assert work.vfs.getattr("dir/empty").size == 0
    assert work.read("file") == b"x" * 200_000
    assert server.log.count("download") == 2, "what is small has come with its size"
    opened = work.vfs.open("file", os.O_RDONLY)
    assert not opened.direct_io, "it can be mapped"
    server.store.write("file", b"y" * 300_000)
    eventually(lambda: work.vfs.getattr("file").size == 300_000)
    work.vfs.release(opened.fh)
    server.log.clear()
    assert work.vfs.getattr("file").size == 300_000
    assert server.log.count("download") == 0


def test_a_size_that_cannot_be_determined_is_an_error_and_not_zero(server: Server, start: Start) -> None:
    """vfs/semantics.md 1.13: a network failure never looks like an empty file."""
    server.set(sizes="omitted")
    server.store.seed({"file": "text"}, age=60)
    work = start(timeout=2.0)
    assert work.names() == ["file"]
    server.faults.set_rate("unavailable", 1.0, on="download")
    assert errno_from(work.vfs.getattr, "file") in (errno.EIO, errno.ETIMEDOUT)


def test_an_unexplained_hidden_item_of_this_mount_is_shown_again(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.24 (R4): exposed, never deleted."""
    server.store.seed({f".jobfs-{work.mount_id}-{'b' * 16}-staged-new.txt": "staged"})
    eventually_equal(lambda: (work.names(), contents(server))[1], [b"staged"])
    assert any(name.startswith("new.recovered-") for name in visible(server))
    assert not [entry for entry in server.log.changes() if entry.operation == "delete"]


@pytest.mark.parametrize("step", ["create", "update"])
def test_a_directory_is_removed_right_after_a_file_that_was_being_saved(
    server: Server, start: Start, step: str
) -> None:
    """save/protocol.md R10 and R12: `rm -r`: a save that was begun is taken back first."""
    server.store.seed({"dir": None}, age=60)
    work = start(write_back_delay=0)
    server.faults.fail_next("slow", on=step, delay=0.5)
    work.write("dir/file", b"new")
    eventually(lambda: not server.faults.rules(), f"the {step} is under way")
    work.vfs.unlink("dir/file")
    work.vfs.rmdir("dir")
    assert work.names() == []
    eventually(lambda: not server.store.items(), lambda: f"{[item.path for item in server.store.items()]}")


def test_a_directory_rename_is_exdev_where_the_server_moves_no_content(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.28: EXDEV makes `mv` copy; the reference does not say what moves with a directory."""
    server.set(move_carries=False)
    tree = {"d": None, "d/a": b"a", "d/sub": None, "d/sub/b": b"b", "empty": None}
    server.store.seed(tree)
    work = start()
    for _ in range(2):
        assert errno_from(work.vfs.rename, "d", "new") == errno.EXDEV
        assert visible(server) == tree
    work.vfs.rename("empty", "new")
    assert work.names() == ["d", "new"]
    assert work.read("d/sub/b") == b"b"
