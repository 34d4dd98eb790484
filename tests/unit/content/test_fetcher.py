"""Reading: progressive, shared, by range, with a deadline."""

from __future__ import annotations

import errno
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from tests.support.files import errno_from
from tests.support.waiting import eventually

from jobfs.api.deadline import limit_time
from jobfs.content.ranges import CHUNK, KIB, MIB
from jobfs.content.timing import Timing
from jobfs.errors import UnavailableError

from .world import Open, item_of


def test_a_file_read_from_the_start_takes_one_plain_request(opened: Open) -> None:
    file = opened(3 * MIB + 17)
    assert file.handle.compute_sha256() is None
    assert all(file.is_right(offset, 128 * KIB) for offset in range(0, 3 * MIB + 17, 128 * KIB))
    file.handle.fetch_file()
    assert file.handle.compute_sha256() == hashlib.sha256(file.client.data).hexdigest()
    assert [(one.start, one.end, file.client.gets) for one in file.client.requests] == [(0, None, 0)]


def test_a_read_waits_for_the_stream_only_if_it_is_close_ahead(opened: Open) -> None:
    file = opened(16 * MIB, holds={0: 256 * KIB})
    assert file.is_right(0)
    file.handle.fetch_for_later()
    assert len(file.client.requests) == 1, "it is on its way"
    assert file.is_right(12 * MIB)
    with ThreadPoolExecutor(1) as threads:
        near = threads.submit(file.is_right, 900 * KIB)
        file.client.release(0)
        assert near.result(20)
    assert [(one.start, one.end) for one in file.client.requests] == [(0, None), (12 * MIB, 12 * MIB + CHUNK)]


def test_a_server_without_ranges_is_remembered_and_its_stream_awaited(opened: Open) -> None:
    """vfs/semantics.md 3.4: if the server answers 200 instead of 206 the driver waits for the stream."""
    file = opened(8 * MIB, ranges=False)
    assert file.is_right(6 * MIB)
    assert len(file.client.requests) == 1, "the answer itself is the stream"
    assert file.is_right(0, 8 * MIB)
    with file.store.open(item_of(8 * MIB, "b" * 24)) as other:
        assert other.read(6 * MIB, 4096) == file.client.data[6 * MIB : 6 * MIB + 4096]
    assert [(one.start, one.end) for one in file.client.requests[1:]] == [(0, None)], "no ranges any more"


def test_sequential_reads_in_the_middle_request_growing_ranges(opened: Open) -> None:
    file, begin = opened(40 * MIB), 8 * MIB
    assert all(file.is_right(offset, 128 * KIB) for offset in range(begin, 40 * MIB, 128 * KIB))
    assert len(file.client.requests) < 14
    assert file.client.requests[0].end == begin + CHUNK
    assert min(request.start for request in file.client.requests) >= begin
    assert sum(request.sent for request in file.client.requests) == 32 * MIB


