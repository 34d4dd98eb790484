"""One version's content, shared by all its handles: what is there, what is on its way, who waits (vfs/semantics.md 3).

A file read from its beginning is streamed whole. A read elsewhere asks for a range, whose length grows while
the reads go on in order. A read a little ahead of a running transfer waits for it. Where the server has no
ranges, everybody waits for the stream.
"""

from __future__ import annotations

import errno
import hashlib
import time
from pathlib import Path

from jobfs.api.deadline import Deadline, about_to_wait, current
from jobfs.content.disk import DiskCache, version_name
from jobfs.content.fetch import Fetch, Incoming
from jobfs.content.file import CacheFile
from jobfs.content.link import Link
from jobfs.content.ranges import MIB, NEAR, Run, align_down, align_up
from jobfs.errors import FsError, UnavailableError, again
from jobfs.nodes import Version

#: Bytes that are hashed at once.
_PIECE = 4 * MIB
#: Seconds that a download goes on after the last handle was closed: many files are opened again at once.
LINGER = 0.5
#: Seconds in which a failure answers the next read too: the kernel asks twice for what its readahead missed.
_ECHO = 0.02
#: Seconds that a reader gives a transfer to report its own, better worded failure.
_GRACE = 0.5
#: Jumps in a row after which a stream that nobody waits for is not worth going on with…
_JUMPS = 4
#: …if it has more than this to go.
_LONG = 16 * MIB


