"""One deadline a call (vfs/semantics.md 3)."""

from __future__ import annotations

import errno
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from jobfs import errors
from jobfs.api import deadline
from jobfs.api.deadline import (
    Deadline,
    bind_deadline,
    current_deadline,
    limit_time,
    remaining_time,
    retry_delay,
    use_deadline,
)
from jobfs.nodes import Permission

from .world import ID, Make, Script, one


def test_an_inner_deadline_is_bounded_by_the_outer_and_reports_progress() -> None:
    outer = Deadline(10)
    assert 9 < Deadline(100, outer).signed_remaining() <= 10
    assert 4 < Deadline(5, outer).signed_remaining() <= 5
    inner = Deadline(10, outer)
    inner.extend(100)
    assert 109 < inner.signed_remaining() <= 110
    assert 109 < outer.signed_remaining() <= 110


def test_a_call_that_joins_an_attempt_shares_progress_and_promotes_it() -> None:
    attempt, call = Deadline(10, foreground=False), Deadline(5)
    with attempt.attach_waiter(call):
        assert attempt.is_foreground
        attempt.extend(50)
    assert not attempt.is_foreground
    assert 54 < call.signed_remaining() <= 55
    attempt.extend(50)
    assert call.signed_remaining() <= 55


def test_the_deadline_is_passed_on_to_work_in_another_thread() -> None:
    with ThreadPoolExecutor(1) as pool, limit_time(7) as call:
        assert pool.submit(bind_deadline(current_deadline)).result() is call
        assert pool.submit(current_deadline).result() is None
        with use_deadline(None):
            assert remaining_time(3) == 3


def test_a_wait_ends_with_its_call() -> None:
    condition = threading.Condition()
    with condition, limit_time(0.05):
        deadline.wait_for_notification(condition, "the name")
        with pytest.raises(errors.OutOfTimeError, match="the name") as caught:
            deadline.wait_for_notification(condition, "the name")
    assert caught.value.errno == errno.ETIMEDOUT
    with limit_time(0.05), pytest.raises(errors.OutOfTimeError):
        deadline.wait_for_result(Future[None](), "a look")


def test_a_wait_outlasts_its_call_while_bytes_move() -> None:
    future = Future[int]()
    with limit_time(0.1) as call:
        call.extend(100)
        threading.Timer(0.2, future.set_result, [1]).start()
        assert deadline.wait_for_result(future, "a look") == 1


def test_all_requests_of_a_call_share_its_deadline(make: Make) -> None:
    """vfs/semantics.md 3: every call has a deadline, whatever it has to ask."""

    def slow(request: httpx.Request) -> httpx.Response:
        time.sleep(0.3)
        return one(permission="readOnly")

    script = Script(slow)
    client = make(script)

    with limit_time(1.0), pytest.raises(errors.OutOfTimeError) as caught:  # noqa: PT012
        while True:
            client.update(ID, permission=Permission.READ_ONLY)
    assert caught.value.errno == errno.ETIMEDOUT
    assert 1 <= len(script.requests) <= 4
    assert client.health.last_error is None


def test_pauses_grow_up_to_a_limit_and_differ() -> None:
    pause = partial(retry_delay, first_delay=0.1, max_delay=2.0)
    assert all(0.05 <= pause(0) <= 0.1 for _ in range(20))
    assert all(1.0 <= pause(attempt) <= 2.0 for attempt in (5, 50, 5000))
    assert len({pause(3) for _ in range(20)}) > 1
