"""Write-back: what the file system asks of the save protocol, and the threads that bring changes to the server."""

from __future__ import annotations

import errno
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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

#: Seconds between disk syncs, between looks at what the last listing has brought, and between returns of free memory.
_SYNC_EVERY, _TIDY_EVERY, _GIVE_BACK_EVERY = 0.5, 1.0, 15.0
#: Seconds without a listing after which one is made, if something may be left to be deleted.
_LIST_EVERY = 3600.0
#: A tombstone is kept for so many request lifetimes, and until a listing after that.
_LIFETIMES = 20


class WriteBack:
    """One for a mount. Owns the state and the queue. May be called from any thread."""

    def __init__(
        self,
        client: Client,
        namespace: Namespace,
        content: ContentStore,
        directory: Path,
        mount: str,
        settings: Settings,
        server: KnownServer,
    ) -> None:
        """`directory`: the state directory of the mount, `mount`: its id. Raises UsageError if its journal can't be used."""
        self.client = client
        self.namespace = namespace
        self.content = content
        self.state = State(directory, settings.keep_saves)
        # A save's own thread makes requests beside each of these: half as many threads as connections use them all.
        io_pool = ThreadPoolExecutor(max(1, client.max_connections // 2), "jobfs-io")
        promote_pool = ThreadPoolExecutor(max(1, client.max_connections // 2), "jobfs-promote")
        body_pool = ThreadPoolExecutor(MOST_HIDING, "jobfs-bodies")
        self.context = Context(
            client, namespace, content, self.state, io_pool, body_pool, promote_pool, mount=mount,
            lifetime=settings.request_lifetime, timeout=settings.timeout, cache_limit=settings.cache_size, server=server,
        )  # fmt: skip
        self.uploader = Uploader(self.context, directory)
        bases = BaseKeeper(self.state, content, namespace)
        self.cleanup = Cleanup(self.context, self.uploader, bases)
        self.replacer = Replacer(self.context, self.uploader, self.cleanup, bases)
        self.items = ItemRequests(self.context, self.replacer, self.cleanup)
        delay = settings.write_back_delay
        self.queue = ChangeQueue(self.context, self.replacer, self.items, delay=delay)
        self.renamer = Renamer(self.context, self.items, self.replacer, self.queue)
        #: What was taken up from the journal at the start, a line each, and what the user has to be told of it.
        self.taken_up: list[str] = []
        self.warnings: list[str] = []
        #: When free memory was returned, and when the listing was made or read last (monotonic seconds).
        self._given_back = self._listed = time.monotonic()
        #: The snapshot that `_process_listing` has seen; before the first listing nothing is known to be gone.
        self._snapshot = 0
        self._threads = [
            Background("jobfs-sync", self._sync_disk, first=_SYNC_EVERY, retry=_SYNC_EVERY),
            # Not in "jobfs-sync": thousands of files may have to go, and what is closed meanwhile is on the disk within a second.
            Background("jobfs-fit", self._trim_cache, first=_SYNC_EVERY, retry=_SYNC_EVERY),
            Background("jobfs-tidy", self._process_listing, first=_TIDY_EVERY, retry=_TIDY_EVERY),
        ]

    def start(self) -> None:
        """Begin background work; `recovery.restore_journal` has been called before."""
        self.queue.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End background work, if it was begun; what is not on the server stays in the journal."""
        for thread in self._threads:
            thread.stop()
        self.queue.stop()
        for thread in self._threads:
            thread.join()
        self.context.stop_threads()
        try:
            self.state.store.sync()  # the next mount may remove an item whose bytes are here
        except FsError as error:
            log.error("%s", error)
        self.state.close()

    def _sync_disk(self) -> float:
        """Sync what was closed to the disk, and repeat closes that found the disk full. Raises FsError(ENOSPC, EIO)."""
        if self.state.store.needs_sync:
            self.state.store.sync()
        if self.state.journal.spare.refill():
            for file in list(self.state.unclosed):
                self.record_closed(file)
                self.queue.schedule(file)
        return _SYNC_EVERY

    def _trim_cache(self) -> float:
        """Bring the content cache under its limit after saves have added to it."""
        self.content.evict_to_limit()
        return _SYNC_EVERY

    def _process_listing(self) -> float:
        """Return free memory, and look at what the last listing has shown. Raises ApiError, FsError(EIO)."""
        now, number = time.monotonic(), self.namespace.snapshot_number
        if now - self._given_back > _GIVE_BACK_EVERY:
            self._given_back = now
            process.trim_memory()
        again = self.context.look_again
        if number != self._snapshot:
            self._listed = now
            self.cleanup.expose_orphans()
            self.cleanup.forget_vanished()
            self.state.saves.expire()
            self.state.journal.prune_tombstones(now - self.context.lifetime * _LIFETIMES)
            self._snapshot = number
        elif now > (again if self._listed < again else self._listed + _LIST_EVERY):
            self._listed = now
            if self.state.journal.has_any_tombstone:
                self.namespace.refresh()
        return _TIDY_EVERY

    # -- what a close and an fsync mean (vfs/semantics.md 4)

    def record_closed(self, file: File) -> None:
        """Record that the File's bytes are closed: they are to be sent (w). Raises FsError(ENOSPC, EIO)."""
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
                self.uploader.count_create(file.path)

    def wait_until_uploaded(self, file: File) -> None:
        """Return when the server has what was written so far (fsync). Raises the error that kept it from that."""
        self.record_closed(file)
        wanted = file.close_count
        while True:
            if file.refused:
                number = errno.EFBIG if file.refused_errno == errno.EFBIG else errno.EIO
                raise FsError(number, f"{file.path} was refused by the server: {file.refused}")
            if not file.is_unsent:
                return
            change = self.queue.change_of(file)
            if change is not None:
                self._run(change, file)
                if change.sent_close_count >= wanted and file.base.id == change.staged_id != "":
                    return  # it is placed; bytes closed since are for another call

    def _run(self, change: Change, file: File) -> None:
        """Run the Change of a File in this thread; where that fails before it has begun, it is due later. Raises as
        `wait_until_uploaded`.
        """
        try:
            self.queue.run_until_finished(change)
        except BaseException:
            self.queue.schedule(file)
            raise

    def quiesce(self, file: File) -> None:
        """Return when no save of this File is half done; one that can't be waited for is begun anew. Raises ApiError, FsError."""
        if file.never_sent:
            return
        if self.namespace.is_unreachable and self.withdraw_save(file):
            self.queue.schedule(file)
        try:
            while (change := file.change) is not None and change.is_in_flight:
                self.queue.run_until_finished(change)
        except UnavailableError:
            if not self.withdraw_save(file):
                raise
            self.queue.schedule(file)

    def withdraw_save(self, file: File) -> bool:
        """Stop a save that was begun, to be taken back later; False if there is none, or it may have set something aside."""
        with file.lock, self.state.lock:
            change = file.change
            if change is None or not change.started or change.is_settled or change.asides:
                return False
            self.state.cancel_change(change, ino=0, base=Base())  # what it was to replace stays
        self.queue.wake()
        return True

    def make_directory(self, path: str) -> Item | None:
        """A new directory on the server; None if the server can't be asked. Raises FsError(EEXIST), ApiError."""
        if self.namespace.is_unreachable:
            return None
        self.uploader.count_create(path)
        try:
            item = self.uploader.try_make_directory(path) or self.replacer.make_new_directory(path)
        except UnavailableError:
            return None
        self.namespace.record_own_change(item)
        return item

    def cancel_save(self, file: File) -> bool:
        """Stop the save of a File that is unlinked (R10). Raises FsError.

        False if the save may have come to the server: it is recorded as cancelled, and its name is hidden until it is taken
        back. Else True: the File keeps its row until the caller has deleted its item, if any, and unnames it.
        """
        with file.lock, self.state.lock:
            change = file.change
            if change is None or not change.started or change.is_settled:
                return True
            if not change.recorded:
                self.state.end_change(change)  # nothing is sent before it has a row: its run ends
                return True
            self.state.cancel_change(change, shows={change.target: None}, remove=[file])
            self.state.unlink_file(file)
        self.queue.wake()
        return False

    def delete_once_fetched(self, item: Item) -> None:
        """Delete an item once its bytes, which are needed here, are on this machine. Raises ApiError, FsError(EIO)."""
        self.client.require_reachable(item.path)
        removal = plan_removal(self.state, item.path, self.context.base_of(item), item)
        try:
            self.state.write(edit(removal), is_new=True)
        except FsError:
            self.state.end_change(removal)
            raise
        self.queue.add_change(removal, 0.0)
