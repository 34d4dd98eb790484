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
from jobfs.save.bases import Bases
from jobfs.save.cleanup import Cleanup
from jobfs.save.context import Context
from jobfs.save.items import ItemRequests, removal_of
from jobfs.save.queue import MOST_HIDING, Queue
from jobfs.save.rename import Rename
from jobfs.save.replace import Replace
from jobfs.save.upload import Upload
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
        self.upload = Upload(self.context, directory)
        bases = Bases(self.state, content, namespace)
        self.cleanup = Cleanup(self.context, self.upload, bases)
        self.replace = Replace(self.context, self.upload, self.cleanup, bases)
        self.items = ItemRequests(self.context, self.replace, self.cleanup)
        delay = settings.write_back_delay
        self.queue = Queue(self.context, self.replace, self.items, delay=delay)
        self.rename = Rename(self.context, self.items, self.replace, self.queue)
        #: What was taken up from the journal at the start, a line each, and what the user has to be told of it.
        self.taken_up: list[str] = []
        self.warnings: list[str] = []
        #: When free memory was returned, and when the listing was made or read last (monotonic seconds).
        self._given_back = self._listed = time.monotonic()
        #: The snapshot that `_tidy` has seen; before the first listing nothing is known to be gone.
        self._snapshot = 0
        self._threads = [
            Background("jobfs-sync", self._sync, first=_SYNC_EVERY, retry=_SYNC_EVERY),
            # Not in "jobfs-sync": thousands of files may have to go, and what is closed meanwhile is on the disk within a second.
            Background("jobfs-fit", self._fit, first=_SYNC_EVERY, retry=_SYNC_EVERY),
            Background("jobfs-tidy", self._tidy, first=_TIDY_EVERY, retry=_TIDY_EVERY),
        ]

    def start(self) -> None:
        """Begin background work; `recovery.restore` has been called before."""
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
        self.context.stop()
        try:
            self.state.store.sync()  # the next mount may remove an item whose bytes are here
        except FsError as error:
            log.error("%s", error)
        self.state.close()

    def _sync(self) -> float:
        """Sync what was closed to the disk, and repeat closes that found the disk full. Raises FsError(ENOSPC, EIO)."""
        if self.state.store.unsynced:
            self.state.store.sync()
        if self.state.journal.spare.restore():
            for file in list(self.state.unclosed):
                self.seal(file)
                self.queue.save(file)
        return _SYNC_EVERY

    def _fit(self) -> float:
        """Bring the content cache under its limit after saves have added to it."""
        self.content.fit()
        return _SYNC_EVERY

    def _tidy(self) -> float:
        """Return free memory, and look at what the last listing has shown. Raises ApiError, FsError(EIO)."""
        now, number = time.monotonic(), self.namespace.snapshot_number
        if now - self._given_back > _GIVE_BACK_EVERY:
            self._given_back = now
            process.give_back()
        again = self.context.look_again
        if number != self._snapshot:
            self._listed = now
            self.cleanup.expose_orphans()
            self.cleanup.forget_vanished()
            self.state.saves.expire()
            self.state.journal.prune(now - self.context.lifetime * _LIFETIMES)
            self._snapshot = number
        elif now > (again if self._listed < again else self._listed + _LIST_EVERY):
            self._listed = now
            if self.state.journal.has_tombstones:
                self.namespace.refresh()
        return _TIDY_EVERY

    # -- what a close and an fsync mean (vfs/semantics.md 4)

    def seal(self, file: File) -> None:
        """Record that the File's bytes are closed: they are to be sent (w). Raises FsError(ENOSPC, EIO)."""
        with file.lock:
            local, new = file.local, not (file.generation or file.base.id)
            self.state.unclosed.discard(file)
            if local is None or file.path is None or not (file.shared and file.written):
                return
            try:
                self.state.store.close(file, local, refused="")
            except FsError:
                self.state.unclosed.add(file)
                raise
            if new:
                self.upload.count_new(file.path)

    def commit(self, file: File) -> None:
        """Return when the server has what was written so far (fsync). Raises the error that kept it from that."""
        self.seal(file)
        wanted = file.closes
        while True:
            if file.refused:
                number = errno.EFBIG if file.refused_errno == errno.EFBIG else errno.EIO
                raise FsError(number, f"{file.path} was refused by the server: {file.refused}")
            if not file.unsent:
                return
            change = self.queue.change_of(file)
            if change is not None:
                self._run(change, file)
                if change.closes >= wanted and file.base.id == change.staged_id != "":
                    return  # it is placed; bytes closed since are for another call

    def _run(self, change: Change, file: File) -> None:
        """Run the Change of a File in this thread; where that fails before it has begun, it is due later. Raises as `commit`."""
        try:
            self.queue.commit(change)
        except BaseException:
            self.queue.save(file)
            raise

    def bring_to_rest(self, file: File) -> None:
        """Return when no save of this File is half done; one that can't be waited for is begun anew. Raises ApiError, FsError."""
        if file.stays:
            return
        if self.namespace.unreachable and self.withdraw(file):
            self.queue.save(file)
        try:
            while (change := file.change) is not None and change.going:
                self.queue.commit(change)
        except UnavailableError:
            if not self.withdraw(file):
                raise
            self.queue.save(file)

    def withdraw(self, file: File) -> bool:
        """Stop a save that was begun, to be taken back later; False if there is none, or it may have set something aside."""
        with file.lock, self.state.lock:
            change = file.change
            if change is None or not change.begun or change.settled or change.asides:
                return False
            self.state.cancel(change, ino=0, base=Base())  # what it was to replace stays
        self.queue.wake()
        return True

    def make_directory(self, path: str) -> Item | None:
        """A new directory on the server; None if the server can't be asked. Raises FsError(EEXIST), ApiError."""
        if self.namespace.unreachable:
            return None
        self.upload.count_new(path)
        try:
            item = self.upload.make_directory(path) or self.replace.make(path)
        except UnavailableError:
            return None
        self.namespace.publish(item)
        return item

    def cancel(self, file: File) -> bool:
        """Stop the save of a File that is unlinked (R10). Raises FsError.

        False if the save may have come to the server: it is recorded as cancelled, and its name is hidden until it is taken
        back. Else True: the File keeps its row until the caller has deleted its item, if any, and unnames it.
        """
        with file.lock, self.state.lock:
            change = file.change
            if change is None or not change.begun or change.settled:
                return True
            if not change.recorded:
                self.state.end(change)  # nothing is sent before it has a row: its run ends
                return True
            self.state.cancel(change, shows={change.target: None}, gone=[file])
            self.state.unname(file)
        self.queue.wake()
        return False

    def remove_later(self, item: Item) -> None:
        """Delete an item once its bytes, which are needed here, are on this machine. Raises ApiError, FsError(EIO)."""
        self.client.reach(item.path)
        removal = removal_of(self.state, item.path, self.context.base_of(item), item)
        try:
            self.state.write(edit(removal), new=True)
        except FsError:
            self.state.end(removal)
            raise
        self.queue.add(removal, 0.0)
