"""What this machine remembers of items that the API can't hold: modes, owners, times, inode numbers (semantics.md section 2)."""

from __future__ import annotations

import time
from dataclasses import replace

from jobfs.nodes import Item, inode_number
from jobfs.writeback.journal import Journal
from jobfs.writeback.records import UNSET, Remembered


class Memory:
    """Remembered attributes by item id; kept in the journal, so that they survive a remount.

    Of a directory that no item stands for (by its path) only as long as the mount lives.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        #: Grows whenever something else is remembered.
        self.changes = 0
        self._by_item = {record.item_id: record for record in journal.load(Remembered)}
        #: Items whose file has a later version by now: their number is that one's.
        self._superseded: set[str] = set()
        #: Records changed by `touch` since they were written.
        self._touched: dict[str, Remembered] = {}

    def of(self, item: Item) -> Remembered | None:
        """What is remembered of an item."""
        return self._by_item.get(_key(item))

    def ino(self, item: Item) -> int:
        """The item's inode number: that of the file it was saved from, else derived from its id."""
        record = self._by_item.get(_key(item))
        if record is not None and record.ino:
            return record.ino
        return inode_number(_key(item))

    def handing_over(self, ino: int, before: str, after: str) -> list[Remembered]:
        """What to write so that the number `ino` goes from the item `before` to its file's next version.

        Whatever becomes of the version before (a conflict copy, or what the job has renamed), two files never have one number
        (section 1).
        """
        record = self._by_item.get(before) or Remembered(before)
        if before in ("", after) or (record.ino or inode_number(before)) != ino:
            return []
        # One that it was given before, with its file, is that file's: it gets one of its own, however often that goes on.
        number = inode_number(f"{before}/{after}") if record.ino else inode_number(before, 1)
        return [replace(record, ino=number)]

    def handed_over(self, before: str, records: list[Remembered]) -> None:
        """The next version is known to the namespace, and `records` are in the journal."""
        for record in records:
            self.learn(record)
        self._superseded.add(before)

    def superseded(self, item: Item) -> bool:
        """True if a later version of the item's file was saved here since this mount began."""
        return item.id in self._superseded

    def entry(self, item: Item) -> Remembered:
        """The record of an item, new if nothing was remembered; to be changed and given to `store`."""
        return self._by_item.get(_key(item)) or Remembered(_key(item))

    def timed(self, item: Item) -> Remembered:
        """As `entry`; what it holds of times, and of the bytes, is of the item's present version."""
        record = self.entry(item)
        if record.updated_at != item.updated_at:
            record.updated_at, record.sha256 = item.updated_at, ""
            record.atime_ns = record.mtime_ns = record.ctime_ns = UNSET
        return record

    def touch(self, item: Item, *, content: bool = False, made: bool = False) -> None:
        """The change time of an item is now (`content`: its mtime too; `made`: all its times).

        Kept at once in memory and with the next `flush` in the journal: no operation waits for the disk because of it.
        """
        record = self.timed(item)
        record.ctime_ns = time.time_ns()
        if content or made:
            record.mtime_ns = record.ctime_ns
        if made:
            record.atime_ns = record.ctime_ns
        self._by_item[record.item_id] = record
        if item.id:
            self._touched[item.id] = record

    @property
    def unwritten(self) -> bool:
        """True if `flush` has something to write."""
        return bool(self._touched)

    def flush(self) -> None:
        """Write to the journal what was touched. Raises FsError(ENOSPC, EIO)."""
        touched, self._touched = self._touched, {}
        records = [record for item_id, record in touched.items() if self._by_item.get(item_id) is record]
        if records:
            self._journal.write(*records)

    def store(self, record: Remembered) -> None:
        """Keep a record (one journal write)."""
        self._journal.write(record)
        self.learn(record)

    def learn(self, record: Remembered) -> None:
        """Know a record that the caller has written to the journal."""
        self._by_item[record.item_id] = record
        self.changes += 1

    def lose(self, item_id: str) -> None:
        """The item is gone, and what was remembered of it with it."""
        self._touched.pop(item_id, None)
        self._superseded.discard(item_id)
        record = self._by_item.pop(item_id, None)
        if record is not None:
            self.changes += 1
            self._journal.write(gone=[record])

    def carry(self, before: Item, after: Item, known: str = "") -> None:
        """Our own move may have changed `updatedAt`: remembered times go on to hold, the hash of the bytes does not (R2).

        `known`: the hash of the version before, which its bytes may still be compared with.
        """
        if before.updated_at == after.updated_at:
            return
        record = self._by_item.get(after.id)
        if record is not None and record.updated_at == before.updated_at:
            record.updated_at, record.sha256 = after.updated_at, ""
            record.known = known or record.known
            self.store(record)
        elif known:
            self.store(replace(record or Remembered(after.id), known=known))


def _key(item: Item) -> str:
    return item.id or f"implicit:{item.path}"
