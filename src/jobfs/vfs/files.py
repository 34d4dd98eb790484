"""Open files: reading, writing, and what close and fsync promise (semantics.md sections 3 and 4)."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from jobfs import names
from jobfs.content import Content, StaleVersionError
from jobfs.errors import FsError, JobfsError
from jobfs.nodes import Attr, Item, Kind
from jobfs.vfs.aliases import Aliases
from jobfs.vfs.calls import Caller, OpenResult
from jobfs.vfs.local import LocalNames
from jobfs.vfs.pages import KernelPages
from jobfs.vfs.pins import REOPENS, Pins
from jobfs.vfs.prefetch import Prefetch
from jobfs.vfs.view import Node, View, check_new_name, is_dir
from jobfs.writeback import FileHandle, Inode
from jobfs.writeback.inodes import Readable, new_inode_number
from jobfs.writeback.localbytes import LocalFile

log = logging.getLogger("jobfs.vfs")


class Files:
    """Handles and the bytes behind them. Handles hold inodes, not paths."""

    def __init__(self, view: View, local: LocalNames, aliases: Aliases, *, sync_on_close: bool) -> None:
        self._view = view
        self._engine = view.engine
        self._local = local
        self._aliases = aliases
        self._sync_on_close = sync_on_close
        self._numbers = itertools.count(1)
        self._handles: dict[int, FileHandle] = {}
        self._lock = threading.Lock()
        self.pages = KernelPages()
        self._pins = Pins(view, self.pages)
        self._prefetch = Prefetch(self._engine.namespace, self._engine.content, self._engine.memory)

    def handle(self, fh: int) -> FileHandle:
        """The handle of a number. Raises FsError(EBADF)."""
        try:
            return self._handles[fh]
        except KeyError:
            raise FsError(errno.EBADF) from None

    def opened_at(self, path: str) -> set[Inode]:
        """What is open by this name and not changed here, though another file may have the name by now."""
        inodes = {handle.inode for handle in list(self._handles.values())}
        return {i for i in inodes if i.path == path and i.local is None and not i.local_only}

    # -- open and create

    def open(self, path: str, flags: int) -> OpenResult:
        """Open a file. Raises FsError(ENOENT, EISDIR, EACCES), ApiError."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        edition = self._view.edition()
        node = self._view.get(path)
        if is_dir(node):
            raise FsError(errno.EISDIR)
        if writable or flags & os.O_TRUNC:
            self._view.may_write(node)
            if isinstance(node, Inode) and node.alias_of is not None:
                self._aliases.own(node)
                node = self._view.get(path)
        handle = self._new_handle(path, node, flags, writable=writable)
        handle.edition = edition
        unknown = isinstance(node, Item) and not self._view.size_holds(node)
        fh = self._add(handle)
        keep = self._keeps_pages(handle, path, clean=isinstance(node, Item) and not (writable or unknown))
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
        others = any(other.item != handle.item for other in handle.inode.handles if other.item is not None)
        clean = isinstance(node, Item) and not (unknown or flags & os.O_TRUNC)
        size = self._known_size(handle) if clean else -1
        return OpenResult(fh, direct_io=unknown or others, keep_cache=keep and not others, size=size)

    def _keeps_pages(self, handle: FileHandle, path: str, *, clean: bool) -> bool:
        """True if the kernel's pages of this file hold what is opened; `clean`: nothing is written here."""
        content = handle.content if clean and isinstance(handle.content, Content) else None
        kept, handle.epoch = self.pages.opened(path, content.version if content is not None else None)
        handle.at = path
        # What is not on disk to stay may be other bytes of the same name next time (see content/racy.py).
        return kept and content is not None and content.here

    def _new_handle(self, path: str, node: Node, flags: int, *, writable: bool) -> FileHandle:
        for again in itertools.count():
            handle = self._attach(path, node, flags, writable=writable, anyway=again > REOPENS)
            if handle is not None:
                return handle
            # Its save has ended, or it was written to, since it was looked up.
            node = self._view.get(path)
        raise AssertionError

    def _attach(
        self, path: str, node: Node, flags: int, *, writable: bool, anyway: bool
    ) -> FileHandle | None:
        """A handle on the inode of `node`; None if that is not what stands for the file any more, unless `anyway`."""
        if isinstance(node, Inode):
            inode, item = node, node.item
        else:
            item = node
            inode = self._engine.table.hold(item, path)
        readable = flags & os.O_ACCMODE != os.O_WRONLY
        append = bool(flags & os.O_APPEND)
        handle = FileHandle(inode, item, readable=readable, writable=writable, append=append)
        with inode.lock:
            if isinstance(node, Inode):
                if inode.local is None and not inode.local_only and not anyway:
                    return None
            elif not self._engine.table.is_of(inode, node) or (not anyway and self._view.is_old(node, path)):
                return None
            if inode.local is None and item is not None:
                inode.item, inode.path = item, path
                handle.young = writable and self._engine.bases.young(
                    item
                )  # only a base has to prove anything
                handle.content = self._engine.content.open(item)
            inode.handles.append(handle)
            return handle

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> OpenResult:
        """Make a file and open it. Raises FsError(EEXIST, EACCES, ENOENT), ApiError."""
        check_new_name(path)
        self._view.may_enter(self._view.directory(names.parent(path)))
        while True:
            with self._engine.overlay.changing(path):
                node = self._view.find(path)
                if node is None:
                    inode = self._make(path, mode, caller)
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
        handle = FileHandle(inode, None, readable=readable, writable=True, append=bool(flags & os.O_APPEND))
        handle.wrote = True
        inode.handles.append(handle)
        fh = self._add(handle)
        self._keeps_pages(handle, path, clean=False)
        return OpenResult(fh)

    def _make(self, path: str, mode: int, caller: Caller) -> Inode:
        self._engine.hiding.conclude_at(path)
        inode = Inode(new_inode_number(), Kind.FILE, path)
        inode.local_only = self._view.stays_here(path)
        inode.local = self._engine.bytes.new(inode.ino, self._engine.journal.next_seq())
        inode.mode, inode.uid, inode.gid = self._view.inherited(
            path, mode, caller.uid, caller.gid, directory=False
        )
        inode.touch()
        inode.atime_ns = inode.mtime_ns
        if inode.local_only:
            try:
                self._local.record(inode)
            except FsError:
                inode.local.discard()
                raise
        else:
            inode.item = self._aliases.item_behind(path)
            inode.base = self._engine.bases.of(inode.item)
        self._engine.table.add(inode)
        self._engine.overlay.put(path, inode)
        self._view.touch_directory(names.parent(path))
        return inode

    def make(self, path: str, mode: int, caller: Caller) -> None:
        """`mknod` of a regular file. Raises as `create`."""
        self.release(self.create(path, mode, os.O_EXCL | os.O_WRONLY, caller).fh)

    def _add(self, handle: FileHandle) -> int:
        with self._lock:
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

    def _known_size(self, handle: FileHandle) -> int:
        return self._view.size(handle.item) if handle.item is not None else -1

    def _begins(self, handle: FileHandle) -> None:
        """A file is read from its start: when it is one of many, what comes next is fetched ahead."""
        item = handle.item
        if item is None or handle.begun or handle.writable or handle.inode.local is not None:
            return
        handle.begun = True
        if self._prefetch.concerned(handle.content):
            self._prefetch.reading(item.path, item)

    def _source(self, handle: FileHandle) -> Readable:
        inode = handle.inode
        with inode.lock:
            if inode.local is not None:
                return inode.local.acquire()
            if handle.content is None:
                raise FsError(errno.EIO)
            return handle.content

    # -- write

    def write(self, fh: int, data: bytes | memoryview, offset: int) -> int:
        """Write all of `data`. Raises FsError(EBADF, ENOSPC, EIO), ApiError if the content to fill in can't be had."""
        handle = self.handle(fh)
        with self._writing(handle, keep=True) as local:
            return local.write(data, local.size if handle.append else offset)

    def _truncate(self, handle: FileHandle, length: int) -> None:
        with self._writing(handle, keep=length > 0) as local:
            local.truncate(length)

    @contextlib.contextmanager
    def _writing(self, handle: FileHandle, *, keep: bool) -> Iterator[LocalFile]:
        """Under the inode's lock: local bytes that may be changed.

        `keep`: they begin with the content that the handle opened (downloaded before the lock is taken).
        """
        inode = handle.inode
        for _ in range(REOPENS):
            self._aliases.own(inode)
            content, source = self._pins.whole(handle) if keep and inode.local is None else (None, None)
            with inode.lock:
                if inode.alias_of is not None:
                    continue
                local = inode.local
                if local is None:
                    if keep and handle.item is not None and (source is None or handle.content is not content):
                        # A save has ended meanwhile: what the handle goes on with has to be fetched first.
                        continue
                    local = self._make_dirty(handle, source)
                elif local.sealed:
                    fresh = self._engine.bytes.new(
                        inode.ino, self._engine.journal.next_seq(), local if keep else None
                    )
                    inode.local = fresh
                    if inode.local_only:
                        # The journal names the old bytes: not before it names these.
                        self._local.record(inode)
                        self._engine.bytes.retire(local)
                    else:
                        local.close()
                    local = fresh
                yield local
                inode.touch()
                handle.wrote = True
                return
        raise FsError(errno.EIO, "the file keeps being saved while it is written")

    def _make_dirty(self, handle: FileHandle, source: Path | LocalFile | None) -> LocalFile:
        inode, item = handle.inode, handle.item
        engine = self._engine
        saved = isinstance(handle.content, LocalFile) and item is not None and inode.base.id == item.id
        if not saved:
            # Else no version is known to hold these bytes; the base that the save has left says what it sent (R2).
            inode.base = engine.bases.of(handle.seen, young=handle.young)
        inode.item = item
        inode.local = engine.bytes.new(inode.ino, engine.journal.next_seq(), source)
        if item is not None and inode.path is not None and not inode.local_only:
            attr = self._view.attr(item)
            inode.mode, inode.uid, inode.gid = attr.mode & 0o7777, attr.uid, attr.gid
            inode.permission = None
            inode.atime_ns = attr.atime_ns
        inode.touch()
        if inode.path is not None:
            engine.overlay.put(inode.path, inode)
        return inode.local

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
        inode = handle.inode
        if (handle.at_end or not self._known_size(handle)) and inode.local is None:
            with contextlib.suppress(JobfsError):
                self._pins.follow(handle)
        if inode.local is not None or handle.item is None:
            return self._view.attr(inode)
        self._pins.measure(handle.item)
        if inode.path is None or inode.local_only:
            return self._view.attr(inode)._replace(size=self._view.size(handle.item))
        return self._view.attr(handle.item)._replace(ino=inode.ino)

    def size(self, fh: int) -> int:
        """Bytes of an open file as it stands here, without a look at the server; -1 if that is not known."""
        handle = self.handle(fh)
        local = handle.inode.local
        return local.size if local is not None else self._known_size(handle)

    # -- close and fsync

    def flush(self, fh: int) -> None:
        """What was written survives this process now (or is on the server, with --sync-on-close). Raises FsError, ApiError."""
        handle = self.handle(fh)
        inode = handle.inode
        if not handle.writable or not (handle.wrote or inode.written):
            return
        handle.wrote = False
        if inode.local_only:
            self._local.record(inode)
            return
        self._engine.seal(inode)
        if self._sync_on_close and inode.path is not None:
            self._engine.commit(inode)

    def fsync(self, fh: int) -> None:
        """The server has it, or the error is raised; for a scratch file, the local disk has it."""
        inode = self.handle(fh).inode
        if inode.local_only or inode.path is None:
            if inode.local is not None:
                inode.local.sync()
            return
        self._engine.commit(inode)

    def release(self, fh: int) -> None:
        """The last descriptor is closed: what is dirty is committed to the journal, its upload begins after the delay."""
        with self._lock:
            handle = self._handles.pop(fh, None)
        if handle is None:
            return
        self.pages.closed(handle.at, handle.epoch)
        inode = handle.inode
        with inode.lock:
            if handle in inode.handles:
                inode.handles.remove(handle)
            last_writer = handle.writable and not any(other.writable for other in inode.handles)
        try:
            if last_writer:
                self._close_dirty(inode)
        finally:
            if handle.content is not None:
                handle.content.close()
            self._maybe_drop(inode)

    def _close_dirty(self, inode: Inode) -> None:
        if inode.local_only:
            if inode.written:
                self._local.record(inode)
        elif inode.path is not None:
            self._engine.seal(inode)
            self._engine.released(inode)

    def _maybe_drop(self, inode: Inode) -> None:
        with inode.lock:
            if inode.handles:
                return
            if inode.path is None and inode.local is not None:
                local, inode.local = inode.local, None
                local.discard()
            if inode.local is None and not inode.local_only:
                self._engine.table.drop(inode)

    def close_all(self) -> None:
        """At the end of the mount: as if every program had closed its files."""
        for fh in list(self._handles):
            self.release(fh)
