"""What all transfers of a store share, the error for a version that is gone, and how young a version may be to be kept."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cachetools import FIFOCache

from jobfs.api.client import Client
from jobfs.errors import ApiError, UnavailableError
from jobfs.nodes import Version, shows_fraction

#: Seconds in which two contents may share an `updatedAt`: if it shows whole seconds, and if it shows a fraction.
_COARSE, _FINE = 2.0, 0.05
#: So many sizes are remembered, of versions whose items do not tell theirs.
_SIZES = 1 << 17


class StaleVersionError(ApiError):
    """The server no longer has this version: the job wrote the item in place. Look up, open again."""

    errno = errno.ESTALE


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

    def lasting(self, updated_ns: int, began: float) -> bool:
        """True if bytes whose download began at `began`, as `steady` told it, are surely those of their version.

        Content is named by id, `updatedAt` and size (vfs/semantics.md 3). Where `updatedAt` shows whole seconds, the job may
        write twice within one, and to the same size. So bytes downloaded within 2 s after the change are good for the handles
        that are open now, not for later ones. Of these 2 s, one is for the resolution, one for the error of our idea of the
        server's clock. Where `updatedAt` shows a fraction, 50 ms are enough. An `updatedAt` that cannot be read proves nothing.
        """
        if updated_ns == 0:
            return False
        young = _FINE if shows_fraction(updated_ns) else _COARSE
        return began + self.client.server_time_offset >= updated_ns / 1e9 + young

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
