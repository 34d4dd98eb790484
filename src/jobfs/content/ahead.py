"""Whole contents fetched before anybody asks for them, on the threads that readers leave over (section 3, Prefetch)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from jobfs.content.pool import Pool
from jobfs.nodes import Item

_log = logging.getLogger("jobfs.content")

#: Bytes that may be under way ahead of readers at once: on a slow line they share it with what readers wait for.
_UNDER_WAY = 4 << 20

Take = Callable[[], Item | None]


class Ahead:
    """Keeps as many fetches under way as the pool lets background jobs run.

    `bring(item)` fetches one content in the calling thread. What comes next is asked for only when a thread is free for
    it, so nothing is ever queued that nobody wants any more.
    """

    def __init__(self, pool: Pool, bring: Callable[[Item], None]) -> None:
        self._pool = pool
        self._bring = bring
        self._lock = threading.Lock()
        self._running = 0
        self._bytes = 0

    def run(self, take: Take, count: int) -> None:
        """Fetch what `take` gives until it gives None; `count`: how many it is going to give now, at least one."""
        with self._lock:
            more = max(0, min(self._pool.background - self._running, count))
            self._running += more
        for _ in range(more):
            self._again(take)

    def _again(self, take: Take) -> None:
        if not self._pool.submit(lambda: self._work(take), background=True):
            self._ended()

    def _work(self, take: Take) -> None:
        while (item := take() if self._bytes < _UNDER_WAY else None) is not None:
            size = item.size or 0
            self._count(size)
            try:
                self._bring(item)
            except Exception as error:
                _log.info("%s: not fetched ahead: %s", item.path, error)
            finally:
                self._count(-size)
            if self._pool.waiting:
                self._again(take)
                return
        self._ended()

    def _ended(self) -> None:
        with self._lock:
            self._running -= 1

    def _count(self, size: int) -> None:
        with self._lock:
            self._bytes += size
