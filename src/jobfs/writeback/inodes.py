"""Inodes that are open or changed here, and the overlay: what this mount shows instead of the server's items.

Lock order: a name's lock (`Overlay.changing`), then inode lock, then transaction lock, then table lock (Overlay's and
InodeTable's own). No table lock is held across I/O.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from jobfs import names
from jobfs.nodes import Item, Kind, Permission, inode_number
from jobfs.writeback.records import Base

if TYPE_CHECKING:
    from jobfs.writeback.localbytes import LocalFile
    from jobfs.writeback.transaction import Transaction


class Readable(Protocol):
    """Bytes that can be read at any offset: a cached version, or a generation of local bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at `offset`, at most `size`; short only at the end. Raises ApiError."""

    def close(self) -> None:
        """No longer needed."""


class FileHandle:
    """One open of a file.

    `item` is the version that it opened, or follows now; `young`: its timestamp proves little (R1). `seen` is the version
    that whoever reads and writes through it was shown: what it saves is based on that.
    """

    __slots__ = (
        "append", "at", "at_end", "begun", "content", "edition", "epoch", "inode", "item", "readable", "seen", "writable",
        "wrote", "young",
    )  # fmt: skip

    def __init__(
        self, inode: Inode, item: Item | None, *, readable: bool, writable: bool, append: bool
    ) -> None:
        self.inode = inode
        self.item = self.seen = item
        self.readable = readable
        self.writable = writable
        self.append = append
        self.young = False
        #: True once this handle changed the file since its last flush.
        self.wrote = False
        #: True once this handle has read from the start.
        self.begun = False
        #: The last read came to the end of the file.
        self.at_end = False
        #: What the tree's edition was when this item was looked up; 0: not known.
        self.edition = 0
        #: Where it was opened, as the kernel's pages go, and when.
        self.at, self.epoch = "", 0
        self.content: Readable | None = None


class Inode:
    """A file or directory that is open, or has changes that the server does not have yet.

    `item` is the server's item it stands for; None while it exists only here. `local` holds the bytes written here;
    None means that the content is the item's. All fields are guarded by `lock`, which is not held across requests.
    """

    __slots__ = (
        "alias_of", "alias_since", "atime_ns", "base", "ctime_ns", "current", "ghost", "gid", "handles", "ino",
        "item", "kind", "link", "local", "local_only", "lock", "mode", "mtime_ns", "next", "path", "permission", "uid",
        "written",
    )  # fmt: skip

    def __init__(self, ino: int, kind: Kind, path: str, item: Item | None = None) -> None:
        self.ino = ino
        self.kind = kind
        self.path: str | None = path
        self.item = item
        self.lock = threading.RLock()
        self.local: LocalFile | None = None
        self.local_only = False
        #: What a symbolic link says; "" for everything else.
        self.link = ""
        #: For an alias under a scratch name: the path where the item still is on the server; "" once it was replaced there.
        self.alias_of: str | None = None
        #: For an alias: since when (monotonic seconds).
        self.alias_since = 0.0
        #: A directory that exists here only because its last child was just removed.
        self.ghost = False
        self.base = Base()
        self.current: Transaction | None = None
        self.next: Transaction | None = None
        self.handles: list[FileHandle] = []
        #: True if something was written since the file was made or last sealed.
        self.written = False
        self.mode = -1
        self.uid = -1
        self.gid = -1
        self.permission: Permission | None = None
        self.atime_ns = self.mtime_ns = self.ctime_ns = 0

    def touch(self) -> None:
        """The content was changed just now."""
        self.mtime_ns = self.ctime_ns = time.time_ns()
        self.written = True

    def stands_for(self, item: Item, moving: Iterable[tuple[str, str]] = ()) -> bool:
        """True if this is the file of that item, and not one that was changed here while the item is elsewhere by now.

        One that has no name any more, or one of this machine only, is not, whatever name its item may have got: but for an
        alias, whose item is where it was. `moving`: old and new names of what is being renamed here; the item may have the new
        one already.
        """
        if self.item is not None and self.item.id != item.id:
            return False
        path = self.path
        if self.local_only:
            return self.alias_of == item.path
        if path is None:
            return False
        if self.local is None or path == item.path:
            return True
        return any(
            (path == old or names.under(path, old)) and names.moved(path, old, new) == item.path
            for old, new in moving
        )

    def moved(self, item: Item) -> None:
        """Its item got another name through this mount: handles that show it go on with it as it is now."""
        self.item = item
        for handle in self.handles:
            if handle.item is not None and handle.item.id == item.id:
                if handle.seen == handle.item:
                    handle.seen = item
                handle.item = item

    @property
    def saved(self) -> bool:
        """True if everything written is on the server: what is shown is the item's."""
        return self.item is not None and self.local is None and not self.local_only

    @property
    def dirty(self) -> bool:
        """True if bytes were written here that the server does not have."""
        return self.local is not None


def new_inode_number() -> int:
    """An inode number for a file that was made here; 63 bits, never 0 or 1."""
    return secrets.randbits(62) << 1 | 3


