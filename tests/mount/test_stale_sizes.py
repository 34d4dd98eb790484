"""Programs that go by a file's size, opened while the kernel has an older one (vfs/semantics.md 3, Open files are pinned)."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.support.files import errno_from
from tests.support.mounts import Mount, MountedJob, run
from tests.support.programs import PROGRAMS, Program, needs_all
from tests.support.serverside import untimed, visible
from tests.support.waiting import eventually

#: A script that shows itself, so that it can be executed as well as read.
OLD = b'#!/bin/sh\ncat "$0"; exit\n' + b"an old line\n" * 20
ADDED, MINE = b"the job's new lines\n" * 3, b"mine\n"
LARGE = 5 << 18


WRITERS = [each for each in PROGRAMS if each.writes and not each.replaces]
READERS = [each for each in PROGRAMS if not each.writes]

#: Opens its file until that is new, and writes `MINE` at the end.
AS_SOON_AS_IT_IS_NEW = """if True:
    import os, sys
    while True:
        fd = os.open(sys.argv[1], os.O_RDWR)
        end = os.lseek(fd, 0, 2)
        if b"new" in os.pread(fd, 60, 0):
            break
        os.close(fd)
    os.pwrite(fd, b"mine\\n", end)
"""


def seeded(mounted: MountedJob, programs: Iterable[Program], old: bytes = OLD) -> dict[str, Program]:
    """Return the file of each program, executable."""
    files = {f"file{number}": each for number, each in enumerate(programs)}
    mounted.server.store.seed(dict.fromkeys(files, old), age=60)
    for file in files:
        (mounted.path / file).chmod(0o755)
    return files


def look(mounted: MountedJob, file: str, old: bytes = OLD) -> None:
    """The kernel learns the old size of a file, or has it still."""
    assert (mounted.path / file).stat().st_size == len(old)


def end_of_each(mounted: MountedJob, programs: Iterable[Program], old: bytes, new: bytes) -> None:
    """Let each program write `MINE` to a file that the kernel knows as `old` and that is `new`: it has to be at the end."""
    files = seeded(mounted, programs, old)
    for file, each in files.items():
        look(mounted, file, old)
        mounted.server.store.write(file, new)
        run(mounted.path, *each.command(mounted.path / file, "mine"))
    mounted.wait_until_settled()
    tree = untimed(visible(mounted.server))
    found = {each.name: tree[file] for file, each in files.items()}
    assert {name: (data or b"")[-100:] for name, data in found.items() if data != new + MINE} == {}
    assert tree.keys() == files.keys()


@pytest.mark.parametrize("new", [OLD + ADDED, OLD[:100]], ids=["longer", "shorter"])
def test_a_writer_finds_the_end_of_the_version_that_the_job_wrote(mount: Mount, new: bytes) -> None:
    """vfs/semantics.md 3.17: that of the version which it opened."""
    end_of_each(mount(ttl=60), WRITERS, OLD, new)


def test_a_writer_finds_the_end_of_a_large_file_the_job_appended_to(mount: Mount) -> None:
    """vfs/semantics.md 3.17: such a file is fetched after its open, and looked up by it."""
    old = OLD + b"padding\n" * (LARGE // 8)
    # Its write may be ESTALE: the kernel has one set of pages for both (3.13).
    writers = [each for each in WRITERS if each.name != "two threads at once"]
    end_of_each(mount(ttl=60), writers, old, old + ADDED)


@pytest.mark.parametrize("mode", ["rb", "r+b"])
def test_a_first_open_finds_the_new_end_while_the_old_version_is_open(mounted: MountedJob, mode: str) -> None:
    """vfs/semantics.md 3.17: whether that program reads or writes."""
    new = OLD.replace(b"old", b"new") + ADDED
    mounted.server.store.seed({"file": OLD}, age=60)
    with (mounted.path / "file").open(mode) as before:
        assert before.read() == OLD
        mounted.server.store.write("file", new)
        run(mounted.path, sys.executable, "-IS", "-c", AS_SOON_AS_IT_IS_NEW, "file")
    mounted.wait_until_settled({"file": new + MINE})


@needs_all(READERS)
def test_a_reader_that_relies_on_the_size_gets_a_whole_version(mount: Mount, tmp_path: Path) -> None:
    """vfs/semantics.md 3.17: never a piece of a longer one."""
    mounted, new = mount(ttl=60), OLD.replace(b"old", b"new") + ADDED
    files = seeded(mounted, READERS)
    for file in files:
        look(mounted, file)
        mounted.server.store.write(file, new)
    shown = dict[str, str]()
    for file, each in files.items():
        look(mounted, file)
        shown[each.name] = run(mounted.path, *each.command(mounted.path / file, scratch=tmp_path / file))
    assert {name: said[-30:] for name, said in shown.items() if said != new.decode()} == {}


def test_a_reader_gets_no_zeros_behind_the_end_of_a_shorter_version(mounted: MountedJob) -> None:
    """vfs/semantics.md 3.17: the job writes the file after the open; no byte has been read."""
    mounted.server.store.seed({"file": b"o" * (2 << 20)}, age=60)
    assert (mounted.path / "file").stat().st_size == 2 << 20
    with (mounted.path / "file").open("rb", buffering=0) as file:
        mounted.server.store.write("file", b"n" * 1000)
        assert b"".join(iter(lambda: file.read(128 << 10), b"")) == b"n" * 1000


def test_a_mapped_page_adds_no_zeros_to_a_newer_version(mount: Mount) -> None:
    """vfs/semantics.md 3.17: the kernel fills the page up to the size that it was sent last, and writes all of it."""
    mounted, new = mount(ttl=0.5), OLD + ADDED
    mounted.server.store.seed({"file": OLD}, age=60)
    fd = os.open(mounted.path / "file", os.O_RDWR)
    try:
        with mmap.mmap(fd, 0) as pages:
            pages[: len(MINE)] = MINE
            mounted.server.store.write("file", new)
            eventually(lambda: os.fstat(fd).st_size == len(new))
            assert errno_from(pages.flush) == errno.ESTALE
    finally:
        os.close(fd)
    mounted.wait_until_settled()
    assert untimed(visible(mounted.server)) == {"file": new}
