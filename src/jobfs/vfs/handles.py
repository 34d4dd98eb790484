"""Open files: the version that each shows, pinned when it is opened, followed where that is right; and what the kernel's pages
hold (vfs/semantics.md 3, Open files are pinned).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
from pathlib import Path
from typing import NamedTuple

from cachetools import LRUCache

from jobfs import names
from jobfs.content import Content, StaleVersionError
from jobfs.errors import FsError, NotFoundError
from jobfs.nodes import Item, Version
from jobfs.state.localbytes import Local
from jobfs.state.records import Handle, Readable
from jobfs.vfs.view import View

#: Versions that are opened one after another, at most, when the file keeps changing.
REOPENS = 3
#: A file up to this size, in bytes, is looked at when it is opened; a larger one is fetched meanwhile, or as it is read.
_AT_ONCE = 1 << 20
#: Seconds since a larger one was looked up after which it is looked at again.
_RECENT = 0.25
#: Bytes before a reader's place by which a file that was appended to is known.
_TAIL = 4096
#: Paths whose pages are remembered.
_MOST = 16_384


class OpenResult(NamedTuple):
    """The number of a new handle, and how the kernel caches its bytes."""

    fh: int
    direct_io: bool = False
    keep_cache: bool = False


class KernelFile(NamedTuple):
    """What the kernel has of a file that it opens: its size in bytes, None if that is unknown.

    `is_retry`: an open has just failed with ESTALE, and this one comes after the kernel has looked the name up again.
    """

    size: int | None
    is_retry: bool = False


class Caller(NamedTuple):
    """The user, group and process that make a call."""

    uid: int
    gid: int
    pid: int


class Fixed(NamedTuple):
    """The bytes of the file `name` in the control directory, as they were made for one handle."""

    name: str
    content: bytes

    def read(self, offset: int, size: int) -> bytes:
        """See Readable."""
        return self.content[offset : offset + size]

    def close(self) -> None:
        """See Readable."""


class KernelPages:
    """The open files, and what the kernel's own pages of a file may be trusted to hold when it is opened again (`keep_cache`).

    The kernel keeps pages by node. For libfuse a node is a path, until the node has lost that path. So the version opened last at
    a path is remembered, and only while neither another version nor a writer is open there. Thread-safe; its lock is a leaf.
    """

    def __init__(self) -> None:
        #: By the number that the kernel has of each; changed by `add` and `remove`.
        self.handles: dict[int, Handle] = {}
        self._numbers = itertools.count(1)
        #: By the path of the node at which each is open. Tuples, so that `at` needs no lock.
        self._at: dict[str, tuple[Handle, ...]] = {}
        self._lock = threading.Lock()
        self._held: LRUCache[str, Version] = LRUCache(_MOST)

    def add(self, handle: Handle) -> int:
        """Number a handle; it is at no path before `opened`."""
        fh = next(self._numbers)
        self.handles[fh] = handle
        return fh

    def remove(self, fh: int) -> Handle | None:
        """Forget a handle that is closed; None if it was forgotten before."""
        with self._lock:
            handle = self.handles.pop(fh, None)
            if handle is not None:
                self._put(handle, "")
            return handle

    def opened(self, handle: Handle, path: str, version: Version | None) -> bool:
        """A file is opened; None: to be written, or of unknown content. True if the kernel's pages of it hold this version."""
        with self._lock:
            self._put(handle, path)
            there = self.at(path)
            for each in there if len(there) > 1 else ():
                each.served = each.readable  # the kernel gives one the pages that it has read for the other
            if version is None or not all(each.reads(version) for each in there):
                self._held.pop(path, None)
                return False
            if self._held.get(path) == version:
                return True
            self._held[path] = version
            return False

    def at(self, path: str) -> tuple[Handle, ...]:
        """The handles that are open at the node of a path."""
        return self._at.get(path, ())

    def any_within(self, path: str) -> bool:
        """True if a handle is open at a path or below it."""
        return path in self._at or any(names.under(at, path) for at in [*self._at])

    def only(self, path: str, version: Version | None) -> bool:
        """True if no other version of the server than this is open at a path."""
        return all(handle.item is None or handle.item.version == version for handle in self.at(path))

    def unsure(self, path: str) -> None:
        """An open file goes on with another version."""
        with self._lock:
            self._held.pop(path, None)

    def part(self, path: str) -> None:
        """The kernel's node at a path has lost the path, with all handles there: another node will be at the path."""
        with self._lock:
            self._held.pop(path, None)
            for handle in self.at(path):
                self._put(handle, "")

    def moved(self, old: str, new: str, *, directory: bool) -> None:
        """The kernel's node at `old`, and those below a `directory`, have moved to `new`; the node that was there has no path."""
        with self._lock:
            for path in [*self._held] if directory else (old, new):
                self._held.pop(path, None)
            there, coming = self._within(new, directory=directory), self._within(old, directory=directory)
            for handle in there:
                self._put(handle, "")
            for handle in coming:
                self._put(handle, names.moved(handle.at, old, new))

    def _within(self, path: str, *, directory: bool) -> list[Handle]:
        """The handles at a path, and those below a `directory`."""
        paths = [at for at in self._at if names.within(at, path)] if directory else [path]
        return [handle for at in paths for handle in self.at(at)]

    def _put(self, handle: Handle, path: str) -> None:
        """Keep a handle at a path; "" takes it out. Called with the lock held."""
        left = tuple(other for other in self.at(handle.at) if other is not handle)
        if left:
            self._at[handle.at] = left
        else:
            self._at.pop(handle.at, None)
        handle.at = path
        if path:
            self._at[path] = (*self.at(path), handle)


