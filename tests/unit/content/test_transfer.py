"""Transfers that break, lie, or find that the item has changed."""

from __future__ import annotations

import contextlib
import errno
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.files import errno_from
from tests.support.waiting import eventually

from jobfs.api.connection_queue import Priority
from jobfs.api.deadline import limit_time
from jobfs.content import ContentStore
from jobfs.content.ranges import KIB, MIB
from jobfs.content.timing import Timing
from jobfs.content.transfer import MeasuredSizes
from jobfs.errors import ContractError, UnavailableError
from jobfs.nodes import Item

from .world import FakeClient, MakeStore, Open, item_of, pattern


def test_measured_sizes_are_used_under_the_lock_and_newer_ones_kept() -> None:
    """A cache of cachetools is not thread-safe: what is found in it may be gone when it is fetched."""
    lock, version = MagicMock(), item_of(None).version
    sizes = MeasuredSizes(lock)
    sizes.remember(version, 7)
    sizes.forget(version, 5)  # by another transfer of the old bytes, which ends later
    assert sizes.get(version) == 7
    sizes.forget(version, 7)
    assert sizes.get(version) is None
    assert lock.__enter__.call_count == lock.__exit__.call_count == 5


WRONG = [{"lie": 5}, {"lie": -5}, {"says_length": False, "ranges": False, "short": 100}]


def test_a_broken_download_resumes_by_range_where_it_broke(opened: Open) -> None:
    """vfs/semantics.md 3.5: a broken download resumes by range."""
    file = opened(2 * MIB, breaks=[0, 700_000, 0, 100_000], says_length=False)
    assert file.is_right(0, 2 * MIB)
    assert file.handle.fetch_file().read_bytes() == file.client.data
    assert [request.start for request in file.client.requests] == [0, 0, 700_000, 700_000, 800_000]
    assert 1 <= file.client.gets <= 4, "one for each that came after the first, at most"
    assert file.store.is_cached(file.item)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_always_breaks_at_one_offset_fails(opened: Open, ranges: bool) -> None:
    """vfs/semantics.md 3: no call can hang for ever; without ranges the same bytes come again and again."""
    breaks = [300 * KIB] + [0 if ranges else 300 * KIB] * 1000
    began = time.monotonic()
    file = opened(MIB, ranges=ranges, says_length=False, breaks=breaks, timeout=1.0)
    assert file.is_right(0)
    with pytest.raises(UnavailableError, match="the connection broke"):
        file.handle.fetch_file()
    assert time.monotonic() - began < 1.0 + 5
    assert len(file.client.requests) < 14, "with longer and longer pauses"


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_length_of_the_same_version_is_retried_once(opened: Open, wrong: dict[str, Any]) -> None:
    """vfs/semantics.md 5.15: look at the item; the same version: once more, from the start."""
    file = opened(MIB, **wrong)
    get = file.client.get

    def look(item_id: str) -> Item:
        file.client.lie = file.client.short = 0
        return get(item_id)

    file.client.get = look  # type: ignore[method-assign]
    assert file.is_right(MIB - 4096)
    assert [(request.start, request.end) for request in file.client.requests] == [(0, None)] * 2
    assert file.handle.fetch_file().read_bytes() == file.client.data


@pytest.mark.parametrize("wrong", WRONG)
def test_a_length_that_remains_wrong_is_eio_and_leaves_nothing(opened: Open, wrong: dict[str, Any]) -> None:
    """vfs/semantics.md 3.6, 5.15: never a short file; the next read asks again. ESTALE is for a version that is gone."""
    file = opened(MIB, **wrong)
    with pytest.raises(ContractError) as caught:
        file.handle.read(MIB - 4096, 4096)
    assert caught.value.errno == errno.EIO
    # A transfer parallel to the one that failed may continue for a moment.
    assert eventually(lambda: (file.store.used_bytes(), file.store.is_cached(file.item)) == (0, False))
    file.client.lie = file.client.short = 0

    def right() -> bool:
        with contextlib.suppress(ContractError):  # of the parallel transfer, raised to the next reader
            return file.handle.fetch_file().read_bytes() == file.client.data
        return False

    assert eventually(right)


