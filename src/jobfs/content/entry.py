"""One version's content, shared by all its handles: its bytes, the transfers that bring them, its readers (vfs/semantics.md 3).

A file read from its beginning is streamed whole. A read elsewhere asks for a range, whose length grows while the reads go on in
order. A read a little ahead of a running transfer waits for it. Where the server has no ranges, everybody waits for the stream.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from pathlib import Path

from jobfs.api.client import Download
from jobfs.api.deadline import UNBOUNDED, Deadline, about_to_wait, backoff, bound_by, current, steady
from jobfs.api.line import Rank
from jobfs.content.disk import CacheFile, DiskCache, write_all
from jobfs.content.link import Link
from jobfs.content.proof import Proof, StaleVersionError
from jobfs.content.ranges import CHUNK, NEAR, IntervalSet, Run
from jobfs.errors import ContractError, FsError, JobfsError, UnavailableError, again
from jobfs.nodes import Item

_log = logging.getLogger("jobfs.content")

#: Seconds that a download goes on after the last handle was closed: many files are opened again at once.
LINGER = 0.5
#: Seconds in which a failure answers the next read too: the kernel asks twice for bytes that its readahead missed.
_ECHO = 0.02
#: Seconds that a reader gives a transfer to report its own, better worded failure.
_GRACE = 0.5
#: Seconds before a broken body is asked for again, the first time.
_FIRST_PAUSE = 0.05
#: Seconds after which a transfer lets another one have its thread or its connection.
_TURN = 1.0


class Entry:
    """The `size` bytes of the version that `item` shows, in a sparse file of the cache, or of memory where the disk refuses them.

    `have`: the bytes that are there. Bytes are written first, announced afterwards, and never written again. `sure`: those that
    may be read whatever else comes. `ready`: the file, once all bytes are in it and proved to be of this version. `pins`: how
    many handles are open. `cond` has the store's lock.
    """

    def __init__(self, item: Item, size: int, link: Link, disk: DiskCache) -> None:
        self.version = item.version
        self.size = size
        self.link = link
        self.have, self.sure = IntervalSet(), IntervalSet()
        self.file: CacheFile | None = None
        self.ready: CacheFile | None = None
        self.cond = threading.Condition(disk.lock)
        self.proof = Proof(item, size, link.client, self.cond)
        self.fetches: list[Fetch] = []
        self.pins = 0
        self.linger = 0.0  # until when transfers go on though nobody has it open
        self.failed: tuple[JobfsError, float] | None = None  # the last failure and its time
        self._disk = disk
        self._settling = False  # it is complete, and is being made the cached content

    @property
    def whole(self) -> bool:
        """True if every byte is here, and proved to be of this version."""
        return self.ready is not None or self.size == 0

    # -- bytes --------------------------------------------------------------------------------------------

    def put(self, position: int, data: bytes) -> None:
        """Keep bytes and announce them. Bytes that are there already stay: the two may be of different versions.

        Raises FsError(EIO).
        """
        at, end = position, position + len(data)
        while at < end:
            with self.cond:
                gap, file = self.have.gap(at, end), self.file
            if gap is None:
                return
            start, at = gap
            file = self._written(file, start, data[start - position : at - position])
            with self.cond:
                # Not if all bytes were forgotten meanwhile, or came from elsewhere.
                if not self.whole and self.file is file:
                    self.have.add(start, at)
                    file.bytes = self.have.total
                    self.cond.notify_all()

    def load(self, offset: int, end: int) -> bytes | None:
        """The bytes [offset, end), or None if they were lost since they were announced: bring them again. Raises FsError(EIO)."""
        with self.cond:
            if not (self.whole or self.sure.covers(offset, end)):
                return None  # forgotten: the file that there is now may have a hole there
            file = self.file
        if file is None:
            return None
        data, memory = b"", None
        try:
            data = os.pread(file.fd, end - offset, offset)
        except OSError as error:
            memory = self._disk.hold(self.size, error)
        if len(data) == end - offset:
            return data
        # The disk fails, or somebody has cut the file.
        self._disk.remove(self.version)
        self.reset(memory)
        return None

    def look(self) -> None:
        """Look whether the disk has this version, if nothing of it is here yet."""
        if not (self.whole or self.have or self.fetches):
            file = self._disk.open(self.version, self.size)
            if file is not None:
                self.install(file)

    def install(self, file: CacheFile) -> None:
        """The whole content is in `file`."""
        with self.cond:
            self.proof.require()  # the file may be lost
            old, self.file, self.ready = self.file, file, file
            self.have.add(0, self.size)
            for fetch in self.fetches:
                fetch.stop = True
            self.cond.notify_all()
        del old  # without the lock: this may remove the old file

    def reset(self, new: CacheFile | None = None) -> None:
        """Forget all bytes; `new`: the file for the bytes that come from now on."""
        with self.cond:
            old, self.file, self.ready = self.file, new, None
            self.have, self.sure = IntervalSet(), IntervalSet()
        del old  # without the lock: this removes the old file

    def _written(self, file: CacheFile | None, position: int, data: bytes) -> CacheFile:
        """Write the bytes. Returns their file, which is made if there is none yet. Raises FsError(EIO)."""
        try:
            if file is None:
                new = self._disk.part()
                with self.cond:
                    self.file = self.file or new
                    # If the whole content came from elsewhere meanwhile, its file is not written to.
                    file = new if self.whole else self.file
            write_all(file.fd, data, position)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and self._disk.free(len(data)):
                return self._written(file, position, data)
            if file is not None and self.file is not file:
                return file  # another transfer was faster: these bytes come once more
            memory = self._disk.hold(self.size, error)
            write_all(memory.fd, data, position)
            self.reset(memory)
            return memory
        if file.path:
            self._disk.refused = ""
        return file

    def _path(self) -> Path:
        """A path to the complete file, put back if somebody cleared the cache; raises FsError."""
        file = self.file
        try:
            if file is None:
                file = self._disk.part()
            elif not file.there():
                file = self._disk.copy(Path(f"/proc/self/fd/{file.fd}"), self.size)
        except OSError as error:
            told = f"the content cache can't be written: {error.strerror}"
            raise FsError(error.errno or errno.EIO, told) from None
        with self.cond:
            self.file = self.ready = file
        return Path(file.path)

    # -- what handles ask -----------------------------------------------------------------------------------

    def read(self, run: Run, offset: int, size: int) -> bytes:
        """The bytes [offset, offset + size), cut at the end of the file; see Content.read."""
        run.note(offset, offset + size)
        while True:
            end = self._wait(run, offset, offset + size)
            data = self.load(offset, end) if offset < end else b""
            if data is not None:
                return data

    def fetch(self) -> Path:
        """The whole content as a file; see Content.fetch."""
        while self.pins:
            if self.whole:
                return self._path()
            self._wait(Run(0, 0), 0, self.size)  # like a reader from the start
            self.settle()
            with self.cond:
                self.proof.check()
                if not self.whole and (self._settling or self.fetches):
                    self._sleep(Deadline(self.link.timeout, current(), waited=False))
        raise FsError(errno.EBADF)  # the caller's handle is closed by now, and no other is open

    def bring(self) -> None:
        """Bring everything, in this thread, unless a transfer is under way; errors are left to readers."""
        with self.cond:
            gap = self.have.gap(0, self.size)
            if gap is None or self.whole or self.fetches or self.proof.stale is not None or self.link.closed:
                return
            fetch = Fetch(self, gap[0], None, background=True)
            self.fetches.append(fetch)
        fetch.run()

    def serves_more(self) -> bool:
        """True if a handle that is opened now may share these bytes. All that are open at once must, as the kernel has one set of
        pages for them, unless the time of their version is a whole second, which may name other bytes by now.
        """
        if self.proof.is_racy:
            return self.pins > 0 and not self.proof.is_ambiguous
        return self.pins > 0 or (self.proof.stale or self.failed) is None

    # -- waiting ------------------------------------------------------------------------------------------

    def _wait(self, run: Run, offset: int, end: int) -> int:
        """Wait until [offset, end) is there. Returns the end, cut to the file. Raises ApiError, FsError."""
        asked, end = end - offset, max(offset, min(end, self.size))
        deadline = Deadline(self.link.timeout, current(), waited=False)
        while True:
            with self.cond:
                gap = None if self.whole else self.have.gap(offset, end)
                if gap is None and self._may_be_read(offset, end):
                    self._look_ahead(run, end, asked)
                    return end
                self.proof.check()
                fetch = None if gap is None else self._bring(gap, run)
                if self.proof.holds or self.proof.asking_deadline is not None:
                    self._await(fetch, offset, deadline)
                    continue
            self.proof.verify()

    def _may_be_read(self, offset: int, end: int) -> bool:
        """True if these bytes, which are there, were read before, or are surely of the same version as those that were."""
        if not self.whole and self.proof.holds:
            self.sure.add(offset, end)
        return self.whole or self.sure.covers(offset, end)

    def _await(self, fetch: Fetch | None, offset: int, deadline: Deadline) -> None:
        """Wait for the bytes of a transfer; without one, for the proof that another reader is asking for."""
        if fetch is None:
            assert self.proof.asking_deadline is not None
            with self.proof.asking_deadline.joined(deadline):
                self._sleep(deadline)
            return
        missing = self.have.covered_until(offset)
        fetch.waiters += 1
        try:
            # Only bytes are progress, not that a transfer has begun.
            with fetch.deadline.joined(deadline):
                self._sleep(deadline, fetch)
        finally:
            fetch.waiters -= 1
        if fetch.error is not None and self.have.covered_until(missing) == missing:
            raise again(fetch.error)

    def _sleep(self, deadline: Deadline, fetch: Fetch | None = None) -> None:
        """Wait for a change; raises UnavailableError if the deadline has passed or the store is closed."""
        if self.link.closed:
            raise UnavailableError("download: the mount is going away")
        left = deadline.left() + _GRACE
        if left > 0:
            about_to_wait()
            self.cond.wait(left)
            return
        if fetch is not None:
            fetch.stop = True
        raise UnavailableError(f"download: nothing came for {self.link.timeout:g} s", errno=errno.ETIMEDOUT)

    def _bring(self, gap: tuple[int, int], run: Run) -> Fetch:
        """The transfer that brings the first byte of `gap`: a running one that is worth waiting for, or a new one.

        Just after a failure no transfer is begun: its error is raised again.
        """
        if self.failed is not None and time.monotonic() - self.failed[1] < _ECHO:
            raise again(self.failed[0])
        position = gap[0]
        whole = run.from_start or position == 0 or self.size <= NEAR
        nearest = self._nearest(position)
        if nearest is not None:
            # The byte comes soon, or with a stream that is needed anyway.
            anyway = self.link.ranges is False or (whole and nearest.end is None)
            if anyway or position - nearest.pos <= NEAR:
                return nearest
        if self.link.ranges is False:
            for fetch in self.fetches:
                fetch.stop = True  # a stream that has passed the missing bytes: start over
            return self._begin(0, None)
        if whole:
            return self._begin(position if run.from_start else self.have.covered_until(0), None)
        return self._begin(*self._range(position, max(gap[1], position + run.chunk())))

    def _nearest(self, position: int) -> Fetch | None:
        """The closest of the transfers that are on their way to a position; None if there is none."""
        coming = [
            fetch
            for fetch in self.fetches
            if not fetch.stop and fetch.pos <= position and (fetch.end is None or position < fetch.end)
        ]
        return max(coming, key=lambda fetch: fetch.pos, default=None)

    def _range(self, start: int, end: int) -> tuple[int, int]:
        """A range in whole pieces. It never starts at the file's beginning: from there it would be the whole file."""
        first, last = start // CHUNK * CHUNK, -(-end // CHUNK) * CHUNK
        return first or start, min(last, self.size)

    def _look_ahead(self, run: Run, end: int, asked: int) -> None:
        """Begin to bring what a run will ask for next: it has come to `end` by reads of `asked` bytes."""
        covered = self.have.covered_until(end - 1) if end else 0
        over = self.whole or self.proof.stale or self.failed or self.link.closed or covered == self.size
        if over or run.from_start or self.link.ranges is False or self._nearest(covered) is not None:
            return
        if run.sequential(asked) and covered - end < max(run.chunk(), NEAR) // 2:
            self._begin(*self._range(covered, covered + run.chunk()))

    def _begin(self, start: int, end: int | None) -> Fetch:
        self.failed = None
        fetch = Fetch(self, start, end)
        self.link.begin(fetch.run)
        self.fetches.append(fetch)
        return fetch

    # -- what transfers ask and tell ------------------------------------------------------------------------

    def start(self, fetch: Fetch) -> None:
        """A transfer is about to send its first request."""
        self.proof.began = self.proof.began or steady()
        coming = (self.size if fetch.end is None else fetch.end) - fetch.pos
        self._disk.fit(coming if self.size <= self._disk.limit else 0)

    def next_start(self, fetch: Fetch) -> int | None:
        """The first byte that this fetch still has to bring; None if it may end."""
        with self.cond:
            if self.unwanted(fetch):
                return None
            gap = self.have.gap(fetch.pos, self.size if fetch.end is None else min(fetch.end, self.size))
            return None if gap is None else gap[0]

    def unwanted(self, fetch: Fetch) -> bool:
        """True if this fetch is to stop where it is."""
        if fetch.stop or self.link.closed or self.proof.stale is not None:
            return True
        if self.pins or fetch.waiters or time.monotonic() < self.linger:
            return False
        return (self.size if fetch.end is None else fetch.end) - fetch.pos > NEAR

    def ended(self, fetch: Fetch, error: JobfsError | None) -> None:
        """The fetch is over."""
        if isinstance(error, ContractError) and not self.whole:
            self.reset()  # before a reader hears of it
        with self.cond:
            self.fetches.remove(fetch)
            if error is not None and not fetch.background:
                fetch.error, self.failed = error, (error, time.monotonic())
            if isinstance(error, StaleVersionError):
                self.proof.stale = again(error)
            self.cond.notify_all()
        try:
            if error is None and self.pins and not fetch.stop:
                self.proof.verify()  # before readers come to the bytes that were brought ahead of them
            self.settle()
        except JobfsError as unsettled:
            _log.warning("%s", str(unsettled))

    # -- of one version ---------------------------------------------------------------------------------------

    def _complete(self) -> bool:
        return self.proof.stale is None and self.have.covers(0, self.size)

    def settle(self) -> None:
        """If every byte is there, make this the cached content of its version. Raises StaleVersionError, ApiError."""
        with self.cond:
            if self.whole or self._settling or self.fetches or not self._complete():
                return
            self._settling = True
        try:
            self.proof.verify()
            file = self.file
            if (
                self._complete()
                and file is not None
                and not self.proof.is_racy
                and self.size <= self._disk.limit
            ):
                self._disk.keep(file, self.version, self.size)  # if that fails, it is left to the handles
            with self.cond:
                if self._complete() and self.proof.holds:  # unless the bytes were forgotten meanwhile
                    self.ready = self.file
        finally:
            with self.cond:
                self._settling = False
                self.cond.notify_all()
        self._disk.fit()


