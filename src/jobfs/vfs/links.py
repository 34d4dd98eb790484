"""Symbolic links: they live on this machine only, because the API has none (semantics.md section 2, --local-symlinks)."""

from __future__ import annotations

import errno

from jobfs import names
from jobfs.errors import FsError
from jobfs.vfs.aliases import Aliases
from jobfs.vfs.calls import Caller
from jobfs.vfs.local import LocalNames
from jobfs.vfs.view import View, check_new_name
from jobfs.writeback import Inode


class Links:
    """Makes and reads links; they are renamed and removed as other local names are.

    `everywhere`: at every name; else at scratch names only, which stay here whatever they stand for: Emacs locks a
    file by such a link.
    """

    def __init__(self, view: View, local: LocalNames, aliases: Aliases, *, everywhere: bool) -> None:
        self._everywhere = everywhere
        self._view = view
        self._engine = view.engine
        self._local = local
        self._aliases = aliases

    def make(self, path: str, target: str, caller: Caller) -> None:
        """A link at `path` that says `target`; no request. Raises FsError(EPERM, EEXIST, EACCES, ENOENT), ApiError."""
        if not self._everywhere and not self._view.stays_here(path):
            raise FsError(errno.EEXIST if self._view.find(path) is not None else errno.EPERM)
        check_new_name(path)
        self._view.may_enter(self._view.directory(names.parent(path)))
        with self._aliases.holding(path):
            if self._view.find(path) is not None:
                raise FsError(errno.EEXIST)
            self._aliases.free(path)
            _, uid, gid = self._view.inherited(path, 0, caller.uid, caller.gid, directory=False)
            self._local.make_link(path, target, uid, gid)
            self._view.touch_directory(names.parent(path))

    def may_move(self, old: str, new: str) -> None:
        """Raise FsError(EPERM) if a link is about to leave the scratch names, and must not."""
        if not self._everywhere and self._view.stays_here(old) and not self._view.stays_here(new):
            node = self._view.find(old)
            if isinstance(node, Inode) and node.link:
                raise FsError(errno.EPERM)

    def read(self, path: str) -> str:
        """What a link says. Raises FsError(EINVAL) for everything else, FsError(ENOENT), ApiError."""
        node = self._view.get(path)
        if isinstance(node, Inode) and node.link:
            return node.link
        raise FsError(errno.EINVAL)
