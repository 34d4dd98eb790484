"""Each open file is one version, whatever the job, or this mount, does to its item."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.files import errno_from
from tests.support.waiting import eventually, eventually_equal
from tests.support.workspaces import CALLER, Start, Workspace

from jobfs.emulator import Server

SIZE = 4 << 20
LOG = b"".join(b"line %d\n" % number for number in range(2000))
OLD, NEW = os.urandom(SIZE), os.urandom(SIZE)
END, MIDDLE = SIZE - 4096, SIZE // 2


def open_at_end(work: Workspace, path: str, flags: int = os.O_RDONLY) -> int:
    """A handle through which the end of a large file was read; nothing else of the file is here."""
    fh = work.vfs.open(path, flags).fh
    assert work.vfs.read(fh, 4096, END) == OLD[END:]
    return fh


@pytest.mark.parametrize(
    ("change", "sizes", "now", "goes_on"),
    [
        ("write", "present", LOG + b"more\n", True),
        ("replace", "omitted", LOG + b"more\n", True),
        ("write", "present", LOG.replace(b"line 0\n", b"LINE 0\n") + b"more\n", True),
        ("write", "omitted", LOG[:-2] + b"!\nmore\n", False),
        ("replace", "present", b"a new log\n" * 3000, False),
        ("replace", "omitted", b"a new log\n", False),
    ],
    ids=[
        "grown",
        "replaced",
        "changed long before",
        "changed just before",
        "recreated, longer",
        "recreated, shorter",
    ],
)
def test_a_reader_at_the_end_follows_a_file_only_if_it_has_grown(
    server: Server, work: Workspace, change: str, sizes: str, now: bytes, goes_on: bool
) -> None:
    """vfs/semantics.md 3.14: with a newer version that is longer and has the same last 4 KiB before the reader's place."""
    server.set(sizes=sizes)
    server.store.seed({"log": LOG}, age=60)
    fh = work.vfs.open("log", os.O_RDONLY).fh
    assert work.vfs.read(fh, 100_000, 0) == LOG
    assert work.vfs.read(fh, 100, len(LOG)) == b""
    getattr(server.store, change)("log", now)
    if goes_on:
        eventually_equal(lambda: work.vfs.read(fh, 100, len(LOG)), b"more\n")
    else:
        eventually(lambda: work.read("log") == now)
        for _ in range(3):
            assert work.vfs.read(fh, 100, len(LOG)) == b""
        assert work.vfs.read(fh, 100_000, 0) == LOG
    work.vfs.release(fh)


