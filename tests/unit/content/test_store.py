"""What stays in the cache, for whom, and under which name."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from tests.support.clocks import Clock
from tests.support.files import errno_from, open_below
from tests.support.waiting import eventually, eventually_equal

from jobfs.content import ContentStore, StaleVersionError
from jobfs.content.ranges import KIB, MIB
from jobfs.content.timing import Timing
from jobfs.errors import ContractError, FsError, UnavailableError
from jobfs.nodes import Item

from .world import LATER, NOW, UPDATED, FakeClient, MakeStore, Open, item_of, pattern

Fill = Callable[..., None]
COARSE = "2024-05-01T12:00:00Z"


def coarse_item(size: int | None, seconds_ago: int, ns: int = 0) -> Item:
    """An item of a server that shows whole seconds, or a second and so many ns, changed a while ago."""
    return item_of(size, "c" * 24, updated_at=COARSE, ns=(NOW - seconds_ago) * 10**9 + ns)


def numbered(number: int, size: int) -> Item:
    return item_of(size, f"{number:024d}")


def read(store: ContentStore, item: Item) -> bytes:
    """The whole content, through a handle that is closed again, once it is settled."""
    with store.open(item) as handle:
        return handle.fetch_file().read_bytes()


def files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and path.name not in ("boot", "owner")]


# -- racy versions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ago", "offset", "fraction", "kept"), [
    pytest.param(5, 0, 0, True, id="long ago"),
    pytest.param(1, 0, 0, False, id="just now"),
    pytest.param(3601, -3600, 0, False, id="by the server's clock"),
    pytest.param(1, 0, 1, True, id="its time shows a fraction of a second"),
])  # fmt: skip
def test_a_racy_version_is_not_kept_in_the_cache(
    make_store: MakeStore, ago: int, offset: float, fraction: int, kept: bool
) -> None:
    """vfs/semantics.md 3.2; a time that can't be read proves nothing."""
    store = make_store(FakeClient(bytes(9), server_time_offset=offset))
    for one, stays in ((coarse_item(9, ago, ns=fraction), kept), (item_of(9, ns=0), False)):
        read(store, one)
        assert store.is_cached(one) == stays


@pytest.mark.parametrize("fraction", [0, 1])
def test_bytes_of_a_racy_version_serve_only_the_handles_open_now(
    make_store: MakeStore, cache: Path, fraction: int
) -> None:
    """vfs/semantics.md 3.2, 3.13: handles open at once are of one version, which whole seconds do not name once it is old."""
    client, clock = FakeClient(b"hello", updated_at=COARSE), Clock(NOW)
    store, item = make_store(client, timing=Timing(clock)), coarse_item(5, seconds_ago=0, ns=fraction)
    with store.open(item) as first:
        assert first.fetch_file().read_bytes() == b"hello"
        client.data = b"later"
        with store.open(item) as second:
            assert second.read(0, 10) == b"hello"
        assert (len(client.requests), store.is_cached(item)) == (1, True)
        clock.advance(10)
        assert read(store, item) == (b"hello" if fraction else b"later")
        assert first.read(0, 10) == b"hello"
    assert (read(store, item), store.is_cached(item), len(files(cache))) == (b"later", True, 1)


@pytest.mark.parametrize("size", [None, 4 * MIB])
def test_a_version_stays_racy_however_long_its_download_takes(
    make_store: MakeStore, size: int | None
) -> None:
    """vfs/semantics.md 3.2: the first of its bytes count, whenever the rest comes; and those that come with its size."""
    client, clock = FakeClient(pattern(size or 9), updated_at=COARSE), Clock(NOW)
    store, download = make_store(client, timing=Timing(clock)), client.download

    def slow(*arguments: Any, **more: Any) -> Any:
        clock.advance(10)
        return download(*arguments, **more)

    client.download = slow  # type: ignore[method-assign]
    item = coarse_item(size, seconds_ago=0)
    if size is None:
        store.measure_size(item)
    else:
        with store.open(item) as handle:
            handle.read(3 * MIB, 4096)
            handle.fetch_file()
    assert not store.is_cached(item)


