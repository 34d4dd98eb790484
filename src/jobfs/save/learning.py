"""The bytes of what a save replaces are learned while the new ones are on their way, where timestamps will not do (R1)."""

from __future__ import annotations

import logging
import time

from jobfs.api import deadline
from jobfs.errors import ApiError, FsError, UnavailableError
from jobfs.nodes import Item
from jobfs.save.bases import YOUNG, Bases, version_hash
from jobfs.save.context import Context
from jobfs.state import Change

log = logging.getLogger("jobfs.save")


class Learning:
    """One for a mount. Every method may be called from any thread, by one for each Change."""

    def __init__(self, context: Context, bases: Bases) -> None:
        self._context = context
        self._bases = bases
        #: True once this server was seen to leave `updatedAt` alone when it moved an old item.
        self.moves_keep_updated_at = context.known.moves_keep_updated_at

    def saw_move(self, before: Item, after: Item) -> None:
        """Learn whether a move changes `updatedAt`: only an old item's unchanged one proves that it doesn't."""
        if before.updated_at == after.updated_at and self._bases.age(before) > YOUNG:
            self.moves_keep_updated_at = True

    def start(self, change: Change) -> None:
        """Fetch the base's bytes beside what is being sent, if they will have to be compared.

        What is read now are the base's bytes only if a write of the job since it was opened would show.
        """
        base, item = change.base, change.base_item
        if not base.id or base.sha256 or item is None or item.id != base.id or item.is_dir:
            return
        fine = self._context.content.fine_clock(base.updated_at)
        if change.learning is None and (fine if base.young else not self.moves_keep_updated_at):
            change.learning = self._context.beside.submit(deadline.carried(self._read), item)

    def _read(self, item: Item) -> tuple[str, float]:
        """The hash of an item's bytes, "" if there is none to be had, and when they had been read (monotonic seconds).

        Raises UnavailableError: that says nothing of them, and the save is tried again.
        """
        try:
            return self._bases.learn_hash(item), time.monotonic()
        except UnavailableError:
            raise
        except (ApiError, FsError, OSError) as error:
            log.info("%s: what is replaced is read once more: %s", item.path, error)
        digest = version_hash(self._context.client, item)
        return digest, time.monotonic() if digest else 0.0

    def settle(self, change: Change, there: Item, answered: float) -> bool:
        """Adopt the hash of the base's bytes, if what stands at the target still is that version.

        False if the look at `there`, `answered` (monotonic seconds) before they had been read, can't tell that: look again.
        Raises UnavailableError.
        """
        base = change.base
        if there.id != base.id or there.updated_at != base.updated_at:
            return True
        if change.learning is None:
            # Taken up from the journal: nobody has read yet what it replaces.
            change.base_item = there
            self.start(change)
        if change.learning is None:
            return True
        try:
            digest, read = deadline.result(change.learning, f"reading {change.target}")
        except ApiError:
            change.learning = None
            raise
        if digest and answered < read:
            return False
        if digest and there.size in (None, base.size):
            base.sha256 = digest
        return True
