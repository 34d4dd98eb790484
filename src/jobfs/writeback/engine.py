"""WriteBack: what the file system asks of the save protocol, and the one publish step after a save.

Lock order: names held by `Overlay.changing`, inode lock, transaction lock, table locks; none but the first across requests.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jobfs.api import Client
from jobfs.content import ContentStore
from jobfs.errors import FsError, JobfsError, TooLargeError
from jobfs.namespace import Namespace
from jobfs.writeback import disk
from jobfs.writeback.aliases import LeftAliases
from jobfs.writeback.bases import Bases
from jobfs.writeback.direct import Direct
from jobfs.writeback.finisher import Finisher
from jobfs.writeback.hiding import Hiding
from jobfs.writeback.inodes import WHITEOUT, Inode, InodeTable, Overlay
from jobfs.writeback.localbytes import LocalBytes, LocalFile
from jobfs.writeback.memory import Memory
from jobfs.writeback.moves import Moves
from jobfs.writeback.publish import Publisher
from jobfs.writeback.records import (
    Conflict,
    Save,
    SaveKind,
    State,
)
from jobfs.writeback.removal import Removals
from jobfs.writeback.salvage import open_journal
from jobfs.writeback.saver import Saver
from jobfs.writeback.stager import Stager
from jobfs.writeback.transaction import Transaction
from jobfs.writeback.unanswered import Unanswered
from jobfs.writeback.unsent import Place, Unsent
from jobfs.writeback.uploader import Uploader

log = logging.getLogger("jobfs.writeback")

#: So many unsent files are a tree that is copied in, not an editor at work.
_MANY = 16
#: Seconds that closed bytes may wait for their disk sync (semantics.md section 4).
_SYNC_EVERY = 0.5


class WriteBack:
    """One for a mount. Owns the journal, the local bytes, the overlay, and the threads that bring them to the server."""

    def __init__(
        self,
        client: Client,
        namespace: Namespace,
        content: ContentStore,
        directory: Path,
        mount: str,
        *,
        delay: float,
        timeout: float,
        lifetime: float,
        cache_limit: int,
    ) -> None:
        """`directory`: this mount's slot in the state directory. `delay`, `timeout`, `lifetime` in seconds.

        Raises UsageError if the journal can't be used.
        """
        self.client = client
        self.namespace = namespace
        self.content = content
        self.mount = mount
        self.delay = delay
        self.timeout = timeout
        self.lifetime = lifetime
        self.unanswered = Unanswered(lifetime)
        #: What the user has to be told of the journal, "" if all is well.
        self.journal, self.damage = open_journal(directory)
        self.bytes = LocalBytes(directory / "bytes", directory / "trash")
        #: What was taken up from the journal at the start, a line each.
        self.taken_up: list[str] = []
        self.memory = Memory(self.journal)
        self.overlay = Overlay()
        self.table = InodeTable(self.memory.ino)
        self._pool = ThreadPoolExecutor(client.max_connections * 2, thread_name_prefix="jobfs-save")
        self.removals = Removals(self)
        self.hiding = Hiding(self)
        self.unsent = Unsent(self)
        self.aliases = LeftAliases(self)
        self.finisher = Finisher(self)
        self.moves = Moves(self)
        self.stager = Stager(client, self.journal, mount, self.finisher.watch, lifetime)
        self.direct = Direct(client, self.journal, self.stager, mount, directory / "probe", self.background)
        self.publisher = Publisher(self)
        self.bases = Bases(client, content, self.memory, cache_limit)
        self.saver = Saver(
            client,
            self.journal,
            self.stager,
            self.direct,
            self._pool,
            mount,
            sync=self.sync,
            unanswered=self.unanswered,
            placed=self.publisher.placed,
            learn=self.bases.learn_hash,
            fine_clock=content.fine_clock,
        )
        self.uploader = Uploader(self._run, workers=client.max_connections, timeout=timeout)
        self._stopping = threading.Event()
        self._syncer = threading.Thread(target=self._sync_loop, name="jobfs-sync", daemon=True)

    # -- life

    def start(self) -> None:
        """Begin background work; `recovery.restore` has been called before."""
        self.uploader.start()
        self.finisher.start()
        self.aliases.take_up()
        self._syncer.start()

    def stop(self) -> None:
        """End background work; what is not on the server stays in the journal."""
        self._stopping.set()
        with contextlib.suppress(FsError):
            self.hiding.conclude_all()
        self.finisher.stop()
        self.uploader.stop()
        if self._syncer.is_alive():
            self._syncer.join()
        with contextlib.suppress(FsError):
            self.sync()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.journal.close()

    def sync(self) -> None:
        """The protocol's (S): local bytes and journal are on the disk, and what the journal no longer names is removed.

        Raises FsError(EIO).
        """
        self.memory.flush()
        retired = self.bytes.retired()
        safe = {local.generation for local in self.bytes.sync()}
        for work in self.uploader.live() if safe else ():
            with work.lock:
                work.save.synced = work.save.synced or work.save.generation in safe
        if safe:
            self.journal.mark_synced(safe)
        self.journal.sync()
        self.bytes.remove(retired)

    def _sync_loop(self) -> None:
        while not self._stopping.wait(_SYNC_EVERY):
            if self.bytes.unsynced or self.journal.unsynced or self.memory.unwritten:
                try:
                    self.sync()
                except FsError as error:
                    log.error("%s", error)

    def background(self, task: Callable[[], object]) -> None:
        """Run something that nobody waits for; what goes wrong is logged."""

        def guarded() -> None:
            try:
                task()
            except Exception as error:
                log.warning("background work failed: %s", error)

        self._pool.submit(guarded)

    # -- what a close and an fsync mean (semantics.md section 4)

    def seal(self, inode: Inode, place: Place | None = None) -> Transaction | None:
        """Record the file's bytes and the intent to save them, so that they survive this process (w).

        `place`: what it takes the place of, in the same commit, if it is a new save.
        Returns the transaction that will carry them, None if there is nothing to save. Raises FsError(ENOSPC, EIO).
        """
        with inode.lock:
            local = inode.local
            if local is None or inode.local_only or inode.path is None:
                return inode.next or inode.current
            if local.sealed and not inode.written:
                return inode.next or inode.current
            local.synced = False
            self.bytes.seal(local)
            work = self._supersede(inode, local) or self._intend(inode, local, place or Place([]))
            self.bytes.label(local, work.save.target)
            inode.written = False
            return work

    def _supersede(self, inode: Inode, local: LocalFile) -> Transaction | None:
        """Put newer bytes into a save of this file that was not begun yet."""
        work = inode.next or inode.current
        if work is None or not self.uploader.take(work):
            return None
        with work.lock:
            old, work.local = work.local, local.acquire()
            self._describe(work.save, inode, local)
            work.save.refused, work.attempts, work.error = "", 0, None
            try:
                self.journal.write(work.save)
            except FsError:
                # What was recorded before goes on waiting to be sent, and these bytes with it.
                self.uploader.add(work, self.delay)
                raise
        if old is not None:
            self._retire(old, local)
        self.uploader.add(work, self.delay if not inode.handles else 3600.0)
        return work

    def _retire(self, old: LocalFile, new: LocalFile | None) -> None:
        if new is not None and old.generation == new.generation:
            old.close()
        else:
            self.bytes.retire(old)

    def _intend(self, inode: Inode, local: LocalFile, place: Place) -> Transaction:
        save = Save(self.journal.next_seq(), SaveKind.SAVE, inode.path or "", made=time.time())
        self._describe(save, inode, local)
        work = Transaction(save, inode, local.acquire())
        if inode.current is None:
            save.base = inode.base
            work.base_item = inode.item
            inode.current = work
        else:
            inode.next = work
        try:
            self.unsent.take_place(work, place)
        except FsError:
            # Not saved: what is still open, or is drained, tries it again.
            inode.current, inode.next = (None, None) if inode.current is work else (inode.current, None)
            local.close()
            raise
        if inode.item is None and self.uploader.waiting >= _MANY:
            # While they wait the server can be asked how it takes new files.
            self.direct.expect(save.target)
        self.uploader.add(work, self.delay if not inode.handles else 3600.0)
        self.unsent.taken_place(work)
        return work

    def _describe(self, save: Save, inode: Inode, local: LocalFile) -> None:
        save.ino, save.generation, save.size = inode.ino, local.generation, local.size
        save.synced, save.boot = False, disk.BOOT
        save.target = inode.path or save.target
        save.permission = inode.permission
        save.mode, save.uid, save.gid = inode.mode, inode.uid, inode.gid
        save.atime_ns, save.mtime_ns = inode.atime_ns, inode.mtime_ns

    def released(self, inode: Inode) -> None:
        """The last handle that could write was closed: the upload begins after the delay."""
        with inode.lock:
            for work in (inode.current, inode.next):
                if work is not None and not work.settled and not work.attempts:
                    self.uploader.add(work, self.delay)

    def commit(self, inode: Inode) -> None:
        """Return when the server has what was written so far (fsync). Raises what kept it from that."""
        work = self.seal(inode)
        if work is None:
            return
        if work.save.refused:
            number = errno.EFBIG if isinstance(work.error, TooLargeError) else errno.EIO
            raise FsError(number, f"{work.save.target} was refused by the server: {work.save.refused}")
        first = inode.current
        if first is not None and first is not work and not first.settled:
            self.uploader.commit(first)
        self.uploader.commit(work)

    # -- running

    def _run(self, work: Transaction) -> None:
        """Take one transaction as far as it goes now."""
        if work.save.state in (State.STAGING, State.STAGED):
            try:
                self.saver.run(work)
            except JobfsError:
                if work.save.refused:
                    self.publisher.refused(work)
                if work.save.kind is SaveKind.RENAME and work.save.refused:
                    # Undone: both files are where they were, nothing is left to retry.
                    self.moves.forget(work)
                raise
        if work.save.state is State.CANCELLED:
            self.finisher.cancel(work)
        elif work.save.state is State.PROMOTED:
            self.finisher.add(work)

    # -- what is under way, and what has come of it

    def settle(self, inode: Inode) -> None:
        """Return when no save of this file is half done on the server. Raises ApiError if that can't be reached."""
        while (work := inode.current) is not None and not work.untouched:
            if work.save.refused:
                return
            self.uploader.commit(work)

    def send(self, inode: Inode) -> None:
        """Return when the server has all of this file that was closed, but what it refused. Raises ApiError, FsError."""
        while (work := inode.current) is not None and not work.save.refused:
            self.uploader.commit(work)

    def uncover(self, path: str) -> None:
        """Show the server's word at a name that was a hole here, unless something else still keeps it one.

        That is a file which was unlinked there while it was saved, or one whose alias has its name.
        """
        leaving = any(
            work.save.target == path and work.save.state is State.CANCELLED for work in self.uploader.live()
        )
        if not leaving and not self.removals.aliased(path):
            self.overlay.remove(path, WHITEOUT)

    def replaced(self, work: Transaction) -> None:
        """What this transaction has set aside is not at its name any more."""
        for taken in work.taken:
            self.namespace.forget(taken)
        # Of a set-aside whose answer was lost only the record tells.
        self.removals.replaced(
            {aside.id for aside in work.asides if aside.moved} | {i.id for i in work.taken}
        )

    def conflicts(self) -> list[Conflict]:
        """Kept second versions that are still there; those that a person has dealt with are forgotten."""
        kept: list[Conflict] = []
        gone: list[Conflict] = []
        for conflict in self.journal.load(Conflict):
            (kept if self.namespace.peek(conflict.path) is not None else gone).append(conflict)
        if gone:
            self.journal.write(gone=gone)
        return kept
