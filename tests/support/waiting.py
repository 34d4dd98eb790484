"""Waiting for what happens in the background: a condition with a deadline, never a bare sleep."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar

T = TypeVar("T")

#: Seconds that background work may take here, on a loaded machine.
PATIENCE = 20.0

#: Seconds that a busy machine may add to what is promised within seconds.
SLACK = 3.0


def eventually(look: Callable[[], T], what: Any = "", timeout: float = PATIENCE) -> T:
    """What `look` answers as soon as that is true; AssertionError naming `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {what() if callable(what) else what or look}")
        time.sleep(0.02)


def readable(handle: int | IO[Any], timeout: float | None) -> bool:
    """True once something can be read there, or it has ended; False after `timeout` seconds. For handles of any number."""
    waiting = select.poll()
    waiting.register(handle, select.POLLIN)
    return bool(waiting.poll(None if timeout is None else timeout * 1000))


def eventually_equal(look: Callable[[], Any], expected: Any, timeout: float = PATIENCE) -> None:
    """Waits until `look` answers `expected`; AssertionError that shows both after `timeout` seconds."""
    end = time.monotonic() + timeout
    while (answer := look()) != expected and time.monotonic() < end:
        time.sleep(0.02)
    assert answer == expected
