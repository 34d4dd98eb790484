"""One version's content, shared by all its handles: what is there, what is on its way, who waits.

Locks: an entry's condition comes after the store's lock and before those of pool and disk, and is never held
across I/O.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Protocol

from jobfs.api.deadline import Deadline, current
from jobfs.content.backing import AHEAD, Backing
from jobfs.content.disk import DiskCache, version_name
from jobfs.content.errors import StaleVersionError, again
from jobfs.content.fetch import Fetch, Link
from jobfs.content.parts import CacheFile
from jobfs.content.plan import Missing, Plan, ahead, choose, superfluous
from jobfs.content.ranges import NEAR, Run, whole_run
from jobfs.errors import ContractError, FsError, JobfsError, NotFoundError, UnavailableError
from jobfs.nodes import Version

_log = logging.getLogger("jobfs.content")

#: Seconds that a download goes on after the last handle was closed: many files are opened again at once.
LINGER = 0.5
#: Seconds in which a failure answers the next read too: the kernel asks twice for what its readahead missed.
_ECHO = 0.02
#: Seconds that a reader gives a transfer to report its own, better worded failure.
_GRACE = 0.5
#: Seconds that a download in memory waits for a reader to follow before it gives its connection back.
_PATIENCE = 1.0
_EVERYTHING = sys.maxsize


class Owner(Protocol):
    """What an entry asks of the store."""

    def transient(self, entry: Entry) -> bool:
        """True if these bytes serve only the handles that are open now."""

    def reserve(self, entry: Entry) -> None:
        """Bring the cache under its limit before more of this entry comes."""

    def make_room(self, size: int) -> bool:
        """The disk is full: give up what nobody uses; False if there is nothing."""

    def settled(self, entry: Entry) -> None:
        """The entry is whole."""

    def expel(self, entry: Entry) -> None:
        """The entry is no good for handles to come."""

    def learned(self, version: Version, size: int) -> None:
        """A size that the item did not tell. Called with the entry's lock held."""


