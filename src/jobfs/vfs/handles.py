"""The version that a handle shows: pinned when it is opened, followed where that is right (vfs/semantics.md 3, Open files are
pinned).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import threading
from pathlib import Path
from typing import NamedTuple

from jobfs import names
from jobfs.content import Content, StaleVersionError
from jobfs.errors import FsError, JobfsError, NotFoundError
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
#: Paths whose pages are remembered; all are forgotten when there are more.
_MOST = 16_384

log = logging.getLogger("jobfs.vfs")


class OpenResult(NamedTuple):
    """What the kernel is told of an open: the handle's number, and how to cache.

    `size` in bytes is that of a version of the server which is opened; -1 if it is written here, or not known.
    """

    fh: int
    direct_io: bool = False
    keep_cache: bool = False
    size: int = -1


class Caller(NamedTuple):
    """Who asks."""

    uid: int
    gid: int
    pid: int


class Fixed:
    """Bytes that were made to be read, of a file `name` of the control directory."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.content = content

    def read(self, offset: int, size: int) -> bytes:
        """See Readable."""
        return self.content[offset : offset + size]

    def close(self) -> None:
        """See Readable."""


class KernelPages:
    """What the kernel's own pages of a file may be trusted to hold when it is opened again (`keep_cache`).

    The kernel keeps pages by node, and a node is a path as far as libfuse goes, until it has lost that. So what is remembered is
    the version opened last at a path, and only while no other version is open there, nor a writer.

    Thread-safe; its lock is a leaf. Every `opened` is followed by one `closed`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held: dict[str, Version] = {}
        self._handles: dict[str, list[Handle]] = {}
        self._numbers = itertools.count()

    def opened(self, handle: Handle, path: str, version: Version | None) -> bool:
        """A file is opened, None: to be written, or of unknown content. True if the kernel's pages of it hold this version."""
        with self._lock:
            there = self._handles.setdefault(path, [])
            there.append(handle)
            for each in there[-2:] if len(there) > 1 else ():
                each.served = each.readable  # what the kernel has read for one, it gives the other
            handle.at = path
            if version is None or not all(each.reads(version) for each in there):
                self._held.pop(path, None)
                return False
            if self._held.get(path) == version:
                return True
            if len(self._held) >= _MOST:
                self._held.clear()
            self._held[path] = version
            return False

    def any(self, path: str) -> bool:
        """True if anything is open at a path."""
        return path in self._handles

    def reader(self, path: str) -> Handle | None:
        """One of those who have a file open at a path, if all only read it."""
        there = list(self._handles.get(path, ()))
        return there[0] if there and not any(handle.writable for handle in there) else None

    def part(self, path: str) -> None:
        """The kernel's node of a path has lost it, with all that is open there: another one will be at the path."""
        with self._lock:
            self._held.pop(path, None)
            if (there := self._handles.pop(path, None)) is not None:
                aside = f"{path}\0{next(self._numbers)}"  # no path
                self._handles[aside] = there
                for handle in there:
                    handle.at = aside

    def only(self, path: str, version: Version | None) -> bool:
        """True if no other version than this of the server's is open at a path."""
        there = list(self._handles.get(path, ()))
        return all(handle.item is None or handle.item.version == version for handle in there)

    def closed(self, handle: Handle) -> None:
        """A file that was `opened` is closed."""
        with self._lock:
            self._handles[handle.at].remove(handle)
            if not self._handles[handle.at]:
                del self._handles[handle.at]

    def unsure(self, path: str) -> None:
        """An open file goes on with another version."""
        with self._lock:
            self._held.pop(path, None)

    def moved(self, old: str, new: str, *, directory: bool) -> None:
        """The kernel's node of a path, of a `directory` with those below it, has another one; what was there has none."""
        with self._lock:
            held, handles = self._held, self._handles
            self.part(new)
            below = [path for path in {**held, **handles} if names.under(path, old)] if directory else []
            for path in (old, *below):
                at = names.moved(path, old, new)
                self.part(at)
                if path in held:
                    held[at] = held.pop(path)
                if path in handles:
                    handles[at] = handles.pop(path)
                    for handle in handles[at]:
                        handle.at = at


