"""One transfer of a version's bytes into the cache, and what all transfers of a store share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cachetools import FIFOCache

from jobfs.api.client import Client, Download
from jobfs.api.connection_queue import Priority
from jobfs.api.deadline import UNBOUNDED, Deadline, current_deadline, retry_delay
from jobfs.content.cached_version import CachedVersion
from jobfs.content.proof import StaleVersionError, VersionProof
from jobfs.content.ranges import NEAR
from jobfs.content.timing import Timing
from jobfs.errors import ContractError, JobfsError, UnavailableError, copy_error
from jobfs.nodes import Version

#: Seconds before the first retry after a body has broken off.
_FIRST_PAUSE = 0.05
#: How many sizes are remembered of versions whose items have none.
_SIZES = 1 << 17


class MeasuredSizes:
    """The sizes in bytes of versions whose items have none; thread-safe by the store's `lock`."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._sizes: FIFOCache[Version, int] = FIFOCache(_SIZES)

    def remember(self, version: Version, size: int) -> None:
        """Note the size of a version."""
        with self._lock:
            self._sizes[version] = size

    def get(self, version: Version) -> int | None:
        """Return the noted size of a version; None if there is none."""
        with self._lock:
            return self._sizes.get(version)

    def forget(self, version: Version, size: int) -> None:
        """Forget this size, which proved wrong. A different size, noted since, stays."""
        with self._lock:
            if self._sizes.get(version) == size:
                del self._sizes[version]


