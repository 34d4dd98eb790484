"""What a path shows: a File with local bytes, else the override of a Change, else the server's item (design.md)."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TypeGuard

from jobfs import names
from jobfs.errors import FsError, NotFoundError
from jobfs.namespace.remote import COULD_NOT_ASK
from jobfs.nodes import Attr, Item, Kind, Permission, implicit_directory
from jobfs.save import WriteBack
from jobfs.settings import Settings
from jobfs.state import File
from jobfs.state.records import UNSET

#: What a path shows: a File of this machine, or the server's item.
Node = File | Item


class View:
    """Decides what each path of a mount shows, with which attributes. Every method may be called from any thread."""

    def __init__(self, write_back: WriteBack, settings: Settings) -> None:
        self.settings = settings
        self.write_back = write_back
        self.state = write_back.state
        self.namespace = write_back.namespace
        self.content = write_back.content
        self.touch_directory = write_back.context.touch_directory
        self.keep_parent = write_back.context.keep_implicit_parent
        self._started = time.time_ns()

    @property
    def edition(self) -> int:
        """A number that grows when any path shows something else: while it stays, `find_known` returns the same."""
        return self.namespace.edition + self.state.index.edition

    def find(self, path: str, max_age: float | None = None) -> Node | None:
        """Return what `path` shows, None if it shows nothing. Raises ApiError if that can't be known.

        `max_age`: how old, in seconds, an answer of the server may be; None: as old as the TTL allows.
        """
        state = self.state
        if not path or not state.overrides_namespace:
            return self.namespace.lookup(path, max_age)
        file = state.index.file_at(path)
        if is_shown_locally(file):
            return file
        if file is None:
            if state.index.has_override(path):
                return state.index.item_shown_by_override(path)
            if self._is_absent_on_server(names.parent(path)):
                return None
        return self._find_on_server_or_known(path, file, max_age)

    def _find_on_server_or_known(
        self, path: str, local_directory: File | None, max_age: float | None
    ) -> Node | None:
        """Return the server's item at `path`; in an outage, what is known here. Raises ApiError if nothing is known.

        `local_directory`: the File of a directory at `path`, if there is one; it may have no item yet.
        """
        try:
            return self.namespace.lookup(path, max_age) or local_directory
        except COULD_NOT_ASK:
            if local_directory is not None:
                return local_directory  # even if the job may have put something else there
            if max_age is not None or not self.state.index.local_files_below(path):
                raise
            # However old the answer is: this directory leads to a File that only this machine has.
            return self.namespace.peek(path) or implicit_directory(path)

    def _is_absent_on_server(self, directory: str) -> bool:
        """Return whether the server has nothing in a directory: it is local only, or not yet made on the server."""
        file = self.state.index.file_at(directory) if directory else None
        return self.is_local_directory(directory) or (file is not None and file.needs_create)

    def get(self, path: str, max_age: float | None = None) -> Node:
        """Return what `path` shows; `max_age` as in `find`. Raises FsError(ENOENT, ENOTDIR), ApiError."""
        node = self.find(path, max_age)
        if node is None:
            # The kernel has just looked up the directory above, so the right errno needs no request.
            above = self.find_known(names.parent(path))
            raise FsError(errno.ENOTDIR if above is not None and not is_dir(above) else errno.ENOENT)
        return node

    def find_cached(self, path: str) -> Node | None:
        """Return what `find` would return for a directory entry, if that needs no request; else None."""
        file = self.state.index.file_at(path)
        if is_shown_locally(file):
            return file
        if file is None and self.state.index.has_override(path):
            return self.state.index.item_shown_by_override(path)
        return self.namespace.cached_lookup(path) or file

    def find_known(self, path: str) -> Node | None:
        """Return what `path` showed last, without a request and without overrides; None if nothing is known."""
        file = self.state.index.file_at(path) if path else None
        return file or self.namespace.peek(path)

    def get_directory(self, path: str) -> Node:
        """Return the directory at `path`. Raises FsError(ENOENT, ENOTDIR), ApiError."""
        node = self.get(path)
        if not is_dir(node):
            raise FsError(errno.ENOTDIR)
        return node

    def is_local_directory(self, directory: str) -> bool:
        """Return whether a directory, or one above it, is local only."""
        while directory:
            file = self.state.index.file_at(directory)
            if file is not None and file.never_sent:
                return True
            directory = names.parent(directory)
        return False

    def is_local_only(self, path: str) -> bool:
        """Return whether a file made at `path` would be local only (vfs/semantics.md 4, Scratch names)."""
        return names.is_scratch(names.basename(path), self.settings.local_only) or self.is_local_directory(
            names.parent(path)
        )

    def list(self, path: str) -> dict[str, Node]:
        """Return a directory's entries by name. Raises FsError(ENOENT, ENOTDIR), ApiError."""
        node = self.get_directory(path)
        # The tables are read first: an item that is placed in between moves from them to the namespace, never back.
        files, overrides = self.state.index.children_of(path)
        children: dict[str, Node] = dict(self._server_children(path)) if isinstance(node, Item) else {}
        for name, item in overrides.items():
            if item is None:
                children.pop(name, None)
            else:
                children[name] = item
        for name, file in files.items():
            if is_shown_locally(file):
                children[name] = file
            else:
                children.setdefault(name, file)
        return children

    def _server_children(self, path: str) -> dict[str, Item]:
        """Return the server's items in a directory; in an outage, those of the last listing if Files are below.

        Raises ApiError.
        """
        try:
            return self.namespace.children(path)
        except COULD_NOT_ASK:
            listed = self.namespace.peek_children(path) if self.state.index.local_files_below(path) else None
            if listed is None:
                raise
            return listed

    # -- attributes (vfs/semantics.md 2)

    def attr_of_node(self, node: Node) -> Attr:
        """Return what `stat` shows of a node."""
        if isinstance(node, Item):
            return self._item_attr(node)
        if node.item is not None and not node.overrides_server and node.path is not None:
            return self._item_attr(node.item)._replace(ino=node.ino)
        return self._file_attr(node)

    def _item_attr(self, item: Item) -> Attr:
        mode = self._default_mode(item) & (~0o222 if item.is_read_only else -1)
        changed = item.updated_ns or self._started
        uid, gid = self.settings.uid, self.settings.gid
        times = (changed, changed, changed)
        file = self.state.index.file_of(item)
        ino = self.state.index.inode_of(item) if file is None else file.ino
        if file is not None and not file.overrides_server:
            if file.mode >= 0:
                mode = adjust_write_bits(file.mode, file.permission, item.permission)
            uid, gid = self._owner(file)
            if file.version == item.updated_at:
                times = _remembered_times(file, changed)
        if item.kind is Kind.DIRECTORY:
            seen = self.namespace.names_changed_at(item)
            times = (times[0], max(times[1], seen), max(times[2], seen))
            return Attr(ino, stat.S_IFDIR | mode, 1, uid, gid, 0, *times)
        return Attr(ino, stat.S_IFREG | mode, 1, uid, gid, self.size_or_zero(item), *times)

    def _default_mode(self, node: Node) -> int:
        """Return the mode of a node for which no mode is remembered."""
        return (0o755 if is_dir(node) else 0o644) & ~self.settings.umask

    def _owner(self, file: File) -> tuple[int, int]:
        """Return the owner and the group that are remembered of a File, else those of the mount."""
        uid, gid = self.settings.uid, self.settings.gid
        return file.uid if file.uid >= 0 else uid, file.gid if file.gid >= 0 else gid

    def size_or_zero(self, item: Item) -> int:
        """Return the item's size in bytes, 0 if it is not known yet (see `ensure_size_known`)."""
        return self.content.known_size(item) or 0

    def ensure_size_known(self, path: str, node: Node) -> Node:
        """Return `node` once its size is known; if its item is gone, do so for what `path` shows then (2.2).

        Raises ApiError, FsError.
        """
        item = self.item_without_size(node)
        if item is None:
            return node
        try:
            self.content.measure_size(item)
            return node
        except NotFoundError:
            replacement = self.get(path, max_age=0.0)
            if self.item_without_size(replacement) == item:
                raise
            return self.ensure_size_known(path, replacement)

    def item_without_size(self, node: Node) -> Item | None:
        """Return the item whose content a node shows, if its size is not known; else None."""
        item = node if isinstance(node, Item) else node.item if node.local is None else None
        if item is None or item.is_dir or item.size is not None:
            return None
        return item if self.content.known_size(item) is None else None

    def _file_attr(self, file: File) -> Attr:
        uid, gid = self._owner(file)
        times = _remembered_times(file, file.item.updated_ns if file.item is not None else self._started)
        mode = file.mode if file.mode >= 0 else self._default_mode(file)
        if is_dir(file):
            return Attr(file.ino, stat.S_IFDIR | mode, 1, uid, gid, 0, *times)
        if file.link:
            return Attr(file.ino, stat.S_IFLNK | 0o777, 1, uid, gid, len(os.fsencode(file.link)), *times)
        size = self.size_or_zero(file.item) if file.item is not None else 0
        size = file.local.size if file.local is not None else size
        return Attr(file.ino, stat.S_IFREG | mode, 0 if file.path is None else 1, uid, gid, size, *times)

    # -- attributes of nodes that are changed here

    def touch_node(self, node: Node) -> None:
        """Set the ctime of a renamed node to now."""
        if isinstance(node, Item):
            self.state.set_times(node)
        elif node.overrides_server or node.item is None:
            self.state.apply_in_memory(node, ctime_ns=time.time_ns())
        else:
            self.state.set_times(node.item)

    def freeze_attributes(self, node: Node) -> dict[str, int]:
        """Return the attributes that a node shows, with its ctime set to now, for a File to keep from now on."""
        attr = self.attr_of_node(node)
        shown = {name: getattr(attr, name) for name in ("uid", "gid", "atime_ns", "mtime_ns")}
        return {**shown, "mode": attr.mode & 0o7777, "ctime_ns": time.time_ns()}

    # -- what may be changed (vfs/semantics.md 4, readOnly items)

    def check_may_change(self, *paths: str) -> None:
        """Raise FsError(EROFS) on a read-only mount, FsError(EPERM) for paths in the control directory.

        Else make room for the change (4.41); so call this with no lock held.
        """
        if self.settings.read_only:
            raise FsError(errno.EROFS)
        if any(names.name_in_control_dir(path) is not None for path in paths):
            raise FsError(errno.EPERM)
        self.write_back.context.make_room()

    def check_may_write(self, node: Node) -> None:
        """Raise FsError(EACCES) if a file's content may not change, or a directory's entries."""
        if self.is_read_only(node):
            raise FsError(errno.EACCES)

    def check_may_replace(self, node: Node) -> None:
        """Raise FsError(EPERM) if a node may not be removed, renamed or replaced (4.38).

        A permission that was set by `chmod` in this mount does not forbid it (4.39).
        """
        if not self.is_read_only(node):
            return
        file = self.state.index.file_of(node) if isinstance(node, Item) else node
        set_here = file is not None and file.mode >= 0 and file.permission is Permission.READ_ONLY
        if not set_here and (file is None or file.pending_permission is None):
            raise FsError(errno.EPERM)

    def is_read_only(self, node: Node) -> bool:
        """Return whether a node is readOnly by its pending permission, or else by its item."""
        if isinstance(node, Item):
            return node.is_read_only
        if node.pending_permission is not None:
            return node.pending_permission is Permission.READ_ONLY
        return node.item is not None and node.item.is_read_only and not node.never_sent


