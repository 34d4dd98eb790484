"""Who reads requests: a few threads, and another one where these wait (vfs/semantics.md 3: what is known is answered at once)."""

from __future__ import annotations

import threading

import pytest
from tests.support.waiting import eventually

from jobfs.fuse.interrupt import WorkerSlot
from jobfs.fuse.loop import Readers


@pytest.fixture
def replaced() -> list[bool]:
    return []


@pytest.fixture
def readers(replaced: list[bool]) -> Readers:
    return Readers(lambda: replaced.append(True))


@pytest.fixture
def first(readers: Readers) -> WorkerSlot:
    """The slot of the thread that reads."""
    slot = WorkerSlot(64)
    assert readers.joined(slot)
    return slot


def idle(readers: Readers) -> tuple[WorkerSlot, threading.Thread]:
    slot, number = WorkerSlot(64), len(readers._idle)
    thread = threading.Thread(target=readers.joined, args=(slot,), daemon=True)
    thread.start()
    eventually(lambda: len(readers._idle) > number)
    return slot, thread


def test_a_reader_that_waits_hands_over(readers: Readers, first: WorkerSlot, replaced: list[bool]) -> None:
    slot, thread = idle(readers)
    assert not slot.reads
    readers.hand_over(first)
    thread.join(20)
    assert (slot.reads, first.reads, replaced) == ([True], [], [])


def test_a_thread_is_made_where_none_is_idle(
    readers: Readers, first: WorkerSlot, replaced: list[bool]
) -> None:
    readers.hand_over(first)
    readers.hand_over(first)
    assert replaced == [True], "once a call, however often it waits"
    assert readers.joined(first)
    assert first.reads


def test_a_reader_that_leaves_lets_others_read(
    readers: Readers, first: WorkerSlot, replaced: list[bool]
) -> None:
    """At the end of the mount each thread is told in its turn."""
    slot, thread = idle(readers)
    assert readers.left(first)
    thread.join(20)
    assert slot.reads
    assert not readers.left(first)
    assert replaced == []


def test_a_reader_that_waits_silent_is_replaced(
    readers: Readers, first: WorkerSlot, replaced: list[bool]
) -> None:
    """A thread that waits for the disk, or for libfuse's own locks, does not say so: the interrupter finds it."""
    readers.relieve([first])
    assert (first.reads, replaced) == ([], [True])
    readers.relieve([])
    assert replaced == [True, True], "one is made a look, until there is one: the last may have failed"
