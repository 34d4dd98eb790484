"""After `promoted`, and after `cancelled`: what was set aside is judged, hidden items that no record explains are exposed.

One background thread; nobody waits for it (R7): what it has not done stays in the journal for the next mount.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from jobfs import names
from jobfs.content import Content
from jobfs.errors import ApiError, FsError, JobfsError, NotFoundError
from jobfs.namespace.overlay import shown
from jobfs.nodes import Item
from jobfs.writeback.digest import with_bytes
from jobfs.writeback.judge import Judge
from jobfs.writeback.records import Base, SaveKind, State
from jobfs.writeback.strays import Strays
from jobfs.writeback.transaction import Transaction

if TYPE_CHECKING:
    from jobfs.writeback.engine import WriteBack

log = logging.getLogger("jobfs.writeback")

_RETRY = 2.0
_LOOK_EVERY = 1.0


class Finisher:
    """Ends transactions. `cancel` may be called from any thread, the rest runs in its own."""

    def __init__(self, engine: WriteBack) -> None:
        self._engine = engine
        self._judge = Judge(
            engine.client,
            engine.journal,
            lifetime=engine.lifetime,
            spare=self._spare,
            part=self._part,
            publish=engine.namespace.publish,
            forget=self._forget,
        )
        self.strays = Strays(
            engine.client,
            self._judge,
            tombstone=engine.journal.tombstone,
            publish=engine.namespace.publish,
            forget=self._forget,
        )
        self._turn = threading.Condition()
        self._open: dict[int, tuple[float, Transaction]] = {}
        self._watched: list[tuple[float, str]] = []
        self._stopping = False
        self._seen = -1
        self._thread = threading.Thread(target=self._loop, name="jobfs-finisher", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; what is open stays in the journal."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, work: Transaction) -> None:
        """A transaction was promoted: judge what it set aside."""
        with self._turn:
            self._open[work.save.seq] = (0.0, work)
            self._turn.notify_all()

    def idle(self, timeout: float) -> bool:
        """Wait until nothing is left that could be done now; False if `timeout` seconds were not enough."""
        deadline = time.monotonic() + timeout
        with self._turn:
            while any(due <= time.time() for due, _ in self._open.values()):
                self._turn.wait(min(max(deadline - time.monotonic(), 0.0), 0.2))
                if time.monotonic() >= deadline:
                    return False
        return True

    @property
    def due(self) -> int:
        """How many transactions could be ended now."""
        with self._turn:
            return sum(when <= time.time() for when, _ in self._open.values())

    def ended(self, timeout: float) -> bool:
        """Wait until every transaction has ended, those too that have to wait (R7); False after `timeout` seconds."""
        with self._turn:
            return self._turn.wait_for(lambda: not self._open, timeout)

    def _loop(self) -> None:
        while True:
            with self._turn:
                if self._stopping:
                    return
                now = time.time()
                due = [work for when, work in self._open.values() if when <= now]
                if not due:
                    self._turn.wait(_LOOK_EVERY)
            try:
                if due:
                    self._finish_all(due)
                else:
                    self._tidy(now)
            except JobfsError as error:
                log.info("what is left over is looked at again later: %s", error)
                self._pause()
            except Exception:
                log.exception("what is left over could not be looked at")
                self._pause()

    def _pause(self) -> None:
        self._seen = -1
        with self._turn:
            if not self._stopping:
                self._turn.wait(_RETRY)

    def _tidy(self, now: float) -> None:
        """What no transaction waits for; each in its turn, however often a listing brings work for the others."""
        if self._engine.namespace.snapshot_number != self._seen:
            self._seen = self._engine.namespace.snapshot_number
            self._expose_strays()
        if self._watched and self._watched[0][0] <= now:
            self._remove_late()
        if self._engine.removals.due:
            self._engine.removals.sweep()
        self._engine.aliases.take_up()

    def _finish_all(self, batch: list[Transaction]) -> None:
        try:
            # `promoted` is on the disk before local bytes go and before the first delete (R3).
            self._engine.sync()
        except FsError as error:
            log.error("%s", error)
            self._again(batch, time.time() + _RETRY)
            return
        for work in batch:
            if self._stopping:
                return
            try:
                self._finish(work)
            except JobfsError as error:
                log.info("%s: what was set aside is judged later: %s", work.save.target, error)
                self._again([work], time.time() + _RETRY)
            except Exception:
                log.exception("%s: judging failed in an unexpected way", work.save.target)
                self._again([work], time.time() + 60.0)

    def _again(self, batch: list[Transaction], when: float) -> None:
        with self._turn:
            for work in batch:
                self._open[work.save.seq] = (when, work)
            self._turn.notify_all()

    def _finish(self, work: Transaction) -> None:
        if work.local is not None:
            local, work.local = work.local, None
            self._engine.bytes.retire(local)
        if self._settle_asides(work):
            self._done(work)
        else:
            self._again([work], min(aside.unsure_until for aside in work.asides))

    def _settle_asides(self, work: Transaction) -> bool:
        """Judge each aside; True if none is left."""
        for aside in list(work.asides):
            if self._judge.settle(aside, work.save.target, work.save.base, work.save.sha256):
                self._engine.journal.write(gone=[aside])
                work.asides.remove(aside)
            elif aside.unsure_until <= time.time():
                aside.unsure_until = time.time() + _RETRY
        return not work.asides

    def _done(self, work: Transaction) -> None:
        with work.lock:
            self._engine.journal.write(gone=[work.save])
            work.save.become(State.DONE)
        with self._turn:
            self._open.pop(work.save.seq, None)
            self._turn.notify_all()
        self._engine.uploader.remove(work)

    # -- cancelled

    def cancel(self, work: Transaction) -> None:
        """Take back a save whose file was unlinked (R10). Raises ApiError to be called again."""
        engine, save = self._engine, work.save
        engine.sync()
        if save.kind in (SaveKind.SAVE, SaveKind.MKDIR):
            for item in self._staged(work):
                self._remove(item)
        if save.direct and (own := engine.direct.find(work)) is not None:
            self._remove(own)
        if save.kind is SaveKind.SAVE and save.base.id and not engine.removals.aliased(save.target):
            # Before it is looked at: the job may write to it as long as that takes.
            self._spare(save.base.id)
            there = shown(engine.client.find(save.target))
            if there is not None and self._is_base(there, save.base):
                self._remove(there)
        engine.replaced(work)
        with work.inode.lock if work.inode is not None else contextlib.nullcontext():
            engine.unsent.let_go(work)
        if self._settle_asides(work):
            self._done(work)
        else:
            # From here on it is the finisher's alone: the name is free for the next save.
            self.add_later(work)
            engine.uploader.remove(work)
        if save.kind is SaveKind.SAVE:
            engine.uncover(save.target)

    def add_later(self, work: Transaction) -> None:
        """Judge the asides of a cancelled transaction when their time has come (R7)."""
        self._again([work], min((aside.unsure_until for aside in work.asides), default=0.0))

    def _staged(self, work: Transaction) -> list[Item]:
        save, engine = work.save, self._engine
        if save.staged_id:
            try:
                item = engine.client.get(save.staged_id)
            except NotFoundError:
                return []
            return [item] if work.is_staged(item) or self._is_placed(work, item) else []
        if not save.tid:
            return []
        return engine.client.find(names.hidden_path(save.target, engine.mount, save.tid, names.Role.STAGED))

    def _is_placed(self, work: Transaction, item: Item) -> bool:
        """True if H was promoted unseen and the job has not written to it since; a directory may hold what the job put there."""
        return work.save.kind is SaveKind.SAVE and self._has(item, work.save.sha256)

    def _has(self, item: Item, digest: str) -> bool:
        return with_bytes(self._engine.client, item, digest) is not None

    def _is_base(self, item: Item, base: Base) -> bool:
        if item.id != base.id:
            return False
        proof = not (base.young and base.sha256) or self._engine.content.fine_clock(base.updated_at)
        if proof and item.updated_at == base.updated_at and item.size == base.size:
            return True
        # Of a version of ours whose answer was lost, or that was moved with its directory, only the bytes are known (R2).
        return bool(base.sha256) and self._has(item, base.sha256)

    def _remove(self, item: Item) -> None:
        self._spare(item.id)
        with contextlib.suppress(NotFoundError):
            self._engine.client.delete(item.id, once=True)
        self._forget(item)

    def _forget(self, item: Item) -> None:
        """The item is gone from the server."""
        self._engine.namespace.forget(item)
        self._engine.memory.lose(item.id)

    # -- bytes that are still needed here

    def _spare(self, item_id: str) -> None:
        """Before an item is deleted: open handles get its bytes onto this machine. Raises ApiError."""
        for inode in self._engine.table.all():
            for handle in list(inode.handles):
                content = handle.content
                if handle.item is not None and handle.item.id == item_id and isinstance(content, Content):
                    content.fetch()
        self._part(item_id)

    def _part(self, item_id: str) -> None:
        """Before an item gets another name: its aliases get its bytes. Raises ApiError."""
        self._engine.removals.spare(item_id)
        self._engine.aliases.spare(item_id)

    # -- creates that were given up and may still have been carried out

    def watch(self, path: str) -> None:
        """Look at this hidden path once a create at it can't be carried out any more, and delete what it made."""
        now, lifetime = time.time(), self._engine.lifetime
        self._watched = sorted([*self._watched, (now + lifetime, path), (now + 4 * lifetime, path)])

    def _remove_late(self) -> None:
        _, path = self._watched.pop(0)
        parts = names.parse_hidden(names.basename(path))
        try:
            for item in self._engine.client.find(path):
                if parts is not None and not {item.id, parts.transaction} & self._known():
                    self._remove(item)
        except ApiError as error:
            log.info("%s: looked at again later: %s", path, error)
            self.watch(path)

    # -- hidden items that no record explains (R4)

    def _expose_strays(self) -> None:
        for item in self._engine.namespace.hidden():
            parts = names.parse_hidden(names.basename(item.path))
            if parts is None or parts.mount != self._engine.mount:
                continue
            try:
                self.strays.expose(item, self.explained)
            except ApiError as error:
                log.info("%s: looked at again later: %s", item.path, error)
                self._seen = -1

    def explained(self, item: Item, parts: names.HiddenName) -> bool:
        """True if an open record of this mount knows this hidden item."""
        return bool({item.id, parts.transaction} & self._known())

    def _known(self) -> set[str]:
        """Ids of items and attempts that open records explain."""
        known = self._engine.removals.known() | self._engine.stager.making()
        for work in [*self._engine.uploader.live(), *(work for _, work in list(self._open.values()))]:
            known |= {work.save.tid, work.save.staged_id}
            for aside in work.asides:
                known.add(aside.id)
        return known
