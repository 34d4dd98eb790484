"""Open files and the versions that they pin, and what the kernel's pages hold (vfs/semantics.md 3, Open files are pinned)."""

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

#: Most versions that one call opens in a row when the file keeps changing.
REOPENS = 3
#: Largest file, in bytes, of which an open waits for bytes; a larger one is looked up, and fetched in the background or when
#: read.
_AT_ONCE = 1 << 20
#: Seconds for which the lookup of a larger file counts as recent enough.
_RECENT = 0.25
#: How many bytes before a reader's position a newer version must share, to count as appended to.
_TAIL = 4096
#: How many reads in a row may reach the end of a file while its program has bytes left to read: the kernel reads ahead, and reads
#: once more after it has dropped its pages.
_ENDS = 2
#: The errors with which an open for writing fails although only the bytes are missing: the file is gone, or closed again.
_NOT_OPENED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EBADF})
#: Most paths for which the version of the kernel's pages is remembered.
_MOST = 16_384


class OpenResult(NamedTuple):
    """The number of a new handle, and how the kernel caches its bytes."""

    fh: int
    direct_io: bool = False
    keep_cache: bool = False


class KernelFile(NamedTuple):
    """What the kernel has of a file that it opens: the size in bytes, None if it may not have received one.

    `is_retry`: the kernel repeats an open that failed with ESTALE, after another lookup of the name.
    """

    size: int | None
    is_retry: bool = False


class Caller(NamedTuple):
    """The user, the group and the thread (`pid`) that make a call."""

    uid: int
    gid: int
    pid: int


