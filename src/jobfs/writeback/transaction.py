"""A save in flight: a journal record, and what this process knows of it while it works on it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import NamedTuple

from jobfs import names
from jobfs.errors import JobfsError
from jobfs.nodes import Item, Lifecycle
from jobfs.writeback.inodes import Inode
from jobfs.writeback.journal import Journal
from jobfs.writeback.localbytes import LocalFile
from jobfs.writeback.records import Aside, Record, Save, State


class Cancelled(Exception):  # noqa: N818 - a signal between steps, not an error
    """The file was unlinked while its save was under way (R10)."""


class Finding(NamedTuple):
    """What find said of a target, and when (monotonic seconds)."""

    items: list[Item]
    answered: float


class Transaction:
    """One save while this process works on it. `lock` guards the record's state and its journal entries."""

    def __init__(self, save: Save, inode: Inode | None = None, local: LocalFile | None = None) -> None:
        self.save = save
        self.inode = inode
        self.local = local
        self.asides: list[Aside] = []
        self.lock = threading.RLock()
        #: The item staged, or moved by a rename; later the item as promoted.
        self.item: Item | None = None
        #: The item that the save is based on, as long as its content may have to be fetched.
        self.base_item: Item | None = None
        #: After a recovery or a lost answer: look at the server before the next step.
        self.unsure = False
        #: A promote that nobody saw the answer of may have been carried out: what a later one answers proves nothing (R2).
        self.resent = False
        #: After a loss of power: its local bytes prove nothing.
        self.suspect = False
        self.running = False
        self.attempts = 0
        self.due = 0.0
        self.error: JobfsError | None = None
        #: The hash of the base's bytes, and when they had been read (monotonic seconds).
        self.learning: Future[tuple[str, float]] | None = None
        #: What stood at the target and was set aside, as it was shown there.
        self.taken: list[Item] = []
        #: Ids of items that were seen at the target behind the one that was shown.
        self.covered: set[str] = set()

    @property
    def settled(self) -> bool:
        """True if the server has the outcome: only asides may be left to judge."""
        return self.save.state in (State.PROMOTED, State.DONE)

    @property
    def untouched(self) -> bool:
        """True if nothing of this save was ever sent: it can be replaced or forgotten without a request."""
        save = self.save
        return save.state is State.STAGING and not (save.tid or save.direct or self.asides)

    def is_staged(self, item: Item) -> bool:
        """True if the item still has the hidden name under which this save created it (R6)."""
        parts = names.parse_hidden(names.basename(item.path))
        return parts is not None and parts.transaction == self.save.tid

    def replaced(self) -> Aside | None:
        """The item set aside whose lifecycle and permission are to be kept; None if nothing was.

        The last one found at the target, unless it had been covered up there: what nobody was shown decides nothing.
        """

        def order(aside: Aside) -> tuple[bool, bool, int]:
            # After a recovery nobody knows any more what was covered up; that the job's own covers a default is always true.
            own = aside.lifecycle is Lifecycle.EXPERT_JOB
            return aside.id not in self.covered, own, aside.order

        return max((aside for aside in self.asides if aside.moved), key=order, default=None)

    def check(self) -> None:
        """Raises Cancelled if the file was unlinked."""
        if self.save.state is State.CANCELLED:
            raise Cancelled

    def record(self, journal: Journal, *records: Record, gone: Iterable[Record] = ()) -> None:
        """Write the record as it is, with others (w). Raises Cancelled, FsError(ENOSPC, EIO)."""
        with self.lock:
            self.check()
            journal.write(self.save, *records, gone=gone)

    def advance(self, journal: Journal, state: State) -> None:
        """Go to another state (w). Raises Cancelled, FsError(ENOSPC, EIO)."""
        with self.lock:
            self.check()
            journal.write(self.save.as_of(state))
            self.save.become(state)
