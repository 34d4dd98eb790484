"""Operations on names: mkdir, rmdir, symlink, rename, unlink (vfs/semantics.md 4).

Every operation holds the names that it changes, with all names below them. It treats four kinds of files differently: an item; a
File whose save has not started (one step renames it, or removes its row); a local only File (a scratch name, a link); and a File
that is being sent, for which a rename waits, and whose save an unlink cancels.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from jobfs import names
from jobfs.content import ContentHandle, StaleVersionError
from jobfs.errors import FsError, JobfsError, NotFoundError, PathExistsError
from jobfs.nodes import Item, Kind, Version
from jobfs.save import Displaced
from jobfs.state import File, edit
from jobfs.state.processes import Process
from jobfs.state.records import Base, Handle, Verb
from jobfs.vfs.handles import REOPENS, Caller, PageCacheTracker
from jobfs.vfs.view import Node, View, check_new_name, is_dir


class NameOperations:
    """The operations on names. Every method may be called from any thread."""

    def __init__(self, view: View, pages: PageCacheTracker) -> None:
        self._view, self._pages = view, pages
        self._settings, self._write_back = view.settings, view.write_back
        self._state, self._namespace = view.state, view.namespace

    @contextmanager
    def _hold_name_to_create(self, path: str) -> Iterator[None]:
        """Hold a free name for the block, which makes something there.

        Raises FsError(EEXIST, EACCES, ENOENT, ENOTDIR, ENAMETOOLONG, EPERM), ApiError.
        """
        check_new_name(path)
        self._view.check_may_write(self._view.get_directory(names.parent(path)))
        with self._state.reservations.hold(path):
            if self._view.find(path) is not None:
                raise FsError(errno.EEXIST)
            if self._state.index.has_override(path):
                # The removal of a file that had this name must end first.
                self._write_back.queue.wait_idle(path)
            yield
            self._view.touch_directory(names.parent(path))

    @contextmanager
    def _hold_name_to_remove(self, path: str) -> Iterator[None]:
        """Hold a name for the block, which may remove the node there. Raises FsError(EACCES, ENOENT, ENOTDIR), ApiError."""
        self._view.check_may_write(self._view.get_directory(names.parent(path)))
        with self._state.reservations.hold(path):
            self._write_back.queue.wait_in_flight(Verb.MOVE, path)
            yield

    def _note_name_removed(self, path: str) -> None:
        """Note that the node at a held name was removed. Raises FsError(EIO)."""
        self._unlink_older_files(path)
        self._view.keep_parent(path)
        self._view.touch_directory(names.parent(path))

    # -- directories

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        """Make a directory on the server; in an outage, here, and on the server once it is back (4.31).

        Raises FsError(EEXIST, EACCES, EROFS, EPERM, ENOENT, ENOTDIR, ENAMETOOLONG, ENOSPC), ApiError.
        """
        self._view.check_may_change(path)
        with self._hold_name_to_create(path):
            mode, uid, gid = mode & 0o7777, caller.uid, caller.gid
            if self._view.is_local_only(path):
                self._record_local_node(
                    self._state.new_local_file(Kind.DIRECTORY, path), mode, uid, gid, never_sent=True
                )
                return
            parent = self._state.index.file_at(names.parent(path))
            parent_missing = parent is not None and parent.needs_create
            item = None if parent_missing else self._write_back.make_directory(path)
            if item is None:
                # Its Change makes it on the server later.
                file = self._state.new_local_file(Kind.DIRECTORY, path)
                self._state.write(edit(file, mode=mode, uid=uid, gid=gid), is_new=True)
                self._write_back.queue.schedule(file)
                return
            self._state.set_times(item, is_new=True)
            settings = self._settings
            if (mode, uid, gid) != (0o755 & ~settings.umask, settings.uid, settings.gid):
                file = self._state.get_or_add_file(item)
                self._state.write(edit(file, mode=mode, uid=uid, gid=gid, permission=item.permission))

    def _record_local_node(self, file: File, mode: int, uid: int, gid: int, **values: object) -> None:
        """Record a new local only directory or link. Raises FsError(ENOSPC, EIO)."""
        now = time.time_ns()
        times = {"atime_ns": now, "mtime_ns": now, "ctime_ns": now}
        self._state.write(edit(file, mode=mode & 0o7777, uid=uid, gid=gid, **times, **values), is_new=True)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory (R12).

        Raises FsError(ENOTEMPTY, ENOTDIR, ENOENT, EBUSY, EACCES, EPERM, EROFS), ApiError.
        """
        self._view.check_may_change(path)
        node = self._view.get_directory(path)
        if not path:
            raise FsError(errno.EBUSY)
        with self._hold_name_to_remove(path):
            self._view.check_may_replace(node)
            self._write_back.queue.wait_idle(path)
            self._remove_directory(path)
            self._note_name_removed(path)

    def _remove_directory(self, path: str) -> None:
        files, _ = self._state.index.children_of(path)
        if files:
            raise FsError(errno.ENOTEMPTY)
        node = self._view.get_directory(path)
        if isinstance(node, Item):
            if not node.is_implicit:
                self._write_back.items.hide_empty_directory(node)
            elif self._namespace.children(path, max_age=self._namespace.max_age_to_prove_empty):
                raise FsError(errno.ENOTEMPTY)
        self._forget_directory(path, node)

    def _forget_directory(self, path: str, node: Node) -> None:
        """Forget the File, the Change and the attributes of a directory that is gone from `path`. Raises FsError(EIO)."""
        known = self._state.index.file_of(node) if isinstance(node, Item) and node.is_implicit else None
        for file in (self._state.index.file_at(path), known):
            if file is not None:
                self._state.unlink_file(file)

    # -- links

    def symlink(self, path: str, target: str, caller: Caller) -> None:
        """Make a symbolic link on this machine only, since the API has none (2.12). Raises as `mkdir`; FsError(EPERM)."""
        self._view.check_may_change(path)
        # At a scratch name always: Emacs locks a file by such a link.
        if not self._settings.local_symlinks and not self._view.is_local_only(path):
            raise FsError(errno.EEXIST if self._view.find(path) is not None else errno.EPERM)
        with self._hold_name_to_create(path):
            link = self._state.new_local_file(Kind.FILE, path)
            self._record_local_node(link, 0o777, caller.uid, caller.gid, never_sent=True, link=target)

    def readlink(self, path: str) -> str:
        """Return the target of a symbolic link. Raises FsError(EINVAL) for any other node, FsError(ENOENT), ApiError."""
        node = self._view.get(path)
        if isinstance(node, File) and node.link:
            return node.link
        raise FsError(errno.EINVAL)

    # -- rename

    def rename(self, old: str, new: str, pid: int = 0) -> None:
        """Rename a node, and replace the node at `new`; `pid` as in `open`. Raises FsError (errnos of rename(2)), ApiError."""
        self._view.check_may_change(old, new)
        with self._state.reservations.hold(old, new):
            check_new_name(new)
            source = self._wait_for_source(old, new)
            if old != new:
                self._rename(source, old, new, self._state.read_log.process_of(pid))
                self._pages.note_node_moved(old, new, directory=is_dir(source))
                # A rename to a scratch name is an editor's backup: the kept copies stay with the old name.
                if not self._view.is_local_only(new):
                    self._state.rename_copies(old, new, directory=is_dir(source))

    def _wait_for_source(self, old: str, new: str) -> Node:
        """Return the node at `old`, once no other rename of these names is in flight.

        Raises FsError(ENOENT, EINVAL), ApiError.
        """
        self._write_back.queue.wait_in_flight(Verb.MOVE, old, new)
        source = self._view.get(old)
        if names.is_below(new, old):
            raise FsError(errno.EINVAL)
        if is_dir(source) and old != new:
            # No Change may be in flight in a directory. For a file, `_rename_file` waits or restarts the save.
            self._write_back.queue.wait_idle(old, new)
            return self._view.get(old)
        return source

    def _rename(self, source: Node, old: str, new: str, process: Process | None) -> None:
        directories = dict.fromkeys((names.parent(old), names.parent(new)))
        for directory in directories:
            self._view.check_may_write(self._view.get_directory(directory))
        target = self._view.find(new)
        self._view.check_may_replace(source)
        if target is not None:
            self._view.check_may_replace(target)
            if is_dir(target) is not is_dir(source):
                raise FsError(errno.EISDIR if is_dir(target) else errno.ENOTDIR)
        if is_dir(source):
            self._rename_directory(source, target, old, new)
        else:
            self._rename_file(source, target, old, new, process)
            self._unlink_older_files(new)
        self._view.keep_parent(old)
        for directory in directories:
            self._view.touch_directory(directory)
        if (now := self._view.find_known(new)) is not None:
            self._view.touch_node(now)

    def _rename_directory(self, source: Node, target: Node | None, old: str, new: str) -> None:
        if self._view.is_local_only(new) or (isinstance(source, File) and source.never_sent):
            raise FsError(errno.EXDEV)  # a directory is local only or not for its whole life: `mv` copies
        if isinstance(source, File) and source.needs_create:
            self._write_back.wait_until_uploaded(source)
            source = self._view.get(old)
        if target is not None:
            if self._view.list(new):
                raise FsError(errno.ENOTEMPTY)
            self._remove_directory(new)
        self._write_back.renamer.rename_directory(self._ensure_directory_item(source, old), new)
        self._forget_directory(old, source)

    def _ensure_directory_item(self, directory: Node, path: str) -> Item:
        """Return the item of a directory; create one for an implicit directory. Raises FsError(ENOENT), ApiError."""
        if isinstance(directory, Item) and not directory.is_implicit:
            return directory
        self._write_back.replacer.make_missing_directory(path)
        made = self._namespace.lookup(path, max_age=0.0)
        if made is None or made.is_implicit:
            raise FsError(errno.ENOENT)
        return made

    def _rename_file(
        self, source: Node, target: Node | None, old: str, new: str, process: Process | None
    ) -> None:
        target = self._wait_for_target(target, new)
        overwritten = target if isinstance(target, File) and target.never_sent else None
        to_scratch = self._view.is_local_only(new) and (target is None or overwritten is not None)
        source = self._upload_or_wait_for_source(source, old, never_sent=to_scratch)
        if isinstance(source, File) and source.link:
            self._rename_link(source, target, new)
        elif to_scratch:
            self._rename_to_scratch(source, overwritten, old, new)
        elif isinstance(source, File):
            self._rename_unsent(source, target, overwritten, new, process)
        else:
            self._rename_item(source, target, overwritten, new, process)

    def _wait_for_target(self, target: Node | None, path: str) -> Node | None:
        """Return the node at the target of a rename, once no save of it is in flight. Raises ApiError, FsError."""
        if not isinstance(target, File):
            return target
        self._write_back.wait_or_withdraw_save(target)
        return self._view.find(path)

    def _upload_or_wait_for_source(self, node: Node, path: str, *, never_sent: bool) -> Node:
        """Return the node to rename, once no save of it is in flight. Raises FsError, ApiError.

        A File with a base is uploaded first, and its item is renamed; not if it becomes local only (`never_sent`).
        """
        if not isinstance(node, File):
            return node
        if never_sent or not (node.overrides_server and node.base.id):
            self._write_back.wait_or_withdraw_save(node)
        if not never_sent and node.overrides_server and node.base.id:
            self._write_back.wait_until_uploaded(node)
            if node.item is not None:
                # Bytes that are written from now on get the new name with the File (`_record_moved_file`).
                return node.item
        return self._view.get(path)

    def _rename_unsent(
        self, file: File, target: Node | None, overwritten: File | None, new: str, process: Process | None
    ) -> None:
        """Rename a File that the server does not have: its save goes to the new name. Raises FsError(ENOSPC, EIO)."""
        displaced = self._write_back.renamer.find_displaced(new, target, process)
        self._write_back.renamer.rename_unsent_over(file, new, displaced, overwritten)
        self._state.read_log.note_write(process, new, displaced.item, displaced.base)

    def _rename_item(
        self, item: Item, target: Node | None, overwritten: File | None, new: str, process: Process | None
    ) -> None:
        displaced = self._write_back.renamer.find_displaced(
            new, None if overwritten is not None else target, process
        )
        if displaced.pending_removal is None and self._state.index.has_override(new):
            # The cancelled save of a file that was unlinked there must be undone first.
            self._write_back.queue.wait_idle(new)
        file = self._state.index.file_of(item)
        replaced = self._state.index.file_of(displaced.item) if displaced.item is not None else None
        has_note = self._state.read_log.inherit_note(process, item.path)
        moved = self._move_item(item, new, displaced)
        if not has_note:
            self._state.read_log.note_read(process, new, moved)  # the process knows what it has put there
        for file_at_target in (overwritten, replaced):
            if file_at_target is not None and file_at_target.path == new:
                self._unlink_replaced_file(file_at_target)
        self._state.forget_copies(new)  # the copies of the replaced file
        if file is not None:
            self._record_moved_file(file, moved, new)

    def _unlink_replaced_file(self, file: File) -> None:
        """Unlink a File whose name another file has taken: only its handles keep its bytes, even unsent ones."""
        self._state.apply_in_memory(file, **self._view.freeze_attributes(file))
        self._state.unlink_file(file)

    def _unlink_older_files(self, path: str) -> None:
        """Unlink the older Files of a name, which the job has replaced: the name is no longer theirs either.

        A File that is neither open nor being saved can't come back by itself. Raises FsError(EIO).
        """
        shown = self._view.find_known(path)
        file = self._state.index.file_of(shown) if isinstance(shown, Item) else shown
        for other in [*self._state.opened.values(), *self._state.changes.files_sent_to(path)]:
            if other.path == path and other is not file and self._write_back.cancel_save(other):
                self._unlink_replaced_file(other)

    def _move_item(self, item: Item, new: str, displaced: Displaced) -> Item:
        """Move an item on the server, over `displaced` or over an item that the job has just put there. Raises ApiError."""
        # Checked first: a request that is not sent leaves no name in doubt.
        self._write_back.client.probe_and_require_reachable(new)
        try:
            if not (displaced.base.id or displaced.file or displaced.pending_removal):
                with contextlib.suppress(PathExistsError):
                    return self._write_back.items.update_item(item, path=new)
            return self._write_back.renamer.move_item_over(item, new, displaced)
        except JobfsError:
            self._namespace.invalidate(item.path)
            self._namespace.invalidate(new)
            raise

    def _record_moved_file(self, file: File, item: Item, new: str) -> None:
        """Give a File whose item was renamed the new name, with its handles and unsent bytes. Raises FsError(EIO)."""
        with file.lock:
            if file.recorded and (file.needs_upload or file.open_generation):
                self._state.write(edit(file, path=new))
            self._state.apply_in_memory(file, path=new, item=item)
            if file.change is not None and not file.change.started:
                self._state.apply_in_memory(file.change, target=new)
            for handle in file.handles:
                handle.follow_rename(item)

    # -- local only names

    def _rename_link(self, link: File, target: Node | None, new: str) -> None:
        if not self._settings.local_symlinks and not self._view.is_local_only(new):
            raise FsError(errno.EPERM)
        removes = target is not None and not (isinstance(target, File) and target.never_sent)
        if removes:
            self._state.write(edit(link), is_new=True)  # a full disk refuses this before anything is removed
        if isinstance(target, Item):
            self._unlink_item(target)
        elif target is not None and not target.never_sent:
            self._unlink_file(target, new)
        self._rename_local_only(link, self._state.index.file_at(new), new, is_new=not removes)

    def _rename_to_scratch(self, node: Node, overwritten: File | None, old: str, new: str) -> None:
        """Rename a file, local only or not, to a scratch name. Raises FsError(ENOSPC, EIO, EXDEV), ApiError."""
        if isinstance(node, File) and node.never_sent:
            self._rename_local_only(node, overwritten, new)
        else:
            self._make_local_only(node, overwritten, old, new)

    def _rename_local_only(
        self, file: File, overwritten: File | None, new: str, *, is_new: bool = True
    ) -> None:
        """Rename a local only file or link, over the local only File `overwritten`; `is_new` as in `State.write`.

        Raises FsError(ENOSPC, EIO).
        """
        displaced = self._write_back.renamer.find_displaced(new, None)
        removed = [
            f
            for f in (overwritten, displaced.file, displaced.pending_removal)
            if f is not None and f.recorded
        ]
        self._state.write(edit(file, path=new), remove=removed, is_new=is_new)
        self._write_back.renamer.release_displaced(displaced, overwritten)

    def _make_local_only(self, node: Node, overwritten: File | None, old: str, new: str) -> None:
        """Make a file local only under a scratch name (4.34): fetch its bytes; its item is deleted from the server later.

        Raises FsError(EXDEV, ENOSPC, EIO), ApiError.
        """
        if (isinstance(node, Item) or node.base.id) and self._view.is_local_directory(names.parent(new)):
            raise FsError(errno.EXDEV)
        for _ in range(REOPENS):
            attr = self._view.freeze_attributes(node)
            if isinstance(node, File):
                self._write_back.renamer.make_local_only(node, old, new, attr, overwritten)
                return
            with self._view.content.open(node) as content:
                try:
                    source = content.fetch_file()
                except (StaleVersionError, NotFoundError):
                    node = self._view.get(old, max_age=0.0)  # the job has written to it, or replaced it
                    continue
                move = partial(
                    self._write_back.renamer.make_local_only, node, old, new, attr, overwritten, source
                )
                self._write_back.context.retry_with_room(move, partial(os.path.getsize, source))
                return
        raise FsError(errno.EIO, "the file keeps changing while it is renamed")

    # -- unlink

    def unlink(self, path: str) -> None:
        """Remove a file, and return once it is gone from the server (4.31).

        A file with open handles that lack bytes, and a save that was started, are removed in the background. Raises
        FsError(ENOENT, ENOTDIR, EISDIR, EPERM, EACCES, EROFS), ApiError.
        """
        self._view.check_may_change(path)
        with self._hold_name_to_remove(path):
            node = self._view.get(path, max_age=1.0)
            if is_dir(node):
                raise FsError(errno.EISDIR)
            self._view.check_may_replace(node)
            if isinstance(node, Item):
                self._unlink_item(node)
            else:
                self._unlink_file(node, path)
            self._pages.note_node_detached(path)
            self._state.forget_copies(path)
            self._note_name_removed(path)

    def unlink_if_version(self, path: str, version: Version, sha256: str) -> bool:
        """Remove the file at `path` if the server still has this version, with bytes of this hash; return whether it did.

        Raises as `unlink`.
        """
        base = Base(*version, sha256=sha256, racy=True)  # its bytes are compared
        self._view.check_may_change(path)
        with self._hold_name_to_remove(path):
            node = self._view.get(path, max_age=0.0)
            item = node if isinstance(node, Item) else None if node.overrides_server else node.item
            if item is None or not base.matches_version(item):
                return False
            self._view.check_may_replace(node)
            self._write_back.items.delete_if_still(path, base)
            there = self._namespace.lookup(path, max_age=0.0)
            if there is not None and there.id == base.id:
                return False
            self._pages.note_node_detached(path)
            self._state.forget_copies(path)
            self._note_name_removed(path)
            return True

    def _unlink_item(self, item: Item) -> None:
        """Unlink an item and its File; delete the item in the background if a handle needs it. Raises ApiError, FsError."""
        file, shown = self._state.index.file_of(item), self._view.freeze_attributes(item)
        if file is not None and any(_lacks_bytes(handle) for handle in file.handles):
            self._write_back.delete_once_fetched(item)  # the unlink must not wait for the download
        else:
            self._write_back.items.delete_item(item)
        if file is not None and file.handles:
            self._state.apply_in_memory(file, **shown)
            self._state.unlink_file(file)

    def _unlink_file(self, file: File, path: str) -> None:
        """Unlink a File: a local only one, or one with unsent bytes, whose save is cancelled. Raises FsError, ApiError."""
        if file.never_sent:
            self._state.unlink_file(file)
            return
        if not self._write_back.cancel_save(file):
            return
        try:
            self._write_back.items.delete_if_still(path, file.base)
        except JobfsError:
            self._write_back.queue.schedule(file)  # `cancel_save` may have ended its save
            raise
        self._state.unlink_file(file)


def _lacks_bytes(handle: Handle) -> bool:
    """Return whether some bytes of the version that a handle shows are not on this machine."""
    content = handle.content
    return isinstance(content, ContentHandle) and not content.is_complete
