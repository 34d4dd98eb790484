"""Aliases that an earlier mount left: backup renames that were acknowledged and not carried out (semantics.md section 4).

If a new file has taken the old name, the item is about to be replaced: the alias gets its bytes before that deletes it. Else
the rename is done on the server now.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from jobfs.errors import JobfsError, NotFoundError, PathExistsError
from jobfs.nodes import Item, Kind
from jobfs.writeback.inodes import Inode, new_inode_number
from jobfs.writeback.records import LocalEntry

if TYPE_CHECKING:
    from jobfs.writeback.engine import WriteBack

log = logging.getLogger("jobfs.writeback")


class LeftAliases:
    """Taken up in the background, again until the server has answered. May be called from any thread."""

    def __init__(self, engine: WriteBack) -> None:
        self._engine = engine
        self._busy = threading.RLock()
        self._left: dict[str, LocalEntry] = {}
        self._coming = False

    def restore(self, entry: LocalEntry) -> None:
        """Know an alias from the journal, before anything is deleted."""
        self._left[entry.item_id] = entry

    def take_up(self) -> None:
        """Settle every alias in the background; what could not be asked of the server is tried again at the next call."""
        if self._left and not self._coming:
            self._coming = True
            self._engine.background(self._settle_all)

    def _settle_all(self) -> None:
        self._coming = False
        for entry in list(self._left.values()):
            # In this order: whoever unlinks or replaces the item holds its name, and waits for its bytes.
            with self._engine.overlay.changing(entry.origin, entry.path), self._busy:
                if self._left.get(entry.item_id) == entry:
                    try:
                        self._settle(entry)
                    except JobfsError as error:
                        log.info("%s: taken up later: %s", entry.path, error)

    def spare(self, item_id: str) -> None:
        """The item is about to be deleted: its alias gets the bytes first. Raises ApiError, FsError."""
        if item_id not in self._left:
            return
        with self._busy:
            entry = self._left.get(item_id)
            if entry is not None:
                self._own_bytes(entry, self._engine.client.get(item_id))

    def moved(self, old: str, new: str) -> None:
        """The directory `old` is `new` now, in the journal too. The caller holds both names."""
        for item_id, entry in list(self._left.items()):
            self._left[item_id] = entry.moved(old, new)

    def _settle(self, entry: LocalEntry) -> None:
        engine = self._engine
        try:
            item = engine.client.get(entry.item_id)
            if item.path == entry.origin and not self._replaced(entry):
                engine.moves.move(item, entry.path)
                self._done(entry)
                return
        except NotFoundError:
            self._done(entry)
            return
        except PathExistsError:
            # The backup's name is an item of the job's: the bytes stay on this machine, as those of any scratch name.
            pass
        if item.path == entry.path:
            # The rename was carried out, and its answer was lost.
            self._done(entry)
        else:
            # Wherever it is by now: at its name, on its way out, or where someone has moved it to.
            self._own_bytes(entry, item)

    def _replaced(self, entry: LocalEntry) -> bool:
        """True if a new file has the old name."""
        engine = self._engine
        return engine.overlay.get(entry.origin) is not None or any(
            work.save.target == entry.origin and not work.settled for work in engine.uploader.live()
        )

    def _own_bytes(self, entry: LocalEntry, item: Item) -> None:
        """The alias becomes a file of this machine."""
        engine = self._engine
        content = engine.content.open(item)
        try:
            # Not the item's number: that may be in use, and will be the next version's.
            local = engine.bytes.new(new_inode_number(), engine.journal.next_seq(), content.fetch())
        finally:
            content.close()
        if engine.overlay.get(entry.path) is not None:
            local.discard()
            del self._left[entry.item_id]
            return
        engine.journal.write(
            replace(entry, ino=local.ino, generation=local.generation, item_id="", origin="")
        )
        del self._left[entry.item_id]
        inode = Inode(local.ino, Kind.FILE, entry.path)
        inode.local_only, inode.local = True, local
        inode.mode, inode.uid, inode.gid = entry.mode, entry.uid, entry.gid
        inode.atime_ns, inode.mtime_ns, inode.ctime_ns = entry.atime_ns, entry.mtime_ns, entry.mtime_ns
        engine.table.add(inode)
        engine.overlay.put(entry.path, inode)

    def _done(self, entry: LocalEntry) -> None:
        del self._left[entry.item_id]
        if self._engine.overlay.get(entry.path) is None:
            # Else a file that was made here since has the record of that name.
            self._engine.journal.write(gone=[entry])
