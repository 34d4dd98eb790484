"""Files opened while the kernel has another size of them (vfs/semantics.md 3.17)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.files import errno_from
from tests.support.programs import PROGRAMS, distinct
from tests.support.serverside import untimed, visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Start, Workspace, wait_until_settled

from jobfs.emulator import Server
from jobfs.vfs import KernelFile, OpenResult

OLD = b"an old line\n" * 20
NEW, MINE = OLD + b"the job's new line\n", b"mine\n"
LARGE = 2 << 20
#: How programs open a file that they do not empty, from the table of programs.
FLAGS = {name: each.flags & ~os.O_CREAT for name, each in distinct(PROGRAMS).items() if not each.replaces}
_APPENDS = [flags for flags in FLAGS.values() if flags & os.O_APPEND]
_BY_SIZE = [flags for flags in FLAGS.values() if flags != os.O_RDONLY and flags not in _APPENDS]


@pytest.fixture
def grown(server: Server, start: Start) -> Workspace:
    """A workspace that has shown a file which the job has replaced since, long enough ago for the cache (3.2)."""
    server.store.seed({"file": OLD}, age=60)
    work = start(ttl=60)
    assert work.vfs.getattr("file").size == len(OLD)
    server.store.delete("file")
    server.store.seed({"file": NEW}, age=30)
    return work


def open_file(work: Workspace, flags: int, size: int | None, *, is_retry: bool = False) -> OpenResult:
    return work.vfs.open("file", flags, CALLER.pid, KernelFile(size, is_retry))


def is_refused(work: Workspace, flags: int, size: int | None, *, is_retry: bool = False) -> bool:
    """True if an open fails with ESTALE, and no handle is left of it."""
    failed = errno_from(open_file, work, flags, size, is_retry=is_retry)
    assert failed in (0, errno.ESTALE)
    return bool(failed) and not work.vfs._files._handles and not work.vfs._state.opened


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_the_kernel_has_the_size_of_the_opened_version(server: Server, grown: Workspace, flags: int) -> None:
    """vfs/semantics.md 3.17: an open that would give another one fails, and a look-up shows the new size without a request."""
    assert is_refused(grown, flags, len(OLD))
    requests = server.log.count()
    assert grown.vfs.getattr("file").size == len(NEW)
    assert server.log.count() == requests
    result = open_file(grown, flags, len(NEW), is_retry=True)
    assert (result.direct_io, result.keep_cache) == (False, False)
    assert grown.vfs.fgetattr(result.fh).size == len(NEW)
    grown.vfs.release(result.fh)
    assert server.log.count("download") <= 2, "once in vain for the old version, once for the new one"


@pytest.mark.parametrize("sizes", ["present", "omitted"])
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_no_cached_reply_has_the_old_size_after_a_failed_open(
    server: Server, start: Start, flags: int, sizes: Any
) -> None:
    """vfs/semantics.md 3.17: also where two versions have the same size and time."""
    server.set(sizes=sizes, updated_resolution="seconds")
    server.store.seed({"file": OLD})
    work = start(ttl=60)
    work.vfs.refresh()
    assert work.vfs.getattr("file").size == len(OLD)
    edition = work.vfs.edition_if_fresh()
    server.store.write("file", NEW)
    assert is_refused(work, flags, len(OLD))
    assert work.vfs.edition_if_fresh() != edition
    assert work.vfs.getattr("file").size == len(NEW)


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_a_second_open_succeeds_where_the_size_keeps_changing(
    server: Server, grown: Workspace, flags: int
) -> None:
    """vfs/semantics.md 3.17, 5.15: a writer gets the version whose size the kernel has; nothing has changed."""
    result = open_file(grown, flags, len(OLD), is_retry=True)
    size, beside_cache = (len(NEW), True) if flags == os.O_RDONLY else (len(OLD), False)
    assert (result.direct_io, result.keep_cache) == (beside_cache, False)
    assert grown.vfs.fgetattr(result.fh).size == size
    if flags in _BY_SIZE:
        assert errno_from(grown.vfs.write, result.fh, MINE, len(OLD)) == errno.ESTALE
    grown.vfs.release(result.fh)
    assert (visible(server), server.log.changes()) == ({"file": NEW}, [])


@pytest.mark.parametrize("flags", _BY_SIZE)
@pytest.mark.parametrize("size", [0, len(OLD), None], ids=["empty", "shorter", "unknown"])
def test_a_program_with_another_size_of_a_file_must_empty_it_first(
    server: Server, grown: Workspace, flags: int, size: int | None
) -> None:
    """vfs/semantics.md 3.17: no write may be at the end of another version; what it has read in part is kept."""
    grown.vfs.refresh()
    fh = open_file(grown, flags, size, is_retry=True).fh
    if flags & os.O_ACCMODE == os.O_RDWR:
        assert grown.vfs.read(fh, 4096, 0) == NEW
    for place in (0, len(OLD), len(NEW), len(NEW) + 1):
        assert errno_from(grown.vfs.write, fh, MINE, place) == errno.ESTALE
    assert errno_from(grown.vfs.ftruncate, fh, len(OLD)) == errno.ESTALE
    grown.vfs.ftruncate(fh, 0)
    assert grown.vfs.write(fh, MINE, 0) == len(MINE)
    grown.vfs.release(fh)
    grown.drain()
    eventually(lambda: untimed(visible(server)) == {"file": MINE, "file.conflict": NEW})


@pytest.mark.parametrize("is_retry", [False, True], ids=["the other size", "a size that the kernel has not"])
def test_two_programs_with_two_sizes_of_a_file_leave_no_gap_in_it(
    server: Server, start: Start, is_retry: bool
) -> None:
    """vfs/semantics.md 3.17, 4.20: also once what the first one has written is on the server; the job's version is kept."""
    server.store.seed({"file": OLD}, age=60)
    work = start(ttl=60)
    first = open_file(work, os.O_RDWR, work.vfs.getattr("file").size).fh
    server.store.append("file", NEW)
    work.vfs.refresh()
    second = open_file(work, os.O_RDWR, 0 if is_retry else len(OLD + NEW), is_retry=is_retry).fh
    work.vfs.write(first, MINE, 0)
    for _ in range(2):
        assert errno_from(work.vfs.write, second, MINE, len(OLD + NEW)) == errno.ESTALE
        work.vfs.fsync(first)
    work.vfs.release(second)
    work.vfs.release(first)
    wait_until_settled(work)
    assert untimed(visible(server)) == {"file": MINE + OLD[len(MINE) :], "file.conflict": OLD + NEW}


