"""The version that a handle shows: pinned when it is opened, followed where that is right (vfs/semantics.md 3, Open files are
pinned).
"""

from __future__ import annotations

import contextlib
import errno
import logging
from pathlib import Path
from typing import NamedTuple

from jobfs.content import Content, StaleVersionError
from jobfs.errors import FsError, JobfsError, NotFoundError
from jobfs.nodes import Item
from jobfs.state.localbytes import Local
from jobfs.state.records import Handle, Readable
from jobfs.vfs.pages import KernelPages
from jobfs.vfs.view import View

#: Versions that are opened one after another, at most, when the file keeps changing.
REOPENS = 3
#: A file up to this size, in bytes, is looked at when it is opened; a larger one is fetched meanwhile, or as it is read.
_AT_ONCE = 1 << 20
#: Seconds since a larger one was looked up after which it is looked at again.
_RECENT = 0.25
#: Bytes before a reader's place by which a file that was appended to is known.
_TAIL = 4096

log = logging.getLogger("jobfs.vfs")


class OpenResult(NamedTuple):
    """What the kernel is told of an open: the handle's number, and how to cache.

    `size` in bytes: that of the server's version that is opened; -1 if the file is written here, or its size is not known.
    """

    fh: int
    direct_io: bool = False
    keep_cache: bool = False
    size: int = -1


class Caller(NamedTuple):
    """The user, group and process that make a call."""

    uid: int
    gid: int
    pid: int


class Fixed:
    """The bytes of the file `name` in the control directory, as they were made for one handle."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.content = content

    def read(self, offset: int, size: int) -> bytes:
        """See Readable."""
        return self.content[offset : offset + size]

    def close(self) -> None:
        """See Readable."""


class Shared:
    """What the parts of the Vfs work on."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._settings = view.settings
        self._write_back = view.write_back
        self._state = view.state
        self._namespace = view.namespace
        self._content = view.content
        self._pages = KernelPages()


class Pins:
    """The versions behind handles."""

    def __init__(self, view: View, pages: KernelPages) -> None:
        self._view = view
        self._write_back = view.write_back
        self._content = view.content
        self._pages = pages

    def shown(self, handle: Handle) -> None:
        """Note that the program of a handle may read the version that the handle shows (section 4.42)."""
        file = handle.file
        if handle.readable and file.shared and file.path is not None:
            item = handle.item if file.local is None else None
            self._write_back.state.readers.read(handle.process, file.path, item)

    def meet(self, handle: Handle) -> None:
        """Have the first bytes of a file that is about to be read: the kernel reads no further than the size it is told here,
        and the server may hold a longer version by now. A large file is looked up instead: any part may be wanted first.
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

        False if it can't be had now: later reads may give more bytes than the kernel knows of.
        """
        try:
            content = handle.content
            if not isinstance(content, Content) or content.whole:
                return True
            if (content.size or 0) > _AT_ONCE:
                self._write_back.context.beside.submit(content.bring)
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
        """The server no longer has the pinned version, and the bytes at `place` are not here.

        True if the program can go on with another version: it has got nothing yet, or it reads a log. Raises FsError, ApiError.
        """
        if not handle.served:
            return self.follow(handle, max_age=0.0)
        if handle.follows:
            return self.grow(handle, place, max_age=0.0)
        if handle.file.path is not None:
            self._view.namespace.touch(handle.file.path)  # the next open gets the version that is there now
        return False

    def follow(self, handle: Handle, max_age: float, *, opening: bool = False) -> bool:
        """Go on with the version that is there now, if it is another: the program has got nothing of the one that it opened.

        `opening`: nor was the program told anything of it. Raises FsError, ApiError.
        """
        item = self._newer(handle, max_age, opening=opening)
        if item is None:
            return False
        self._go_on(handle, item, self._content.open(item), opening=opening)
        return True

    def grow(self, handle: Handle, place: int, max_age: float | None = None) -> bool:
        """Go on from `place`, the end, with a newer version if that is longer and has the same 4 KiB before it.

        Else the handle stays at the end, as on a disk (section 3, Open files are pinned). Raises FsError, ApiError.
        """
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
        # The same read brings what a log has got since its reader looked last: read in one piece, both are of one version.
        return not before or newer.read(start, _AT_ONCE)[: len(before)] == before

    def _go_on(self, handle: Handle, item: Item, content: Content, *, opening: bool = False) -> None:
        # Before the handle goes on: a file opened meanwhile must not trust the kernel's pages.
        self._pages.unsure(handle.at)
        with handle.file.lock:
            if handle not in handle.file.handles:
                content.close()
                raise FsError(errno.EBADF)  # its program was interrupted in this wait, and has closed it
            old, handle.content = handle.content, content
            handle.item, handle.ends, handle.asked = item, 0, 0
            if opening or not (handle.readable and handle.writable):
                # Else its saves are based on the version that it was shown, of which the kernel may have kept a part.
                handle.seen, handle.young = item, self._write_back.context.young(item)
            if handle.file.local is None:
                handle.file.item = item
        self.shown(handle)
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
        # Where neither a size nor a time tells two versions apart, the length of a download did. A program that writes was told
        # the first one's size, and would take the bytes behind that for seen.
        stale = item.size is None and isinstance(handle.content, Content) and handle.content.stale
        differs = stale and (opening or not handle.writable)
        return item if differs or item.version != handle.item.version else None
