"""Write-back: the entry of the file system into the save protocol, and the background threads of a mount."""

from __future__ import annotations

import errno
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from jobfs import process
from jobfs.api.client import Client
from jobfs.background import Background
from jobfs.content import ContentStore
from jobfs.errors import FsError, UnavailableError
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.save.bases import BaseKeeper
from jobfs.save.cleanup import Cleanup
from jobfs.save.context import Context
from jobfs.save.items import ItemRequests, plan_removal
from jobfs.save.queue import MOST_HIDING, ChangeQueue
from jobfs.save.rename import Renamer
from jobfs.save.replace import Replacer
from jobfs.save.upload import Uploader
from jobfs.settings import Settings
from jobfs.state import Change, File, State, edit
from jobfs.state.records import Base
from jobfs.state.server import KnownServer

log = logging.getLogger("jobfs.save")

#: Seconds without a listing after which one is read, if a tombstone remains: an item could not be deleted, for example.
_LIST_EVERY = 3600.0
#: For how many request lifetimes a tombstone is kept; it goes with the first listing after that.
_LIFETIMES = 20


@dataclass(frozen=True)
class Intervals:
    """Seconds between disk syncs, between checks for a new listing, and between returns of free memory to the system."""

    sync: float = 0.5
    tidy: float = 1.0
    trim: float = 15.0


INTERVALS = Intervals()


