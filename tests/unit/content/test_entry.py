"""Reading: progressive, shared, by range, with a deadline."""

from __future__ import annotations

import errno
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import eventually

from jobfs.content import Content
from jobfs.content.disk import CacheFile
from jobfs.content.ranges import CHUNK, KIB, MIB
from jobfs.errors import ApiError, UnauthorizedError, UnavailableError

from .conftest import MakeStore, after_a_moment
from .server import FakeClient, item_of, pattern


def read_all(handle: Content, size: int, step: int = 128 * KIB) -> bytes:
    return b"".join(handle.read(offset, step) for offset in range(0, size, step))


def test_a_file_read_from_its_start_is_one_plain_request(make_store: MakeStore) -> None:
    data = pattern(3 * MIB + 17)
    client = FakeClient(data)
    with make_store(client).open(item_of(len(data))) as handle:
        assert handle.sha256() is None
        assert read_all(handle, len(data)) == data
        handle.fetch()
        assert handle.sha256() == hashlib.sha256(data).hexdigest()
        assert handle.read(len(data), 10) == b""
        assert handle.read(len(data) - 4, 4096) == data[-4:]
        assert handle.read(1 << 40, 10) == b""
    assert [(request.start, request.end) for request in client.requests] == [(0, None)]
    assert client.gets == 0


def test_an_empty_file_needs_no_request(make_store: MakeStore) -> None:
    client = FakeClient(b"")
    store = make_store(client)
    with store.open(item_of(0)) as handle:
        assert handle.read(0, 4096) == b""
        assert handle.whole
        assert handle.fetch().read_bytes() == b""
        assert handle.sha256() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert store.whole(item_of(0))
    assert client.requests == []


def test_a_read_far_ahead_of_the_stream_does_not_wait_for_it(make_store: MakeStore) -> None:
    data = pattern(16 * MIB)
    client = FakeClient(data, holds={0: 256 * KIB})
    with make_store(client).open(item_of(len(data))) as handle:
        assert handle.read(0, 4096) == data[:4096]
        assert handle.read(12 * MIB, 4096) == data[12 * MIB : 12 * MIB + 4096]
        assert client.requests[1].start == 12 * MIB
        client.release(0)


def test_a_read_just_ahead_of_the_stream_waits_for_it(make_store: MakeStore) -> None:
    data = pattern(16 * MIB)
    client = FakeClient(data, gate=4)
    with make_store(client).open(item_of(len(data))) as handle, ThreadPoolExecutor(1) as threads:
        assert handle.read(0, 4096) == data[:4096]
        near = threads.submit(handle.read, 900 * KIB, 4096)
        client.open_gate()
        assert near.result(20) == data[900 * KIB : 900 * KIB + 4096]
    assert len(client.requests) == 1


def test_a_server_without_ranges_is_remembered_and_its_stream_awaited(make_store: MakeStore) -> None:
    """vfs/semantics.md 3.4: if the server answers 200 instead of 206 the driver waits for the stream."""
    data = pattern(8 * MIB)
    client = FakeClient(data, ranges=False)
    store = make_store(client)
    with store.open(item_of(len(data))) as handle:
        assert handle.read(6 * MIB, 4096) == data[6 * MIB : 6 * MIB + 4096]
        assert len(client.requests) == 1, "the answer itself is the stream"
        assert read_all(handle, len(data)) == data
    other = pattern(8 * MIB, seed=7)
    client.data = other
    with store.open(item_of(len(other), "b" * 24)) as handle:
        assert handle.read(6 * MIB, 4096) == other[6 * MIB : 6 * MIB + 4096]
    assert (client.requests[-1].start, client.requests[-1].end) == (0, None), "no range is asked any more"
    assert len(client.requests) == 2


def test_reading_on_in_the_middle_asks_for_longer_and_longer_ranges(make_store: MakeStore) -> None:
    data = pattern(40 * MIB)
    client = FakeClient(data)
    begin = 8 * MIB
    with make_store(client).open(item_of(len(data))) as handle:
        for offset in range(begin, len(data), 128 * KIB):
            assert handle.read(offset, 128 * KIB) == data[offset : offset + 128 * KIB]
    assert len(client.requests) < 14
    assert client.requests[0].end == begin + CHUNK
    assert min(request.start for request in client.requests) >= begin
    assert client.moved == len(data) - begin


def test_fetch_fills_the_gaps_between_ranges_and_proves_the_whole(make_store: MakeStore) -> None:
    data = pattern(24 * MIB)
    client = FakeClient(data)
    store = make_store(client)
    with store.open(item_of(len(data))) as handle:
        handle.read(16 * MIB, 4096)
        assert handle.fetch().read_bytes() == data
    assert client.gets == 1, "bytes of several requests are proved to be one version"
    assert store.whole(item_of(len(data)))


def test_a_reader_joins_a_transfer_that_fetches_ahead(make_store: MakeStore) -> None:
    """vfs/semantics.md 3: one version is downloaded once, whoever asked for it first."""
    data = pattern(MIB)
    client = FakeClient(data, gate=2)
    with make_store(client).open(item_of(len(data))) as handle:
        ahead = threading.Thread(target=handle.bring)
        ahead.start()
        client.wait(lambda: client.requests and client.requests[0].sent)
        assert handle.read(0, 4096) == data[:4096]
        client.open_gate()
        ahead.join()
        handle.bring()
        assert handle.read(0, len(data)) == data
    assert len(client.requests) == 1