def test_the_next_range_of_a_run_is_prefetched_but_not_after_a_failure(opened: Open) -> None:
    file = opened(16 * MIB)
    client, fetcher = file.client, file.store.attach_fetcher(file.handle)
    assert file.is_right(8 * MIB, CHUNK // 2)
    client.wait(lambda: client.requests[0].finished)
    client.errors = [UnavailableError("down")]
    for _ in range(2):
        assert file.is_right(8 * MIB + CHUNK // 2, CHUNK // 2)
        eventually(lambda: fetcher.last_failure and not fetcher.transfers)
        asked = [(one.start // CHUNK - 32, (one.end or 0) // CHUNK - 32) for one in client.requests]
        assert asked == [(0, 1), (1, 3)]


@pytest.mark.parametrize(("offset", "size"), [(16 * MIB, 4096), (1, 24 * MIB - 1), (24 * MIB - 1, 1)])
def test_fetch_fills_the_gaps_and_verifies_the_version(opened: Open, offset: int, size: int) -> None:
    file = opened(24 * MIB)
    assert file.is_right(offset, size)
    assert (file.client.requests[0].end or 0) <= 24 * MIB
    assert file.handle.fetch_file().read_bytes() == file.client.data
    assert file.client.gets == 1, "bytes of several requests are proved to be one version"
    assert file.store.is_cached(file.item)


def test_bytes_that_could_not_be_verified_are_verified_later(opened: Open) -> None:
    """vfs/semantics.md 3.13: the server could not be asked whether it still has the version."""
    file = opened(300, unanswered=1)
    fetcher = file.store.attach_fetcher(file.handle)
    fetcher.proof.replies = 2  # only the server can say whether they are of one version
    fetcher.cached.store_bytes(0, file.client.data)
    with pytest.raises(UnavailableError):
        fetcher.finish_if_complete()
    assert not file.handle.is_complete
    fetcher.finish_if_complete()
    assert file.handle.is_complete
    assert file.client.requests == [], "no byte comes twice"


def test_a_failed_prefetch_does_not_fail_the_reader(opened: Open) -> None:
    """vfs/semantics.md 3: the error is of a request that nobody waited for; the reader asks itself."""
    file = opened(MIB, holds={0: 64 * KIB})
    with ThreadPoolExecutor(2) as threads:
        threads.submit(file.handle.fetch_for_later)
        file.client.wait(lambda: file.client.requests and file.client.requests[0].sent)
        reader, (ahead,) = (
            threads.submit(file.is_right, MIB // 2),
            file.store.attach_fetcher(file.handle).transfers,
        )
        eventually(lambda: ahead.waiters)
        file.client.errors.append(UnavailableError("the second request of a prefetch"))
        file.client.abort_requests()
        assert reader.result(20)


@pytest.mark.parametrize(("echo", "third", "requests"), [(60.0, errno.ETIMEDOUT, 1), (0.0, 0, 3)])
def test_an_error_before_a_body_is_not_retried(opened: Open, echo: float, third: int, requests: int) -> None:
    """The client has retried by then. For a moment the error answers the kernel's second question too."""
    errors = [UnavailableError("down", errno=errno.ETIMEDOUT)] * 2
    file = opened(MIB, timing=Timing(echo=echo), errors=errors)
    assert [errno_from(file.is_right, 0, 10) for _ in range(3)] == [errno.ETIMEDOUT] * 2 + [third]
    assert len(file.client.requests) == requests


@pytest.mark.parametrize(("timeout", "call"), [(1.0, 60.0), (60.0, 1.0)])
def test_a_server_that_hangs_makes_a_read_fail_in_time(opened: Open, timeout: float, call: float) -> None:
    """vfs/semantics.md 3: every call has a deadline; no call can hang for ever."""
    file, began = opened(2 * MIB, gate=1, timeout=timeout), time.monotonic()
    assert file.is_right(0)
    for ask in (partial(file.handle.read, 200 * KIB, 4096), file.handle.fetch_file):
        with (
            limit_time(call),
            pytest.raises(UnavailableError, match=f"nothing came for {timeout:g} s") as caught,
        ):
            ask()
        assert caught.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - began < 30
    file.client.open_gate()
    assert file.is_right(200 * KIB)
    assert [(one.start, one.end) for one in file.client.requests[-1:]] == [(200 * KIB, None)]


def test_a_slow_server_is_given_time_while_bytes_come(opened: Open) -> None:
    file = opened(MIB, gate=0, chunk=32 * KIB, timeout=3.0)
    with ThreadPoolExecutor(1) as threads:
        whole = threads.submit(file.is_right, 0, MIB)
        while not whole.done():  # 32 chunks, a pause shorter than the deadline before each
            time.sleep(0.1)
            file.client.open_gate(1)
        assert whole.result()


def test_closing_the_store_answers_every_reader(opened: Open) -> None:
    file = opened(MIB, gate=0, max_connections=2)
    with ThreadPoolExecutor(2) as threads, file.store.open(item_of(MIB, "b" * 24)) as queued:
        reads = [threads.submit(handle.read, 0, 10) for handle in (file.handle, queued)]
        file.client.wait(lambda: file.client.requests)
        time.sleep(0.05)
        file.store.close()
        assert len(file.client.requests) == 1, "a connection is left for names"
        for read, message in zip(reads, (".", "the mount is ending"), strict=True):
            with pytest.raises(UnavailableError, match=message):
                read.result(10)
    with pytest.raises(UnavailableError), file.store.open(item_of(MIB, "c" * 24)) as late:
        late.read(0, 10)


def test_a_stream_without_readers_stops_soon(opened: Open, cache: Path) -> None:
    file = opened(16 * MIB, timing=Timing(linger=0.0), gate=1, breaks=[MIB])
    client = file.client
    assert file.is_right(0)
    client.open_gate(16)
    client.wait(lambda: len(client.requests) == 2)
    file.handle.close()
    client.open_gate(1)
    client.wait(lambda: client.requests[1].finished)
    assert client.requests[1].sent < MIB
    eventually(lambda: not list(cache.rglob("*.part")), "nothing is left of it")
    assert client.gets == 0, "nobody wants a proof"
    client.open_gate()
    with file.store.open(file.item) as handle:
        assert handle.fetch_file().read_bytes() == client.data
    assert (client.requests[2].start, client.requests[2].end) == (0, None)


@pytest.mark.parametrize(("size", "linger", "clock"), [(MIB, 0, 0), (16 * MIB, 20, 0), (16 * MIB, 20, -1e10)])
def test_a_running_stream_serves_the_next_open_of_the_file(
    opened: Open, size: int, linger: float, clock: float
) -> None:
    """If it is nearly done, or was left just now; not where by the server's clock its version is young."""
    file = opened(size, timing=Timing(linger=linger), gate=4, server_time_offset=clock)
    client = file.client
    assert file.is_right(0)
    file.handle.close()
    client.open_gate(2)
    client.wait(lambda: client.gate == 0)
    client.open_gate()
    with file.store.open(file.item) as handle:
        assert handle.fetch_file().read_bytes() == client.data
    assert len(client.requests) == (2 if clock else 1)