def test_an_open_that_empties_a_file_needs_no_size(server: Server, grown: Workspace) -> None:
    """vfs/semantics.md 3.17."""
    with grown.closing(open_file(grown, os.O_WRONLY | os.O_TRUNC, None).fh) as fh:
        grown.vfs.write(fh, MINE, 0)
    grown.drain()
    assert server.store.read("file") == MINE


def test_a_failed_open_does_not_count_as_a_read(server: Server, grown: Workspace) -> None:
    """vfs/semantics.md 3.17, 4.42: a save keeps the version that its program was not given."""
    grown.server.store.write("file", OLD)
    grown.vfs.refresh()
    grown.vfs.release(open_file(grown, os.O_RDONLY, len(OLD)).fh)
    server.store.write("file", NEW)
    grown.vfs.refresh()
    assert is_refused(grown, os.O_RDONLY, len(OLD))
    result = open_file(grown, os.O_WRONLY | os.O_TRUNC, len(NEW))
    grown.vfs.write(result.fh, MINE, 0)
    grown.vfs.release(result.fh)
    grown.drain()
    eventually(lambda: untimed(visible(server)) == {"file": MINE, "file.conflict": NEW})


def test_the_kernel_keeps_no_pages_after_a_failed_open(grown: Workspace) -> None:
    """vfs/semantics.md 3.13: it has those of the version before still, and drops them at the next open."""
    grown.vfs.refresh()
    assert is_refused(grown, os.O_RDONLY, len(OLD))
    item = grown.vfs._namespace.peek("file")
    assert item is not None
    eventually(lambda: grown.vfs._content.is_cached(item))
    for kept in (False, True):
        result = open_file(grown, os.O_RDONLY, len(NEW), is_retry=True)
        assert result.keep_cache == kept
        grown.vfs.release(result.fh)


