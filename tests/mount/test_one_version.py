"""A file that the job rewrites in place while programs have it open: each open file is one version, or an error."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.mounts import MountedJob
from tests.support.programs import paused, program
from tests.support.waiting import eventually, eventually_equal

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


@pytest.mark.parametrize("readers", [1, 3])
def test_tail_follows_a_log_that_another_program_has_read(
    server: Server, mounted: MountedJob, tmp_path: Path, readers: int
) -> None:
    """vfs/semantics.md 3.14: the kernel gives each program the pages that it has read for another, without a read here."""
    server.store.seed({"log": b"line\n"}, age=60)
    path, shown = mounted.path / "log", b"line\n"
    assert path.read_bytes() == shown
    outputs = [tmp_path / f"{number}.out" for number in range(readers)]
    with ExitStack() as stack:
        for output in outputs:
            tail = ["tail", "-n", "+1", "-s", "0.05", "-f", str(path)]
            with output.open("wb") as file:
                process = stack.enter_context(subprocess.Popen(tail, stdout=file))
            stack.callback(process.kill)
        for line in (b"", b"one\n", b"two\n", b"three\n"):
            shown += line
            server.store.append("log", line)
            eventually_equal(lambda: [output.read_bytes() for output in outputs], [shown] * readers)


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
