"""One transfer: bytes of one version from the server into its file, resumed where it broke.

A fetch is open-ended (the stream that brings the whole file) or bounded (a range). It goes from its start to
its end, leaving out what is there already, in as many requests as that takes.
"""

from __future__ import annotations

import errno
import logging
import random
import threading
import time
from typing import Protocol

from jobfs.api import Client, Download
from jobfs.api.deadline import UNBOUNDED, Deadline, bound_by, current
from jobfs.api.line import Rank
from jobfs.content.errors import CrowdedError, StaleVersionError, UnboundedError, WrongLengthError, again
from jobfs.content.pool import Pool
from jobfs.content.ranges import MIB, NEAR
from jobfs.errors import ContractError, FsError, JobfsError, UnavailableError
from jobfs.nodes import Version

_log = logging.getLogger("jobfs.content")

#: What is there already is taken from the server again unless that saves this much.
SKIP = 4 * MIB
#: Seconds before a broken body is asked for again: first, and at most.
_BACKOFF = 0.05
_BACKOFF_MAX = 2.0
#: Seconds after which a transfer lets another one have its thread.
_TURN = 2.0
#: The same for one that a request waits for which goes before it.
_SHORT_TURN = 0.2
#: The most that a running transfer is credited with bringing within a round trip.
_REACH_MAX = 16 * MIB


class Link:
    """What all transfers of a store share: client, threads, deadline, whether ranges work (None: unknown).

    `most`: bytes that are taken of contents whose size is not known, together.
    """

    def __init__(self, client: Client, pool: Pool, timeout: float, most: int) -> None:
        self.client = client
        self.pool = pool
        self.timeout = timeout
        self.most = most
        self.ranges: bool | None = None
        self.closed = False
        self._lock = threading.Lock()
        self._untold: dict[Fetch, int] = {}

    def admit(self, fetch: Fetch, end: int) -> None:
        """Bytes until `end` came of a content of unknown size. Raises UnboundedError, CrowdedError if they are too many."""
        with self._lock:
            self._untold[fetch] = end
            total = sum(self._untold.values())
        if end > self.most:
            told = f"download: no size is told, and more than {self.most} bytes came (see --cache-size)"
            raise UnboundedError(told, endpoint="download")
        if total > self.most:
            told = f"download: contents whose size is not told have more than {self.most} bytes together (see --cache-size)"
            raise CrowdedError(told, endpoint="download")

    def forget(self, fetch: Fetch) -> None:
        """Its bytes are of a known size by now, or gone."""
        if fetch in self._untold:
            with self._lock:
                self._untold.pop(fetch, None)


class Target(Protocol):
    """Where a fetch puts its bytes, and who says what it still has to bring."""

    version: Version
    size: int | None

    def started(self) -> None:
        """A transfer for this version is about to send its first request."""

    def next_start(self, fetch: Fetch) -> int | None:
        """The first byte that this fetch still has to bring; None if it may end."""

    def unwanted(self, fetch: Fetch) -> bool:
        """True if this fetch is to stop where it is."""

    def streaming(self, but: Fetch) -> bool:
        """True if another fetch brings the whole file."""

    def covered_until(self, position: int) -> int:
        """Up to where the bytes from `position` on are there."""

    def answered(self) -> None:
        """A request brought a body."""

    def learn(self, size: int) -> None:
        """The size that the server did not say before."""

    def put(self, fetch: Fetch, position: int, data: bytes) -> None:
        """Bytes came; raises OSError or FsError if they can be kept nowhere."""

    def start_over(self, fetch: Fetch) -> bool:
        """None of the bytes are good, bring all once more; False if that was done before."""

    def pause(self, fetch: Fetch, seconds: float) -> None:
        """Wait, at most until the fetch is to stop."""

    def ended(self, fetch: Fetch, error: JobfsError | None) -> None:
        """The fetch is over."""


