"""One question that many ask: once at a time, not too often, and nobody waits for long."""

from __future__ import annotations

import threading
import time

from tests.support.waiting import eventually_equal

from jobfs.errors import UnavailableError
from jobfs.vfs.asking import Asking


def test_all_share_one_answer_and_nobody_waits_longer_than_he_likes() -> None:
    calls: list[int] = []
    go_on = threading.Event()

    def ask() -> None:
        calls.append(1)
        go_on.wait(20)

    one = Asking("test", ask, good_for=3600.0)
    one.wait(0.0)
    one.wait(0.0)
    go_on.set()
    one.wait(20.0)
    one.wait(20.0)
    assert calls == [1]


def test_what_was_not_answered_is_asked_again() -> None:
    calls: list[int] = []

    def ask() -> None:
        calls.append(1)
        raise UnavailableError("no")

    one = Asking("test", ask, good_for=3600.0)
    one.wait(20.0)
    one.wait(20.0)
    assert calls == [1], "not at once"
    assert one._next < time.monotonic() + 3600.0
    one._next = 0.0
    one.wait(20.0)
    eventually_equal(lambda: len(calls), 2)
