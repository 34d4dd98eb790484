"""Background threads: a run that fails is logged and repeated."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.support.waiting import eventually

from jobfs.background import Background
from jobfs.errors import FsError, UnavailableError

Start = Callable[..., Background]


def running() -> list[threading.Thread]:
    """Return the threads that the tests of this module started and that have not ended."""
    return [thread for thread in threading.enumerate() if thread.name == "jobfs-test"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a thread whose runs raise these errors, one a run (None: a run that succeeds), and then succeed."""
    threads: list[Background] = []

    def start(*errors: BaseException | None) -> Background:
        left = [*errors]
        ran = threading.Event()

        def task() -> float:
            if not left:
                ran.set()
            elif (error := left.pop(0)) is not None:
                raise error
            return 0.01

        threads.append(Background("jobfs-test", task, retry=0.01))
        threads[-1].start()
        assert ran.wait(20), "its runs have ended"
        return threads[-1]

    yield start
    for thread in threads:
        thread.stop()
        thread.join(20)


def test_a_thread_survives_any_error_of_a_run(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    start(OSError(errno.EIO, "no answer from the disk"), ValueError("a fault"), FsError(errno.EIO, "full"))
    assert [record.getMessage() for record in caplog.records] == [
        "jobfs-test failed and is repeated: [Errno 5] no answer from the disk",
        "jobfs-test failed and is repeated: a fault",
        "jobfs-test failed and is repeated: full",
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [False, True, False]


def test_an_error_is_logged_again_only_after_a_success(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    full, down = FsError(errno.EIO, "full"), UnavailableError("down")
    start(full, full, full, down, down, None, down)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "jobfs-test failed and is repeated: full"),
        ("INFO", "jobfs-test failed and is repeated: down"),
        ("INFO", "jobfs-test failed and is repeated: down"),
    ]


def test_stop_starts_no_further_run_and_join_waits_for_the_last(start: Start) -> None:
    thread = start()
    assert [each.daemon for each in running()] == [True]
    thread.stop()
    thread.join(20)
    assert running() == []
    Background("jobfs-never", lambda: 0.0).join()


def test_no_log_line_is_written_for_a_run_that_shutdown_interrupts(caplog: pytest.LogCaptureFixture) -> None:
    entered, broken = threading.Event(), threading.Event()

    def task() -> float:
        entered.set()
        broken.wait(20)
        raise OSError(errno.EBADF, "closed")

    thread = Background("jobfs-test", task)
    thread.start()
    assert entered.wait(20)
    thread.stop()
    broken.set()
    eventually(lambda: not running())
    assert caplog.messages == []
