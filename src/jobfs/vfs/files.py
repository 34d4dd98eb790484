"""Operations on files: open, create, write, truncate, close and fsync (vfs/semantics.md 3 and 4). Reads: handles.py."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from jobfs import names
from jobfs.content import ContentHandle
from jobfs.errors import FsError, JobfsError
from jobfs.nodes import Item, Kind
from jobfs.state import File, edit
from jobfs.state.localbytes import LocalGeneration
from jobfs.state.processes import Process
from jobfs.state.records import CHANGES, Verb
from jobfs.vfs.handles import REOPENS, Caller, ControlFile, KernelFile, OpenFile, OpenResult, PageCacheTracker
from jobfs.vfs.prefetch import Prefetch
from jobfs.vfs.report import Report
from jobfs.vfs.view import Node, View, check_new_name, is_dir

log = logging.getLogger("jobfs.vfs")

#: Descriptors kept for the mount's own work: connections, the journal, transfers, answers to `status`.
_RESERVE = 300
#: The limit of open descriptors that is assumed where the system has none.
_UNLIMITED = 1 << 20


class FileOperations:
    """The operations on open files. A handle holds its File, not a path. Every method may be called from any thread."""

    def __init__(self, view: View, pages: PageCacheTracker, report: Report) -> None:
        self._view, self._pages, self._report = view, pages, report
        self._settings, self._write_back = view.settings, view.write_back
        self._state, self._content = view.state, view.content
        self._retry_with_room = view.write_back.context.retry_with_room
        self._most_open = _open_file_limit()
        self._handles = pages.handles
        self._prefetch = Prefetch(view.namespace, view.content, view.state)

    def get_handle(self, fh: int) -> OpenFile:
        """Return the handle with the number `fh`. Raises FsError(EBADF)."""
        try:
            return self._handles[fh]
        except KeyError:
            raise FsError(errno.EBADF) from None

    # -- open and create

    def open(self, path: str, flags: int, pid: int = 0, kernel: KernelFile | None = None) -> OpenResult:
        """Open a file. `pid`: the calling thread, 0 if not known. `kernel`: what the kernel has of it, None for other callers.

        Raises FsError(ENOENT, EISDIR, EACCES, EROFS, EPERM, ENFILE), ApiError; FsError(ESTALE) if the kernel has another size
        (vfs/semantics.md 3.17).
        """
        if path.startswith(names.CONTROL_DIR) and (name := names.name_in_control_dir(path)) is not None:
            return self._open_control(name, flags)
        if flags & CHANGES:
            self._view.check_may_change(path)
        self._check_descriptors()
        for tries_left in range(REOPENS, -1, -1):
            opened = self._try_to_open(path, flags, pid, kernel, is_last=not tries_left)
            if opened is not None:
                return opened
        raise AssertionError

    def _try_to_open(
        self, path: str, flags: int, pid: int, kernel: KernelFile | None, *, is_last: bool
    ) -> OpenResult | None:
        """Open the file at `path`; None if the path shows another file at the end, and this is not the last try.

        Raises as `open`.
        """
        edition = self._view.edition
        node = self._find_to_open(path, flags)
        handle = self._new_open_file(path, node, flags, self._state.read_log.process_of(pid))
        if not is_last and self._view.edition != edition and not self._still_shows(path, node):
            # Since the lookup, a save of the file has ended, or the file was written to.
            self._close_handle(handle)
            return None
        opened = self._finish_open(handle, path, node, flags, kernel)
        is_same = handle.item is node and self._view.edition == edition
        if is_last or is_same or not self._was_replaced_by_job(handle):
            return opened
        self.release(opened.fh)
        return None

    def _find_to_open(self, path: str, flags: int) -> Node:
        """Return the file at `path`, with a known size. Raises FsError(ENOENT, EISDIR, EACCES), ApiError."""
        node = self._view.get(path)
        if node.kind is Kind.DIRECTORY:
            raise FsError(errno.EISDIR)
        if flags & CHANGES:
            self._view.check_may_write(node)
        if isinstance(node, Item) and node.size is not None:
            return node
        return self._view.ensure_size_known(path, node)

    def _was_replaced_by_job(self, handle: OpenFile) -> bool:
        """Return whether the job has replaced the file by a new item, which has a File of its own."""
        item, file = handle.item, handle.file
        return item is not None and file.local is None and self._state.index.file_of(item) is not file

    def _finish_open(
        self, handle: OpenFile, path: str, node: Node, flags: int, kernel: KernelFile | None
    ) -> OpenResult:
        """Finish opening `node`, or its replacement if the job has replaced it. Raises as `open`, after closing the handle."""
        try:
            if flags & os.O_TRUNC:
                return self._finish_open_truncated(handle, path)
            if flags & CHANGES:
                opened = self._finish_open_to_write(
                    handle, path, is_retry=kernel is not None and kernel.is_retry
                )
            else:
                opened = self._finish_open_to_read(handle, path, node)
            if kernel is not None and isinstance(node, Item) and handle.shown_size() != kernel.size:
                return self._finish_open_of_other_size(handle, opened, kernel)
            handle.note_read()
            return opened
        except BaseException:
            # The kernel keeps its old pages after a failed open, so the version noted for them is wrong.
            self._pages.forget_version(handle.node_path)
            self.release(handle.fh)
            raise

    @staticmethod
    def _finish_open_of_other_size(handle: OpenFile, opened: OpenResult, kernel: KernelFile) -> OpenResult:
        """Finish opening a file of which the kernel has another size. Raises FsError(ESTALE): the kernel must look it up again.

        At a retry, the file bypasses the kernel's cache. A program that writes in place has been shown no version that a write
        could be based on.
        """
        if not kernel.is_retry:
            raise FsError(errno.ESTALE, "the kernel has another size of this file")
        if handle.writes_by_offset:
            handle.base_item, handle.relies_on_other_size = None, True
        else:
            handle.note_read()
        return opened._replace(direct_io=True, keep_cache=False)

    def _open_control(self, name: str, flags: int) -> OpenResult:
        data = self._report.read_file(name, flags)
        file = ControlFile(self._view, self._pages, self._report, name, data)
        self._pages.register(file, "", None)
        return OpenResult(file.fh, direct_io=True)

    def _still_shows(self, path: str, node: Node) -> bool:
        """Return whether `path` still shows the File, or the item with the id, of `node`; also if nothing is known there."""
        current = self._view.find_known(path)
        if isinstance(node, File) or current is node:
            return current is node
        if isinstance(current, File):
            return current.item is not None and current.item.id == node.id
        return current is None or current.id == node.id

    def _new_open_file(self, path: str, node: Node, flags: int, process: Process | None) -> OpenFile:
        """Make a handle on the File of `node`, for a process. Raises FsError(EMFILE)."""
        file, item = (
            (node, node.item) if isinstance(node, File) else (self._state.get_or_add_file(node), node)
        )
        handle = OpenFile(self._view, self._pages, file, item, flags)
        with file.lock:
            if file.local is not None or item is None or self._state.add_again_if_forgotten(file):
                self._add_handle(handle, path, process)
                return handle
        return self._new_open_file(path, item, flags, process)

    def _add_handle(self, handle: OpenFile, path: str, process: Process | None) -> None:
        """Add a new handle to its File, and open the bytes. The caller has the File's lock. Raises FsError(EMFILE)."""
        file, item = handle.file, handle.item
        if file.local is None and item is not None:
            file.item, file.path = item, path
            if handle.writable:
                # Only the base of a save needs this.
                handle.racy = self._write_back.context.is_racy(item)
            handle.content = self._content.open(item)
        if not file.handles:
            if file.local is not None:
                try:
                    file.local.acquire()
                except OSError as error:
                    raise FsError(error.errno or errno.EIO, f"{file.path}: {error.strerror}") from error
            self._state.opened[file.ino] = file
        file.handles.append(handle)
        handle.process = process
        self._state.read_log.hold_process(process)

    def _finish_open_to_read(self, handle: OpenFile, path: str, node: Node) -> OpenResult:
        """Finish opening a file for reading; let the kernel keep its pages if they and the cache have all of this version."""
        content = handle.content
        if not (isinstance(node, Item) and isinstance(content, ContentHandle)):
            return self._finish_open_local(handle, path, node)
        is_whole = content.is_complete
        holds_pages = self._pages.register(handle, path, content.version) and is_whole
        self._prefetch.note_open(content.item, is_cached=is_whole)
        if holds_pages:
            handle.has_read = True  # the program may get pages that the kernel has read before
            return OpenResult(handle.fh, keep_cache=True)
        handle.fetch_first_bytes()
        return OpenResult(handle.fh, handle.is_beside_another_version())

    def _finish_open_local(self, handle: OpenFile, path: str, node: Node) -> OpenResult:
        """Finish opening a File with local bytes for reading; a save of these may have ended by now.

        If the lookup found an item (`node`), the first write to the file came later. The kernel may still have the item's
        size, so this handle bypasses its pages.
        """
        self._pages.register(handle, path, None)
        handle.fetch_first_bytes()
        return OpenResult(handle.fh, isinstance(node, Item) or handle.is_beside_another_version())

    def _finish_open_to_write(self, handle: OpenFile, path: str, *, is_retry: bool) -> OpenResult:
        self._pages.register(handle, path, None)
        self._state.read_log.ignore_backup_read(handle.process, path)
        handle.fetch_for_write(is_retry=is_retry)
        return OpenResult(handle.fh, handle.is_beside_another_version())

    def _finish_open_truncated(self, handle: OpenFile, path: str) -> OpenResult:
        self._pages.register(handle, path, None)
        self._state.read_log.ignore_backup_read(handle.process, path)
        self.ftruncate(handle.fh, 0)
        return OpenResult(handle.fh, handle.is_beside_another_version())

    def _close_handle(self, handle: OpenFile) -> None:
        """Remove a handle from its File; with the last one, close the local bytes and forget the File if nothing needs it."""
        file = handle.file
        with file.lock:
            was_open, local = handle in file.handles, file.local
            if was_open:
                file.handles.remove(handle)
                self._state.read_log.release_process(handle.process)
            if was_open and not file.handles:
                if local is not None:
                    local.release()
                    if file.path is None:
                        file.local = None
                        local.path.unlink(missing_ok=True)
                self._state.opened.pop(file.ino, None)
                self._state.forget_if_unused(file)
        handle.drop_content()

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> OpenResult:
        """Create a file and open it, or open an existing one without O_EXCL.

        Raises FsError(EEXIST, EISDIR, EACCES, EROFS, EPERM, ENOENT, ENAMETOOLONG, ENOSPC, ENFILE), ApiError; FsError(ESTALE) as
        `open`.
        """
        self._view.check_may_change(path)
        check_new_name(path)
        self._view.check_may_write(self._view.get_directory(names.parent(path)))
        while True:
            with self._state.reservations.hold(path):
                node = self._view.find(path)
                if node is None:
                    file = self._make_file(path, mode, caller)
                    break
            if flags & os.O_EXCL or is_dir(node):
                raise FsError(errno.EEXIST if flags & os.O_EXCL else errno.EISDIR)
            try:
                return self.open(path, flags, caller.pid)
            except FsError as error:
                if error.errno != errno.ENOENT:
                    raise
                # It was unlinked after it was found: create it.
        handle = OpenFile(self._view, self._pages, file, None, flags)
        handle.writable = True
        handle.process = self._state.read_log.process_of(caller.pid)
        self._state.read_log.hold_process(handle.process)
        file.handles.append(handle)
        self._pages.register(handle, path, None)
        return OpenResult(handle.fh)

    def _make_file(self, path: str, mode: int, caller: Caller) -> File:
        """Create a File with an open generation. The caller holds its name. Raises FsError(ENOSPC, EIO, ENFILE), ApiError."""
        state, write_back = self._state, self._write_back
        self._check_descriptors()
        write_back.queue.wait_in_flight(Verb.REMOVE, path)
        process = state.read_log.process_of(caller.pid)
        state.read_log.ignore_backup_read(process, path)
        file = state.new_local_file(Kind.FILE, path)
        file.never_sent = self._view.is_local_only(path)
        file.mode, file.uid, file.gid = mode & 0o7777, caller.uid, caller.gid
        _set_content_times(file)
        file.atime_ns = file.mtime_ns
        local = self._retry_with_room(lambda: self._begin_generation(file))
        if not file.never_sent:
            displaced = write_back.renamer.find_displaced(path, None, process)
            file.base, file.item = displaced.base, displaced.item
            file.item_id = displaced.item.id if displaced.item is not None else ""
            try:
                write_back.renamer.release_displaced(displaced)
            except FsError:
                local.release()
                state.unlink_file(file)
                raise
            state.read_log.note_write(process, path, displaced.item, displaced.base)
        state.opened[file.ino] = file
        state.add_file(file)
        self._view.touch_directory(names.parent(path))
        return file

    def _check_descriptors(self) -> None:
        """Raise FsError(ENFILE) if another open file would take a descriptor that saves need."""
        if len(self._handles) >= self._most_open:
            reason = f"{len(self._handles)} files are open: raise the limit of open files (ulimit -n)"
            raise FsError(errno.ENFILE, reason)

    # -- write

    def write(self, fh: int, data: bytes | memoryview, offset: int, *, mapped: bool = False) -> int:
        """Write all of `data`, and return its length. `mapped`: a page of a mapping, which is never appended.

        Raises FsError(EBADF, ENOSPC, EIO), ApiError; FsError(ESTALE) as `OpenFile.check_known_end` and `check_known_size`.
        """
        handle = self.get_handle(fh)
        # The kernel sends a page up to the end of the file as it knows it, even if only a part of the page was changed.
        handle.check_known_end(offset + len(data) if mapped else offset)
        at_end = handle.append and not mapped

        def attempt() -> int:
            with self._hold_writable(handle, offset=None if at_end else offset) as local:
                return local.write(data, local.size if at_end else offset)

        return self._retry_with_room(attempt, lambda: len(data) + handle.bytes_to_copy())

    @contextlib.contextmanager
    def _hold_writable(
        self, handle: OpenFile, *, offset: int | None, keeps_content: bool = True
    ) -> Iterator[LocalGeneration]:
        """Yield the File's local bytes, with its lock held, ready to be changed from `offset` on; None: from their end.

        `keeps_content`: new local bytes begin with the version that the handle shows; otherwise they are empty.
        """
        file = handle.file
        for _ in range(REOPENS):
            content, source = handle.fetch_to_edit() if keeps_content and file.local is None else (None, None)
            with file.lock:
                if keeps_content:
                    handle.check_known_size()
                if file.local is None:
                    if (
                        keeps_content
                        and handle.item is not None
                        and (source is None or handle.content is not content)
                    ):
                        # A save has ended in between: fetch the version with which the handle continues.
                        continue
                    local = self._begin_first_generation(handle, source)
                else:
                    local = self._ensure_writable_generation(
                        file, file.local, offset=offset, keeps_content=keeps_content
                    )
                yield local
                handle.relies_on_other_size = handle.relies_on_other_size and keeps_content
                self._note_written(handle)
                return
        raise FsError(errno.EIO, "the file keeps being saved while it is written")

    def _note_written(self, handle: OpenFile) -> None:
        """Note that the local bytes of a handle's File have changed. The caller has the File's lock."""
        file = handle.file
        _set_content_times(file)
        if file.path is not None and file.is_visible_to_job:
            self._state.read_log.note_write(handle.process, file.path, file.item, file.base)

    def _ensure_writable_generation(
        self, file: File, local: LocalGeneration, *, offset: int | None, keeps_content: bool
    ) -> LocalGeneration:
        """Return the File's local bytes if they may change from `offset` on, else a new generation: closed bytes never change."""
        if local.may_change(local.size if offset is None else offset):
            return local
        begun = self._begin_generation(file, local.stable_path if keeps_content else None)
        local.release()
        if file.path is None:
            local.path.unlink(missing_ok=True)  # no record names the bytes of an unlinked file
        elif local.generation != file.generation:
            # An open generation from which the closed bytes were separated.
            self._state.bytes.remove_after_sync(file.ino, local.generation)
        return begun

    def _begin_generation(self, file: File, source: Path | None = None, **values: object) -> LocalGeneration:
        """Begin a generation of a File, with the bytes of `source` if that is given; `values`: its other changed fields.

        Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        state = self._state
        local = state.bytes.create(file.ino, state.journal.next_number(), source)
        try:
            state.store.begin_generation(file, local, **values)
        except FsError:
            local.discard()
            raise
        return local

    def _begin_first_generation(self, handle: OpenFile, source: Path | None) -> LocalGeneration:
        """Begin a File's first generation over a version of the server, and set its base. The caller has the File's lock.

        `source`: the file with the version's bytes for a write in place, None for new content. Raises FsError(ENOSPC, EIO).
        """
        file, item = handle.file, handle.item
        values: dict[str, object] = {"item": item}
        if file.path is not None:
            # A write in place replaces the version that was opened; new content, the version that was read last (4.42).
            process = handle.process if source is None else None
            base = self._write_back.context.base_of(handle.base_item, racy=handle.racy, process=process)
            values["base"] = base
            if file.is_visible_to_job:
                self._state.read_log.note_write(handle.process, file.path, handle.base_item, base)
        if item is not None and file.is_visible_to_job:
            values |= {**self._view.freeze_attributes(file), "permission": item.permission}
            values["pending_permission"] = None
        local = self._begin_generation(file, source, **values)
        for other in file.handles:
            other.drop_content()  # all handles read the local bytes from now on: one descriptor for a File
            if source is not None and isinstance(other, OpenFile):
                other.note_size_here(local.size)
        return local

    def truncate(self, path: str, length: int, pid: int = 0) -> None:
        """Set the length of the file at `path`, in bytes; `pid` as in `open`. Raises as `open` and `write`."""
        self._view.check_may_change(path)
        fh = self.open(path, os.O_WRONLY if length else os.O_WRONLY | os.O_TRUNC, pid).fh
        try:
            self.ftruncate(fh, length)
            self.flush(fh)
        finally:
            self.release(fh)

    def ftruncate(self, fh: int, length: int) -> None:
        """Set the length of an open file, in bytes. Raises as `write`."""
        handle = self.get_handle(fh)
        if length:
            handle.check_known_end(length)

        def attempt() -> None:
            with self._hold_writable(handle, offset=length, keeps_content=length > 0) as local:
                local.truncate(length)

        self._retry_with_room(attempt, lambda: handle.bytes_to_copy() if length else 0)

    # -- close and fsync

    def flush(self, fh: int) -> None:
        """Record written bytes in the journal, so that they survive a kill; with --sync-on-close, wait until the server has them.

        Raises FsError, ApiError.
        """
        handle = self.get_handle(fh)
        file = handle.file
        if not handle.writable:
            return
        self._record_written_bytes(file)
        # A program that has a duplicated descriptor gets the same error at each close.
        if self._settings.sync_on_close and file.is_visible_to_job:
            self._write_back.wait_until_uploaded(file)

    def fsync(self, fh: int) -> None:
        """Wait until the server has the bytes (4.7); a local only file's go to the local disk (4.16).

        Raises FsError, ApiError.
        """
        file = self.get_handle(fh).file
        if file.path is not None and file.never_sent:
            self._record_written_bytes(file)
            self._state.store.sync()
        if file.is_visible_to_job:  # a local only file may have been renamed in between
            self._write_back.wait_until_uploaded(file)

    def release(self, fh: int) -> None:
        """Close a handle, whose last descriptor is closed; with the last writer, record and schedule written bytes.

        Raises FsError, after the handle is closed. A number that is not open is ignored.
        """
        handle = self._pages.unregister(fh)
        if handle is None:
            return
        file = handle.file
        try:
            if handle.writable and not any(h.writable for h in file.handles if h is not handle):
                handle.writable = False
                self._record_written_bytes(file)
        finally:
            self._close_handle(handle)

    def _record_written_bytes(self, file: File) -> None:
        """Record bytes that were written, and schedule their save; of a local only file, the generation and size alone."""
        if file.path is None:
            return
        if file.never_sent:
            self._record_scratch(file)
            return
        self._retry_with_room(lambda: self._write_back.record_closed(file))
        self._write_back.queue.schedule(file)

    def _record_scratch(self, file: File) -> None:
        """Record generation and size of a local only file, whose bytes are written in place. Raises FsError(ENOSPC, EIO)."""
        with file.lock:
            local, old_generation = file.local, file.generation
            if local is None or not file.never_sent:
                return
            self._state.bytes.mark_unsynced(file.ino, local)
            if (file.generation, file.size) == (local.generation, local.size):
                return
            self._state.write(
                edit(file, generation=local.generation, size=local.size, open_generation=0), is_new=True
            )
            if old_generation and old_generation != local.generation:
                self._state.bytes.remove_after_sync(file.ino, old_generation)

    def close_all(self) -> None:
        """Release all handles at the end of the mount; log what fails."""
        for fh in list(self._handles):
            try:
                self.release(fh)
            except JobfsError as error:
                log.error("%s", error)


def _open_file_limit() -> int:
    """Return how many files programs may have open at once, one descriptor each (vfs/semantics.md 6, Bounds)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _UNLIMITED if soft == resource.RLIM_INFINITY else soft
    return max(limit - _RESERVE, limit // 4)


def _set_content_times(file: File) -> None:
    """Set a File's mtime and ctime to now."""
    file.mtime_ns = file.ctime_ns = time.time_ns()