class Fetch:
    """A transfer of [start, end), or from start to the end of the file where `end` is None.

    Other threads read `pos` (the next byte to come), `progress` (`time.monotonic()` of the last bytes) and
    `done`; they set `stop` and, under the target's lock, `waiters`.
    """

    def __init__(
        self, target: Target, link: Link, start: int, end: int | None, *, background: bool = False
    ) -> None:
        self.pos = start
        self.end = end
        self.background = background
        self.progress = time.monotonic()
        self.done = False
        self.stop = False
        self.waiters = 0
        self.error: JobfsError | None = None
        self._target = target
        self._link = link
        self._latency = 0.0
        self._rate = 0.0
        self._gained = self.progress  # when bytes came that had not come before
        self._furthest = start
        self._took_turn = False
        call = current()
        #: Who waits for its bytes joins this: then it goes before the rest, and each piece that comes is progress for both.
        self.deadline = Deadline(UNBOUNDED, waited=not background and call is not None and call.waited)

    def submit(self) -> bool:
        """Queue this fetch; False if the store is closed."""
        return self._link.pool.submit(self.run, background=self.background)

    def promote(self) -> None:
        """Somebody waits now for what was fetched in the background."""
        if self.background:
            self.background = False
            self._link.pool.promote(self.run)

    def heads_for(self, position: int) -> bool:
        """True if this fetch is going to bring the byte at `position`."""
        return (
            not (self.stop or self.done)
            and self.pos <= position
            and (self.end is None or position < self.end)
        )

    def reach(self) -> int:
        """Bytes that this fetch brings in about the time that a request of its own would take."""
        return min(max(NEAR, int(self._rate * self._latency)), _REACH_MAX)

    def run(self) -> None:
        """Transfer until everything is there or it is over; tells the target how it went."""
        error: JobfsError | None = None
        try:
            if not self._in_time() and self._link.pool.submit(self.run, background=self.background):
                return
        except JobfsError as failed:
            error = failed
        except OSError as failed:
            error = FsError(failed.errno or errno.EIO, f"the content cache failed: {failed.strerror}")
        except Exception:
            _log.exception("a download failed unexpectedly")
            error = UnavailableError("the download failed unexpectedly (see the log)", endpoint="download")
        # A copy, because a traceback would keep all this alive, an open file among it.
        self._target.ended(self, None if error is None else again(error))
        self._link.forget(self)

    def _in_time(self) -> bool:
        """Transfer in the place of whoever waits for it, if anybody does: it goes before the rest then."""
        with bound_by(self.deadline):
            return self._transfer()

    def _transfer(self) -> bool:
        """Send requests until nothing is left to bring; False if it only gave up its thread for now."""
        self.progress = self._gained = time.monotonic()
        self._took_turn = False
        self._target.started()
        failures = 0
        while (start := self._target.next_start(self)) is not None:
            if self._took_turn:
                return False
            self.pos = start
            before = self._gained
            try:
                broken = self._request(start)
            except WrongLengthError as wrong:
                self._look(wrong)
                if not self._target.start_over(self):
                    raise
                self.pos, self.end = 0, None
                continue
            if broken is None:
                failures = 0
                continue
            # The same bytes once more, from a server without ranges, are no reason to go on for ever.
            failures = 0 if self._gained > before else failures + 1
            left = self._gained + self._link.timeout - time.monotonic()
            if left <= 0:
                raise broken
            delay = min(_BACKOFF * 2**failures, _BACKOFF_MAX) * random.uniform(0.5, 1.0)
            self._target.pause(self, min(left, delay))
        return True

    def _request(self, start: int) -> UnavailableError | None:
        """One request from `start` on; the error if its body broke off, which can be resumed.

        An error before the body is final: the client has done its retries by then.
        """
        sent = time.monotonic()
        item_id, size = self._target.version.item_id, self._target.size
        with self._link.client.download(item_id, start, self.end, size=size) as body:
            if not self._accept(start, body):
                return None
            # Only bytes are progress: a server that answers and then sends nothing has the same deadline.
            began = time.monotonic()
            self._latency = began - sent
            try:
                complete = self._receive(body, began)
            except UnavailableError as broken:
                return broken
        if complete:
            self._check_end(start, body)
        return None

    def _receive(self, body: Download, began: float) -> bool:
        """Take in the body; False if it was left before its end."""
        first = self.pos
        for chunk in body.chunks():
            if not chunk:
                continue
            size = self._target.size
            if size is None:
                self._link.admit(self, self.pos + len(chunk))
            if size is not None and self.pos + len(chunk) > size:
                self.pos += len(chunk)
                return True  # too much: that is said once the connection is given back
            self._target.put(self, self.pos, chunk)
            self.pos += len(chunk)
            self.progress = now = time.monotonic()
            if self.pos > self._furthest:
                self._furthest, self._gained = self.pos, now
            self._rate = (self.pos - first) / max(now - began, 0.001)
            if self._leave(body, now - began):
                return False
        return True

    def _accept(self, start: int, body: Download) -> bool:
        """Check what the answer says of itself; False if its bytes are not wanted."""
        if body.start > start:
            raise ContractError(
                f"download: bytes from {start} asked, from {body.start} sent", endpoint="download"
            )
        total = body.total if body.total is not None or body.start else body.length
        if total is not None:
            self._check_total(total)
        if start:
            self._link.ranges = body.start > 0
        if start and body.start == 0 and self.end is not None:
            if self._target.streaming(self):
                self.stop = True
                return False
            self.end = None  # the whole file comes: make the most of it
        self.pos = body.start
        self._target.answered()
        return True

    def _check_total(self, total: int) -> None:
        size = self._target.size
        if size is None:
            self._target.learn(total)
        elif total != size:
            told = f"download: {total} bytes are announced instead of the {size} promised"
            raise WrongLengthError(told, endpoint="download")

    def _leave(self, body: Download, seconds: float) -> bool:
        """True if the rest of the body is not wanted, or not now."""
        if self._target.unwanted(self):
            return True
        if self.end is not None and self.pos >= self.end:
            return (
                body.start > 0 and self.pos > self.end
            )  # else read on: a body read to its end keeps the connection
        if not self._link.ranges:
            return False
        if self._is_in_the_way(seconds):
            self._took_turn = True
            return True
        return self._target.covered_until(self.pos) - self.pos >= SKIP

    def _is_in_the_way(self, seconds: float) -> bool:
        """True if another transfer waits for a thread, or for a connection; at once if that goes before this one."""
        rank = Rank.LARGE if self.deadline.waited else Rank.BACKGROUND_LARGE
        line = self._link.client.line
        if seconds <= _TURN:
            return seconds > _SHORT_TURN and line.wanted(before=rank)
        return self._link.pool.starved or line.wanted(before=rank + 1)

    def _check_end(self, start: int, body: Download) -> None:
        """The body ended as the server meant it: is that where it should end?"""
        size = self._target.size
        nothing = self.pos == start and body.start > 0
        if size is None:
            self._find_size(start, body, nothing)
            return
        if self.pos > size and not nothing:
            raise WrongLengthError(f"download: more than the {size} bytes promised came", endpoint="download")
        end = size if self.end is None else min(size, self.end)
        if self.pos < end and (nothing or body.start == 0):
            raise self._too_short(start, body, size)

    def _too_short(self, start: int, body: Download, size: int) -> WrongLengthError:
        none = self.pos == start and body.length == 0 and body.total is None
        came = f"there is no byte {start}" if none and start else f"{self.pos} bytes came instead"
        return WrongLengthError(f"download: {came} of the {size} promised", endpoint="download")

    def _look(self, wrong: WrongLengthError) -> None:
        """Raises StaleVersionError if the item was written meanwhile, and ApiError if that can't be known."""
        version = self._target.version
        item = self._link.client.get(version.item_id)
        if item.updated_at != version.updated_at or item.size != version.size:
            raise StaleVersionError(f"{wrong}: the item was written meanwhile", endpoint="download")

    def _find_size(self, start: int, body: Download, nothing: bool) -> None:
        if nothing and body.length == 0 and self._target.covered_until(0) < start:
            self.pos, self.end = 0, None  # behind the end, wherever that is: the whole file will tell
        elif body.start == 0 or self.end is None or self.pos < self.end:
            self._target.learn(self.pos)
