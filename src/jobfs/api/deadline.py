"""The time limit of a system call: one deadline for all its requests, looks and retries (vfs/semantics.md 3).

The thread that serves a call sets the deadline (`start_call_deadline`), and every wait in the call ends by it. Work that the call
hands to other threads carries the deadline along (`bind_deadline`). A thread without a deadline works in the background,
where each request has its own timeout.
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
from dataclasses import dataclass
from typing import TypeVar

from jobfs.errors import JobfsError, OutOfTimeError, UnavailableError

_Result = TypeVar("_Result")

#: Seconds that mean no limit, for waits that take a number.
UNBOUNDED = 1e8

_STARTED = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def steady_time() -> float:
    """Return seconds since the epoch: this machine's clock at the start of the process, plus the time elapsed since."""
    return _STARTED + time.clock_gettime(time.CLOCK_BOOTTIME)


class Deadline:
    """A limit of `timeout` seconds without progress; it ends no later than its `outer` deadline. Threads may share it.

    `foreground`: a program waits for the work within the deadline, which then has priority. If there is an outer deadline,
    the outer one decides that.
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
        """Whether a program waits for the work within this deadline, if only for a while (see `attach_waiter`)."""
        others = (self._outer, *self._waiters)
        return self._is_foreground or any(other is not None and other.is_foreground for other in others)

    def signed_remaining(self) -> float:
        """Return the seconds that remain; negative once the deadline has passed."""
        seconds = self._end - time.monotonic()
        return seconds if self._outer is None else min(seconds, self._outer.signed_remaining())

    def extend(self, seconds: float) -> None:
        """Exclude `seconds` in which bytes moved, here and in the deadlines that wait for the same work."""
        self._end += seconds  # of two threads at once, one may be lost: both add the same seconds
        for other in (self._outer, *self._waiters):
            if other is not None:
                other.extend(seconds)

    def restart(self) -> None:
        """Grant the full `timeout` again; an outer deadline is not changed."""
        self._end = time.monotonic() + self.timeout

    @contextlib.contextmanager
    def attach_waiter(self, waiter: Deadline | None) -> Iterator[None]:
        """For the block, let `waiter` wait for the work within this deadline.

        The work is then in the foreground if `waiter` is, and progress here extends `waiter`.
        """
        if waiter is None or waiter is self:
            yield
            return
        self._waiters.append(waiter)
        try:
            yield
        finally:
            self._waiters.remove(waiter)

    def raise_if_passed(self, work: str) -> None:
        """Raise OutOfTimeError(ETIMEDOUT) if the deadline has passed; `work` names the unfinished work."""
        if self.signed_remaining() <= 0:
            raise timeout_error(work)


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)
#: Returns the deadline of this thread's call; None in the background.
current_deadline: Callable[[], Deadline | None] = _current.get


#: Each thread's hook, called before the thread blocks.
_hook = threading.local()


def set_blocking_hook(call: Callable[[], None]) -> None:
    """Make this thread call `call` before it blocks, so that other threads can take over its work."""
    _hook.call = call


def call_blocking_hook() -> None:
    """Call this thread's blocking hook, because the thread may now wait for the server or for another thread."""
    call = getattr(_hook, "call", None)
    if call is not None:
        call()


def start_call_deadline(timeout: float) -> Deadline:
    """Give this thread the deadline of the system call that it begins to serve, and return it; the next call replaces it."""
    deadline = Deadline(timeout)
    _current.set(deadline)
    return deadline


@contextlib.contextmanager
def limit_time(timeout: float = UNBOUNDED) -> Iterator[Deadline]:
    """Give the block `timeout` seconds without progress, and no more than this thread's call has left."""
    deadline = Deadline(timeout, _current.get())
    with use_deadline(deadline):
        yield deadline


@contextlib.contextmanager
def use_deadline(deadline: Deadline | None) -> Iterator[None]:
    """Bind this thread to `deadline` for the block."""
    token = _current.set(deadline)
    try:
        yield
    finally:
        _current.reset(token)


def bind_deadline(task: Callable[..., _Result]) -> Callable[..., _Result]:
    """Return `task` for another thread, bound to the deadline of this thread's call."""
    context = copy_context()
    return lambda *args: context.copy().run(task, *args)


def remaining_time(limit: float = UNBOUNDED) -> float:
    """Return the seconds that this thread's call may still wait: not negative, and at most `limit`."""
    deadline = _current.get()
    return max(0.0, limit if deadline is None else min(limit, deadline.signed_remaining()))


def wait_for_notification(condition: threading.Condition, work: str) -> None:
    """Wait for a notification, at most until this thread's deadline. The caller holds the lock, and checks again afterwards.

    Raises OutOfTimeError(ETIMEDOUT) if the deadline had passed before the wait; `work` names the unfinished work.
    """
    call_blocking_hook()
    if (deadline := _current.get()) is not None:
        deadline.raise_if_passed(work)
    condition.wait(None if deadline is None else deadline.signed_remaining())


def wait_for_result(future: Future[_Result], work: str) -> _Result:
    """Return the result of `work`, another thread's work for this call; raises its error, or OutOfTimeError(ETIMEDOUT)."""
    call_blocking_hook()
    while True:
        deadline = _current.get()
        try:
            return future.result(None if deadline is None else max(deadline.signed_remaining(), 0.0))
        except TimeoutError:
            if deadline is None or future.done():
                raise
            deadline.raise_if_passed(work)


def timeout_error(work: str) -> OutOfTimeError:
    """Return the error of a call whose deadline has passed; `work` names the unfinished work."""
    return OutOfTimeError(f"{work}: not done within the time limit of a call", errno=errno.ETIMEDOUT)


#: Seconds before the first retry, and the most between two retries; before jitter, unless the caller gives others.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


@dataclass(frozen=True)
class Pace:
    """The clock by which a client judges its server, and the pauses between its attempts, as `retry_delay` takes them."""

    clock: Callable[[], float] = time.monotonic
    first_pause: float = _FIRST_PAUSE
    longest_pause: float = _LONGEST_PAUSE


def retry_delay(
    attempt: int,
    error: JobfsError | None = None,
    *,
    first_delay: float = _FIRST_PAUSE,
    max_delay: float = _LONGEST_PAUSE,
) -> float:
    """Return the seconds to wait after failed attempt `attempt` (from 0): the `Retry-After` of `error`, plus backoff.

    The backoff grows from `first_delay` to `max_delay`, with jitter, so that calls that failed together do not retry together.
    """
    requested = error.wait if isinstance(error, UnavailableError) else 0.0
    backoff = min(first_delay * 2.0 ** min(attempt, 16), max_delay)
    return requested + backoff * random.uniform(0.5, 1.0)


def sleep_before_retry(seconds: float, error: JobfsError, timeout: float) -> None:
    """Sleep `seconds` before the next attempt; raises `error` if this thread's call, or `timeout`, would end before that."""
    if seconds >= remaining_time(timeout):
        raise error
    time.sleep(seconds)
