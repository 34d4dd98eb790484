"""What the kernel and programs see on a real mount: inode numbers, sizes, times; and how long requests are."""

from __future__ import annotations

import json
import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

from tests.support.files import save_file
from tests.support.mounts import Mount, MountedJob, gone_afterwards
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


# the requests in which a program's reads and writes reach the mount (fuse/notes.md, Files)

KIB, MIB = 1 << 10, 1 << 20
#: The mount notes the length of each request to read or write.
_NOTED = """
import json, sys
from jobfs.fuse.driver import FuseDriver
read, write = FuseDriver.read, FuseDriver.write
def note(what, size):
    with open(notes_at, "a") as notes:
        print(json.dumps([what, size]), file=notes)
def noted_read(self, path, size, offset, fi):
    note("read", size)
    return read(self, path, size, offset, fi)
def noted_write(self, path, data, offset, fi):
    note("write", len(data))
    return write(self, path, data, offset, fi)
FuseDriver.read, FuseDriver.write = noted_read, noted_write
from jobfs.__main__ import main
notes_at, sys.argv = sys.argv[1], ["jobfs", *sys.argv[2:]]
sys.exit(main())
"""


class NotingMount(MountedJob):
    """A mount that notes its requests."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", _NOTED, str(self.home / "notes"), *super().command()[3:]]

    def noted(self, what: str) -> list[int]:
        """The lengths of the requests of a kind, in order."""
        lines = (self.home / "notes").read_text().splitlines()
        return [size for kind, size in map(json.loads, lines) if kind == what]


def longest() -> int:
    """Bytes of the longest write that this machine's kernel sends."""
    if tuple(map(int, platform.release().split(".")[:2])) < (4, 20):
        return 128 * KIB
    limit = Path("/proc/sys/fs/fuse/max_pages_limit")
    pages = int(limit.read_text()) if limit.exists() else 256
    return min(pages * mmap.PAGESIZE, MIB)


def test_a_write_of_a_mebibyte_is_one_request(server: Server, tmp_path: Path) -> None:
    """fuse/notes.md, Files: where the kernel offers it; and what is not a multiple arrives as it was written."""
    text = os.urandom(3 * MIB + 5)
    with gone_afterwards(NotingMount(server, tmp_path / "home")) as mounted:
        with (mounted.path / "file").open("wb", buffering=0) as file:
            assert file.write(text) == len(text)
        whole, rest = divmod(len(text), longest())
        assert mounted.noted("write") == [longest()] * whole + [rest]
        for flags in ("", ",direct"):
            command = ["dd", f"if={mounted.path}/file", "bs=1M", f"iflag=fullblock{flags}"]
            assert subprocess.run(command, check=True, capture_output=True).stdout == text
        assert max(mounted.noted("read")) == 128 * KIB
        mounted.wait_until_settled({"file": text})
