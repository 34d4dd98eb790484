"""Backoff: when a request is tried again, and what one attempt may take of the time that is left."""

from __future__ import annotations

import random
import time
from typing import Any

from jobfs.api.deadline import Deadline

#: Seconds before the first retry and at most between two, before jitter.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
#: Seconds within which a connection must stand, so that a lost SYN leaves time for another try.
CONNECT_WITHIN = 10.0


class Span(float):
    """Seconds that a step may take in all: httpx gives each of its reads as many again (see transport.py)."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that remain; negative once it is over."""
        return self._end - time.monotonic()

    def renew(self) -> None:
        """Begin to count anew."""
        self._end = time.monotonic() + self


class Timeouts(dict[str, float]):
    """httpx's timeouts of one attempt, each of which bounds one step: what is left when the step begins.

    `most`: seconds that any step may take at most.
    """

    def __init__(self, deadline: Deadline, most: float) -> None:
        self._deadline, self._most = deadline, most
        self._reading = Span(0.0)
        super().__init__({step: self._now(step) for step in ("connect", "read", "write", "pool")})

    def get(self, step: str, default: Any = None) -> Any:  # noqa: D102 - dict's
        if step == "read":
            self._reading = Span(self._now(step))
            return self._reading
        return self._now(step) if step in self else default

    def progress(self) -> None:
        """Bytes of a body came, and were taken: the next ones have as long."""
        self._reading.renew()

    def left(self) -> float:
        """Seconds that one step may take now."""
        return max(min(self._deadline.left(), self._most), 0.001)

    def _now(self, step: str) -> float:
        left = self.left()
        return min(left, CONNECT_WITHIN) if step == "connect" else left


def backoff(attempt: int) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0): exponential, with jitter."""
    pause: float = FIRST_PAUSE * 2 ** min(attempt, 16)
    return min(pause, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
