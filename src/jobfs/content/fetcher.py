"""Fetches the bytes of one version for all its readers: which transfer brings them, and who waits (vfs/semantics.md 3).

A file read from its beginning is streamed whole. A read elsewhere asks for a range, whose length grows while the reads continue
in order. A read a little ahead of a running transfer waits for it. Where the server has no ranges, all wait for the stream.
"""

from __future__ import annotations

import errno
import logging
import time
from functools import partial
from pathlib import Path

from jobfs.api.deadline import Deadline, announce_blocking, current_deadline, use_deadline
from jobfs.content.cached_version import CachedVersion
from jobfs.content.disk import CacheFile, DiskCache
from jobfs.content.proof import StaleVersionError, VersionProof
from jobfs.content.ranges import CHUNK, NEAR, SequentialRun
from jobfs.content.transfer import Transfer, TransferPool
from jobfs.errors import ContractError, FsError, JobfsError, UnavailableError, copy_error
from jobfs.nodes import Item

_log = logging.getLogger("jobfs.content")

#: Seconds in which a failure answers the next read too: the kernel asks twice for bytes that its readahead missed.
_ECHO = 0.02
#: Seconds that a reader gives a transfer to report its own, better worded failure.
_GRACE = 0.5


class Fetcher:
    """The readers of the version that `item` shows, of `size` bytes, and the transfers that bring its bytes.

    `cached`: the bytes that came. `proof`: that they are of this version. `last_failure`: the last failure and its time.
    """

    def __init__(self, item: Item, size: int, pool: TransferPool, disk: DiskCache) -> None:
        self.cached = CachedVersion(item.version, size, disk)
        self.proof = VersionProof(item, size, pool.client, self.cached.cond)
        self.transfers: list[Transfer] = []
        self.last_failure: tuple[JobfsError, float] | None = None
        self._pool = pool
        self._cond = self.cached.cond
        self._is_settling = False

    # -- what handles ask -----------------------------------------------------------------------------------

    def read(self, run: SequentialRun, offset: int, size: int) -> bytes:
        """Return the bytes [offset, offset + size), cut at the end of the file; see ContentHandle.read."""
        run.note_read(offset, offset + size)
        while True:
            end = self._wait_until_readable(run, offset, offset + size)
            data = self.cached.load_bytes(offset, end) if offset < end else b""
            if data is not None:
                return data

    def fetch_file(self) -> Path:
        """Return the whole content as a file; see ContentHandle.fetch_file."""
        while self.cached.pins:
            if self.cached.is_complete:
                return self.cached.complete_path()
            # Like a reader from the start.
            self._wait_until_readable(SequentialRun(0, 0), 0, self.cached.size)
            self.commit_if_complete()
            with self._cond:
                self.proof.raise_if_stale()
                if not self.cached.is_complete and (self._is_settling or self.transfers):
                    self._wait_for_change(self._new_deadline())
        raise FsError(errno.EBADF)  # the caller's handle was closed, and no other is open

    def fetch_missing(self) -> None:
        """Bring everything, in this thread, unless a transfer is running; errors are left to readers."""
        with self._cond:
            gap = self.cached.available.first_gap(0, self.cached.size)
            if gap is None or self.transfers or self._may_not_begin():
                return
            transfer = Transfer(
                self.cached, self.proof, self._pool, self.transfers, start=gap[0], end=None, background=True
            )
            self.transfers.append(transfer)
        self._run_transfer(transfer)

    def may_be_shared(self) -> bool:
        """True if a handle that is opened now may share these bytes. All that are open at once must, as the kernel has one set of
        pages for them, unless the time of their version is a whole second, which may name other bytes by now.
        """
        if self.proof.is_racy:
            return self.cached.pins > 0 and not self.proof.is_ambiguous
        return self.cached.pins > 0 or (self.proof.stale or self.last_failure) is None

    def is_being_read(self, item: Item) -> bool:
        """True if handles are open on the version that `item` shows, and it is not whole."""
        return self.cached.pins > 0 and not self.cached.is_complete and self.proof.is_shown_by(item)

    # -- bytes from elsewhere -------------------------------------------------------------------------------

    def check_disk(self) -> None:
        """Look whether the disk has this version, if no byte of it is here yet."""
        if not (self.cached.is_complete or self.cached.available or self.transfers):
            file = self.cached.open_complete()
            if file is not None:
                self.install_file(file)

    def install_file(self, file: CacheFile) -> None:
        """Use `file`, which has the whole content."""
        with self._cond:
            # the file may be lost: then bytes of a reply would join those that were read from it
            self.proof.require_verification()
            before = self.cached.install_file(file)
            self._stop_all()
            self._cond.notify_all()
        del before  # without the lock: this may remove the file

    # -- waiting --------------------------------------------------------------------------------------------

    def _wait_until_readable(self, run: SequentialRun, offset: int, end: int) -> int:
        """Wait until [offset, end) may be read. Returns the end, cut to the file. Raises ApiError, FsError."""
        asked, end = end - offset, max(offset, min(end, self.cached.size))
        deadline = self._new_deadline()
        while True:
            with self._cond:
                gap = None if self.cached.is_complete else self.cached.available.first_gap(offset, end)
                if gap is None and self._is_verified(offset, end):
                    self._read_ahead(run, end, asked)
                    return end
                self.proof.raise_if_stale()
                transfer = None if gap is None else self._find_or_begin_transfer(gap, run)
                if self.proof.is_proven or self.proof.asking_deadline is not None:
                    self._wait_for_progress(transfer, offset, deadline)
                    continue
            self.proof.verify_version()

    def _is_verified(self, offset: int, end: int) -> bool:
        """True if these bytes, which are there, were read before, or are of the same version as those that were."""
        if self.cached.is_complete:
            return True
        if self.proof.is_proven:
            self.cached.verified.add(offset, end)
        return self.cached.verified.covers(offset, end)

    def _wait_for_progress(self, transfer: Transfer | None, offset: int, deadline: Deadline) -> None:
        """Wait for the bytes of a transfer; without one, for the proof that another reader is asking for."""
        if transfer is not None:
            self._wait_for_bytes(transfer, offset, deadline)
            return
        assert self.proof.asking_deadline is not None
        with self.proof.asking_deadline.attach_waiter(deadline):
            self._wait_for_change(deadline)

    def _wait_for_bytes(self, transfer: Transfer, offset: int, deadline: Deadline) -> None:
        """Wait for the next bytes after those from `offset` on; raises the error of the transfer if it ended without them."""
        missing = self.cached.available.contiguous_end(offset)
        transfer.waiters += 1
        try:
            # Only bytes are progress, not that a transfer has begun.
            with transfer.deadline.attach_waiter(deadline):
                self._wait_for_change(deadline, transfer)
        finally:
            transfer.waiters -= 1
        if transfer.error is not None and self.cached.available.contiguous_end(missing) == missing:
            raise copy_error(transfer.error)

    def _wait_for_change(self, deadline: Deadline, transfer: Transfer | None = None) -> None:
        """Wait for a change; raises UnavailableError if the deadline has passed or the store is closed."""
        if self._pool.closed:
            raise UnavailableError("download: the mount is going away")
        left = deadline.remaining() + _GRACE
        if left > 0:
            announce_blocking()
            self._cond.wait(left)
            return
        if transfer is not None:
            transfer.stop_requested = True
        raise UnavailableError(f"download: nothing came for {self._pool.timeout:g} s", errno=errno.ETIMEDOUT)

    def _new_deadline(self) -> Deadline:
        return Deadline(self._pool.timeout, current_deadline(), foreground=False)

    # -- which transfer brings what (with the lock held) ----------------------------------------------------

    def _find_or_begin_transfer(self, gap: tuple[int, int], run: SequentialRun) -> Transfer:
        """Return the transfer that brings the first byte of `gap`: a running one that is worth waiting for, or a new one.

        Just after a failure no transfer is begun: its error is raised again.
        """
        if self.last_failure is not None and time.monotonic() - self.last_failure[1] < _ECHO:
            raise copy_error(self.last_failure[0])
        position = gap[0]
        wants_whole = run.is_from_start or position == 0 or self.cached.size <= NEAR
        nearest = self._closest_transfer(position)
        if nearest is not None and self._is_worth_waiting(nearest, position, wants_whole=wants_whole):
            return nearest
        if self._pool.ranges is False:
            self._stop_all()  # a stream that has passed the missing bytes: start over
            return self._begin_transfer(0, None)
        if wants_whole:
            return self._begin_transfer(
                position if run.is_from_start else self.cached.available.contiguous_end(0), None
            )
        return self._begin_transfer(
            *self._align_range(position, max(gap[1], position + run.next_chunk_size()))
        )

    def _is_worth_waiting(self, nearest: Transfer, position: int, *, wants_whole: bool) -> bool:
        """True if the byte at `position` comes soon, or with a stream that is needed anyway."""
        needed_anyway = self._pool.ranges is False or (wants_whole and nearest.end is None)
        return needed_anyway or position - nearest.pos <= NEAR

    def _closest_transfer(self, position: int) -> Transfer | None:
        """The closest of the transfers that are on their way to a position; None if there is none."""
        coming = [
            transfer
            for transfer in self.transfers
            if not transfer.stop_requested
            and transfer.pos <= position
            and (transfer.end is None or position < transfer.end)
        ]
        return max(coming, key=lambda transfer: transfer.pos, default=None)

    def _align_range(self, start: int, end: int) -> tuple[int, int]:
        """A range in whole pieces. It never starts at the file's beginning: from there it would be the whole file."""
        first, last = start // CHUNK * CHUNK, -(-end // CHUNK) * CHUNK
        return first or start, min(last, self.cached.size)

    def _read_ahead(self, run: SequentialRun, end: int, asked: int) -> None:
        """Begin to bring what a run will ask for next: it has come to `end` by reads of `asked` bytes."""
        if run.is_from_start or not run.is_sequential(asked) or self._pool.ranges is False:
            return
        if self.last_failure is not None or self._may_not_begin():
            return
        covered = self.cached.available.contiguous_end(end - 1) if end else 0
        is_far_ahead = covered == self.cached.size or covered - end >= max(run.next_chunk_size(), NEAR) // 2
        if not is_far_ahead and self._closest_transfer(covered) is None:
            self._begin_transfer(*self._align_range(covered, covered + run.next_chunk_size()))

    def _may_not_begin(self) -> bool:
        """True if no transfer may begin: it would bring nothing."""
        return self.cached.is_complete or self.proof.stale is not None or self._pool.closed

    def _begin_transfer(self, start: int, end: int | None) -> Transfer:
        """Begin a transfer that readers wait for."""
        self.last_failure = None
        transfer = Transfer(self.cached, self.proof, self._pool, self.transfers, start=start, end=end)
        self._pool.submit(partial(self._run_transfer, transfer))
        self.transfers.append(transfer)
        return transfer

    def _stop_all(self) -> None:
        for transfer in self.transfers:
            transfer.stop_requested = True

    # -- the end of a transfer ------------------------------------------------------------------------------

    def _run_transfer(self, transfer: Transfer) -> None:
        """Run a transfer to its end, or until another one must have this thread: then it runs again later."""
        error: JobfsError | None = None
        try:
            # If a reader waits for this transfer, it goes before the rest.
            with use_deadline(transfer.deadline):
                is_over = transfer.run()
            if not is_over:
                self._pool.submit(partial(self._run_transfer, transfer))
                return
        except JobfsError as failed:
            error = copy_error(failed)  # its traceback would keep all this alive, an open file among it
        except Exception:
            _log.exception("a download failed unexpectedly")
            error = UnavailableError("the download failed unexpectedly (see the log)")
        self._end_transfer(transfer, error)

    def _end_transfer(self, transfer: Transfer, error: JobfsError | None) -> None:
        """Tell readers how a transfer ended, and settle the content if it was the last one."""
        if isinstance(error, ContractError) and not self.cached.is_complete:
            self.cached.forget_bytes()  # before a reader hears of it
        with self._cond:
            self.transfers.remove(transfer)
            if error is not None and not transfer.background:
                transfer.error, self.last_failure = error, (error, time.monotonic())
            if isinstance(error, StaleVersionError):
                self.proof.stale = copy_error(error)
            self._cond.notify_all()
        try:
            if error is None and self.cached.pins and not transfer.stop_requested:
                self.proof.verify_version()  # before readers come to the bytes that were brought ahead of them
            self.commit_if_complete()
        except JobfsError as unsettled:
            _log.warning("%s", str(unsettled))

    def commit_if_complete(self) -> None:
        """If every byte is there, make this the cached content of its version. Raises StaleVersionError, ApiError."""
        with self._cond:
            if self.cached.is_complete or self._is_settling or self.transfers or not self._is_complete():
                return
            self._is_settling = True
        try:
            self.proof.verify_version()
            if self._is_complete() and not self.proof.is_racy:
                self.cached.commit_to_cache()
            with self._cond:
                if self._is_complete() and self.proof.is_proven:  # unless the bytes were forgotten since
                    self.cached.complete_file = self.cached.file
        finally:
            with self._cond:
                self._is_settling = False
                self._cond.notify_all()
        self.cached.make_room(0)

    def _is_complete(self) -> bool:
        """True if every byte is there, proved or not, and may be of this version."""
        return self.proof.stale is None and self.cached.available.covers(0, self.cached.size)
