"""The cost of requests: when a listing is read instead of another find, and how often (section 1, Cost control)."""

from __future__ import annotations

import statistics
from collections import deque

#: Listings may take a fifth of the wall time. How long one usually takes is the median of the last `_RECENT`, known from
#: `_ENOUGH` on.
_SHARE = 5.0
_RECENT, _ENOUGH = 5, 3
#: So many finds within a second are no storm yet.
_HANDFUL = 4
_SECOND = 1.0


class Cost:
    """Keeps count of finds and listings; times in seconds. Not safe for threads by itself."""

    def __init__(self, ttl: float, kernel_timeout: float) -> None:
        self.bound = max(0.0, ttl - kernel_timeout)
        self.pages = 1
        self.listing_seconds = 0.0
        self._durations: deque[float] = deque(maxlen=_RECENT)
        self._finds: deque[float] = deque(maxlen=_HANDFUL)

    @property
    def usual(self) -> float:
        """How long a listing takes; 0.0 as long as too few were read to tell."""
        return statistics.median(self._durations) if len(self._durations) >= _ENOUGH else 0.0

    @property
    def effective_ttl(self) -> float:
        """How old a snapshot may be before another one is read."""
        return max(self.bound, _SHARE * self.usual)

    def listed(self, seconds: float, pages: int) -> None:
        """A listing was read."""
        self.listing_seconds, self.pages = seconds, max(1, pages)
        self._durations.append(seconds)

    def asked(self, now: float) -> None:
        """A find was sent."""
        self._finds.append(now)

    def storm(self, now: float) -> bool:
        """True if another find would be too many within a second."""
        return len(self._finds) == _HANDFUL and self._finds[0] > now - _SECOND

    def affords(self, age: float, max_age: float | None) -> bool:
        """True if a listing may replace a snapshot of this age, to get one at most `max_age` old (None: the effective TTL).

        With a `max_age`, the duration of the last listing decides: a listing that takes longer would be too old at once.
        """
        if max_age is None:
            return age > self.effective_ttl
        return age > max_age > _SHARE * self.listing_seconds
