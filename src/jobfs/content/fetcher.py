"""Fetches the bytes of one version for all its readers: begins the transfers, and lets readers wait (vfs/semantics.md 3).

A file that is read from its beginning is streamed whole. A read elsewhere requests a range, whose length grows while reads
continue in order. A read a little ahead of a running transfer waits for it. If the server has no ranges, all wait for the
stream.
"""

from __future__ import annotations

import errno
import logging
import time
from functools import partial
from pathlib import Path

from jobfs.api.deadline import Deadline, call_blocking_hook, current_deadline, use_deadline
from jobfs.content.cached_version import CachedVersion
from jobfs.content.disk import CacheFile, DiskCache
from jobfs.content.proof import StaleVersionError, VersionProof
from jobfs.content.ranges import CHUNK, NEAR, SequentialRun
from jobfs.content.transfer import Transfer, TransferPool
from jobfs.errors import ContractError, FsError, JobfsError, UnavailableError, copy_error
from jobfs.nodes import Item

_log = logging.getLogger("jobfs.content")

#: Seconds that a reader waits past its deadline for the transfer to report its own, better worded failure.
_GRACE = 0.5


class Fetcher:
    """The readers of the version that `item` shows, of `size` bytes, and the transfers that fetch its bytes.

    `cached`: the bytes that have come. `proof`: whether they are of this version. `last_failure`: the last failure and its
    time.
    """

    def __init__(self, item: Item, size: int, pool: TransferPool, disk: DiskCache) -> None:
        self.cached = CachedVersion(item.version, size, disk, pool.timing)
        self.proof = VersionProof(item, size, pool.client, self.cached.cond, pool.timing.clock)
        self.transfers: list[Transfer] = []
        self.last_failure: tuple[JobfsError, float] | None = None
        self._pool = pool
        self._cond = self.cached.cond
        self._is_settling = False

    # -- for handles ----------------------------------------------------------------------------------------

    def read(self, run: SequentialRun, offset: int, size: int) -> bytes:
        """Return the bytes [offset, offset + size), cut at the end of the file; see ContentHandle.read."""
        run.note_read(offset, offset + size)
        while True:
            end = self._wait_until_readable(run, offset, offset + size)
            data = self.cached.load_or_forget_bytes(offset, end) if offset < end else b""
            if data is not None:
                return data

    def fetch_file(self) -> Path:
        """Return the path of a file with the whole content; see ContentHandle.fetch_file."""
        with self._cond:
            # What has refused these bytes before may not do so now: they may go elsewhere, or there is room.
            self.cached.needs_file, self.last_failure = True, None
        while self.cached.pins:
            if self.cached.is_complete:
                return self.cached.complete_path
            # Wait like a reader that begins at byte 0.
            self._wait_until_readable(SequentialRun(0, 0), 0, self.cached.size)
            self.finish_if_complete()
            with self._cond:
                self.proof.raise_if_stale()
                if not self.cached.is_complete and (self._is_settling or self.transfers):
                    self._wait_for_notification(self._new_deadline())
        raise FsError(errno.EBADF)  # every handle is closed, the caller's included

    def fetch_missing(self) -> None:
        """Fetch everything in this thread, unless a transfer is running. Raises nothing: readers meet the errors themselves."""
        with self._cond:
            gap = self.cached.available.first_gap(0, self.cached.size)
            if gap is None or self.transfers or self._is_transfer_pointless():
                return
            transfer = Transfer(
                self.cached, self.proof, self._pool, self.transfers, start=gap[0], end=None, background=True
            )
            self.transfers.append(transfer)
        self._run_transfer(transfer)

    def may_be_shared(self) -> bool:
        """Return whether a handle that is opened now may share these bytes.

        Handles that are open at the same time must share them, because the kernel has one set of pages for all. The exception
        is a version whose time is a whole second, which may name other bytes by now.
        """
        if self.proof.is_racy:
            return self.cached.pins > 0 and not self.proof.is_ambiguous
        return self.cached.pins > 0 or (self.proof.stale or self.last_failure) is None

    def is_being_read(self, item: Item) -> bool:
        """Return whether handles are open on the version that `item` shows, and some of its bytes are missing."""
        return self.cached.pins > 0 and not self.cached.is_complete and self.proof.is_shown_by(item)

    # -- bytes that need no transfer -------------------------------------------------------------------------

    def use_disk_content(self) -> None:
        """Use the content that the disk has for this version, if no byte of it is here yet."""
        if not (self.cached.is_complete or self.cached.available or self.transfers):
            file = self.cached.open_complete()
            if file is not None:
                self.install_file(file)

    def install_file(self, file: CacheFile) -> None:
        """Use `file`, which has the whole content."""
        with self._cond:
            # If the file is lost later, bytes of a reply will join bytes that were read from the file.
            self.proof.require_verification()
            previous = self.cached.install_file(file)
            self._stop_transfers()
            self._cond.notify_all()
        del previous  # without the lock: this may remove the file

    # -- waiting --------------------------------------------------------------------------------------------

    def _wait_until_readable(self, run: SequentialRun, offset: int, end: int) -> int:
        """Wait until [offset, end) may be read; return the end, cut to the file. Raises ApiError, FsError."""
        read_size, end = end - offset, max(offset, min(end, self.cached.size))
        deadline = self._new_deadline()
        while True:
            with self._cond:
                gap = None if self.cached.is_complete else self.cached.available.first_gap(offset, end)
                if gap is None and self._is_verified(offset, end):
                    self._read_ahead(run, end, read_size)
                    return end
                self.proof.raise_if_stale()
                transfer = None if gap is None else self._find_or_begin_transfer(gap, run)
                if self.proof.is_proven or self.proof.asking_deadline is not None:
                    self._wait_for_progress(transfer, offset, deadline)
                    continue
            self.proof.verify_version()

    def _is_verified(self, offset: int, end: int) -> bool:
        """Return whether these available bytes may be read: they are verified, or every reply is proved to be of this version."""
        if self.cached.is_complete:
            return True
        if self.proof.is_proven:
            self.cached.verified.add(offset, end)
        return self.cached.verified.covers(offset, end)

    def _wait_for_progress(self, transfer: Transfer | None, offset: int, deadline: Deadline) -> None:
        """Wait for bytes of `transfer`; if it is None, for the thread that is now verifying this version or changing its item."""
        if transfer is not None:
            self._wait_for_bytes(transfer, offset, deadline)
            return
        assert self.proof.asking_deadline is not None
        with self.proof.asking_deadline.attach_waiter(deadline):
            self._wait_for_notification(deadline)

    def _wait_for_bytes(self, transfer: Transfer, offset: int, deadline: Deadline) -> None:
        """Wait for the bytes after those available at `offset`; raises the transfer's error if it ended without them."""
        missing = self.cached.available.contiguous_end(offset)
        transfer.waiters += 1
        try:
            # Only bytes count as progress, not the start of a transfer.
            with transfer.deadline.attach_waiter(deadline):
                self._wait_for_notification(deadline, transfer)
        finally:
            transfer.waiters -= 1
        if transfer.error is not None and self.cached.available.contiguous_end(missing) == missing:
            raise copy_error(transfer.error)

    def _wait_for_notification(self, deadline: Deadline, transfer: Transfer | None = None) -> None:
        """Wait for a notification; raises UnavailableError if the deadline has passed or the store is closed."""
        if self._pool.closed:
            raise UnavailableError("download: the mount is ending")
        seconds = deadline.signed_remaining() + _GRACE
        if seconds > 0:
            call_blocking_hook()
            self._cond.wait(seconds)
            return
        if transfer is not None:
            transfer.stop_requested = True
        raise UnavailableError(f"download: nothing came for {self._pool.timeout:g} s", errno=errno.ETIMEDOUT)

    def _new_deadline(self) -> Deadline:
        return Deadline(self._pool.timeout, current_deadline(), foreground=False)

    # -- which transfer brings which bytes (with the lock held) ----------------------------------------------

    def _find_or_begin_transfer(self, gap: tuple[int, int], run: SequentialRun) -> Transfer:
        """Return the transfer that brings the first byte of `gap`: a running one that is worth waiting for, or a new one.

        Just after a failure, raises the same error again instead.
        """
        if self.last_failure is not None and time.monotonic() - self.last_failure[1] < self._pool.timing.echo:
            raise copy_error(self.last_failure[0])
        position = gap[0]
        wants_whole = run.is_from_start or position == 0 or self.cached.size <= NEAR
        nearest = self._closest_transfer(position)
        if nearest is not None and self._is_worth_waiting(nearest, position, wants_whole=wants_whole):
            return nearest
        if self._pool.ranges is False:
            self._stop_transfers()  # the stream has passed the missing bytes: start over
            return self._begin_transfer(0, None)
        if wants_whole:
            return self._begin_transfer(
                position if run.is_from_start else self.cached.available.contiguous_end(0), None
            )
        return self._begin_transfer(
            *self._align_range(position, max(gap[1], position + run.next_chunk_size()))
        )

    def _is_worth_waiting(self, nearest: Transfer, position: int, *, wants_whole: bool) -> bool:
        """Return whether the byte at `position` comes soon, or with a stream that is needed anyway."""
        needed_anyway = self._pool.ranges is False or (wants_whole and nearest.end is None)
        return needed_anyway or position - nearest.pos <= NEAR

    def _closest_transfer(self, position: int) -> Transfer | None:
        """Return the closest of the transfers that will reach `position`; None if there is none."""
        candidates = [
            transfer
            for transfer in self.transfers
            if not transfer.stop_requested
            and transfer.pos <= position
            and (transfer.end is None or position < transfer.end)
        ]
        return max(candidates, key=lambda transfer: transfer.pos, default=None)

    def _align_range(self, start: int, end: int) -> tuple[int, int]:
        """Extend a range to whole chunks, but never down to byte 0: a range from there would be the whole file."""
        first, last = start // CHUNK * CHUNK, -(-end // CHUNK) * CHUNK
        return first or start, min(last, self.cached.size)

    def _read_ahead(self, run: SequentialRun, end: int, read_size: int) -> None:
        """Begin to fetch what a sequential run reads next; it has reached `end` with reads of `read_size` bytes."""
        if run.is_from_start or not run.is_sequential(read_size) or self._pool.ranges is False:
            return
        if self.last_failure is not None or self._is_transfer_pointless():
            return
        covered = self.cached.available.contiguous_end(end - 1) if end else 0
        is_far_ahead = covered == self.cached.size or covered - end >= max(run.next_chunk_size(), NEAR) // 2
        if not is_far_ahead and self._closest_transfer(covered) is None:
            self._begin_transfer(*self._align_range(covered, covered + run.next_chunk_size()))

    def _is_transfer_pointless(self) -> bool:
        """Return whether a new transfer is pointless: all bytes are here, the version is stale, or the store is closed."""
        return self.cached.is_complete or self.proof.stale is not None or self._pool.closed

    def _begin_transfer(self, start: int, end: int | None) -> Transfer:
        """Begin a transfer that readers wait for."""
        self.last_failure = None
        transfer = Transfer(self.cached, self.proof, self._pool, self.transfers, start=start, end=end)
        self._pool.submit(partial(self._run_transfer, transfer))
        self.transfers.append(transfer)
        return transfer

    def _stop_transfers(self) -> None:
        for transfer in self.transfers:
            transfer.stop_requested = True

    # -- the end of a transfer ------------------------------------------------------------------------------

    def _run_transfer(self, transfer: Transfer) -> None:
        """Run a transfer to its end, or until another one needs this thread; then submit the rest again."""
        error: JobfsError | None = None
        try:
            # While a reader waits for this transfer, its requests go before the rest.
            with use_deadline(transfer.deadline):
                is_over = transfer.run_unless_preempted()
            if not is_over:
                self._pool.submit(partial(self._run_transfer, transfer))
                return
        except JobfsError as failed:
            error = copy_error(failed)  # the traceback would keep this frame alive, and an open file with it
        except Exception:
            _log.exception("a download failed unexpectedly")
            error = UnavailableError("the download failed unexpectedly (see the log)")
        self._end_transfer(transfer, error)

    def _end_transfer(self, transfer: Transfer, error: JobfsError | None) -> None:
        """Let readers see how a transfer ended, and commit the content if it is complete."""
        if isinstance(error, ContractError) and not self.cached.is_complete:
            self.cached.forget_bytes()  # before a reader sees the error
        with self._cond:
            self.transfers.remove(transfer)
            if error is not None and not transfer.background:
                transfer.error, self.last_failure = error, (error, time.monotonic())
            if isinstance(error, StaleVersionError):
                self.proof.stale = copy_error(error)
            self._cond.notify_all()
        try:
            if error is None and self.cached.pins and not transfer.stop_requested:
                self.proof.verify_version()  # before readers reach the bytes that were fetched ahead of them
            self.finish_if_complete()
        except JobfsError as unsettled:
            _log.warning("%s", str(unsettled))

    def finish_if_complete(self) -> None:
        """If every byte is here and proved, declare the content complete, and unless it is racy, keep it in the cache.

        Raises StaleVersionError, ApiError.
        """
        with self._cond:
            if self.cached.is_complete or self._is_settling or self.transfers or not self._has_all_bytes():
                return
            self._is_settling = True
        try:
            self.proof.verify_version()
            if self._has_all_bytes() and not self.proof.is_racy:
                self.cached.commit_to_cache()
            with self._cond:
                if (
                    self._has_all_bytes() and self.proof.is_proven
                ):  # unless the bytes were forgotten in between
                    self.cached.complete_file = self.cached.file
        finally:
            with self._cond:
                self._is_settling = False
                self._cond.notify_all()
        self.cached.make_room(0)

    def _has_all_bytes(self) -> bool:
        """Return whether every byte is here, proved or not, and the version is not known to be stale."""
        return self.proof.stale is None and self.cached.available.covers(0, self.cached.size)