def test_an_open_of_the_size_that_the_kernel_has_makes_no_further_request(
    server: Server, start: Start
) -> None:
    """vfs/semantics.md 3.17: a file that nobody has changed is opened with the same requests."""
    work = start(ttl=60)
    for flags in FLAGS.values():
        made = list[list[str]]()
        for kernel in (None, KernelFile(len(OLD))):
            server.store.seed({"file": OLD}, age=60)
            work.vfs.refresh()
            before = server.log.count()
            work.vfs.release(work.vfs.open("file", flags, CALLER.pid, kernel).fh)
            made.append([entry.operation for entry in server.log.entries()[before:]])
        assert made[0] == made[1]


_BODY = os.urandom(LARGE)


@pytest.mark.parametrize(("flags", "new", "kept"), [
    (os.O_WRONLY, _BODY, {}), (os.O_RDWR, _BODY, {"file.conflict": _BODY}),
    (os.O_WRONLY | os.O_APPEND, _BODY + NEW, {}), (os.O_RDWR | os.O_APPEND, _BODY + NEW, {"file.conflict": _BODY + NEW}),
], ids=["a writer", "one that can read", "an appender", "one that can read, too"])  # fmt: skip
def test_a_file_that_replaced_the_opened_one_is_kept_if_the_writer_can_read(
    server: Server, start: Start, flags: int, new: bytes, kept: dict[str, bytes]
) -> None:
    """vfs/semantics.md 3.17, 4.20, 4.42: it may have read the other one, if only from the kernel's pages.

    A large file is fetched after its open; it may be written to if both have one size, or if the program appends.
    """
    server.store.seed({"file": bytes(LARGE)}, age=60)
    work = start(ttl=60)
    assert work.vfs.getattr("file").size == LARGE
    server.faults.set_rate("unavailable", 1.0, on="download")
    fh = open_file(work, flags, LARGE).fh
    server.store.delete("file")
    server.store.seed({"file": new}, age=30)
    server.faults.clear()
    eventually(lambda: not errno_from(work.vfs.write, fh, MINE, 0))
    work.vfs.release(fh)
    wait_until_settled(work)
    mine = new + MINE if flags & os.O_APPEND else MINE + new[len(MINE) :]
    assert untimed(visible(server)) == {"file": mine, **kept}


