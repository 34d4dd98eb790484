"""One transfer: bytes of one version from the server into its entry."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from jobfs.api.client import Download
from jobfs.api.deadline import UNBOUNDED, Deadline, backoff, bound_by, current
from jobfs.api.line import Rank
from jobfs.content.link import Link, StaleVersionError
from jobfs.errors import ContractError, JobfsError, UnavailableError, again
from jobfs.nodes import Item, Version

_log = logging.getLogger("jobfs.content")

#: Seconds before a broken body is asked for again, the first time.
_FIRST_PAUSE = 0.05
#: Seconds after which a transfer lets another one have its thread or its connection.
_TURN = 1.0


class _Entry(Protocol):
    """The entry as a transfer sees it: see content/entry.py."""

    version: Version
    size: int
    link: Link
    cond: threading.Condition

    def put(self, position: int, data: bytes) -> None: ...
    def start(self, fetch: Fetch) -> None: ...
    def next_start(self, fetch: Fetch) -> int | None: ...
    def unwanted(self, fetch: Fetch) -> bool: ...
    def streams(self) -> bool: ...
    def answered(self) -> None: ...
    def start_over(self, fetch: Fetch) -> bool: ...
    def shows(self, item: Item) -> bool: ...
    def ended(self, fetch: Fetch, error: JobfsError | None) -> None: ...


class Fetch:
    """A range [start, end), or where `end` is None the stream from `start` to the end of the file; resumed where it broke.

    It goes from its start to its end, leaving out what is there already, in as many requests as that takes. Other threads
    read `pos` (the next byte to come); they set `stop` and, under the entry's lock, `waiters`. A fetch in the `background` has a
    thread of its own, and nobody waited for it when it began.
    """

    def __init__(self, entry: _Entry, start: int, end: int | None, *, background: bool = False) -> None:
        self.pos = start
        self.end = end
        self.stop = False
        self.waiters = 0
        self.error: JobfsError | None = None
        self._entry = entry
        self._link = entry.link
        self.background = background
        self._gained = 0.0  # when new bytes came last
        self._furthest = start
        self._took_turn = False
        call = current()
        #: A reader that waits for bytes joins this: then the transfer goes before the rest, and each piece is progress for both.
        self.deadline = Deadline(UNBOUNDED, waited=not background and call is not None and call.waited)

    def run(self) -> None:
        """Transfer until everything is there or it is over; tells the entry how it went."""
        error: JobfsError | None = None
        try:
            # If a reader waits for this transfer, it goes before the rest.
            with bound_by(self.deadline):
                self._transfer()
            if self._took_turn and self._link.pool.submit(self.run):
                return
        except JobfsError as failed:
            error = again(failed)  # its traceback would keep all this alive, an open file among it
        except Exception:
            _log.exception("a download failed unexpectedly")
            error = UnavailableError("the download failed unexpectedly (see the log)")
        self._entry.ended(self, error)

    def _transfer(self) -> None:
        """Send requests until nothing is left to bring, or another transfer is to have this thread."""
        entry = self._entry
        self._gained = time.monotonic()
        self._took_turn = False
        entry.start(self)
        failures = 0
        while (start := entry.next_start(self)) is not None:
            if self._took_turn and not self.background:
                return
            self.pos = start
            before = self._gained
            try:
                broken = self._request(start)
            except ContractError as wrong:
                self._link.forget(entry.version)
                self._look(wrong)
                if not entry.start_over(self):
                    raise
                self.pos, self.end = 0, None
                continue
            # A server without ranges may send the same bytes once more: they are no progress.
            failures = 0 if broken is None or self._gained > before else failures + 1
            if broken is not None:
                self._pause(broken, failures)
        self._took_turn = False

    def _pause(self, broken: UnavailableError, failures: int) -> None:
        """Wait before a broken transfer is resumed; raises `broken` if nothing new has come for too long."""
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

    def _accept(self, start: int, body: Download) -> bool:
        """Check what the answer's headers say; False if its bytes are not wanted."""
        entry = self._entry
        if body.start > start:
            told = f"download: bytes from {start} asked, from {body.start} sent"
            raise ContractError(told)
        total = body.total if body.total is not None or body.start else body.length
        if total not in (None, entry.size):
            told = f"download: {total} bytes are announced instead of the {entry.size} promised"
            raise ContractError(told)
        if start:
            self._link.ranges = body.start > 0
        if start and body.start == 0 and self.end is not None:
            if entry.streams():
                self.stop = True
                return False
            self.end = None  # the whole file comes: take all of it
        self.pos = body.start
        entry.answered()
        return True

    def _receive(self, body: Download, began: float) -> bool:
        """Take in the body; False if it was left before its end."""
        for chunk in body.chunks():
            if not chunk:
                continue
            if self.pos + len(chunk) > self._entry.size:
                self.pos += len(chunk)
                return True  # too many bytes: the error is raised once the connection is given back
            self._entry.put(self.pos, chunk)
            self.pos += len(chunk)
            now = time.monotonic()
            if self.pos > self._furthest:
                self._furthest, self._gained = self.pos, now
            # A range is read to its end, which keeps the connection, but no further.
            if self._entry.unwanted(self) or (self.end is not None and self.pos > self.end):
                return False
            if self._link.ranges and now - began > _TURN and self._is_in_the_way():
                self._took_turn = True
                return False
        return True

    def _is_in_the_way(self) -> bool:
        """True if another transfer waits for a thread, or for a connection."""
        rank = Rank.LARGE if self.deadline.waited else Rank.BACKGROUND_LARGE
        return self._link.pool.starved or self._link.client.line.wanted(before=rank + 1)

    def _check_end(self, start: int, body: Download) -> None:
        """Check that a body that did not break off ended where it should."""
        size = self._entry.size
        end = size if self.end is None else min(size, self.end)
        short = self.pos < end and (self.pos == start or body.start == 0)
        if short or self.pos > size:
            came = f"{self.pos} bytes" if short else "more"
            raise ContractError(f"download: {came} came instead of the {size} promised")

    def _look(self, wrong: ContractError) -> None:
        """Raises StaleVersionError if the item was written meanwhile, and ApiError if that can't be known."""
        version = self._entry.version
        shown = self._link.client.get(version.item_id)
        if version.size is None or not self._entry.shows(shown):
            raise StaleVersionError(f"{wrong}: the item was written meanwhile")
