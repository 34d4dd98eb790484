"""Changes of names: mkdir, rmdir, rename (semantics.md section 4)."""

from __future__ import annotations

import contextlib
import errno
from typing import NamedTuple

from jobfs import names
from jobfs.errors import FsError, JobfsError, NotFoundError, PathExistsError
from jobfs.nodes import Item
from jobfs.vfs.aliases import Aliases
from jobfs.vfs.calls import Caller
from jobfs.vfs.local import LocalNames
from jobfs.vfs.unlinking import Unlinker
from jobfs.vfs.view import Node, View, check_new_name, is_dir, is_hidden_open
from jobfs.writeback import WHITEOUT, Inode
from jobfs.writeback.records import Base
from jobfs.writeback.transaction import Transaction
from jobfs.writeback.unsent import Place


class _WrittenError(Exception):
    """A program is writing to the file, or what was written to it has just been sent."""


class _Replaced(NamedTuple):
    """What a rename replaces: the base that it makes, the item shown there, what is open of it, and its unsent saves."""

    base: Base
    shown: Item | None
    inode: Inode | None
    dropped: list[Transaction]


class Tree:
    """Makes, removes and renames. Every method holds the names it changes."""

    def __init__(self, view: View, local: LocalNames, aliases: Aliases, unlinker: Unlinker) -> None:
        self._view = view
        self._engine = view.engine
        self._local = local
        self._aliases = aliases
        self._unlinker = unlinker

    # -- directories

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        """Make a directory; synchronous. Raises FsError(EEXIST, EACCES, ENOENT), ApiError."""
        check_new_name(path)
        self._view.may_enter(self._view.directory(names.parent(path)))
        with self._aliases.holding(path):
            if self._view.find(path) is not None:
                raise FsError(errno.EEXIST)
            mode, uid, gid = self._view.inherited(path, mode, caller.uid, caller.gid, directory=True)
            if self._view.stays_here(path):
                self._local.make_directory(path, mode, uid, gid)
                self._view.touch_directory(names.parent(path))
                return
            self._aliases.free(path)
            owner = self._view.owner
            plain = mode == 0o755 & ~owner.umask and (uid, gid) == owner[:2]
            kept = (-1, -1, -1) if plain else (mode, uid, gid)
            item = self._engine.moves.make_directory(path, *kept)
            self._engine.overlay.remove(path, WHITEOUT)
            self._engine.memory.touch(item, made=True)
            self._view.touch_directory(names.parent(path))

    def rmdir(self, path: str) -> None:
        """Remove an empty directory (R12). Raises FsError(ENOTEMPTY, ENOTDIR, EPERM), ApiError."""
        node = self._view.directory(path)
        if not path:
            raise FsError(errno.EBUSY)
        self._view.may_enter(self._view.directory(names.parent(path)))
        self._view.may_replace(node)
        with self._aliases.holding(path):
            self._aliases.settle_under(path)
            self._engine.uploader.taken_back(path)
            overlaid = self._engine.overlay.children(path)
            if not all(is_hidden_open(name, entry) for name, entry in overlaid.items()):
                raise FsError(errno.ENOTEMPTY)
            self._remove_directory(path, node)
            self._view.touch_directory(names.parent(path))

    def _remove_directory(self, path: str, node: Node) -> None:
        if isinstance(node, Inode):
            if node.local_only:
                self._local.remove(node)
            else:
                self._engine.overlay.remove(path, node)
        elif node.implicit:
            if self._engine.namespace.children(path, max_age=1.0):
                raise FsError(errno.ENOTEMPTY)
        else:
            self._engine.removals.remove_directory(node)
            self._view.keep_parent(path)

    # -- rename

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing what is at `new`. Raises FsError (the errno of rename(2)), ApiError."""
        check_new_name(new)
        if old == new:
            self._view.get(old)
            return
        if names.under(new, old):
            raise FsError(errno.EINVAL)
        self._view.may_enter(self._view.directory(names.parent(old)))
        self._view.may_enter(self._view.directory(names.parent(new)))
        with self._engine.hiding.replacing(new), self._aliases.holding(old, new):
            source, target = self._view.get(old), self._view.find(new)
            self._view.may_replace(source)
            if target is not None:
                self._view.may_replace(target)
                if is_dir(target) and not is_dir(source):
                    raise FsError(errno.EISDIR)
                if is_dir(source) and not is_dir(target):
                    raise FsError(errno.ENOTDIR)
            if is_dir(source):
                self._rename_directory(source, target, old, new)
            else:
                self._rename_file(source, target, old, new)
            # What was unlinked there may still be on its way off the server; this is not it.
            self._engine.overlay.remove(new, WHITEOUT)
            self._view.keep_parent(old)
            self._view.touch_directory(names.parent(old))
            self._view.touch_directory(names.parent(new))
            if (now := self._view.find(new)) is not None:
                self._view.touch(now)

    def _rename_directory(self, source: Node, target: Node | None, old: str, new: str) -> None:
        if target is not None:
            self._aliases.settle_under(new)
            if self._view.list(new):
                raise FsError(errno.ENOTEMPTY)
            if isinstance(target, Item) and not target.implicit:
                self._engine.uploader.taken_back(new)
                self._engine.removals.remove_directory(target)
        if isinstance(source, Inode):
            if source.ghost:
                raise FsError(errno.ENOENT)
            if not self._view.stays_here(new):
                # Else nothing in it would ever reach the job: `mv` copies.
                raise FsError(errno.EXDEV)
            self._local.move(source, new)
            return
        if self._view.stays_here(new):
            # A directory of the job does not move to this machine: EXDEV makes `mv` copy.
            raise FsError(errno.EXDEV)
        self._aliases.settle_under(old)
        if source.implicit:
            self._engine.stager.make_directory(old)
            source = self._engine.namespace.lookup(old, max_age=0.0) or source
        self._engine.moves.rename_directory(source, new)
        self._local.carry(old, new)

    def _rename_file(self, source: Node, target: Node | None, old: str, new: str) -> None:
        if isinstance(target, Inode) and target.alias_of == old:
            # The backup of what is moved over it now; the job may have deleted that.
            with contextlib.suppress(NotFoundError):
                self._aliases.resolve(target)
        looked = False
        while not self._move_file(source, target, old, new, looked=looked):
            source, looked = self._view.get(old, max_age=0.0), True

    def _move_file(self, source: Node, target: Node | None, old: str, new: str, *, looked: bool) -> bool:
        """False: it was written to, or a save of it has begun or ended, since it was looked at.

        `looked`: an item was looked at on the server just now.
        """
        here = self._stays(target, new)
        if isinstance(source, Inode) and not source.local_only:
            source = self._ready_to_move(source)
            if isinstance(source, Inode):
                with contextlib.nullcontext(True) if here else self._engine.unsent.resting(source) as still:
                    return still and self._rename_inode(source, target, old, new)
        if isinstance(source, Inode):
            return self._rename_inode(source, target, old, new)
        if here:
            if self._view.is_local(names.parent(new)):
                raise FsError(errno.EXDEV)
            over = target if isinstance(target, Inode) else None
            # Else a program is writing to it: it is renamed on the server.
            with contextlib.suppress(_WrittenError), self._aliases.losing(over):
                if not self._aliases.make(source, old, new, over):
                    raise _WrittenError
                if over is not None:
                    self._local.replaced(over)
                return True
        with self._engine.uploader.hold(old, self._engine.timeout), self._engine.table.moving(old, new):
            if not self._rests(source, looked=looked):
                return False
            self._rename_item(source, target, old, new)
            return True

    def _stays(self, target: Node | None, new: str) -> bool:
        """True if a file that is renamed to `new` stays on this machine: not where an item stands, changed here or not."""
        local = target is None or (isinstance(target, Inode) and target.local_only)
        return local and self._view.stays_here(new)

    def _rests(self, item: Item, *, looked: bool) -> bool:
        """True if the item is what there is of its file on the server, and no save of it has begun."""
        if not looked and self._engine.memory.superseded(item):
            return False
        inode = self._engine.table.of(item)
        if inode is None:
            return True
        with inode.lock:
            return inode.current is None or inode.current.untouched

    def _ready_to_move(self, inode: Inode) -> Node:
        """A file with unsent bytes: one that the server has at its old name is saved there first. Raises ApiError."""
        self._engine.settle(inode)
        with inode.lock:  # a save that is just ending changes all of these
            if inode.current is None and inode.local is None and inode.item is not None:
                return inode.item
        if not inode.base.id or (inode.item is not None and self._aliases.covers(inode.item)):
            return inode
        self._engine.commit(inode)
        with inode.lock:
            # What is written to it from now on goes along.
            return inode.item if inode.item is not None else inode

    def _rename_item(self, item: Item, target: Node | None, old: str, new: str) -> None:
        hidden = self._engine.hiding.hidden_at(new) if target is None else None
        over = target if isinstance(target, Inode) and target.local_only else None
        if isinstance(target, Inode) and over is None:
            # Killed before the item is moved, the next mount finds the target as it was closed.
            self._engine.send(target)
            target = self._view.find(new)
        replaced = self._replace(None if over is not None else target, new)
        base, shown = replaced.base, replaced.shown
        if hidden is not None:
            base = self._engine.bases.of(hidden.taken[0])
        overlay = self._engine.overlay
        self._aliases.free(new)
        pinned = shown or (hidden.taken[0] if hidden is not None else None)
        if pinned is not None:
            overlay.put(new, pinned)
        try:
            with self._aliases.losing(over):
                if pinned is None:
                    try:
                        answer = self._engine.moves.move(item, new)
                    except PathExistsError:
                        answer = self._engine.moves.move_over(item, new, Base())
                else:
                    answer = self._engine.moves.move_over(item, new, base, shown, hidden)
                if over is not None:
                    self._local.remove(over)
        except JobfsError:
            self._engine.namespace.touch(old)
            self._engine.namespace.touch(new)
            if replaced.inode is not None:
                self._unlinker.put_back(new, replaced.inode, replaced.dropped)
            raise
        finally:
            if pinned is not None:
                overlay.remove(new, pinned)
        if replaced.inode is not None:
            self._unlinker.drop(replaced.inode)
        self._moved(answer, old, new)
        self._engine.unsent.drop(replaced.dropped)

    def _moved(self, item: Item, old: str, new: str) -> None:
        """What is open of it, and what was written to it meanwhile, has the new name too."""
        inode = self._engine.table.of(item)
        if inode is None:
            return
        with inode.lock:
            inode.path = new
            inode.moved(item)
            if self._engine.overlay.get(old) is inode:
                self._engine.overlay.put(new, inode)
                self._engine.overlay.remove(old, inode)
                self._engine.unsent.retarget(inode, new, inode.base, item)

    def _replace(self, target: Node | None, path: str) -> _Replaced:
        """What stands at `path` is about to be replaced; nothing that is written to it is saved from now on. Raises ApiError."""
        if target is None:
            return _Replaced(Base(), None, None, [])
        dropped: list[Transaction] = []
        if isinstance(target, Item):
            shown: Item | None = target
            base = self._engine.bases.of(target)
            inode = self._engine.table.of(target)
            if inode is None or inode.alias_of is not None:
                return _Replaced(base, shown, None, dropped)
            self._view.freeze(inode)
        else:
            inode = target
            self._engine.settle(inode)
            base, shown = inode.base, inode.item
        self._engine.unsent.cancel(inode, dropped=dropped)
        self._engine.overlay.remove(path, inode)
        return _Replaced(base, shown, inode, dropped)

    def _rename_inode(self, inode: Inode, target: Node | None, old: str, new: str) -> bool:
        """A file that only this machine has: scratch, a link, or not sent yet. False if it was sent meanwhile."""
        over = target if isinstance(target, Inode) and target.local_only else None
        if inode.link:
            if isinstance(target, Item) and self._engine.table.of(target) is None:
                with self._engine.removals.removing(target):
                    self._local.move(inode, new)
                return True
            if target is not None and over is None:
                self._unlinker.remove(target, new)
            self._move_here(inode, over, new)
            return True
        stays = self._stays(target, new)
        if inode.alias_of is not None:
            self._rename_alias(inode, target, new, stays=stays)
            return True
        if stays and inode.local_only:
            self._move_here(inode, over, new)
            return True
        if stays:
            return self._stay_here(inode, over, old, new)
        hidden = None if target is not None else self._engine.hiding.hidden_at(new)
        base, shown, replaced, dropped = self._replace(None if over is not None else target, new)
        if shown is None:
            shown = self._aliases.item_behind(new)
            base = self._engine.bases.of(shown)
        if hidden is not None:
            shown = hidden.taken[0]
            base = self._engine.bases.of(shown)
        gone = [self._local.entry(local) for local in (inode, over) if local is not None and local.local_only]
        try:
            with self._aliases.losing(over):
                self._save_as(inode, new, base, shown, Place(dropped, hidden, tuple(gone)))
                if over is not None:
                    self._local.replaced(over)
        except JobfsError:
            if replaced is not None:
                self._unlinker.put_back(new, replaced, dropped)
            raise
        if replaced is not None:
            self._unlinker.drop(replaced)
        self._local.vacate(old, inode)
        if not any(handle.writable for handle in inode.handles):
            self._engine.released(inode)
        return True

    def _save_as(self, inode: Inode, path: str, base: Base, shown: Item | None, place: Place) -> None:
        """A file that only this machine has is to be saved at `path`. Raises FsError: then it is as it was."""
        engine, stood = self._engine, self._engine.overlay.get(path)
        replaces = bool(place.dropped or place.hidden or place.gone)
        engine.overlay.put(path, inode)
        with inode.lock:
            was = inode.local_only, inode.item, inode.path, inode.base, inode.written
            inode.local_only, inode.item = False, shown
            try:
                engine.unsent.retarget(inode, path, base, shown, place)
                if replaces and inode.current is None:
                    # It has no save yet: it was never closed, or it was not to be sent.
                    inode.written = True
                    engine.seal(inode, place)
            except FsError:
                inode.local_only, inode.item, inode.path, inode.base, inode.written = was
                if stood is None:
                    engine.overlay.remove(path, inode)
                else:
                    engine.overlay.put(path, stood)
                    # What had kept it a hole may have ended meanwhile.
                    engine.uncover(path)
                raise

    def _stay_here(self, inode: Inode, over: Inode | None, old: str, new: str) -> bool:
        """A file that was to be sent gets a name of this machine only, and is not. False if it was sent meanwhile."""
        dropped: list[Transaction] = []
        with contextlib.suppress(_WrittenError), self._aliases.losing(over), inode.lock:
            if inode.local is None:
                raise _WrittenError
            self._engine.unsent.cancel(inode, dropped=dropped)
            inode.path, inode.local_only = old, True
            try:
                self._local.move(inode, new, over, gone=[work.save for work in dropped])
            except JobfsError:
                inode.local_only = False
                self._unlinker.put_back(old, inode, dropped)
                raise
            self._engine.unsent.forget(dropped)
            return True
        return False

    def _move_here(self, inode: Inode, over: Inode | None, new: str) -> None:
        """Rename a local name to another one, over the local file that may have that. Raises ApiError, FsError."""
        with self._aliases.losing(over):
            self._local.move(inode, new, over)

    def _rename_alias(self, inode: Inode, target: Node | None, new: str, *, stays: bool) -> None:
        if inode.alias_of == new and self._aliases.restore(inode):
            return
        if stays:
            self._move_here(inode, target if isinstance(target, Inode) else None, new)
            return
        path = inode.path
        assert path is not None
        node = self._aliases.resolve(inode)
        if isinstance(node, Item):
            self._rename_file(node, target, path, new)
        else:
            self._rename_inode(node, target, path, new)
