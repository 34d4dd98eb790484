"""Reading: each open file shows one version, whatever the job does to its item."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.files import errno_from
from tests.support.serverside import contents
from tests.support.waiting import PATIENCE, eventually
from tests.support.workspaces import Start, wait_until_settled

from jobfs.emulator import Server

SIZE = 4 << 20
OLD, NEW = os.urandom(SIZE), os.urandom(SIZE)
END = SIZE - 4096


def test_the_first_bytes_are_served_during_the_download(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.3: the first bytes are served as they arrive; nobody waits for the whole file."""
    server.store.seed({"big": OLD}, age=60)
    server.set(bandwidth=1_000_000)
    work = start()
    with work.opening("big", os.O_RDONLY) as fh:
        assert work.vfs.read(fh, 1000, 0) == OLD[:1000]
        assert not [e for e in server.log.entries("download") if e.status is None], "the answer has begun"
        server.set(bandwidth=0)


def test_a_handle_released_during_its_read_leaves_no_use_behind(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.16: Ctrl-C works: a program that was interrupted in a read closes the file during the read."""
    server.store.seed({"log": b"one\n"}, age=60)
    work = start(ttl=0)
    content = work.write_back.content
    fh = work.vfs.open("log", os.O_RDONLY).fh
    assert work.vfs.read(fh, 100, 0) == b"one\n"
    server.store.replace("log", b"one\ntwo\n")
    work.write_back.client.health.latency = PATIENCE  # so the look at the name is given time
    server.faults.set_rate("slow", 1.0, on="read", delay=1.5)
    asked = server.log.count("list") + server.log.count("find")
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(errno_from, work.vfs.read, fh, 100, 4)
        eventually(lambda: server.log.count("list") + server.log.count("find") > asked)
        work.vfs.release(fh)
        assert reading.result() == errno.EBADF
    assert [version for version, fetcher in content._fetchers.items() if fetcher.cached.pins] == []


def test_a_size_that_cannot_be_determined_is_an_error_and_not_zero(server: Server, start: Start) -> None:
    """vfs/semantics.md 1.15, 2.2: a network failure never looks like an empty file."""
    server.set(sizes="omitted")
    server.store.seed({"file": "text"}, age=60)
    work = start(timeout=2.0)
    assert work.names() == ["file"]
    server.faults.set_rate("unavailable", 1.0, on="download")
    assert errno_from(work.vfs.getattr, "file") in (errno.EIO, errno.ETIMEDOUT)


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


# -- what counts as read, and is replaced by a save


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


def test_bytes_the_job_wrote_between_open_and_read_do_not_count_as_read(server: Server, start: Start) -> None:
    """vfs/semantics.md 4, Keep both: the kernel may have shown only a part of the version that is read instead."""
    old, added = b"x" * (2 << 20), b" and what the job added"
    server.store.seed({"large.bin": old}, age=60)
    work = start(ttl=60)
    server.faults.fail_next("slow", on="download", delay=0.3)
    with work.opening("large.bin") as fh:
        server.store.append("large.bin", added)
        shown = b"".join(work.vfs.read(fh, 1 << 20, place) for place in (0, 1 << 20))
        assert shown == old
        work.vfs.ftruncate(fh, 0)
        work.vfs.write(fh, b"the user's", 0)
    wait_until_settled(work)
    assert server.store.read("large.bin") == b"the user's"
    assert sorted(map(len, contents(server))) == sorted([len(b"the user's"), len(old + added)])


@pytest.mark.parametrize("shown", [False, True])
def test_a_program_without_notes_replaces_the_shown_version(
    server: Server, start: Start, shown: bool
) -> None:
    """vfs/semantics.md 4.43: it may not have read that; but editors compare the time of change, which differs."""
    server.store.seed({"file": b"what was read"}, age=60)
    work = start(ttl=600)  # it looks again only on request
    assert work.read("file") == b"what was read"
    before = work.vfs.getattr("file").mtime_ns
    server.store.write("file", b"the job's")
    if shown:
        work.vfs.refresh()
        assert work.vfs.getattr("file").mtime_ns != before
    work.write("file", b"the user's")
    wait_until_settled(work)
    assert server.store.read("file") == b"the user's"
    assert sorted(contents(server)) == sorted([b"the user's"] if shown else [b"the user's", b"the job's"])
