"""A file that the job rewrites in place while programs have it open: each open file is one version, or an error."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from tests.support.mounts import MountedJob
from tests.support.waiting import eventually

from jobfs.emulator import Server

SIZE = 4 << 20
OLD, NEW = os.urandom(SIZE), os.urandom(SIZE)


@pytest.mark.parametrize("new", [NEW[:-2000], NEW + NEW[:2000]], ids=["shorter", "longer"])
def test_a_reader_has_the_size_of_its_version(
    server: Server, mounted: MountedJob, tmp_path: Path, new: bytes
) -> None:
    """vfs/semantics.md 3.13: neither cut nor filled up with zeros, whoever looks at the path meanwhile."""
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


#: Maps the file to be shared, and tells the hash of all of it, now and once there is a line to read.
_HASHED = """
import hashlib, mmap, sys
with open(sys.argv[1], "rb") as file:
    pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print(hashlib.sha256(pages).hexdigest(), flush=True)
sys.stdin.readline()
print(hashlib.sha256(pages).hexdigest())
"""


def test_two_versions_that_are_mapped_have_pages_of_their_own(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 3.13: of one size, and mapped to be shared; 2.15: for a moment the new one may not be mapped."""
    server.store.seed({"file": OLD}, age=60)
    words = [sys.executable, "-c", _HASHED, str(mounted.path / "file")]
    old, new = (sha256(content).hexdigest() + "\n" for content in (OLD, NEW))
    run = partial(subprocess.run, words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seen: dict[str, int] = {}
    # A page that can't be had ends the program that has it mapped.
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as before:
        first = before.stdout.readline() if before.stdout else ""
        server.store.write("file", NEW)
        eventually(lambda: seen.setdefault((it := run()).stdout or it.stderr[-15:], 1) and new + new in seen)
        again, _ = before.communicate("\n", timeout=40)
    assert (first, again, seen.keys() - {"No such device\n", old + old}) == (old, old, {new + new})
