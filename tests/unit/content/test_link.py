"""The threads that all transfers of a store share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from jobfs.content.link import Pool


class Gate:
    """A job that runs until it may end."""

    def __init__(self) -> None:
        self.running, self.go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.running.set()
        assert self.go.wait(20)


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(2, "test", threading.RLock())
    yield pool
    pool.close(20)


def test_no_more_jobs_run_at_once_than_it_has_threads(pool: Pool) -> None:
    """vfs/semantics.md 6, Bounds: threads do not grow with the number of files."""
    gates = [Gate() for _ in range(3)]
    assert all(pool.submit(gate) for gate in gates)
    assert gates[0].running.wait(20)
    assert gates[1].running.wait(20)
    assert pool.starved
    assert not gates[2].running.is_set()
    gates[0].go.set()
    assert gates[2].running.wait(20)
    for gate in gates:
        gate.go.set()


def test_a_job_that_fails_does_not_take_its_thread_along(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """vfs/semantics.md 3: no call can hang for ever, as a reader would whose download nobody runs."""

    def fail() -> None:
        raise ValueError

    done = threading.Event()
    for _ in range(4):
        pool.submit(fail)
    pool.submit(done.set)
    assert done.wait(20)
    assert "failed" in caplog.text


def test_a_closed_pool_takes_no_job_and_drops_what_has_not_begun(pool: Pool) -> None:
    running, queued = [Gate(), Gate()], Gate()
    for gate in running:
        pool.submit(gate)
        assert gate.running.wait(20)
    pool.submit(queued)
    pool.close(0)
    for gate in running:
        gate.go.set()
    pool.close(20)
    assert not pool.submit(queued)
    assert not queued.running.is_set()
