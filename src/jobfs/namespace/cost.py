"""What asking costs: when a listing is cheaper than many finds, and how often one may be afforded (section
1).
"""

from __future__ import annotations

from collections import deque

#: A listing may take a tenth of the wall time, or a hundredth if only a suspicion calls for it.
_SHARE = 10.0
_SUSPICION_SHARE = 100.0
#: So many finds in a TTL are never a storm.
_HANDFUL = 3
#: The listing's duration is the shortest of the last so many: one slow answer is not a huge workspace.
_RECENT = 3


class Cost:
    """Keeps count of finds and listings; times in seconds. Not safe for threads by itself."""

    def __init__(self, ttl: float, kernel_timeout: float) -> None:
        self.bound = max(0.0, ttl - kernel_timeout)
        self.pages = 1
        self.listing_seconds = 0.0
        self._window = ttl
        self._finds: deque[float] = deque()
        self._waited = 0.0
        self._durations: deque[float] = deque(maxlen=_RECENT)

    @property
    def effective_ttl(self) -> float:
        """How old a snapshot may be before another one is read: grows with the time that a listing takes."""
        return max(self.bound, _SHARE * min(self._durations, default=0.0))

    def listed(self, seconds: float, pages: int) -> None:
        """A listing was read."""
        self.listing_seconds, self.pages = seconds, max(1, pages)
        self._durations.append(seconds)
        self._finds.clear()
        self._waited = 0.0

    def asked(self, now: float) -> None:
        """A find was sent."""
        self._finds.append(now)

    def answered(self, seconds: float) -> None:
        """A find was answered; somebody has waited for it."""
        self._waited += seconds

    def many(self, now: float) -> bool:
        """True if there were more finds within a TTL than the curious make."""
        while self._finds and self._finds[0] <= now - self._window:
            self._waited *= 1 - 1 / len(self._finds)
            self._finds.popleft()
        return len(self._finds) >= _HANDFUL

    def storm(self, now: float) -> bool:
        """True if a listing pays now: finds within a TTL have cost as many requests as it has, or more time."""
        return self.many(now) and (len(self._finds) >= self.pages or self._waited > self.listing_seconds)

    def suspicious(self, age: float, implicit_seen: bool) -> bool:
        """True if a name that is not known is worth a listing: find can't see an implicit directory.

        Where the listing is one page it costs no more than the find. Where implicit directories have been
        seen it may take its usual share of time, elsewhere a tenth of that.
        """
        if self.pages == 1 or implicit_seen:
            return age > self.effective_ttl
        return age > max(self.effective_ttl, _SUSPICION_SHARE * min(self._durations, default=0.0))
