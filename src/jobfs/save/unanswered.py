"""Requests whose answers never came: how long each may still be carried out (save-protocol.md R7)."""

from __future__ import annotations

import threading
import time


class Unanswered:
    """Remembers the items that such requests are about, beyond the transaction that sent them. Safe from any thread."""

    def __init__(self, lifetime: float) -> None:
        """`lifetime`: seconds that a request may still be carried out after its connection died."""
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def note(self, item_id: str) -> float:
        """A request on the item went unanswered, or may have; returns until when to wait, in seconds since the epoch."""
        now = time.time()
        with self._lock:
            self._until = {other: until for other, until in self._until.items() if until > now}
            self._until[item_id] = now + self._lifetime
            return self._until[item_id]

    def until(self, item_id: str) -> float:
        """Until when a request on the item may still be carried out; 0.0 if none is known."""
        with self._lock:
            return self._until.get(item_id, 0.0)