class Fetch:
    """A range [start, end), or where `end` is None the stream from `start` to the end of the file; resumed where it broke.

    It goes from its start to its end, leaving out what is there already, in as many requests as that takes. Other threads
    read `pos` (the next byte to come); they set `stop` and, under the entry's lock, `waiters`. A fetch in the `background` has a
    thread of its own, and nobody waited for it when it began.
    """

    def __init__(self, entry: Entry, start: int, end: int | None, *, background: bool = False) -> None:
        self.pos = start
        self.end = end
        self.stop = False
        self.waiters = 0
        self.error: JobfsError | None = None
        self._entry = entry
        self._link = entry.link
        self.background = background
        self._gained = 0.0  # when new bytes came last
        self._furthest, self._took_turn, self._wrong = start, False, False
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
            if self._took_turn:
                self._link.begin(self.run)
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
                self._link.forget(entry.version, entry.size)
                shown = self._link.client.get(entry.version.item_id)
                if entry.version.size is None or not entry.proof.is_shown_by(shown):
                    raise StaleVersionError(f"{wrong}: the item was written meanwhile") from None
                if self._wrong:
                    raise
                self._wrong, self.pos, self.end = True, 0, None  # once more, from the start
                entry.reset()
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
        end = size if self.end is None else min(size, self.end)
        if complete and self.pos < end and (self.pos == start or body.start == 0):
            raise ContractError(f"download: {self.pos} bytes came instead of the {size} promised")
        return None

    def _accept(self, start: int, body: Download) -> bool:
        """Check what the answer's headers say; False if its bytes are not wanted."""
        entry = self._entry
        if body.start > start:
            raise ContractError(f"download: bytes from {start} asked, from {body.start} sent")
        total = body.total if body.total is not None or body.start else body.length
        if total not in (None, entry.size):
            told = f"download: {total} bytes are announced instead of the {entry.size} promised"
            raise ContractError(told)
        if start:
            self._link.ranges = body.start > 0
        if start and body.start == 0 and self.end is not None:
            with entry.cond:
                self.stop = self.stop or any(other.end is None and not other.stop for other in entry.fetches)
            if self.stop:
                return False
            self.end = None  # the whole file comes: take all of it
        self.pos = body.start
        with entry.cond:
            entry.proof.replies += 1  # bytes not read yet need a proof that all answers are of this version
            entry.cond.notify_all()
        return True

    def _receive(self, body: Download, began: float) -> bool:
        """Take in the body; False if it was left before its end. Raises ContractError if too much comes."""
        for chunk in body.chunks():
            if not chunk:
                continue
            if self.pos + len(chunk) > self._entry.size:
                raise ContractError(f"download: more came instead of the {self._entry.size} promised")
            self._entry.put(self.pos, chunk)
            self.pos += len(chunk)
            now = time.monotonic()
            if self.pos > self._furthest:
                self._furthest, self._gained = self.pos, now
            # A range is read to its end, which keeps the connection, but no further.
            if self._entry.unwanted(self) or (self.end is not None and self.pos > self.end):
                return False
            if self._link.ranges and now - began > _TURN:
                rank = Rank.LARGE if self.deadline.waited else Rank.BACKGROUND_LARGE
                # Another transfer may wait for a thread, or for a connection.
                self._took_turn = self._link.starved or self._link.client.line.wanted(before=rank + 1)
                if self._took_turn:
                    return False
        return True
