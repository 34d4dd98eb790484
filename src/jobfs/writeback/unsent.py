"""Saves that were not begun: they get another name, wait a little longer, or are dropped (semantics.md section 4, R10)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from jobfs.errors import FsError, JobfsError
from jobfs.nodes import Item
from jobfs.writeback.inodes import Inode
from jobfs.writeback.records import Aside, Base, Fate, Record, Save, State
from jobfs.writeback.transaction import Transaction

if TYPE_CHECKING:
    from jobfs.writeback.engine import WriteBack


log = logging.getLogger("jobfs.writeback")


class Place(NamedTuple):
    """What a file takes the place of with the name that it gets, all in the one journal write that says so.

    `dropped`: saves of the file that had the name, not begun. `hidden`: an open one that libfuse hid there just before.
    `gone`: records that name what is no more.
    """

    dropped: list[Transaction]
    hidden: Transaction | None = None
    gone: tuple[Record, ...] = ()


class Unsent:
    """For who renames, replaces or unlinks a file before the server has it; the caller holds its names."""

    def __init__(self, engine: WriteBack) -> None:
        self._engine = engine

    def take_place(self, work: Transaction, place: Place) -> None:
        """Record `work` and what it takes the place of. Nobody may run it yet; once it is queued: `taken_place`.

        Raises FsError(ENOSPC, EIO); then it is as it was.
        """
        hidden, gone, asides = place.hidden, list(place.gone), list[Aside]()
        if hidden is not None:
            asides = [replace(aside, seq=work.save.seq, fate=Fate.JUDGE) for aside in hidden.asides]
            gone.append(hidden.save)
            if work.local is not None:
                # Not by engine.sync: that takes the locks of other saves.
                self._engine.bytes.sync_now(work.local)
                work.save.synced = True
        self.drop(place.dropped, work.save, *asides, gone=gone)
        if hidden is None:
            return
        hidden.asides.clear()
        work.asides += asides
        work.taken += hidden.taken
        try:
            # As before any set-aside (S): without power the old record would bring it back beside what has its place.
            self._engine.journal.sync()
        except FsError as error:
            log.error("%s", error)

    def taken_place(self, work: Transaction) -> None:
        """The queue has `work` now, and explains what it took over."""
        self._engine.removals.passed_on(work.asides)

    def retarget(
        self, inode: Inode, target: str, base: Base, base_item: Item | None, place: Place | None = None
    ) -> None:
        """Give a file whose save has not begun another name. The caller holds both names, and keeps it from beginning.

        Raises FsError(ENOSPC, EIO); then nothing was changed. Without a `place` the server has it there already: then what
        can't be written now is written with the next step of its save.
        """
        with inode.lock:
            work = inode.current
            if work is not None:
                save = work.save
                was = save.target, save.base, save.refused, work.base_item
                save.target, save.base, save.refused, work.base_item = target, base, "", base_item
                try:
                    if place is None:
                        self._engine.journal.write(save)
                    else:
                        self.take_place(work, place)
                        self.taken_place(work)
                except FsError as error:
                    if place is not None:
                        save.target, save.base, save.refused, work.base_item = was
                        raise
                    log.warning("%s: its new name is not recorded: %s", target, error)
            inode.path, inode.base = target, base

    def reinstate(self, inode: Inode, dropped: list[Transaction]) -> None:
        """What was to be saved and was dropped by `cancel` waits to be sent again; no record of it was removed."""
        with inode.lock:
            for work in reversed(dropped):
                assert work.inode is inode
                if inode.current is None:
                    inode.current = work
                else:
                    inode.next = work
                self._engine.uploader.add(work, self._engine.delay)
        dropped.clear()

    @contextlib.contextmanager
    def resting(self, inode: Inode) -> Iterator[bool]:
        """Keep the save of a file that the server does not have from beginning meanwhile; False if it has begun or ended."""
        with inode.lock:
            work, unsent = inode.current, inode.local is not None
        if work is None:
            yield unsent
            return
        with self._engine.uploader.resting(work) as still:
            yield still

    def cancel(self, inode: Inode, *, delete: bool = False, dropped: list[Transaction] | None = None) -> bool:
        """Unlink of a file with unsent bytes (R10): True if the server never heard of them and nothing is left to do.

        `delete`: the version that they were to replace is deleted too; once recorded, it is done now if the server answers,
        else in the background. `dropped` gets the saves that were not begun: the caller removes them with what takes
        their place (`drop`); without it they are removed here.
        """
        refused: list[tuple[Save, str, int]] = []
        with inode.lock:
            gone: list[Transaction] = []
            planned: Transaction | None = None
            never_sent = True
            try:
                for work in (inode.next, inode.current):
                    if work is None or work.settled:
                        continue
                    if self._engine.uploader.take(work):
                        if not (delete and work is inode.current and work.save.base.id):
                            (gone if dropped is None else dropped).append(work)
                            continue
                        planned = work
                    with work.lock:
                        if work.settled:
                            continue
                        # Queued first: once it is cancelled, whoever runs it may hand it on to the finisher.
                        work.attempts = 0
                        self._engine.uploader.add(work, 3600.0 if work is planned else 0.0)
                        # What refused the save does not stop its end from being tried again.
                        refused.append((work.save, work.save.refused, work.save.refused_errno))
                        work.save.refused, work.save.refused_errno = "", 0
                        self.drop(gone, work.save.as_of(State.CANCELLED))
                        work.save.become(State.CANCELLED)
                    never_sent = False
                self.drop(gone)
            except FsError:
                # The caller is told that the file stays: it goes on being saved.
                for save, reason, code in refused:
                    if save.state is not State.CANCELLED:
                        save.refused, save.refused_errno = reason, code
                for work in (*gone, *(dropped or ()), *((planned,) if planned else ())):
                    self._engine.uploader.add(work, self._engine.delay)
                raise
            inode.current = inode.next = None
            inode.path = None
        if planned is not None:
            try:
                self._engine.uploader.commit(planned)
            except JobfsError:
                self._engine.uploader.add(planned, 1.0)
        return never_sent

    def drop(self, works: list[Transaction], *records: Record, gone: Iterable[Record] = ()) -> None:
        """Forget saves that were not begun (and empty the list), write `records` and remove `gone`, in one journal write.

        Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        for work in works:
            if work.local is not None:
                self._engine.bytes.unlabel(work.local)
        removed = [*(work.save for work in works), *gone]
        try:
            if removed or records:
                self._engine.journal.write(*records, gone=removed)
        except FsError:
            for work in works:
                if work.local is not None:
                    self._engine.bytes.label(work.local, work.save.target)
            raise
        self.forget(works)

    def forget(self, works: list[Transaction]) -> None:
        """Forget saves (and empty the list) that the journal does not name any more."""
        for work in works:
            self.let_go(work)
            # Who waits for it to be sent waits no more.
            work.save.become(State.DONE)
            self._engine.uploader.remove(work)
        works.clear()

    def let_go(self, work: Transaction) -> None:
        """A save is given up: its bytes are no longer needed, unless its file has got a name of this machine only with them."""
        local, work.local = work.local, None
        if local is None:
            return
        if work.inode is not None and work.inode.local_only and work.inode.local is local:
            local.close()
        else:
            self._engine.bytes.retire(local)
