"""One version's content, shared by all its handles: what is there, what is on its way, who waits (semantics.md section 3).

A file read from its beginning is streamed whole. A read elsewhere asks for a range, whose length grows while
the reads go on in order. A read a little ahead of a running transfer waits for it. Where the server has no
ranges, everybody waits for the stream.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import sys
import time
from pathlib import Path

from jobfs.api import Download
from jobfs.api.deadline import UNBOUNDED, Deadline, bound_by, current
from jobfs.api.line import Rank
from jobfs.content.disk import AHEAD, Backing, DiskCache, version_name
from jobfs.content.link import Link, StaleVersionError, WrongLengthError
from jobfs.content.parts import CacheFile
from jobfs.content.ranges import MIB, NEAR, Run, align_down, align_up, whole_run
from jobfs.errors import ContractError, FsError, JobfsError, NotFoundError, UnavailableError, again
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
#: Jumps in a row after which a stream that nobody waits for is not worth going on with…
_JUMPS = 4
#: …if it has more than this to go.
_LONG = 16 * MIB
#: What is there already is taken from the server again unless that saves this much.
_SKIP = 4 * MIB
#: Seconds before a broken body is asked for again: first, and at most.
_BACKOFF, _BACKOFF_MAX = 0.05, 2.0
#: Seconds after which a transfer lets another one have its thread; the same for a request that goes before it.
_TURN, _SHORT_TURN = 2.0, 0.2
#: The most that a running transfer is credited with bringing within a round trip.
_REACH_MAX = 16 * MIB
_EVERYTHING = sys.maxsize


class Entry(Backing):
    """The content of one version; `pins`: handles that have it open."""

    def __init__(self, version: Version, updated_ns: int, link: Link, disk: DiskCache) -> None:
        super().__init__(version, disk)
        self.updated_ns = updated_ns
        self.link = link
        self.fetches: list[Fetch] = []
        self.stale: StaleVersionError | None = None
        self.pins = 0
        self.linger = 0.0
        self.bodies = 0  # that brought these bytes
        self.began: float | None = None  # time.time() of the first request for them
        self._unproved = False  # may be a mixture of two contents
        self._looked = self.whole
        self._settling = False  # complete, on its way to its place
        self._started_over = False
        self._jumps = 0
        self._read_end = 0
        self._failed: tuple[JobfsError, float] | None = None
        self._digest: str | None = None
        self._discarded = False

    # -- readers ------------------------------------------------------------------------------------------

    def read(self, run: Run, offset: int, size: int) -> bytes:
        """The bytes [offset, offset + size), cut at the end of the file; see Content.read."""
        self.look()
        run.note(offset, offset + size)
        while True:
            end = self._wait(run, offset, offset + size)
            data = self.load(offset, end) if offset < end else b""
            if data is not None:
                return data

    def fetch(self) -> Path:
        """The whole content as a file; see Content.fetch."""
        self.look()
        if self.window is not None:
            self.reset()  # somebody needs a file: try the disk again
        while not self.whole:
            self._wait(whole_run(), 0, _EVERYTHING, on_disk=True)
            self.settle()
            with self.cond:
                if self.stale is not None:
                    raise again(self.stale)
                if not self.whole and (self._settling or self.fetches):
                    self._sleep(Deadline(self.link.timeout, current(), waited=False))
        return self.path(self.size or 0)

    def bring(self) -> None:
        """Bring everything, in this thread, unless that is under way; what goes wrong is for readers to find."""
        self.look()
        with self.cond:
            gap = self.have.gap(0, _EVERYTHING if self.size is None else self.size)
            if gap is None or self.whole or self.fetches or self.stale is not None or self.link.closed:
                return
            fetch = Fetch(self, gap[0], None, background=True)
            self.fetches.append(fetch)
        fetch.run()

    def sha256(self) -> str | None:
        """Hex digest of the whole content; None if it is not there."""
        self.look()
        if self.whole and self._digest is None:
            self._digest = self.digest(self.size or 0)
        return self._digest if self.whole else None

    def look(self) -> None:
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
            self.learn(size)
            self.fill(file, size, name)
            self._looked = True
            for fetch in self.fetches:
                fetch.stop = True
            self.cond.notify_all()

    def on_disk(self, patience: float = 0.0) -> bool:
        """True if every byte is on disk, in this entry or in the cache; waits `patience` seconds if all have come."""
        if patience and not self.whole:
            with self.cond:
                self.cond.wait_for(lambda: self.whole or not self._has_come(), patience)
        return self.whole or (not self._looked and self._disk.size(self.version) is not None)

    def _has_come(self) -> bool:
        """True if the last byte came just now: the thread that brought it settles that."""
        return self.stale is None and self.size is not None and self.have.covers(0, self.size)

    # -- the store's side ---------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """See Backing."""
        return not self.pins and not self.fetches

    @property
    def resumable(self) -> bool:
        """True if a handle opened later can go on with what is here and nowhere else."""
        begun = bool(self.fetches or self.have) and not self.whole
        return begun and self.window is None and not self._transient()

    def outlived(self) -> bool:
        """True if these bytes serve only those who have them open, and what is downloaded now would serve all."""
        if self.stale is not None:
            return True
        lasting = self.link.lasting
        return (
            self.began is not None
            and not lasting(self.updated_ns, self.began)
            and lasting(self.updated_ns, time.time())
        )

    def discard(self) -> None:
        """Nobody uses this entry any more: stop its transfers and remove what only it had."""
        with self.cond:
            self._discarded = True
            for fetch in self.fetches:
                fetch.stop = True
            self.cond.notify_all()
        self._leave()

    def _leave(self) -> None:
        """Remove the file unless it is in the cache under its name; who reads it still has it open."""
        if self.file is not None and self.name is None:
            self._disk.parts.discard(self.file)

    def _transient(self) -> bool:
        """True if these bytes serve only the handles that are open now."""
        if self._unproved or self.stale is not None or (self.size or 0) > self._disk.limit:
            return True
        return self.began is not None and not self.link.lasting(self.updated_ns, self.began)

    # -- the transfers' side ------------------------------------------------------------------------------

    def next_start(self, fetch: Fetch) -> int | None:
        """The first byte that this fetch still has to bring; None if it may end."""
        with self.cond:
            if self.unwanted(fetch):
                return None
            end = fetch.end if fetch.end is not None else _EVERYTHING
            gap = self.have.gap(fetch.pos, end if self.size is None else min(end, self.size))
            return None if gap is None else gap[0]

    def unwanted(self, fetch: Fetch) -> bool:
        """True if this fetch is to stop where it is."""
        if fetch.stop or self.link.closed or self.stale is not None:
            return True
        if self.pins or fetch.waiters or time.monotonic() < self.linger:
            return False
        end = fetch.end if fetch.end is not None else self.size
        return end is None or end - fetch.pos > NEAR

    def covered_until(self, position: int) -> int:
        """Up to where the bytes from `position` on are there."""
        with self.cond:
            return self.have.covered_until(position)

    def learn(self, size: int) -> None:
        """The size, which the item may not have told."""
        with self.cond:
            if self.size is None:
                self.link.learn(self.version, size)
            self.size = size
            self.cond.notify_all()

    def put(self, fetch: Fetch, position: int, data: bytes) -> None:
        """Bytes came. In memory a transfer must not run far ahead of its readers; one that nobody follows ends."""
        if self.write(position, data):
            return
        with self.cond:
            position += len(data)
            near = self.cond.wait_for(
                lambda: position - self._read_end < AHEAD or self.window is None or self.unwanted(fetch),
                _PATIENCE if self.link.ranges else self.link.timeout,
            )
            fetch.stop = fetch.stop or not near

    def start_over(self, fetch: Fetch) -> bool:
        """None of the bytes are good, bring all once more; False if that was done before."""
        with self.cond:
            if self._started_over or self.whole:
                return False
            self._started_over = True
            for other in self.fetches:
                other.stop = other.stop or other is not fetch
            self.size = self.version.size
            self.cond.notify_all()
        self.reset()
        return True

    def ended(self, fetch: Fetch, error: JobfsError | None) -> None:
        """The fetch is over."""
        with self.cond:
            fetch.error = error
            with contextlib.suppress(ValueError):
                self.fetches.remove(fetch)
            if error is not None and not fetch.background:
                self._failed = (error, time.monotonic())
            if isinstance(error, StaleVersionError):
                self.stale = error
            useless = isinstance(error, ContractError) and not self.whole
            self.coming = self.coming if self.fetches else 0
            self.cond.notify_all()
        if useless:
            self.reset()
        try:
            self.settle()
        except JobfsError as unsettled:
            _log.warning("%s", unsettled)
        if self._discarded:
            self._leave()  # what came for a read that its handle's `close` overtook

    def settle(self) -> None:
        """If every byte is there, make this the cached content of its version; raises StaleVersionError."""
        with self.cond:
            busy = self.whole or self._settling or self.fetches or self.window is not None
            if busy or not self._has_come():
                return
            self._settling = True
        try:
            self._confirm()
            if not self._transient():
                self.keep(self.size or 0)
            self.whole = True
        finally:
            with self.cond:
                self._settling = False
                self.cond.notify_all()
        with self.cond:
            if not self.pins:  # who opens it later finds it in the cache, or begins anew
                self.reset()
                self.bodies, self.began, self._unproved, self._looked = 0, None, False, self.whole
        self._disk.fit()

    def _confirm(self) -> None:
        """Bytes from several requests are one content only if the item did not change in between."""
        if self.bodies <= 1:
            return
        try:
            item = self.link.client.get(self.version.item_id)
        except (NotFoundError, UnavailableError):
            self._unproved = True  # good for those who have it open
            return
        if item.updated_at != self.version.updated_at:
            told = "download: the item was written while it was read"
            self.stale = StaleVersionError(told, endpoint="download")
            raise self.stale

    # -- waiting ------------------------------------------------------------------------------------------

    def _wait(self, run: Run, offset: int, end: int, *, on_disk: bool = False) -> int:
        """Wait until [offset, end) is there; the end, cut to the file. Raises ApiError, FsError."""
        asked = end - offset
        deadline = Deadline(self.link.timeout, current(), waited=False)
        with self.cond:
            self._read_end = end
            self.cond.notify_all()
            while True:
                if self.size is not None:
                    end = max(offset, min(end, self.size))
                if on_disk and self.window is not None:
                    raise FsError(errno.ENOSPC, "the disk of the content cache is full")
                gap = None if self.whole else self.have.gap(offset, end)
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
        if fetch.error is not None and self.have.covered_until(gap[0]) == gap[0]:
            raise again(fetch.error)

    def _sleep(self, deadline: Deadline, fetch: Fetch | None = None) -> None:
        """Wait for a change; raises UnavailableError if the deadline has passed or the store is closed."""
        if self.link.closed:
            raise UnavailableError("download: the mount is going away", endpoint="download")
        left = deadline.left() + _GRACE
        if left > 0:
            self.cond.wait(left)
            return
        if fetch is not None:
            fetch.stop = True
        told = f"download: nothing came for {self.link.timeout:g} s"
        raise UnavailableError(told, endpoint="download", errno=errno.ETIMEDOUT)

    def _bring(self, gap: tuple[int, int], run: Run) -> Fetch:
        """The transfer that brings the first byte of `gap`: a running one that is worth waiting for, or a new one."""
        if self.stale is not None:
            raise again(self.stale)
        if self._failed is not None and time.monotonic() - self._failed[1] < _ECHO:
            raise again(self._failed[0])
        position = gap[0]
        nearest = self._nearest(position)
        whole = run.from_start or position == 0 or (self.size is not None and self.size <= NEAR)
        if nearest is not None and (
            self.link.ranges is False
            or position - nearest.pos <= nearest.reach()
            or (whole and nearest.end is None)
        ):
            nearest.background = False
            return nearest
        if self.link.ranges is False:
            for fetch in self.fetches:
                fetch.stop = True  # a stream that has passed what is missing: start over
            return self._begin(0, None)
        if whole:
            return self._begin(position if run.from_start else self.have.covered_until(0), None)
        self._jump()
        return self._begin(*self._range(position, max(gap[1], position + run.chunk())))

    def _nearest(self, position: int) -> Fetch | None:
        """Of the transfers on their way to a position the one that is closest; None if there is none."""
        coming = [
            fetch
            for fetch in self.fetches
            if not fetch.stop and fetch.pos <= position and (fetch.end is None or position < fetch.end)
        ]
        return max(coming, key=lambda fetch: fetch.pos, default=None)

    def _jump(self) -> None:
        """Reads here and there make a stream pointless that nobody waits for."""
        self._jumps += 1
        if self._jumps >= _JUMPS and self.size is not None:
            for fetch in self.fetches:
                if fetch.end is None and not fetch.waiters and self.size - fetch.pos > _LONG:
                    fetch.stop = True

    def _range(self, start: int, end: int) -> tuple[int, int]:
        """A range in whole pieces, without what is there and what is on its way."""
        first = max(align_down(start), self.have.covered_before(start))
        coming = [fetch.pos for fetch in self.fetches if not fetch.stop and fetch.pos > start]
        bounds = (self.size, self.have.next_start(start))
        last = min([align_up(end), *coming, *(bound for bound in bounds if bound is not None)])
        return first, max(last, start + 1)

    def _look_ahead(self, run: Run, end: int, asked: int) -> None:
        """Begin what this run of reads of `asked` bytes, which has come to `end`, will ask for next."""
        if run.from_start:
            self._jumps = 0
        covered = self.have.covered_until(end - 1) if end else 0
        if (
            self.whole
            or self.stale is not None
            or self._failed is not None
            or self.link.closed
            or self.link.ranges is False
            or (self.size is not None and covered >= self.size)
            or self._nearest(covered) is not None
        ):
            return
        if run.from_start:
            if covered - end < NEAR:
                self._begin(covered, None)
        elif run.sequential(asked) and covered - end < max(run.chunk() // 2, NEAR // 2):
            self._begin(*self._range(covered, covered + run.chunk()))

    def _begin(self, start: int, end: int | None) -> Fetch:
        self._failed = None
        fetch = Fetch(self, start, end)
        self.fetches.append(fetch)
        if not self.link.pool.submit(fetch.run):
            self.fetches.remove(fetch)
            raise UnavailableError("download: the mount is going away", endpoint="download")
        return fetch


class Fetch:
    """A transfer of [start, end), or from start to the end of the file where `end` is None, resumed where it broke.

    It goes from its start to its end, leaving out what is there already, in as many requests as that takes. Other threads
    read `pos` (the next byte to come); they set `stop` and, under the entry's lock, `waiters`.
    """

    def __init__(self, entry: Entry, start: int, end: int | None, *, background: bool = False) -> None:
        self.pos = start
        self.end = end
        self.background = background  # nobody has waited for it yet
        self.stop = False
        self.waiters = 0
        self.error: JobfsError | None = None
        self._entry = entry
        self._link = entry.link
        self._latency = 0.0
        self._rate = 0.0
        self._gained = 0.0  # when bytes came that had not come before
        self._furthest = start
        self._own_thread = background
        self._took_turn = False
        call = current()
        #: Who waits for its bytes joins this: then it goes before the rest, and each piece that comes is progress for both.
        self.deadline = Deadline(UNBOUNDED, waited=not background and call is not None and call.waited)

    def reach(self) -> int:
        """Bytes that this fetch brings in about the time that a request of its own would take."""
        return min(max(NEAR, int(self._rate * self._latency)), _REACH_MAX)

    def run(self) -> None:
        """Transfer until everything is there or it is over; tells the entry how it went."""
        error: JobfsError | None = None
        try:
            # In the place of whoever waits for it, if anybody does: it goes before the rest then.
            with bound_by(self.deadline):
                self._transfer()
            if self._took_turn and self._link.pool.submit(self.run):
                return
        except JobfsError as failed:
            error = failed
        except OSError as failed:
            error = FsError(failed.errno or errno.EIO, f"the content cache failed: {failed.strerror}")
        except Exception:
            _log.exception("a download failed unexpectedly")
            error = UnavailableError("the download failed unexpectedly (see the log)", endpoint="download")
        # A copy, because a traceback would keep all this alive, an open file among it.
        self._entry.ended(self, None if error is None else again(error))
        self._link.forget(self)

    def _transfer(self) -> None:
        """Send requests until nothing is left to bring, or another transfer is to have this thread."""
        entry = self._entry
        self._gained = time.monotonic()
        self._took_turn = False
        with entry.cond:
            entry.began = entry.began or time.time()
            size = entry.size or 0
            entry.coming = size if size <= entry._disk.limit else 0
        entry._disk.fit()
        failures = 0
        while (start := entry.next_start(self)) is not None:
            if self._took_turn:
                if not self._own_thread:
                    return
                self._took_turn = False
            self.pos = start
            before = self._gained
            try:
                broken = self._request(start)
            except WrongLengthError as wrong:
                self._look(wrong)
                if not entry.start_over(self):
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
            with entry.cond:
                entry.cond.wait_for(lambda: entry.unwanted(self), min(left, delay))
        self._took_turn = False

    def _request(self, start: int) -> UnavailableError | None:
        """One request from `start` on; the error if its body broke off, which can be resumed.

        An error before the body is final: the client has done its retries by then.
        """
        sent = time.monotonic()
        item_id, size = self._entry.version.item_id, self._entry.size
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
            size = self._entry.size
            if size is None:
                self._link.admit(self, self.pos + len(chunk))
            elif self.pos + len(chunk) > size:
                self.pos += len(chunk)
                return True  # too much: that is said once the connection is given back
            self._entry.put(self, self.pos, chunk)
            self.pos += len(chunk)
            now = time.monotonic()
            if self.pos > self._furthest:
                self._furthest, self._gained = self.pos, now
            self._rate = (self.pos - first) / max(now - began, 0.001)
            if self._leave(body, now - began):
                return False
        return True

    def _accept(self, start: int, body: Download) -> bool:
        """Check what the answer says of itself; False if its bytes are not wanted."""
        entry = self._entry
        if body.start > start:
            told = f"download: bytes from {start} asked, from {body.start} sent"
            raise ContractError(told, endpoint="download")
        total = body.total if body.total is not None or body.start else body.length
        if total is not None and entry.size is None:
            entry.learn(total)
        elif total is not None and total != entry.size:
            told = f"download: {total} bytes are announced instead of the {entry.size} promised"
            raise WrongLengthError(told, endpoint="download")
        if start:
            self._link.ranges = body.start > 0
        if start and body.start == 0 and self.end is not None:
            with entry.cond:
                others = [other for other in entry.fetches if other.end is None and not other.stop]
            if others:
                self.stop = True
                return False
            self.end = None  # the whole file comes: make the most of it
        self.pos = body.start
        entry.bodies += 1
        return True

    def _leave(self, body: Download, seconds: float) -> bool:
        """True if the rest of the body is not wanted, or not now."""
        if self._entry.unwanted(self):
            return True
        if self.end is not None and self.pos >= self.end:
            # Read on: a body read to its end keeps the connection.
            return body.start > 0 and self.pos > self.end
        if not self._link.ranges:
            return False
        self._took_turn = self._is_in_the_way(seconds)
        return self._took_turn or self._entry.covered_until(self.pos) - self.pos >= _SKIP

    def _is_in_the_way(self, seconds: float) -> bool:
        """True if another transfer waits for a thread, or for a connection; at once if that goes before this one."""
        rank = Rank.LARGE if self.deadline.waited else Rank.BACKGROUND_LARGE
        line = self._link.client.line
        if seconds <= _TURN:
            return seconds > _SHORT_TURN and line.wanted(before=rank)
        return self._link.pool.starved or line.wanted(before=rank + 1)

    def _check_end(self, start: int, body: Download) -> None:
        """The body ended as the server meant it: is that where it should end?"""
        size = self._entry.size
        nothing = self.pos == start and body.start > 0
        if size is None:
            if nothing and body.length == 0 and self._entry.covered_until(0) < start:
                self.pos, self.end = 0, None  # behind the end, wherever that is: the whole file will tell
            elif body.start == 0 or self.end is None or self.pos < self.end:
                self._entry.learn(self.pos)
            return
        if self.pos > size and not nothing:
            raise WrongLengthError(f"download: more than the {size} bytes promised came", endpoint="download")
        end = size if self.end is None else min(size, self.end)
        if self.pos < end and (nothing or body.start == 0):
            none = nothing and body.length == 0 and body.total is None
            came = f"there is no byte {start}" if none and start else f"{self.pos} bytes came instead"
            raise WrongLengthError(f"download: {came} of the {size} promised", endpoint="download")

    def _look(self, wrong: WrongLengthError) -> None:
        """Raises StaleVersionError if the item was written meanwhile, and ApiError if that can't be known."""
        version = self._entry.version
        item = self._link.client.get(version.item_id)
        if item.updated_at != version.updated_at or item.size != version.size:
            raise StaleVersionError(f"{wrong}: the item was written meanwhile", endpoint="download")
