"""What all transfers of a store share, the error for a version that is gone, and how young a version may be to be kept."""

from __future__ import annotations

import errno
import logging
import queue
import threading
import time
from collections.abc import Callable

from cachetools import FIFOCache

from jobfs.api.client import Client
from jobfs.errors import ApiError
from jobfs.nodes import Version, shows_fraction

_log = logging.getLogger("jobfs.content")

#: Seconds in which two contents may share an `updatedAt`: if it shows whole seconds, and if it shows a fraction.
_COARSE, _FINE = 2.0, 0.05
#: So many sizes are remembered, of versions whose items do not tell theirs.
_SIZES = 1 << 17


class StaleVersionError(ApiError):
    """The server no longer has this version: the job wrote the item in place. Look up, open again."""

    errno = errno.ESTALE


class Pool:
    """Runs jobs on at most `size` daemon threads: one that hangs in the network never keeps the process from ending."""

    def __init__(self, size: int, name: str, lock: threading.RLock) -> None:
        self.size = max(1, size)
        self._name = name
        self._lock = lock
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unused = 0  # threads without a job, less the jobs that wait for a thread
        self._closed = False

    @property
    def starved(self) -> bool:
        """True if a job waits for a thread."""
        return self._unused < 0

    def submit(self, job: Callable[[], None]) -> bool:
        """Run `job` as soon as a thread is free; False if the pool is closed."""
        with self._lock:
            if self._closed:
                return False
            self._unused -= 1
            if self._unused < 0 and len(self._threads) < self.size:
                self._unused += 1
                name = f"{self._name}-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                self._threads[-1].start()
        self._jobs.put(job)
        return True

    def close(self, timeout: float) -> None:
        """Begin no more jobs, and wait up to `timeout` seconds for those that have begun."""
        with self._lock:
            self._closed = True
        deadline = time.monotonic() + timeout
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if not self._closed:
                    job()
            except Exception:
                _log.exception("a content job failed")
            del job
            with self._lock:
                self._unused += 1


class Link:
    """Client, threads, deadline, and what was learned of the server; `ranges`: whether it serves ranges, None if unknown.

    `lock` is the one lock of a store, never held across I/O.
    """

    def __init__(self, client: Client, lock: threading.RLock, timeout: float) -> None:
        self.client = client
        self.lock = lock
        self.timeout = timeout
        self.ranges: bool | None = None
        self.closed = False
        #: The sizes in bytes of versions whose items do not tell them.
        self.sizes: FIFOCache[Version, int] = FIFOCache(_SIZES)
        # One connection is left for requests about names.
        self.pool = Pool(client.max_connections - 1, "jobfs-content", lock)

    def lasting(self, updated_ns: int, began: float) -> bool:
        """True if bytes whose download began at `began`, in seconds of this clock, are surely those of their version.

        Content is named by id, `updatedAt` and size (vfs/semantics.md 3). Where `updatedAt` shows whole seconds, the job may
        write twice within one, and to the same size. So bytes downloaded within 2 s after the change are good for the handles
        that are open now, not for later ones. Of these 2 s, one is for the resolution, one for the error of our idea of the
        server's clock. Where `updatedAt` shows a fraction, 50 ms are enough. An `updatedAt` that cannot be read proves nothing.
        """
        if updated_ns == 0:
            return False
        young = _FINE if shows_fraction(updated_ns) else _COARSE
        return began + self.client.server_time_offset >= updated_ns / 1e9 + young

    def learn(self, version: Version, size: int) -> None:
        """Remember the size of a version whose item does not tell it."""
        with self.lock:
            self.sizes[version] = size

    def forget(self, version: Version) -> None:
        """Forget the size that was learned: it was that of other bytes."""
        with self.lock:
            self.sizes.pop(version, None)
