"""Deadline and backoff: how long a request may go without progress, and when it is tried again."""

from __future__ import annotations

import random
import time

#: Seconds before the first retry and at most between two, before jitter.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
#: Seconds within which a connection must stand, so that a lost SYN leaves time for another try.
CONNECT_WITHIN = 10.0


class Deadline:
    """`timeout` seconds without progress, over all attempts of one request (semantics.md section 3)."""

    def __init__(self, timeout: float) -> None:
        self._end = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds that remain; negative once it has passed."""
        return self._end - time.monotonic()

    def extend(self, seconds: float) -> None:
        """Do not count `seconds` in which a body was moving."""
        self._end += seconds

    def timeouts(self) -> dict[str, float]:
        """What is left, as httpx's timeouts of one attempt: each bounds one step without progress."""
        left = max(self.left(), 0.001)
        return {"connect": min(left, CONNECT_WITHIN), "read": left, "write": left, "pool": left}


def backoff(attempt: int) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0): exponential, with jitter."""
    pause: float = FIRST_PAUSE * 2 ** min(attempt, 16)
    return min(pause, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
