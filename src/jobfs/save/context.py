"""What every part of a save works with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import RLock

from cachetools import LRUCache

from jobfs.api import Client, Known
from jobfs.content import ContentStore
from jobfs.namespace import Namespace
from jobfs.state import State

log = logging.getLogger("jobfs.save")

#: Items of which it is known what was sent.
_SENT = 20_000


class Unanswered:
    """Items with a request whose answer never came, and how long it may still be carried out (R7). Safe from any thread."""

    def __init__(self, lifetime: float, lock: RLock) -> None:
        """`lifetime`: seconds that a request may still be carried out after its connection died. `lock`: the state's."""
        self._lifetime = lifetime
        self._lock = lock
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
        return self._until.get(item_id, 0.0)


@dataclass(frozen=True)
class Context:
    """One for a mount. `mount`: the id in its hidden names; `lifetime` (R7) and `timeout` in seconds; `cache_limit` in bytes."""

    client: Client
    namespace: Namespace
    content: ContentStore
    state: State
    mount: str
    lifetime: float
    timeout: float
    cache_limit: int
    #: What an earlier look at this server has shown.
    known: Known = field(default_factory=Known)
    unanswered: Unanswered = field(init=False)
    #: The hash of what this mount has sent to an item, by its id (R1: what it sent itself is always known).
    sent: LRUCache[str, str] = field(init=False)

    #: For what is asked, hashed or read beside an upload.
    beside: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "unanswered", Unanswered(self.lifetime, self.state.lock))
        object.__setattr__(self, "sent", LRUCache(_SENT))
        # With each of them another thread asks too: half as many threads as connections use them all.
        workers = max(1, self.client.max_connections // 2)
        object.__setattr__(self, "beside", ThreadPoolExecutor(workers, "jobfs-beside"))


def in_background(context: Context, task: Callable[[], object]) -> None:
    """Run something that nobody waits for; what goes wrong is logged."""

    def guarded() -> None:
        try:
            task()
        except Exception as error:
            log.warning("background work failed: %s", error)

    context.beside.submit(guarded)
