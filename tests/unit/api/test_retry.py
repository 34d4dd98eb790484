from __future__ import annotations

import pytest

from jobfs.api import retry
from jobfs.api.retry import Deadline, backoff


def test_pauses_grow_up_to_a_limit_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 2.0)
    assert all(0.05 <= backoff(0) <= 0.1 for _ in range(20))
    assert all(1.0 <= backoff(attempt) <= 2.0 for attempt in (5, 50, 5000))
    assert len({backoff(3) for _ in range(20)}) > 1


def test_a_deadline_gives_each_step_what_is_left() -> None:
    timeouts = Deadline(30).timeouts()
    assert timeouts["connect"] == retry.CONNECT_WITHIN
    assert 29 < timeouts["read"] <= 30
    assert Deadline(-5).timeouts()["read"] > 0


def test_time_in_which_a_body_moved_does_not_count() -> None:
    deadline = Deadline(1)
    deadline.extend(100)
    assert 100 < deadline.left() <= 101
