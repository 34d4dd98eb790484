"""Names that live on this machine only: scratch files, local directories and links (semantics.md section 4).

An alias is such a name too, but one with an item behind it: see aliases.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from jobfs import names
from jobfs.errors import FsError
from jobfs.nodes import Kind
from jobfs.vfs.view import View
from jobfs.writeback import WHITEOUT, Inode
from jobfs.writeback.inodes import new_inode_number
from jobfs.writeback.records import LocalEntry, Record


class LocalNames:
    """Makes, moves and removes local names, and keeps them in the journal."""

    def __init__(self, view: View) -> None:
        self._engine = view.engine
        #: Told of each name that a local file has just left: an alias may have taken an item from there before.
        self.vacated: Callable[[str], None] = lambda path: None

    def record(self, inode: Inode) -> None:
        """Keep a local name in the journal, as it is now (w). Raises FsError(ENOSPC, EIO)."""
        if inode.path is None or _is_hidden(inode):
            return
        inode.written = False
        try:
            self._engine.journal.write(self.entry(inode))
        except FsError:
            inode.written = True
            raise

    def entry(self, inode: Inode) -> LocalEntry:
        """The journal's record of a local name, as it is now."""
        assert inode.path is not None
        return LocalEntry(
            inode.path,
            inode.ino,
            inode.kind,
            inode.local.generation if inode.local is not None else 0,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.atime_ns,
            inode.mtime_ns,
            inode.item.id if inode.alias_of is not None and inode.item is not None else "",
            inode.alias_of or "",
            time.time(),
            inode.link,
        )

    def make_directory(self, path: str, mode: int, uid: int, gid: int) -> None:
        """A directory on this machine only. Raises FsError(ENOSPC, EIO)."""
        inode = Inode(new_inode_number(), Kind.DIRECTORY, path)
        inode.local_only = True
        self._add(inode, mode & 0o7777, uid, gid)

    def make_link(self, path: str, target: str, uid: int, gid: int) -> None:
        """A symbolic link on this machine only. Raises FsError(ENOSPC, EIO)."""
        inode = Inode(new_inode_number(), Kind.FILE, path)
        inode.local_only, inode.link = True, target
        self._add(inode, 0o777, uid, gid)

    def _add(self, inode: Inode, mode: int, uid: int, gid: int) -> None:
        assert inode.path is not None
        inode.mode, inode.uid, inode.gid = mode, uid, gid
        inode.touch()
        inode.atime_ns = inode.mtime_ns
        self.record(inode)
        self._engine.table.add(inode)
        self._engine.overlay.put(inode.path, inode)

    def move(self, inode: Inode, target: str, over: Inode | None = None, gone: Iterable[Record] = ()) -> None:
        """Rename a local name to another local name, with all below it. Raises FsError(ENOSPC, EIO): nothing was changed.

        `over`: the local file that has the name `target`; `gone`: records of which this takes the place, in the same commit.
        """
        old = inode.path
        assert old is not None
        with inode.lock:  # an alias may get its own bytes meanwhile, and a record of them
            before = [self.entry(inode)]
            after = [] if names.is_fuse_hidden(names.basename(target)) else [replace(before[0], path=target)]
            if inode.kind is Kind.DIRECTORY:
                below = self._below(old)
                before += below
                after += [replace(entry, path=names.moved(entry.path, old, target)) for entry in below]
            self._engine.journal.write(*after, gone=[*before, *gone])
            if over is not None:
                self.replaced(over)
            self.vacate(old, inode)
            inode.path = target
            self._engine.overlay.put(target, inode)
            if inode.kind is Kind.DIRECTORY:
                self._engine.overlay.move_tree(old, target)

    def carry(self, old: str, new: str) -> None:
        """The directory `old` is `new` now: the local names below it are recorded there, in one commit."""
        kept = self._below(new)
        if kept:
            gone = [replace(entry, path=names.moved(entry.path, new, old)) for entry in kept]
            self._engine.journal.write(*kept, gone=gone)

    def _below(self, directory: str) -> list[LocalEntry]:
        """The records of the local names below a directory."""
        beneath = [entry for _, entry in self._engine.overlay.beneath(directory) if isinstance(entry, Inode)]
        return [self.entry(i) for i in beneath if i.local_only and i.alias_of is None and not _is_hidden(i)]

    def forget(self, inode: Inode) -> None:
        """The name is no longer a local one; the bytes are the caller's."""
        if inode.path is not None:
            self._engine.journal.write(gone=[self.entry(inode)])

    def vacate(self, path: str, inode: Inode) -> None:
        """This file is not at `path` any more; neither is what was taken away from there before, by an alias or an unlink."""
        if self._engine.overlay.get(path) is not inode:
            return
        self.vacated(path)
        # First a hole, then a look at what keeps it one: what ends meanwhile takes it away itself.
        self._engine.overlay.put(path, WHITEOUT)
        self._engine.uncover(path)

    def remove(self, inode: Inode) -> None:
        """Unlink a local file or remove a local directory. An alias loses only its name here."""
        with inode.lock:
            self.forget(inode)
            self.replaced(inode)

    def replaced(self, inode: Inode) -> None:
        """Another local file has this one's name, in the journal too: let go of it."""
        with inode.lock:
            path, inode.path, inode.alias_of = inode.path, None, None
            if path is not None:
                self.vacate(path, inode)
            if not inode.handles:
                if inode.local is not None:
                    local, inode.local = inode.local, None
                    local.discard()
                self._engine.table.drop(inode)


def _is_hidden(inode: Inode) -> bool:
    return inode.path is not None and names.is_fuse_hidden(names.basename(inode.path))
