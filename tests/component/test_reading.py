"""Reading contents from the local server: once per version, piece by piece, whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.files import errno_from
from tests.support.serverside import contents
from tests.support.waiting import eventually, eventually_equal
from tests.support.workspaces import Start, Workspace, wait_until_settled

from jobfs.emulator import Server
from jobfs.namespace import remote

BIG = os.urandom(3_000_000)
JOBS, OURS = b"the job's change", b"the user's own"


def test_a_version_is_downloaded_once_across_restarts_too(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.2: a version in the content cache is never downloaded again, across remounts too."""
    server.store.seed({"a": b"text", "b": BIG}, age=60)
    work = start()
    for _ in range(3):
        assert (work.read("a"), work.read("b")) == (b"text", BIG)
    downloads = server.log.count("download")
    work.remount()
    assert (work.read("a"), work.read("b")) == (b"text", BIG)
    assert server.log.count("download") == downloads


def test_the_first_bytes_are_served_during_the_download(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.3: the first bytes are served as they arrive; nobody waits for the whole file."""
    server.store.seed({"big": BIG}, age=60)
    server.set(bandwidth=1_000_000)
    work = start()
    with work.opening("big", os.O_RDONLY) as fh:
        assert work.vfs.read(fh, 1000, 0) == BIG[:1000]
        assert not [e for e in server.log.entries("download") if e.status is None], "the answer has begun"
        server.set(bandwidth=0)


def test_a_hung_download_is_an_error_and_can_be_repeated(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.15: no call can hang for ever; a hung server makes EIO or ETIMEDOUT."""
    server.store.seed({"file": b"content" * 1000}, age=60)
    work = start(timeout=1.0)
    assert work.names() == ["file"]
    server.faults.set_rate("hang", 1.0, on="download")
    assert errno_from(work.read, "file") in (errno.EIO, errno.ETIMEDOUT)
    server.faults.clear()
    eventually(lambda: errno_from(work.read, "file") == 0)
    assert work.read("file") == b"content" * 1000


def test_an_open_file_is_pinned_to_the_version_it_opened(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.1, 3.13: open files are pinned; a new open shows the new version within the TTL."""
    server.store.seed({"file": b"the first version"}, age=60)
    work = start()
    with work.opening("file", os.O_RDONLY) as fh:
        assert work.vfs.read(fh, 9, 0) == b"the first"
        eventually(lambda: work.vfs.read(fh, 100, 0) == b"the first version")
        server.store.replace("file", b"another, rather longer one")
        eventually_equal(lambda: work.read("file"), b"another, rather longer one")
        assert work.vfs.read(fh, 9, 0) == b"the first"
        assert work.vfs.read(fh, 100, 10) == b"version", "what is read to the end is of one version"


def test_a_handle_released_during_its_read_leaves_no_use_behind(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 3.16: Ctrl-C works: a program that was interrupted in a read closes the file during the read."""
    server.store.seed({"log": b"one\n"}, age=60)
    work = start(ttl=0)
    content = work.vfs._write_back.content
    fh = work.vfs.open("log", os.O_RDONLY).fh
    assert work.vfs.read(fh, 100, 0) == b"one\n"
    server.store.replace("log", b"one\ntwo\n")
    monkeypatch.setattr(remote, "_PATIENCE", 60.0)
    server.faults.set_rate("slow", 1.0, on="read", delay=1.5)
    asked = server.log.count("list") + server.log.count("find")
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(errno_from, work.vfs.read, fh, 100, 4)
        eventually(lambda: server.log.count("list") + server.log.count("find") > asked)
        work.vfs.release(fh)
        assert reading.result() == errno.EBADF
    assert [version for version, fetcher in content._fetchers.items() if fetcher.cached.pins] == []


@pytest.mark.parametrize("resolution", ["seconds", "milliseconds"])
def test_quick_changes_of_the_same_size_are_distinguished(
    server: Server, start: Start, resolution: str
) -> None:
    """vfs/semantics.md 3: content is immutable per version, however coarse the server's clock is."""
    server.set(updated_resolution=resolution)
    server.store.seed({"file": b"version 0"})
    work = start(ttl=0.1)
    for number in range(4):
        server.store.write("file", b"version %d" % number)
        eventually_equal(lambda number=number: work.read("file"), b"version %d" % number)  # type: ignore[misc]


def test_the_cache_is_bounded_and_never_evicts_unsent_bytes(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.11, 3.12: bounded by --cache-size; dirty and unsent data is never evicted and does not count."""
    server.store.seed({f"f{n}": bytes([n]) * 300_000 for n in range(12)}, age=60)
    work = start(cache_size="1MiB", write_back_delay=60)
    work.write("unsent", b"u" * 2_000_000)
    for n in range(12):
        assert work.read(f"f{n}") == bytes([n]) * 300_000
    eventually(lambda: work.vfs.status()["cache"]["bytes"] <= 2**20, lambda: work.vfs.status()["cache"])
    assert work.read("unsent") == b"u" * 2_000_000


def test_no_edition_outlasts_its_snapshot(server: Server, start: Start) -> None:
    """vfs/semantics.md 1: a change made by the job is visible to a new stat within the TTL."""
    server.store.seed({"a": "x"}, age=60)
    work = start(ttl=1.2)
    eventually(lambda: work.names() and work.vfs.edition_if_fresh())
    assert [work.vfs.changes_only_with_edition(path) for path in ("a", ".jobfs/status.json")] == [True, False]
    before = work.vfs.edition_if_fresh()
    work.vfs.chown("a", 7, 8)
    assert work.vfs.edition_if_fresh() != before, "what is changed here counts too"
    eventually(lambda: not work.vfs.edition_if_fresh())
    server.store.write("a", "longer")
    assert work.vfs.getattr("a").size == 6


def test_fstat_at_the_end_of_a_file_shows_that_it_has_grown(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 3: a reader at end of file whose item has grown follows the new version: the kernel asks for its size."""
    server.store.seed({"run.log": "one\n", "empty": ""}, age=60)
    opened = {name: work.vfs.open(name, os.O_RDONLY).fh for name in ("run.log", "empty")}
    assert work.vfs.read(opened["run.log"], 4, 0) == b"one\n"
    server.store.append("run.log", "two\n")
    server.store.append("empty", "no more\n")
    for name, size in (("run.log", 8), ("empty", 8)):
        eventually(lambda name=name, size=size: work.vfs.fgetattr(opened[name]).size == size)  # type: ignore[misc]
    assert work.vfs.read(opened["run.log"], 4, 4) == b"two\n"
    for fh in opened.values():
        work.vfs.release(fh)


def test_a_later_change_of_the_job_does_not_count_as_read(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4, Keep both: changed by the job since this file was opened; a program that writes follows no log."""
    opened, now = b"as it was opened", b"as it was opened, and more"
    server.store.seed({"file.txt": opened}, age=60)
    with work.opening("file.txt") as fh:
        assert work.vfs.read(fh, 100, 0) == opened
        server.store.write("file.txt", now)
        eventually(lambda: work.vfs.getattr("file.txt").size == len(now))
        assert [work.vfs.read(fh, 100, len(opened)) for _ in range(4)] == [b""] * 4
        assert work.vfs.fgetattr(fh).size == len(opened)
        work.vfs.ftruncate(fh, 0)
        work.vfs.write(fh, b"the user's", 0)
    wait_until_settled(work)
    assert server.store.read("file.txt") == b"the user's"
    assert sorted(contents(server)) == [now, b"the user's"]


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


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR], ids=["to be read", "to be edited"])
def test_open_finds_an_item_that_the_job_has_recreated(server: Server, work: Workspace, flags: int) -> None:
    """vfs/semantics.md 5: 404: the cached item is dropped, and the name is looked at again."""
    server.store.seed({"file": b"the first", "gone": b"and not made anew"}, age=60)
    assert work.names() == ["file", "gone"]
    server.store.delete("file")
    server.store.delete("gone")
    server.store.seed({"file": b"another item"})
    fh = work.vfs.open("file", flags).fh
    assert work.vfs.read(fh, 100, 0) == b"another item"
    work.vfs.release(fh)
    assert errno_from(work.vfs.open, "gone", flags) == errno.ENOENT
    assert errno_from(work.vfs.getattr, "gone") == errno.ENOENT, "that is known from then on"


def by_truncating(work: Workspace) -> None:
    work.write("file", OURS)


def by_renaming_over(work: Workspace) -> None:
    work.write("new", OURS)
    work.vfs.rename("new", "file")


@pytest.mark.parametrize("save", [by_truncating, by_renaming_over])
@pytest.mark.parametrize("shown", [False, True])
def test_a_program_without_notes_replaces_the_shown_version(
    server: Server, start: Start, save: Callable[[Workspace], None], shown: bool
) -> None:
    """vfs/semantics.md 4.43: it may not have read that; but editors compare the time of change, which differs."""
    server.store.seed({"file": b"what was read"}, age=60)
    work = start(ttl=600)  # it looks again only on request
    assert work.read("file") == b"what was read"
    before = work.vfs.getattr("file").mtime_ns
    server.store.write("file", JOBS)
    if shown:
        work.vfs.refresh()
        assert work.vfs.getattr("file").mtime_ns != before
    save(work)
    wait_until_settled(work)
    assert server.store.read("file") == OURS
    assert sorted(contents(server)) == sorted([OURS] if shown else [OURS, JOBS])
