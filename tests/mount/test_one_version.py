"""A file that the job rewrites in place while programs have it open: each open file is one version, or an error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.support.mounts import MountedJob
from tests.support.programs import paused, program
from tests.support.waiting import eventually

from jobfs.emulator import Server

SIZE = 4 << 20
OLD, NEW = os.urandom(SIZE), os.urandom(SIZE)


@pytest.mark.parametrize("new", [NEW[:-2000], NEW + NEW[:2000]], ids=["shorter", "longer"])
def test_a_reader_has_the_size_of_its_version(
    server: Server, mounted: MountedJob, tmp_path: Path, new: bytes
) -> None:
    """vfs/semantics.md 3.13: neither cut nor padded with zeros, also while other programs stat the path."""
    there = OLD[:-100]
    server.store.seed({"file": there}, age=60)
    path = mounted.path / "file"
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 8192, SIZE - 4096) == there[-3996:]
        server.store.write("file", new)
        eventually(lambda: path.stat().st_size == len(new))
        looks = ["sh", "-c", f"while [ ! -e {tmp_path}/done ]; do [ -e {path} ]; [ -s {path} ]; done"]
        with subprocess.Popen(looks) as first, subprocess.Popen(looks) as second:
            try:
                seen = {os.pread(file.fileno(), 4096, SIZE - 1000) for _ in range(3000)}
                assert os.fstat(file.fileno()).st_size == len(there)
            finally:
                (tmp_path / "done").touch()
        assert (first.returncode, second.returncode, seen) == (0, 0, {there[-900:]})
    assert path.read_bytes() == new


def test_two_mapped_versions_have_separate_pages(server: Server, mounted: MountedJob, tmp_path: Path) -> None:
    """vfs/semantics.md 3.13: of one size, and mapped to be shared; 2.15: for a moment the new one may not be mapped."""
    server.store.seed({"file": OLD}, age=60)
    path, shown = mounted.path / "file", set[bytes]()
    words = program("a read-only mapping").command(path)

    def maps_new() -> bool:
        # A page that can't be had ends the program that has it mapped.
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True)
        shown.add(done.stdout or done.stderr[-15:])
        return NEW in shown

    with paused(mounted.home, tmp_path, {path: program("mapped long before it is read again")}) as before:
        server.store.write("file", NEW)
        eventually(maps_new)
    assert ({*before.values()} == {OLD}, shown <= {b"No such device\n", OLD, NEW}) == (True, True)