class OpenFile(Handle):
    """An open file as its program sees it: the version that it shows, and the bytes (vfs/semantics.md 3).

    Reads come from the local bytes of the File if there are any, else from the pinned version. The handle pins a newer version
    only where the program can't notice that (`follow_newer`), or reads a log (`follow_append`).
    """

    def __init__(
        self, view: View, pages: PageCacheTracker, file: File, item: Item | None, flags: int
    ) -> None:
        super().__init__(file, item, flags)
        self._view, self._pages = view, pages
        #: The kernel's number for this handle; 0 until `PageCacheTracker` has registered it.
        self.fh = 0
        #: True once the program may have got bytes of `item`, from here or from pages that the kernel read for another handle.
        self.has_read = False
        #: True once a newer version was pinned at the end of an older one, as for the reader of a log.
        self.follows = False
        #: True while a newer version is pinned that must be noted as read once the program gets bytes of it.
        self._notes_next_read = False
        #: The last newer version that `follow_append` has rejected.
        self.skipped_version: Version | None = None
        #: How many reads in a row reached the end of the file, and how many calls for attributes came after them.
        self.eof_reads = self.eof_stats = 0
        #: True once the program may have the end of `item` without a read, from pages that the kernel read for another handle.
        self.end_in_pages = False
        #: The path of the kernel's node at which the file was opened; "" if it has lost its path, or the kernel keeps no pages.
        self.node_path = ""

    # -- the version that a handle shows

    def shows_only(self, version: Version) -> bool:
        """Return whether the handle shows this version and can't change it."""
        return not self.writable and self.item is not None and self.item.version == version

    def is_beside_another_version(self) -> bool:
        """Return whether another version is open at the same node, which has one set of pages in the kernel."""
        return not self._pages.is_only_version(
            self.node_path, self.item.version if self.item is not None else None
        )

    def shown_size(self) -> int:
        """Return the size, in bytes, that the handle shows; -1 if it shows nothing."""
        item, content, local = self.item, self.content, self.file.local
        if local is not None:
            return local.size
        if isinstance(content, (ContentHandle, LocalGeneration)) and content.size is not None:
            return content.size
        return self._view.size_or_zero(item) if item is not None else -1

    def attr(self) -> Attr:
        """Return the attributes that the handle shows. For a program at the end of a log, first follow a newer version."""
        file = self.file
        if file.local is None:
            # Reads that reached the end do not prove that the program is there: the kernel reads ahead, and asks for attributes
            # once before it delivers the last bytes.
            self.eof_stats = self.eof_stats + 1 if self.eof_reads or self.end_in_pages else 0
            if self.eof_stats > 1 or not self.shown_size():
                with contextlib.suppress(JobfsError):
                    self.follow_append(self.shown_size())
        if file.local is not None or self.item is None:
            return self._view.attr_of_node(file)
        if not file.is_visible_to_job:
            return self._view.attr_of_node(file)._replace(size=self.shown_size())
        return self._view.attr_of_node(self.item)._replace(ino=file.ino, size=self.shown_size())

    def note_read(self) -> None:
        """Note in the read log that the program may read the version that the handle shows (section 4.42)."""
        file = self.file
        if self.readable and file.is_visible_to_job and file.path is not None:
            readers = self._view.state.read_log
            if file.local is None and self.item is not None:
                readers.note_read(self.process, file.path, self.item)
            else:
                readers.note_write(self.process, file.path, file.item, file.base, opened_for_read=True)

    # -- reading

    def read(self, size: int, offset: int) -> bytes:
        """Read `size` bytes at `offset`; fewer only at the end of the file. Raises FsError(ESTALE, EIO), ApiError."""
        data: bytes | None = None
        for _ in range(REOPENS):
            content = self.content
            try:
                source, data = self._read_once(size, offset)
            except (StaleVersionError, NotFoundError) as gone:
                if self.content is content and not self._follow_if_lost(offset):
                    raise FsError(errno.ESTALE, str(gone)) if self.has_read else gone from None
                continue
            if self._follow_at_end(source, data, size, offset):
                continue
            if self._mark_delivered_unless_replaced(source, data):
                return data
            data = None
        if data is None:
            raise FsError(errno.EIO, "the file keeps changing while it is read")
        return data

    def _read_once(self, size: int, offset: int) -> tuple[Readable, bytes]:
        """Read from the source that the handle shows now; return the source and the bytes.

        Raises as `read`, StaleVersionError.
        """
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

    def _mark_delivered_unless_replaced(self, source: Readable, data: bytes) -> bool:
        """Note that the program gets `data`, and return True; False if another read has replaced the version of `source`."""
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
        """Follow a newer version if a read of `size` bytes, which got `data`, was at the end. Return whether it follows one."""
        is_short = len(data) < size
        self.eof_reads = self.eof_reads + 1 if is_short or offset + size == self.shown_size() else 0
        if self.eof_reads:
            self._pages.note_end_read(self)
        # A read that got bytes must not continue in another version. But a program that knows of more bytes asks for the last
        # page again and again: after `_ENDS` such reads it is at the end.
        at_end = is_short and (not data or self.eof_reads > _ENDS)
        return at_end and source is self.content and self.follow_append(self.shown_size())

    def _follow_if_lost(self, position: int) -> bool:
        """Pin a newer version in place of one that the server no longer has, if the program has read none of it, or reads a log.

        Return whether a newer version is pinned. Raises ApiError, FsError.
        """
        if not self.has_read:
            return self.follow_newer(max_age=0.0)
        if self.follows:
            return self.follow_append(position, max_age=0.0)
        if self.file.path is not None:
            # The next open must get the present version.
            self._view.namespace.invalidate(self.file.path)
        return False

    # -- bytes that an open or a write needs

    def fetch_first_bytes(self) -> None:
        """Fetch the first byte before open returns, so that the kernel learns the size that will be read.

        A large file is looked up instead: its program may want any part first. Raises ApiError, FsError.
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

    def fetch_for_write(self, *, is_retry: bool = False) -> None:
        """Fetch the whole version before editing, because the job may replace it; a large one in the background.

        The newest version is pinned. `is_retry`: keep the pinned one instead, because the kernel has just looked up its size. If
        the bytes can't be fetched, the first write fetches them, or fails (vfs/semantics.md 4.1). Raises FsError(ENOENT, EBADF),
        NotFoundError if the file is gone.
        """
        content = self.content
        if not isinstance(content, ContentHandle) or content.is_complete:
            return
        try:
            self._fetch_all_of(content, follow=not is_retry)
        except JobfsError as error:
            if error.errno in _NOT_OPENED and not is_retry:
                raise

    def _fetch_all_of(self, content: ContentHandle, *, follow: bool) -> None:
        """Fetch all of `content`, or begin to if it is large; `follow`: or of a newer version. Raises as `fetch_whole`."""
        is_large = (content.size or 0) > _AT_ONCE
        if follow and is_large:
            self.follow_newer(max_age=0.0, opening=True)
        elif follow:
            self.fetch_whole(opening=True)
        elif not is_large:
            content.fetch_file()
        if is_large and isinstance(self.content, ContentHandle):
            self._view.content.fetch_in_background(self.content)

    def fetch_to_edit(self) -> tuple[Readable | None, Path | None]:
        """Return the content that a write in place changes, and the file with its bytes, as `fetch_whole`.

        Note if the server has lost the opened version before it was fetched, and this one has another size. Raises ApiError,
        FsError.
        """
        content, source = self.fetch_whole()
        if isinstance(content, ContentHandle) and content.size is not None:
            self.note_size_here(content.size)
        return content, source

    def note_size_here(self, size: int) -> None:
        """Note that the bytes here, which a write in place changes, are those of a version of `size` bytes."""
        base = self.base_item
        if base is not None and self._view.content.known_size(base) not in (None, size):
            self.relies_on_other_size = True

    def check_known_size(self) -> None:
        """Raise FsError(ESTALE) if a write in place may rely on the size of another version (vfs/semantics.md 3.17)."""
        if self.relies_on_other_size and self.writes_by_offset:
            raise FsError(errno.ESTALE, "the file's size has changed since it was opened")

    def check_known_end(self, position: int) -> None:
        """Raise FsError(ESTALE) if a first write or truncate at `position` may rely on the end of another version (3.17)."""
        if self.file.local is None and self.writes_by_offset:
            opened_size, newest_size = self.shown_size(), self._newest_size()
            is_changed = newest_size is not None and newest_size != opened_size
            if is_changed and (position > opened_size or position == newest_size):
                raise FsError(errno.ESTALE, "the file's size has changed since it was opened")

    def _newest_size(self) -> int | None:
        """Return the size, in bytes, of the file last shown at this path; None if there is no file, or no known size."""
        path = self.file.path
        node = self._view.find_known(path) if path is not None else None
        if node is None or is_dir(node) or self._view.item_without_size(node) is not None:
            return None
        return self._view.attr_of_node(node).size

    def fetch_whole(self, *, opening: bool = False) -> tuple[Readable | None, Path | None]:
        """Return the pinned content, and the path of a file with all its bytes; None for both if nothing is pinned.

        `opening`: the program has not got the handle yet, so any newer version will do. Raises ApiError, FsError.
        """
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
        """Return how many bytes a write may have to copy first: all, if it must begin a generation."""
        local = self.file.local
        return 0 if local is not None and local.may_change(0) else max(self.shown_size(), 0)

    # -- newer versions

    def follow_newer(self, max_age: float, *, opening: bool = False) -> bool:
        """Pin the version that the server has now, if it is another. Return whether it was pinned. Raises FsError, ApiError.

        Nothing is pinned if the program has read from the present version, unless the file is `opening`: then the program has
        seen neither its bytes nor its size.
        """
        item = self._newer_item(max_age, opening=opening)
        if item is None:
            return False
        with contextlib.ExitStack() as stack:
            newer = stack.enter_context(self._view.content.open(item))
            if self._pin_newer_version(item, newer, opening=opening):
                stack.pop_all()
                return True
        return False

    def follow_append(self, position: int, max_age: float | None = None) -> bool:
        """Pin a newer version that only adds bytes after `position`, the end (3.14). Return whether it was pinned.

        Raises FsError, ApiError.
        """
        if self.writable:
            return False  # its saves must keep the base that the program has read
        for age in (max_age, 0.0):
            with contextlib.suppress(StaleVersionError, NotFoundError):  # the listed version has gone since
                return self._follow_longer(position, age)
        return False

    def _follow_longer(self, position: int, max_age: float | None) -> bool:
        """Pin a newer version that only adds bytes; note any other version as skipped. Return whether it was pinned."""
        item = self._newer_item(max_age)
        if item is None or item.version == self.skipped_version:
            return False
        with contextlib.ExitStack() as stack:
            newer = stack.enter_context(self._view.content.open(item))
            if self._is_continued_by(newer, position):
                stack.pop_all()
                self._pin_newer_version(item, newer, at_end=True)
                self.follows, self.end_in_pages = True, self._pages.has_others_beside(self)
                return True
        self.skipped_version = item.version
        return False

    def _is_continued_by(self, newer: ContentHandle, position: int) -> bool:
        """Return whether `newer` has the same last bytes before `position`, and is longer. Raises ApiError, FsError."""
        if self.item is None or (newer.size or 0) <= max(position, self._view.size_or_zero(self.item)):
            return False
        start = max(0, position - _TAIL)
        tail = self.content.read(start, position - start) if self.content is not None else b""
        # One read fetches the tail and the bytes added to the log, so that both are of one version.
        return not tail or newer.read(start, _AT_ONCE)[: len(tail)] == tail

    def _pin_newer_version(
        self, item: Item, content: ContentHandle, *, opening: bool = False, at_end: bool = False
    ) -> bool:
        """Pin the version of `item`, with its bytes in `content`. `at_end`: it continues the version that was read to the end.

        Return False if the program has got bytes of the old version in between. Raises FsError(EBADF) if the file was closed. In
        both cases the caller must close `content`.
        """
        fits_what_was_read = opening or at_end
        # First of all: an open at the same time must not trust the kernel's pages.
        self._pages.forget_version(self.node_path)
        with self.file.lock:
            if self not in self.file.handles:
                raise FsError(errno.EBADF)  # the program was interrupted in this wait, and closed it
            if self.has_read and not fits_what_was_read:
                return False
            is_base = fits_what_was_read or self._may_be_base(item)
            old, self.content = self.content, content
            self.item, self.eof_reads, self.eof_stats, self.end_in_pages = item, 0, 0, False
            if is_base:
                self.base_item, self.racy = item, self._view.write_back.context.is_racy(item)
            if self.file.local is None:
                self.file.item = item
            # An open itself notes the version that it ends with.
            self._notes_next_read = is_base and not opening
        if old is not None:
            old.close()
        return True

    @property
    def writes_by_offset(self) -> bool:
        """True if the program may write at an offset that it derives from the file's size (vfs/semantics.md 3.17)."""
        return self.writable and not self.append

    def _may_be_base(self, item: Item) -> bool:
        """Return whether `item` may become the base of saves, because the program knows nothing of the present version.

        A program that does not append knows the size, so that must be equal: of a longer version, it might get only a part. A
        handle that is open for reading and writing may have read, if only from the kernel's pages.
        """
        if (self.readable and self.writable) or self.base_item is None:
            return False
        same_size = self.item is not None and self._view.size_or_zero(self.item) == self._view.size_or_zero(
            item
        )
        return same_size or (self.append and not self.readable)

    def _newer_item(self, max_age: float | None, *, opening: bool = False) -> Item | None:
        """Return the item at the file's path if it is of another version, else None. Raises ApiError, FsError."""
        if self.item is None or not self.file.is_visible_to_job:
            return None
        item = self._item_at_path(max_age)
        return item if item is not None and self._is_other_version(item, opening=opening) else None

    def _item_at_path(self, max_age: float | None) -> Item | None:
        """Return the server's item at the file's path, with a size; None if it is a directory or a File.

        Raises ApiError, FsError.
        """
        path = self.file.path
        if path is None or (found := self._view.find(path, max_age)) is None:
            return None
        node = self._view.ensure_size_known(path, found)
        return None if isinstance(node, File) or node.is_dir else node

    def _is_other_version(self, item: Item, *, opening: bool) -> bool:
        """Return whether `item` is of another version than the pinned one."""
        if self.item is None or item.version != self.item.version:
            return True
        # Where neither size nor time distinguishes two versions, the length of a download has. A program that writes knows the
        # size of the first one, and would take bytes behind that end for its own.
        is_stale = item.size is None and isinstance(self.content, ContentHandle) and self.content.is_stale
        return is_stale and (opening or not self.writable)


