"""Transfers: bytes of one version from the server into its file."""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Iterator

from jobfs.api.client import Download
from jobfs.api.deadline import UNBOUNDED, Deadline, backoff, bound_by, current
from jobfs.api.line import Rank
from jobfs.content.disk import Backing, DiskCache
from jobfs.content.link import Link, StaleVersionError
from jobfs.content.ranges import MIB, NEAR
from jobfs.errors import ContractError, FsError, JobfsError, NotFoundError, UnavailableError, again
from jobfs.nodes import Item, Version

_log = logging.getLogger("jobfs.content")

#: What is there already is taken from the server again unless that saves this much.
_SKIP = 4 * MIB
#: Seconds before a broken body is asked for again, the first time.
_FIRST_PAUSE = 0.05
#: Seconds after which a transfer lets another one have its thread; the same for a request that goes before it.
_TURN, _SHORT_TURN = 2.0, 0.2


class Incoming(Backing):
    """The bytes of one version and the transfers that bring them; `pins`: handles that have it open."""

    def __init__(self, version: Version, size: int, updated_ns: int, link: Link, disk: DiskCache) -> None:
        super().__init__(version, size, disk)
        self.updated_ns = updated_ns
        self.link = link
        self.fetches: list[Fetch] = []
        self.pins = 0
        self.linger = 0.0  # until when transfers go on though nobody has it open
        self.stale: StaleVersionError | None = None
        self.failed: tuple[JobfsError, float] | None = None  # the last failure and its time
        self.settling = False  # complete, on its way to its place
        self.bodies = 0  # answers with bytes of it whose headers have come
        self.proved = 0  # so many of them, the first ones, are of this version: see `prove`
        self.proving: Deadline | None = None  # of the look that is to prove more
        self.stamps = {version.updated_at}  # that it has had: a request of ours may change that
        self._moving = 0  # such requests on their way
        self.began: float | None = None  # time.time() of the first request for them
        self._started_over = False

    @property
    def idle(self) -> bool:
        """See Backing."""
        return not self.pins and not self.fetches and not self.settling

    def transient(self) -> bool:
        """True if these bytes serve only the handles that are open now."""
        if self.stale is not None or self.size > self._disk.limit:
            return True
        return self.began is not None and not self.link.lasting(self.updated_ns, self.began)

    @property
    def certain(self) -> bool:
        """True if all that is there is of one version: one answer is, and more are if that is proved."""
        return self.stale is None and (self.bodies <= 1 or self.proved == self.bodies)

    def shows(self, item: Item) -> bool:
        """True if the server shows this version still."""
        return item.updated_at in self.stamps and item.size in (None, self.size)

    def complete(self) -> bool:
        """True if every byte has come."""
        return self.stale is None and self.have.covers(0, self.size)

    # -- what transfers ask and tell ------------------------------------------------------------------------

    def start(self) -> None:
        """A transfer is about to send its first request."""
        with self.cond:
            self.began = self.began or time.time()
            self.coming = self.size if self.size <= self._disk.limit else 0
        self._disk.fit()

    def next_start(self, fetch: Fetch) -> int | None:
        """The first byte that this fetch still has to bring; None if it may end."""
        with self.cond:
            if self.unwanted(fetch):
                return None
            gap = self.have.gap(fetch.pos, self.size if fetch.end is None else min(fetch.end, self.size))
            return None if gap is None else gap[0]

    def unwanted(self, fetch: Fetch) -> bool:
        """True if this fetch is to stop where it is."""
        if fetch.stop or self.link.closed or self.stale is not None:
            return True
        if self.pins or fetch.waiters or time.monotonic() < self.linger:
            return False
        return (self.size if fetch.end is None else fetch.end) - fetch.pos > NEAR

    def streams(self) -> bool:
        """True if a transfer brings the whole file."""
        with self.cond:
            return any(fetch.end is None and not fetch.stop for fetch in self.fetches)

    def answered(self) -> None:
        """The headers of another answer have come: what was not read yet needs a proof that both are of this version."""
        with self.cond:
            self.bodies += 1
            self.cond.notify_all()

    def start_over(self, fetch: Fetch) -> bool:
        """None of the bytes are good, bring all once more; False if that was done before."""
        with self.cond:
            if self._started_over or self.whole:
                return False
            self._started_over = True
            for other in self.fetches:
                other.stop = other.stop or other is not fetch
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
                self.failed = (error, time.monotonic())
            if isinstance(error, StaleVersionError):
                self._gone(error)
            useless = isinstance(error, ContractError) and not self.whole
            self.coming = self.coming if self.fetches else 0
            self.cond.notify_all()
        if useless:
            self.reset()
        try:
            if error is None and self.pins and not fetch.stop:
                self.prove()  # before readers come to what was brought ahead of them
            self.settle()
        except JobfsError as unsettled:
            _log.warning("%s", str(unsettled))

    def settle(self) -> None:
        """If every byte is there, make this the cached content of its version. Raises StaleVersionError, ApiError."""
        with self.cond:
            if self.whole or self.settling or self.fetches or not self.complete():
                return
            self.settling = True
        try:
            self.prove()
            if self.complete() and not self.transient():
                self.keep()
            with self.cond:
                # Unless the bytes were forgotten meanwhile.
                self.whole = self.complete() and self.certain
        finally:
            with self.cond:
                self.settling = False
                self.cond.notify_all()
        self._disk.fit()

    def prove(self, *, anew: bool = False) -> None:
        """See that all answers whose headers have come are of this version: that the server shows it still, asked after them.

        One request serves all who wait for that; none is made where there is nothing to prove, unless `anew`. Raises
        StaleVersionError if it is gone, ApiError if that can't be known.
        """
        looking = Deadline(UNBOUNDED, current(), waited=False)
        with self.cond:
            while self.proving is not None:
                with self.proving.joined(current()):
                    self.cond.wait()
            if self.stale is not None:
                raise again(self.stale)
            if self.certain and not anew:
                return
            self.proving, bodies = looking, self.bodies
        shown = None
        try:
            with contextlib.suppress(NotFoundError), bound_by(looking):
                shown = self.link.client.get(self.version.item_id)
            with self.cond:
                self.cond.wait_for(lambda: not self._moving)
                if shown is None or not self.shows(shown):
                    told = "download: the item was written while it was read"
                    raise self._gone(StaleVersionError(told, endpoint="download"))
                self.proved = bodies
        finally:
            with self.cond:
                self.proving = None
                self.cond.notify_all()

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """While a request of ours may change `updatedAt`: what it is seen to be is judged afterwards."""
        with self.cond:
            self._moving += 1
        try:
            yield
        finally:
            with self.cond:
                self._moving -= 1
                self.cond.notify_all()

    def _gone(self, error: StaleVersionError) -> StaleVersionError:
        """The server has this version no more: who has it open is told so. The caller holds the lock."""
        self.stale = again(error)
        return error


