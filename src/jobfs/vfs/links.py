"""Symbolic links: they live on this machine only, because the API has none (semantics.md section 2, --local-symlinks)."""

from __future__ import annotations

import errno

from jobfs import names
from jobfs.errors import FsError
from jobfs.vfs.calls import Caller
from jobfs.vfs.local import LocalNames
from jobfs.vfs.view import View, check_new_name
from jobfs.writeback import Inode


class Links:
    """Makes and reads links; they are renamed and removed as other local names are."""

    def __init__(self, view: View, local: LocalNames) -> None:
        self._view = view
        self._engine = view.engine
        self._local = local

    def make(self, path: str, target: str, caller: Caller) -> None:
        """A link at `path` that says `target`; no request. Raises FsError(EEXIST, EACCES, ENOENT), ApiError."""
        check_new_name(path)
        self._view.may_enter(self._view.directory(names.parent(path)))
        with self._engine.overlay.changing(path):
            if self._view.find(path) is not None:
                raise FsError(errno.EEXIST)
            self._local.free(path)
            _, uid, gid = self._view.inherited(path, 0, caller.uid, caller.gid, directory=False)
            self._local.make_link(path, target, uid, gid)
            self._view.touch_directory(names.parent(path))

    def read(self, path: str) -> str:
        """What a link says. Raises FsError(EINVAL) for everything else, FsError(ENOENT), ApiError."""
        node = self._view.get(path)
        if isinstance(node, Inode) and node.link:
            return node.link
        raise FsError(errno.EINVAL)
