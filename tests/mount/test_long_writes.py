"""How long the requests are in which a program's reads and writes reach the mount (fuse/notes.md, Files)."""

from __future__ import annotations

import json
import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

from tests.support.mounts import MountedJob, gone_afterwards
from tests.support.serverside import visible

from jobfs.emulator import Server

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
        mounted.wait_until_settled()
    assert visible(server) == {"file": text}
