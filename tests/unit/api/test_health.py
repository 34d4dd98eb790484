"""How a server has been answering, and when the background leaves it alone (vfs/semantics.md 3 and 5)."""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import httpx
import pytest
from tests.support.clocks import Clock
from tests.support.waiting import SLACK, eventually

from jobfs import errors
from jobfs.api.client import Client
from jobfs.api.deadline import limit_time, use_deadline
from jobfs.api.failures import RequestInfo
from jobfs.api.health import Health
from jobfs.nodes import Permission

from .world import ID, Make, Script, failure, many, one

READ = RequestInfo("looking at item", "GET", "/x")
CHANGE = RequestInfo("uploading", "POST", "/x", is_change=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def held(clock: Clock) -> Health:
    """The health of a server whose calls may take 30 seconds."""
    return Health(30.0, clock)


def admitted(held: Health, call: RequestInfo = CHANGE) -> bool:
    """True if the background may ask."""
    try:
        return held.admit_with_timeout(call, foreground=False) > 0
    except errors.HeldBackError as error:
        return not error.wait


def is_refused(held: Health) -> bool:
    """True if no request of a program is sent."""
    results = set()
    for call in (READ, CHANGE):
        try:
            results.add(held.admit_with_timeout(call, foreground=True))
        except errors.HeldBackError as error:
            results.add(error.errno)
    assert results in ({math.inf}, {errno.ENETUNREACH})
    return results != {math.inf}


def refuse(held: Health, clock: Clock, *gaps: float) -> None:
    """Connections are refused, so many seconds apart."""
    for gap in gaps:
        clock.now += gap
        held.note_no_reply(0.0, "refused", refused=True)


def fail(held: Health, times: int = 1, *, wait: float = 0.0, status: int | None = None) -> None:
    """So many changes fail; the server asks to `wait`."""
    error = errors.UnavailableError("failed", status=status)
    error.wait = wait
    for _ in range(times):
        held.note_error(CHANGE, error)


def heard(held: Health, date: str = "", began: float = 1.0, ended: float = 2.0) -> None:
    held.note_reply(date, began, ended)


def test_an_answer_clears_earlier_failures() -> None:
    health = Health()
    health.note_error(READ, errors.UnauthorizedError("key"))
    assert (health.answering, health.key_refused, health.last_error) == (True, True, "key")
    health.note_error(READ, errors.UnavailableError("gone"))
    assert (health.answering, health.key_refused, health.last_error) == (False, True, "gone")
    health.note_error(READ, errors.NotFoundError("not there"))
    assert (health.answering, health.key_refused, health.last_error) == (True, False, None)
    for latency in (0.1, None, 0.9):
        health.note_success(changing=False, latency=latency)
    assert health.latency == pytest.approx(0.2), "a moving average"


def test_replies_narrow_the_clock_offset_until_the_clock_is_set() -> None:
    health = Health()
    for step in range(40):
        now = 1.7e9 + step * 0.3 + 0.01
        heard(health, formatdate(int(now + 7.25), usegmt=True), now, now + 0.002)
        heard(health, "Mon, 99 Foo", 1.0, 2.0)
    assert abs(health.clock_offset - 7.25) < 0.06
    heard(health, formatdate(1_700_003_600, usegmt=True), 1.7e9 + 20, 1.7e9 + 20.1)
    assert abs(health.clock_offset - 3580) < 1


def test_retry_after_delays_reads_and_changes_and_is_bounded(held: Health, clock: Clock) -> None:
    """vfs/semantics.md 4, Nothing is forgotten: no server holds up unsent files for ever."""
    for asked, holds in ((60.0, 60), (1e9, 900)):
        fail(held, wait=asked)
        fail(held, wait=5.0)
        held.note_success(changing=True)
        clock.now += holds - 1
        assert (admitted(held), admitted(held, READ)) == (False, False)
        assert 0 < held.background_delay(changing=True) <= 1
        clock.now += 2
        assert (admitted(held), held.background_delay(changing=True)) == (True, 0.0)


def test_after_a_429_without_retry_after_requests_pause_for_a_second(held: Health) -> None:
    fail(held, status=429)
    assert held.background_delay(changing=False) == 1.0


def test_an_outage_is_probed_once_a_second_until_a_success(held: Health, clock: Clock) -> None:
    fail(held, 2)
    assert (admitted(held), held.is_limited_to_probes) == (True, False)
    fail(held)
    assert (admitted(held), held.is_limited_to_probes) == (False, True)
    # It may fail over the ones, and answer the others.
    held.note_success(changing=False)
    assert (admitted(held, READ), admitted(held)) == (True, False)
    for _ in range(10):
        clock.now += 1.01
        assert [admitted(held) for _ in range(5)] == [True, False, False, False, False]
        fail(held)
    held.note_success(changing=True)
    assert not held.is_limited_to_probes
    assert all(admitted(held) for _ in range(5))


def test_a_probe_of_a_failing_server_gets_more_time_with_each_second(held: Health, clock: Clock) -> None:
    """With little time only, a server that has become slow would never be found again."""
    assert held.admit_with_timeout(CHANGE, foreground=False) > 1e6
    held.note_success(changing=False)
    fail(held, 3)
    clock.now += 2
    assert held.admit_with_timeout(CHANGE, foreground=False) == 4.0
    clock.now += 20
    assert held.admit_with_timeout(CHANGE, foreground=False) == 22.0


def in_background(client: Client, times: int) -> list[type[errors.UnavailableError]]:
    """How so many changes in the background fail, one after another."""
    met = []
    for _ in range(times):
        with use_deadline(None), pytest.raises(errors.UnavailableError) as caught:
            client.update(ID, permission=Permission.READ_ONLY)
        met.append(caught.type)
    return met


def test_a_single_429_pauses_all_background_requests(make: Make) -> None:
    """vfs/semantics.md 5: `Retry-After` honoured."""
    script = Script(failure(429, headers={"retry-after": "60"}), one())
    client = make(script)
    assert in_background(client, 20) == [errors.UnavailableError] + [errors.HeldBackError] * 19
    assert len(script.requests) == 1
    # A call of a program may ask, and is answered.
    assert client.get(ID).path == "a.txt"


def test_three_refused_connections_within_two_seconds_are_an_outage(
    held: Health, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """vfs/semantics.md 1: then whatever needs the server fails at once; one line in the log says so, and one that it is over."""
    heard(held)
    refuse(held, clock, 0.0, 0.1, 0.3, 0.7, 0.8)
    assert (held.is_limited_to_probes, is_refused(held)) == (False, False)
    refuse(held, clock, 0.2, 0.1, 60.0)
    assert (held.is_limited_to_probes, is_refused(held)) == (True, True)
    heard(held)
    assert (held.is_limited_to_probes, is_refused(held)) == (False, False)
    results = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    lines = [line.partition(":")[0] for line in results]
    assert lines == ["the server can't be reached (refused)", "the server answers again"]


@pytest.mark.parametrize("gaps", [(0.0, 2.1), (0.0, 0.5, 0.5, 0.9), (0.0, 60.0, 60.0, 60.0)])
def test_a_server_restarted_within_two_seconds_counts_as_reachable(
    held: Health, clock: Clock, gaps: tuple[float, ...]
) -> None:
    """Nor if it is restarted again a minute later without a request in between, or once more after an answer."""
    refuse(held, clock, *gaps)
    assert (held.unreachable_reason, is_refused(held)) == (None, False)
    for again in (0.5, 0.5, 0.5), (0.5, 1.6):
        heard(held)
        refuse(held, clock, *again)
        assert (held.unreachable_reason, is_refused(held)) == (None, False)


def test_a_call_that_timed_out_makes_the_server_unreachable(held: Health, clock: Clock) -> None:
    """vfs/semantics.md 3: forty calls that the kernel runs one at a time end as soon as one; a call looks, then changes."""
    heard(held)
    for seconds in (4.0, 26.0):
        assert not is_refused(held)
        clock.now += seconds
        held.note_no_reply(seconds, "no answer")
    assert held.unreachable_reason == "no answer"
    asked = 0
    for _ in range(40 * 4):  # it is asked once a second whether it is back, for reads and changes together
        assert is_refused(held)
        clock.now += 0.25
        asked += admitted(held, READ) + admitted(held)
    assert asked == 40
    heard(held)
    assert not is_refused(held)


def test_timeouts_far_apart_or_between_replies_are_not_an_outage(held: Health, clock: Clock) -> None:
    clock.now += 29
    heard(held)
    clock.now += 2
    held.note_no_reply(31.0, "no answer")
    for _ in range(20):
        clock.now += 15
        held.note_no_reply(5.0, "no answer")
    assert not is_refused(held)


def test_an_unreachable_server_gets_one_request_a_second_in_total(make: Make, clock: Clock) -> None:
    """vfs/semantics.md 1: calls of programs and of the background; all fail at once."""
    script = Script(httpx.ConnectError("refused"))
    client = make(script, clock=clock)
    refuse(client.health, clock, 0.0, 1.0, 1.0)

    def in_program(_: int) -> int:
        with limit_time(), pytest.raises(errors.HeldBackError) as caught:
            client.get(ID)
        return caught.value.errno

    with ThreadPoolExecutor(12) as pool:
        for _ in range(10):
            clock.now += 1.001
            met = pool.map(in_program, range(24))
            assert set(in_background(client, 12)) <= {errors.HeldBackError, errors.UnavailableError}
            assert set(met) == {errno.ENETUNREACH}
            assert not client.probe_recovery()
    assert 8 <= len(script.requests) <= 11


def test_the_next_due_call_finds_that_the_server_is_back(make: Make, clock: Clock) -> None:
    client = make(Script(many(), one()), clock=clock)
    refuse(client.health, clock, 0.0, 1.0, 1.0)
    clock.now += 1.001
    with limit_time():
        assert client.get(ID).path == "a.txt"
    assert client.health.unreachable_reason is None


def test_no_call_waits_long_to_learn_whether_the_server_is_back(make: Make) -> None:
    """vfs/semantics.md 1.14: only during its first half second. The answer is heard of, however long it takes then."""
    hung, asked = threading.Event(), threading.Event()

    def server(_: httpx.Request) -> httpx.Response:
        asked.set()
        assert hung.wait(30)
        return many()

    client = make(server, timeout=30.0)
    client.health.note_no_reply(30.0, "no answer")
    eventually(lambda: not client.probe_recovery() and asked.is_set())
    began = time.monotonic()
    assert not any(client.probe_recovery() for _ in range(8))
    assert time.monotonic() < began + SLACK, "that half second is over for all callers"
    with limit_time(), pytest.raises(errors.HeldBackError):
        client.get(ID)
    hung.set()
    eventually(lambda: client.health.unreachable_reason is None)


def test_a_server_is_silent_if_unreachable_or_without_replies(clock: Clock) -> None:
    """vfs/semantics.md 6.17: an answer of any kind counts, an error too; a server that is not asked is not silent."""
    health = Health(10.0, clock)
    health.note_reply(formatdate(usegmt=True), 0.0, 0.0)
    assert health.silence_predicate(clock.now - 1) == ""
    clock.now += 5
    assert health.silence_predicate(clock.now - 3) == ""
    with health.count_waiting():
        assert health.silence_predicate(clock.now - 3) == ""
        clock.now += 4
        assert health.silence_predicate(clock.now - 10) == ""
        assert health.silence_predicate(clock.now - 3) == "does not answer"
    health.note_no_reply(0.0, "the connection broke")
    assert health.silence_predicate(clock.now - 3) == "does not answer"
    clock.now += 10
    health.note_no_reply(10, "no answer")
    assert health.silence_predicate(clock.now - 60) == "can't be reached"
    health.note_reply(formatdate(usegmt=True), 0.0, 0.0)
    assert health.silence_predicate(clock.now - 3) == ""
