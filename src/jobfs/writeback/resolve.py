"""What a person decides about saves that do not get through: try again, or give them up (semantics.md section 4)."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from jobfs import names
from jobfs.errors import FsError, NotFoundError
from jobfs.writeback.inodes import Inode
from jobfs.writeback.records import SaveKind, State
from jobfs.writeback.transaction import Transaction
from jobfs.writeback.undo import undo

if TYPE_CHECKING:
    from jobfs.writeback.engine import WriteBack

#: Seconds to wait for a request on a file that is to be given up.
_PATIENCE = 10.0


class Resolver:
    """`jobfs retry` and `jobfs discard`, for one mount."""

    def __init__(self, engine: WriteBack) -> None:
        self._engine = engine

    def unsent(self, path: str | None) -> list[Transaction]:
        """Saves at or below `path` (None: all) that the server does not have, oldest first."""
        return [
            work for work in self._engine.uploader.unsent(path or None) if work.save.kind is SaveKind.SAVE
        ]

    def retry(self, path: str | None) -> list[str]:
        """Try at once what was refused, or waits for its next try, at or below `path`; returns the paths."""
        found = []
        for work in self.unsent(path):
            if not work.save.refused and not work.attempts:
                continue
            with work.lock:
                work.save.refused, work.save.refused_errno = "", 0
                self._engine.journal.write(work.save)
            work.attempts, work.error = 0, None
            self._engine.uploader.add(work, 0.0)
            found.append(work.save.target)
        return found

    def discard(self, path: str) -> list[tuple[str, str]]:
        """Give up what is unsent at or below `path`; returns each path and where a copy of its bytes is kept.

        The server's version is shown again. Raises FsError(ENOENT) if nothing is unsent there, FsError(EBUSY) if a program
        has the file open, ApiError if what was begun on the server can't be taken back now.
        """
        given_up = []
        for work in self.unsent(path):
            inode = work.inode
            if inode is not None and inode.handles:
                raise FsError(errno.EBUSY, f"{work.save.target} is open in a program: close it first")
            given_up.append((work.save.target, str(self._give_up(work))))
        if not given_up:
            raise FsError(errno.ENOENT, f"nothing is unsent at {path or 'this mount'}")
        return given_up

    def _give_up(self, work: Transaction) -> Path | str:
        """Take back what was begun on the server, then let go of record and bytes."""
        engine, save = self._engine, work.save
        with engine.uploader.hold(save.target, _PATIENCE):
            if work.settled:
                raise FsError(errno.ENOENT, f"{save.target} was just sent")
            kept: Path | str = ""
            if work.local is not None:
                kept = engine.bytes.throw_away(work.local, names.basename(save.target))
            if save.direct and engine.direct.find(work) is not None:
                raise FsError(errno.EBUSY, f"{save.target} is just being sent: look again in a moment")
            if save.tid or save.staged_id or work.asides:
                self._take_back(work)
            self._forget(work)
        return kept

    def _take_back(self, work: Transaction) -> None:
        """The server looks as if this save had not been begun. Raises ApiError."""
        save, engine = work.save, self._engine
        if save.tid and not save.staged_id:
            staged = engine.stager.find(save)
            save.staged_id = staged.id if staged is not None else ""
        elif save.state is State.STAGED and self._is_placed(save.staged_id):
            raise FsError(errno.EBUSY, f"{save.target} is just being sent: look again in a moment")
        undo(engine.client, engine.journal, work, "given up", errno.ECANCELED)
        for item in work.taken:
            engine.namespace.touch(item.path)

    def _is_placed(self, staged_id: str) -> bool:
        try:
            item = self._engine.client.get(staged_id)
        except NotFoundError:
            return False
        return names.parse_hidden(names.basename(item.path)) is None

    def _forget(self, work: Transaction) -> None:
        engine, inode = self._engine, work.inode
        if work.local is not None:
            engine.bytes.unlabel(work.local)
        engine.journal.write(gone=[work.save])
        work.save.become(State.DONE)
        engine.uploader.remove(work)
        if work.local is not None:
            local, work.local = work.local, None
            engine.bytes.retire(local)
        if inode is not None:
            self._show_again(inode, work)
        engine.namespace.touch(work.save.target)

    def _show_again(self, inode: Inode, work: Transaction) -> None:
        """The file is what the server has of it."""
        with inode.lock:
            if inode.next is work:
                inode.next = None
                return
            inode.current, inode.next = inode.next, None
            if inode.current is not None:
                inode.current.save.base = work.save.base
                self._engine.journal.write(inode.current.save)
                return
            if inode.path is not None:
                self._engine.overlay.remove(inode.path, inode)
            if inode.local is not None:
                local, inode.local = inode.local, None
                local.close()
            inode.written = False
            self._engine.table.drop(inode)
