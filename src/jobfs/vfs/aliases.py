"""Aliases: an item shows under a scratch name while it is still at its own on the server (semantics.md section 4).

That is what an editor's backup rename makes. An alias ends as a plain scratch file once its item is replaced, or as a real
rename if nothing replaces it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from jobfs import names
from jobfs.errors import FsError, JobfsError, NotFoundError
from jobfs.nodes import Item
from jobfs.vfs.local import LocalNames
from jobfs.vfs.view import View
from jobfs.writeback import WHITEOUT, Inode
from jobfs.writeback.inodes import new_inode_number

log = logging.getLogger("jobfs.vfs")

#: Seconds that a renamed file may wait for a new file of its old name.
ALIAS_GRACE = 3.0
#: The same while such a file is open and being written.
ALIAS_GRACE_OPEN = 30.0
_LOOK_EVERY = 0.5


class Aliases:
    """Knows the aliases of this mount, makes and ends them."""

    def __init__(self, view: View, local: LocalNames) -> None:
        self._view = view
        self._engine = view.engine
        self._local = local
        self._lock = threading.Lock()
        self._known: set[Inode] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="jobfs-aliases", daemon=True)
        local.vacated = self._vacated
        self._engine.removals.spare = self.spare
        self._engine.removals.replaced = self.detach
        self._engine.removals.aliased = lambda path: self.item_behind(path) is not None

    def start(self) -> None:
        """Begin to watch aliases."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; aliases stay in the journal."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextlib.contextmanager
    def holding(self, *paths: str) -> Iterator[None]:
        """Hold these names, and both of every alias that has one of its two there or below, against other changes."""
        while True:
            wanted = self._ends(paths)
            with self._engine.overlay.changing(*wanted):
                if self._ends(paths) <= wanted:
                    yield
                    return

    def _ends(self, paths: tuple[str, ...]) -> set[str]:
        wanted = set(paths)
        for inode in self.all():
            ends = {end for end in (inode.alias_of, inode.path) if end}
            if any(end == path or names.under(end, path) for end in ends for path in paths):
                wanted |= ends
        return wanted

    def make(self, item: Item, path: str, target: str, over: Inode | None = None) -> bool:
        """Show `item` as `target` here, and nothing at its own name; no request. False if it is being written to.

        `over`: the local file that had the name `target`; its record is this one's now, and it gets no other.
        Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        attr = self._view.attr(item)
        with self._engine.table.held(item, target) as inode:
            if inode.local is not None:
                return False
            was = inode.path, inode.local_only
            inode.item, inode.path, inode.local_only, inode.alias_of = item, target, True, path
            inode.mode, inode.uid, inode.gid = attr.mode & 0o7777, attr.uid, attr.gid
            inode.atime_ns, inode.mtime_ns, inode.ctime_ns = attr.atime_ns, attr.mtime_ns, attr.ctime_ns
            inode.alias_since = time.monotonic()
            with over.lock if over is not None else contextlib.nullcontext():
                try:
                    self._engine.journal.write(self._local.entry(inode))
                except FsError:
                    inode.path, inode.local_only = was
                    inode.alias_of = None
                    raise
                if over is not None:
                    over.path = None
            with self._lock:
                self._known.add(inode)
        self._engine.overlay.put(target, inode)
        self._engine.overlay.put(path, WHITEOUT)
        return True

    def all(self) -> list[Inode]:
        """Every alias."""
        if not self._known:
            return []
        with self._lock:
            self._known = {inode for inode in self._known if inode.alias_of is not None}
            return list(self._known)

    def _vacated(self, path: str) -> None:
        """The file that had replaced an item behind an alias has left its name: there may come another."""
        for inode in self.all():
            if inode.alias_of == path:
                inode.alias_since = time.monotonic()

    def item_behind(self, path: str) -> Item | None:
        """The item that is still at `path` on the server though an alias has taken it from there here."""
        for inode in self.all():
            if inode.alias_of == path:
                return inode.item
        return None

    def covers(self, item: Item) -> bool:
        """True if an alias here stands for this item."""
        return any(inode.item is not None and inode.item.id == item.id for inode in self.all())

    def waiting(self, inode: Inode) -> bool:
        """True if nothing has replaced the alias's item: its old name is a hole here."""
        return inode.alias_of is not None and self._engine.overlay.get(inode.alias_of) is WHITEOUT

    def _in_place(self, inode: Inode) -> bool:
        """True if the alias's item is at its old name, as seen at most 1 s ago (R10): what the job has renamed is another file.

        Raises ApiError.
        """
        there = self._engine.namespace.lookup(inode.alias_of or "", max_age=1.0)
        return there is not None and inode.item is not None and there.id == inode.item.id

    def free(self, path: str) -> None:
        """Something else takes the old name of an alias: the alias becomes a real rename first. Raises ApiError."""
        if self._engine.overlay.get(path) is WHITEOUT:
            for inode in self.all():
                if inode.alias_of == path:
                    self.resolve(inode)

    def resolve(self, inode: Inode) -> Item | Inode:
        """End an alias: as a real rename if its item is where it was, else with its own bytes.

        Raises ApiError; NotFoundError once the alias has gone with an item that the job has deleted.
        """
        origin, item, path = inode.alias_of, inode.item, inode.path
        if origin:
            self._engine.uploader.taken_back(origin)
        if not self.waiting(inode):
            self._materialize(inode)
            return inode
        assert origin is not None
        assert item is not None
        assert path is not None
        try:
            if self._in_place(inode):
                answer = self._engine.moves.move(item, path)
                self._end(inode, answer)
                return answer
            self._materialize(inode)
        except NotFoundError:
            self._engine.namespace.forget(item)
            if not self._engine.content.whole(item):
                self._local.remove(inode)
                raise
            self._materialize(inode)
        finally:
            if inode.alias_of is None:
                self._engine.uncover(origin)
        return inode

    def own(self, inode: Inode) -> None:
        """An alias is about to be written to: it ends first. Raises ApiError."""
        while inode.alias_of is not None and (path := inode.path) is not None:
            with self.holding(path):
                if inode.path == path and inode.alias_of is not None:
                    self.resolve(inode)

    def restore(self, inode: Inode) -> bool:
        """The alias is renamed back to where its item is: as if nothing had happened. False if it is not there any more.

        Raises ApiError.
        """
        origin = inode.alias_of
        if not origin:
            return False
        self._engine.uploader.taken_back(origin)
        if not self.waiting(inode) or not self._in_place(inode):
            return False
        self._end(inode, inode.item)
        inode.path = origin
        self._engine.uncover(origin)
        return True

    def _end(self, inode: Inode, item: Item | None) -> None:
        if item is not None:
            self._hand_over(inode, item)
        self._local.forget(inode)
        if inode.path is not None:
            self._engine.overlay.remove(inode.path, inode)
        with inode.lock:
            inode.local_only, inode.alias_of = False, None
            if item is not None:
                inode.moved(item)
            if not inode.handles:
                self._engine.table.drop(inode)

    def _hand_over(self, inode: Inode, item: Item) -> None:
        """What was changed of an alias's attributes goes on to hold for the item."""
        record = self._engine.memory.timed(item)
        record.mode, record.permission = inode.mode, item.permission
        record.uid, record.gid = inode.uid, inode.gid
        record.atime_ns, record.mtime_ns, record.ctime_ns = inode.atime_ns, inode.mtime_ns, inode.ctime_ns
        self._engine.memory.store(record)

    def _materialize(self, inode: Inode) -> None:
        """Give an alias its own bytes. Raises ApiError; NotFoundError only if it has none, and can't get any more."""
        try:
            self._fill(inode)
        except NotFoundError:
            # Whoever deletes its item gives it the bytes before.
            if inode.alias_of is not None:
                raise

    def _fill(self, inode: Inode) -> None:
        item = inode.item
        if item is None:
            inode.alias_of = None
        if item is None or inode.alias_of is None:
            return
        if not self._engine.content.whole(item):
            # Wherever it is by now.
            item = self._engine.client.get(item.id)
        content = self._engine.content.open(item)
        try:
            source = content.fetch()
            with inode.lock:
                if inode.alias_of is None or inode.path is None:
                    return  # somebody else has done it, or it was unlinked meanwhile
                was = inode.ino, inode.alias_of
                number = new_inode_number() if inode.ino == self._engine.memory.ino(item) else inode.ino
                # The bytes bear the number that the journal will name.
                inode.local = self._engine.bytes.new(number, self._engine.journal.next_seq(), source)
                self._engine.table.drop(inode)
                inode.ino, inode.alias_of = number, None
                try:
                    self._local.record(inode)
                except FsError:
                    # Still an alias: whoever is about to delete its item must not.
                    inode.local.discard()
                    inode.local = None
                    inode.ino, inode.alias_of = was
                    raise
                finally:
                    self._engine.table.add(inode)
        finally:
            content.close()

    def unlink(self, inode: Inode) -> None:
        """Unlink a local file; an alias that nothing has replaced goes with its item. Raises ApiError."""
        with self.losing(inode):
            self._local.remove(inode)

    @contextlib.contextmanager
    def losing(self, inode: Inode | None) -> Iterator[None]:
        """A local name is unlinked, or replaced by another file: with an alias goes its item at its old name.

        Killed in between, or if that fails, the item is still there. Raises ApiError, FsError(ENOSPC, EIO).
        """
        origin = inode.alias_of if inode is not None else ""
        if inode is None or not origin:
            yield
            return
        self._engine.uploader.taken_back(origin)
        if self.waiting(inode) and self._in_place(inode):
            assert inode.item is not None
            with self._engine.removals.removing(inode.item):
                yield
        else:
            yield
        inode.alias_of = None
        self._engine.uncover(origin)

    def spare(self, item_id: str) -> None:
        """Before an item is deleted: its aliases get its bytes. Raises ApiError."""
        for inode in self.all():
            if inode.item is not None and inode.item.id == item_id:
                self._materialize(inode)

    def detach(self, item_ids: set[str]) -> None:
        """Items were replaced at their names: what comes to those now has nothing to do with their aliases."""
        for inode in self.all():
            with inode.lock:
                if inode.alias_of is not None and inode.item is not None and inode.item.id in item_ids:
                    inode.alias_of = ""

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY):
            for inode in self.all():
                try:
                    self._settle(inode)
                except JobfsError as error:
                    log.info("%s: renamed on the server later: %s", inode.path, error)
                except Exception:
                    log.exception("an alias could not be settled")

    def _settle(self, inode: Inode) -> None:
        origin, path = inode.alias_of, inode.path
        if origin is None or path is None:
            return
        if not origin:
            with self._engine.overlay.changing(path):
                try:
                    self._materialize(inode)
                except NotFoundError:
                    self._local.remove(inode)
            return
        age = time.monotonic() - inode.alias_since
        with self._engine.overlay.changing(origin, path):
            if inode.alias_of != origin:
                return
            if self.waiting(inode) and age > ALIAS_GRACE:
                self.resolve(inode)
                return
            other = self._engine.overlay.get(origin)
            if other is None:
                self._materialize(inode)
                return
            still_written = isinstance(other, Inode) and other.current is None and bool(other.handles)
            if (
                still_written
                and age > ALIAS_GRACE_OPEN
                and inode.item is not None
                and isinstance(other, Inode)
            ):
                if self._in_place(inode):
                    self._end(inode, self._engine.moves.move(inode.item, path))
                else:
                    self._materialize(inode)
                with other.lock:
                    other.item, other.base = None, self._engine.bases.of(None)

    def settle_under(self, directory: str) -> None:
        """Before a directory is renamed: aliases below it are made real. Raises ApiError."""
        for inode in self.all():
            if names.under(inode.alias_of or "", directory) or names.under(inode.path or "", directory):
                self.resolve(inode)
