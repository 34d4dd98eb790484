from __future__ import annotations

import math

import pytest

from jobfs.api import deadline as times
from jobfs.api.deadline import Deadline, Timeouts, backoff


def test_pauses_grow_up_to_a_limit_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(times, "LONGEST_PAUSE", 2.0)
    assert all(0.05 <= backoff(0) <= 0.1 for _ in range(20))
    assert all(1.0 <= backoff(attempt) <= 2.0 for attempt in (5, 50, 5000))
    assert len({backoff(3) for _ in range(20)}) > 1


def test_each_step_gets_what_is_left_when_it_begins() -> None:
    deadline = Deadline(30)
    timeouts = Timeouts(deadline, math.inf)
    assert timeouts["connect"] == times.CONNECT_WITHIN
    assert 29 < timeouts["read"] <= 30
    deadline.extend(-20)
    assert 9 < timeouts.get("read") <= 10
    assert timeouts.get("other") is None


def test_a_step_is_never_given_nothing() -> None:
    assert Timeouts(Deadline(-5), math.inf).get("read") > 0


def test_a_step_may_be_bound_more_closely() -> None:
    assert Timeouts(Deadline(30), 4.0).get("read") == 4.0