def test_a_page_of_a_mapping_changes_no_newer_version(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.17: a page that reaches the end of the newer version may be of that."""
    server.store.seed({"file": OLD}, age=60)
    work = start(ttl=60)
    with work.opening("file") as fh:
        server.store.write("file", NEW)
        work.vfs.refresh()
        assert errno_from(work.vfs.write, fh, NEW, 0, mapped=True) == errno.ESTALE
    work.drain()
    assert (visible(server), server.log.changes()) == ({"file": NEW}, [])


def test_a_size_that_was_never_shown_refuses_no_write(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.17: that of a newer version that nobody has looked at."""
    server.set(sizes="omitted")
    server.store.seed({"file": OLD}, age=60)
    work = start(ttl=60)
    fh = open_file(work, os.O_RDWR, work.vfs.getattr("file").size).fh
    server.store.write("file", NEW)
    work.vfs.refresh()
    assert work.vfs.write(fh, MINE, 0) == len(MINE)
    work.vfs.release(fh)
    work.drain()


def test_a_program_may_write_past_an_end_that_it_has_set(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.17: and where it wrote before, also once that is saved."""
    server.store.seed({"file": OLD}, age=60)
    work = start(ttl=60)
    fh = open_file(work, os.O_RDWR, work.vfs.getattr("file").size).fh
    for end in (len(OLD) + 50, len(OLD) + 90):
        work.vfs.ftruncate(fh, end)
        work.vfs.write(fh, MINE, end)
        work.vfs.fsync(fh)
        work.vfs.write(fh, MINE, len(OLD))
        work.vfs.fsync(fh)
        work.vfs.write(fh, MINE, end + 20)
        work.vfs.fsync(fh)
    work.vfs.release(fh)
    work.drain()
    assert [*untimed(visible(server))] == ["file"]


def rewritten_beside_the_next_version(server: Server, work: Workspace, old: bytes) -> None:
    """The program that read `old` saves all of it with `MINE`; the version with `NEW` is kept beside it."""
    fh = work.vfs.open("file", os.O_WRONLY | os.O_TRUNC, CALLER.pid).fh
    work.vfs.write(fh, old + MINE, 0)
    work.vfs.release(fh)
    work.drain()
    eventually(lambda: untimed(visible(server)) == {"file": old + MINE, "file.conflict": old + NEW})


@pytest.mark.parametrize("size", [1000, LARGE])
def test_a_save_keeps_a_version_read_only_up_to_the_old_size(server: Server, start: Start, size: int) -> None:
    """vfs/semantics.md 3.17, 4.42: it may have read only so many bytes of the longer version as the one before had."""
    old = os.urandom(size)
    server.store.seed({"file": old}, age=60)
    work = start(ttl=60)
    assert work.vfs.getattr("file").size == size
    server.faults.fail_next("cut", on="download", at=0.5)
    fh = open_file(work, os.O_RDONLY, size).fh
    server.store.append("file", NEW)
    assert work.vfs.read(fh, size, 0) == old
    work.vfs.release(fh)
    rewritten_beside_the_next_version(server, work, old)


def test_a_save_keeps_a_longer_version_whose_size_alone_was_read(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.14, 4.42: an open log shows it from then on, but no byte of it was read."""
    server.store.seed({"file": OLD}, age=60)
    work = start(ttl=0)
    assert work.vfs.getattr("file").size == len(OLD)
    fh = open_file(work, os.O_RDONLY, len(OLD)).fh
    assert work.vfs.read(fh, len(OLD) + 1, 0) == OLD
    server.store.append("file", NEW)
    eventually(lambda: work.vfs.fgetattr(fh).size == len(OLD + NEW))
    work.vfs.release(fh)
    rewritten_beside_the_next_version(server, work, OLD)


class Overtaken:
    """The content of a handle, during whose next read another read finds that the version is gone."""

    def __init__(self, content: Any, another: Callable[[], bool]) -> None:
        self._content, self._another, self.close = content, another, content.close

    def read(self, offset: int, size: int) -> bytes:
        fetched: bytes = self._content.read(offset, size)
        assert self._another()
        return fetched


def test_reads_at_the_same_time_have_one_version(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.13: what one of them has fetched is not given once another has found that version gone."""
    new = NEW[::-1]
    server.store.seed({"file": OLD}, age=60)
    work = start(ttl=60)
    fh = open_file(work, os.O_RDONLY, work.vfs.getattr("file").size).fh
    handle = work.vfs.get_handle(fh)
    server.store.write("file", new)
    handle.content = Overtaken(handle.content, lambda: handle.follow_newer(max_age=0.0))
    assert work.vfs.read(fh, 100, 0) == new[:100]
    server.store.write("file", OLD)
    assert not handle.follow_newer(max_age=0.0), "bytes of one version were given"
    assert work.vfs.read(fh, len(new), 100) == new[100:]
