"""Transfers that break, lie, or find that the item has changed."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.waiting import eventually

from jobfs.content import ContentStore, StaleVersionError
from jobfs.content.ranges import KIB, MIB
from jobfs.errors import ContractError, UnavailableError

from .conftest import MakeStore, after_a_moment
from .server import FakeClient, item_of, pattern


def test_a_broken_download_resumes_by_range_where_it_broke(make_store: MakeStore) -> None:
    """vfs/semantics.md 3.5: a broken download resumes by range."""
    data = pattern(2 * MIB)
    client = FakeClient(data, breaks=[700_000, 0, 100_000])
    store = make_store(client)
    with store.open(item_of(len(data))) as handle:
        assert handle.read(0, len(data)) == data
        assert handle.fetch().read_bytes() == data
    assert [request.start for request in client.requests] == [0, 700_000, 700_000, 800_000]
    assert 1 <= client.gets <= 3, "one for each that came after the first, at most"
    assert store.whole(item_of(len(data)))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_always_breaks_at_one_place_is_given_up(make_store: MakeStore, ranges: bool) -> None:
    """vfs/semantics.md 3: no call can hang for ever; without ranges the same bytes come again and again."""
    data = pattern(MIB)
    client = FakeClient(data, ranges=ranges, says_length=False)
    client.breaks = [300 * KIB] + [0 if ranges else 300 * KIB] * 1000
    began = time.monotonic()
    with make_store(client, timeout=1.0).open(item_of(len(data))) as handle:
        assert handle.read(0, 4096) == data[:4096]
        with pytest.raises(UnavailableError):
            handle.fetch()
    assert time.monotonic() - began < 1.0 + 5
    assert len(client.requests) < 50


def test_a_body_shorter_than_promised_is_an_error_never_a_short_file(make_store: MakeStore) -> None:
    """vfs/semantics.md 3.6: a body shorter than promised is an error, never a short file."""
    data = pattern(MIB)
    client = FakeClient(data, says_length=False, ranges=False, shown_size=MIB + 1)
    store = make_store(client)
    with store.open(item_of(MIB + 1)) as handle:
        with pytest.raises(ContractError):
            handle.read(MIB - 100, 4096)
        with pytest.raises(ContractError):
            handle.fetch()
    assert not store.whole(item_of(MIB + 1))


@pytest.mark.parametrize("lie", [5, -5])
def test_a_wrong_length_of_the_same_version_is_eio_and_leaves_nothing(
    make_store: MakeStore, lie: int
) -> None:
    """vfs/semantics.md 5.15: the next read asks again. ESTALE is for a version that is gone."""
    client = FakeClient(pattern(MIB), lie=lie)
    store = make_store(client)
    with store.open(item_of(MIB)) as handle:
        with pytest.raises(ContractError) as caught:
            handle.read(0, 4096)
        assert caught.value.errno == errno.EIO
        assert (len(client.requests), store.used()) == (1, 0)
        client.lie = 0
        assert after_a_moment(lambda: handle.read(0, 4096)) == client.data[:4096]
        assert handle.fetch().read_bytes() == client.data


@pytest.mark.parametrize(
    ("told", "size", "offset"),
    [(False, 8 * MIB - 1, 0), (False, 8 * MIB + 1, 0), (True, 8 * MIB - 3, 0), (True, 8 * MIB - 3, 5 * MIB)],
)
def test_a_body_of_another_length_is_a_stale_version_if_the_item_was_written(
    make_store: MakeStore, told: bool, size: int, offset: int
) -> None:
    client = FakeClient(pattern(8 * MIB), says_length=told, ranges=told)
    with make_store(client).open(item_of(size)) as handle, pytest.raises(StaleVersionError) as caught:
        handle.read(offset, size)
    assert caught.value.errno == errno.ESTALE


# -- an answer after the first is served once a look has proved it -----------------------------------------


@contextlib.contextmanager
def looked_at_by_hand(client: FakeClient) -> Iterator[threading.Event]:
    """The look whether the item is unchanged is answered when the event is set."""
    client.looking = looking = threading.Event()
    try:
        yield looking
    finally:
        looking.set()


def test_a_second_answer_is_served_after_a_look_that_began_after_its_headers(
    make_store: MakeStore,
) -> None:
    """vfs/semantics.md 3.13: unread bytes of the first answer wait too; bytes that were read are there."""
    data = pattern(16 * MIB)
    client = FakeClient(data, holds={0: MIB})
    handle = make_store(client).open(item_of(len(data)))
    with ThreadPoolExecutor(2) as threads, looked_at_by_hand(client) as looking, handle:
        assert handle.read(0, 4096) == data[:4096]
        client.wait(lambda: client.requests[0].sent == MIB)
        jumped = threads.submit(handle.read, 12 * MIB, 4096)
        client.wait(lambda: client.requests[-1].start == 12 * MIB and client.requests[-1].sent)
        eventually(lambda: client.gets)
        unread = threads.submit(handle.read, 128 * KIB, 4096)
        assert handle.read(0, 4096) == data[:4096]
        assert [read.done() for read in (jumped, unread)] == [False, False]
        looking.set()
        assert jumped.result(20) == data[12 * MIB : 12 * MIB + 4096]
        assert unread.result(20) == data[128 * KIB : 128 * KIB + 4096]
        client.release(0)
    assert client.gets == 1


@pytest.mark.parametrize(
    "change", [{"updated_at": "2024-05-01T12:00:09.500Z"}, {"shown_size": 5}, {"gone": True}]
)
def test_bytes_that_a_look_does_not_prove_are_stale_unless_they_were_read_before(
    make_store: MakeStore, cache: Path, change: dict[str, Any]
) -> None:
    """vfs/semantics.md 3.13: else ESTALE for bytes that were not read."""
    data = pattern(16 * MIB)
    client = FakeClient(data, holds={0: MIB})
    store = make_store(client)
    handle = store.open(item_of(len(data)))
    with ThreadPoolExecutor(1) as threads, looked_at_by_hand(client) as looking, handle:
        assert handle.read(0, 4096) == data[:4096]
        client.wait(lambda: client.requests[0].sent == MIB)
        jumped = threads.submit(handle.read, 12 * MIB, 4096)
        eventually(lambda: client.gets)
        for name, value in change.items():
            setattr(client, name, value)
        looking.set()
        with pytest.raises(StaleVersionError):
            jumped.result(20)
        for offset in (12 * MIB, 128 * KIB):
            with pytest.raises(StaleVersionError):
                handle.read(offset, 4096)
        assert handle.read(0, 4096) == data[:4096]
        client.release(0)
    del handle, jumped
    eventually(lambda: not list(cache.rglob("*.part")), "nothing is left of it")


def test_a_second_download_never_changes_bytes_that_were_read(make_store: MakeStore) -> None:
    """vfs/semantics.md 3.13: a server without ranges begins anew, with another version."""
    data, newer = pattern(MIB), pattern(MIB, seed=9)
    client = FakeClient(data, ranges=False, says_length=False, breaks=[300_000], chunk=64_000, gate=5)
    handle = make_store(client).open(item_of(len(data)))
    with looked_at_by_hand(client) as looking, handle:
        assert handle.read(0, 300_000) == data[:300_000]
        client.data, client.updated_at = newer, "2024-05-01T12:00:09.500Z"
        client.open_gate()
        client.wait(lambda: len(client.requests) == 2 and client.requests[1].finished)
        assert handle.read(0, 300_000) == data[:300_000]
        looking.set()
        with pytest.raises(StaleVersionError):
            handle.read(0, MIB)
        assert handle.read(0, 300_000) == data[:300_000]


def test_a_look_without_an_answer_is_an_error_and_the_next_read_asks_again(make_store: MakeStore) -> None:
    data = pattern(16 * MIB)
    client = FakeClient(data)
    with make_store(client).open(item_of(len(data))) as handle:
        handle.read(4 * MIB, 4096)
        client.unanswered = 1000
        with pytest.raises(UnavailableError):
            handle.read(12 * MIB, 4096)
        client.unanswered = 0
        assert handle.read(12 * MIB, 4096) == data[12 * MIB : 12 * MIB + 4096]
    assert [request.start for request in client.requests] == [4 * MIB, 12 * MIB], (
        "what came is kept meanwhile"
    )


def test_bytes_that_were_not_proved_are_not_kept_in_the_cache(make_store: MakeStore) -> None:
    """vfs/semantics.md 3: nothing of a version that was not proved goes into the cache, across remounts neither."""
    data, mixed = pattern(MIB), pattern(MIB, seed=9)
    client = FakeClient(data, breaks=[500_000], holds={1: 0}, unanswered=1000)
    store = make_store(client)
    with store.open(item_of(len(data))) as handle:
        assert handle.read(0, 4096) == data[:4096]
        client.data = mixed
        client.release(1)
        with pytest.raises(UnavailableError):
            handle.fetch()
        client.wait(lambda: client.requests[1].finished)
        assert not handle.whole
    store.close()
    client.unanswered, client.data = 0, data
    with make_store(client).open(item_of(len(data))) as handle:
        assert not handle.whole
        assert handle.fetch().read_bytes() == data


def test_a_transfer_gives_up_its_thread_when_others_wait(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long download does not keep another file's reader from its first byte."""
    monkeypatch.setattr("jobfs.content.entry._TURN", 0.0)
    data = pattern(16 * MIB)
    client = FakeClient(data, max_connections=2, breaks=[64 * KIB])
    store = make_store(client)
    with store.open(item_of(len(data))) as first, store.open(item_of(len(data), "b" * 24)) as second:
        first.read(0, 4096)
        client.wait(lambda: len(client.requests) == 2)  # resumed: ranges are known to work
        client.gate = 1
        with ThreadPoolExecutor(2) as threads:
            waiting = threads.submit(second.read, 0, 4096)
            client.wait(lambda: client.gate == 0)
            client.open_gate()
            assert waiting.result(20) == data[:4096]
            assert first.read(0, len(data)) == data


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    client=st.builds(
        FakeClient,
        st.integers(1, 3 * MIB).map(pattern),
        ranges=st.booleans(),
        says_length=st.booleans(),
        breaks=st.lists(st.integers(0, 800_000), max_size=6),
        chunk=st.sampled_from([1000, 16 * KIB, 64 * KIB]),
        cap=st.sampled_from([None, 50_000]),
    ),
    known=st.booleans(),
    wanted=st.lists(st.tuples(st.integers(0, 3 * MIB), st.integers(1, 300_000)), min_size=1, max_size=12),
    handles=st.integers(1, 3),
)
def test_every_read_gives_the_real_bytes_whatever_breaks(
    tmp_path_factory: pytest.TempPathFactory,
    client: FakeClient,
    known: bool,
    wanted: list[tuple[int, int]],
    handles: int,
) -> None:
    """vfs/semantics.md 3.5: random reads by several handles under random breakage give what the server has."""
    data, home = client.data, tmp_path_factory.mktemp("home")
    store = ContentStore(client, home / "cache/job/id", owner=home, limit=1 << 30, timeout=20.0)  # type: ignore[arg-type]
    # Of a body that breaks, its headers have to tell the size where the item does not.
    told = len(data) if known or not client.says_length else None
    opened = [store.open(item_of(told)) for _ in range(handles)]
    try:
        with ThreadPoolExecutor(4) as threads:
            results = [
                (offset, length, threads.submit(opened[index % handles].read, offset, length))
                for index, (offset, length) in enumerate(wanted)
            ]
            for offset, length, result in results:
                assert result.result(30) == data[offset : offset + length]
        assert opened[0].fetch().read_bytes() == data
    finally:
        for handle in opened:
            handle.close()
        store.close()