class WriteBack:
    """The saves of a mount: owns its state, its queue and their threads. Every method may be called from any thread."""

    def __init__(
        self,
        client: Client,
        namespace: Namespace,
        content: ContentStore,
        state: State,
        mount: str,
        settings: Settings,
        server: KnownServer,
        intervals: Intervals | None = None,
    ) -> None:
        """`mount`: the id of the mount. `close` closes `state`, too."""
        self._every = every = intervals or INTERVALS
        self.client = client
        self.namespace = namespace
        self.content = content
        self.state = state
        # Each request in these pools runs beside one in the save's own thread: half as many threads as connections are enough.
        io_pool = ThreadPoolExecutor(max(1, client.max_connections // 2), "jobfs-io")
        promote_pool = ThreadPoolExecutor(max(1, client.max_connections // 2), "jobfs-promote")
        body_pool = ThreadPoolExecutor(MOST_HIDING, "jobfs-bodies")
        self.context = Context(
            client, namespace, content, self.state, io_pool, body_pool, promote_pool, mount=mount,
            lifetime=settings.request_lifetime, timeout=settings.timeout, cache_limit=settings.cache_size, server=server,
        )  # fmt: skip
        self.uploader = Uploader(self.context)
        bases = BaseKeeper(self.state, content, namespace)
        self.cleanup = Cleanup(self.context, self.uploader, bases)
        self.replacer = Replacer(self.context, self.uploader, self.cleanup, bases)
        self.items = ItemRequests(self.context, self.replacer, self.cleanup)
        delay = settings.write_back_delay
        self.queue = ChangeQueue(self.context, self.replacer, self.items, delay=delay)
        self.renamer = Renamer(self.context, self.items, self.replacer, self.queue)
        #: What was taken up from the journal at the start, a line each; and what the user must know of it.
        self.taken_up: list[str] = []
        self.warnings: list[str] = []
        #: When the mount began, and when free memory was last returned (monotonic seconds).
        self._began = self._last_trim = time.monotonic()
        #: The number of the snapshot that `_process_listing` has processed; 0: none yet, so no item is known to be gone.
        self._snapshot = 0
        self._threads = [
            Background("jobfs-sync", self._sync_disk, first=every.sync, retry=every.sync),
            # Not in "jobfs-sync": it may remove thousands of files, and closed bytes must be synced within a second.
            Background("jobfs-fit", self._trim_cache, first=every.sync, retry=every.sync),
            Background("jobfs-tidy", self._process_listing, first=every.tidy, retry=every.tidy),
        ]

    def start(self) -> None:
        """Start the background threads. Call `recovery.restore_journal` first."""
        self.queue.start()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop the background threads, if they run, and close the state; what is unsent stays in the journal."""
        for thread in self._threads:
            thread.stop()
        self.queue.stop()
        for thread in self._threads:
            thread.join()
        self.context.stop_threads()
        try:
            self.state.store.sync()  # the next mount may delete an item whose only other copy is these bytes
        except FsError as error:
            log.error("%s", error)
        self.state.close()

    def _sync_disk(self) -> float:
        """Sync closed bytes to the disk, and record closes again that found the disk full. Raises FsError(ENOSPC, EIO)."""
        if self.state.store.needs_sync:
            self.state.store.sync()
        if self.state.journal.spare.try_refill():
            for file in list(self.state.unclosed):
                self.record_closed(file)
                self.queue.schedule(file)
        return self._every.sync

    def _trim_cache(self) -> float:
        """Bring the content cache under its limit: saves add to it without a check."""
        self.content.evict_to_limit()
        return self._every.sync

    def _process_listing(self) -> float:
        """Return free memory to the system, and process the last listing if it is new. Raises ApiError, FsError(EIO)."""
        now, number = time.monotonic(), self.namespace.snapshot_number
        if now - self._last_trim > self._every.trim:
            self._last_trim = now
            process.trim_memory()
        if number != self._snapshot:
            self.cleanup.expose_orphans()
            self.cleanup.forget_vanished()
            self.state.saves.expire()
            self.state.journal.prune_tombstones(now - self.context.lifetime * _LIFETIMES)
            self._snapshot = number
        elif self._needs_listing(now) and self.state.journal.has_any_tombstone:
            self.namespace.refresh()
        return self._every.tidy

    def _needs_listing(self, now: float) -> bool:
        """Return whether no listing has begun since the last late create (R4), or for an hour. `now`: monotonic seconds."""
        # When a listing was processed proves nothing: it may have begun before the create was carried out.
        moments = (self.context.relist_after, now - _LIST_EVERY)
        return any(
            self._began < moment < now and not self.namespace.has_listing_since(moment) for moment in moments
        )

    # -- what a close and an fsync mean (vfs/semantics.md 4)

    def record_closed(self, file: File) -> None:
        """Record that a File's bytes were closed and must be sent (w). Raises FsError(ENOSPC, EIO)."""
        with file.lock:
            local, new = file.local, not (file.generation or file.base.id)
            self.state.unclosed.discard(file)
            if local is None or file.path is None or not (file.is_visible_to_job and file.has_unclosed_bytes):
                return
            try:
                self.state.store.close_generation(file, local, refused="")
            except FsError:
                self.state.unclosed.add(file)
                raise
            if new:
                self.uploader.count_create_and_probe(file.path)

    def wait_until_uploaded(self, file: File) -> None:
        """Close a File's bytes, and wait until the server has them (fsync). Raises the error that prevents it."""
        self.record_closed(file)
        wanted = file.close_count
        while True:
            if file.refused:
                number = errno.EFBIG if file.refused_errno == errno.EFBIG else errno.EIO
                raise FsError(number, f"{file.path} was refused by the server: {file.refused}")
            if not file.is_unsent:
                return
            change = self.queue.find_or_plan_change(file)
            if change is not None:
                self._run_or_schedule(change, file)
                if change.sent_close_count >= wanted and file.base.id == change.staged_id != "":
                    return  # these bytes are placed; bytes that were closed since belong to another call

    def _run_or_schedule(self, change: Change, file: File) -> None:
        """Run the Change of a File in this thread; if it fails before it has started, schedule it.

        Raises as `wait_until_uploaded`.
        """
        try:
            self.queue.run_until_finished(change)
        except BaseException:
            self.queue.schedule(file)
            raise

    def wait_or_withdraw_save(self, file: File) -> None:
        """Wait until no save of a File is in flight; withdraw and reschedule a save that can't finish now.

        Raises ApiError, FsError.
        """
        if file.never_sent:
            return
        if self.namespace.is_unreachable and self.try_withdraw_save(file):
            self.queue.schedule(file)
        try:
            while (change := file.change) is not None and change.is_in_flight:
                self.queue.run_until_finished(change)
        except UnavailableError:
            if not self.try_withdraw_save(file):
                raise
            self.queue.schedule(file)

    def try_withdraw_save(self, file: File) -> bool:
        """Cancel the started save of a File, for cleanup to undo; False if there is none, or it may have set an item aside."""
        with file.lock, self.state.lock:
            change = file.change
            if change is None or not change.started or change.is_settled or change.asides:
                return False
            # Without a base, cleanup keeps the version that the save would have replaced.
            self.state.cancel_change(change, ino=0, base=Base())
        self.queue.wake()
        return True

    def make_directory(self, path: str) -> Item | None:
        """Make a directory on the server; None if the server can't be reached. Raises FsError(EEXIST), ApiError."""
        if self.namespace.is_unreachable:
            return None
        self.uploader.count_create_and_probe(path)
        try:
            item = self.uploader.try_make_directory(path) or self.replacer.make_new_directory(path)
        except UnavailableError:
            return None
        self.namespace.record_own_change(item)
        return item

    def cancel_save(self, file: File) -> bool:
        """Cancel the save of a File that is being unlinked (R10). Raises FsError.

        Return False if a request of the save may have been sent: the Change is recorded as cancelled, and hides the name until
        cleanup has undone it. Else return True: the caller must delete the File's item, if any, and then unlink the File, which
        keeps its row until then.
        """
        with file.lock, self.state.lock:
            change = file.change
            if change is None or not change.started or change.is_settled:
                return True
            if not change.recorded:
                # Without a row it has sent nothing; its run ends at the next step.
                self.state.end_change(change)
                return True
            self.state.cancel_change(change, shows={change.target: None}, remove=[file])
            self.state.unlink_file(file)
        self.queue.wake()
        return False

    def delete_once_fetched(self, item: Item) -> None:
        """Delete an item in the background, once its open handles have fetched its bytes. Raises ApiError, FsError(EIO)."""
        self.client.probe_and_require_reachable(item.path)
        removal = plan_removal(self.state, item.path, self.context.base_of(item), item)
        try:
            self.state.write(edit(removal), is_new=True)
        except FsError:
            self.state.end_change(removal)
            raise
        self.queue.add_change(removal, 0.0)