def _remembered_times(file: File, otherwise: int) -> tuple[int, int, int]:
    """Return atime, mtime and ctime as they are remembered, each `otherwise` if it is not, in ns since the epoch."""
    atime, mtime, ctime = (
        otherwise if time_ns == UNSET else time_ns
        for time_ns in (file.atime_ns, file.mtime_ns, file.ctime_ns)
    )
    return atime, mtime, ctime


def is_shown_locally(file: File | None) -> TypeGuard[File]:
    """Return whether a File is shown at its path whatever the server has there; a directory is so only if it is local only."""
    return file is not None and (file.never_sent or file.kind is not Kind.DIRECTORY)


def is_dir(node: Node) -> bool:
    """Return whether a node is a directory."""
    return node.kind is Kind.DIRECTORY


def check_new_name(path: str) -> None:
    """Raise FsError(ENAMETOOLONG) for a path that the API can't hold (api/wire.md), FsError(EPERM) for a hidden name.

    The server may count a slash before the path. A hidden name would be shown in no mount.
    """
    if names.path_length(path) >= names.PATH_MAX or len(os.fsencode(names.basename(path))) > names.NAME_MAX:
        raise FsError(errno.ENAMETOOLONG)
    if names.parse_hidden_name(names.basename(path)) is not None:
        raise FsError(errno.EPERM)


def adjust_write_bits(mode: int, old_permission: Permission | None, permission: Permission) -> int:
    """Return a remembered mode; if the permission was another then, its write bits follow `permission`."""
    if old_permission is permission:
        return mode
    return mode & ~0o222 if permission is Permission.READ_ONLY else mode | 0o200
