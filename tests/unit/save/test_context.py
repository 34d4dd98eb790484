"""Requests that may still be carried out (save-protocol R7)."""

from __future__ import annotations

import time
from threading import RLock

from tests.support.waiting import eventually

from jobfs.save.context import Unanswered


def test_an_item_is_waited_for_as_long_as_a_request_may_live() -> None:
    unanswered = Unanswered(30.0, RLock())
    before = time.time()
    until = unanswered.note("a")
    assert before + 30.0 <= until <= time.time() + 30.0
    assert unanswered.until("a") == until
    assert unanswered.until("b") == 0.0


def test_a_second_request_begins_the_wait_again() -> None:
    unanswered = Unanswered(30.0, RLock())
    first = unanswered.note("a")
    assert eventually(lambda: time.time() + 30.0 > first)
    assert unanswered.note("a") > first
    assert unanswered.until("a") > first


def test_what_is_over_is_forgotten() -> None:
    unanswered = Unanswered(0.0, RLock())
    unanswered.note("a")
    assert eventually(lambda: unanswered.note("b") and unanswered.until("a") == 0.0)
