"""Waiting for the end of the job, on a local server (vfs/semantics.md 7, jobfs wait)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.clocks import Clock
from tests.support.workspaces import Start, Workspace

from jobfs.emulator import Server
from jobfs.vfs.job_end import JobEnd


def wait(
    work: Workspace, *acts: Callable[[], object], timeout: float = 600.0
) -> tuple[str | None, list[str]]:
    """Wait for the job, on a clock of its own; after each of the first requests for the job, one of the acts.

    Returns the job's status, None after `timeout` seconds, and the sentences for the user.
    """
    clock, left, said, log = Clock(), list(acts), list[str](), work.server.log
    seen = log.count("instance")

    def pause(seconds: float) -> None:
        nonlocal seen
        clock.advance(seconds)
        if left and log.count("instance") > seen:
            seen = log.count("instance")
            left.pop(0)()

    waiting = JobEnd(work.vfs._report, work.write_back.namespace, work.settings, clock=clock, pause=pause)
    job = waiting.wait(timeout, said.append, lambda: False)
    assert not left
    return None if job is None else job["status"], said


def nothing() -> None:
    pass


@pytest.mark.parametrize("status", ["completed", "requestInteractiveToolResult"])
def test_wait_returns_after_the_job_and_shows_its_last_write(
    server: Server, work: Workspace, status: str
) -> None:
    """vfs/semantics.md 7.10: nothing of before is shown, however long the TTL is."""
    server.store.seed({"result": "first"}, age=60)
    assert work.read("result") == b"first"

    def end() -> None:
        server.store.write("result", "the last")
        server.store.set_job(status=status)

    assert wait(work, end) == (status, [])
    assert (work.read("result"), work.names()) == (b"the last", ["result"])


@pytest.mark.parametrize("status", ["canceling", "aNewStatus"])
def test_wait_takes_any_other_status_as_running(server: Server, work: Workspace, status: str) -> None:
    """vfs/semantics.md 7.10."""
    server.store.set_job(status=status)
    assert wait(work, nothing, nothing, nothing) == (None, [])


def test_a_job_continued_just_before_wait_counts_as_running(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 7.11 and 7.12: an answer from before the command started does not count."""
    server.store.set_job(status="completed")
    assert work.vfs.status()["job"]["ended"]
    server.store.set_job(status="processing")
    assert wait(work, nothing, lambda: server.store.set_job(status="failed")) == ("failed", [])


def test_wait_reports_an_unreachable_server_once_and_continues(server: Server, start: Start) -> None:
    """vfs/semantics.md 7.11: an end that was seen before counts once the workspace could be listed."""
    work = start(ttl=60, timeout=1.0)
    assert work.names() == []
    server.faults.set_rate("error", 1.0, on="list", status=500)
    server.store.set_job(status="completed")
    status, said = wait(
        work, nothing, lambda: server.store.set_job(status="processing"), nothing, server.faults.clear,
        nothing, lambda: server.store.set_job(status="failed"), timeout=3600.0,
    )  # fmt: skip
    assert (status, len(said)) == ("failed", 1), "it was continued before the workspace could be listed"
    assert said[0].startswith("the server does not say whether the job has ended (")