# -- adopt, drop -----------------------------------------------------------------------------------------


def adopt(store: ContentStore, item: Item, source: Path, data: bytes) -> None:
    """A file with these bytes was saved, and goes."""
    source.write_bytes(data)
    taken = store.create_partial_from(source)
    source.unlink()
    assert taken is not None
    store.adopt_file(item, taken)


@pytest.mark.parametrize("item_size", [100_000, None], ids=["the item has a size", "the item has no size"])
def test_a_version_saved_by_this_mount_is_not_fetched(
    make_store: MakeStore, tmp_path: Path, item_size: int | None
) -> None:
    """vfs/semantics.md 3.2; a replaced version is removed, but not while it is open."""
    data = pattern(100_000)
    client = FakeClient(data)
    store = make_store(client)
    item = coarse_item(item_size, -10, ns=125_000_000)  # by the server's clock it is not even written yet
    assert store.known_size(item) == item_size
    adopt(store, item, tmp_path / "saved", data)
    assert (store.is_cached(item), store.known_size(item), store.used_bytes()) == (True, len(data), len(data))
    assert read(store, item) == data
    store.close()
    again = make_store(client)
    with again.open(item) as handle:
        again.drop_replaced(item.version)
        assert (again.is_cached(item), again.known_size(item)) == (True, len(data))
        assert handle.read(0, len(data)) == data
    again.drop_replaced(item.version)
    assert (again.is_cached(item), again.used_bytes(), client.requests) == (False, 0, [])


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize("size", [0, 5, MIB, MIB + 1], ids=["empty", "small", "whole", "large"])
def test_a_size_items_omit_costs_one_request(make_store: MakeStore, size: int, says_length: bool) -> None:
    """vfs/semantics.md 2.2: it comes from the headers of a download, or from its end."""
    data = pattern(size)
    client = FakeClient(data, says_length=says_length, chunk=4 * KIB)
    store, item = make_store(client), item_of(None)
    assert [store.measure_size(item) for _ in range(2)] == [size] * 2
    with store.open(item) as handle:
        assert (handle.size, handle.fetch_file().read_bytes()) == (size, data)
    assert len(client.requests) == (1 if size <= MIB else 2)
    assert client.requests[0].sent == (0 if size > MIB and says_length else size)


def test_a_body_without_a_size_is_not_measured_forever(make_store: MakeStore) -> None:
    client = FakeClient(pattern(3 * MIB), says_length=False)
    store = make_store(client, limit=2 * MIB)
    with pytest.raises(ContractError, match="the size is unknown"):
        store.measure_size(item_of(None))
    assert (client.requests[0].sent <= 2 * MIB + client.chunk, store.used_bytes()) == (True, 0)


def test_a_download_of_another_length_than_learned_is_another_version(make_store: MakeStore) -> None:
    client = FakeClient(b"hello", updated_at=COARSE, has_sizes=False)
    store, item = make_store(client), coarse_item(None, seconds_ago=0)
    assert store.measure_size(item) == 5
    client.data = b"hello again"
    with store.open(item) as stale:
        with pytest.raises(StaleVersionError):
            stale.wait_for_first_byte()
        assert store.measure_size(item) == 11
        with store.open(item) as handle:
            assert (handle.size, handle.read(0, 100)) == (11, b"hello again")


def test_readers_of_an_unfinished_download_get_the_saved_bytes(opened: Open, tmp_path: Path) -> None:
    file = opened(8 * MIB, holds={0: MIB})
    with ThreadPoolExecutor(1) as threads:
        assert file.is_right(0)
        # Near enough that the read waits for it.
        file.client.wait(lambda: file.client.requests[0].sent == MIB)
        waiting = threads.submit(file.is_right, 1100 * KIB)
        adopt(file.store, file.item, tmp_path / "saved", file.client.data)
        assert waiting.result(10)
    with file.store.exclude_verification(file.item) as readers:
        assert not readers, "nobody needs a look before the move"
    file.client.release(0)
    eventually(lambda: file.client.requests[0].finished)
    assert (file.handle.is_complete, file.client.requests[0].sent < 2 * MIB) == (True, True)
    assert file.is_right(0, 8 * MIB)
    assert len(file.client.requests) == 1