class Entry(Incoming):
    """The content of one version, as its readers see it."""

    def __init__(self, version: Version, size: int, updated_ns: int, link: Link, disk: DiskCache) -> None:
        super().__init__(version, size, updated_ns, link, disk)
        self._jumps = 0
        self._digest: str | None = None

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
        while self.pins:
            if self.whole:
                return self.path()
            self._wait(Run(0, 0), 0, self.size)  # as who reads it from its start
            self.settle()
            with self.cond:
                if self.stale is not None:
                    raise again(self.stale)
                if not self.whole and (self.settling or self.fetches):
                    self._sleep(Deadline(self.link.timeout, current(), waited=False))
        raise FsError(errno.EBADF)  # who asked has closed it: what came was for nobody else

    def bring(self) -> None:
        """Bring everything, in this thread, unless that is under way; what goes wrong is for readers to find."""
        self.look()
        with self.cond:
            gap = self.have.gap(0, self.size)
            if gap is None or self.whole or self.fetches or self.stale is not None or self.link.closed:
                return
            fetch = Fetch(self, gap[0], None, background=True)
            self.fetches.append(fetch)
        fetch.run()

    def sha256(self) -> str | None:
        """Hex digest of the whole content; None if it is not there, or can't be read."""
        self.look()
        if self.whole and self._digest is None:
            about_to_wait()
            digest = hashlib.sha256()
            for position in range(0, self.size, _PIECE):
                try:
                    data = self.load(position, min(position + _PIECE, self.size))
                except FsError:
                    return None
                if data is None:
                    return None
                digest.update(data)
            self._digest = digest.hexdigest()
        return self._digest if self.whole else None

    def look(self) -> None:
        """Look whether the disk has this version already, if nothing of it is here."""
        if self.whole or self.have or self.fetches:
            return
        name = version_name(self.version)
        file = self._disk.open(name, self.size)
        if file is not None:
            self.install(file, name)

    def install(self, file: CacheFile, name: str | None) -> None:
        """The whole content is in `file`: under `name` in the cache, or for the open handles only."""
        with self.cond:
            self.bodies = max(self.bodies, 1)
            old, self.file, self.name, self.whole = self.file, file, name, True
            self.have.add(0, self.size)
            for fetch in self.fetches:
                fetch.stop = True
            self.cond.notify_all()
        del old  # without the lock: that may remove it

    def on_disk(self, patience: float = 0.0) -> bool:
        """True if every byte is on disk, in this entry or in the cache; waits `patience` seconds if all have come."""
        if patience and not self.whole:
            about_to_wait()
            with self.cond:
                self.cond.wait_for(lambda: self.whole or not self.complete(), patience)
        return self.whole or self._disk.size(self.version) is not None

    # -- the store's side ---------------------------------------------------------------------------------

    @property
    def resumable(self) -> bool:
        """True if a handle opened later can go on with what is here and nowhere else."""
        return bool(self.fetches or self.have) and not self.whole and not self.transient()

    def outlived(self) -> bool:
        """True if these bytes serve only those who have them open, and what is downloaded now would serve all."""
        lasting = self.link.lasting
        return (
            self.began is not None
            and not lasting(self.updated_ns, self.began)
            and lasting(self.updated_ns, time.time())
        )

    # -- waiting ------------------------------------------------------------------------------------------

    def _wait(self, run: Run, offset: int, end: int) -> int:
        """Wait until [offset, end) is there; the end, cut to the file. Raises ApiError, FsError."""
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
        """True if these bytes, which are there, were read before, or are surely of one version with what was."""
        if not self.whole and self.certain:
            self.sure.add(offset, end)
        return self.whole or self.sure.covers(offset, end)

    def _await(self, fetch: Fetch | None, offset: int, deadline: Deadline) -> None:
        """Wait for what a transfer brings; without one, for what another reader asks the server just now."""
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
            raise UnavailableError("download: the mount is going away", endpoint="download")
        left = deadline.left() + _GRACE
        if left > 0:
            about_to_wait()
            self.cond.wait(left)
            return
        if fetch is not None:
            fetch.stop = True
        told = f"download: nothing came for {self.link.timeout:g} s"
        raise UnavailableError(told, endpoint="download", errno=errno.ETIMEDOUT)

    def _bring(self, gap: tuple[int, int], run: Run) -> Fetch:
        """The transfer that brings the first byte of `gap`: a running one that is worth waiting for, or a new one.

        What has just failed is not begun again.
        """
        if self.failed is not None and time.monotonic() - self.failed[1] < _ECHO:
            raise again(self.failed[0])
        position = gap[0]
        whole = run.from_start or position == 0 or self.size <= NEAR
        nearest = self._nearest(position)
        if nearest is not None:
            # Soon there, or on its way with the whole file that is wanted anyway.
            anyway = self.link.ranges is False or (whole and nearest.end is None)
            if anyway or position - nearest.pos <= NEAR:
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
        if self._jumps >= _JUMPS:
            for fetch in self.fetches:
                if fetch.end is None and not fetch.waiters and self.size - fetch.pos > _LONG:
                    fetch.stop = True

    def _range(self, start: int, end: int) -> tuple[int, int]:
        """A range in whole pieces, without what is there and what is on its way."""
        first = max(align_down(start), self.have.covered_before(start))
        coming = [fetch.pos for fetch in self.fetches if not fetch.stop and fetch.pos > start]
        there = self.have.next_start(start)
        last = min([align_up(end), self.size, *coming, *([] if there is None else [there])])
        return first, max(last, start + 1)

    def _look_ahead(self, run: Run, end: int, asked: int) -> None:
        """Begin what this run of reads of `asked` bytes, which has come to `end`, will ask for next."""
        if run.from_start:
            self._jumps = 0
        covered = self.have.covered_until(end - 1) if end else 0
        if not self._is_to_come(covered):
            return
        if run.from_start and covered - end < NEAR:
            self._begin(covered, None)
        elif not run.from_start and run.sequential(asked) and covered - end < max(run.chunk(), NEAR) // 2:
            self._begin(*self._range(covered, covered + run.chunk()))

    def _is_to_come(self, position: int) -> bool:
        """True if a byte is missing there, nothing brings it, and nothing is known to be wrong."""
        over = self.whole or self.stale or self.failed or self.link.closed or position == self.size
        return not over and self.link.ranges is not False and self._nearest(position) is None

    def _begin(self, start: int, end: int | None) -> Fetch:
        self.failed = None
        fetch = Fetch(self, start, end)
        self.fetches.append(fetch)
        if not self.link.pool.submit(fetch.run):
            self.fetches.remove(fetch)
            raise UnavailableError("download: the mount is going away", endpoint="download")
        return fetch
