"""A file that the job, or a program, rewrites while others have it open: each of them gets one version whole, or an error."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from tests.support.files import save_file
from tests.support.mounts import Mount, MountedJob, run
from tests.support.programs import paused, program
from tests.support.waiting import eventually, eventually_equal

from jobfs.emulator import Server

PAGE, SIZE = 4096, 4 << 20
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


@pytest.mark.parametrize("how", ["pages here and there", "a mapping's pages here and there"])
def test_random_reads_of_a_file_being_rewritten_are_of_one_version(
    server: Server, mount: Mount, tmp_path: Path, how: str
) -> None:
    """vfs/semantics.md 3.13: whatever one handle gives is of one version; what can't be had any more is an error."""
    path, broken = mount(ttl=0.1).path / "file", 0
    versions = [os.urandom(SIZE + number // 2 * PAGE) for number in range(5)]
    server.store.seed({"file": versions[0]}, age=60)
    for number, (old, new) in enumerate(pairwise(versions), 1):
        is_cached, copy = number % 2 == 0, tmp_path / f"copy{number}"
        if is_cached:
            # Before, it may be so young that its timestamp proves nothing (3.2): then a later open fetches it again.
            eventually(lambda: path.stat().st_mtime < time.time() - 2)
            run(path.parent, "sh", "-c", "cat file > /dev/null")
        server.set(bandwidth=10_000_000)
        words, pipe = program(how).command(path, wait="echo waits; read -r go", scratch=copy), subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"waits\n"
            change = server.store.replace if number > 2 else server.store.write
            change("file", new)
            server.set(bandwidth=0)
            # The kernel hears of the other size.
            eventually(lambda new=new: path.stat().st_size == len(new))  # type: ignore[misc]
            shown, output = reader.communicate(b"\n", timeout=60)
        if reader.returncode:
            broken += 1
            assert not is_cached
            assert reader.returncode == -signal.SIGBUS or b"Stale file handle" in output, output
            read = copy.read_bytes()
            pages = {at: read[at : at + PAGE] for at in range(0, len(read), PAGE)}
            assert [
                at for at, page in pages.items() if page not in (old[at : at + PAGE], bytes(len(page)))
            ] == []
        else:
            assert shown == old
    assert broken > 0
    eventually(lambda: path.read_bytes() == versions[-1])


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


@pytest.mark.parametrize("how", ["sed -i", "r+, seek, fsync"], ids=["by a rename", "in place"])
def test_a_name_exists_at_every_moment_of_a_save(
    server: Server, mounted: MountedJob, tmp_path: Path, how: str
) -> None:
    """vfs/semantics.md 4: rename replaces in one step."""
    server.store.seed({"file": "a line\n"}, age=60)
    path, looks, done = mounted.path / "file", tmp_path / "looks", tmp_path / "done"
    looks.touch()
    wait = f"until [ -e {done} ]; do sleep 0.02; done"
    words = program("again and again").command(path, wait=wait, scratch=looks)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as watcher:
        try:
            for number in range(25):
                # Two saves between a lookup and its open are too many: the kernel looks up once more, and not twice.
                seen = looks.stat().st_size
                eventually(lambda seen=seen: looks.stat().st_size >= seen + 2 or watcher.poll())  # type: ignore[misc]
                run(mounted.path, *program(how).command(path, f"line {number}"))
        finally:
            done.touch()
        shown, _ = watcher.communicate(timeout=20)
    assert (watcher.returncode, shown) == (0, path.read_bytes()), shown


# what the kernel has cached


def test_bytes_the_job_writes_right_after_a_save_are_read_whole(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 1, TTL: not cut to the size of our own bytes, which the kernel has asked for."""
    server.store.seed({"dir/file.txt": "x" * 100}, age=60)
    old, new = mounted.path / "dir/file.txt", mounted.path / "folder/file.txt"
    for number in range(5):
        with old.open("r+b", buffering=0) as file:
            file.write(b"the user's %d" % number)
            file.truncate()
            os.fsync(file.fileno())
            os.fstat(file.fileno())
        old.parent.rename(new.parent)
        old, new = new, old
        grown = b"what the job wrote, and that is longer: %d" % number
        server.store.write(str(old.relative_to(mounted.path)), grown)
        read = set[bytes]()
        eventually(lambda read=read, grown=grown, path=old: read.add(path.read_bytes()) or grown in read)  # type: ignore[misc]
        assert read <= {b"the user's %d" % number, grown}


def test_a_reopened_file_has_its_current_content(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 3: open revalidates; own changes are visible at once, the job's within the TTL."""
    one, two, three = (bytes([letter]) * 9000 for letter in b"123")
    server.store.seed({"a": one, "b": two, "d/c": three}, age=60)
    a, b, c = (mounted.path / name for name in ("a", "b", "d/c"))

    def show(*contents: bytes) -> None:
        for _ in range(3):
            assert [path.read_bytes() for path in (a, b, c)] == [*contents]

    show(one, two, three)
    b.rename(mounted.path / "kept")
    a.rename(b)
    (mounted.path / "kept").rename(a)
    show(two, one, three)
    with a.open("rb") as still:
        assert still.read(10) == two[:10]
        save_file(a, three)
        show(three, one, three)
    server.store.write("d/c", one)
    eventually(lambda: c.read_bytes() == one)
    show(three, one, one)
    server.store.replace("b", two)
    eventually(lambda: b.read_bytes() == two)
    show(three, two, one)
    server.store.move("d/c", "b")
    eventually(lambda: not c.exists())
    for _ in range(3):
        assert b.read_bytes() == one
