"""Changes of names: mkdir, rmdir, rename, unlink (vfs/semantics.md 4).

Every operation reserves the names that it changes, with all below them. There are four kinds of files here: an item; a File whose
save was not begun (it gets another name in one step, or loses its row); a File that stays here (a scratch name, a link); and a
File that is being sent, which is waited for, or cancelled if it is unlinked.
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
from jobfs.content import Content, StaleVersionError
from jobfs.errors import FsError, JobfsError, NotFoundError, PathExistsError
from jobfs.nodes import Item, Kind, Version
from jobfs.save import Victim
from jobfs.state import File, edit
from jobfs.state.processes import Process
from jobfs.state.records import Base, Handle, Verb
from jobfs.vfs.handles import REOPENS, Caller, KernelPages
from jobfs.vfs.view import Node, View, check_new_name, is_dir


class Tree:
    """Makes, removes and renames. May be called from any thread."""

    def __init__(self, view: View, pages: KernelPages) -> None:
        self._view, self._pages = view, pages
        self._settings, self._write_back = view.settings, view.write_back
        self._state, self._namespace = view.state, view.namespace

    @contextmanager
    def _making(self, path: str) -> Iterator[None]:
        """Hold a name for something new. Raises FsError(EEXIST, EACCES, ENOENT), ApiError."""
        check_new_name(path)
        self._view.may_write(self._view.directory(names.parent(path)))
        with self._state.reservations.held(path):
            if self._view.find(path) is not None:
                raise FsError(errno.EEXIST)
            if self._state.index.hidden(path):
                # A file that is on its way off this name goes first.
                self._write_back.queue.rest(path)
            yield
            self._view.touch_directory(names.parent(path))

    @contextmanager
    def _leaving(self, path: str) -> Iterator[None]:
        """Hold a name that something loses. Raises FsError(EACCES), ApiError."""
        self._view.may_write(self._view.directory(names.parent(path)))
        with self._state.reservations.held(path):
            self._write_back.queue.finish(Verb.MOVE, path)
            yield
            self._lose_older(path)
            self._view.keep_parent(path)
            self._view.touch_directory(names.parent(path))

    # -- directories

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        """Make a directory; synchronous, unless the server can't be asked. Raises FsError(EEXIST, EACCES, ENOENT), ApiError."""
        self._view.may_change(path)
        with self._making(path):
            mode, uid, gid = mode & 0o7777, caller.uid, caller.gid
            if self._view.stays_here(path):
                self._add(self._state.new(Kind.DIRECTORY, path), mode, uid, gid, stays=True)
                return
            above = self._state.index.at(names.parent(path))
            unmade = above is not None and above.unmade
            item = None if unmade else self._write_back.make_directory(path)
            if item is None:
                file = self._state.new(Kind.DIRECTORY, path)  # it is made there later
                self._state.write(edit(file, mode=mode, uid=uid, gid=gid), new=True)
                self._write_back.queue.save(file)
                return
            self._state.touch(item, made=True)
            settings = self._settings
            if (mode, uid, gid) != (0o755 & ~settings.umask, settings.uid, settings.gid):
                file = self._state.open(item)
                self._state.write(edit(file, mode=mode, uid=uid, gid=gid, permission=item.permission))

    def _add(self, file: File, mode: int, uid: int, gid: int, **values: object) -> None:
        """Know a directory or link of this machine only. Raises FsError(ENOSPC, EIO)."""
        now = time.time_ns()
        times = {"atime_ns": now, "mtime_ns": now, "ctime_ns": now}
        self._state.write(edit(file, mode=mode & 0o7777, uid=uid, gid=gid, **times, **values), new=True)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory (R12). Raises FsError(ENOTEMPTY, ENOTDIR, EPERM), ApiError."""
        self._view.may_change(path)
        node = self._view.directory(path)
        if not path:
            raise FsError(errno.EBUSY)
        with self._leaving(path):
            self._view.may_replace(node)
            self._write_back.queue.rest(path)
            self._remove_directory(path)

    def _remove_directory(self, path: str) -> None:
        files, _ = self._state.index.children(path)
        if files:
            raise FsError(errno.ENOTEMPTY)
        node = self._view.directory(path)
        if isinstance(node, Item):
            if not node.implicit:
                self._write_back.items.remove_directory(node)
            elif self._namespace.children(path, max_age=self._namespace.recent):
                raise FsError(errno.ENOTEMPTY)
        self._forget_directory(path, node)

    def _forget_directory(self, path: str, node: Node) -> None:
        """A directory is gone from `path`: forget its File and Change, and what is remembered of it. Raises FsError(EIO)."""
        known = self._state.index.of(node) if isinstance(node, Item) and node.implicit else None
        for file in (self._state.index.at(path), known):
            if file is not None:
                self._state.unname(file)

    # -- links

    def symlink(self, path: str, target: str, caller: Caller) -> None:
        """A link on this machine only: the API has none (section 2). Raises FsError(EPERM, EEXIST, EACCES), ApiError."""
        self._view.may_change(path)
        # A link at a scratch name is always made: Emacs locks a file by such a link.
        if not self._settings.local_symlinks and not self._view.stays_here(path):
            raise FsError(errno.EEXIST if self._view.find(path) is not None else errno.EPERM)
        with self._making(path):
            link = self._state.new(Kind.FILE, path)
            self._add(link, 0o777, caller.uid, caller.gid, stays=True, link=target)

    def readlink(self, path: str) -> str:
        """What a link says. Raises FsError(EINVAL) for everything else, FsError(ENOENT), ApiError."""
        node = self._view.get(path)
        if isinstance(node, File) and node.link:
            return node.link
        raise FsError(errno.EINVAL)

    # -- rename

    def rename(self, old: str, new: str, pid: int = 0) -> None:
        """Rename, replacing what is at `new`; `pid` as in `open`. Raises FsError (the errno of rename(2)), ApiError."""
        self._view.may_change(old, new)
        with self._state.reservations.held(old, new):
            check_new_name(new)
            source = self._source(old, new)
            if old != new:
                self._rename(source, old, new, self._state.readers.process(pid))
                self._pages.moved(old, new, directory=is_dir(source))
                if not self._view.stays_here(new):  # else an editor makes a backup, and writes the file again
                    self._state.rename_copies(old, new, directory=is_dir(source))

    def _source(self, old: str, new: str) -> Node:
        """Return what is renamed, once no other rename of these names is in flight. Raises FsError(ENOENT, EINVAL), ApiError."""
        self._write_back.queue.finish(Verb.MOVE, old, new)
        source = self._view.get(old)
        if names.under(new, old):
            raise FsError(errno.EINVAL)
        if is_dir(source) and old != new:
            # In a directory nothing may be under way. A file that is being sent is waited for, or begun again, further down.
            self._write_back.queue.rest(old, new)
            return self._view.get(old)
        return source

    def _rename(self, source: Node, old: str, new: str, process: Process | None) -> None:
        directories = dict.fromkeys((names.parent(old), names.parent(new)))
        for directory in directories:
            self._view.may_write(self._view.directory(directory))
        target = self._view.find(new)
        self._view.may_replace(source)
        if target is not None:
            self._view.may_replace(target)
            if is_dir(target) is not is_dir(source):
                raise FsError(errno.EISDIR if is_dir(target) else errno.ENOTDIR)
        if is_dir(source):
            self._rename_directory(source, target, old, new)
        else:
            self._rename_file(source, target, old, new, process)
            self._lose_older(new)
        self._view.keep_parent(old)
        for directory in directories:
            self._view.touch_directory(directory)
        if (now := self._view.find_known(new)) is not None:
            self._view.touch(now)

    def _rename_directory(self, source: Node, target: Node | None, old: str, new: str) -> None:
        if self._view.stays_here(new) or (isinstance(source, File) and source.stays):
            raise FsError(errno.EXDEV)  # what stays here is in directories of its own: `mv` copies
        if isinstance(source, File) and source.unmade:
            self._write_back.commit(source)
            source = self._view.get(old)
        if target is not None:
            if self._view.list(new):
                raise FsError(errno.ENOTEMPTY)
            self._remove_directory(new)
        self._write_back.rename.rename_directory(self._item_of(source, old), new)
        self._forget_directory(old, source)

    def _item_of(self, directory: Node, path: str) -> Item:
        """The item of a directory, made if there is none. Raises FsError(ENOENT), ApiError."""
        if isinstance(directory, Item) and not directory.implicit:
            return directory
        self._write_back.replace.make_directory(path)
        made = self._namespace.lookup(path, max_age=0.0)
        if made is None or made.implicit:
            raise FsError(errno.ENOENT)
        return made

    def _rename_file(
        self, source: Node, target: Node | None, old: str, new: str, process: Process | None
    ) -> None:
        target = self._settled(target, new)
        over = target if isinstance(target, File) and target.stays else None
        stays = self._view.stays_here(new) and (target is None or over is not None)
        source = self._ready(source, old, stays=stays)
        if isinstance(source, File) and source.link:
            self._rename_link(source, target, new)
        elif stays:
            self._rename_to_scratch(source, over, old, new)
        elif isinstance(source, File):
            self._rename_unsent(source, target, over, new, process)
        else:
            self._rename_item(source, target, over, new, process)

    def _settled(self, target: Node | None, path: str) -> Node | None:
        """Return what is at the target of a rename once no save of it is under way. Raises ApiError."""
        if not isinstance(target, File):
            return target
        self._write_back.bring_to_rest(target)
        return self._view.find(path)

    def _ready(self, node: Node, path: str, *, stays: bool) -> Node:
        """The node to be renamed, at rest: the server has its present bytes, or nothing of it, if it `stays`. Raises ApiError."""
        if not isinstance(node, File):
            return node
        if stays or not (node.here and node.base.id):
            self._write_back.bring_to_rest(node)
        if not stays and node.here and node.base.id:
            self._write_back.commit(node)
            if node.item is not None:
                # Bytes that are written to it from now on go along.
                return node.item
        return self._view.get(path)

    def _rename_unsent(
        self, file: File, target: Node | None, over: File | None, new: str, process: Process | None
    ) -> None:
        """Rename a file that the server does not have: its save goes to the new name. Raises FsError, ApiError."""
        victim = self._write_back.rename.victim(new, target, process)
        self._write_back.rename.take_place(file, new, victim, over)
        self._state.readers.wrote(process, new, victim.item, victim.base)

    def _rename_item(
        self, item: Item, target: Node | None, over: File | None, new: str, process: Process | None
    ) -> None:
        victim = self._write_back.rename.victim(new, None if over is not None else target, process)
        if victim.pending is None and self._state.index.hidden(new):
            # A file that was unlinked there while it was saved is still on its way off the server.
            self._write_back.queue.rest(new)
        file = self._state.index.of(item)
        replaced = self._state.index.of(victim.item) if victim.item is not None else None
        answer = self._move(item, new, victim)
        self._state.readers.read(process, new, answer)  # it has decided what is there
        for gone in (over, replaced):
            if gone is not None and gone.path == new:
                self._lose(gone)
        self._state.forget_copies(new)  # the last save there is this one
        if file is not None:
            self._moved(file, answer, new)

    def _lose(self, file: File) -> None:
        """Another file has the name of this one: its bytes, also those written meanwhile, are its handles' alone."""
        self._state.apply(file, **self._view.freeze(file))
        self._state.unname(file)

    def _lose_older(self, path: str) -> None:
        """Older files of this name that are open, and that the job has replaced, have lost the name too."""
        shown = self._view.find_known(path)
        file = self._state.index.of(shown) if isinstance(shown, Item) else shown
        for other in list(self._state.opened.values()):
            if other.path == path and other is not file:
                self._lose(other)

    def _move(self, item: Item, new: str, victim: Victim) -> Item:
        """Move the item on the server, over the victim or whatever is found there. Raises ApiError."""
        self._write_back.client.reach(new)  # where nothing is sent, no name is in doubt afterwards
        try:
            if not (victim.base.id or victim.file or victim.pending):
                with contextlib.suppress(PathExistsError):
                    return self._write_back.items.update(item, path=new)
            return self._write_back.rename.move_over(item, new, victim)
        except JobfsError:
            self._namespace.touch(item.path)
            self._namespace.touch(new)
            raise

    def _moved(self, file: File, item: Item, new: str) -> None:
        """The File's handles, and bytes that were written to it meanwhile, have the new name too. Raises FsError(EIO)."""
        with file.lock:
            if file.recorded and (file.unsaved or file.draft):
                self._state.write(edit(file, path=new))
            self._state.apply(file, path=new, item=item)
            if file.change is not None and not file.change.begun:
                self._state.apply(file.change, target=new)
            for handle in file.handles:
                handle.moved(item)

    # -- names of this machine only

    def _rename_link(self, link: File, target: Node | None, new: str) -> None:
        if not self._settings.local_symlinks and not self._view.stays_here(new):
            raise FsError(errno.EPERM)
        if isinstance(target, Item):
            self._unlink_item(target)
        elif target is not None and not target.stays:
            self._unlink_file(target, new)
        self._rename_scratch(link, self._state.index.at(new), new)

    def _rename_to_scratch(self, node: Node, over: File | None, old: str, new: str) -> None:
        """Rename a file to a scratch name. Raises FsError(ENOSPC, EXDEV), ApiError."""
        if isinstance(node, File) and node.stays:
            self._rename_scratch(node, over, new)
        else:
            self._stay(node, over, old, new)

    def _rename_scratch(self, file: File, over: File | None, new: str) -> None:
        """Rename a file of this machine, over a file of this machine if there is one. Raises FsError(ENOSPC)."""
        victim = self._write_back.rename.victim(new, None)
        gone = [f for f in (over, victim.file, victim.pending) if f is not None and f.recorded]
        self._state.write(edit(file, path=new), gone=gone, new=True)
        self._write_back.rename.replaced(victim, over)

    def _stay(self, node: Node, over: File | None, old: str, new: str) -> None:
        """A file gets a scratch name: its bytes come here, and it leaves the server later. Raises FsError(EXDEV), ApiError."""
        if (isinstance(node, Item) or node.base.id) and self._view.is_local(names.parent(new)):
            raise FsError(errno.EXDEV)
        for _ in range(REOPENS):
            attr = self._view.freeze(node)
            if isinstance(node, File):
                self._write_back.rename.stay(node, old, new, attr, over)
                return
            with self._view.content.open(node) as content:
                try:
                    source = content.fetch()
                except (StaleVersionError, NotFoundError):
                    node = self._view.get(old, max_age=0.0)  # the job has written to it, or replaced it
                    continue
                stay = partial(self._write_back.rename.stay, node, old, new, attr, over, source)
                self._write_back.context.with_room(stay, partial(os.path.getsize, source))
                return
        raise FsError(errno.EIO, "the file keeps changing while it is renamed")

    # -- unlink

    def unlink(self, path: str) -> None:
        """Remove a file; synchronous. Raises FsError(ENOENT, EISDIR, EPERM, EACCES), ApiError."""
        self._view.may_change(path)
        with self._leaving(path):
            node = self._view.get(path, max_age=1.0)
            if is_dir(node):
                raise FsError(errno.EISDIR)
            self._view.may_replace(node)
            if isinstance(node, Item):
                self._unlink_item(node)
            else:
                self._unlink_file(node, path)
            self._pages.part(path)
            self._state.forget_copies(path)

    def unlink_version(self, path: str, version: Version, sha256: str) -> bool:
        """Remove the file at `path` if the server has it in this version still, with bytes of this hash; False if not.

        Raises as `unlink`.
        """
        base = Base(*version, sha256=sha256, young=True)  # its bytes are compared
        self._view.may_change(path)
        with self._leaving(path):
            node = self._view.get(path, max_age=0.0)
            item = node if isinstance(node, Item) else None if node.here else node.item
            if item is None or not base.is_version(item):
                return False
            self._view.may_replace(node)
            self._write_back.items.delete_version(path, base)
            there = self._namespace.lookup(path, max_age=0.0)
            if there is not None and there.id == base.id:
                return False
            self._pages.part(path)
            self._state.forget_copies(path)
            return True

    def _unlink_item(self, item: Item) -> None:
        file, shown = self._state.index.of(item), self._view.freeze(item)
        if file is not None and any(_lacks_bytes(handle) for handle in file.handles):
            self._write_back.remove_later(item)  # nobody waits for their download
        else:
            self._write_back.items.delete(item)
        if file is not None and file.handles:
            self._state.apply(file, **shown)
            self._state.unname(file)

    def _unlink_file(self, file: File, path: str) -> None:
        """A File of this machine, or with bytes that the server does not have."""
        if file.stays:
            self._state.unname(file)
            return
        if not self._write_back.cancel(file):
            return
        self._write_back.items.delete_version(path, file.base)
        self._state.unname(file)


def _lacks_bytes(handle: Handle) -> bool:
    """True if some of the version that a handle reads is not on this machine."""
    content = handle.content
    return isinstance(content, Content) and not content.whole