class Pins:
    """The versions behind handles."""

    def __init__(self, view: View, pages: KernelPages) -> None:
        self._view, self._pages = view, pages

    def shown(self, handle: Handle) -> None:
        """Note that the program of a handle may read the version that the handle shows (section 4.42)."""
        file = handle.file
        if handle.readable and file.shared and file.path is not None:
            readers = self._view.state.readers
            if file.local is None and handle.item is not None:
                readers.read(handle.process, file.path, handle.item)
            else:
                readers.wrote(handle.process, file.path, file.item, file.base, read=True)

    def meet(self, handle: Handle) -> None:
        """Have the first bytes of a file that is about to be read: the server may have a longer version by now than the kernel
        is told of. A large file is looked up instead: any part may be wanted first. Raises ApiError.
        """
        content = handle.content
        if handle.item is None or not isinstance(content, Content) or content.whole:
            return
        if (content.size or 0) > _AT_ONCE:
            self.follow(handle, max_age=_RECENT, opening=True)
            return
        try:
            content.meet()
        except (StaleVersionError, NotFoundError):
            if not self.follow(handle, max_age=0.0, opening=True):
                raise

    def secure(self, handle: Handle) -> None:
        """Have the version that is to be edited here, a large one soon: the job may replace it. Raises ApiError, FsError."""
        content = handle.content
        if not isinstance(content, Content) or content.whole:
            return
        if (content.size or 0) > _AT_ONCE:
            self._view.content.fetch_in_background(content)
        else:
            self.whole(handle, opening=True)

    def whole(self, handle: Handle, *, opening: bool = False) -> tuple[Readable | None, Path | None]:
        """What the handle has open, and where all of its bytes are on this machine. Raises ApiError."""
        for _ in range(REOPENS):
            content = handle.content
            if isinstance(content, Local):
                return content, content.source
            if not isinstance(content, Content):
                return None, None
            try:
                return content, content.fetch()
            except (StaleVersionError, NotFoundError):
                if (handle.served and not opening) or not self.follow(handle, max_age=0.0, opening=opening):
                    raise
        raise FsError(errno.EIO, "the file keeps changing while it is opened for writing")

    def lost(self, handle: Handle, place: int) -> bool:
        """The pinned version is gone. True if the program goes on with another: it has got nothing yet, or reads a log."""
        if not handle.served:
            return self.follow(handle, max_age=0.0)
        if handle.follows:
            return self.grow(handle, place, max_age=0.0)
        if handle.file.path is not None:
            self._view.namespace.touch(handle.file.path)  # the next open gets the version that is there now
        return False

    def follow(self, handle: Handle, max_age: float, *, opening: bool = False) -> bool:
        """Go on with the version that is there now, if it is another: the program has got nothing of the one that it opened,
        and if it is `opening`, was told nothing of it. Raises FsError, ApiError.
        """
        item = self._newer(handle, max_age, opening=opening)
        if item is None:
            return False
        self._go_on(handle, item, self._view.content.open(item), opening=opening)
        return True

    def grow(self, handle: Handle, place: int, max_age: float | None = None) -> bool:
        """Go on from `place`, the end, with a newer version if that goes on there (3.14). Raises FsError, ApiError."""
        if handle.writable:
            return False  # its saves are based on what it has read
        for age in (max_age, 0.0):
            with contextlib.suppress(StaleVersionError, NotFoundError):  # the listed version has gone since
                return self._grows(handle, place, age)
        return False

    def _grows(self, handle: Handle, place: int, max_age: float | None) -> bool:
        item = self._newer(handle, max_age)
        if item is None or item.version == handle.left:
            return False
        with contextlib.ExitStack() as stack:
            newer = stack.enter_context(self._view.content.open(item))
            if self._is_continued(handle, place, newer):
                stack.pop_all()
                self._go_on(handle, item, newer)
                handle.follows = True
                return True
        handle.left = item.version
        return False

    def _is_continued(self, handle: Handle, place: int, newer: Content) -> bool:
        """True if `newer` is what the handle has open, with more behind it. Raises ApiError, FsError."""
        if handle.item is None or (newer.size or 0) <= max(place, self._view.size(handle.item)):
            return False
        start = max(0, place - _TAIL)
        before = handle.content.read(start, place - start) if handle.content is not None else b""
        # The same read brings what a log has got since its reader looked last: read in one piece, both are of one version.
        return not before or newer.read(start, _AT_ONCE)[: len(before)] == before

    def _go_on(self, handle: Handle, item: Item, content: Content, *, opening: bool = False) -> None:
        # Before the handle goes on: a file opened meanwhile must not trust the kernel's pages.
        self._pages.unsure(handle.at)
        with handle.file.lock:
            if handle not in handle.file.handles:
                content.close()
                raise FsError(errno.EBADF)  # its program was interrupted in this wait, and has closed it
            unseen = opening or self._is_unseen(handle, item)
            old, handle.content = handle.content, content
            handle.item, handle.ends, handle.asked = item, 0, 0
            if unseen:
                handle.seen, handle.young = item, self._view.write_back.context.young(item)
            if handle.file.local is None:
                handle.file.item = item
        if not opening and handle.seen is item:
            self.shown(handle)
        if old is not None:
            old.close()

    def _is_unseen(self, handle: Handle, item: Item) -> bool:
        """Return whether `item` may become the base of a handle's saves: its program goes by nothing of the version before.

        A reader does not save. Who writes may have read, from pages of the kernel too; and goes by the size, unless it appends.
        """
        if not handle.writable:
            return True
        before = handle.item
        same_size = before is not None and self._view.size(before) == self._view.size(item)
        return not handle.readable and (handle.append or same_size)

    def _newer(self, handle: Handle, max_age: float | None, *, opening: bool = False) -> Item | None:
        """The item at the handle's path, if it shows another version than the handle does."""
        path = handle.file.path
        if path is None or handle.item is None or not handle.file.shared:
            return None
        node = self._view.find(path, max_age)
        item = self._view.measured(path, node) if node is not None else None
        if not isinstance(item, Item) or item.is_dir:
            return None
        # Where neither a size nor a time tells two versions apart, the length of a download did. A program that writes was told
        # the first one's size, and would take the bytes behind that for seen.
        stale = item.size is None and isinstance(handle.content, Content) and handle.content.stale
        differs = stale and (opening or not handle.writable)
        return item if differs or item.version != handle.item.version else None
