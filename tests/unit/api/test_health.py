from __future__ import annotations

from email.utils import formatdate
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from jobfs.api.health import Monitor, ServerClock


def test_before_the_first_answer_nothing_is_claimed() -> None:
    health = Monitor(30.0).health()
    assert (health.answering, health.last_ok, health.last_error, health.latency) == (False, None, None, None)
    assert Monitor(30.0).offset() == 0.0


def test_an_answer_clears_what_went_wrong_before() -> None:
    monitor = Monitor(30.0)
    with monitor.sending():
        monitor.refused("key")
    assert monitor.health().key_refused
    with monitor.sending():
        monitor.failed("gone")
    assert not monitor.health().answering
    assert monitor.health().last_error == "gone"
    assert monitor.health().key_refused
    monitor.answered(0.5)
    health = monitor.health()
    assert (health.answering, health.last_error, health.key_refused, health.requests) == (
        True,
        None,
        False,
        2,
    )


def test_latency_is_a_moving_average() -> None:
    monitor = Monitor(30.0)
    monitor.answered(0.1)
    monitor.answered(None)
    assert monitor.health().latency == 0.1
    latencies = []
    for _ in range(50):
        monitor.answered(1.0)
        latencies.append(monitor.health().latency or 0.0)
    assert all(before < after < 1.0 for before, after in pairwise(latencies))
    assert latencies[-1] > 0.9


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.001, 0.3), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_the_offset_is_within_half_a_second_and_a_round_trip(
    offset: float, answers: list[tuple[float, float, float]]
) -> None:
    clock, now = ServerClock(), 1.7e9
    for gap, trip, share in answers:
        now += gap
        written = now + trip * share + offset
        clock.heard(formatdate(int(written), usegmt=True), now, now + trip)
        assert abs(clock.offset - offset) <= 0.66
        now += trip


def test_many_answers_narrow_the_offset() -> None:
    clock = ServerClock()
    for step in range(40):
        now = 1.7e9 + step * 0.3 + 0.01
        clock.heard(formatdate(int(now + 7.25), usegmt=True), now, now + 0.002)
    assert abs(clock.offset - 7.25) < 0.06


def test_a_clock_that_was_set_is_followed() -> None:
    clock = ServerClock()
    clock.heard(formatdate(1_700_000_000, usegmt=True), 1_700_000_000.2, 1_700_000_000.3)
    clock.heard(formatdate(1_700_003_600, usegmt=True), 1_700_000_001.2, 1_700_000_001.3)
    assert abs(clock.offset - 3599) < 1


def test_what_is_no_date_is_ignored() -> None:
    clock = ServerClock()
    for date in ("", "soon", "Mon, 99 Foo"):
        clock.heard(date, 1.0, 2.0)
    assert clock.offset == 0.0