@pytest.mark.parametrize(
    "error", [UnauthorizedError("refused"), UnavailableError("down", errno=errno.ETIMEDOUT)]
)
def test_an_error_before_the_body_is_final_and_a_later_read_asks_again(
    make_store: MakeStore, error: ApiError
) -> None:
    """The client has retried by then, within the deadline and as the server asked."""
    client = FakeClient(pattern(MIB), errors=[error])
    with make_store(client).open(item_of(MIB)) as handle:
        with pytest.raises(type(error)) as caught:
            handle.read(0, 10)
        assert caught.value.errno == error.errno
        assert len(client.requests) == 1
        assert after_a_moment(lambda: handle.read(0, 10)) == client.data[:10]
    assert len(client.requests) == 2


def test_a_server_that_hangs_makes_a_read_fail_in_time(make_store: MakeStore) -> None:
    """vfs/semantics.md 3: every call has a deadline; no call can hang for ever."""
    client = FakeClient(pattern(MIB), gate=1)
    with make_store(client, timeout=1.0).open(item_of(MIB)) as handle:
        assert handle.read(0, 4096) == client.data[:4096]
        with pytest.raises(UnavailableError) as caught:
            handle.read(512 * KIB, 4096)
        assert caught.value.errno == errno.ETIMEDOUT
        with pytest.raises(UnavailableError):
            handle.fetch()
        client.open_gate()
        assert handle.read(512 * KIB, 4096) == client.data[512 * KIB : 512 * KIB + 4096]


def test_a_slow_server_is_given_time_while_bytes_come(make_store: MakeStore) -> None:
    data = pattern(MIB)
    client = FakeClient(data, gate=0, chunk=32 * KIB)
    with make_store(client, timeout=1.0).open(item_of(MIB)) as handle, ThreadPoolExecutor(1) as threads:
        whole = threads.submit(handle.read, 0, MIB)
        stop = threading.Event()
        while not whole.done():  # 32 chunks, a pause shorter than the deadline before each
            stop.wait(0.05)
            client.open_gate(1)
        assert whole.result() == data


def test_closing_the_store_answers_every_reader(make_store: MakeStore) -> None:
    client = FakeClient(pattern(MIB), gate=0)
    store = make_store(client)
    handle = store.open(item_of(MIB))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(handle.read, 0, 4096)
        client.wait(lambda: client.requests)
        closing = threading.Thread(target=store.close)
        closing.start()
        with pytest.raises(UnavailableError):
            waiting.result(10)
        client.open_gate()
        closing.join(10)
    handle.close()
    with pytest.raises(UnavailableError), store.open(item_of(MIB, "b" * 24)) as late:
        late.read(0, 10)


def test_a_stream_that_nobody_has_open_stops_soon_and_begins_anew(
    make_store: MakeStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobfs.content.store.LINGER", 0.0)
    data = pattern(16 * MIB)
    client = FakeClient(data, gate=16)
    store = make_store(client)
    with store.open(item_of(len(data))) as handle:
        assert handle.read(0, MIB) == data[:MIB]
    client.open_gate(1)
    client.wait(lambda: client.requests[0].finished)
    assert client.requests[0].sent < 2 * MIB
    eventually(lambda: not list(cache.rglob("*.part")), "nothing is left of it")
    client.open_gate()
    with store.open(item_of(len(data))) as handle:
        assert read_all(handle, len(data)) == data
    assert (client.requests[1].start, client.requests[1].end) == (0, None)


@pytest.mark.parametrize(("size", "linger"), [(MIB, 0.0), (16 * MIB, 20.0)], ids=["nearly done", "just now"])
def test_a_stream_that_still_runs_serves_the_next_open_of_the_file(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, size: int, linger: float
) -> None:
    monkeypatch.setattr("jobfs.content.store.LINGER", linger)
    data = pattern(size)
    client = FakeClient(data, gate=4)
    store = make_store(client)
    with store.open(item_of(len(data))) as handle:
        handle.read(0, 4096)
    client.open_gate(2)
    client.wait(lambda: client.gate == 0)
    client.open_gate()
    with store.open(item_of(len(data))) as handle:
        assert handle.fetch().read_bytes() == data
    assert len(client.requests) == 1


def test_bytes_that_were_forgotten_are_not_read_from_the_hole_of_a_newer_part(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may begin anew before a reader reads the bytes that are there, and before written bytes are announced."""
    store = make_store(FakeClient(b""))
    with store.open(item_of(300)) as handle:
        entry = store.attach(handle)
        entry.put(0, b"x" * 100)
        entry.sure.add(0, 100)
        assert entry.load(0, 100) == b"x" * 100
        entry._reset()
        entry.put(200, b"y" * 100)
        entry.sure.add(200, 300)
        assert entry.load(0, 100) is None
        assert entry.load(200, 300) == b"y" * 100
        written = entry._written

        def overtaken(*arguments: Any) -> CacheFile:
            file = written(*arguments)
            entry._reset()
            return file

        monkeypatch.setattr(entry, "_written", overtaken)
        entry.put(0, b"x" * 100)
        assert not entry.have
