"""The time that a system call has: one deadline over all that it asks, looks at again and tries again (vfs/semantics.md 3).

The thread that serves a call sets it (`begin_call`), and every wait in the call ends with it. Work that a call hands to other
threads takes it along (`bind_deadline`). A thread without a deadline works in the background: there, each request has a timeout
of its own.
"""

from __future__ import annotations

import contextlib
import errno
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from typing import TypeVar

from jobfs.errors import JobfsError, OutOfTimeError, UnavailableError

_Result = TypeVar("_Result")

#: Seconds without end, for waits that take a number.
UNBOUNDED = 1e8

_STARTED = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def steady_time() -> float:
    """Seconds since the epoch by the clock of this machine as it was when this process began, whoever sets it afterwards."""
    return _STARTED + time.clock_gettime(time.CLOCK_BOOTTIME)


class Deadline:
    """`timeout` seconds without progress; a deadline within an `outer` deadline ends with that at the latest.

    `foreground`: a program waits for the work within it, which then goes before the rest; within an outer deadline, the outer one
    says so. Threads may share it.
    """

    __slots__ = ("_end", "_is_foreground", "_outer", "_waiters", "timeout")

    def __init__(self, timeout: float, outer: Deadline | None = None, *, foreground: bool = True) -> None:
        self.timeout = timeout
        self._outer = outer
        self._end = time.monotonic() + timeout
        self._is_foreground = foreground and outer is None
        self._waiters: list[Deadline] = []

    @property
    def is_foreground(self) -> bool:
        """True if a program waits for the work within this deadline, if only for a while (see `attach_waiter`)."""
        others = (self._outer, *self._waiters)
        return self._is_foreground or any(other is not None and other.is_foreground for other in others)

    def remaining(self) -> float:
        """Seconds that remain; negative once it has passed."""
        left = self._end - time.monotonic()
        return left if self._outer is None else min(left, self._outer.remaining())

    def extend(self, seconds: float) -> None:
        """Do not count `seconds` in which bytes were moving, here or in deadlines that wait for the same work."""
        self._end += seconds  # two threads at once may count as one: their seconds are the same
        for other in (self._outer, *self._waiters):
            if other is not None:
                other.extend(seconds)

    def restart(self) -> None:
        """Begin to count anew; an outer deadline goes on."""
        self._end = time.monotonic() + self.timeout

    @contextlib.contextmanager
    def attach_waiter(self, other: Deadline | None) -> Iterator[None]:
        """In this block `other` waits for work within this one: its program waits here too, and progress here counts there."""
        if other is None or other is self:
            yield
            return
        self._waiters.append(other)
        try:
            yield
        finally:
            self._waiters.remove(other)

    def raise_if_passed(self, what: str) -> None:
        """Raises OutOfTimeError(ETIMEDOUT) once it has passed; `what` did not come to its end."""
        if self.remaining() <= 0:
            raise timeout_error(what)


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)
#: The deadline of this thread's call; None in the background.
current_deadline: Callable[[], Deadline | None] = _current.get


#: What each thread does before it waits.
_before = threading.local()


def set_blocking_hook(call: Callable[[], None]) -> None:
    """This thread makes `call` before it waits for anything: others may go on."""
    _before.call = call


def announce_blocking() -> None:
    """This thread may wait now, for the server or for another thread, and not just for a lock that nobody holds for long."""
    call = getattr(_before, "call", None)
    if call is not None:
        call()


def begin_call(timeout: float) -> Deadline:
    """This thread, which serves nothing but system calls, begins a call."""
    deadline = Deadline(timeout)
    _current.set(deadline)
    return deadline


@contextlib.contextmanager
def limit_time(timeout: float = UNBOUNDED) -> Iterator[Deadline]:
    """In this block the thread has `timeout` seconds without progress, and no more than its call has left."""
    deadline = Deadline(timeout, _current.get())
    with use_deadline(deadline):
        yield deadline


@contextlib.contextmanager
def use_deadline(deadline: Deadline | None) -> Iterator[None]:
    """In this block the thread is bound by `deadline`."""
    token = _current.set(deadline)
    try:
        yield
    finally:
        _current.reset(token)


def bind_deadline(task: Callable[..., _Result]) -> Callable[..., _Result]:
    """`task` for another thread: it runs within the deadline of this thread's call."""
    context = copy_context()
    return lambda *args: context.copy().run(task, *args)


def remaining_time(limit: float = UNBOUNDED) -> float:
    """Seconds that this thread's call may still wait: not negative, and at most `limit`."""
    deadline = _current.get()
    return max(0.0, limit if deadline is None else min(limit, deadline.remaining()))


def wait_notified(condition: threading.Condition, what: str) -> None:
    """Wait for a notification, with the condition's lock held, as long as this thread's call may; the caller looks again.

    Raises OutOfTimeError(ETIMEDOUT): `what` did not come to its end.
    """
    announce_blocking()
    if (deadline := _current.get()) is not None:
        deadline.raise_if_passed(what)
    condition.wait(None if deadline is None else deadline.remaining())


def wait_result(future: Future[_Result], what: str) -> _Result:
    """The result of `what` another thread does for this thread's call; raises its error, or OutOfTimeError(ETIMEDOUT)."""
    announce_blocking()
    while True:
        deadline = _current.get()
        try:
            return future.result(None if deadline is None else max(deadline.remaining(), 0.0))
        except TimeoutError:
            if deadline is None or future.done():
                raise
            deadline.raise_if_passed(what)


def timeout_error(what: str) -> OutOfTimeError:
    """The error of a call whose deadline has passed."""
    return OutOfTimeError(f"{what}: not within the time that a call has", errno=errno.ETIMEDOUT)


#: Seconds before the first retry, and at most between two retries; before jitter, and unless the caller gives others.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0


def retry_delay(
    attempt: int, error: JobfsError | None = None, *, first: float = 0.0, most: float = 0.0
) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0): what its `error` asks for (`Retry-After`), and more.

    The part added grows from `first` to `most`, with jitter: calls that have failed together do not come back together.
    """
    asked = error.wait if isinstance(error, UnavailableError) else 0.0
    grown = min((first or FIRST_PAUSE) * 2.0 ** min(attempt, 16), most or LONGEST_PAUSE)
    return asked + grown * random.uniform(0.5, 1.0)


def sleep_before_retry(seconds: float, error: JobfsError, timeout: float) -> None:
    """Wait in this thread before the next attempt; raises `error` if its call, or `timeout`, would be over by then."""
    if seconds >= remaining_time(timeout):
        raise error
    time.sleep(seconds)
