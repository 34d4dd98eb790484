"""Changes of names: mkdir, rmdir, rename, unlink; scratch names and links, which stay on this machine."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.files import errno_from
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Workspace, workspace

from jobfs.emulator import Server
from jobfs.nodes import Item
from jobfs.save import writeback


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


# -- scratch names


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


def test_a_scratch_file_that_gets_a_real_name_is_sent(server: Server, work: Workspace) -> None:
    """semantics 4: unless they are renamed to a real name."""
    work.write("4913", b"x")
    work.vfs.rename("4913", "file")
    work.drain()
    assert server.store.tree() == {"file": b"x"}


def test_an_unsent_file_that_gets_a_scratch_name_is_not_sent(server: Server, work: Workspace) -> None:
    work.write("file", b"1")
    work.write("file~", b"0")
    work.vfs.rename("file", "file~")
    work.drain()
    assert (work.names(), work.read("file~"), server.log.changes()) == (["file~"], b"1", [])


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


# -- backups: a real name becomes a scratch name (core.md, decision 1)


def test_a_backup_has_its_bytes_here_and_costs_no_request_at_first(server: Server, work: Workspace) -> None:
    """semantics 4: the scratch file has the bytes at once; the item's move on the server waits a few seconds."""
    server.store.seed({"file": "old"}, age=60)
    assert work.read("file") == b"old"
    work.vfs.rename("file", "file~")
    assert (work.names(), work.read("file~")) == (["file~"], b"old")
    assert errno_from(work.vfs.getattr, "file") == errno.ENOENT
    assert server.log.changes() == []


def test_a_new_file_of_the_old_name_is_one_save_of_that_item(server: Server, work: Workspace) -> None:
    """semantics 4: void if a new file of the real name comes, which is then one save of that item: vim's way."""
    server.store.seed({"file": "old"}, lifecycle="application", age=60)
    assert work.read("file") == b"old"
    work.vfs.rename("file", "file~")
    work.write("file", b"new", fsync=True)
    work.drain()
    assert server.store.tree() == {"file": b"new"}
    assert server.store.item("file").lifecycle == "application"
    work.stop()
    work.start()
    assert (work.read("file~"), work.read("file")) == (b"old", b"new")
    assert work.vfs.status()["conflicts"] == []


def test_what_is_not_on_this_machine_is_renamed_on_the_server_at_once(
    server: Server, work: Workspace
) -> None:
    """core.md: where the bytes are not in the cache, it is a plain rename at once."""
    server.store.seed({"file": "old"}, age=60)
    work.vfs.rename("file", "file~")
    assert server.store.tree() == {"file~": b"old"}
    work.write("file", b"new")
    work.drain()
    assert server.store.tree() == {"file": b"new", "file~": b"old"}


@pytest.mark.parametrize("written", [False, True])
def test_the_backup_gives_way_to_its_item_and_what_was_written_to_it_is_a_save_of_that(
    server: Server, work: Workspace, written: bool
) -> None:
    """core.md: when the move is done, the scratch file gives way to the item; semantics 4.17: that is an ordinary file."""
    server.store.seed({"file": "old"}, age=60)
    number = work.vfs.getattr("file").ino
    work.read("file")
    work.vfs.rename("file", "file~")
    if written:
        work.write("file~", b"mine")
    work.drain()
    assert server.store.tree() == {"file~": b"mine" if written else b"old"}
    assert isinstance(work.vfs._view.get("file~"), Item)
    assert work.vfs.getattr("file~").ino == number
    work.stop()
    work.start()
    assert work.read("file~") == (b"mine" if written else b"old")


def test_a_backup_is_moved_by_itself_after_a_while(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writeback, "BACKUP_DELAY", 0.01)
    server.store.seed({"file": "old"}, age=60)
    work.read("file")
    work.vfs.rename("file", "file~")
    eventually(lambda: server.store.tree() == {"file~": b"old"})


def test_a_backup_and_back_again_is_as_if_nothing_had_happened(server: Server, work: Workspace) -> None:
    server.store.seed({"file": "x"}, age=60)
    work.read("file")
    before, number = server.store.item("file").id, work.vfs.getattr("file").ino
    work.vfs.rename("file", "file~")
    work.vfs.rename("file~", "file")
    assert (work.names(), work.read("file")) == (["file"], b"x")
    assert (server.store.item("file").id, work.vfs.getattr("file").ino) == (before, number)


@pytest.mark.parametrize("cached", [True, False])
def test_an_unlinked_backup_takes_the_file_with_it(server: Server, work: Workspace, cached: bool) -> None:
    server.store.seed({"file": "x"}, age=60)
    if cached:
        work.read("file")
    work.vfs.rename("file", "file~")
    work.vfs.unlink("file~")
    assert work.names() == []
    assert server.store.tree() == {}


@pytest.mark.parametrize("cached", [True, False])
def test_what_was_changed_of_a_backups_attributes_stays_when_it_becomes_real(
    server: Server, work: Workspace, cached: bool
) -> None:
    """semantics 2.11: modes, owners and times are kept for the item, also while it has a scratch name."""
    server.store.seed({"one": "1", "two": "2"}, age=60)
    for name in ("one", "two"):
        if cached:
            work.read(name)
        work.vfs.rename(name, f"{name}~")
        work.vfs.chmod(f"{name}~", 0o751)
        work.vfs.chown(f"{name}~", 77, 88)
        work.vfs.utimens(f"{name}~", 5, 6)
    work.vfs.rename("one~", "one")
    work.vfs.rename("two~", "three")
    for name in ("one", "three"):
        attr = work.vfs.getattr(name)
        assert (attr.mode & 0o7777, attr.uid, attr.gid, attr.atime_ns, attr.mtime_ns) == (0o751, 77, 88, 5, 6)


