"""The pool of download threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from jobfs.content.pool import Pool


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(2, "test")
    yield made
    made.close(5)


class Gate:
    """A job that says that it runs and waits to be let go."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> None:
        self.running.set()
        assert self.go.wait(10)


def test_jobs_run_on_as_many_threads_as_it_may_have(pool: Pool) -> None:
    gates = [Gate() for _ in range(3)]
    for gate in gates:
        assert pool.submit(gate)
    assert gates[0].running.wait(5)
    assert gates[1].running.wait(5)
    assert pool.starved
    assert not gates[2].running.is_set()
    gates[0].go.set()
    assert gates[2].running.wait(5)
    for gate in gates:
        gate.go.set()


def test_background_jobs_leave_a_thread_to_readers(pool: Pool) -> None:
    first, second, reader = Gate(), Gate(), Gate()
    pool.submit(first, background=True)
    pool.submit(second, background=True)
    assert first.running.wait(5)
    pool.submit(reader)
    assert reader.running.wait(5)
    assert not second.running.is_set()
    first.go.set()
    assert second.running.wait(5)
    for gate in (second, reader):
        gate.go.set()


def test_a_background_job_that_somebody_waits_for_is_run_like_any_other(pool: Pool) -> None:
    first, second = Gate(), Gate()
    pool.submit(first, background=True)
    assert first.running.wait(5)
    pool.submit(second, background=True)
    pool.promote(second)
    assert second.running.wait(5)
    first.go.set()
    second.go.set()


def test_a_job_that_fails_does_not_take_its_thread_along(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError

    done = threading.Event()
    for _ in range(4):
        pool.submit(fail)
    pool.submit(done.set)
    assert done.wait(5)
    assert "failed" in caplog.text


def test_a_closed_pool_takes_no_job_and_drops_what_has_not_begun() -> None:
    pool = Pool(1, "test")
    running, queued = Gate(), Gate()
    pool.submit(running)
    assert running.running.wait(5)
    pool.submit(queued)
    pool.close(0)
    running.go.set()
    pool.close(5)
    assert not pool.submit(queued)
    assert not queued.running.is_set()


def test_both_kinds_of_jobs_may_be_held_to_fewer_threads() -> None:
    pool = Pool(4, "test", wanted=2, background=1)
    wanted, background = [Gate() for _ in range(3)], [Gate() for _ in range(2)]
    for gate in background:
        pool.submit(gate, background=True)
    for gate in wanted:
        pool.submit(gate)
    for gate in (background[0], *wanted[:2]):
        assert gate.running.wait(5)
    assert pool.waiting
    assert not background[1].running.is_set()
    assert not wanted[2].running.is_set()
    for gate in (*wanted, *background):
        gate.go.set()
    assert wanted[2].running.wait(5)
    assert background[1].running.wait(5)
    pool.close(5)
