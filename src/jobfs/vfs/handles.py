"""Open files: the version that each shows, pinned when it is opened, and its bytes; and what the kernel's pages hold
(vfs/semantics.md 3, Open files are pinned).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from jobfs import names
from jobfs.content import ContentHandle, StaleVersionError
from jobfs.errors import FsError, JobfsError, NotFoundError
from jobfs.nodes import Attr, Item, Version
from jobfs.state import File
from jobfs.state.localbytes import LocalGeneration
from jobfs.state.records import Handle, Readable
from jobfs.vfs.report import Report
from jobfs.vfs.view import View, is_dir

#: Versions that are opened one after another, at most, when the file keeps changing.
REOPENS = 3
#: A file up to this size, in bytes, is looked at when it is opened; a larger one is fetched meanwhile, or as it is read.
_AT_ONCE = 1 << 20
#: Seconds since a larger one was looked up after which it is looked at again.
_RECENT = 0.25
#: Bytes before a reader's place by which a file that was appended to is known.
_TAIL = 4096
#: So many reads in a row may come to the end of a file although its program still has bytes to read: the kernel reads ahead, and
#: reads once more after it has dropped its pages.
_ENDS = 2
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


class OpenFile(Handle):
    """An open file as its program sees it: which version it shows, and the bytes of that (vfs/semantics.md 3).

    It reads the local bytes of its File where the file was written here, else those of the version that it has pinned. It pins a
    newer version only where its program can't notice (`follow_newer`), or reads a log (`follow_append`).
    """

    def __init__(
        self, view: View, pages: PageCacheTracker, file: File, item: Item | None, flags: int
    ) -> None:
        super().__init__(file, item, flags)
        self._view, self._pages = view, pages
        #: The number by which the kernel calls it; 0 until it is entered into `PageCacheTracker`.
        self.fh = 0
        #: True once its program may have got bytes of `item`: from here, or from pages that the kernel has read for another.
        self.has_read = False
        #: True once it has continued from the end of a version with a newer one, as the reader of a log does.
        self.follows = False
        #: True while it shows a newer version that counts as read once its program gets bytes of it.
        self._notes_next_read = False
        #: The last newer version with which it did not continue.
        self.skipped_version: Version | None = None
        #: How many reads in a row came to the end of the file, and how often the kernel has asked for its attributes since.
        self.eof_reads = self.eof_stats = 0
        #: Where it is counted in `PageCacheTracker`: the path at which it was opened, as long as the kernel's node has that.
        self.node_path = ""

    # -- what it shows

    def shows_only(self, version: Version) -> bool:
        """Return whether it shows this version, and can't change it."""
        return not self.writable and self.item is not None and self.item.version == version

    def is_beside_another_version(self) -> bool:
        """Return whether another version is open at the same node: the kernel has one set of pages for both."""
        return not self._pages.is_only_version(
            self.node_path, self.item.version if self.item is not None else None
        )

    def known_size(self) -> int:
        """Return the size of the bytes that it shows; -1 if there are none."""
        item, content, local = self.item, self.content, self.file.local
        if local is not None:
            return local.size
        if isinstance(content, (ContentHandle, LocalGeneration)) and content.size is not None:
            return content.size
        return self._view.known_size(item) if item is not None else -1

    def attr(self) -> Attr:
        """Return the attributes of the version that it shows, which at the end of a log may be a newer one from now on."""
        file = self.file
        if file.local is None:
            # A program seems to be at the end once all is read. But the kernel reads ahead, and asks once before the last bytes.
            self.eof_stats = self.eof_stats + 1 if self.eof_reads else 0
            if self.eof_stats > 1 or not self.known_size():
                with contextlib.suppress(JobfsError):
                    self.follow_append(self.known_size())
        if file.local is not None or self.item is None:
            return self._view.attr_of_node(file)
        if not file.is_visible_to_job:
            return self._view.attr_of_node(file)._replace(size=self.known_size())
        return self._view.attr_of_node(self.item)._replace(ino=file.ino, size=self.known_size())

    def note_read(self) -> None:
        """Note that its program may read the version that it shows (section 4.42)."""
        file = self.file
        if self.readable and file.is_visible_to_job and file.path is not None:
            readers = self._view.state.read_log
            if file.local is None and self.item is not None:
                readers.note_read(self.process, file.path, self.item)
            else:
                readers.note_write(self.process, file.path, file.item, file.base, read=True)

    # -- reading

    def read(self, size: int, offset: int) -> bytes:
        """Read bytes at `offset`; short only at end of file. Raises FsError(ESTALE, EIO), ApiError."""
        data: bytes | None = None
        for _ in range(REOPENS):
            content = self.content
            try:
                source, data = self._read_once(size, offset)
            except (StaleVersionError, NotFoundError) as gone:
                if self.content is content and not self._replace_lost(offset):
                    raise FsError(errno.ESTALE, str(gone)) if self.has_read else gone from None
                continue
            if self._follow_at_end(source, data, size, offset):
                continue
            if self._try_to_deliver(source, data):
                return data
            data = None
        if data is None:
            raise FsError(errno.EIO, "the file keeps changing while it is read")
        return data

    def _read_once(self, size: int, offset: int) -> tuple[Readable, bytes]:
        """Read from what it shows now, which is the first result."""
        with self.file.lock:
            source = self.content if self.file.local is None else self.file.local
            if isinstance(source, LocalGeneration):
                source.acquire()
        if source is None:
            raise FsError(errno.EIO)
        try:
            return source, source.read(offset, size)
        finally:
            if isinstance(source, LocalGeneration):
                source.release()

    def _try_to_deliver(self, source: Readable, data: bytes) -> bool:
        """Return whether its program may get `data`, and note that: not if another read has replaced the version of `source`."""
        with self.file.lock:
            if source is not self.content and not self.follows and not isinstance(source, LocalGeneration):
                return False
            self.has_read = True
            is_first = bool(data) and self._notes_next_read and source is self.content
            self._notes_next_read = self._notes_next_read and not is_first
        if is_first:
            self.note_read()
        return True

    def _follow_at_end(self, source: Readable, data: bytes, size: int, offset: int) -> bool:
        """Follow a log if this read of `size` bytes, which got `data`, was at the end. Return whether it shows more now."""
        is_short = len(data) < size
        self.eof_reads = self.eof_reads + 1 if is_short or offset + size == self.known_size() else 0
        # A program that got bytes may not be at the end: they and the rest would be of two versions. But a program that knows of
        # more bytes asks for the last page again and again.
        at_end = is_short and (not data or self.eof_reads > _ENDS)
        return at_end and source is self.content and self.follow_append(self.known_size())

    def _replace_lost(self, position: int) -> bool:
        """Replace the pinned version, which the server no longer has, if the program has read nothing of it, or reads a log."""
        if not self.has_read:
            return self.follow_newer(max_age=0.0)
        if self.follows:
            return self.follow_append(position, max_age=0.0)
        if self.file.path is not None:
            # The next open gets the version that is there now.
            self._view.namespace.invalidate(self.file.path)
        return False

    # -- bytes that an open or a write needs

    def fetch_first_bytes(self) -> None:
        """Fetch the first byte before open returns: the server may have a longer version by now than the kernel knows.

        A large file is looked up instead, as any part may be wanted first. Raises ApiError, FsError.
        """
        content = self.content
        if self.item is None or not isinstance(content, ContentHandle) or content.is_complete:
            return
        if (content.size or 0) > _AT_ONCE:
            self.follow_newer(max_age=_RECENT, opening=True)
            return
        try:
            content.wait_for_first_byte()
        except (StaleVersionError, NotFoundError):
            if not self.follow_newer(max_age=0.0, opening=True):
                raise

    def fetch_for_write(self) -> None:
        """Fetch the whole version before it is edited, as the job may replace it. Raises ApiError, FsError.

        A large file is looked up, so that its program learns the newest size, and fetched in the background.
        """
        content = self.content
        if not isinstance(content, ContentHandle) or content.is_complete:
            return
        if (content.size or 0) <= _AT_ONCE:
            self.fetch_whole(opening=True)
            return
        self.follow_newer(max_age=0.0, opening=True)
        if isinstance(self.content, ContentHandle):
            self._view.content.fetch_in_background(self.content)

    def fetch_to_edit(self) -> tuple[Readable | None, Path | None]:
        """Return the content that a write in place changes, as `fetch_whole`.

        Raises ApiError, FsError; FsError(ESTALE) if the program goes by the size of a version that was lost before it was fetched
        (vfs/semantics.md 3.17).
        """
        content, source = self.fetch_whole()
        opened_size = self._view.known_size(self.base_item) if self.base_item is not None else None
        if self.relies_on_size and isinstance(content, ContentHandle) and content.size != opened_size:
            raise FsError(errno.ESTALE, "the file's size has changed since it was opened")
        return content, source

    def check_end(self, place: int) -> None:
        """Raise FsError(ESTALE) if a first write or a new length at `place` may go by the end of another version (3.17)."""
        if self.file.local is None and self.relies_on_size:
            opened_size, newest_size = self.known_size(), self._newest_size()
            is_changed = newest_size is not None and newest_size != opened_size
            if is_changed and (place > opened_size or place == newest_size):
                raise FsError(errno.ESTALE, "the file's size has changed since it was opened")

    def _newest_size(self) -> int | None:
        """Return the size of the file that was last shown at its path; None if there is none, or its size is not known."""
        path = self.file.path
        node = self._view.find_known(path) if path is not None else None
        if node is None or is_dir(node) or self._view.item_without_size(node) is not None:
            return None
        return self._view.attr_of_node(node).size

    def fetch_whole(self, *, opening: bool = False) -> tuple[Readable | None, Path | None]:
        """Return the pinned content, and the file that has all of its bytes. Raises ApiError, FsError."""
        for _ in range(REOPENS):
            content = self.content
            if isinstance(content, LocalGeneration):
                return content, content.stable_path
            if not isinstance(content, ContentHandle):
                return None, None
            try:
                return content, content.fetch_file()
            except (StaleVersionError, NotFoundError):
                if (self.has_read and not opening) or not self.follow_newer(max_age=0.0, opening=opening):
                    raise
        raise FsError(errno.EIO, "the file keeps changing while it is opened for writing")

    def bytes_to_copy(self) -> int:
        """Return how many bytes a write copies first, at most: all, if it begins a generation."""
        local = self.file.local
        return 0 if local is not None and local.may_change(0) else max(self.known_size(), 0)

    # -- newer versions

    def follow_newer(self, max_age: float, *, opening: bool = False) -> bool:
        """Show the version that the server has now, if it is another. Return whether it is. Raises FsError, ApiError.

        The program has got nothing of the version before. While the file is `opening`, it has not seen its size either.
        """
        item = self._newer_item(max_age, opening=opening)
        if item is None:
            return False
        with contextlib.ExitStack() as stack:
            newer = stack.enter_context(self._view.content.open(item))
            if self._rebase(item, newer, opening=opening):
                stack.pop_all()
                return True
        return False

    def follow_append(self, position: int, max_age: float | None = None) -> bool:
        """Continue at `position`, the end, with a newer version that was appended to (3.14). Raises FsError, ApiError."""
        if self.writable:
            return False  # its saves are based on what it has read
        for age in (max_age, 0.0):
            with contextlib.suppress(StaleVersionError, NotFoundError):  # the listed version has gone since
                return self._follow_longer(position, age)
        return False

    def _follow_longer(self, position: int, max_age: float | None) -> bool:
        item = self._newer_item(max_age)
        if item is None or item.version == self.skipped_version:
            return False
        with contextlib.ExitStack() as stack:
            newer = stack.enter_context(self._view.content.open(item))
            if self._is_continued_by(newer, position):
                stack.pop_all()
                self._rebase(item, newer, at_end=True)
                self.follows = True
                return True
        self.skipped_version = item.version
        return False

    def _is_continued_by(self, newer: ContentHandle, position: int) -> bool:
        """Return whether `newer` has the bytes before `position`, and more behind the end. Raises ApiError, FsError."""
        if self.item is None or (newer.size or 0) <= max(position, self._view.known_size(self.item)):
            return False
        start = max(0, position - _TAIL)
        before = self.content.read(start, position - start) if self.content is not None else b""
        # The same read brings what a log has got since its reader looked last: read in one piece, both are of one version.
        return not before or newer.read(start, _AT_ONCE)[: len(before)] == before

    def _rebase(
        self, item: Item, content: ContentHandle, *, opening: bool = False, at_end: bool = False
    ) -> bool:
        """Show `item` from now on, whose bytes `content` has; `at_end`: it continues what was read to its end.

        Return False if its program has got bytes of the version before by now. Raises FsError(EBADF) if the file was closed.
        After either, the caller closes `content`.
        """
        fits_what_was_read = opening or at_end
        # First: a file opened in between must not trust the kernel's pages.
        self._pages.forget_version(self.node_path)
        with self.file.lock:
            if self not in self.file.handles:
                raise FsError(errno.EBADF)  # its program was interrupted in this wait, and has closed it
            if self.has_read and not fits_what_was_read:
                return False
            is_base = fits_what_was_read or self._may_be_base(item)
            old, self.content = self.content, content
            self.item, self.eof_reads, self.eof_stats = item, 0, 0
            if is_base:
                self.base_item, self.racy = item, self._view.write_back.context.is_racy(item)
            if self.file.local is None:
                self.file.item = item
            self._notes_next_read = is_base and not opening  # an open notes the version with which it ends
        if old is not None:
            old.close()
        return True

    @property
    def relies_on_size(self) -> bool:
        """Whether its program may write at an offset that it knows from the file's size (vfs/semantics.md 3.17)."""
        return self.writable and not self.append

    def _may_be_base(self, item: Item) -> bool:
        """Return whether `item` may become the base of saves: the program knows nothing of the version before.

        Unless it appends, it knows the size: a reader may get no more bytes of a longer version. A writer may have read, from
        pages of the kernel too.
        """
        if self.readable and self.writable:
            return False
        same_size = self.item is not None and self._view.known_size(self.item) == self._view.known_size(item)
        return same_size or (self.append and not self.readable)

    def _newer_item(self, max_age: float | None, *, opening: bool = False) -> Item | None:
        """Return the item at its path, if that is of another version. Raises ApiError, FsError."""
        if self.item is None or not self.file.is_visible_to_job:
            return None
        item = self._item_at_path(max_age)
        return item if item is not None and self._is_other_version(item, opening=opening) else None

    def _item_at_path(self, max_age: float | None) -> Item | None:
        """Return the server's file at its path, with a size. Raises ApiError, FsError."""
        path = self.file.path
        if path is None or (found := self._view.find(path, max_age)) is None:
            return None
        node = self._view.with_size(path, found)
        return None if isinstance(node, File) or node.is_dir else node

    def _is_other_version(self, item: Item, *, opening: bool) -> bool:
        """Return whether `item` is of another version than is shown."""
        if self.item is None or item.version != self.item.version:
            return True
        # Where neither a size nor a time tells two versions apart, the length of a download did. A program that writes knows
        # the first one's size, and would take the bytes behind that for seen.
        is_stale = item.size is None and isinstance(self.content, ContentHandle) and self.content.is_stale
        return is_stale and (opening or not self.writable)


