"""Names that are reserved: who waits for whom."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import pytest

from jobfs.api import deadline
from jobfs.errors import OutOfTimeError
from jobfs.state.reservations import Reservations


def in_another_thread(task: Callable[[], object]) -> None:
    thread = threading.Thread(target=task)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def waits(reservations: Reservations, path: str, *, resting: bool = False) -> bool:
    """True if another thread has to wait for a name."""
    answer = []

    def ask() -> None:
        try:
            with deadline.within(0.01), reservations.held(path, resting=resting):
                answer.append(False)
        except OutOfTimeError as error:
            answer.append(error.errno == errno.ETIMEDOUT)

    in_another_thread(ask)
    return answer == [True]


def may_start(reservations: Reservations, path: str) -> bool:
    """True if a change of the server may begin there in another thread."""
    answer: list[bool] = []

    def ask() -> None:
        with reservations.turn:
            answer.append(reservations.may_start(path))

    in_another_thread(ask)
    return answer[0]


NEAR = [("dir", True), ("dir/a", True), ("", True), ("dirt", False), ("b", False)]


@pytest.mark.parametrize(("other", "expected"), NEAR)
def test_names_that_touch_are_changed_one_after_the_other(other: str, expected: bool) -> None:
    """core.md: the reservation of names, and what is below them, for operations that change names."""
    reservations = Reservations()
    with reservations.held("dir", "dir/a/b"):
        assert waits(reservations, other) is expected
    assert not waits(reservations, other)


def test_who_waits_goes_on_when_the_name_is_free() -> None:
    reservations, entered = Reservations(), threading.Event()

    def second() -> None:
        with reservations.held("dir/file"):
            entered.set()

    thread = threading.Thread(target=second)
    before = reservations.ended
    with reservations.held("dir"):
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(20)
    thread.join()
    assert reservations.ended == before + 2


@pytest.mark.parametrize("resting", [False, True])
def test_names_are_free_again_after_an_error(resting: bool) -> None:
    reservations = Reservations()
    with pytest.raises(KeyError), reservations.held("a", resting=resting):
        raise KeyError
    assert not waits(reservations, "a")


@pytest.mark.parametrize(
    ("path", "expected"), [("dir", False), ("dir/a", False), ("", True), ("dirt", True), ("b", True)]
)
def test_no_change_of_the_server_begins_at_a_reserved_name_or_below_it(path: str, expected: bool) -> None:
    """semantics 4: a directory is renamed while nothing below it is half saved."""
    reservations = Reservations()
    with reservations.held("dir"):
        assert may_start(reservations, path) is expected
        with reservations.turn:
            assert reservations.may_start(path), "who holds the name may have it saved"
    assert may_start(reservations, path)


@pytest.mark.parametrize(("other", "expected"), NEAR)
def test_a_name_at_rest_is_one_where_nothing_runs(other: str, expected: bool) -> None:
    """semantics 4: a directory is renamed while nothing below it is half saved."""
    reservations = Reservations()
    with reservations.turn:
        reservations.start("dir")
        reservations.start("dir")
        reservations.end("dir")
    assert waits(reservations, other, resting=True) is expected
    assert not waits(reservations, other), "else it may be reserved meanwhile"
    with reservations.turn:
        reservations.end("dir")
    assert not waits(reservations, other, resting=True)


def test_a_wait_for_rest_that_ends_in_time_leaves_nothing_reserved() -> None:
    """semantics 3: every call has a deadline."""
    reservations = Reservations()
    with reservations.turn:
        reservations.start("dir/file")
    assert waits(reservations, "dir", resting=True)
    assert may_start(reservations, "dir/other")
