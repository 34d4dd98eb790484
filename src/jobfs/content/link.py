"""What all transfers of a store share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cachetools import FIFOCache

from jobfs.api.client import Client
from jobfs.errors import UnavailableError
from jobfs.nodes import Version

#: So many sizes are remembered, of versions whose items do not tell theirs.
_SIZES = 1 << 17


class Link:
    """Client, threads, deadline, and what was found out about the server.

    `lock` is the one lock of a store, never held across I/O. `ranges`: whether the server has them, None if that is unknown.
    """

    def __init__(self, client: Client, lock: threading.RLock, timeout: float, ranges: bool | None) -> None:
        self.client = client
        self.lock = lock
        self.timeout = timeout
        self.ranges = ranges
        self.closed = False
        #: The sizes in bytes of versions whose items do not tell them.
        self._sizes: FIFOCache[Version, int] = FIFOCache(_SIZES)
        # One connection is left for requests about names.
        self._most = max(1, client.max_connections - 1)
        self._threads = ThreadPoolExecutor(self._most, "jobfs-content")
        self._jobs = 0  # that run or wait for a thread

    @property
    def starved(self) -> bool:
        """True if a transfer waits for a thread."""
        return self._jobs > self._most

    def begin(self, transfer: Callable[[], None]) -> None:
        """Run a transfer as soon as a thread is free. Raises UnavailableError if the store is closed."""
        with self.lock:
            try:
                self._threads.submit(self._run, transfer)
            except RuntimeError:
                raise UnavailableError("download: the mount is going away") from None
            self._jobs += 1

    def close(self) -> None:
        """Break off every transfer, and wait for their threads."""
        self.client.break_off()
        self._threads.shutdown(cancel_futures=True)

    def remember(self, version: Version, size: int) -> None:
        """Note the size of a version whose item does not tell it."""
        with self.lock:
            self._sizes[version] = size

    def size(self, version: Version) -> int | None:
        """The size that was noted for a version; None if none is."""
        with self.lock:
            return self._sizes.get(version)

    def forget(self, version: Version, size: int) -> None:
        """Forget this size: it is that of other bytes. One that was noted since stays."""
        with self.lock:
            if self._sizes.get(version) == size:
                del self._sizes[version]

    def _run(self, transfer: Callable[[], None]) -> None:
        try:
            transfer()
        finally:
            with self.lock:
                self._jobs -= 1