class Fetch:
    """A range [start, end), or where `end` is None the stream from `start` to the end of the file; resumed where it broke.

    It goes from its start to its end, leaving out what is there already, in as many requests as that takes. Other threads
    read `pos` (the next byte to come); they set `stop` and, under the entry's lock, `waiters`.
    """

    def __init__(self, entry: Incoming, start: int, end: int | None, *, background: bool = False) -> None:
        self.pos = start
        self.end = end
        self.background = background  # nobody has waited for it yet
        self.stop = False
        self.waiters = 0
        self.error: JobfsError | None = None
        self._entry = entry
        self._link = entry.link
        self._gained = 0.0  # when bytes came that had not come before
        self._furthest = start
        self._own_thread = background
        self._took_turn = False
        call = current()
        #: Who waits for its bytes joins this: then it goes before the rest, and each piece that comes is progress for both.
        self.deadline = Deadline(UNBOUNDED, waited=not background and call is not None and call.waited)

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
            error = again(failed)  # its traceback would keep all this alive, an open file among it
        except OSError as failed:
            error = FsError(failed.errno or errno.EIO, f"the content cache failed: {failed.strerror}")
        except Exception:
            _log.exception("a download failed unexpectedly")
            error = UnavailableError("the download failed unexpectedly (see the log)", endpoint="download")
        self._entry.ended(self, error)

    def _transfer(self) -> None:
        """Send requests until nothing is left to bring, or another transfer is to have this thread."""
        entry = self._entry
        self._gained = time.monotonic()
        self._took_turn = False
        entry.start()
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
            except ContractError as wrong:
                self._link.forget(entry.version)
                self._look(wrong)
                if not entry.start_over(self):
                    if entry.version.size is None:
                        raise StaleVersionError(
                            f"{wrong}: it had another size", endpoint="download"
                        ) from None
                    raise
                self.pos, self.end = 0, None
                continue
            # The same bytes once more, from a server without ranges, are no reason to go on for ever.
            failures = 0 if broken is None or self._gained > before else failures + 1
            if broken is not None:
                self._pause(broken, failures)
        self._took_turn = False

    def _pause(self, broken: UnavailableError, failures: int) -> None:
        """Wait before what `broken` off is resumed; raises it if nothing new has come for too long."""
        left = self._gained + self._link.timeout - time.monotonic()
        if left <= 0:
            raise again(broken)
        with self._entry.cond:
            pause = min(left, backoff(failures, first=_FIRST_PAUSE))
            self._entry.cond.wait_for(lambda: self._entry.unwanted(self), pause)

    def _request(self, start: int) -> UnavailableError | None:
        """One request from `start` on; the error if its body broke off, which can be resumed.

        An error before the body is final: the client has done its retries by then.
        """
        item_id, size = self._entry.version.item_id, self._entry.size
        with self._link.client.download(item_id, start, self.end, size=size) as body:
            if not self._accept(start, body):
                return None
            # Only bytes are progress: a server that answers and then sends nothing has the same deadline.
            try:
                complete = self._receive(body, time.monotonic())
            except UnavailableError as broken:
                return broken
        if complete:
            self._check_end(start, body)
        return None

    def _receive(self, body: Download, began: float) -> bool:
        """Take in the body; False if it was left before its end."""
        for chunk in body.chunks():
            if not chunk:
                continue
            if self.pos + len(chunk) > self._entry.size:
                self.pos += len(chunk)
                return True  # too much: that is said once the connection is given back
            self._entry.put(self.pos, chunk)
            self.pos += len(chunk)
            now = time.monotonic()
            if self.pos > self._furthest:
                self._furthest, self._gained = self.pos, now
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
        if total not in (None, entry.size):
            told = f"download: {total} bytes are announced instead of the {entry.size} promised"
            raise ContractError(told, endpoint="download")
        if start:
            self._link.ranges = body.start > 0
        if start and body.start == 0 and self.end is not None:
            if entry.streams():
                self.stop = True
                return False
            self.end = None  # the whole file comes: make the most of it
        self.pos = body.start
        entry.answered()
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
        with self._entry.cond:
            there = self._entry.have.covered_until(self.pos) - self.pos
        return self._took_turn or there >= _SKIP

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
        if self.pos > size and not nothing:
            raise ContractError(f"download: more than the {size} bytes promised came", endpoint="download")
        end = size if self.end is None else min(size, self.end)
        if self.pos < end and (nothing or body.start == 0):
            came = f"there is no byte {start}" if nothing else f"{self.pos} bytes came instead"
            raise ContractError(f"download: {came} of the {size} promised", endpoint="download")

    def _look(self, wrong: ContractError) -> None:
        """Raises StaleVersionError if the item was written meanwhile, and ApiError if that can't be known."""
        version = self._entry.version
        if not self._entry.shows(self._link.client.get(version.item_id)):
            raise StaleVersionError(f"{wrong}: the item was written meanwhile", endpoint="download")
