"""Waiting for what happens in the background: for a condition, with a deadline, never by a bare sleep."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")

#: Seconds that background work may take on a loaded machine.
PATIENCE = 20.0

#: Seconds that a busy machine may add to what is promised within seconds.
SLACK = 3.0


def eventually(look: Callable[[], T], what: Any = "", timeout: float = PATIENCE) -> T:
    """Return the first true result of `look`. Raises AssertionError naming `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {what() if callable(what) else what or look}")
        time.sleep(0.02)


def readable(handle: int | IO[Any], timeout: float | None) -> bool:
    """Return whether the handle is readable, or at its end, within `timeout` seconds. Its number may be over 1023."""
    waiting = select.poll()
    waiting.register(handle, select.POLLIN)
    return bool(waiting.poll(None if timeout is None else timeout * 1000))


def eventually_equal(look: Callable[[], Any], expected: Any, timeout: float = PATIENCE) -> None:
    """Wait until `look` returns `expected`. Raises AssertionError that shows both after `timeout` seconds."""
    end = time.monotonic() + timeout
    while (answer := look()) != expected and time.monotonic() < end:
        time.sleep(0.02)
    assert answer == expected, f"{answer!r} instead of {expected!r}"


class Gate:
    """A FIFO at which shells wait, many at once, until it is open: none of them looks again and again."""

    def __init__(self, path: Path) -> None:
        self._path, self._writers = path, list[int]()
        os.mkfifo(path)

    @property
    def wait(self) -> str:
        """Return what a shell does to wait."""
        return f": <{self._path}"

    def open(self) -> None:
        """Let all continue, and who comes until `close`."""
        self._writers.append(os.open(self._path, os.O_RDWR))

    def close(self) -> None:
        """Let who comes later wait again."""
        while self._writers:
            os.close(self._writers.pop())