@pytest.mark.parametrize(
    ("has_length", "size", "offset"),
    [(False, 2 * MIB - 1, 0), (False, 8 * MIB + 1, 0), (True, 8 * MIB - 3, 0), (True, 8 * MIB - 3, 5 * MIB)],
)
def test_a_body_of_another_length_is_stale_if_the_item_was_written(
    make_store: MakeStore, has_length: bool, size: int, offset: int
) -> None:
    client = FakeClient(pattern(8 * MIB), says_length=has_length, ranges=has_length)
    with make_store(client).open(item_of(size)) as handle:
        assert errno_from(handle.read, offset, size) == errno.ESTALE
        assert (handle.is_stale, client.requests[0].sent < size + client.chunk) == (True, True)


@pytest.mark.parametrize(("ranges", "turn"), [(True, 0), (False, 0), (True, 60)])
def test_transfers_take_turns(opened: Open, ranges: bool, turn: int) -> None:
    """A long download does not keep another file's reader from its first byte, unless it would restart."""
    turns, timing = ranges and not turn, Timing(turn=turn)
    file = opened(16 * MIB, timing=timing, max_connections=2, breaks=[64 * KIB], ranges=ranges)
    client = file.client
    with file.store.open(item_of(16 * MIB, "b" * 24)) as second, ThreadPoolExecutor(1) as threads:
        assert file.is_right(0)
        client.wait(lambda: len(client.requests) == 2)  # resumed: ranges are known to work
        client.gate = 1
        waiting = threads.submit(second.read, 0, 4096)
        client.wait(lambda: client.gate == 0)
        client.open_gate()
        assert waiting.result(20) == client.data[:4096]
        assert client.requests[2].start == 0, "the second file's"
        assert all(file.is_right(at * MIB, MIB) for at in range(16))
        assert second.fetch_file().read_bytes() == client.data
        eventually(
            lambda: not any(file.store.attach_fetcher(each).transfers for each in (file.handle, second))
        )
        before = len(client.requests)
        assert turns or before == 3
    for call, rank in (limit_time(60), Priority.LARGE), (contextlib.nullcontext(), Priority.BACKGROUND_LARGE):
        asked, client.gate = set[int](), 16
        connections: Any = SimpleNamespace(
            has_waiter_before=lambda priority, asked=asked: asked.add(priority)
        )
        client.connections = connections
        with file.store.open(item_of(16 * MIB, f"{rank:024d}")) as alone:
            with call:
                alone.read(0, MIB)
            client.open_gate()
            client.wait(lambda: client.requests[-1].finished)
            assert asked == ({rank + 1} if turns else set()), "whether a program began it decides"
            assert alone.fetch_file().read_bytes() == client.data
    assert len(client.requests) == before + 2


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
    wanted=st.lists(
        st.tuples(st.integers(0, 3 * MIB) | st.just(2**40), st.integers(0, 300000)), min_size=1, max_size=12
    ),
    handles=st.integers(1, 3),
)
def test_every_read_gives_the_servers_bytes_under_random_breakage(
    tmp_path_factory: pytest.TempPathFactory, client: FakeClient, known: bool, wanted: list[Any], handles: int
) -> None:
    """vfs/semantics.md 3.5: random reads by several handles under random breakage give what the server has."""
    home = tmp_path_factory.mktemp("home")
    store = ContentStore(client, home / "cache/job/id", owner=home, limit=1 << 30, timeout=20.0)  # type: ignore[arg-type]
    # The headers of a truncated body must have the size where the item has none.
    item = item_of(len(client.data) if known or not client.says_length else None)
    with contextlib.closing(store), contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        opened = [stack.enter_context(store.open(item)) for _ in range(handles)]
        results = [threads.submit(opened[number % handles].read, *read) for number, read in enumerate(wanted)]
        for (offset, length), result in zip(wanted, results, strict=True):
            assert result.result(30) == client.data[offset : offset + length]
        assert opened[0].fetch_file().read_bytes() == client.data
