"""Attributes that this machine remembers, and the times of directories."""

from __future__ import annotations

import errno
import stat

import pytest
from tests.support.files import errno_from
from tests.support.waiting import eventually
from tests.support.workspaces import OvertakenLock, Start, Workspace

from jobfs.emulator import Server


def test_the_type_of_a_node_is_that_of_its_item(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 2.1: a directory without an item is one, too."""
    server.store.seed({"dir": None, "file": "x", "implicit/file": "x"}, directories=False)
    types = {name: stat.S_IFMT(attr.mode) for name, attr in work.vfs.listdir("")}
    assert types == {"dir": stat.S_IFDIR, "file": stat.S_IFREG, "implicit": stat.S_IFDIR}


def test_attributes_of_an_unsent_file_move_with_it(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 2.4, 2.11: through a remount and the save, and the item gets the permission."""
    work.write("file", b"x")
    work.vfs.chmod("file", 0o500)
    work.vfs.utimens("file", 5, 7)
    work.vfs.chown("file", 3, 4)
    work.remount()
    work.drain()
    attr = work.vfs.getattr("file")
    assert (stat.S_IMODE(attr.mode), attr.uid, attr.gid, attr.mtime_ns) == (0o500, 3, 4, 7)
    assert server.store.item_at("file").permission == "readOnly"


def test_a_directorys_mtime_follows_its_names_and_only_utimens_lowers_it(
    server: Server, work: Workspace
) -> None:
    """vfs/semantics.md 2.18: and a remount begins with `updatedAt`."""
    server.store.seed({"dir/file": "x", "dir/other": "y", "plain/file": "z"}, age=60)
    times, plain = [work.vfs.getattr("dir").mtime_ns], work.vfs.getattr("plain").mtime_ns

    def moves() -> None:
        work.vfs.refresh()
        attr = work.vfs.getattr("dir")
        assert attr.mtime_ns == attr.ctime_ns > times[-1]
        times.append(attr.mtime_ns)

    server.store.seed({"dir/new": "x"})
    moves()
    server.store.delete("dir/new")
    moves()
    work.vfs.utimens("dir", 5, None)
    assert work.vfs.getattr("dir").mtime_ns == times[-1], "`touch -a` leaves it"
    work.write("dir/own", b"x")
    moves()
    work.drain()
    work.write("dir/file", b"saved in place", fsync=True)
    server.store.write("dir/other", "in place too")
    work.vfs.refresh()
    assert work.vfs.getattr("dir").mtime_ns == times[-1]
    work.vfs.chmod("dir", 0o700)
    server.store.set_permission("dir", "readOnly")
    work.vfs.refresh()
    assert work.vfs.getattr("dir").mtime_ns >= times[-1], "whatever else changes"
    work.vfs.utimens("dir", 5, 7)
    work.vfs.refresh()
    assert work.vfs.getattr("dir").mtime_ns == 7
    server.store.seed({"dir/newer": "x", "plain/newer": "x"})
    moves()
    assert work.vfs.getattr("plain").mtime_ns > plain
    work.remount()
    assert (work.vfs.getattr("dir").mtime_ns, work.vfs.getattr("plain").mtime_ns) == (7, plain)


@pytest.mark.parametrize(("name", "hanging"), [("new", "dir/new"), ("old", "dir/*-aside-*")])
def test_a_directorys_mtime_is_not_changed_by_a_save_in_the_background(
    server: Server, start: Start, name: str, hanging: str
) -> None:
    """vfs/semantics.md 2.18: a listing shows the name come, or gone, before the request that has done it is answered."""
    work = start(timeout=2)
    server.store.seed({"dir/old": "x"}, age=60)
    work.vfs.refresh()
    server.faults.fail_next("hang_after", "update", path=hanging)
    work.write(f"dir/{name}", b"saved")
    work.vfs.utimens("dir", 5, 7)
    eventually(lambda: server.store.exists(f"dir/{name}") is (name == "new"))
    work.vfs.refresh()
    assert work.names("dir") == sorted({"old", name})
    assert work.vfs.getattr("dir").mtime_ns == 7


def test_a_conflict_copy_changes_a_directorys_mtime(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 2.18: any change of the directory makes programs that watch it read it again."""
    server.store.seed({"dir/file": "x"}, age=60)
    with work.opening("dir/file") as fh:
        work.vfs.write(fh, b"mine", 0)
        before = work.vfs.getattr("dir").mtime_ns
        server.store.write("dir/file", "the job's")
        work.vfs.fsync(fh)
    eventually(lambda: len(work.names("dir")) == 2)
    assert before < work.vfs.getattr("dir").mtime_ns


def test_a_file_that_the_job_makes_read_only_during_a_save_is_read_only(
    server: Server, work: Workspace
) -> None:
    """vfs/semantics.md 2.3, 4.38: although the save remembers an older mode, and `chmod u-w` here was overruled before."""
    server.store.seed({"file": "x"}, age=60)
    work.vfs.chmod("file", 0o444)
    server.store.set_permission("file", "readWrite")
    work.vfs.refresh()
    with work.opening("file") as fh:
        work.vfs.write(fh, b"mine", 0)
        server.store.set_permission("file", "readOnly")
    work.drain()
    assert server.store.item_at("file").permission == "readOnly"
    assert stat.S_IMODE(work.vfs.getattr("file").mode) == 0o444
    assert errno_from(work.vfs.unlink, "file") == errno.EPERM


def test_a_mode_changed_at_the_end_of_a_save_is_not_lost(work: Workspace) -> None:
    """vfs/semantics.md 2: what the API cannot hold is kept in the state directory: between finding the file and changing it."""
    work.write("file", b"content")
    file = work.state.index.file_at("file")
    assert file is not None
    lock = OvertakenLock(file, work.drain)
    work.vfs.chmod("file", 0o700)
    assert lock.struck
    work.vfs.utimens("file", 1, 2)
    assert work.vfs.getattr("file").mode & 0o777 == 0o700
    assert work.vfs.getattr("file").mtime_ns == 2
