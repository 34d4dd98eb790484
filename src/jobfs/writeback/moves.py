"""Changes of items on the server that the caller waits for: made, moved, re-keyed, given another permission."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from jobfs import names
from jobfs.errors import (
    REFUSALS,
    AnswerLostError,
    BadRequestError,
    FsError,
    JobfsError,
    NoDirectoryError,
    NoSpaceError,
    NotFoundError,
    UnavailableError,
)
from jobfs.nodes import Item, Lifecycle, Permission
from jobfs.writeback.journal import Journal
from jobfs.writeback.records import (
    Base,
    Fate,
    LocalEntry,
    Remembered,
    Removed,
    Renaming,
    Save,
    SaveKind,
    State,
)
from jobfs.writeback.transaction import Transaction
from jobfs.writeback.unsent import Place

if TYPE_CHECKING:
    from jobfs.writeback.engine import WriteBack


log = logging.getLogger("jobfs.writeback")

#: Most items that are asked whether they moved along with their directory.
_ASKED = 3


class Moves:
    """Synchronous changes; each raises ApiError, with the errno that the caller gets (semantics.md section 5)."""

    def __init__(self, engine: WriteBack) -> None:
        self._engine = engine
        #: Whether this server moves what is in a directory along with it; None: not known.
        self._carries: bool | None = None

    def make_directory(self, path: str, mode: int, uid: int, gid: int) -> Item:
        """A new directory at `path`, made hidden and promoted unless it is safe to make it there (R9).

        Raises FsError(EEXIST), ApiError.
        """
        item = self._engine.direct.make_directory(path, Permission.READ_WRITE)
        if item is not None:
            self._engine.namespace.publish(item)
        else:
            item = self._make_hidden(path)
        if (mode, uid, gid) != (-1, -1, -1):
            self._engine.memory.store(Remembered(item.id, 0, mode, item.permission, uid, gid))
        return item

    def _make_hidden(self, path: str) -> Item:
        save = Save(self._engine.journal.next_seq(), SaveKind.MKDIR, path, made=time.time())
        work = Transaction(save)
        self._engine.journal.write(save)
        self._engine.uploader.add(work, 3600.0)
        try:
            self._engine.uploader.commit(work)
        except JobfsError:
            self.abandon(work)
            raise
        assert work.item is not None
        return work.item

    def abandon(self, work: Transaction) -> None:
        """The caller was told that it failed: what was begun is taken back, in the background if need be."""
        with work.lock:
            if work.save.state in (State.STAGING, State.STAGED):
                for aside in work.asides:
                    aside.fate = Fate.RETURN
                try:
                    self._engine.journal.write(work.save.as_of(State.CANCELLED), *work.asides)
                except FsError as error:
                    # The record ends with the transaction, once there is space.
                    log.warning("%s: that it is taken back is not recorded: %s", work.save.target, error)
                work.save.become(State.CANCELLED)
        work.attempts = 0
        self._engine.uploader.add(work, 0.0)

    def move_over(
        self,
        item: Item,
        target: str,
        base: Base,
        shown: Item | None = None,
        hidden: Transaction | None = None,
    ) -> Item:
        """Move an item over whatever stands at `target` (semantics.md section 4, rename). Raises ApiError.

        `shown`: the item that this mount shows there, which makes `base`.
        `hidden`: an open file that libfuse hid from `target` just before; its aside becomes this transaction's.
        """
        save = Save(
            self._engine.journal.next_seq(),
            SaveKind.RENAME,
            target,
            State.STAGED,
            source=item.path,
            made=time.time(),
        )
        save.staged_id, save.staged_updated_at, save.base = item.id, item.updated_at, base
        work = Transaction(save)
        work.item, work.base_item = item, shown
        self._engine.unsent.take_place(work, Place([], hidden))
        self._engine.uploader.add(work, 3600.0)
        self._engine.unsent.taken_place(work)
        try:
            self._engine.uploader.commit(work)
        except JobfsError as error:
            moved = work.item is not None and work.item.path == target
            begun = moved or work.unsure or any(aside.moved for aside in work.asides)
            refused = isinstance(error, (*REFUSALS, NoSpaceError)) or (
                isinstance(error, FsError) and not begun
            )
            if work.save.state is State.DONE:
                self.forget(work)
            elif refused:
                # Not even what was set aside could be put back.
                self.abandon(work)
            else:
                # It may have been done: it goes on.
                self._engine.uploader.add(work, 1.0)
            raise
        assert work.item is not None
        return work.item

    def forget(self, work: Transaction) -> None:
        """A rename that was undone leaves no record; its undoing has removed that already."""
        self._engine.uploader.remove(work)

    def move(self, item: Item, target: str) -> Item:
        """Move an item to a free name with one request. Raises PathExistsError, ApiError (semantics.md section 5)."""
        answered = True
        for _ in range(3):
            try:
                answer = self._engine.client.update(item.id, path=target)
            except AnswerLostError:
                self._engine.unanswered.note(item.id)
                answered = False
                answer = self._engine.client.get(item.id)
                if answer.path != target:
                    continue
            except NoDirectoryError:
                self._engine.stager.make_directory(names.parent(target))
                continue
            if answered:
                # Else the job may have written to it between the move and the look (R2).
                self._engine.bases.carry(item, answer)
            self._engine.namespace.publish(answer)
            return answer
        raise UnavailableError(f"the answers to moving {item.path} are lost", endpoint="update")

    def change(
        self, item: Item, permission: Permission | None = None, lifecycle: Lifecycle | None = None
    ) -> Item:
        """Change an item's permission or lifecycle on the server. Raises ApiError."""
        client = self._engine.client
        answered = True
        try:
            answer = client.update(item.id, permission=permission, lifecycle=lifecycle)
        except AnswerLostError:
            answered = False
            answer = client.get(item.id)
            if answer.permission is not (permission or answer.permission) or answer.lifecycle is not (
                lifecycle or answer.lifecycle
            ):
                answer = client.update(item.id, permission=permission, lifecycle=lifecycle)
        if answered:
            self._engine.bases.carry(item, answer)
        self._engine.namespace.publish(answer)
        return answer

    def rename_directory(self, item: Item, new: str) -> None:
        """Rename a directory with one request; everything unsent below it rests meanwhile and is re-keyed. Raises ApiError.

        Killed in between, the next mount asks the server whether it was renamed.
        """
        engine, old = self._engine, item.path
        record = Renaming(item.id, old, new)
        with engine.uploader.hold(old, engine.timeout), engine.table.moving(old, new):
            engine.journal.write(record)
            inside = [] if self._carries else self._below(old)[:_ASKED]
            try:
                self.move(item, new)
            except JobfsError:
                engine.journal.write(gone=[record])
                raise
            self._bring_along(inside, old, new)
            engine.overlay.move_tree(old, new)
            for inode in engine.table.all():
                # Whoever is just recording what was written to it has queued it by then.
                with inode.lock:
                    if inode.path is not None and names.under(inode.path, old):
                        inode.path = names.moved(inode.path, old, new)
            below = [work for work in engine.uploader.live() if names.under(work.save.target, old)]
            with contextlib.ExitStack() as still:
                for work in below:
                    # Whoever judges what they set aside may end them meanwhile: a record that is gone stays gone.
                    still.enter_context(work.lock)
                rekey(engine.journal, record, [w.save for w in below if w.save.state is not State.DONE])
            engine.aliases.moved(old, new)

    def _bring_along(self, inside: list[Item], old: str, new: str) -> None:
        """Move what is in a directory by itself, on a server that moves a directory's own item only.

        The reference does not say which; the first directory with something in it shows. `inside`: some of that.
        """
        if self._carries or not inside:
            return
        try:
            if self._carries is None:
                self._carries = self._carried(inside, new)
            if self._carries is not False:
                return
            self._engine.namespace.refresh()
            for item in self._below(old):
                try:
                    self.move(item, names.moved(item.path, old, new))
                except (BadRequestError, NotFoundError) as error:
                    log.warning("%s stays where it is though %s was renamed: %s", item.path, old, error)
        except JobfsError as error:
            # The directory itself was renamed, and nothing is lost: what stayed is shown where it is.
            log.warning("what is in %s may not have been renamed with it: %s", old, error)

    def _below(self, directory: str) -> list[Item]:
        """Every known item in a directory, those above before what is in them."""
        known = self._engine.namespace.subtree(directory)
        return sorted((item for item in known if item.path != directory), key=lambda item: item.path)

    def _carried(self, inside: list[Item], new: str) -> bool | None:
        """True if these items moved along, False if they stayed; None if the job moved or deleted all of them meanwhile."""
        for item in inside:
            try:
                path = self._engine.client.get(item.id).path
            except NotFoundError:
                continue
            if names.under(path, new):
                return True
            if path == item.path:
                return False
        return None


def rekey(journal: Journal, renamed: Renaming, saves: list[Save]) -> None:
    """A directory was renamed: `saves` and the records of all else below it say so, in one journal write.

    Raises FsError(ENOSPC, EIO).
    """
    old, new = renamed.old, renamed.new
    for save in saves:
        save.target = names.moved(save.target, old, new)
    entries = [entry for entry in journal.load(LocalEntry) if entry.moved(old, new) != entry]
    moved = [entry.moved(old, new) for entry in entries]
    removed = [record for record in journal.load(Removed) if names.under(record.path, old)]
    for record in removed:
        record.path = names.moved(record.path, old, new)
    journal.write(*saves, *moved, *removed, gone=[renamed, *entries])
