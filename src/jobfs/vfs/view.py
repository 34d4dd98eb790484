"""The merged view: what this mount has changed, over what the server has (semantics.md sections 1 and 2)."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable
from typing import NamedTuple

from jobfs import names
from jobfs.errors import FsError
from jobfs.nodes import Attr, Item, Kind, Permission
from jobfs.writeback import WHITEOUT, Inode, WriteBack

#: What a name stands for: an inode changed here, or the server's item.
Node = Inode | Item


class Owner(NamedTuple):
    """Whose files these are unless something else is remembered, and which mode bits are taken off by default."""

    uid: int
    gid: int
    umask: int


class View:
    """Lookups and attributes."""

    def __init__(self, engine: WriteBack, owner: Owner, local_patterns: Iterable[str]) -> None:
        self.engine = engine
        self.owner = owner
        self._patterns = tuple(local_patterns)
        self._started = time.time_ns()

    def find(self, path: str, max_age: float | None = None) -> Node | None:
        """What is at `path`, None if there is nothing. Raises ApiError if it can't be known."""
        entry = self.engine.overlay.get(path) if path else None
        if entry is WHITEOUT:
            return None
        if isinstance(entry, Inode) and entry.ghost:
            return self.engine.namespace.lookup(path, max_age) or entry
        if isinstance(entry, (Inode, Item)):
            return entry
        if path and self.is_local(names.parent(path)):
            return None
        return self.engine.namespace.lookup(path, max_age)

    def get(self, path: str, max_age: float | None = None) -> Node:
        """What is at `path`. Raises FsError(ENOENT, ENOTDIR, ENAMETOOLONG), ApiError."""
        check_name(path)
        node = self.find(path, max_age)
        if node is None:
            above = self.find(names.parent(path))
            raise FsError(errno.ENOTDIR if above is not None and not is_dir(above) else errno.ENOENT)
        return node

    def directory(self, path: str) -> Node:
        """The directory at `path`. Raises FsError(ENOENT, ENOTDIR), ApiError."""
        node = self.get(path)
        if not is_dir(node):
            raise FsError(errno.ENOTDIR)
        return node

    def is_local(self, directory: str) -> bool:
        """True if `directory` lives on this machine only."""
        while directory:
            entry = self.engine.overlay.get(directory)
            if isinstance(entry, Inode) and entry.local_only:
                return True
            directory = names.parent(directory)
        return False

    def stays_here(self, path: str) -> bool:
        """True if a file made at `path` stays on this machine (semantics.md section 4, Scratch names)."""
        return names.is_scratch(names.basename(path), self._patterns) or self.is_local(names.parent(path))

    def list(self, path: str) -> dict[str, Node]:
        """The directory's entries by name. Raises FsError(ENOENT, ENOTDIR), ApiError."""
        node = self.directory(path)
        children: dict[str, Node] = {}
        if isinstance(node, Item):
            children.update(self.engine.namespace.children(path))
        for name, entry in self.engine.overlay.children(path).items():
            if entry is WHITEOUT:
                children.pop(name, None)
            elif is_hidden_open(name, entry):
                continue
            elif isinstance(entry, Inode) and entry.ghost:
                children.setdefault(name, entry)
            elif isinstance(entry, (Inode, Item)):
                children[name] = entry
        return children

    # -- attributes (semantics.md section 2)

    def attr(self, node: Node) -> Attr:
        """What `stat` shows of a node."""
        if isinstance(node, Item):
            return self._item_attr(node)
        if node.local is None and node.item is not None and not node.local_only:
            return self._item_attr(node.item)._replace(ino=node.ino)
        return self._inode_attr(node)

    def _item_attr(self, item: Item) -> Attr:
        memory = self.engine.memory
        record = memory.of(item)
        mode, uid, gid = self.default_mode(item), self.owner.uid, self.owner.gid
        changed = item.updated_ns or self._started
        atime, mtime = changed, changed
        if record is not None:
            if record.mode >= 0:
                mode = with_permission(record.mode, record.permission, item.permission)
            uid = record.uid if record.uid >= 0 else uid
            gid = record.gid if record.gid >= 0 else gid
            if record.updated_at == item.updated_at:
                atime = record.atime_ns if record.atime_ns >= 0 else atime
                mtime = record.mtime_ns if record.mtime_ns >= 0 else mtime
        kind = stat.S_IFDIR if item.is_dir else stat.S_IFREG
        size = 0 if item.is_dir else self.size(item)
        links = 2 if item.is_dir else 1
        return Attr(memory.ino(item), kind | mode, links, uid, gid, size, atime, mtime, changed)

    def size(self, item: Item) -> int:
        """The item's size in bytes; what was learned by reading it where the server does not say."""
        if item.size is not None:
            return item.size
        return self.engine.content.learned_size(item.version) or 0

    def default_mode(self, item: Item) -> int:
        """The mode that permission and type give, less the umask."""
        mode = 0o755 if item.is_dir else 0o644
        if item.read_only:
            mode &= ~0o222
        return mode & ~self.owner.umask

    def _inode_attr(self, inode: Inode) -> Attr:
        directory = inode.kind is Kind.DIRECTORY
        local = inode.local
        size = local.size if local is not None else (self.size(inode.item) if inode.item else 0)
        mode = inode.mode if inode.mode >= 0 else (0o755 if directory else 0o644) & ~self.owner.umask
        if inode.permission is not None:
            mode = with_permission(mode, None, inode.permission)
        uid = inode.uid if inode.uid >= 0 else self.owner.uid
        gid = inode.gid if inode.gid >= 0 else self.owner.gid
        kind = stat.S_IFDIR if directory else stat.S_IFREG
        times = (inode.atime_ns, inode.mtime_ns, inode.ctime_ns)
        if not inode.mtime_ns and inode.item is not None:
            times = (inode.item.updated_ns,) * 3
        return Attr(inode.ino, kind | mode, 2 if directory else 1, uid, gid, 0 if directory else size, *times)

    # -- what may be changed (semantics.md section 4, readOnly items)

    def may_write(self, node: Node) -> None:
        """Raises FsError(EACCES) if the content may not be changed."""
        if self.read_only(node):
            raise FsError(errno.EACCES)

    def may_enter(self, directory: Node) -> None:
        """Raises FsError(EACCES) if nothing may be made or removed in `directory`."""
        if self.read_only(directory):
            raise FsError(errno.EACCES)

    def may_replace(self, node: Node) -> None:
        """Raises FsError(EPERM) if the item may not be removed, renamed or replaced."""
        if self.read_only(node):
            raise FsError(errno.EPERM)

    def read_only(self, node: Node) -> bool:
        """True if the API (or a wish not yet sent) says readOnly."""
        if isinstance(node, Item):
            return node.read_only
        if node.permission is not None:
            return node.permission is Permission.READ_ONLY
        return node.item is not None and node.item.read_only and not node.local_only


def is_dir(node: Node) -> bool:
    """True for a directory."""
    return node.kind is Kind.DIRECTORY


def is_hidden_open(name: str, entry: object) -> bool:
    """True for what libfuse made of a file that was unlinked while open: nobody sees it but its handles."""
    return isinstance(entry, Inode) and entry.local_only and names.is_fuse_hidden(name)


def check_name(path: str) -> None:
    """Raises FsError(ENAMETOOLONG, EINVAL) for a path that the API can't hold (wire-facts.md)."""
    if len(path) > names.PATH_MAX or len(os.fsencode(names.basename(path))) > names.NAME_MAX:
        raise FsError(errno.ENAMETOOLONG)


def with_permission(mode: int, remembered: Permission | None, now: Permission) -> int:
    """A remembered mode, its write bits made to agree with the permission if that has changed since."""
    if remembered is now:
        return mode
    return mode & ~0o222 if now is Permission.READ_ONLY else mode | 0o200
