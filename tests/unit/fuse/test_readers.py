"""Who reads requests: a few threads, and another one where these wait (vfs/semantics.md 3: what is known is answered at once)."""

from __future__ import annotations

import threading

import pytest
from tests.support.waiting import eventually

from jobfs.fuse.interrupt import Desk
from jobfs.fuse.loop import IDLE_THREADS, Readers


@pytest.fixture
def replaced() -> list[bool]:
    return []


@pytest.fixture
def readers(replaced: list[bool]) -> Readers:
    return Readers(lambda: replaced.append(True))


def reading(readers: Readers) -> list[Desk]:
    desks = [Desk(64)]
    assert all(readers.joined(desk) for desk in desks)
    return desks


def idle(readers: Readers) -> tuple[Desk, threading.Thread]:
    desk, number = Desk(64), len(readers._idle)
    thread = threading.Thread(target=readers.joined, args=(desk,), daemon=True)
    thread.start()
    eventually(lambda: len(readers._idle) > number)
    return desk, thread


def test_who_waits_hands_over_to_one_that_is_idle(readers: Readers, replaced: list[bool]) -> None:
    first, *_ = reading(readers)
    desk, thread = idle(readers)
    assert not desk.reads
    readers.hand_over(first)
    thread.join(20)
    assert (desk.reads, first.reads, replaced) == ([True], [], [])


def test_where_nobody_is_idle_another_thread_is_made(readers: Readers, replaced: list[bool]) -> None:
    for number, desk in enumerate(reading(readers), 1):
        readers.hand_over(desk)
        assert len(replaced) == number


def test_who_has_handed_over_waits_for_its_turn_to_read_again(readers: Readers, replaced: list[bool]) -> None:
    first, *_ = reading(readers)
    readers.hand_over(first)
    readers.hand_over(first)
    assert replaced == [True], "once a call, however often it waits"
    assert readers.joined(first)
    assert first.reads


def test_who_leaves_is_not_replaced_but_lets_others_read(readers: Readers, replaced: list[bool]) -> None:
    """At the end of the mount each thread is told in its turn."""
    first, *_ = reading(readers)
    desk, thread = idle(readers)
    assert readers.left(first)
    thread.join(20)
    assert desk.reads
    assert not readers.left(first)
    assert replaced == []


def test_of_many_that_were_needed_a_few_stay(readers: Readers) -> None:
    desks = reading(readers)
    waiting = [idle(readers) for _ in range(IDLE_THREADS)]
    assert not readers.joined(Desk(64))
    for desk in desks:
        readers.left(desk)
    for _ in waiting:
        eventually(lambda: any(readers.left(desk) for desk, _ in waiting))
    for _, thread in waiting:
        thread.join(20)
        assert not thread.is_alive()


def test_who_waits_in_silence_is_relieved(readers: Readers, replaced: list[bool]) -> None:
    """What waits for the disk, or for libfuse's own locks, does not say so: the interrupter finds it."""
    desks = reading(readers)
    readers.relieve(desks)
    assert not any(desk.reads for desk in desks)
    assert replaced == [True], "one is made a look, until there are enough"
    readers.relieve([])
    assert replaced == [True, True]


def test_where_no_thread_could_be_made_one_is_made_at_the_next_look(
    readers: Readers, replaced: list[bool]
) -> None:
    """A process that may have no more threads for a moment does not stop to answer."""
    first, *_ = reading(readers)
    readers.hand_over(first)
    del replaced[:]  # it failed
    readers.relieve([])
    assert replaced == [True]
