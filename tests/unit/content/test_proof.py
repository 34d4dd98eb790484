"""Bytes of several replies are served once they are proved to be of one version."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support.waiting import eventually

from jobfs.api.deadline import limit_time, set_blocking_hook
from jobfs.content import StaleVersionError
from jobfs.content.ranges import KIB, MIB
from jobfs.errors import OutOfTimeError, UnavailableError

from .world import LATER, UPDATED, Open, Opened, pattern


@contextmanager
def jumped(opened: Open) -> Iterator[tuple[Opened, ThreadPoolExecutor, Future[bool]]]:
    """A file of which a read in another request waits until `client.looking` is set; the first request waits for ever."""
    file = opened(16 * MIB, holds={0: MIB})
    client, client.looking = file.client, threading.Event()
    with ThreadPoolExecutor(2) as threads:
        assert file.is_right(0)
        client.wait(lambda: client.requests[0].sent == MIB)
        waiting = threads.submit(file.is_right, 12 * MIB)
        client.wait(lambda: client.requests[-1].start == 12 * MIB and client.requests[-1].sent)
        eventually(lambda: client.gets)
        yield file, threads, waiting


def test_a_second_reply_is_served_after_a_look_later_than_its_headers(opened: Open) -> None:
    """vfs/semantics.md 3.13: unread bytes of the first answer wait too; bytes that were read are there."""
    with jumped(opened) as (file, threads, waiting):
        unread = threads.submit(file.is_right, 128 * KIB)
        assert file.is_right(0)
        assert [read.done() for read in (waiting, unread)] == [False, False]
        file.client.let_look()
        assert (waiting.result(20), unread.result(20)) == (True, True)
    assert file.client.gets == 1


def test_a_reply_that_comes_during_a_look_needs_a_later_one(opened: Open) -> None:
    """vfs/semantics.md 3.13: a look proves the replies whose headers came before it was sent."""
    with jumped(opened) as (file, threads, waiting):
        client = file.client
        later = threads.submit(file.is_right, 8 * MIB)
        client.wait(lambda: client.requests[-1].start == 8 * MIB and client.requests[-1].sent)
        client.let_look()
        assert (waiting.result(20), later.result(20)) == (True, True)
    assert client.gets == 2


@pytest.mark.parametrize("change", [{"updated_at": LATER}, {"shown_size": 5}, {"gone": True}])
def test_unverified_bytes_are_stale_unless_read_before(opened: Open, change: dict[str, Any]) -> None:
    """vfs/semantics.md 3.13: else ESTALE for unread bytes; an open once the version is shown again starts a new download."""
    with jumped(opened) as (file, _, waiting):
        client = file.client
        for name, value in change.items():
            setattr(client, name, value)
        client.let_look()
        with pytest.raises(StaleVersionError):
            waiting.result(20)
    for offset in (12 * MIB, 128 * KIB):
        with pytest.raises(StaleVersionError):
            file.handle.read(offset, 4096)
    with pytest.raises(StaleVersionError), file.store.open(file.item) as beside:
        beside.wait_for_first_byte()
    assert file.is_right(0)
    file.handle.close()
    client.updated_at, client.shown_size, client.gone = UPDATED, None, False
    with file.store.open(file.item) as again:
        assert again.read(12 * MIB, 4096) == client.data[12 * MIB : 12 * MIB + 4096]


def test_a_second_download_never_changes_bytes_that_were_read(opened: Open) -> None:
    """vfs/semantics.md 3.13: a server without ranges starts from the beginning, with another version."""
    file = opened(MIB, ranges=False, says_length=False, breaks=[320_000], chunk=64_000, gate=5)
    client, data = file.client, file.client.data
    client.looking = threading.Event()
    assert file.is_right(0, 300_000)
    client.data, client.updated_at = pattern(MIB, seed=9), LATER
    client.open_gate()
    client.wait(lambda: len(client.requests) == 2 and client.requests[1].finished)
    assert file.handle.read(0, 300_000) == data[:300_000]
    client.let_look()
    with pytest.raises(StaleVersionError):
        file.handle.read(0, MIB)
    assert file.handle.read(0, 300_000) == data[:300_000]


def test_a_look_without_a_reply_is_an_error_and_the_next_read_repeats_it(opened: Open) -> None:
    """vfs/semantics.md 3.13: until then nothing of the version goes into the cache."""
    file = opened(16 * MIB)
    assert file.is_right(4 * MIB)
    file.client.unanswered = 1000
    with pytest.raises(UnavailableError):
        file.handle.read(12 * MIB, 4096)
    with pytest.raises(UnavailableError):
        file.handle.fetch_file()
    assert not file.handle.is_complete
    file.client.unanswered = 0
    assert file.is_right(12 * MIB)
    assert file.handle.fetch_file().read_bytes() == file.client.data


def test_a_wait_for_verification_ends_with_the_call(opened: Open) -> None:
    """vfs/semantics.md 3.15: every call has one deadline, whatever it waits for."""
    file, handed_over = opened(9), threading.Event()
    proof = file.store.attach_fetcher(file.handle).proof

    def call() -> None:
        set_blocking_hook(handed_over.set)
        with limit_time(0.01), proof.hold_version_exclusively():
            pytest.fail("another one asks")

    with ThreadPoolExecutor(1) as pool, proof.hold_version_exclusively():
        error = pool.submit(call).exception(20)
    assert isinstance(error, OutOfTimeError)
    assert (error.errno, handed_over.is_set()) == (errno.ETIMEDOUT, True)
