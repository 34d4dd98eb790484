"""Files lose their names: unlinked, hidden while open, or replaced (semantics.md section 4, unlink; R10)."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable
from dataclasses import replace

from jobfs import names
from jobfs.errors import FsError, JobfsError
from jobfs.nodes import Item
from jobfs.vfs.aliases import Aliases
from jobfs.vfs.local import LocalNames
from jobfs.vfs.view import Node, View, is_dir, is_hidden_open
from jobfs.writeback import WHITEOUT, Inode
from jobfs.writeback.records import Fate
from jobfs.writeback.transaction import Transaction


class Unlinker:
    """Takes files off their names. `unlink` and `hide` hold them, the rest is for who does."""

    def __init__(
        self, view: View, local: LocalNames, aliases: Aliases, opened_at: Callable[[str], Iterable[Inode]]
    ) -> None:
        """`opened_at(path)`: see files.py."""
        self._view = view
        self._opened_at = opened_at
        self._engine = view.engine
        self._local = local
        self._aliases = aliases

    def unlink(self, path: str) -> None:
        """Remove a file; synchronous. Raises FsError(ENOENT, EISDIR, EPERM, EACCES), ApiError."""
        entry = self._engine.overlay.get(path)
        if isinstance(entry, Inode) and is_hidden_open(names.basename(path), entry):
            self._local.remove(entry)
            return
        self._view.may_enter(self._view.directory(names.parent(path)))
        with self._aliases.holding(path):
            node = self._view.get(path, max_age=1.0)
            if is_dir(node):
                raise FsError(errno.EISDIR)
            self._view.may_replace(node)
            opened = self._opened_at(path)
            self.remove(node, path)
            self._part(path, opened)
            self._view.keep_parent(path)
            self._view.touch_directory(names.parent(path))

    def remove(self, node: Node, path: str) -> None:
        """Unlink what is at `path`. Raises ApiError: then it is there as before."""
        if isinstance(node, Item):
            self._delete(node)
        elif node.local_only:
            self._aliases.unlink(node)
        else:
            self._unlink_dirty(path, node)

    def _delete(self, item: Item) -> None:
        self._spare(item)
        inode = self._engine.table.of(item)
        if inode is not None:
            self._view.freeze(inode)
        if inode is None or not inode.handles or self._engine.content.whole(item):
            self._engine.removals.delete(item)
        else:
            work = self._engine.removals.set_aside(item, Fate.DELETE)
            if work.asides and work.asides[0].moved:
                self._engine.removals.finish(work)
        if inode is not None:
            # Who has it open may have written to it meanwhile.
            self._engine.unsent.cancel(inode)
            self._engine.overlay.remove(item.path, inode)

    def _spare(self, item: Item) -> None:
        """Aliases of it, of this mount and of an earlier one, get its bytes. Raises ApiError."""
        self._aliases.spare(item.id)
        self._engine.aliases.spare(item.id)

    def _unlink_dirty(self, path: str, inode: Inode) -> None:
        """A file with bytes that the server does not have: recorded first, then taken off the server (R10)."""
        # The server may show the name until what was begun is taken back; this mount does not.
        self._engine.overlay.put(path, WHITEOUT)
        try:
            never_sent = self._engine.unsent.cancel(inode, delete=self._aliases.item_behind(path) is None)
            item = inode.item  # only now: a save may have ended meanwhile
            if never_sent and item is not None and not self._aliases.covers(item):
                there = self._engine.namespace.lookup(path, max_age=1.0)
                if there is not None and there.id == item.id:
                    self._delete(there)
        except JobfsError:
            self.put_back(path, inode)
            raise
        if never_sent:
            self._engine.uncover(path)
        self.drop(inode)

    def hide(self, path: str, hidden: str) -> None:
        """libfuse renames an open file away: it is unlinked, or about to be renamed over. It stays readable under `hidden`."""
        with self._aliases.holding(path, hidden):
            node = self._view.get(path)
            self._view.may_replace(node)
            if isinstance(node, Inode) and not node.local_only and node.base.id:
                # Should it end here, the server has the file as it was closed, not an older version.
                self._engine.send(node)
                node = self._view.get(path)
            if isinstance(node, Inode) and node.alias_of is not None:
                self._aliases.resolve(node)
                node = self._view.get(path)
            if isinstance(node, Inode) and node.local_only:
                self._local.move(node, hidden)
                inode = node
            else:
                opened = self._opened_at(path)
                inode = self._hide(node, path, hidden)
                self._part(path, opened)
                self._view.keep_parent(path)
            self._view.touch(inode)
            self._view.touch_directory(names.parent(path))

    def _hide(self, node: Node, path: str, hidden: str) -> Inode:
        engine = self._engine
        if isinstance(node, Inode):
            inode = node
        else:
            self._spare(node)
            inode = engine.table.hold(node, path)
            self._view.freeze(inode)
        engine.overlay.put(path, WHITEOUT)
        try:
            # From here on nothing that is written to it is saved under its old name.
            never_sent = engine.unsent.cancel(inode)
            item = inode.item  # only now: a save may have ended meanwhile
            if never_sent and item is not None and not self._aliases.covers(item):
                # Its directory may have been renamed since it was saved.
                engine.hiding.hide(replace(item, path=path))
        except JobfsError:
            self.put_back(path, inode)
            raise
        with inode.lock:
            inode.path, inode.local_only = hidden, True
            engine.overlay.put(hidden, inode)
        if never_sent:
            engine.uncover(path)
        return inode

    def _part(self, path: str, opened: Iterable[Inode]) -> None:
        """What stood at `path` has left it; so has what was opened there before the job put that in its place."""
        for inode in opened:
            with inode.lock:
                if inode.path == path and inode.local is None:
                    self._view.freeze(inode)
                    inode.path = None

    def put_back(self, path: str, inode: Inode, dropped: list[Transaction] | None = None) -> None:
        """It could not be removed: it is there as before, with all that was written to it.

        `dropped`: its saves that the caller was to remove, see Unsent.cancel.
        """
        with inode.lock:
            inode.path = path
            self._engine.uncover(path)
            self._engine.unsent.reinstate(inode, dropped or [])
            if inode.local is not None:
                inode.written = inode.written or inode.current is None
                self._engine.overlay.put(path, inode)
        with contextlib.suppress(FsError):
            self._engine.seal(inode)

    def drop(self, inode: Inode) -> None:
        """The name is gone; what is open goes on being readable through its handles."""
        with inode.lock:
            inode.path = None
            if not inode.handles:
                if inode.local is not None:
                    local, inode.local = inode.local, None
                    local.discard()
                self._engine.table.drop(inode)
