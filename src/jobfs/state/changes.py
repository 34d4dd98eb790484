"""The unfinished Changes: the order in which they run, and the names that they hold. In memory only.

`State.write` and `State.apply_in_memory` keep them up to date; all other code only reads them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jobfs import names
from jobfs.api import deadline
from jobfs.nodes import Item
from jobfs.state.records import Change, File, Stage, Verb


@dataclass(eq=False)
class Reservation:
    """Names that a thread holds; `holder`: its id. `waiting`: Changes that may run once the names are free."""

    names: frozenset[str]
    holder: int
    waiting: list[Change] = field(default_factory=list)


class Reservations:
    """The names that operations hold while they change them; each includes all names below it.

    No other operation gets these names, and no Change of other threads starts to run there. Names are held across requests, and
    must not be acquired with a lock held. The state's lock is notified when names are released.
    """

    def __init__(self, lock: threading.Condition, ready: deque[Change]) -> None:
        self._lock = lock
        self._ready = ready
        self._held: list[Reservation] = []

    @contextmanager
    def hold(self, *paths: str) -> Iterator[None]:
        """Wait until these names, and all below them, are free, and hold them in the block. Raises OutOfTimeError(ETIMEDOUT)."""
        mine = Reservation(frozenset(paths), threading.get_ident())
        with self._lock:
            while any(
                names.is_at_or_below(path, other) or names.is_below(other, path)
                for held in self._held
                for other in held.names
                for path in paths
            ):
                deadline.wait_for_notification(self._lock, f"{paths[0]} is being changed")
            self._held.append(mine)
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(mine)
                self._ready.extend(mine.waiting)
                self._lock.notify_all()

    def find_blocking(self, path: str) -> Reservation | None:
        """Return the reservation by which another thread holds this name, or a directory above it; None if there is none."""
        with self._lock:
            others = [held for held in self._held if held.holder != threading.get_ident()]
            return next(
                (h for h in others if any(names.is_at_or_below(path, other) for other in h.names)), None
            )


class Changes(dict[int, Change]):
    """All Changes that have not ended, by number."""

    def __init__(self, lock: threading.Condition) -> None:
        """`lock`: the state's. It is notified when a Change may no longer have to wait for another one."""
        super().__init__()
        self._lock = lock
        #: Changes that the queue should check: only cleanup is left, or the obstacle that they waited for may be gone.
        self.ready: deque[Change] = deque()
        self.reservations = Reservations(lock, self.ready)
        #: By path: the Changes that have it among their `touched_paths`.
        self._at: dict[str, tuple[Change, ...]] = {}
        #: How many Changes have each id among their `hidden_ids`.
        self._explained: Counter[str] = Counter()

    # -- what is waited for

    def predecessor_of(self, change: Change) -> Change | None:
        """Return the Change of the same target that must be settled first: a cancelled one, else the oldest; None if none must.

        A cancelled Change goes first even if it is younger: an older file may be renamed to the name of an unlinked one.
        """

        def order(each: Change) -> tuple[bool, int]:
            return each.stage is not Stage.CANCELLED, each.seq

        with self._lock:
            rivals = [other for other in self._at.get(change.target, ()) if not other.is_settled]
            return min((other for other in rivals if order(other) < order(change)), key=order, default=None)

    def in_flight_at(self, verb: Verb, *paths: str) -> list[Change]:
        """Return the Changes of this verb that are in flight at these very paths (`Change.is_in_flight`)."""
        with self._lock:
            touching = (change for path in paths for change in self._at.get(path, ()))
            return [change for change in touching if change.verb is verb and change.is_in_flight]

    def holding_names(self, *paths: str) -> list[Change]:
        """Return the Changes that hold any name at or below these paths (`Change.holds_names`)."""
        with self._lock:
            holding = (change for change in self.values() if change.holds_names)
            return [change for change in holding if _is_at_or_below(change, paths)]

    def find_unstarted(self, path: str) -> Change | None:
        """Return a Change that overrides a path and has sent no request yet, None if there is none.

        An operation that takes the name may end it.
        """
        overriding = (change for change in self._at.get(path, ()) if path in change.shows)
        return next((change for change in overriding if not change.started and not change.is_settled), None)

    def files_sent_to(self, path: str) -> list[File]:
        """Return the Files that Changes send to a path."""
        with self._lock:
            files = (change.file for change in self._at.get(path, ()) if change.target == path)
            return [file for file in files if file is not None]

    # -- which hidden items they account for

    def explains(self, item: Item) -> bool:
        """Return whether a Change accounts for a hidden item: as staged, as an aside, or by its transaction (R4)."""
        parts = names.parse_hidden_name(names.basename(item.path))
        with self._lock:
            return item.id in self._explained or (parts is not None and parts.transaction in self._explained)

    # -- kept up to date; the caller has the lock

    def add(self, change: Change) -> None:
        """Add a Change at its `touched_paths`, and with its `hidden_ids`."""
        self[change.seq] = change
        self._explained.update(change.hidden_ids)
        for path in change.touched_paths:
            self._at[path] = (*self._at.get(path, ()), change)

    def change_fields(self, change: Change, changed: Mapping[str, Any]) -> None:
        """Set fields of a Change; remove it if that makes it DONE."""
        is_renamed = not changed.keys().isdisjoint(("target", "source"))
        if is_renamed:
            self._wake_waiters(change)
        self._drop_from_index(change)
        self._set_stage(change, changed.get("stage", change.stage))
        for name, value in changed.items():
            setattr(change, name, value)
        if change.stage is not Stage.DONE:
            self.add(change)
        if is_renamed:
            self.ready.append(change)  # the Change that it waited for may be one of its old name
        if is_renamed or ("stage" in changed and change.is_settled):
            self._wake_waiters(change)

    def _set_stage(self, change: Change, stage: Stage) -> None:
        """Set the stage of a Change. Once it is finished, pass it to the queue for cleanup, unless it is running."""
        if stage is change.stage:
            return
        change.stage = stage
        if change.places_nothing_more:
            change.finished_at = time.monotonic()
            if not change.is_running:
                self.ready.append(change)

    def end(self, change: Change) -> None:
        """Remove a Change, and make it DONE."""
        self._drop_from_index(change)
        change.stage = Stage.DONE
        self._wake_waiters(change)
        if change.file is not None and change.file.change is change:
            change.file.change = None

    def _drop_from_index(self, change: Change) -> None:
        """Remove a Change from the table and from the indexes; do nothing if it is not there."""
        if self.pop(change.seq, None) is None:
            return
        for each in change.hidden_ids:
            self._explained[each] -= 1
            if not self._explained[each]:
                del self._explained[each]
        for path in change.touched_paths:
            others = tuple(other for other in self._at.get(path, ()) if other is not change)
            if others:
                self._at[path] = others
            else:
                self._at.pop(path, None)

    def _wake_waiters(self, change: Change) -> None:
        """Make the other Changes at its paths ready, because they may no longer have to wait for it."""
        waiting = (other for path in change.touched_paths for other in self._at.get(path, ()))
        self.ready.extend(other for other in waiting if other is not change)
        self._lock.notify_all()


def _is_at_or_below(change: Change, paths: tuple[str, ...]) -> bool:
    """Return whether the target, or an override, of a Change is at or below one of these paths."""
    return any(names.is_at_or_below(name, path) for name in (change.target, *change.shows) for path in paths)
