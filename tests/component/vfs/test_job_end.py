"""Waiting for the end of the job, on a local server (vfs/semantics.md 7, jobfs wait)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from tests.support.waiting import eventually
from tests.support.workspaces import Start, Workspace

from jobfs.document import JobStatus
from jobfs.emulator import Server
from jobfs.vfs.job_end import JobEnd


class Waiter:
    """One call that waits, on a thread of its own; `said`: the sentences for its user."""

    def __init__(self, pool: ThreadPoolExecutor, work: Workspace, timeout: float | None) -> None:
        self.said: list[str] = []
        self._cancelled = threading.Event()
        self.result: Future[JobStatus | None] = pool.submit(
            work.vfs.wait_for_job, timeout, self.said.append, self._cancelled.is_set
        )

    def cancel(self) -> None:
        self._cancelled.set()

    @property
    def status(self) -> str | None:
        job = self.result.result(20)
        return None if job is None else job["status"]


Wait = Callable[..., Waiter]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wait]:
    monkeypatch.setattr(JobEnd, "_interval", 0.1)
    waiters: list[Waiter] = []
    with ThreadPoolExecutor() as pool:

        def wait(work: Workspace, timeout: float | None = None) -> Waiter:
            waiters.append(Waiter(pool, work, timeout))
            return waiters[-1]

        yield wait
        for waiter in waiters:
            waiter.cancel()


def wait_for_requests(server: Server, number: int = 1) -> None:
    """Wait until the job was asked for so often again."""
    before = requests(server)
    eventually(lambda: requests(server) >= before + number)


def requests(server: Server) -> int:
    return server.log.count("instance")


@pytest.mark.parametrize("status", ["completed", "requestInteractiveToolResult"])
def test_wait_returns_after_the_job_and_shows_its_last_write(
    server: Server, work: Workspace, wait: Wait, status: str
) -> None:
    """vfs/semantics.md 7.10: nothing of before is shown, however long the TTL is."""
    server.store.seed({"result": "first"}, age=60)
    assert work.read("result") == b"first"
    waiter = wait(work)
    wait_for_requests(server)
    server.store.write("result", "the last")
    server.job_side(server.job).set_job(status=status)
    assert (waiter.status, waiter.said) == (status, [])
    assert (work.read("result"), work.names()) == (b"the last", ["result"])


@pytest.mark.parametrize("status", ["canceling", "aNewStatus"])
def test_wait_takes_any_other_status_as_running(
    server: Server, work: Workspace, wait: Wait, status: str
) -> None:
    """vfs/semantics.md 7.10."""
    server.job_side(server.job).set_job(status=status)
    waiter = wait(work)
    wait_for_requests(server, 3)
    assert not waiter.result.done()
    assert wait(work, 0.3).status is None
    waiter.cancel()
    assert waiter.status is None


def test_a_job_continued_just_before_wait_counts_as_running(
    server: Server, work: Workspace, wait: Wait
) -> None:
    """vfs/semantics.md 7.11 and 7.12: an answer from before the command started does not count."""
    job = server.job_side(server.job)
    job.set_job(status="completed")
    assert work.vfs.status()["job"]["ended"]
    job.set_job(status="processing")
    waiter = wait(work)
    wait_for_requests(server, 2)
    assert not waiter.result.done()
    job.set_job(status="failed")
    assert waiter.status == "failed"


def test_wait_reports_an_unreachable_server_once_and_continues(
    server: Server, start: Start, wait: Wait
) -> None:
    """vfs/semantics.md 7.11: an end that was seen before counts once the workspace could be listed."""
    work = start(ttl=60, timeout=1.0)
    assert work.names() == []
    server.faults.set_rate("error", 1.0, on="list", status=500)
    server.job_side(server.job).set_job(status="completed")
    waiter = wait(work)
    eventually(lambda: waiter.said)
    wait_for_requests(server, 2)
    assert not waiter.result.done()
    server.job_side(server.job).set_job(status="processing")
    wait_for_requests(server, 2)
    server.faults.clear()
    wait_for_requests(server, 3)
    assert not waiter.result.done(), "it was continued before the workspace could be listed"
    server.job_side(server.job).set_job(status="failed")
    assert waiter.status == "failed"
    (said,) = waiter.said
    assert said.startswith("the server does not say whether the job has ended (")
