"""chmod, chown and utimens: what goes to the server and what is remembered here (semantics.md section 2)."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator

from jobfs.errors import FsError
from jobfs.nodes import Item, Lifecycle, Permission, held_ns
from jobfs.vfs.local import LocalNames
from jobfs.vfs.view import View
from jobfs.writeback import Inode
from jobfs.writeback.records import Remembered


class Attributes:
    """Changes of attributes."""

    def __init__(self, view: View, local: LocalNames) -> None:
        self._view = view
        self._engine = view.engine
        self._local = local

    def chmod(self, path: str, mode: int) -> None:
        """Owner write bit on or off changes the permission on the server; the other bits are remembered. Raises ApiError."""
        mode &= 0o7777
        wanted = Permission.READ_WRITE if mode & 0o200 else Permission.READ_ONLY
        with self._changing(path) as node:
            if isinstance(node, Item):
                if node.permission is not wanted:
                    node = self._engine.moves.change(node, wanted)
                record = self._engine.memory.timed(node)
                record.mode, record.permission = mode, wanted
                self._store(record)
            else:
                node.ctime_ns = time.time_ns()
                if node.local_only:
                    node.mode = mode
                else:
                    had = self._view.attr(node).mode & 0o200
                    node.mode = mode
                    if bool(had) != bool(mode & 0o200) or node.permission is not None:
                        node.permission = wanted
                self._keep(node)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Remembered on this machine; -1 leaves one as it is. Raises ApiError."""
        with self._changing(path) as node:
            if isinstance(node, Item):
                record = self._engine.memory.timed(node)
                record.uid = uid if uid >= 0 and uid != 0xFFFFFFFF else record.uid
                record.gid = gid if gid >= 0 and gid != 0xFFFFFFFF else record.gid
                self._store(record)
            else:
                node.ctime_ns = time.time_ns()
                node.uid = uid if uid >= 0 and uid != 0xFFFFFFFF else node.uid
                node.gid = gid if gid >= 0 and gid != 0xFFFFFFFF else node.gid
                self._keep(node)

    def utimens(self, path: str, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Remembered on this machine until the item changes; None leaves a time as it is. Raises ApiError.

        A time that 64 bits of nanoseconds don't hold becomes the nearest that they do, as disks do it.
        """
        atime_ns, mtime_ns = _held(atime_ns), _held(mtime_ns)
        with self._changing(path) as node:
            if isinstance(node, Item):
                now = self._view.attr(node)
                record = self._engine.memory.timed(node)
                record.atime_ns = now.atime_ns if atime_ns is None else atime_ns
                record.mtime_ns = now.mtime_ns if mtime_ns is None else mtime_ns
                self._store(record)
            else:
                node.ctime_ns = time.time_ns()
                node.atime_ns = node.atime_ns if atime_ns is None else atime_ns
                node.mtime_ns = node.mtime_ns if mtime_ns is None else mtime_ns
                self._keep(node)

    def assign(self, path: str, permission: Permission | None, lifecycle: Lifecycle | None) -> None:
        """Change what is given of an item on the server; unsent bytes are sent first.

        Raises FsError(EOPNOTSUPP) for a file of this machine only, ApiError.
        """
        node = self._real(path)
        if isinstance(node, Inode):
            if node.local_only:
                raise FsError(errno.EOPNOTSUPP, f"{path} is on this machine only")
            self._engine.commit(node)
            if node.item is None:
                raise FsError(errno.EBUSY, f"{path} is not on the server yet")
            node = node.item
        self._engine.moves.change(node, permission, lifecycle)

    def _store(self, record: Remembered) -> None:
        record.ctime_ns = time.time_ns()
        self._engine.memory.store(record)

    @contextlib.contextmanager
    def _changing(self, path: str) -> Iterator[Item | Inode]:
        """The node whose attributes change: an item, or an inode with its lock held whose save has not ended meanwhile."""
        node = self._real(path)
        if isinstance(node, Inode):
            with node.lock:
                if node.item is None or not node.saved:
                    yield node
                    return
                node = node.item
        yield node

    def _real(self, path: str) -> Item | Inode:
        """The node whose attributes change; a directory that no item stands for becomes a real one."""
        node = self._view.get(path)
        if not isinstance(node, Item) or not node.implicit:
            return node
        if not path:
            raise FsError(errno.EPERM)
        self._engine.stager.make_directory(path)
        self._engine.namespace.touch(path)
        return self._view.get(path, max_age=0.0)

    def _keep(self, inode: Inode) -> None:
        """Put changed attributes of a file that is not on the server yet where they survive this process."""
        if inode.local_only:
            self._local.record(inode)
            return
        changed = []
        for work in (inode.current, inode.next):
            if work is not None and not work.settled:
                save = work.save
                save.permission, save.mode = inode.permission, inode.mode
                save.uid, save.gid = inode.uid, inode.gid
                save.atime_ns, save.mtime_ns = inode.atime_ns, inode.mtime_ns
                changed.append(save)
        if changed:
            self._engine.journal.write(*changed)


def _held(time_ns: int | None) -> int | None:
    return None if time_ns is None else held_ns(time_ns)
