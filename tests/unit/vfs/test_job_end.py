"""How often the server is asked for the job while `jobfs wait` waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from tests.support.clocks import Clock

from jobfs.errors import UnavailableError
from jobfs.settings import Settings
from jobfs.vfs.job_end import JobEnd


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


def ending(clock: Clock, job: Any, ttl: float = 5.0) -> tuple[JobEnd, Mock, Mock]:
    """A JobEnd whose requests for the job all get this answer, with its report and its namespace."""
    report = Mock(fetch_job=Mock(side_effect=lambda: job()))
    namespace = Mock(status=Mock(return_value=SimpleNamespace(effective_ttl=ttl)))

    def pause(seconds: float) -> None:
        assert seconds <= 1.0, "a caller that hangs up is noticed soon"
        clock.advance(seconds)

    return JobEnd(report, namespace, Settings(), clock=clock, pause=pause), report, namespace


@pytest.mark.parametrize(("ttl", "times"), [(0.5, 6), (5.0, 6), (15.0, 2)])
def test_a_running_job_is_polled_as_often_as_by_a_watch(clock: Clock, ttl: float, times: int) -> None:
    """vfs/semantics.md 7.11: six requests in 30 seconds, fewer where the effective TTL is longer, and no listing."""
    waiting, report, namespace = ending(clock, lambda: {"status": "processing"}, ttl)
    assert waiting.wait(30.0, Mock(), lambda: False) is None
    assert (clock.now, report.fetch_job.call_count) == (30.0, times)
    namespace.refresh.assert_not_called()


def test_what_the_kernel_cached_before_the_listing_expires(clock: Clock) -> None:
    """vfs/semantics.md 7.10: what the kernel asks for afterwards is of this listing."""
    waiting, _, namespace = ending(clock, lambda: {"status": "completed"})
    listed: list[float] = []

    def refresh() -> None:
        listed.append(clock.now)
        clock.advance(0.5)

    namespace.refresh.side_effect = refresh
    job = waiting.wait(None, Mock(), lambda: False)
    assert job is not None
    assert job["status"] == "completed"
    assert listed == [0.0]
    assert clock.now == 0.5 + Settings().kernel_timeout > 0.5


@pytest.mark.parametrize("until", [7.0, 60.0])
def test_wait_ends_if_the_caller_hangs_up_or_the_server_is_silent(clock: Clock, until: float) -> None:
    """vfs/semantics.md 7.10, 7.11."""

    def silent() -> None:
        raise UnavailableError("silent")

    said: list[str] = []
    waiting, _, _ = ending(clock, silent)
    assert waiting.wait(60.0, said.append, lambda: clock.now >= until) is None
    assert (until <= clock.now <= until + 0.5, len(said)) == (True, 1)