def test_a_lost_saved_file_is_replaced_by_no_other_version(opened: Open, cache: Path, tmp_path: Path) -> None:
    """vfs/semantics.md 3.13: the program has bytes of the file, so those of the first reply need a proof."""
    file = opened(MIB)
    adopt(file.store, file.item, tmp_path / "saved", file.client.data)
    assert file.is_right(0)
    (kept,) = files(cache)
    os.truncate(kept, 0)
    file.client.data, file.client.updated_at = pattern(MIB, seed=9), LATER
    with pytest.raises(StaleVersionError):
        file.handle.read(0, 4096)


def test_bytes_mixed_from_two_versions_serve_no_later_handle(opened: Open, cache: Path) -> None:
    file = opened(300 * KIB, breaks=[128 * KIB], holds={0: 128 * KIB, 1: 64 * KIB})
    client = file.client
    assert file.is_right(0)
    client.release(0)
    client.wait(lambda: len(client.requests) > 1)
    file.handle.close()
    client.updated_at = LATER
    client.release(1)
    eventually(lambda: not list(cache.rglob("*.part")), "nothing is left of it")
    assert not file.store.is_cached(file.item)
    assert read(file.store, file.item) == client.data


def move(store: ContentStore, client: FakeClient, item: Item, path: str) -> Item:
    """What a save does with an item that is being read."""
    with store.exclude_verification(item) as readers:
        before = client.get(item.id) if readers else item
        answer = client.update(item.id, path=path)
        readers.accept_as_same_version(before, answer)
    return answer


@pytest.mark.parametrize("seen", [UPDATED, LATER], ids=["shown", "written"])
def test_an_own_move_keeps_the_version_of_open_readers(opened: Open, seen: str) -> None:
    """vfs/semantics.md 3.13: though it moves `updatedAt`; not if the job wrote before."""
    file = opened(16 * MIB)
    item = file.item
    assert file.is_right(12 * MIB)
    file.client.updated_at = seen
    for path in ("there", "back"):
        item = move(file.store, file.client, item, path)
    if seen != UPDATED:
        with pytest.raises(StaleVersionError):
            file.handle.read(4 * MIB, 4096)
    else:
        assert file.is_right(4 * MIB)


def test_a_read_during_an_own_move_is_verified_after_the_move(opened: Open) -> None:
    file = opened(16 * MIB)
    client, update = file.client, file.client.update
    asked, answered = threading.Event(), threading.Event()

    def slow(item_id: str, *, path: str, kind: object = None) -> Item:
        item = update(item_id, path=path)
        asked.set()
        assert answered.wait(20)
        return item

    client.update = slow  # type: ignore[method-assign]
    assert file.is_right(12 * MIB)
    with ThreadPoolExecutor(2) as threads:
        moving = threads.submit(move, file.store, client, file.item, "there")
        assert asked.wait(20)
        gets = client.gets
        reading = threads.submit(file.is_right, 4 * MIB)
        client.wait(lambda: client.requests[-1].start == 4 * MIB and client.requests[-1].finished)
        assert (client.gets, reading.done()) == (gets, False)
        answered.set()
        moving.result(20)
        assert reading.result(20)


