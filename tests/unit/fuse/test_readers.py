"""Who reads requests: a few threads, and another one where these wait (vfs/semantics.md 3: what is known is answered at once)."""

from __future__ import annotations

import threading

import pytest
from tests.support.waiting import eventually

from jobfs.fuse.loop import ReadToken
from jobfs.fuse.requests import WorkerSlot


@pytest.fixture
def replaced() -> list[bool]:
    return []


@pytest.fixture
def readers(replaced: list[bool]) -> ReadToken:
    return ReadToken(lambda: replaced.append(True))


@pytest.fixture
def first(readers: ReadToken) -> WorkerSlot:
    """The slot of the thread that reads."""
    slot = WorkerSlot(64)
    assert readers.acquire(slot)
    return slot


def idle(readers: ReadToken) -> tuple[WorkerSlot, threading.Thread]:
    slot, number = WorkerSlot(64), len(readers._idle)
    thread = threading.Thread(target=readers.acquire, args=(slot,), daemon=True)
    thread.start()
    eventually(lambda: len(readers._idle) > number)
    return slot, thread


def test_a_waiting_reader_hands_on_the_read_token(
    readers: ReadToken, first: WorkerSlot, replaced: list[bool]
) -> None:
    slot, thread = idle(readers)
    assert not slot.token
    readers.pass_on(first)
    thread.join(20)
    assert (slot.token, first.token, replaced) == ([True], [], [])


def test_a_thread_is_started_where_none_is_idle(
    readers: ReadToken, first: WorkerSlot, replaced: list[bool]
) -> None:
    readers.pass_on(first)
    readers.pass_on(first)
    assert replaced == [True], "once a call, however often it waits"
    assert readers.acquire(first)
    assert first.token


def test_a_reader_that_ends_lets_others_read(
    readers: ReadToken, first: WorkerSlot, replaced: list[bool]
) -> None:
    """At the end of the mount each thread gets the error in turn."""
    slot, thread = idle(readers)
    assert readers.surrender(first)
    thread.join(20)
    assert slot.token
    assert not readers.surrender(first)
    assert replaced == []


def test_a_reader_blocked_without_notice_is_replaced(
    readers: ReadToken, first: WorkerSlot, replaced: list[bool]
) -> None:
    """A thread that waits for the disk, or for libfuse's own locks, does not say so: the interrupter finds it."""
    readers.revoke([first])
    assert (first.token, replaced) == ([], [True])
    readers.revoke([])
    assert replaced == [True, True], "one is made a look, until there is one: the last may have failed"
