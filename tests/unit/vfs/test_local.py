"""Names that live on this machine only."""

from __future__ import annotations

import errno
import os

import pytest
from jobfs.writeback import Inode
from tests.support.files import errno_from
from tests.support.workspaces import CALLER, Workspace

from jobfs.emulator import Server
from jobfs.nodes import Item


def test_scratch_files_cost_no_request_and_survive_a_remount(server: Server, work: Workspace) -> None:
    """semantics 4.14, 4.16, Scratch names: they stay on this machine; fsync of one syncs the local disk."""
    work.write(".file.swp", b"swap", fsync=True)
    work.vfs.rename(".file.swp", ".file.swo")
    assert server.log.changes() == []
    work.stop()
    work.start()
    assert work.read(".file.swo") == b"swap"
    assert work.names() == [".file.swo"]
    work.vfs.unlink(".file.swo")
    work.stop()
    work.start()
    assert work.names() == []
    assert server.log.changes() == []


def test_what_lies_in_a_scratch_directory_stays_here_too(server: Server, work: Workspace) -> None:
    work.mkdir("dir~")
    work.write("dir~/file", b"x")
    assert work.names("dir~") == ["file"]
    assert errno_from(work.vfs.rmdir, "dir~") == errno.ENOTEMPTY
    work.vfs.unlink("dir~/file")
    work.vfs.rmdir("dir~")
    assert server.log.changes() == []


def test_a_scratch_name_that_the_job_made_is_an_ordinary_file(server: Server, work: Workspace) -> None:
    """semantics 4.17: an item of such a name that the job made is an ordinary file."""
    server.store.seed({"file~": "by the job"}, age=60)
    assert work.read("file~") == b"by the job"
    work.write("file~", b"changed", fsync=True)
    assert server.store.read("file~") == b"changed"


def test_a_backup_and_back_again_is_as_if_nothing_had_happened(server: Server, work: Workspace) -> None:
    """semantics 4: rename of a real name to a scratch name is an alias, no request."""
    server.store.seed({"file": "x"}, age=60)
    work.vfs.rename("file", "file~")
    assert work.names() == ["file~"]
    assert errno_from(work.vfs.getattr, "file") == errno.ENOENT
    work.vfs.rename("file~", "file")
    assert work.names() == ["file"]
    assert work.read("file") == b"x"
    assert server.log.changes() == []


def test_an_unlinked_backup_takes_the_file_with_it(server: Server, work: Workspace) -> None:
    server.store.seed({"file": "x"}, age=60)
    work.vfs.rename("file", "file~")
    work.vfs.unlink("file~")
    assert work.names() == []
    assert not server.store.exists("file")


def test_a_backup_keeps_the_old_bytes_after_the_save(server: Server, work: Workspace) -> None:
    """semantics 4: a version is not deleted while an alias here still needs its bytes."""
    server.store.seed({"file": "old"}, age=60)
    work.vfs.rename("file", "file~")
    work.write("file", b"new", fsync=True)
    work.drain()
    assert work.read("file~") == b"old"
    work.stop()
    work.start()
    assert (work.read("file~"), work.read("file")) == (b"old", b"new")


def test_a_backup_made_the_moment_the_files_save_ends_keeps_its_bytes(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4: a version is not deleted while an alias here still needs its bytes."""
    table = work.vfs._engine.table
    hold = table.hold

    def ended(item: Item, path: str) -> Inode:
        inode = hold(item, path)
        table.drop(inode)
        monkeypatch.undo()
        return inode

    server.store.seed({"file": "old"}, age=60)
    monkeypatch.setattr(table, "hold", ended)
    work.vfs.rename("file", "file~")
    work.write("file", b"new", fsync=True)
    work.drain()
    assert work.names() == ["file", "file~"]
    assert work.read("file~") == b"old"


def test_a_scratch_file_that_gets_a_real_name_is_sent(server: Server, work: Workspace) -> None:
    """semantics 4: unless they are renamed to a real name."""
    fh = work.vfs.create("4913", 0o644, os.O_RDWR, CALLER).fh
    work.vfs.write(fh, b"x", 0)
    work.vfs.release(fh)
    work.vfs.rename("4913", "file")
    work.drain()
    assert server.store.tree() == {"file": b"x"}


def test_local_names_below_a_renamed_directory_survive_a_remount(server: Server, work: Workspace) -> None:
    """semantics 4.14, 4.28: a directory is renamed with everything under it, here too."""
    server.store.seed({"dir/file": "x"}, age=60)
    work.mkdir("local~")
    work.mkdir("local~/sub")
    for path in ("dir/.file.swp", "local~/a", "local~/sub/b"):
        work.write(path, path.encode())
    work.vfs.rename("dir", "moved")
    work.vfs.rename("local~", "other~")
    work.stop()
    work.start()
    assert work.names() == ["moved", "other~"]
    assert work.read("moved/.file.swp") == b"dir/.file.swp"
    assert work.read("other~/a") == b"local~/a"
    assert work.read("other~/sub/b") == b"local~/sub/b"
    assert work.names("other~") == ["a", "sub"]
    assert not work.exists("local~/a")


def test_a_local_directory_does_not_pass_for_one_of_the_workspace(server: Server, work: Workspace) -> None:
    """semantics 4.14: a scratch name that gets a real one is sent; EXDEV makes `mv` copy what is in the directory."""
    work.mkdir("dir~")
    work.write("dir~/file", b"x")
    assert errno_from(work.vfs.rename, "dir~", "dir") == errno.EXDEV
    work.vfs.rename("dir~/file", "file")
    work.drain()
    assert server.store.tree() == {"file": b"x"}


def test_what_was_changed_of_a_backups_attributes_stays_when_it_becomes_real(
    server: Server, work: Workspace
) -> None:
    """semantics 2.11: modes, owners and times are kept for the item, also while it has a scratch name."""
    server.store.seed({"one": "1", "two": "2"}, age=60)
    for name in ("one", "two"):
        work.vfs.rename(name, f"{name}~")
        work.vfs.chmod(f"{name}~", 0o751)
        work.vfs.chown(f"{name}~", 77, 88)
        work.vfs.utimens(f"{name}~", 5, 6)
    work.vfs.rename("one~", "one")
    work.vfs.rename("two~", "three")
    for name in ("one", "three"):
        attr = work.vfs.getattr(name)
        assert (attr.mode & 0o7777, attr.uid, attr.gid, attr.atime_ns, attr.mtime_ns) == (0o751, 77, 88, 5, 6)
