"""Names that live on this machine only: scratch files, local directories, and aliases (semantics.md section 4).

An alias stands for an item under a scratch name while the item is still at its own name on the server: what an editor's
backup rename makes. It ends as a plain scratch file once its item is replaced, or as a real rename if nothing replaces it.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

from jobfs import names
from jobfs.errors import JobfsError
from jobfs.nodes import Item, Kind
from jobfs.vfs.view import View
from jobfs.writeback import WHITEOUT, Inode
from jobfs.writeback.inodes import new_inode_number
from jobfs.writeback.records import LocalEntry

log = logging.getLogger("jobfs.vfs")

#: Seconds that a renamed file may wait for a new file of its old name.
ALIAS_GRACE = 3.0
#: The same while such a file is open and being written.
ALIAS_GRACE_OPEN = 30.0
_LOOK_EVERY = 0.5


class LocalNames:
    """Makes, moves and removes local names, and keeps them in the journal."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._engine = view.engine
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="jobfs-aliases", daemon=True)
        self._engine.removals.spare = self.spare
        self._engine.removals.replaced = self.detach

    def start(self) -> None:
        """Begin to watch aliases."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; aliases stay in the journal."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def record(self, inode: Inode) -> None:
        """Keep a local name in the journal, as it is now (w). Raises FsError(ENOSPC, EIO)."""
        if inode.path is None or _is_hidden(inode):
            return
        inode.written = False
        self._engine.journal.write(self.entry(inode))

    def entry(self, inode: Inode) -> LocalEntry:
        """The journal's record of a local name, as it is now."""
        assert inode.path is not None
        return LocalEntry(
            inode.path,
            inode.ino,
            inode.kind,
            inode.local.generation if inode.local is not None else 0,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.atime_ns,
            inode.mtime_ns,
            inode.item.id if inode.alias_of is not None and inode.item is not None else "",
            inode.alias_of or "",
            time.time(),
            inode.link,
        )

    def make_directory(self, path: str, mode: int, uid: int, gid: int) -> None:
        """A directory on this machine only."""
        inode = Inode(new_inode_number(), Kind.DIRECTORY, path)
        inode.local_only = True
        inode.mode, inode.uid, inode.gid = mode & 0o7777, uid, gid
        inode.touch()
        inode.atime_ns = inode.mtime_ns
        self._engine.table.add(inode)
        self._engine.overlay.put(path, inode)
        self.record(inode)

    def move(self, inode: Inode, target: str) -> None:
        """Rename a local name to another local name."""
        old = inode.path
        assert old is not None
        gone = [self.entry(inode)]
        self._engine.overlay.remove(old, inode)
        inode.path = target
        self._engine.overlay.put(target, inode)
        if not names.is_fuse_hidden(names.basename(target)):
            self._engine.journal.write(self.entry(inode), gone=gone)
        else:
            self._engine.journal.write(gone=gone)

    def make_link(self, path: str, target: str, uid: int, gid: int) -> None:
        """A symbolic link on this machine only."""
        inode = Inode(new_inode_number(), Kind.FILE, path)
        inode.local_only, inode.link = True, target
        inode.mode, inode.uid, inode.gid = 0o777, uid, gid
        inode.touch()
        inode.atime_ns = inode.mtime_ns
        self._engine.table.add(inode)
        self._engine.overlay.put(path, inode)
        self.record(inode)

    def carry(self, old: str, new: str) -> None:
        """The directory `old` is `new` now: the local names below it are recorded there, in one commit."""
        beneath = [entry for _, entry in self._engine.overlay.beneath(new) if isinstance(entry, Inode)]
        kept = [self.entry(i) for i in beneath if i.local_only and i.alias_of is None and not _is_hidden(i)]
        if kept:
            gone = [replace(entry, path=names.moved(entry.path, new, old)) for entry in kept]
            self._engine.journal.write(*kept, gone=gone)

    def forget(self, inode: Inode) -> None:
        """The name is no longer a local one; the bytes are the caller's."""
        if inode.path is not None:
            self._engine.journal.write(gone=[self.entry(inode)])

    def remove(self, inode: Inode) -> None:
        """Unlink a local file or remove a local directory. An alias loses only its name here."""
        self.forget(inode)
        self.replaced(inode)

    def replaced(self, inode: Inode) -> None:
        """Another local file has this one's name, in the journal too: let go of it."""
        if inode.path is not None:
            self._engine.overlay.remove(inode.path, inode)
        with inode.lock:
            inode.path, inode.alias_of = None, None
            if not inode.handles:
                if inode.local is not None:
                    local, inode.local = inode.local, None
                    local.discard()
                self._engine.table.drop(inode)

    # -- aliases

    def alias(self, item: Item, path: str, target: str) -> None:
        """Show `item` as `target` here, and nothing at its own name; no request."""
        attr = self._view.attr(item)
        with self._engine.table.held(self._engine.memory.ino(item), Kind.FILE, target, item) as inode:
            inode.item, inode.path, inode.local_only, inode.alias_of = item, target, True, path
            inode.mode, inode.uid, inode.gid = attr.mode & 0o7777, attr.uid, attr.gid
            inode.atime_ns, inode.mtime_ns, inode.ctime_ns = attr.atime_ns, attr.mtime_ns, attr.ctime_ns
            inode.alias_since = time.monotonic()
        self._engine.journal.write(self.entry(inode))
        self._engine.overlay.put(target, inode)
        self._engine.overlay.put(path, WHITEOUT)

    def aliases(self) -> list[Inode]:
        """Every alias."""
        return [inode for inode in self._engine.table.all() if inode.alias_of is not None]

    def item_behind(self, path: str) -> Item | None:
        """The item that is still at `path` on the server though an alias has taken it from there here."""
        for inode in self.aliases():
            if inode.alias_of == path:
                return inode.item
        return None

    def is_alias(self, item: Item) -> bool:
        """True if an alias here stands for this item."""
        return any(inode.item is not None and inode.item.id == item.id for inode in self.aliases())

    def waiting(self, inode: Inode) -> bool:
        """True if nothing has replaced the alias's item: its old name is a hole here."""
        return inode.alias_of is not None and self._engine.overlay.get(inode.alias_of) is WHITEOUT

    def free(self, path: str) -> None:
        """Something else takes the old name of an alias: the alias becomes a real rename first. Raises ApiError."""
        if self._engine.overlay.get(path) is WHITEOUT:
            for inode in self.aliases():
                if inode.alias_of == path:
                    self.resolve(inode)

    def resolve(self, inode: Inode) -> Item | Inode:
        """End an alias: as a real rename if nothing has replaced its item, else with its own bytes. Raises ApiError."""
        origin, item, path = inode.alias_of, inode.item, inode.path
        assert origin is not None
        assert item is not None
        assert path is not None
        if not self.waiting(inode):
            self._materialize(inode)
            return inode
        answer = self._engine.moves.move(item, path)
        self._end(inode, answer)
        self._engine.uncover(origin)
        return answer

    def restore(self, inode: Inode) -> None:
        """The alias is renamed back to where its item is: as if nothing had happened."""
        origin = inode.alias_of
        assert origin is not None
        self._end(inode, inode.item)
        inode.path = origin
        self._engine.uncover(origin)

    def _end(self, inode: Inode, item: Item | None) -> None:
        if item is not None:
            self._hand_over(inode, item)
        self.forget(inode)
        if inode.path is not None:
            self._engine.overlay.remove(inode.path, inode)
        with inode.lock:
            inode.local_only, inode.alias_of, inode.item = False, None, item
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
        """Give an alias its own bytes. Raises ApiError."""
        if inode.item is None or inode.local is not None:
            return
        content = self._engine.content.open(inode.item)
        try:
            source = content.fetch()
            with inode.lock:
                shared = inode.ino == self._engine.memory.ino(inode.item)
                number = new_inode_number() if shared else inode.ino
                # The bytes bear the number that the journal will name.
                inode.local = self._engine.bytes.new(number, self._engine.journal.next_seq(), source)
                inode.alias_of = None
                self._engine.table.drop(inode)
                inode.ino = number
        finally:
            content.close()
        self._engine.table.add(inode)
        self.record(inode)

    def spare(self, item_id: str) -> None:
        """Before an item is deleted: its aliases get its bytes. Raises ApiError."""
        for inode in self.aliases():
            if inode.item is not None and inode.item.id == item_id:
                self._materialize(inode)

    def detach(self, item_id: str) -> None:
        """The item was replaced at its name: what comes to that name now has nothing to do with its aliases."""
        for inode in self.aliases():
            with inode.lock:
                if inode.alias_of is not None and inode.item is not None and inode.item.id == item_id:
                    inode.alias_of = ""

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY):
            for inode in self.aliases():
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
                if inode.alias_of is not None:
                    self._materialize(inode)
            return
        age = time.monotonic() - inode.alias_since
        with self._engine.overlay.changing(origin, path):
            if inode.alias_of != origin:
                return
            if self.waiting(inode) and age > ALIAS_GRACE:
                self.resolve(inode)
                return
            other = self._engine.overlay.get(origin)
            still_written = isinstance(other, Inode) and other.current is None and bool(other.handles)
            if (
                still_written
                and age > ALIAS_GRACE_OPEN
                and inode.item is not None
                and isinstance(other, Inode)
            ):
                answer = self._engine.moves.move(inode.item, path)
                self._end(inode, answer)
                with other.lock:
                    other.item, other.base = None, self._engine.base_of(None)

    def settle_under(self, directory: str) -> None:
        """Before a directory is renamed: aliases below it are made real. Raises ApiError."""
        for inode in self.aliases():
            if names.under(inode.alias_of or "", directory) or names.under(inode.path or "", directory):
                self.resolve(inode)


def _is_hidden(inode: Inode) -> bool:
    return inode.path is not None and names.is_fuse_hidden(names.basename(inode.path))