class ControlFile(OpenFile):
    """An open file of the control directory; it shows what the file held when it was opened."""

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
    """The open files of a mount, and the versions that the kernel's pages of each path hold (`keep_cache`).

    The kernel keeps pages by node, and for libfuse a node is a path until it loses that path. So the version that was last opened
    at a path is remembered, while neither another version nor a writer is open there. Thread-safe; its lock is taken last.
    """

    def __init__(self) -> None:
        #: All handles by the kernel's number; changed by `register` and `unregister` only.
        self.handles: dict[int, OpenFile] = {}
        self._numbers = itertools.count(1)
        #: The handles by their `node_path`. Tuples, so that `handles_at` needs no lock.
        self._at: dict[str, tuple[OpenFile, ...]] = {}
        self._lock = threading.Lock()
        #: The version of the kernel's pages by path; the path that was opened least recently comes first.
        self._held: OrderedDict[str, Version] = OrderedDict()

    def register(self, handle: OpenFile, path: str, version: Version | None) -> bool:
        """Register a handle that is opened at `path`, and give it a number; "": a file of which the kernel keeps no pages.

        `version`: None for a writer, or for local bytes. Return whether the kernel's pages hold this version.
        """
        with self._lock:
            handle.fh = next(self._numbers)
            self.handles[handle.fh] = handle
            handle.node_path = path
            others = self._at.get(path, ())
            if path:
                self._at[path] = (*others, handle)
            # The kernel gives each handle the pages that it has read for another.
            for each in (handle, *others) if others else ():
                each.has_read = each.readable
            held = self._held.pop(path, None)
            handle.end_in_pages = version is not None and held == version
            if version is None or not all(each.shows_only(version) for each in others):
                return False
            self._held[path] = version
            if len(self._held) > _MOST:
                self._held.popitem(last=False)
            return held == version

    def unregister(self, fh: int) -> OpenFile | None:
        """Remove the handle with the number `fh`, and return it; None if there is none."""
        with self._lock:
            handle = self.handles.pop(fh, None)
            if handle is not None:
                self._set_path(handle, "")
            return handle

    def handles_at(self, path: str) -> tuple[OpenFile, ...]:
        """Return the handles that are open at the node of a path."""
        return self._at.get(path, ())

    def has_open_within(self, path: str) -> bool:
        """Return whether a handle is open at or below a path."""
        return path in self._at or any(names.is_below(at, path) for at in [*self._at])

    def has_others_beside(self, handle: OpenFile) -> bool:
        """Return whether another handle is open at the node of `handle`: the kernel gives each the pages of the other."""
        return any(each is not handle for each in self.handles_at(handle.node_path))

    def note_end_read(self, handle: OpenFile) -> None:
        """Note that the kernel has read the end of the version that `handle` shows: the other handles on it may get it."""
        for each in self.handles_at(handle.node_path):
            if each is not handle and handle.item is not None and each.shows_only(handle.item.version):
                each.end_in_pages = True

    def is_only_version(self, path: str, version: Version | None) -> bool:
        """Return whether no handle at a path shows another version of the server than `version`."""
        return all(handle.item is None or handle.item.version == version for handle in self.handles_at(path))

    def forget_version(self, path: str) -> None:
        """Forget which version the kernel's pages of a path hold."""
        with self._lock:
            self._held.pop(path, None)

    def note_node_detached(self, path: str) -> None:
        """Note that the kernel's node at a path has lost that path, and take the path from its handles."""
        with self._lock:
            self._held.pop(path, None)
            for handle in self.handles_at(path):
                self._set_path(handle, "")

    def note_node_moved(self, old: str, new: str, *, directory: bool) -> None:
        """Note that the kernel's node at `old` has moved to `new`, with the nodes below a `directory`.

        The node that was at `new` has no path then.
        """
        with self._lock:
            for path in [*self._held] if directory else (old, new):
                self._held.pop(path, None)
            replaced, moved = (
                self._handles_within(new, directory=directory),
                self._handles_within(old, directory=directory),
            )
            for handle in replaced:
                self._set_path(handle, "")
            for handle in moved:
                self._set_path(handle, names.path_after_rename(handle.node_path, old, new))

    def _handles_within(self, path: str, *, directory: bool) -> list[OpenFile]:
        """Return the handles at a path, and those below it if it is a `directory`. The caller has the lock."""
        paths = [at for at in self._at if names.is_at_or_below(at, path)] if directory else [path]
        return [handle for at in paths for handle in self.handles_at(at)]

    def _set_path(self, handle: OpenFile, path: str) -> None:
        """Set the `node_path` of a handle; "" removes it from its path. The caller has the lock."""
        others = tuple(other for other in self._at.get(handle.node_path, ()) if other is not handle)
        if others:
            self._at[handle.node_path] = others
        else:
            self._at.pop(handle.node_path, None)
        handle.node_path = path
        if path:
            self._at[path] = (*self._at.get(path, ()), handle)