# -- unlinked while open (core.md, decision 2)


def hide(work: Workspace, path: str) -> str:
    """What libfuse does with a file that is unlinked while it is open."""
    hidden = f".fuse_hidden{1:016x}"
    work.vfs.hide(path, hidden)
    return hidden


def test_an_open_file_that_libfuse_hides_is_unlinked_in_a_second(server: Server, work: Workspace) -> None:
    """core.md: the name is hidden at once; the remove is a Change due in 1 s."""
    server.store.seed({"file": "content"}, age=60)
    fh = work.vfs.open("file", os.O_RDWR).fh
    hide(work, "file")
    assert work.names() == []
    assert server.store.exists("file")
    eventually(lambda: not server.store.exists("file"))
    work.vfs.write(fh, b"C", 0)
    assert work.vfs.read(fh, 99, 0) == b"Content"
    work.vfs.release(fh)
    work.drain()
    assert server.store.tree() == {}


def test_what_is_renamed_over_a_hidden_file_is_its_save(server: Server, work: Workspace) -> None:
    """core.md: renamed over meanwhile: that Change takes it over."""
    server.store.seed({"file": "old"}, lifecycle="application", age=60)
    fh = work.vfs.open("file", os.O_RDONLY).fh
    work.write("new", b"new")
    hidden = hide(work, "file")
    work.vfs.rename("new", "file")
    assert (work.read("file"), work.vfs.read(fh, 9, 0)) == (b"new", b"old")
    work.vfs.release(fh)
    work.vfs.unlink(hidden)
    work.drain()
    assert server.store.tree() == {"file": b"new"}
    assert server.store.item("file").lifecycle == "application"


def test_what_the_job_has_written_since_is_not_unlinked(server: Server, work: Workspace) -> None:
    """core.md: before it is sent, the item is looked at: what the job has written since stays."""
    server.store.seed({"file": "old"}, age=60)
    fh = work.vfs.open("file", os.O_RDONLY).fh
    hide(work, "file")
    server.store.write("file", "jobs")
    work.drain()
    work.vfs.release(fh)
    work.vfs.refresh()
    assert (server.store.tree(), work.names()) == ({"file": b"jobs"}, ["file"])


def test_killed_within_that_second_the_file_is_back(server: Server, work: Workspace) -> None:
    """semantics 4, unlink: killed within the second after it, the file may be back."""
    server.store.seed({"file": "old"}, age=60)
    work.vfs.open("file", os.O_RDONLY)
    hide(work, "file")
    work.stop()
    work.start()
    assert (work.names(), work.read("file")) == (["file"], b"old")


# -- links


@pytest.fixture
def linked(server: Server, tmp_path: Path) -> Iterator[Workspace]:
    with workspace(server, tmp_path / "home", local_symlinks=True) as work:
        yield work


def test_a_link_says_what_it_was_given_and_makes_no_request(server: Server, linked: Workspace) -> None:
    """semantics 2.12: with --local-symlinks a link is kept on this machine only."""
    server.store.seed({"dir/file": "x"}, age=60)
    server.log.clear()
    linked.vfs.symlink("dir/link", "../Ü", CALLER)
    attr = linked.vfs.getattr("dir/link")
    assert (stat.filemode(attr.mode), attr.size, attr.uid) == ("lrwxrwxrwx", 5, CALLER.uid)
    assert linked.vfs.readlink("dir/link") == "../Ü"
    assert linked.names("dir") == ["file", "link"]
    assert server.log.changes() == []
    linked.stop()
    linked.start()
    assert linked.vfs.readlink("dir/link") == "../Ü"


def test_a_link_is_not_made_where_something_is(server: Server, linked: Workspace) -> None:
    server.store.seed({"dir/file": "x"}, age=60)
    server.store.seed({"closed/file": "x"}, age=60)
    server.store.set_permission("closed", "readOnly")
    assert errno_from(linked.vfs.symlink, "dir/file", "x", CALLER) == errno.EEXIST
    assert errno_from(linked.vfs.symlink, "gone/link", "x", CALLER) == errno.ENOENT
    assert errno_from(linked.vfs.symlink, "dir/file/link", "x", CALLER) == errno.ENOTDIR
    assert errno_from(linked.vfs.symlink, "closed/link", "x", CALLER) == errno.EACCES


def test_what_is_no_link_cannot_be_read_as_one(server: Server, linked: Workspace) -> None:
    server.store.seed({"dir/file": "x"}, age=60)
    for path in ("dir", "dir/file", ".jobfs", ".jobfs/job.json"):
        assert errno_from(linked.vfs.readlink, path) == errno.EINVAL
    assert errno_from(linked.vfs.readlink, "gone") == errno.ENOENT


def test_a_link_takes_the_name_of_an_item_or_of_an_unsent_file(server: Server, linked: Workspace) -> None:
    server.store.seed({"item": "x", "other": "y"}, age=60)
    linked.write("unsent", b"z")
    linked.write("scratch~", b"z")
    for name in ("item", "unsent", "scratch~"):
        linked.vfs.symlink("link", name, CALLER)
        linked.vfs.rename("link", name)
        assert linked.vfs.readlink(name) == name
    linked.drain()
    assert linked.names() == ["item", "other", "scratch~", "unsent"]
    assert server.store.tree() == {"other": b"y"}