class TransferPool:
    """The client, threads and times of all transfers of a store, and what transfers found out about the server.

    `lock`: the store's. `timeout`: seconds without progress. `ranges`: whether the server has ranges, None if that is
    unknown.
    """

    def __init__(
        self, client: Client, lock: threading.RLock, timeout: float, ranges: bool | None, timing: Timing
    ) -> None:
        self.client = client
        self.timeout = timeout
        self.timing = timing
        self.ranges = ranges
        self.sizes = MeasuredSizes(lock)
        self.closed = False
        self._lock = lock
        # One connection is left for requests about names.
        self._most = max(1, client.max_connections - 1)
        self._threads = ThreadPoolExecutor(self._most, "jobfs-content")
        self._jobs = 0  # tasks that run or wait for a thread

    @property
    def is_starved(self) -> bool:
        """Whether a transfer waits for a thread."""
        return self._jobs > self._most

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task` as soon as a thread is free. Raises UnavailableError if the pool is closed."""
        with self._lock:
            try:
                self._threads.submit(self._run_task, task)
            except RuntimeError:
                raise UnavailableError("download: the mount is ending") from None
            self._jobs += 1

    def close(self) -> None:
        """Abort every transfer, and wait for the threads."""
        self.client.abort_requests()
        self._threads.shutdown(cancel_futures=True)

    def _run_task(self, task: Callable[[], None]) -> None:
        try:
            task()
        finally:
            with self._lock:
                self._jobs -= 1


class Transfer:
    """Fetches a range [start, end) into `cached`; if `end` is None, everything from `start` to the end of the file.

    A transfer proceeds from start to end, skips available bytes, and makes as many requests as needed. Other threads read
    `pos` (the next byte to come); they set `stop_requested` and, under the store's lock, `waiters` and `error`. `siblings`:
    all running transfers of this version. A `background` transfer has its own thread, and no reader waited when it began.
    """

    def __init__(
        self,
        cached: CachedVersion,
        proof: VersionProof,
        pool: TransferPool,
        siblings: list[Transfer],
        *,
        start: int,
        end: int | None,
        background: bool = False,
    ) -> None:
        self.pos = start
        self.end = end
        self.background = background
        self.stop_requested = False
        self.waiters = 0
        self.error: JobfsError | None = None
        self._cached = cached
        self._proof = proof
        self._pool = pool
        self._siblings = siblings
        self._gained = 0.0  # `time.monotonic()` when new bytes last came
        self._furthest, self._is_interrupted, self._has_restarted = start, False, False
        call = current_deadline()
        #: A waiting reader is attached to this deadline: then the transfer goes before the rest, and each piece is progress for
        #: both.
        self.deadline = Deadline(
            UNBOUNDED, foreground=not background and call is not None and call.is_foreground
        )

    def run_unless_preempted(self) -> bool:
        """Send requests until no byte is missing; return False if another transfer needs this thread first.

        After False, this must be called again later. Raises ApiError, StaleVersionError if the version is gone, FsError if
        the bytes cannot be stored.
        """
        self._gained = time.monotonic()
        self._is_interrupted = False
        self._proof.first_request_at = self._proof.first_request_at or self._pool.timing.clock()
        self._cached.make_room(self._end_position - self.pos)
        failures = 0
        while (start := self._next_missing()) is not None:
            if self._is_interrupted and not self.background:
                return False
            self.pos = start
            gained = self._gained
            broken = self._request_or_restart_once()
            # A server without ranges may send the same bytes again, which is no progress.
            failures = 0 if broken is None or self._gained > gained else failures + 1
            if broken is not None:
                self._pause_before_resume(broken, failures)
        return True

    def should_stop(self) -> bool:
        """Return whether this transfer must stop where it is: on request, or because nobody wants it and its end is far."""
        if self.stop_requested or self._pool.closed or self._proof.stale is not None:
            return True
        return not (self.waiters or self._cached.is_wanted()) and self._end_position - self.pos > NEAR

    @property
    def _end_position(self) -> int:
        """The offset at which this transfer ends."""
        return self._cached.size if self.end is None else self.end

    def _next_missing(self) -> int | None:
        """Return the offset of the first byte that this transfer must still fetch; None if it may end."""
        with self._cached.cond:
            gap = (
                None if self.should_stop() else self._cached.available.first_gap(self.pos, self._end_position)
            )
        return None if gap is None else gap[0]

    def _pause_before_resume(self, broken: UnavailableError, failures: int) -> None:
        """Wait before a broken transfer is resumed; raises `broken` if no new bytes have come for too long."""
        seconds = self._gained + self._pool.timeout - time.monotonic()
        if seconds <= 0:
            raise copy_error(broken)
        with self._cached.cond:
            pause = min(seconds, retry_delay(failures, first_delay=_FIRST_PAUSE))
            self._cached.cond.wait_for(self.should_stop, pause)

    # -- one request ----------------------------------------------------------------------------------------

    def _request_or_restart_once(self) -> UnavailableError | None:
        """Make one request, as `_request` does.

        If its length is wrong although the version is right, restart the transfer from byte 0, once.
        """
        try:
            return self._request()
        except ContractError as wrong:
            self._verify_after_wrong_length(wrong)
            if self._has_restarted:
                raise
        self._has_restarted, self.pos, self.end = True, 0, None
        self._cached.forget_bytes()
        return None

    def _verify_after_wrong_length(self, error: ContractError) -> None:
        """Raise StaleVersionError if the wrong length is that of another version, ApiError if that cannot be determined."""
        version = self._cached.version
        self._pool.sizes.forget(version, self._cached.size)
        shown = self._pool.client.get(version.item_id)
        if version.size is None or not self._proof.is_shown_by(shown):
            raise StaleVersionError(f"{error}: the item was written while it was read") from None

    def _request(self) -> UnavailableError | None:
        """Make one request; return the error if its body broke off, which can be resumed.

        Raises an error before the body: the client has retried that already.
        """
        start, size = self.pos, self._cached.size
        with self._pool.client.download(self._cached.version.item_id, start, self.end, size=size) as body:
            if not self._accept_reply_if_needed(start, body):
                return None
            try:
                complete = self._receive_to_end(body)
            except UnavailableError as broken:
                return broken
        if complete and self.pos < self._end_position and (self.pos == start or body.start == 0):
            raise ContractError(f"download: {self.pos} bytes came instead of the {size} promised")
        return None

    def _accept_reply_if_needed(self, start: int, body: Download) -> bool:
        """Process the headers of a reply; return False if its bytes are not needed. Raises ContractError."""
        self._check_headers(start, body)
        if start:
            self._pool.ranges = body.start > 0
        if start and body.start == 0 and self.end is not None and not self._become_stream():
            return False
        self.pos = body.start
        with self._cached.cond:
            self._proof.replies += 1  # unread bytes now need a proof that all replies are of this version
            self._cached.cond.notify_all()
        return True

    def _check_headers(self, start: int, body: Download) -> None:
        if body.start > start:
            raise ContractError(
                f"download: the bytes from {start} were asked for, those from {body.start} came"
            )
        total = body.total if body.total is not None or body.start else body.length
        if total not in (None, self._cached.size):
            raise ContractError(
                f"download: {total} bytes are announced instead of the {self._cached.size} promised"
            )

    def _become_stream(self) -> bool:
        """Take the whole file, which comes instead of a range; return False if another stream brings it."""
        with self._cached.cond:
            self.stop_requested = self.stop_requested or any(
                other.end is None and not other.stop_requested for other in self._siblings
            )
        if self.stop_requested:
            return False
        self.end = None
        return True

    def _receive_to_end(self, body: Download) -> bool:
        """Store the body; return False if its end was not read. Raises ContractError if too much comes, UnavailableError."""
        began = time.monotonic()
        for chunk in filter(None, body.chunks()):
            self._store(chunk)
            # A range is read to its end, so that the connection can be kept, but no further.
            if self.should_stop() or self.pos > self._end_position or self._must_yield(began):
                return False
        return True

    def _store(self, chunk: bytes) -> None:
        end = self.pos + len(chunk)
        if end > self._cached.size:
            raise ContractError(f"download: more bytes came instead of the {self._cached.size} promised")
        self._cached.store_bytes(self.pos, chunk)
        self.pos = end
        if end > self._furthest:
            self._furthest, self._gained = end, time.monotonic()

    def _must_yield(self, began: float) -> bool:
        """Return whether the request begun at `began` had its turn, and another transfer waits for its thread or connection."""
        if not self._pool.ranges or time.monotonic() - began <= self._pool.timing.turn:
            return False
        priority = Priority.LARGE if self.deadline.is_foreground else Priority.BACKGROUND_LARGE
        self._is_interrupted = self._pool.is_starved or self._pool.client.connections.has_waiter_before(
            priority=priority + 1
        )
        return self._is_interrupted
