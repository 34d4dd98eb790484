"""Inode numbers, modes, owners, times, and items that may not be changed, on a real mount."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from tests.support.files import errno_from, save_file
from tests.support.mounts import MountedJob, run
from tests.support.waiting import eventually, eventually_equal

from jobfs.emulator import Server


def test_an_inode_number_survives_save_rename_and_remount(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 1.22, 1.23: inode numbers survive a remount and a rename; a save keeps them while the mount lives."""
    server.store.seed({"note.txt": "text", "dir/inner.txt": "inner"})

    def numbers(*names: str) -> list[int]:
        return [(mounted.path / name).stat().st_ino for name in names]

    before = numbers("note.txt", "dir/inner.txt", "dir")
    renamed = ("folder/note.txt", "folder/inner.txt", "folder")
    assert len({*before}) == 3
    os.rename(mounted.path / "dir", mounted.path / "folder")
    os.rename(mounted.path / "note.txt", mounted.path / "folder/note.txt")
    assert numbers(*renamed) == before
    mounted.remount()
    assert numbers(*renamed) == before
    save_file(mounted.path / "folder/note.txt", b"saved")
    assert numbers(*renamed) == before
    mounted.wait_until_settled()
    assert numbers(*renamed) == before
    assert {entry.name: entry.inode() for entry in os.scandir(mounted.path / "folder")} == {
        "note.txt": before[0], "inner.txt": before[1],
    }  # fmt: skip


def test_fstat_of_an_unlinked_file_shows_what_was_written_since(
    server: Server, mount: Callable[..., MountedJob]
) -> None:
    """vfs/semantics.md 4.33: its handles stay writable, and no earlier answer is given for what they have written."""
    server.store.seed({"dir/gone": "text"}, age=60)
    mounted = mount(ttl=60)
    os.listdir(mounted.path / "dir")
    with open(mounted.path / "dir/gone", "r+b", buffering=0) as file:
        file.write(b"longer than before")
        os.unlink(mounted.path / "dir/gone")
        for size in (18, 19, 20, 21):
            eventually_equal(lambda: os.fstat(file.fileno()).st_size, size)
            assert os.fstat(file.fileno()).st_size == os.fstat(file.fileno()).st_size == size
            file.seek(0, os.SEEK_END)
            file.write(b".")


def test_the_time_of_a_save_stays_until_the_job_changes_the_file(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 2.5: an editor must not see its own save as a foreign change."""
    server.store.seed({"note.txt": "text"})
    save_file(mounted.path / "note.txt", b"saved")
    before = (mounted.path / "note.txt").stat()
    mounted.wait_until_settled()
    after = (mounted.path / "note.txt").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    server.store.write("note.txt", "of the job")
    eventually(lambda: (mounted.path / "note.txt").stat().st_mtime_ns != before.st_mtime_ns)
    eventually_equal(lambda: (mounted.path / "note.txt").read_bytes(), b"of the job")


def test_read_only_items_refuse_all_changes(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.38, 4.39: readOnly: open for writing and truncate EACCES, unlink, rename and overwrite EPERM."""
    server.store.seed({"free.txt": "free", "closed/free.txt": "inside"})
    server.store.seed({"brief.md": "read me"}, permission="readOnly")
    server.store.set_permission("closed", "readOnly")
    brief, free, closed = mounted.path / "brief.md", mounted.path / "free.txt", mounted.path / "closed"
    assert brief.stat().st_mode & 0o777 == 0o444
    assert closed.stat().st_mode & 0o777 == 0o555
    assert brief.read_bytes() == b"read me"
    assert errno_from(os.open, brief, os.O_WRONLY) == errno.EACCES
    assert errno_from(os.open, brief, os.O_RDWR) == errno.EACCES
    assert errno_from(os.open, brief, os.O_WRONLY | os.O_TRUNC) == errno.EACCES
    assert errno_from(os.truncate, brief, 0) == errno.EACCES
    assert errno_from(os.unlink, brief) == errno.EPERM
    assert errno_from(os.rename, brief, mounted.path / "other") == errno.EPERM
    assert errno_from(os.rename, free, brief) == errno.EPERM
    assert errno_from((closed / "new").write_bytes, b"x") == errno.EACCES
    assert errno_from(os.mkdir, closed / "newdir") == errno.EACCES
    assert server.log.changes() == []
    os.chmod(brief, 0o644)
    assert server.store.item_at("brief.md").permission == "readWrite"
    save_file(brief, b"written")
    os.chmod(brief, 0o444)
    assert server.store.item_at("brief.md").permission == "readOnly"
    assert errno_from(os.open, brief, os.O_WRONLY) == errno.EACCES
    mounted.wait_until_settled()
    assert server.store.read("brief.md") == b"written"
    os.unlink(brief)  # as on a disk: its mode was given here
    assert not server.store.exists("brief.md")


def test_gits_untracked_cache_sees_what_the_job_makes_and_deletes(
    server: Server, mounted: MountedJob
) -> None:
    """vfs/semantics.md 2.18: a directory's mtime changes when its set of names differs, by any cause."""
    server.store.seed({"dir/sub/file": "x", "dir/other": "y", "top": "z"}, age=60)
    names = f"export GIT_DIR={mounted.home}/job.git GIT_WORK_TREE={mounted.path}"

    def git(*words: str) -> str:
        return run(mounted.home, "sh", "-ec", "; git ".join((names, *words)), home=mounted.home)

    git("init -q", "config feature.manyFiles true", "config core.untrackedCache true", "config user.name A")
    git("config user.email a@b.invalid", "add -A", "commit -qm 'As the job left it'")
    for _ in range(2):
        assert git("status --porcelain") == ""
    server.store.seed({"dir/sub/new": "x", "made/inside": "x", "beside": "x"})
    there = ["?? beside", "?? dir/sub/new", "?? made/"]
    eventually_equal(lambda: sorted(git("status --porcelain").splitlines()), there)
    server.store.delete("dir/sub/new")
    server.store.delete("made")
    server.store.seed({"dir/newer": "x"})
    eventually_equal(lambda: sorted(git("status --porcelain").splitlines()), ["?? beside", "?? dir/newer"])
