"""The threads that all transfers of a store share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from queue import SimpleQueue

import pytest

from jobfs.content.link import Pool


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(2, "test", threading.RLock())
    yield pool
    pool.close(20)


def test_no_more_jobs_run_at_once_than_the_pool_has_threads_and_none_after_its_close(pool: Pool) -> None:
    """vfs/semantics.md 6, Bounds: threads do not grow with the number of files."""
    begun: SimpleQueue[int] = SimpleQueue()
    may_end = [threading.Event() for _ in range(4)]

    def job(number: int) -> None:
        begun.put(number)
        assert may_end[number].wait(20)

    assert all(pool.submit(partial(job, number)) for number in range(4))
    assert {begun.get(timeout=20), begun.get(timeout=20)} == {0, 1}
    assert pool.starved
    assert begun.empty()
    may_end[0].set()
    assert begun.get(timeout=20) == 2
    pool.close(0)
    for end in may_end:
        end.set()
    pool.close(20)
    assert not pool.submit(partial(job, 0))
    assert begun.empty()


def test_a_job_that_fails_does_not_take_its_thread_along(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """vfs/semantics.md 3: no call can hang for ever, as a reader would whose download nobody runs."""

    def fail() -> None:
        raise ValueError

    done = threading.Event()
    for job in (fail, fail, fail, done.set):
        pool.submit(job)
    assert done.wait(20)
    assert "failed" in caplog.text
