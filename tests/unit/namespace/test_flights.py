"""One request for many callers, and the pause after a failure."""

from __future__ import annotations

import threading

import pytest

from jobfs.errors import UnauthorizedError, UnavailableError
from jobfs.namespace.flights import Breaker, Flight

DOWN = UnavailableError("down", endpoint="list items", status=503, errno=110)


def test_who_waits_for_a_flight_goes_on_when_it_lands() -> None:
    flight = Flight("x", 0.0, 1)
    waiting = threading.Thread(target=flight.wait)
    waiting.start()
    flight.land(None)
    waiting.join(10)
    assert not waiting.is_alive()


def test_the_error_of_a_flight_is_everybodys() -> None:
    flight = Flight("x", 0.0, 1)
    flight.land(DOWN)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="down"):
            flight.wait()


def test_after_a_failure_nobody_asks_for_a_moment_that_grows() -> None:
    breaker = Breaker(first=1.0, most=4.0)
    now = 0.0
    for delay in (1.0, 2.0, 4.0, 4.0):
        breaker.check(now)
        breaker.failed(DOWN, now, now)
        with pytest.raises(UnavailableError):
            breaker.check(now + delay - 0.01)
        now += delay
    breaker.check(now)


def test_after_the_moment_one_caller_at_a_time_tries() -> None:
    breaker = Breaker(first=1.0)
    breaker.failed(UnauthorizedError("no"), 0.0, 0.0)
    breaker.check(1.0)
    with pytest.raises(UnauthorizedError):
        breaker.check(1.0)


def test_a_success_ends_it_and_older_failures_are_no_news() -> None:
    breaker = Breaker()
    breaker.failed(DOWN, 0.0, 0.0)
    breaker.succeeded(2.0)
    breaker.check(2.0)
    breaker.failed(DOWN, 1.0, 3.0)
    assert breaker.error is None
    breaker.check(3.0)
