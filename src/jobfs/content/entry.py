"""One version's content, shared by all its handles: its bytes, the transfers that bring them, its readers (vfs/semantics.md 3).

A file read from its beginning is streamed whole. A read elsewhere asks for a range, whose length grows while
the reads go on in order. A read a little ahead of a running transfer waits for it. Where the server has no
ranges, everybody waits for the stream.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from jobfs.api.deadline import UNBOUNDED, Deadline, about_to_wait, bound_by, current
from jobfs.content.disk import CacheFile, DiskCache, read_all, version_name, write_all
from jobfs.content.fetch import Fetch
from jobfs.content.link import Link, StaleVersionError
from jobfs.content.ranges import CHUNK, NEAR, IntervalSet, Run
from jobfs.errors import ContractError, FsError, JobfsError, NotFoundError, UnavailableError, again
from jobfs.nodes import Item

_log = logging.getLogger("jobfs.content")

#: Seconds that a download goes on after the last handle was closed: many files are opened again at once.
LINGER = 0.5
#: Seconds in which a failure answers the next read too: the kernel asks twice for bytes that its readahead missed.
_ECHO = 0.02
#: Seconds that a reader gives a transfer to report its own, better worded failure.
_GRACE = 0.5


class Entry:
    """The `size` bytes of the version that `item` shows, in a sparse file of the cache, or of memory where the disk refuses them.

    `have`: the bytes that are there. Bytes are written first, announced afterwards, and never written again. `sure`: those that
    may be read whatever else comes. `whole`: all are there, and proved to be of this version. `pins`: how many handles are open.
    `cond` has the store's lock.
    """

    def __init__(self, item: Item, size: int, link: Link, disk: DiskCache) -> None:
        self.version = item.version
        self.size = size
        self.link = link
        self.have, self.sure = IntervalSet(), IntervalSet()
        self.file: CacheFile | None = None
        self.whole = size == 0
        self.cond = threading.Condition(disk.lock)
        self.fetches: list[Fetch] = []
        self.pins = 0
        self.linger = 0.0  # until when transfers go on though nobody has it open
        self.stale: StaleVersionError | None = None
        self.failed: tuple[JobfsError, float] | None = None  # the last failure and its time
        self.began: float | None = None  # time.time() of the first request for these bytes
        self.bodies = 0  # how many answers with these bytes have begun: their headers have come
        self.proved = 0  # how many answers, from the first on, are of this version: see `prove`
        self.proving: Deadline | None = None  # of the request that is to prove more
        self.stamps = {self.version.updated_at}  # its `updatedAt`s so far: a request of ours may change it
        self._updated_ns = item.updated_ns
        self._disk = disk
        self._moving = 0  # how many such requests of ours are on their way
        self._settling = False  # it is complete, and is being made the cached content
        self._started_over = False

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
            data = read_all(file.fd, offset, end - offset)
        except OSError as error:
            memory = self._disk.hold(self.size, error)
        if len(data) == end - offset:
            return data
        # The disk fails, or somebody has cut the file.
        self._disk.remove(version_name(self.version))
        self._reset(memory)
        return None

    def look(self) -> None:
        """If nothing of this version is here yet, look whether the disk has it."""
        if not (self.whole or self.have or self.fetches):
            file = self._disk.open(version_name(self.version), self.size)
            if file is not None:
                self.install(file)

    def install(self, file: CacheFile) -> None:
        """The whole content is in `file`."""
        with self.cond:
            self.bodies = max(self.bodies, 1)  # should the file be lost, what comes then has to be proved
            old, self.file, self.whole = self.file, file, True
            self.have.add(0, self.size)
            for fetch in self.fetches:
                fetch.stop = True
            self.cond.notify_all()
        del old  # without the lock: this may remove the old file

    def _reset(self, new: CacheFile | None = None) -> None:
        """Forget all bytes; `new`: the file for the bytes that come from now on."""
        with self.cond:
            old, self.file = self.file, new
            self.have, self.sure = IntervalSet(), IntervalSet()
            self.whole = self.size == 0
        del old  # without the lock: this removes the old file

    def _written(self, file: CacheFile | None, position: int, data: bytes) -> CacheFile:
        """Write the bytes. Returns their file, which is made if there is none yet. Raises FsError(EIO)."""
        try:
            file = file or self._part()
            write_all(file.fd, data, position)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and self._disk.free(len(data)):
                return self._written(file, position, data)
            if file is not None and self.file is not file:
                return file  # another transfer was faster: these bytes come once more
            memory = self._disk.hold(self.size, error)
            write_all(memory.fd, data, position)
            self._reset(memory)
            return memory
        if file.path:
            self._disk.refused = ""
        return file

    def _part(self) -> CacheFile:
        new = self._disk.part()
        with self.cond:
            if self.file is None:
                self.file = new
            # If the whole content came from elsewhere meanwhile, its file is not written to.
            return new if self.whole else self.file

    def _path(self) -> Path:
        """A path to the complete file, put back if somebody cleared the cache; raises FsError."""
        file = self.file
        try:
            if file is None or not file.there():
                file = self._disk.part() if file is None else self._disk.copy(file.fd, self.size)
        except OSError as error:
            told = f"the content cache can't be written: {error.strerror}"
            raise FsError(error.errno or errno.EIO, told) from None
        with self.cond:
            self.file = file
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
                if self.stale is not None:
                    raise again(self.stale)
                if not self.whole and (self._settling or self.fetches):
                    self._sleep(Deadline(self.link.timeout, current(), waited=False))
        raise FsError(errno.EBADF)  # the caller's handle is closed by now, and no other is open

    def bring(self) -> None:
        """Bring everything, in this thread, unless a transfer is under way; errors are left to readers."""
        with self.cond:
            gap = self.have.gap(0, self.size)
            if gap is None or self.whole or self.fetches or self.stale is not None or self.link.closed:
                return
            fetch = Fetch(self, gap[0], None, background=True)
            self.fetches.append(fetch)
        fetch.run()

    def sha256(self) -> str | None:
        """Hex digest of the whole content; None if it is not there, or can't be read."""
        if not self.whole:
            return None
        about_to_wait()
        with contextlib.suppress(OSError, FsError), self._path().open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            if file.tell() == self.size:
                return digest.hexdigest()
        return None

    @property
    def young(self) -> bool:
        """True if this version may also have had other bytes: see Link.lasting."""
        return self.began is not None and not self.link.lasting(self._updated_ns, self.began)

    def serves_more(self) -> bool:
        """True if a handle that is opened now may share these bytes with those that have them open."""
        if self.young:
            # Not if a download that begins now would serve later handles too.
            return self.pins > 0 and not self.link.lasting(self._updated_ns, time.time())
        return self.pins > 0 or (self.stale or self.failed) is None

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
                if self.stale is not None:
                    raise again(self.stale)
                fetch = None if gap is None else self._bring(gap, run)
                if self.certain or self.proving is not None:
                    self._await(fetch, offset, deadline)
                    continue
            self.prove()

    def _may_be_read(self, offset: int, end: int) -> bool:
        """True if these bytes, which are there, were read before, or are surely of the same version as those that were."""
        if not self.whole and self.certain:
            self.sure.add(offset, end)
        return self.whole or self.sure.covers(offset, end)

    def _await(self, fetch: Fetch | None, offset: int, deadline: Deadline) -> None:
        """Wait for the bytes of a transfer; without one, for the proof that another reader is asking for."""
        if fetch is None:
            assert self.proving is not None
            with self.proving.joined(deadline):
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
        told = f"download: nothing came for {self.link.timeout:g} s"
        raise UnavailableError(told, errno=errno.ETIMEDOUT)

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
        return first or start, max(min(last, self.size), start + 1)

    def _look_ahead(self, run: Run, end: int, asked: int) -> None:
        """Begin to bring what a run will ask for next: it has come to `end` by reads of `asked` bytes."""
        covered = self.have.covered_until(end - 1) if end else 0
        over = self.whole or self.stale or self.failed or self.link.closed or covered == self.size
        if over or self.link.ranges is False or self._nearest(covered) is not None:
            return
        if run.from_start and covered - end < NEAR:
            self._begin(covered, None)
        elif not run.from_start and run.sequential(asked) and covered - end < max(run.chunk(), NEAR) // 2:
            self._begin(*self._range(covered, covered + run.chunk()))

    def _begin(self, start: int, end: int | None) -> Fetch:
        self.failed = None
        fetch = Fetch(self, start, end)
        self.fetches.append(fetch)
        if not self.link.pool.submit(fetch.run):
            self.fetches.remove(fetch)
            raise UnavailableError("download: the mount is going away")
        return fetch

    # -- what transfers ask and tell ------------------------------------------------------------------------

    def start(self, fetch: Fetch) -> None:
        """A transfer is about to send its first request."""
        self.began = self.began or time.time()
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
        """The headers of another answer have come: bytes not read yet need a proof that all answers are of this version."""
        with self.cond:
            self.bodies += 1
            self.cond.notify_all()

    def start_over(self, fetch: Fetch) -> bool:
        """No byte is good: forget all, and bring them once more. False if this was done before."""
        with self.cond:
            if self._started_over or self.whole:
                return False
            self._started_over = True
            for other in self.fetches:
                other.stop = other.stop or other is not fetch
            self.cond.notify_all()
        self._reset()
        return True

    def ended(self, fetch: Fetch, error: JobfsError | None) -> None:
        """The fetch is over."""
        with self.cond:
            fetch.error = error
            self.fetches.remove(fetch)
            if error is not None and not fetch.background:
                self.failed = (error, time.monotonic())
            if isinstance(error, StaleVersionError):
                self.stale = again(error)
            useless = isinstance(error, ContractError) and not self.whole
            self.cond.notify_all()
        if useless:
            self._reset()
        try:
            if error is None and self.pins and not fetch.stop:
                self.prove()  # before readers come to the bytes that were brought ahead of them
            self.settle()
        except JobfsError as unsettled:
            _log.warning("%s", str(unsettled))

    # -- of one version ---------------------------------------------------------------------------------------

    @property
    def certain(self) -> bool:
        """True if all bytes here are of one version: those of one answer are; those of several are, if that is proved."""
        return self.stale is None and (self.bodies <= 1 or self.proved == self.bodies)

    def shows(self, item: Item) -> bool:
        """True if the server shows this version still."""
        return item.updated_at in self.stamps and item.size in (None, self.size)

    def _complete(self) -> bool:
        return self.stale is None and self.have.covers(0, self.size)

    def settle(self) -> None:
        """If every byte is there, make this the cached content of its version. Raises StaleVersionError, ApiError."""
        with self.cond:
            if self.whole or self._settling or self.fetches or not self._complete():
                return
            self._settling = True
        try:
            self.prove()
            if self._complete() and not self.young and self.size <= self._disk.limit:
                self._keep()
            with self.cond:
                # Unless the bytes were forgotten meanwhile.
                self.whole = self._complete() and self.certain
        finally:
            with self.cond:
                self._settling = False
                self.cond.notify_all()
        self._disk.fit()

    def _keep(self) -> None:
        """Make the complete file the content of its version, or leave it to the handles that have it open."""
        part = self.file
        file = None if part is None else self._disk.keep(part, version_name(self.version), self.size)
        with self.cond:
            if file is not None and self.file is part:
                self.file = file

    def prove(self, *, anew: bool = False) -> None:
        """Prove that all answers whose headers have come are of this version: asked after them, the server still shows it.

        One request serves all callers that wait. None is made where there is nothing to prove, unless `anew`. Raises
        StaleVersionError if the version is gone, ApiError if that can't be known.
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
                    self.stale = StaleVersionError(told)
                    raise again(self.stale)
                self.proved = bodies
        finally:
            with self.cond:
                self.proving = None
                self.cond.notify_all()

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """The time in which a request of ours may change `updatedAt`: `prove` judges its answer afterwards."""
        with self.cond:
            self._moving += 1
        try:
            yield
        finally:
            with self.cond:
                self._moving -= 1
                self.cond.notify_all()
