"""Calls that the kernel queues behind a late one (fuse.loop.Late; semantics.md section 3)."""

from __future__ import annotations

import pytest

from jobfs.api.deadline import Deadline
from jobfs.fuse import loop
from jobfs.fuse.interrupt import Desk, Opcode
from jobfs.fuse.loop import Late

UNLINK, DIRECTORY, FIRST, SECOND = 10, 7, 101, 102


class Request(Desk):
    """A desk with a request on it."""

    def __init__(self, thread: int, opcode: int = UNLINK, node: int = DIRECTORY) -> None:
        super().__init__(64)
        self._about = node, thread, opcode

    def about(self) -> tuple[int, int, int]:
        return self._about


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    monkeypatch.setattr(loop, "_RIGHT_AFTER", 60.0)
    late = Late()
    assert not late
    late.ended(Request(FIRST), Deadline(-1.0))
    assert late
    return late


def left(late: Late, request: Request) -> float:
    call = Deadline(30.0)
    late.queued(request, call)
    return call.left()


def test_who_was_queued_behind_a_late_call_has_waited_as_long(late: Late) -> None:
    assert left(late, Request(SECOND)) < 0


def test_a_call_of_several_requests_was_queued_with_all_of_them(late: Late) -> None:
    """The kernel looks a name up before it removes it."""
    assert left(late, Request(SECOND, Opcode.LOOKUP)) < 0
    late.ended(Request(SECOND, Opcode.LOOKUP), Deadline(-1.0))
    assert left(late, Request(SECOND)) < 0


def test_the_next_call_of_who_has_had_its_turn_has_a_time_of_its_own(late: Late) -> None:
    late.ended(Request(SECOND), Deadline(-1.0))
    assert left(late, Request(FIRST)) > 20
    assert left(late, Request(SECOND)) > 20


def test_calls_about_another_directory_were_not_queued(late: Late) -> None:
    assert left(late, Request(SECOND, node=8)) > 20


def test_a_call_that_comes_later_was_not_queued(late: Late, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_RIGHT_AFTER", 0.0)
    assert left(late, Request(SECOND)) > 20
    assert not late, "it is forgotten"
