"""Publish: the one place where a save that reached its target becomes known to inodes, namespace, memory and content cache."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from jobfs.nodes import Item
from jobfs.writeback.inodes import Inode
from jobfs.writeback.records import Base, Remembered, State
from jobfs.writeback.transaction import Cancelled, Transaction

if TYPE_CHECKING:
    from jobfs.writeback.engine import WriteBack


class Publisher:
    """One for a mount. Lock order: inode, then transaction."""

    def __init__(self, engine: WriteBack) -> None:
        self._engine = engine

    def placed(self, work: Transaction, before: Item | None, item: Item, adopted: bool) -> None:
        """Write `promoted` to the journal and tell everybody. Raises Cancelled, FsError(ENOSPC, EIO).

        `before`: the item before its last move; `adopted`: `item` is promote's own answer (R2).
        """
        engine, inode = self._engine, work.inode
        if inode is None:
            self._placed_item(work, before if adopted else None, item)
            return
        local = work.local if adopted else None
        # What has to be copied is copied before the locks are taken: readers wait for them.
        with (
            engine.content.near(local.path) if local else contextlib.nullcontext() as saved,
            inode.lock,
            work.lock,
        ):
            if work.save.state is State.CANCELLED:
                raise Cancelled
            save = work.save
            record = Remembered(
                item.id, inode.ino, save.mode, item.permission, save.uid, save.gid,
                save.atime_ns, save.mtime_ns, item.updated_at, save.sha256 if adopted else "", inode.ctime_ns,
                save.sha256,
            )  # fmt: skip
            handed_over = engine.memory.handing_over(inode.ino, save.base.id, item.id)
            following = inode.next
            base = Base(item.id, item.updated_at if adopted else "", save.size, save.sha256, young=True)
            if following is not None:
                following.save.base, following.base_item = base, None
            engine.journal.write(
                save.as_of(State.PROMOTED), record, *handed_over, *([following.save] if following else [])
            )
            save.become(State.PROMOTED)
            engine.memory.learn(record)
            inode.current, inode.next = following, None
            inode.item, inode.base = item, base
            self._publish(work, item)
            # Only now: who still has the version before looks again, and finds this one.
            engine.memory.handed_over(save.base.id, handed_over)
            if inode.local is not None and inode.local.generation == save.generation and not inode.written:
                self._clean(inode, item, adopted)
            if saved is not None:
                # After the handles have opened the version: even one that is too young to be kept serves them.
                engine.content.adopt(item, saved)
        if following is not None:
            engine.uploader.add(
                following, engine.delay if not inode.handles else following.due - time.monotonic()
            )

    def refused(self, work: Transaction) -> None:
        """A save was refused for good: a newer one of the same file takes its place. Raises FsError(ENOSPC, EIO)."""
        engine, inode = self._engine, work.inode
        if inode is None:
            return
        with inode.lock, work.lock:
            following = inode.next
            if following is None or inode.current is not work or work.save.state is not State.STAGING:
                return
            following.save.base, following.base_item = work.save.base, work.base_item
            if work.local is not None:
                engine.bytes.unlabel(work.local)
            engine.journal.write(following.save, gone=[work.save])
            work.save.become(State.DONE)
            inode.current, inode.next = following, None
            local, work.local = work.local, None
        if local is not None:
            engine.bytes.retire(local)
        engine.uploader.remove(work)

    def _clean(self, inode: Inode, item: Item, adopted: bool) -> None:
        """Everything written is on the server: handles go on with the version that was saved."""
        local = inode.local
        assert local is not None
        for handle in inode.handles:
            if handle.content is not None:
                handle.content.close()
            handle.content = self._engine.content.open(item) if adopted else local.acquire()
            handle.item = handle.seen = item
            handle.young = True
        inode.local = None
        local.close()
        if inode.path is not None:
            self._engine.overlay.remove(inode.path, inode)
        if not inode.handles:
            self._engine.table.drop(inode)

    def _placed_item(self, work: Transaction, before: Item | None, item: Item) -> None:
        with work.lock:
            if work.save.state is State.CANCELLED:
                raise Cancelled
            self._engine.journal.write(work.save.as_of(State.PROMOTED))
            work.save.become(State.PROMOTED)
        if before is not None:
            self._engine.bases.carry(before, item)
        self._publish(work, item)

    def _publish(self, work: Transaction, item: Item) -> None:
        self._engine.replaced(work)
        self._engine.namespace.publish(item)