def test_a_reader_of_a_log_follows_appends_after_its_version_is_gone(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.14: also where the job appends to it while the rest is on its way."""
    work = start(ttl=0)
    more = os.urandom(SIZE)
    server.store.seed({"log": OLD}, age=60)
    fh = work.vfs.open("log", os.O_RDONLY).fh
    seen = b""

    def read(size: int) -> bytes:
        nonlocal seen
        seen += (piece := work.vfs.read(fh, size, len(seen)))
        return piece

    while len(seen) < SIZE:
        read(131_072)
    server.store.append("log", more)
    eventually(lambda: read(131_072))
    server.store.append("log", b"and the end")
    eventually(lambda: read(131_072) == b"" and len(seen) > 2 * SIZE)
    assert seen == OLD + more + b"and the end"
    work.vfs.release(fh)


@pytest.mark.parametrize(
    ("change", "written"),
    [("rename", False), ("rename over", True), ("chmod", False), ("chmod", True), ("renamed over", False)],
)
def test_a_change_by_this_mount_keeps_the_version_of_an_open_file(
    server: Server, start: Start, change: str, written: bool
) -> None:
    """vfs/semantics.md 3.13: on a server where each update moves `updatedAt`; an earlier write of the job is another version."""
    server.set(move_touches="item")
    work = start(ttl=60)
    server.store.seed({"file": OLD, "other": b"other"}, age=60)
    fh = open_at_end(work, "file")
    if written:
        server.store.write("file", NEW)
    if change == "chmod":
        work.vfs.chmod("file", 0o444)
    elif change == "renamed over":
        work.vfs.rename("other", "file")
    else:
        work.vfs.rename("file", "other" if change == "rename over" else "new")
    if written:
        assert errno_from(work.vfs.read, fh, 4096, MIDDLE) == errno.ESTALE
    else:
        assert work.vfs.read(fh, 4096, MIDDLE) == OLD[MIDDLE : MIDDLE + 4096]
    assert work.vfs.read(fh, 4096, END) == OLD[END:]
    work.vfs.release(fh)


def test_an_open_file_with_cached_pages_gets_no_bytes_of_another_version(
    server: Server, start: Start
) -> None:
    """vfs/semantics.md 3.13: the kernel has one set of pages for a path: what it has read for one program, it gives to others."""
    work = start(ttl=60)
    server.store.seed({"file": OLD}, age=60)
    idle = work.vfs.open("file", os.O_RDONLY).fh
    reader = open_at_end(work, "file")
    server.store.write("file", NEW)
    for fh in (reader, idle):
        assert errno_from(work.vfs.read, fh, 4096, MIDDLE) == errno.ESTALE
    assert work.read("file", 4096, MIDDLE) == NEW[MIDDLE : MIDDLE + 4096], (
        "who opens it now gets what is there"
    )
    for fh in (reader, idle):
        work.vfs.release(fh)


def test_a_file_whose_pages_were_kept_gets_no_bytes_of_another_version(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.13: the program may have read the pages, whatever became of the cache since."""
    work = start(ttl=60)
    server.store.seed({"file": "content"}, age=60)
    kept: list[int] = []

    def keeps_pages() -> bool:
        result = work.vfs.open("file", os.O_RDONLY)
        if result.keep_cache:
            kept.append(result.fh)
        else:
            assert work.vfs.read(result.fh, 7, 0) == b"content"
            work.vfs.release(result.fh)
        return result.keep_cache

    eventually(keeps_pages, "the content is whole in the cache soon after it was read")
    (fh,) = kept
    for cached in (path for path in (work.home / "cache").rglob("*") if path.is_file()):
        cached.unlink()
    server.store.write("file", b"another")
    assert errno_from(work.vfs.read, fh, 7, 0) == errno.ESTALE
    work.vfs.release(fh)


def test_a_partial_write_is_not_completed_from_another_version(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.13, 4.1: a partial write is filled with the version that was opened, or fails."""
    work = start(ttl=60)
    server.store.seed({"file": OLD}, age=60)
    server.set(bandwidth=SIZE // 4)
    server.faults.fail_next("cut", on="download")
    with work.opening("file") as fh:
        eventually(lambda: server.log.count("download"), "a file being edited is fetched in the background")
        assert work.vfs.read(fh, 4096, END) == OLD[END:]
        server.store.write("file", NEW)
        server.set(bandwidth=0)
        assert errno_from(work.vfs.write, fh, b"x", 0) == errno.ESTALE
    assert server.store.read("file") == NEW


def test_a_reader_gets_no_bytes_the_job_wrote_just_before_a_rename(
    server: Server, mortal: Callable[..., Mortal]
) -> None:
    """vfs/semantics.md 3.13, 9: where moves keep `updatedAt`, the reply shows what the job has written since the look."""
    size = 6_000_000
    server.set(move_touches="no")
    server.store.seed({"file": b"a" * size, "other": b"x"}, age=60)
    work = mortal(At("before update", 3, lambda: server.store.write("file", b"b" * size)))
    work.boundaries.arm()
    work.write(
        "other", b"y", flags=os.O_WRONLY | os.O_TRUNC, fsync=True
    )  # its two updates show that moves keep `updatedAt`
    server.set(bandwidth=1_000_000)
    with work.opening("file", os.O_RDONLY) as fh:
        assert work.vfs.read(fh, 4096, 0) == b"a" * 4096
        work.vfs.rename("file", "new", CALLER.pid)
        server.set(bandwidth=0)
        assert errno_from(work.vfs.read, fh, 4096, size - 4096) == errno.ESTALE
    assert work.boundaries.struck
