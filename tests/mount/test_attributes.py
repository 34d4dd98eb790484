"""Inode numbers, sizes and times, as the kernel and programs see them on a real mount."""

from __future__ import annotations

import os

from tests.support.files import save_file
from tests.support.mounts import Mount, MountedJob, run
from tests.support.waiting import eventually_equal

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


def test_fstat_of_an_unlinked_file_shows_what_was_written_since(server: Server, mount: Mount) -> None:
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