class Entry:
    """The content of one version. `pins` (open handles), `linger` and `doomed` belong to the store."""

    def __init__(self, version: Version, updated_ns: int, owner: Owner, link: Link, disk: DiskCache) -> None:
        self.version = version
        self.updated_ns = updated_ns
        self.size = version.size
        self.cond = threading.Condition()
        self.backing = Backing(disk, self.cond, owner.make_room)
        self.whole = version.size == 0  # every byte is there and the file is in its place
        self.fetches: list[Fetch] = []
        self.unproved = False  # may be a mixture of two contents
        self.began: float | None = None  # time.time() of the first request
        self.pins = 0
        self.linger = 0.0
        self.doomed = False
        self.settling = False  # complete, on its way to its place
        self._owner = owner
        self._link = link
        self._disk = disk
        self._looked = self.whole
        self._bodies = 0
        self._jumps = 0
        self._read_end = 0
        self._failed: tuple[JobfsError, float] | None = None
        self._stale: StaleVersionError | None = None
        self._started_over = False
        self._digest: str | None = None
        self._discarded = False

    # -- readers ------------------------------------------------------------------------------------------

    def read(self, run: Run, offset: int, size: int) -> bytes:
        """The bytes [offset, offset + size), cut at the end of the file; see Content.read."""
        self.attach()
        run.note(offset, offset + size)
        while True:
            end = self._wait(run, offset, offset + size) if not self.whole else self._cut(offset + size)
            data = self.backing.load(offset, end) if offset < end else b""
            if data is not None:
                return data
            self.whole = False

    def fetch(self) -> Path:
        """The whole content as a file; see Content.fetch."""
        self.attach()
        self.backing.leave_spill()
        while not self.whole:
            self._wait(whole_run(), 0, _EVERYTHING, on_disk=True)
            self.settle()
            with self.cond:
                if self._stale is not None:
                    raise again(self._stale)
                if not self.whole and (self.settling or self.fetches):
                    self._sleep(Deadline(self._link.timeout, current(), waited=False))
        return self.backing.path(self.size or 0)

    def bring(self) -> None:
        """Bring everything, in this thread, unless that is under way; what goes wrong is for readers to find."""
        self.attach()
        with self.cond:
            gap = self.backing.have.gap(0, _EVERYTHING if self.size is None else self.size)
            if gap is None or self.whole or self.fetches or self._stale is not None or self._link.closed:
                return
            fetch = Fetch(self, self._link, gap[0], None, background=True)
            self.fetches.append(fetch)
        fetch.run()

    def sha256(self) -> str | None:
        """Hex digest of the whole content; None if it is not there."""
        self.attach()
        if self.whole and self._digest is None:
            self._digest = self.backing.digest(self.size or 0)
        return self._digest if self.whole else None

    def attach(self) -> None:
        """Look once whether the disk has this version already."""
        if self._looked:
            return
        name = version_name(self.version)
        file = self._disk.open(name, self.size)
        if file is not None:
            self.install(file, os.fstat(file.fd).st_size, name)
        self._looked = True

    def install(self, file: CacheFile, size: int, name: str | None) -> None:
        """The whole content is in `file`: under `name` in the cache, or for the open handles only."""
        with self.cond:
            self._grow(size)
            self.backing.install(file, size, name)
            self._looked = self.whole = True
            for fetch in self.fetches:
                fetch.stop = True
            self.cond.notify_all()

    def on_disk(self, patience: float = 0.0) -> bool:
        """True if every byte is on disk, in this entry or in the cache; waits `patience` seconds if all have come."""
        if patience and not self.whole and self._has_come():
            with self.cond:
                self.cond.wait_for(lambda: self.whole or not self._has_come(), patience)
        return self.whole or (not self._looked and self._disk.has(version_name(self.version), self.size))

    def _has_come(self) -> bool:
        """True if the last byte came just now: the thread that brought it settles that."""
        return self._stale is None and self.size is not None and self.backing.have.covers(0, self.size)

    def discard(self) -> None:
        """Nobody uses this entry any more: stop its transfers and remove what only it had."""
        with self.cond:
            self._discarded = True
            for fetch in self.fetches:
                fetch.stop = True
            self.cond.notify_all()
        self.backing.discard()

    # -- the transfers' side (fetch.Target) ---------------------------------------------------------------

    def started(self) -> None:
        """See fetch.Target."""
        with self.cond:
            if self.began is None:
                self.began = time.time()
        self._owner.reserve(self)

    def next_start(self, fetch: Fetch) -> int | None:
        """See fetch.Target."""
        with self.cond:
            if self.unwanted(fetch):
                return None
            end = fetch.end if fetch.end is not None else _EVERYTHING
            gap = self.backing.have.gap(fetch.pos, end if self.size is None else min(end, self.size))
            return None if gap is None else gap[0]

    def unwanted(self, fetch: Fetch) -> bool:
        """See fetch.Target."""
        if fetch.stop or self._link.closed or self._stale is not None:
            return True
        if self.pins or fetch.waiters or time.monotonic() < self.linger:
            return False
        end = fetch.end if fetch.end is not None else self.size
        return end is None or end - fetch.pos > NEAR

    def streaming(self, but: Fetch) -> bool:
        """See fetch.Target."""
        with self.cond:
            return any(other is not but and other.end is None and not other.stop for other in self.fetches)

    def covered_until(self, position: int) -> int:
        """See fetch.Target."""
        with self.cond:
            return self.backing.have.covered_until(position)

    def answered(self) -> None:
        """See fetch.Target."""
        self._bodies += 1

    def learn(self, size: int) -> None:
        """See fetch.Target."""
        with self.cond:
            self._grow(size)
            self.cond.notify_all()

    def put(self, fetch: Fetch, position: int, data: bytes) -> None:
        """See fetch.Target."""
        self.backing.put(position, data)
        if self.backing.spill is not None:
            self._hold_back(fetch, position + len(data))

    def start_over(self, fetch: Fetch) -> bool:
        """See fetch.Target."""
        with self.cond:
            if self._started_over or self.whole:
                return False
            self._started_over = True
            for other in self.fetches:
                other.stop = other.stop or other is not fetch
            orphan = self.backing.forget()
            self.size = self.version.size
            self.cond.notify_all()
        if orphan is not None:
            self._disk.parts.discard(orphan)
        return True

    def pause(self, fetch: Fetch, seconds: float) -> None:
        """See fetch.Target."""
        with self.cond:
            self.cond.wait_for(lambda: self.unwanted(fetch), seconds)

    def ended(self, fetch: Fetch, error: JobfsError | None) -> None:
        """See fetch.Target."""
        orphan = None
        with self.cond:
            fetch.done, fetch.error = True, error
            with contextlib.suppress(ValueError):
                self.fetches.remove(fetch)
            if error is not None and not fetch.background:
                self._failed = (error, time.monotonic())
            if isinstance(error, ContractError) and not self.whole:
                orphan = self.backing.forget()
            self.cond.notify_all()
        if orphan is not None:
            self._disk.parts.discard(orphan)
        if isinstance(error, StaleVersionError):
            self._go_stale(error)
        try:
            self.settle()
        except JobfsError as unsettled:
            _log.warning("%s", unsettled)
        if self._discarded:
            self.backing.discard()  # what came for a read that its handle's `close` overtook

    # -- becoming whole -----------------------------------------------------------------------------------

    def settle(self) -> None:
        """If every byte is there, make this the cached content of its version; raises StaleVersionError."""
        with self.cond:
            busy = self.whole or self.settling or self.fetches or self._stale or self.backing.spill
            if busy or self.size is None or not self.backing.have.covers(0, self.size):
                return
            self.settling = True
        try:
            self._confirm()
            if not self._owner.transient(self):
                self.backing.keep(version_name(self.version), self.size)
            self.whole = True
        finally:
            with self.cond:
                self.settling = False
                self.cond.notify_all()
        self._owner.settled(self)

    def _confirm(self) -> None:
        """Bytes from several requests are one content only if the item did not change in between."""
        if self._bodies <= 1:
            return
        try:
            item = self._link.client.get(self.version.item_id)
        except (NotFoundError, UnavailableError):
            self.unproved = True  # good for those who have it open
            return
        if item.updated_at != self.version.updated_at:
            error = StaleVersionError("download: the item was written while it was read", endpoint="download")
            self._go_stale(error)
            raise error

    # -- waiting ------------------------------------------------------------------------------------------

    def _wait(self, run: Run, offset: int, end: int, *, on_disk: bool = False) -> int:
        """Wait until [offset, end) is there; the end, cut to the file. Raises ApiError, FsError."""
        asked = end - offset
        deadline = Deadline(self._link.timeout, current(), waited=False)
        with self.cond:
            self._read_end = end
            self.cond.notify_all()
            while True:
                if self.size is not None:
                    end = max(offset, min(end, self.size))
                if on_disk and self.backing.spill is not None:
                    raise FsError(errno.ENOSPC, "the disk of the content cache is full")
                gap = self.backing.have.gap(offset, end)
                if gap is None:
                    self._look_ahead(run, end, asked)
                    return end
                self._await(self._bring(gap, run), gap, deadline)

    def _await(self, fetch: Fetch, gap: tuple[int, int], deadline: Deadline) -> None:
        fetch.waiters += 1
        try:
            # Only bytes are progress, not that a transfer has begun.
            with fetch.deadline.joined(deadline):
                self._sleep(deadline, fetch)
        finally:
            fetch.waiters -= 1
        if fetch.error is not None and self.backing.have.covered_until(gap[0]) == gap[0]:
            raise again(fetch.error)

    def _sleep(self, deadline: Deadline, fetch: Fetch | None = None) -> None:
        """Wait for a change; raises UnavailableError if the deadline has passed or the store is closed."""
        if self._link.closed:
            raise UnavailableError("download: the mount is going away", endpoint="download")
        left = deadline.left() + _GRACE
        if left > 0:
            self.cond.wait(left)
            return
        if fetch is not None:
            fetch.stop = True
        told = f"download: nothing came for {self._link.timeout:g} s"
        raise UnavailableError(told, endpoint="download", errno=errno.ETIMEDOUT)

    def _bring(self, gap: tuple[int, int], run: Run) -> Fetch:
        """The transfer that brings the first byte of `gap`, running or new."""
        if self._stale is not None:
            raise again(self._stale)
        if self._failed is not None and time.monotonic() - self._failed[1] < _ECHO:
            raise again(self._failed[0])
        choice = choose(self._missing(), gap, run)
        if isinstance(choice, Fetch):
            choice.promote()
            return choice
        if choice.end is not None:
            self._jumps += 1
            for fetch in superfluous(self._missing(), self._jumps):
                fetch.stop = True
        return self._begin(choice)

    def _look_ahead(self, run: Run, end: int, asked: int) -> None:
        """Begin what this run will ask for next."""
        if run.from_start:
            self._jumps = 0
        if self.whole or self._stale is not None or self._failed is not None or self._link.closed:
            return
        plan = ahead(self._missing(), end, asked, run)
        if plan is not None:
            self._begin(plan)

    def _begin(self, plan: Plan) -> Fetch:
        if self._link.ranges is False:
            for fetch in self.fetches:
                fetch.stop = True  # a stream that has passed what is missing: start over
        self._failed = None
        fetch = Fetch(self, self._link, plan.start, plan.end)
        self.fetches.append(fetch)
        if not fetch.submit():
            self.fetches.remove(fetch)
            raise UnavailableError("download: the mount is going away", endpoint="download")
        return fetch

    def _missing(self) -> Missing:
        return Missing(self.backing.have, self.size, self.fetches, self._link.ranges)

    def _cut(self, end: int) -> int:
        return end if self.size is None else min(end, self.size)

    # -- state --------------------------------------------------------------------------------------------

    def _hold_back(self, fetch: Fetch, position: int) -> None:
        """In memory a transfer must not run far ahead of its readers; one that nobody follows ends."""
        with self.cond:
            near = self.cond.wait_for(
                lambda: (
                    position - self._read_end < AHEAD or self.backing.spill is None or self.unwanted(fetch)
                ),
                _PATIENCE if self._link.ranges else self._link.timeout,
            )
            if not near:
                fetch.stop = True

    def _grow(self, size: int) -> None:
        if self.size is None:
            self._owner.learned(self.version, size)
        self.size = size

    def _go_stale(self, error: StaleVersionError) -> None:
        with self.cond:
            self._stale = error
            self.cond.notify_all()
        self._owner.expel(self)