class Pins:
    """The versions behind handles."""

    def __init__(self, view: View, pages: KernelPages) -> None:
        self._view = view
        self._write_back = view.write_back
        self._content = view.content
        self._pages = pages

    def meet(self, handle: Handle) -> None:
        """Have the first bytes of what is about to be read: the kernel reads no further than the size it is told here,
        and the server may hold a longer version by now. Of a large file any part may be wanted first: that is looked up.
        Raises ApiError.
        """
        for _ in range(REOPENS):
            content, item = handle.content, handle.item
            if item is None or not isinstance(content, Content) or content.whole:
                return
            if (content.size or 0) > _AT_ONCE:
                self.follow(handle, max_age=_RECENT, opening=True)
                return
            try:
                content.meet()
                return
            except (StaleVersionError, NotFoundError):
                if not self.follow(handle, max_age=0.0, opening=True):
                    raise

    def secure(self, handle: Handle) -> bool:
        """Have the version that is about to be edited on this machine: the job may replace or delete it any moment.

        False if it can't be had now: who reads later may be given more than the kernel knows of.
        """
        try:
            content = handle.content
            if not isinstance(content, Content) or content.whole:
                return True
            if (content.size or 0) > _AT_ONCE:
                self._write_back.context.in_background(content.bring)
                return True
            self.whole(handle, opening=True)
        except (JobfsError, OSError) as error:
            # The first write asks again, and fails if it has to.
            log.info("%s: can't be fetched for writing yet: %s", handle.file.path, error)
            return False
        return True

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
        """The server does not have the pinned version any more, nor is here what is read at `place`.

        True if its program can go on with another: it has got nothing yet, or it reads a log. Raises FsError, ApiError.
        """
        if not handle.served:
            return self.follow(handle, max_age=0.0)
        if handle.follows:
            return self.grow(handle, place, max_age=0.0)
        if handle.file.path is not None:
            self._view.namespace.touch(handle.file.path)  # who opens it now gets what is there now
        return False

    def follow(self, handle: Handle, max_age: float, *, opening: bool = False) -> bool:
        """Go on with the version that is there now, if that is another: its program has got nothing of the one that it opened.

        `opening`: nor has it been told anything of that. Raises FsError, ApiError.
        """
        item = self._newer(handle, max_age, opening=opening)
        if item is None:
            return False
        self._go_on(handle, item, self._content.open(item), opening=opening)
        return True

    def grow(self, handle: Handle, place: int, max_age: float | None = None) -> bool:
        """Go on from `place`, the end, with a newer version if that is longer and has the same 4 KiB before.

        Else it stays there, as where a file is replaced on a disk (section 3, Open files are pinned). Raises FsError, ApiError.
        """
        if handle.writable:
            return False  # what it saves is based on what it has read
        for age in (max_age, 0.0):
            with contextlib.suppress(StaleVersionError, NotFoundError):  # what was listed has gone since
                return self._grows(handle, place, age)
        return False

    def _grows(self, handle: Handle, place: int, max_age: float | None) -> bool:
        item = self._newer(handle, max_age)
        if item is None or item.version == handle.left:
            return False
        with contextlib.ExitStack() as stack:
            newer = stack.enter_context(self._content.open(item))
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
        # With what a log has got since its reader looked last: that is of one version where it comes in one piece.
        return not before or newer.read(start, _AT_ONCE)[: len(before)] == before

    def _go_on(self, handle: Handle, item: Item, content: Content, *, opening: bool = False) -> None:
        # Before the handle goes on: a file opened meanwhile must not trust the kernel's pages.
        self._pages.unsure(handle.at)
        with handle.file.lock:
            if handle not in handle.file.handles:
                content.close()
                raise FsError(errno.EBADF)  # who waited for this has been interrupted, and has closed it
            old, handle.content = handle.content, content
            handle.item, handle.ends, handle.asked = item, 0, 0
            if opening or not (handle.readable and handle.writable):
                # Else what it saves is based on what it was shown, of which the kernel may have kept a part.
                handle.seen, handle.young = item, self._write_back.bases.young(item)
            if handle.file.local is None:
                handle.file.item = item
        if old is not None:
            old.close()

    def _newer(self, handle: Handle, max_age: float | None, *, opening: bool = False) -> Item | None:
        """The item at the handle's path, if it shows another version than the handle does."""
        path = handle.file.path
        if path is None or handle.item is None or not handle.file.shared:
            return None
        node = self._view.find(path, max_age)
        item = self._view.measured(path, node) if node is not None else None
        if not isinstance(item, Item) or item.is_dir:
            return None
        if item.version != handle.item.version or self._differs(handle, item, opening=opening):
            return item
        return None

    @staticmethod
    def _differs(handle: Handle, item: Item, *, opening: bool) -> bool:
        """Where neither a size nor a time tells two versions apart, the length of a download did.

        Who writes has been told the first one's size, and would take for seen what is behind that.
        """
        stale = item.size is None and isinstance(handle.content, Content) and handle.content.stale
        return stale and (opening or not handle.writable)
