"""Names that are reserved: who waits for whom."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from jobfs.api import deadline
from jobfs.errors import OutOfTimeError
from jobfs.state.tables import Reservations

T = TypeVar("T")


@pytest.fixture
def reservations() -> Reservations:
    return Reservations(threading.Condition(), deque())


def elsewhere(ask: Callable[[], T]) -> T:
    """The result of the call in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result(20)


def waits(reservations: Reservations, path: str) -> bool:
    """True if another thread has to wait for a name."""

    def ask() -> bool:
        try:
            with deadline.within(0.01), reservations.held(path):
                return False
        except OutOfTimeError as error:
            return error.errno == errno.ETIMEDOUT

    return elsewhere(ask)


NEAR = [("dir", True), ("dir/a", True), ("", True), ("dirt", False), ("b", False)]


@pytest.mark.parametrize(("other", "expected"), NEAR)
def test_names_that_touch_are_changed_one_after_the_other(
    reservations: Reservations, other: str, expected: bool
) -> None:
    """design.md, Things to know: the reservation of names, and what is below them, for operations that change names."""
    with reservations.held("dir", "dir/a/b"):
        assert waits(reservations, other) is expected
    assert not waits(reservations, other)


def test_a_waiting_thread_goes_on_when_the_name_is_free(reservations: Reservations) -> None:
    entered = threading.Event()

    def second() -> None:
        with reservations.held("dir/file"):
            entered.set()

    thread = threading.Thread(target=second)
    with reservations.held("dir"):
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(20)
    thread.join()


@pytest.mark.parametrize(
    ("path", "expected"), [("dir", False), ("dir/a", False), ("", True), ("dirt", True), ("b", True)]
)
def test_no_change_of_the_server_begins_at_a_reserved_name_or_below_it(
    reservations: Reservations, path: str, expected: bool
) -> None:
    """vfs/semantics.md 4: a directory is renamed while nothing below it is half saved."""
    with reservations.held("dir"):
        assert elsewhere(lambda: reservations.against(path) is None) is expected
        assert reservations.against(path) is None, "who holds the name may have it saved"
    assert elsewhere(lambda: reservations.against(path) is None)
