"""A small pool of daemon threads with two queues: what somebody waits for, and what may be useful later.

On what readers leave over, whole contents are fetched before anybody asks for them (semantics.md section 3, Prefetch).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from jobfs.nodes import Item

_log = logging.getLogger("jobfs.content")

#: Seconds after which a thread without work ends.
_IDLE = 10.0

Job = Callable[[], None]


class Pool:
    """Runs jobs on at most `size` threads, started when needed.

    At most `wanted` of them run what somebody waits for; at most `background` the rest, all but one if not given.
    The threads are daemons: one that hangs in the network never keeps the process from ending.
    """

    def __init__(
        self, size: int, name: str, *, wanted: int | None = None, background: int | None = None
    ) -> None:
        self._size = max(1, size)
        self._most_wanted = max(1, self._size if wanted is None else wanted)
        #: How many background jobs run at once.
        self.background = max(1, self._size - 1 if background is None else background)
        self._name = name
        self.lock = threading.Condition()
        self._wanted: deque[Job] = deque()
        self._background: deque[Job] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._in_wanted = self._in_background = 0
        self._closed = False

    @property
    def starved(self) -> bool:
        """True if a job that somebody waits for has no thread."""
        return bool(self._wanted) and self._idle == 0

    @property
    def waiting(self) -> bool:
        """True if a job has not begun for want of a thread."""
        return bool(self._wanted or self._background)

    def submit(self, job: Job, *, background: bool = False) -> bool:
        """Run `job` as soon as a thread is free; False if the pool is closed."""
        with self.lock:
            if self._closed:
                return False
            (self._background if background else self._wanted).append(job)
            if self._idle < len(self._wanted) + len(self._background) and len(self._threads) < self._size:
                self._start()
            self.lock.notify()
        return True

    def promote(self, job: Job) -> None:
        """Somebody waits now for a job that was submitted as background."""
        with self.lock:
            if job in self._background:
                self._background.remove(job)
                self._wanted.append(job)
                self.lock.notify()

    def close(self, timeout: float) -> None:
        """Drop what has not begun, and wait up to `timeout` seconds for what has."""
        with self.lock:
            self._closed = True
            self._wanted.clear()
            self._background.clear()
            self.lock.notify_all()
            threads = list(self._threads)
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            job, background = taken
            try:
                job()
            except Exception:
                _log.exception("a content job failed")
            finally:
                del job, taken
                self._done(background=background)

    def _take(self) -> tuple[Job, bool] | None:
        with self.lock:
            self._idle += 1
            try:
                if not self.lock.wait_for(self._ready, _IDLE) or self._closed:
                    self._threads.discard(threading.current_thread())
                    return None
                if self._may_take_wanted():
                    self._in_wanted += 1
                    return self._wanted.popleft(), False
                self._in_background += 1
                return self._background.popleft(), True
            finally:
                self._idle -= 1

    def _ready(self) -> bool:
        if self._closed or self._may_take_wanted():
            return True
        return bool(self._background) and self._in_background < self.background

    def _may_take_wanted(self) -> bool:
        return bool(self._wanted) and self._in_wanted < self._most_wanted

    def _done(self, *, background: bool) -> None:
        with self.lock:
            if background:
                self._in_background -= 1
            else:
                self._in_wanted -= 1
            self.lock.notify()


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
        self._lock = pool.lock
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