def test_a_save_of_another_length_is_not_adopted(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(FakeClient(b"12345"))
    adopt(store, item_of(5), tmp_path / "saved", b"1234")
    assert not store.is_cached(item_of(5))
    assert read(store, item_of(5)) == b"12345"


@pytest.mark.parametrize(("limit", "kept"), [(5, True), (4, False)])
def test_a_save_of_the_size_of_the_whole_cache_is_kept(
    make_store: MakeStore, tmp_path: Path, limit: int, kept: bool
) -> None:
    """vfs/semantics.md 3.11: a larger one is read from the server."""
    store, source = make_store(FakeClient(b"12345"), limit=limit), tmp_path / "saved"
    source.write_bytes(b"12345")
    taken = store.create_partial_from(source)
    if taken is not None:
        store.adopt_file(item_of(5), taken)
    assert (taken is not None, store.is_cached(item_of(5))) == (kept, kept)


def test_a_saved_file_that_cannot_be_linked_is_logged(
    make_store: MakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """vfs/semantics.md 3.12: it only fills a cache, and the save succeeds."""
    assert make_store(FakeClient(b"")).create_partial_from(tmp_path / "gone") is None
    (message,) = caplog.messages
    assert message.startswith("a saved file can't be kept in the content cache: [Errno 2] No such file")


def test_a_save_with_whole_seconds_serves_only_open_handles(make_store: MakeStore, tmp_path: Path) -> None:
    """Another content of the same size may get the same `updatedAt` within that second."""
    client = FakeClient(b"12345")
    store = make_store(client)
    item = coarse_item(5, seconds_ago=-10)
    adopt(store, item, tmp_path / "saved", b"54321")
    assert not store.is_cached(item)
    with store.open(item) as handle:
        adopt(store, item, tmp_path / "saved", b"54321")
        assert handle.read(0, 10) == b"54321"
        assert store.attach_fetcher(handle).proof.is_racy
    assert read(store, item) == b"12345"


# -- fetched ahead ---------------------------------------------------------------------------------------


def test_prefetch_is_bounded_in_threads_and_bytes(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """vfs/semantics.md 3.8: in bytes and in number; what fails is left to its reader."""
    caplog.set_level(logging.INFO, "jobfs.content")
    client = FakeClient(pattern(100_000), gate=0)
    store, taken = make_store(client), list[Item | None]()
    coming = [numbered(number, 100_000) for number in range(8)]

    def take() -> Item | None:
        taken.append(coming.pop() if coming else None)
        return taken[-1]

    for _ in range(2):
        store.prefetch_items(take, 9)
        client.wait(lambda: len(client.requests) == client.max_connections - 2)
    client.open_gate()
    # Two jobs, until nothing is left.
    eventually_equal(lambda: (len(client.requests), taken[8:]), (8, [None, None]))
    store = make_store(client, most_ahead=100_000)
    client.gate, coming = 0, [numbered(number, 100_000) for number in range(10, 13)]
    store.prefetch_items(take, 1)
    client.wait(lambda: len(client.requests) == 9)
    store.prefetch_items(take, 1)
    eventually_equal(lambda: (store._running, len(client.requests)), (1, 9))
    client.open_gate()
    eventually_equal(lambda: (len(client.requests), coming, taken[-1]), (11, [], None))
    assert caplog.messages == []
    client.errors, coming = [UnavailableError("down")], [item_of(None)]
    store.prefetch_items(take, 1)
    eventually_equal(lambda: caplog.messages, ["file.bin: not fetched ahead: down"])
    store.close()
    store.prefetch_items(take, 1)


def test_prefetch_survives_any_error(make_store: MakeStore) -> None:
    """vfs/semantics.md 3.7: a walk that fails takes nothing from those that come later."""
    client, failed = FakeClient(pattern(9)), list[int]()
    store = make_store(client)

    def fails() -> Item | None:
        failed.append(1)
        raise ValueError("a fault")

    def prefetched(take: Callable[[], Item | None], done: Callable[[], bool]) -> bool:
        store.prefetch_items(take, 1)
        return done()

    eventually(lambda: prefetched(fails, lambda: len(failed) > client.max_connections))
    coming = iter([item_of(9)])
    eventually(lambda: prefetched(lambda: next(coming, None), lambda: store.is_cached(item_of(9))))


# -- the bound -------------------------------------------------------------------------------------------


def test_a_range_needs_no_disk_space_for_the_rest_of_its_file(make_store: MakeStore) -> None:
    data = pattern(2 * MIB)
    store, kept = make_store(FakeClient(data), limit=5 * MIB // 2), numbered(0, 2 * MIB)
    read(store, kept)
    with store.open(numbered(1, 2 * MIB)) as handle:
        assert handle.read(MIB, 4096) == data[MIB : MIB + 4096]
    assert store.is_cached(kept)


def test_a_file_over_the_limit_is_read_but_not_kept(make_store: MakeStore, cache: Path) -> None:
    data = pattern(100_000)
    store = make_store(FakeClient(data), limit=50_000)
    assert read(store, item_of(len(data))) == data
    assert not store.is_cached(item_of(len(data)))
    assert files(cache) == []


def test_abandoned_caches_are_removed_at_a_start(make_store: MakeStore, cache: Path, tmp_path: Path) -> None:
    make_store(FakeClient(b"")).close()
    abandoned = shutil.copytree(cache, cache.with_name("fedcba987654"))
    (abandoned / "owner").write_text(str(tmp_path / "gone"))
    make_store(FakeClient(b""))
    eventually(lambda: not abandoned.exists())
    assert cache.exists()


# -- a directory that others clear -------------------------------------------------------------------------


def test_a_read_of_a_cached_file_opens_only_that_file(make_store: MakeStore, cache: Path) -> None:
    item, content = item_of(1000), pattern(1000)
    store = make_store(FakeClient(content))
    assert read(store, item) == content
    before = open_below(cache)
    with store.open(item) as handle:
        for _ in range(2):
            assert handle.read(10, 20) == content[10:30]
        assert handle.read(990, 20) == content[990:]
        assert open_below(cache) == before + 1
    assert open_below(cache) == before


def test_clearing_the_cache_breaks_neither_open_nor_later_handles(opened: Open, cache: Path) -> None:
    file = opened(4 * MIB, holds={1: MIB})
    path = file.handle.fetch_file()
    with file.store.open(item_of(4 * MIB, "b" * 24)) as part:
        part.read(0, 4096)
        shutil.rmtree(cache)
        assert not path.exists()
        assert file.is_right(MIB)
        assert file.handle.fetch_file().read_bytes() == file.client.data
        file.client.release(1)
        assert part.fetch_file().read_bytes() == file.client.data
    assert read(file.store, item_of(4 * MIB, "e" * 24)) == file.client.data


# -- a disk that is full ---------------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Fill:
    """Once the cache's files have so many bytes in all, every write to them fails with ENOSPC, or the next few."""

    def fill(room: int, failures: int = 1 << 30) -> None:
        left, real = [room, failures], os.pwrite

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            if os.readlink(f"/proc/self/fd/{fd}").startswith(str(cache)):
                left[0] -= len(data)
                if left[0] < 0 < left[1]:
                    sendfile()
            return real(fd, data, offset)

        def sendfile(*arguments: object) -> None:
            left[1] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(os, "sendfile", sendfile)

    return fill


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("room", [0, 5 * MIB])
def test_a_full_disk_leaves_four_small_contents_in_memory(
    make_store: MakeStore, full_disk: Fill, caplog: pytest.LogCaptureFixture, ranges: bool, room: int
) -> None:
    """vfs/semantics.md 3.12: a larger one is EIO, and the status says why."""
    data = pattern(16 * MIB)
    store = make_store(FakeClient(data, ranges=ranges))
    large = make_store(FakeClient(data + b"x", ranges=ranges))
    assert store.refusal_reason == ""
    full_disk(room)
    handles = [store.open(numbered(number, len(data))) for number in range(5)]
    for handle in handles[:4]:
        for offset in range(0, len(data), MIB):
            assert handle.read(offset, MIB) == data[offset : offset + MIB]
        assert handle.read(4096, 4096) == data[4096:8192]
        assert not store.is_cached(numbered(9, len(data)))
    assert store.refusal_reason == "No space left on device"
    assert {*caplog.messages} == {"the content cache can't be used: No space left on device"}
    for refused in (handles[4], large.open(item_of(len(data) + 1))):
        with pytest.raises(FsError, match="write to the content cache: No space left") as caught:
            refused.read(0, 1)
        assert caught.value.errno == errno.EIO
    del caught, refused
    handles.pop(0).close()
    time.sleep(0.1)  # an error answers for a moment
    assert handles[3].read(0, 100) == data[:100]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("room", [0, 5 * MIB])
def test_a_file_that_is_needed_whole_goes_to_the_state_directory(
    make_store: MakeStore, full_disk: Fill, tmp_path: Path, ranges: bool, room: int
) -> None:
    """vfs/semantics.md 3.12: also one that could not be read; it has no name there, and ends with its handle."""
    data = pattern(17 * MIB)
    store = make_store(FakeClient(data, ranges=ranges))
    full_disk(room)
    with store.open(item_of(len(data))) as handle:
        assert errno_from(handle.read, 0, len(data)) == errno.EIO
        for _ in range(2):
            assert handle.fetch_file().read_bytes() == data
        assert handle.read(MIB, 100) == data[MIB : MIB + 100]
        assert handle.compute_sha256() == hashlib.sha256(data).hexdigest()
        assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert not store.is_cached(item_of(len(data)))
    assert store.used_bytes() == 0


def test_a_state_directory_that_is_full_too_is_reported(
    make_store: MakeStore, full_disk: Fill, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.41: with ENOSPC, so that its caller makes room and tries again at once."""
    data = pattern(17 * MIB)
    store = make_store(FakeClient(data), owner=tmp_path / "state")
    full_disk(0)
    with store.open(item_of(len(data))) as handle:
        assert errno_from(handle.fetch_file) == errno.EIO, "there is no such directory"
        (tmp_path / "state").mkdir()
        with monkeypatch.context() as context:
            context.setattr(os, "pwrite", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
            assert errno_from(handle.fetch_file) == errno.ENOSPC
        assert handle.fetch_file().read_bytes() == data


def test_a_full_disk_evicts_cached_files(make_store: MakeStore, cache: Path, full_disk: Fill) -> None:
    """vfs/semantics.md 3.12: for its own bytes, and for bytes that wait to be sent; then it refuses nothing any more."""
    data = pattern(100_000)
    store = make_store(FakeClient(data))
    full_disk(0, failures=1)
    assert store.open(numbered(2, 100_000)).read(0, 100_000) == data
    assert store.refusal_reason == "No space left on device"
    read(store, numbered(0, 100_000))
    assert store.refusal_reason == ""
    full_disk(0, failures=1)
    assert read(store, numbered(1, 100_000)) == data
    assert [store.is_cached(numbered(number, 100_000)) for number in range(2)] == [False, True]
    assert store.refusal_reason == ""
    places = Path("/proc"), cache / "gone", cache, cache
    assert [store.evict_on_disk_of(place, 1) for place in places] == [False, False, True, False]
    assert store.used_bytes() == 0


def test_a_directory_that_cannot_be_written_stops_no_reader(make_store: MakeStore, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    client = FakeClient(pattern(100_000))
    with make_store(client, blocked / "job/cache").open(item_of(100_000)) as handle:
        assert handle.read(0, 100_000) == client.data


# -- handles ---------------------------------------------------------------------------------------------


def test_a_closed_handle_has_no_file_but_ends_its_reads(make_store: MakeStore, cache: Path) -> None:
    """Where one thread follows a newer version, another may be about to read the handle of the older one."""
    store = make_store(FakeClient(b"hello", updated_at=""))
    handle = store.open(item_of(5, updated_at="", ns=0))
    handle.close()
    handle.close()
    assert handle.compute_sha256() is None
    assert errno_from(handle.fetch_file) == errno.EBADF
    assert handle.read(0, 10) == b"hello"
    eventually(lambda: not list(cache.rglob("*.part")), "nothing is left of it")


@pytest.mark.parametrize("written", [False, True])
def test_a_version_damaged_while_open_is_verified(make_store: MakeStore, cache: Path, written: bool) -> None:
    """vfs/semantics.md 3.13: its program, or the kernel, may have bytes of it; users may clear the cache."""
    client = FakeClient(b"hello")
    store = make_store(client)
    read(store, item_of(5))
    with store.open(item_of(5)) as first, store.open(item_of(5)) as second:
        assert (first.is_complete, second.is_complete, len(client.requests)) == (True, True, 1)
        (file,) = files(cache)
        os.truncate(file, 2)
        if written:
            client.data, client.updated_at = b"later", LATER
            with pytest.raises(StaleVersionError):
                first.read(0, 10)
        else:
            assert (first.read(0, 10), second.read(1, 10)) == (b"hello", b"ello")
    assert len(client.requests) == 2
