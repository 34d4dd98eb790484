"""Changes of names."""

from __future__ import annotations

import errno

from tests.support.files import errno_from
from tests.support.workspaces import CALLER, Workspace

from jobfs.emulator import Server


def test_renames_are_refused_as_rename_2_says(server: Server, work: Workspace) -> None:
    server.store.seed({"a": "a", "dir/sub/x": "x", "empty": None}, age=60)
    rename = work.vfs.rename
    assert errno_from(rename, "gone", "b") == errno.ENOENT
    assert errno_from(rename, "a", "gone/b") == errno.ENOENT
    assert errno_from(rename, "a", "empty") == errno.EISDIR
    assert errno_from(rename, "empty", "a") == errno.ENOTDIR
    assert errno_from(rename, "empty", "dir") == errno.ENOTEMPTY
    assert errno_from(rename, "dir", "dir/sub/y") == errno.EINVAL
    assert errno_from(rename, "a", "n" * 256) == errno.ENAMETOOLONG
    assert errno_from(rename, "a", "a") == 0
    assert server.log.changes() == []


def test_a_clean_file_is_renamed_at_once(server: Server, work: Workspace) -> None:
    """semantics 4.31: rename of clean items is synchronous; inode numbers survive it (semantics 1)."""
    server.store.seed({"a": "a", "dir": None}, age=60)
    before = work.vfs.getattr("a").ino
    work.vfs.rename("a", "dir/b")
    assert server.store.read("dir/b") == b"a"
    assert not work.exists("a")
    assert work.vfs.getattr("dir/b").ino == before


def test_an_unsent_file_is_renamed_without_a_request(server: Server, work: Workspace) -> None:
    work.write("a", b"new")
    work.vfs.rename("a", "b")
    work.write("c", b"newer")
    work.vfs.rename("c", "b")
    assert server.log.changes() == []
    assert work.names() == ["b"]
    work.drain()
    assert server.store.tree() == {"b": b"newer"}


def test_an_unsent_file_over_an_old_one_is_its_save(server: Server, work: Workspace) -> None:
    """semantics 4: an editor's save by rename over the file."""
    server.store.seed({"file": "old"}, age=60)
    assert work.read("file") == b"old"
    work.write(".file.swp", b"new")
    work.vfs.rename(".file.swp", "file")
    work.drain()
    assert server.store.read("file") == b"new"
    assert work.names() == ["file"]


def test_unlink_says_what_is_wrong(server: Server, work: Workspace) -> None:
    server.store.seed({"dir": None, "file": "x"})
    assert errno_from(work.vfs.unlink, "dir") == errno.EISDIR
    assert errno_from(work.vfs.unlink, "gone") == errno.ENOENT
    assert errno_from(work.vfs.rmdir, "file") == errno.ENOTDIR
    assert errno_from(work.vfs.rmdir, "gone") == errno.ENOENT
    assert errno_from(work.vfs.rmdir, "") == errno.EBUSY


def test_an_unsent_change_of_a_saved_file_is_unlinked_with_it(server: Server, work: Workspace) -> None:
    """save-protocol R10."""
    server.store.seed({"file": "old"}, age=60)
    work.write("file", b"new")
    work.vfs.unlink("file")
    assert not server.store.exists("file")
    work.stop()
    work.start()
    work.drain()
    assert server.store.tree() == {}
    assert work.names() == []


def test_a_file_made_anew_after_its_unlink_is_there(server: Server, work: Workspace) -> None:
    work.write("file", b"1", fsync=True)
    work.write("file", b"2")
    work.vfs.unlink("file")
    work.write("file", b"3", fsync=True)
    assert server.store.read("file") == b"3"
    assert work.read("file") == b"3"


def test_a_directory_is_made_and_removed(server: Server, work: Workspace) -> None:
    work.mkdir("dir")
    assert server.store.item("dir").is_dir
    work.write("dir/file", b"x")
    assert errno_from(work.vfs.rmdir, "dir") == errno.ENOTEMPTY
    work.vfs.unlink("dir/file")
    work.vfs.rmdir("dir")
    assert not work.exists("dir")
    assert not server.store.exists("dir")


def test_an_implicit_directory_is_still_shown_when_its_last_file_goes(
    server: Server, work: Workspace
) -> None:
    server.store.seed({"dir/file": "x"}, directories=False, age=60)
    work.vfs.unlink("dir/file")
    assert work.names("dir") == []
    work.vfs.rmdir("dir")
    assert not work.exists("dir")


def test_there_are_no_links(server: Server, work: Workspace) -> None:
    """semantics 2: symlink: EPERM, because the job would never see it."""
    server.store.seed({"file": "x"})
    assert errno_from(work.vfs.symlink, "link", "file", CALLER) == errno.EPERM
    assert errno_from(work.vfs.symlink, "file", "file", CALLER) == errno.EEXIST
    assert errno_from(work.vfs.readlink, "file") == errno.EINVAL


def test_a_mode_given_here_keeps_nobody_from_removing(server: Server, work: Workspace) -> None:
    """semantics 2 and 4: by a chmod here the item is readOnly for the job; on a disk the directory's mode decides."""
    server.store.seed({"a": "a", "b": "b", "dir": None}, age=60)
    for name in ("a", "b", "dir"):
        work.vfs.chmod(name, 0o555)
    assert server.store.item("a").permission == "readOnly"
    work.vfs.rename("a", "c")
    work.vfs.rename("c", "b")
    work.vfs.unlink("b")
    work.vfs.rmdir("dir")
    assert work.names() == []
    server.store.seed({"job": "x"}, permission="readOnly", age=60)
    work.vfs.refresh()
    assert errno_from(work.vfs.unlink, "job") == errno.EPERM


def test_no_name_of_a_save_under_way_is_made(server: Server, work: Workspace) -> None:
    """semantics 4: hidden items are never shown; so what is made here would be out of sight."""
    server.store.seed({"file": "x"}, age=60)
    name = ".jobfs-0123456789ab-0123456789abcdef-staged-x"
    assert errno_from(work.write, name, b"x") == errno.EPERM
    assert errno_from(work.mkdir, name) == errno.EPERM
    assert errno_from(work.vfs.rename, "file", name) == errno.EPERM
    assert server.log.changes() == []


def test_a_directory_goes_while_a_file_that_was_unlinked_in_it_is_open(
    server: Server, work: Workspace
) -> None:
    """semantics 4: a file unlinked while open stays readable through its handle."""
    server.store.seed({"dir/file": "text"}, age=60)
    fh = work.vfs.open("dir/file", 0).fh
    work.vfs.hide("dir/file", f"dir/.fuse_hidden{1:016x}")
    work.vfs.rmdir("dir")
    assert not work.exists("dir")
    assert work.vfs.read(fh, 10, 0) == b"text"
    assert work.vfs.fgetattr(fh).nlink == 0
    work.vfs.release(fh)


def test_a_directory_has_a_link_for_each_directory_in_it(server: Server, work: Workspace) -> None:
    server.store.seed({"dir/a/x": "x", "dir/b": None, "dir/file": "x"}, age=60)
    work.names("dir")
    assert work.vfs.getattr("dir").nlink == 4
    work.mkdir("dir/c")
    work.mkdir("dir/d~")
    assert work.vfs.getattr("dir").nlink == 6
    work.vfs.rmdir("dir/b")
    assert work.vfs.getattr("dir").nlink == 5
