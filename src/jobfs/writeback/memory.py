"""What this machine remembers of items that the API can't hold: modes, owners, times, inode numbers (semantics.md section 2)."""

from __future__ import annotations

from jobfs.nodes import Item, inode_number
from jobfs.writeback.journal import Journal
from jobfs.writeback.records import Remembered


class Memory:
    """Remembered attributes by item id; kept in the journal, so that they survive a remount."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._by_item = {record.item_id: record for record in journal.load(Remembered)}

    def of(self, item: Item) -> Remembered | None:
        """What is remembered of an item."""
        return self._by_item.get(item.id)

    def ino(self, item: Item) -> int:
        """The item's inode number: that of the file it was saved from, else derived from its id."""
        record = self._by_item.get(item.id)
        if record is not None and record.ino:
            return record.ino
        return inode_number(item.id or f"implicit:{item.path}")

    def entry(self, item: Item) -> Remembered:
        """The record of an item, new if nothing was remembered; to be changed and given to `store`."""
        return self._by_item.get(item.id) or Remembered(item.id)

    def store(self, record: Remembered) -> None:
        """Keep a record (one journal write)."""
        self._journal.write(record)
        self._by_item[record.item_id] = record

    def learn(self, record: Remembered) -> None:
        """Know a record that the caller has written to the journal."""
        self._by_item[record.item_id] = record

    def lose(self, item_id: str) -> None:
        """The item is gone, and what was remembered of it with it."""
        record = self._by_item.pop(item_id, None)
        if record is not None:
            self._journal.write(gone=[record])

    def carry(self, before: Item, after: Item) -> None:
        """Our own move may have changed `updatedAt`: remembered times go on to hold."""
        record = self._by_item.get(after.id)
        if record is not None and record.updated_at == before.updated_at != after.updated_at:
            record.updated_at = after.updated_at
            self.store(record)