class InodeTable:
    """Inodes by number, as long as a handle or the overlay needs them."""

    def __init__(self, natural: Callable[[Item], int]) -> None:
        """`natural(item)`: the item's number, unless a file that was changed here has it and the item is elsewhere by now."""
        self._natural = natural
        self._moving: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._by_number: dict[int, Inode] = {}
        #: Numbers, by item id, of inodes whose item had another file's number when they were made.
        self._others: dict[str, int] = {}

    def get(self, ino: int) -> Inode | None:
        """The inode of this number, if it is open or changed here."""
        return self._by_number.get(ino)

    def number(self, item: Item) -> int:
        """The item's inode number, which no other file has."""
        if self._others and (given := self._others.get(item.id)) is not None:
            inode = self._by_number.get(given)
            if inode is not None and inode.stands_for(item, self._moving):
                return given
        number, other = self._natural(item), 0
        while (inode := self._by_number.get(number)) is not None and not inode.stands_for(item, self._moving):
            other += 1
            number = inode_number(item.id, other)
        return number

    def of(self, item: Item) -> Inode | None:
        """The inode of the file that this item is, if it is open or changed here."""
        inode = self._by_number.get(self.number(item))
        return inode if inode is not None and inode.stands_for(item, self._moving) else None

    def hold(self, item: Item, path: str) -> Inode:
        """The inode of the file that this item is, made if need be."""
        with self._lock:
            number = self.number(item)
            inode = self._by_number.get(number)
            if inode is None:
                inode = self._by_number[number] = Inode(number, Kind.FILE, path, item)
                if number != self._natural(item):
                    self._others[item.id] = number
            return inode

    @contextlib.contextmanager
    def held(self, item: Item, path: str) -> Iterator[Inode]:
        """The same under its lock: one whose last save ended just now was forgotten, and is not meant."""
        while True:
            inode = self.hold(item, path)
            with inode.lock:
                if self.is_of(inode, item):
                    yield inode
                    return

    def is_of(self, inode: Inode, item: Item) -> bool:
        """True if this still is the inode that `hold` gave for the item; the caller has locked it."""
        return self.get(inode.ino) is inode and inode.stands_for(item, self._moving)

    @contextlib.contextmanager
    def moving(self, old: str, new: str) -> Iterator[None]:
        """What is at or below `old` is being renamed: meanwhile an inode has the one name and its item may have the other."""
        self._moving = [*self._moving, (old, new)]
        try:
            yield
        finally:
            moving = list(self._moving)
            moving.remove((old, new))
            self._moving = moving

    def add(self, inode: Inode) -> None:
        """Know an inode that was made here."""
        with self._lock:
            self._by_number[inode.ino] = inode

    def drop(self, inode: Inode) -> None:
        """Forget an inode that nothing needs any more."""
        with self._lock:
            if self._by_number.get(inode.ino) is inode:
                del self._by_number[inode.ino]
                for item_id in [key for key, number in self._others.items() if number == inode.ino]:
                    del self._others[item_id]

    def all(self) -> list[Inode]:
        """Every inode known now."""
        with self._lock:
            return list(self._by_number.values())


class Whiteout:
    """Stands for: this name is not shown, though the server has it (or may still have it)."""


WHITEOUT = Whiteout()

#: An inode changed here, an item shown at a name while a transaction moves it there, or a hole.
Entry = Inode | Item | Whiteout


class Overlay:
    """Names shown by this mount instead of what the server has at them."""

    def __init__(self) -> None:
        #: Grows whenever something is shown differently.
        self.changes = 0
        self._lock = threading.Lock()
        self._dirs: dict[str, dict[str, Entry]] = {}
        self._busy: set[str] = set()
        self._free = threading.Condition(threading.Lock())

    def get(self, path: str) -> Entry | None:
        """What is shown at `path` instead of the server's item; None: the server's word counts."""
        if not self._dirs:
            return None
        names_here = self._dirs.get(names.parent(path))
        return names_here.get(names.basename(path)) if names_here else None

    def put(self, path: str, entry: Entry) -> None:
        """Show `entry` at `path`."""
        with self._lock:
            self._dirs.setdefault(names.parent(path), {})[names.basename(path)] = entry
            self.changes += 1

    def remove(self, path: str, entry: Entry | None = None) -> None:
        """Show the server's word at `path` again (only if `entry` is still there, when given)."""
        with self._lock:
            here = self._dirs.get(names.parent(path))
            name = names.basename(path)
            if here is None or name not in here or (entry is not None and here[name] is not entry):
                return
            del here[name]
            if not here:
                del self._dirs[names.parent(path)]
            self.changes += 1

    def __bool__(self) -> bool:
        return bool(self._dirs)

    def children(self, directory: str) -> dict[str, Entry]:
        """A copy of what is overlaid in one directory, by name."""
        with self._lock:
            return dict(self._dirs.get(directory, {}))

    def beneath(self, directory: str) -> list[tuple[str, Entry]]:
        """Every overlaid path below `directory`."""
        with self._lock:
            return [
                (names.join(parent, name), entry)
                for parent, here in self._dirs.items()
                if parent == directory or names.under(parent, directory)
                for name, entry in here.items()
            ]

    def move_tree(self, old: str, new: str) -> None:
        """Re-key everything below `old`, which was renamed to `new`."""
        with self._lock:
            for parent in [p for p in self._dirs if p == old or names.under(p, old)]:
                here = self._dirs.pop(parent)
                self._dirs.setdefault(names.moved(parent, old, new), {}).update(here)
                for name, entry in here.items():
                    if isinstance(entry, Inode):
                        entry.path = names.join(names.moved(parent, old, new), name)
            self.changes += 1

    @contextlib.contextmanager
    def changing(self, *paths: str) -> Iterator[None]:
        """Hold these names, and everything below them, against other changes of names through this mount."""
        wanted = set(paths)
        with self._free:
            while any(_touches(path, busy) for path in wanted for busy in self._busy):
                self._free.wait()
            self._busy |= wanted
        try:
            yield
        finally:
            with self._free:
                self._busy -= wanted
                self._free.notify_all()


def _touches(one: str, other: str) -> bool:
    return one == other or names.under(one, other) or names.under(other, one)
