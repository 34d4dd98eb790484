"""Open files: reading, writing, and what close and fsync promise (semantics.md sections 3 and 4)."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from jobfs import names
from jobfs.content import Content, StaleVersionError
from jobfs.errors import FsError, JobfsError
from jobfs.nodes import Attr, Item, Kind
from jobfs.state import File, edit
from jobfs.state.localbytes import Local
from jobfs.vfs.calls import Caller, OpenResult
from jobfs.vfs.handle import Handle, Readable
from jobfs.vfs.pages import KernelPages
from jobfs.vfs.pins import REOPENS, Pins
from jobfs.vfs.prefetch import Prefetch
from jobfs.vfs.view import Node, View, check_new_name, is_dir

log = logging.getLogger("jobfs.vfs")

T = TypeVar("T")


class Files:
    """Handles and the bytes behind them. A handle holds its File, not a path."""

    def __init__(self, view: View, *, sync_on_close: bool, most_open: int) -> None:
        """`most_open`: so many handles may be open; the descriptors beyond that are for saves and for the mount itself."""
        self._view = view
        self._write_back = view.write_back
        self._state = view.state
        self._content = view.content
        self._sync_on_close = sync_on_close
        self._most_open = most_open
        self._numbers = itertools.count(1)
        self._handles: dict[int, Handle] = {}
        self.pages = KernelPages()
        self._pins = Pins(view, self.pages)
        self._prefetch = Prefetch(view.namespace, view.content, view.state)

    def handle(self, fh: int) -> Handle:
        """The handle of a number. Raises FsError(EBADF)."""
        try:
            return self._handles[fh]
        except KeyError:
            raise FsError(errno.EBADF) from None

    # -- open and create

    def open(self, path: str, flags: int) -> OpenResult:
        """Open a file. Raises FsError(ENOENT, EISDIR, EACCES, ENFILE), ApiError."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        edition = self._view.edition()
        node = self._view.get(path)
        if is_dir(node):
            raise FsError(errno.EISDIR)
        if writable or flags & os.O_TRUNC:
            self._view.may_write(node)
        self._may_open()
        fh, handle, node = self._open(path, node, flags, writable=writable)
        handle.edition = edition
        unknown = isinstance(node, Item) and not self._view.size_holds(node)
        clean = isinstance(node, Item) and not (writable or unknown)
        keep = self._keeps_pages(handle, path, clean=clean)
        try:
            if flags & os.O_TRUNC:
                self._truncate(handle, 0)
            elif writable:
                self._pins.secure(handle)
            elif not unknown:
                self._begins(handle)
                self._pins.meet(handle)
        except BaseException:
            self.release(fh)
            raise
        others = any(other.item != handle.item for other in handle.file.handles if other.item is not None)
        shown = isinstance(node, Item) and not (unknown or flags & os.O_TRUNC)
        size = self._known_size(handle) if shown else -1
        return OpenResult(fh, direct_io=unknown or others, keep_cache=keep and not others, size=size)

    def _keeps_pages(self, handle: Handle, path: str, *, clean: bool) -> bool:
        """True if the kernel's pages of this file hold what is opened; `clean`: nothing is written here."""
        content = handle.content if clean and isinstance(handle.content, Content) else None
        kept, handle.epoch = self.pages.opened(path, content.version if content is not None else None)
        handle.at = path
        # What is not on disk to stay may be other bytes of the same name next time (see content/racy.py).
        return kept and content is not None and content.here

    def _open(self, path: str, node: Node, flags: int, *, writable: bool) -> tuple[int, Handle, Node]:
        for again in itertools.count():
            handle = self._attach(path, node, flags, writable=writable)
            if again > REOPENS or self._still_shows(path, node):
                return self._add(handle), handle, node
            # Its save has ended, or it was written to, since it was looked up.
            self._detach(handle)
            node = self._view.get(path)
        raise AssertionError

    def _still_shows(self, path: str, node: Node) -> bool:
        file = self._state.at(path)
        if isinstance(node, File):
            return file is node
        if file is not None:
            return file.item is not None and file.item.id == node.id
        there = self._view.namespace.peek(path)
        return there is None or there.id == node.id

    def _attach(self, path: str, node: Node, flags: int, *, writable: bool) -> Handle:
        """A handle on the File of `node`. Raises FsError(EMFILE)."""
        file = node if isinstance(node, File) else self._state.open(node)
        item = node.item if isinstance(node, File) else node
        readable = flags & os.O_ACCMODE != os.O_WRONLY
        handle = Handle(file, item, readable=readable, writable=writable, append=bool(flags & os.O_APPEND))
        with file.lock:
            if file.local is None and item is not None:
                if not file.handles:
                    self._state.add(file)  # it may have been let go of just now
                file.item, file.path = item, path
                handle.young = writable and self._write_back.bases.young(
                    item
                )  # only a base has to prove anything
                handle.content = self._content.open(item)
            self._hold(file, handle)
            return handle

    def _hold(self, file: File, handle: Handle) -> None:
        """One handle more. The caller has the File's lock. Raises FsError(EMFILE)."""
        if not file.handles:
            if file.local is not None:
                try:
                    file.local.acquire()
                except OSError as error:
                    raise FsError(error.errno or errno.EIO, f"{file.path}: {error.strerror}") from error
            self._state.opened[file.ino] = file
        file.handles.append(handle)

    def _detach(self, handle: Handle) -> None:
        """One handle less; the last one closes the local bytes, and lets go of what nothing needs."""
        file = handle.file
        with file.lock:
            if handle in file.handles:
                file.handles.remove(handle)
                if not file.handles:
                    self._close_last(file)
        if handle.content is not None:
            handle.content.close()

    def _close_last(self, file: File) -> None:
        local = file.local
        if local is not None:
            local.release()
            if file.path is None:
                file.local = None
                local.discard()
        self._state.opened.pop(file.ino, None)
        self._state.let_go(file)

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> OpenResult:
        """Make a file and open it. Raises FsError(EEXIST, EACCES, ENOENT, ENOSPC, ENFILE), ApiError."""
        check_new_name(path)
        self._view.may_enter(self._view.directory(names.parent(path)))
        while True:
            with self._state.reservations.held(path):
                node = self._view.find(path)
                if node is None:
                    file = self._make(path, mode, caller)
                    break
            if flags & os.O_EXCL or is_dir(node):
                raise FsError(errno.EEXIST if flags & os.O_EXCL else errno.EISDIR)
            try:
                return self.open(path, flags)
            except FsError as error:
                if error.errno != errno.ENOENT:
                    raise
                # It was unlinked just now.
        readable = flags & os.O_ACCMODE != os.O_WRONLY
        handle = Handle(file, None, readable=readable, writable=True, append=bool(flags & os.O_APPEND))
        handle.wrote = True
        file.handles.append(handle)
        fh = self._add(handle)
        self._keeps_pages(handle, path, clean=False)
        return OpenResult(fh)

    def _make(self, path: str, mode: int, caller: Caller) -> File:
        """A new File with local bytes that are open. The caller holds its name."""
        state, write_back = self._state, self._write_back
        self._may_open()
        while (leaving := state.leaving(path)) is not None:
            write_back.queue.commit(leaving)
        file = state.new(Kind.FILE, path)
        file.stays = self._view.stays_here(path)
        mode, uid, gid = self._view.inherited(path, mode, caller.uid, caller.gid, directory=False)
        local = self._with_room(0, lambda: state.bytes.new(file.ino, state.journal.next_number()))
        file.mode, file.uid, file.gid = mode, uid, gid
        _touch(file)
        file.atime_ns = file.mtime_ns
        if file.stays:
            try:
                state.write(edit(file, generation=local.generation), new=True)
            except FsError:
                local.release()
                local.discard()
                raise
        else:
            victim = write_back.victim(path, None)
            file.base, file.item = victim.base, victim.item
            file.item_id = victim.item.id if victim.item is not None else ""
            write_back.replaced(victim)
        file.local = local
        state.opened[file.ino] = file
        state.add(file)
        self._view.touch_directory(names.parent(path))
        return file

    def make(self, path: str, mode: int, caller: Caller) -> None:
        """`mknod` of a regular file. Raises as `create`."""
        self.release(self.create(path, mode, os.O_EXCL | os.O_WRONLY, caller).fh)

    def _may_open(self) -> None:
        """Raises FsError(ENFILE) where another open file would take what saves need."""
        if len(self._handles) >= self._most_open:
            raise FsError(
                errno.ENFILE,
                f"{len(self._handles)} files are open: raise the limit of open files (ulimit -n)",
            )

    def _add(self, handle: Handle) -> int:
        fh = next(self._numbers)
        self._handles[fh] = handle
        return fh

    # -- read

    def read(self, fh: int, size: int, offset: int) -> bytes:
        """Bytes at `offset`; short only at end of file. Raises FsError(EBADF), ApiError."""
        handle = self.handle(fh)
        if not offset:
            self._begins(handle)
        for _ in range(REOPENS):
            source = self._source(handle)
            try:
                data = source.read(offset, size)
            except StaleVersionError:
                if not self._pins.follow(handle, max_age=0.0):
                    raise
                continue
            finally:
                if source is not handle.content:
                    source.close()
            handle.at_end = len(data) < size or offset + size == self._known_size(handle)
            if len(data) < size and source is handle.content and self._pins.follow(handle):
                continue
            return data
        return data

    def _known_size(self, handle: Handle) -> int:
        return self._view.size(handle.item) if handle.item is not None else -1

    def _begins(self, handle: Handle) -> None:
        """A file is read from its start: when it is one of many, what comes next is fetched ahead."""
        item = handle.item
        if item is None or handle.begun or handle.writable or handle.file.local is not None:
            return
        handle.begun = True
        if self._prefetch.concerned(handle.content):
            self._prefetch.reading(item.path, item)

    def _source(self, handle: Handle) -> Readable:
        file = handle.file
        with file.lock:
            if file.local is not None:
                return file.local.acquire()
            if handle.content is None:
                raise FsError(errno.EIO)
            return handle.content

    # -- write

    def write(self, fh: int, data: bytes | memoryview, offset: int) -> int:
        """Write all of `data`. Raises FsError(EBADF, ENOSPC, EIO), ApiError if the content to fill in can't be had."""
        handle = self.handle(fh)
        with self._writing(handle, keep=True) as local:
            at = local.size if handle.append else offset
            return self._with_room(len(data), lambda: local.write(data, at))

    def _with_room(self, size: int, attempt: Callable[[], T]) -> T:
        """What `attempt` answers, which takes `size` bytes of the disk: before it fails for want of them the cache gives way."""
        try:
            return attempt()
        except (OSError, FsError) as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full or not self._content.give_way(self._state.bytes.directory, size):
                raise
            return attempt()

    def _truncate(self, handle: Handle, length: int) -> None:
        with self._writing(handle, keep=length > 0) as local:
            local.truncate(length)

    @contextlib.contextmanager
    def _writing(self, handle: Handle, *, keep: bool) -> Iterator[Local]:
        """Under the File's lock: local bytes that may be changed.

        `keep`: they begin with the content that the handle opened (downloaded before the lock is taken).
        """
        file = handle.file
        for _ in range(REOPENS):
            content, source = self._pins.whole(handle) if keep and file.local is None else (None, None)
            with file.lock:
                local = file.local
                if local is None:
                    if keep and handle.item is not None and (source is None or handle.content is not content):
                        # A save has ended meanwhile: what the handle goes on with has to be fetched first.
                        continue
                    local = self._make_dirty(handle, source)
                elif local.sealed:
                    # Closed bytes never change: these are the next generation.
                    before, local = local, self._next_generation(file, local if keep else None)
                    file.local = local
                    before.release()
                yield local
                _touch(file)
                self._state.edition += 1
                handle.wrote = True
                return
        raise FsError(errno.EIO, "the file keeps being saved while it is written")

    def _next_generation(self, file: File, before: Local | None) -> Local:
        """New local bytes, empty or those of the generation before. Raises FsError(ENOSPC, EMFILE, EIO)."""
        number, source = self._state.journal.next_number(), before.source if before is not None else None
        size = before.size if before is not None else 0
        return self._with_room(size, lambda: self._state.bytes.new(file.ino, number, source))

    def _make_dirty(self, handle: Handle, source: Path | None) -> Local:
        """The first write to a version of the server. The caller has the File's lock."""
        file, item, state = handle.file, handle.item, self._state
        saved = isinstance(handle.content, Local) and item is not None and file.base.id == item.id
        number, size = state.journal.next_number(), (item.size or 0) if item is not None and source else 0
        local = self._with_room(size, lambda: state.bytes.new(file.ino, number, source))
        values: dict[str, object] = {"item": item, "local": local}
        if not saved:
            # Else no version is known to hold these bytes; the base that the save has left says what it sent (R2).
            values["base"] = self._write_back.bases.of(handle.seen, young=handle.young)
        if item is not None and file.path is not None and not file.stays:
            values |= {**self._view.freeze(file), "wish": None}
        state.apply(file, **values)
        for other in file.handles:
            # What is read from now on are these bytes: one descriptor an open file.
            if other.content is not None:
                other.content.close()
                other.content = None
        return local

    def truncate(self, path: str, length: int) -> None:
        """Cut or extend a file by name. Raises as `open` and `write`."""
        fh = self.open(path, os.O_WRONLY).fh
        try:
            self.ftruncate(fh, length)
            self.flush(fh)
        finally:
            self.release(fh)

    def ftruncate(self, fh: int, length: int) -> None:
        """Cut or extend an open file. Raises as `write`."""
        self._truncate(self.handle(fh), length)

    def attr(self, fh: int) -> Attr:
        """What `fstat` shows of an open file, unlinked ones too.

        The kernel reads no further than the size that it has here: whoever is at the end is shown a newer version's.
        """
        handle = self.handle(fh)
        file = handle.file
        if (handle.at_end or not self._known_size(handle)) and file.local is None:
            with contextlib.suppress(JobfsError):
                self._pins.follow(handle)
        if file.local is not None or handle.item is None:
            return self._view.attr(file)
        self._pins.measure(handle.item)
        if file.path is None or file.stays:
            return self._view.attr(file)._replace(size=self._view.size(handle.item))
        return self._view.attr(handle.item)._replace(ino=file.ino)

    def size(self, fh: int) -> int:
        """Bytes of an open file as it stands here, without a look at the server; -1 if that is not known."""
        handle = self.handle(fh)
        local = handle.file.local
        return local.size if local is not None else self._known_size(handle)

    # -- close and fsync

    def flush(self, fh: int) -> None:
        """What was written survives this process now (or is on the server, with --sync-on-close). Raises FsError, ApiError."""
        handle = self.handle(fh)
        file = handle.file
        if not handle.writable or not (handle.wrote or file.written):
            return
        handle.wrote = False
        self._close_dirty(file)
        if self._sync_on_close and file.path is not None and not file.stays:
            self._write_back.commit(file)

    def fsync(self, fh: int) -> None:
        """The server has it, or the error is raised; for a scratch file, the local disk has it."""
        file = self.handle(fh).file
        if file.stays or file.path is None:
            if file.local is not None:
                file.local.sync()
            return
        self._write_back.commit(file)

    def release(self, fh: int) -> None:
        """The last descriptor is closed: what is dirty is committed to the journal, its upload begins after the delay."""
        handle = self._handles.pop(fh, None)
        if handle is None:
            return
        self.pages.closed(handle.at, handle.epoch)
        file = handle.file
        try:
            if handle.writable and not any(h.writable for h in file.handles if h is not handle):
                handle.writable = False
                self._close_dirty(file)
        finally:
            self._detach(handle)

    def _close_dirty(self, file: File) -> None:
        if file.path is None or names.is_fuse_hidden(names.basename(file.path)):
            return
        if file.stays:
            self._keep(file)
        else:
            self._with_room(0, lambda: self._write_back.seal(file))
            self._write_back.closed(file)

    def _keep(self, file: File) -> None:
        """A scratch file as it is now: its bytes are written in place, its row says how many. Raises FsError(ENOSPC)."""
        with file.lock:
            local, before = file.local, file.generation
            if local is None or (file.generation, file.size) == (local.generation, local.size):
                return
            self._state.write(edit(file, generation=local.generation, size=local.size), new=True)
            if before and before != local.generation:
                self._state.bytes.retire(file.ino, before)

    def close_all(self) -> None:
        """At the end of the mount: as if every program had closed its files."""
        for fh in list(self._handles):
            self.release(fh)


def _touch(file: File) -> None:
    """The content was changed just now."""
    file.mtime_ns = file.ctime_ns = time.time_ns()
