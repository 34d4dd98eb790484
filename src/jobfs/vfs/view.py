"""The merged view: what this mount has changed, over what the server has (semantics.md sections 1 and 2)."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable
from typing import NamedTuple

from jobfs import names
from jobfs.content import StaleVersionError
from jobfs.errors import FsError, NotFoundError
from jobfs.nodes import Attr, Item, Kind, Permission
from jobfs.writeback import WHITEOUT, Inode, WriteBack
from jobfs.writeback.inodes import new_inode_number
from jobfs.writeback.records import UNSET, Remembered

#: Most versions whose size is asked for before one is shown.
_MEASURES = 3

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

    def edition(self) -> int:
        """A number that stays the same while every lookup would be answered as before; 0 if that can't be said."""
        engine = self.engine
        edition = engine.namespace.edition()
        if not edition or engine.hiding.pending:
            return 0
        return edition + engine.overlay.changes + engine.memory.changes

    def find(self, path: str, max_age: float | None = None) -> Node | None:
        """What is at `path`, None if there is nothing. Raises ApiError if it can't be known."""
        if not self.engine.overlay:
            return self.engine.namespace.lookup(path, max_age)
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
            # Whoever gets here has just looked up what is above: nothing needs to be asked for the right words.
            above = self.find_known(names.parent(path))
            raise FsError(errno.ENOTDIR if above is not None and not is_dir(above) else errno.ENOENT)
        return node

    def find_known(self, path: str) -> Node | None:
        """What was last shown at `path`; no request."""
        entry = self.engine.overlay.get(path) if path else None
        return entry if isinstance(entry, (Inode, Item)) else self.engine.namespace.peek(path)

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

    def keep_parent(self, path: str) -> None:
        """A directory that no item stands for goes on being shown after its last child was removed here."""
        above = names.parent(path)
        if not above or self.engine.overlay.get(above) is not None:
            return
        if self.engine.namespace.peek(above) is None:
            ghost = Inode(new_inode_number(), Kind.DIRECTORY, above)
            ghost.ghost = True
            ghost.touch()
            self.engine.overlay.put(above, ghost)
            self.keep_parent(above)

    # -- attributes (semantics.md section 2)

    def attr(self, node: Node) -> Attr:
        """What `stat` shows of a node."""
        if isinstance(node, Item):
            return self._item_attr(node)
        if node.local is None and node.item is not None and not node.local_only and node.path is not None:
            return self._item_attr(node.item)._replace(ino=node.ino)
        return self._inode_attr(node)

    def _item_attr(self, item: Item) -> Attr:
        record = self.engine.memory.of(item)
        mode, uid, gid = self._owned(item, record)
        atime = mtime = ctime = item.updated_ns or self._started
        if record is not None and record.updated_at == item.updated_at:
            atime = record.atime_ns if record.atime_ns != UNSET else atime
            mtime = record.mtime_ns if record.mtime_ns != UNSET else mtime
            ctime = record.ctime_ns if record.ctime_ns != UNSET else ctime
        kind = stat.S_IFDIR if item.is_dir else stat.S_IFREG
        size = 0 if item.is_dir else self.size(item)
        links = self._links(item.path) if item.is_dir else 1
        return Attr(self.engine.table.number(item), kind | mode, links, uid, gid, size, atime, mtime, ctime)

    def _owned(self, item: Item, record: Remembered | None) -> tuple[int, int, int]:
        """Mode bits, owner and group."""
        mode, uid, gid = self.default_mode(item), self.owner.uid, self.owner.gid
        if record is None:
            return mode, uid, gid
        if record.mode >= 0:
            mode = with_permission(record.mode, record.permission, item.permission)
        return mode, record.uid if record.uid >= 0 else uid, record.gid if record.gid >= 0 else gid

    def _links(self, path: str) -> int:
        """A directory's link count as on a disk: two, and one more for each directory known to be in it."""
        count = 2 + self.engine.namespace.directories(path)
        for entry in self.engine.overlay.children(path).values():
            count += isinstance(entry, Inode) and is_dir(entry) and not entry.ghost
        return count

    def size(self, item: Item) -> int:
        """The item's size in bytes; what was learned by reading it where the server does not say."""
        if item.size is not None:
            return item.size
        return self.engine.content.learned_size(item.version) or 0

    def measured(self, path: str, node: Node) -> Node:
        """`node`, or what is at `path` by now, with a size that `attr` can show. Raises ApiError, FsError if it can't be had.

        Programs that copy as many bytes as `stat` says (tar, rsync, git) must not take a file of unknown size for an empty one.
        """
        for _ in range(_MEASURES):
            item = self._unmeasured(node)
            if item is None:
                break
            try:
                self.engine.content.measure(item)
                break
            except (StaleVersionError, NotFoundError):
                again = self.get(path, max_age=0.0)
                if self._unmeasured(again) == item:
                    break  # listed, but the server has no content of it
                node = again
        return node

    def _unmeasured(self, node: Node) -> Item | None:
        """The item whose content is shown, if neither it nor a download has told its size."""
        item = node if isinstance(node, Item) else node.item if node.local is None else None
        if item is None or item.is_dir or item.size is not None:
            return None
        return item if self.engine.content.learned_size(item.version) is None else None

    def is_old(self, item: Item, path: str) -> bool:
        """True if a later version of the item's file was saved since it was looked up at this path."""
        if not self.engine.memory.superseded(item):
            return False
        there = self.engine.namespace.peek(path)
        return there is None or there.id != item.id

    def size_holds(self, item: Item) -> bool:
        """True if the size is known, and so was the right one in every `stat` of this version."""
        return item.size is not None or self.engine.content.learned_size(item.version) is not None

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
        if not inode.ctime_ns and inode.item is not None:
            times = (inode.item.updated_ns,) * 3
        if directory:
            return Attr(inode.ino, kind | mode, self._links(inode.path or ""), uid, gid, 0, *times)
        if inode.link:
            mode, size = stat.S_IFLNK | 0o777, len(os.fsencode(inode.link))
            return Attr(inode.ino, mode, 1, uid, gid, size, *times)
        gone = inode.path is None or is_hidden_open(names.basename(inode.path), inode)
        return Attr(inode.ino, kind | mode, 0 if gone else 1, uid, gid, size, *times)

    # -- times and owners of what is changed here

    def touch(self, node: Node) -> None:
        """Its change time is now: it got another name, or lost one."""
        if isinstance(node, Inode):
            with node.lock:
                node.ctime_ns = time.time_ns()
                if node.local is not None or node.item is None or node.local_only:
                    return
                node = node.item
        self.engine.memory.touch(node)

    def touch_directory(self, path: str) -> None:
        """Something was made, renamed or removed in it: its times are now."""
        entry = self.engine.overlay.get(path) if path else None
        if isinstance(entry, Inode):
            with entry.lock:
                entry.mtime_ns = entry.ctime_ns = time.time_ns()
            return
        item = self.engine.namespace.peek(path)
        if item is not None and item.is_dir:
            self.engine.memory.touch(item, content=True)

    def freeze(self, inode: Inode) -> None:
        """The last name of an open file goes: its handles go on seeing its attributes as they are."""
        attr = self.attr(inode)
        inode.mode, inode.uid, inode.gid = attr.mode & 0o7777, attr.uid, attr.gid
        inode.atime_ns, inode.mtime_ns, inode.ctime_ns = attr.atime_ns, attr.mtime_ns, time.time_ns()

    def inherited(self, path: str, mode: int, uid: int, gid: int, *, directory: bool) -> tuple[int, int, int]:
        """Mode, owner and group of what `uid` and `gid` make at `path`: a set-group directory hands on its group."""
        node = self.get(names.parent(path))
        if isinstance(node, Item):
            above, _, group = self._owned(node, self.engine.memory.of(node))
        else:
            above, group = max(node.mode, 0), node.gid
        if not above & stat.S_ISGID:
            return mode & 0o7777, uid, gid
        return (mode & 0o7777) | (stat.S_ISGID if directory else 0), uid, group

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
        """Raises FsError(EPERM) if the item may not be removed, renamed or replaced.

        A mode without write permission that was given here does not forbid that: on a disk the directory's mode decides.
        """
        if self.read_only(node) and not self._closed_here(node):
            raise FsError(errno.EPERM)

    def _closed_here(self, node: Node) -> bool:
        """True if the item is readOnly because of a `chmod` on this machine."""
        if isinstance(node, Inode):
            if node.permission is not None:
                return True
            if node.item is None:
                return False
            node = node.item
        record = self.engine.memory.of(node)
        return record is not None and record.mode >= 0 and record.permission is Permission.READ_ONLY

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
    if len(path) <= names.NAME_MAX // 4:
        return
    if names.path_length(path) > names.PATH_MAX or len(os.fsencode(names.basename(path))) > names.NAME_MAX:
        raise FsError(errno.ENAMETOOLONG)


def check_new_name(path: str) -> None:
    """As `check_name`, and raises FsError(EPERM) for a name that no mount would show: what saves under way have.

    The server may count the slash that it has paths begin with.
    """
    check_name(path)
    if names.path_length(path) >= names.PATH_MAX:
        raise FsError(errno.ENAMETOOLONG)
    if names.parse_hidden(names.basename(path)) is not None:
        raise FsError(errno.EPERM)


def with_permission(mode: int, remembered: Permission | None, now: Permission) -> int:
    """A remembered mode, its write bits made to agree with the permission if that has changed since."""
    if remembered is now:
        return mode
    return mode & ~0o222 if now is Permission.READ_ONLY else mode | 0o200