class ControlFile(OpenFile):
    """An open file `name` of the control directory, which shows what it held when it was opened."""

    def __init__(self, view: View, pages: PageCacheTracker, report: Report, name: str, data: bytes) -> None:
        super().__init__(view, pages, File(0, never_sent=True), None, os.O_RDONLY)
        self._report, self._name, self._data = report, name, data

    def read(self, size: int, offset: int) -> bytes:
        """See OpenFile."""
        return self._data[offset : offset + size]

    def attr(self) -> Attr:
        """See OpenFile."""
        return self._report.attr(self._name, len(self._data))


class PageCacheTracker:
    """The open files, and what the kernel's own pages of a file may be trusted to hold when it is opened again (`keep_cache`).

    The kernel keeps pages by node. For libfuse a node is a path, until the node has lost that path. So the version opened last at
    a path is remembered, and only while neither another version nor a writer is open there. Thread-safe; its lock is a leaf.
    """

    def __init__(self) -> None:
        #: By the number that the kernel has of each; changed by `register` and `unregister`.
        self.handles: dict[int, OpenFile] = {}
        self._numbers = itertools.count(1)
        #: By the path of the node at which each is open. Tuples, so that `handles_at` needs no lock.
        self._at: dict[str, tuple[OpenFile, ...]] = {}
        self._lock = threading.Lock()
        #: The version of which the kernel may have pages, by path; the path that was opened least recently comes first.
        self._held: OrderedDict[str, Version] = OrderedDict()

    def register(self, handle: OpenFile, path: str, version: Version | None) -> bool:
        """Number a file that is opened at `path`; "": a file of which the kernel keeps no pages.

        `version`: None if it is opened to be written, or of unknown content. Return whether the kernel's pages hold this version.
        """
        with self._lock:
            handle.fh = next(self._numbers)
            self.handles[handle.fh] = handle
            handle.node_path = path
            others = self._at.get(path, ())
            if path:
                self._at[path] = (*others, handle)
            for each in (handle, *others) if others else ():
                each.has_read = each.readable  # the kernel gives one the pages that it has read for the other
            held = self._held.pop(path, None)
            if version is None or not all(each.shows_only(version) for each in others):
                return False
            self._held[path] = version
            if len(self._held) > _MOST:
                self._held.popitem(last=False)
            return held == version

    def unregister(self, fh: int) -> OpenFile | None:
        """Forget a handle that is closed; None if it was forgotten before."""
        with self._lock:
            handle = self.handles.pop(fh, None)
            if handle is not None:
                self._set_path(handle, "")
            return handle

    def handles_at(self, path: str) -> tuple[OpenFile, ...]:
        """The handles that are open at the node of a path."""
        return self._at.get(path, ())

    def has_open_within(self, path: str) -> bool:
        """True if a handle is open at a path or below it."""
        return path in self._at or any(names.is_below(at, path) for at in [*self._at])

    def is_only_version(self, path: str, version: Version | None) -> bool:
        """True if no other version of the server than this is open at a path."""
        return all(handle.item is None or handle.item.version == version for handle in self.handles_at(path))

    def forget_version(self, path: str) -> None:
        """An open file goes on with another version."""
        with self._lock:
            self._held.pop(path, None)

    def detach_node(self, path: str) -> None:
        """The kernel's node at a path has lost the path, with all handles there: another node will be at the path."""
        with self._lock:
            self._held.pop(path, None)
            for handle in self.handles_at(path):
                self._set_path(handle, "")

    def move_node(self, old: str, new: str, *, directory: bool) -> None:
        """The kernel's node at `old`, and those below a `directory`, have moved to `new`; the node that was there has no path."""
        with self._lock:
            for path in [*self._held] if directory else (old, new):
                self._held.pop(path, None)
            there, coming = (
                self._handles_within(new, directory=directory),
                self._handles_within(old, directory=directory),
            )
            for handle in there:
                self._set_path(handle, "")
            for handle in coming:
                self._set_path(handle, names.path_after_rename(handle.node_path, old, new))

    def _handles_within(self, path: str, *, directory: bool) -> list[OpenFile]:
        """The handles at a path, and those below a `directory`."""
        paths = [at for at in self._at if names.is_at_or_below(at, path)] if directory else [path]
        return [handle for at in paths for handle in self.handles_at(at)]

    def _set_path(self, handle: OpenFile, path: str) -> None:
        """Keep a handle at a path; "" takes it out. Called with the lock held."""
        left = tuple(other for other in self._at.get(handle.node_path, ()) if other is not handle)
        if left:
            self._at[handle.node_path] = left
        else:
            self._at.pop(handle.node_path, None)
        handle.node_path = path
        if path:
            self._at[path] = (*self._at.get(path, ()), handle)
