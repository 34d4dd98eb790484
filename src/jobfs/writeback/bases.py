"""What this mount knows of the versions that saves replace (save-protocol.md R1, R2)."""

from __future__ import annotations

import time

from jobfs.api import Client
from jobfs.content import ContentStore
from jobfs.nodes import Item
from jobfs.writeback.memory import Memory
from jobfs.writeback.records import Base
from jobfs.writeback.saver import YOUNG

#: The largest content, in bytes, that a rename waits to see hashed.
_HASHED = 8 << 20
#: Seconds to wait for bytes that a reader was given just now to be in their place.
_SETTLING = 0.1


class Bases:
    """One for a mount. Every method may be called from any thread."""

    def __init__(self, client: Client, content: ContentStore, memory: Memory, cache_limit: int) -> None:
        """`cache_limit`: the most bytes that are fetched to learn a hash."""
        self._client = client
        self._content = content
        self._memory = memory
        self._cache_limit = cache_limit

    def learn_hash(self, item: Item) -> str:
        """Fetch a version's bytes into the cache and hash them; "" if they are larger than the cache."""
        if item.size is not None and item.size > self._cache_limit:
            return ""
        content = self._content.open(item)
        try:
            content.fetch()
            return content.sha256() or ""
        finally:
            content.close()

    def known_hash(self, item: Item) -> str:
        """The hash of a version that was saved here, or whose bytes are on this machine, else "" (R2)."""
        record = self._memory.of(item)
        sent = record.sha256 if record is not None and record.updated_at == item.updated_at else ""
        if sent and self._content.fine_clock(item.updated_at):
            return sent
        # Else the job may have written in the same second; what was shown since is here.
        if item.is_dir or not self._content.whole(item, _SETTLING):
            return sent
        content = self._content.open(item)
        try:
            return content.sha256() or ""
        finally:
            content.close()

    def carry(self, before: Item, after: Item) -> None:
        """What is remembered of an item goes on to hold after our own move of it."""
        coarse = not self._content.fine_clock(after.updated_at)
        # There its bytes can't be learned later on (see `of`).
        known = self.known_hash(before) if coarse and (before.size or 0) <= _HASHED else ""
        self._memory.carry(before, after, known)

    def young(self, item: Item) -> bool:
        """True if the item's timestamp is too recent to prove that its bytes did not change (R1)."""
        return time.time() + self._client.server_time_offset - item.updated_ns / 1e9 < YOUNG

    def of(self, item: Item | None, *, young: bool | None = None) -> Base:
        """The base that a version shown by this mount makes for a save."""
        if item is None or item.implicit:
            return Base()
        young = self.young(item) if young is None else young
        digest = self.known_hash(item)
        if (
            not digest
            and young
            and not self._content.fine_clock(item.updated_at)
            and (record := self._memory.of(item)) is not None
        ):
            # Its bytes can't be learned any more: the job may write others in the same second. If they are ours, they show it.
            digest = record.known
        return Base.of(item, sha256=digest, young=young)
