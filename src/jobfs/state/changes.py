"""The Changes under way: which of them has to come first, and which keep a name from being changed. In memory only.

`State.write` and `State.apply_in_memory` keep them up to date; everybody else only reads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jobfs import names
from jobfs.api import deadline
from jobfs.state.records import Change, Stage, Verb


@dataclass(eq=False)
class Reservation:
    """Names, and the thread that holds them; `waiting`: Changes to be looked at when the names are free."""

    names: frozenset[str]
    holder: int
    waiting: list[Change] = field(default_factory=list)


class Reservations:
    """An operation holds the names that it changes, and all below them, against other operations and new Changes.

    Held across requests; never asked for with a lock held. The state's lock is notified when anything is free again.
    """

    def __init__(self, lock: threading.Condition, ready: deque[Change]) -> None:
        self._lock = lock
        self._ready = ready
        self._held: list[Reservation] = []

    @contextmanager
    def hold(self, *paths: str) -> Iterator[None]:
        """Keep these names, and everything below them, from other operations. Raises OutOfTimeError(ETIMEDOUT)."""
        mine = Reservation(frozenset(paths), threading.get_ident())
        with self._lock:
            while any(
                names.is_at_or_below(path, other) or names.is_below(other, path)
                for held in self._held
                for other in held.names
                for path in paths
            ):
                deadline.wait_notified(self._lock, f"{paths[0]} is being changed")
            self._held.append(mine)
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(mine)
                self._ready.extend(mine.waiting)
                self._lock.notify_all()

    def find_blocking(self, path: str) -> Reservation | None:
        """The reservation by which somebody else holds this name against a change of the server; None if it may start."""
        with self._lock:
            others = [held for held in self._held if held.holder != threading.get_ident()]
            return next(
                (h for h in others if any(names.is_at_or_below(path, other) for other in h.names)), None
            )


class Changes(dict[int, Change]):
    """Every Change that has not ended, by its number."""

    def __init__(self, lock: threading.Condition) -> None:
        """`lock`: the state's. It is notified whenever a Change may no longer have to wait for another one."""
        super().__init__()
        self._lock = lock
        #: Changes for the queue to look at: only cleanup is left of them, or what they may have waited for is at rest.
        self.ready: deque[Change] = deque()
        self.reservations = Reservations(lock, self.ready)
        #: By path: the Changes that change its item.
        self._at: dict[str, tuple[Change, ...]] = {}

    # -- what is waited for

    def predecessor_of(self, change: Change) -> Change | None:
        """The Change of the same target that has to come to rest first: a cancelled one, else the oldest.

        A cancelled one may be the younger: a file may be older than the unlinked file to whose name it is renamed.
        """

        def order(one: Change) -> tuple[bool, int]:
            return one.stage is not Stage.CANCELLED, one.seq

        with self._lock:
            there = [other for other in self._at.get(change.target, ()) if not other.is_settled]
            return min((other for other in there if order(other) < order(change)), key=order, default=None)

    def in_flight_at(self, verb: Verb, *paths: str) -> list[Change]:
        """Return the Changes of one kind of which a request may be on its way to these very names."""
        with self._lock:
            there = (change for path in paths for change in self._at.get(path, ()))
            return [change for change in there if change.verb is verb and change.is_in_flight]

    def holding_names(self, *paths: str) -> list[Change]:
        """Return the Changes that keep these names, and all below them, from being at rest (`Change.holds_names`)."""
        with self._lock:
            under_way = (change for change in self.values() if change.holds_names)
            return [change for change in under_way if _is_at_or_below(change, paths)]

    def find_unstarted(self, path: str) -> Change | None:
        """A Change that hides a name and has sent no request yet: an operation that takes the name may void it."""
        there = (change for change in self._at.get(path, ()) if path in change.shows)
        return next((change for change in there if not change.started and not change.is_settled), None)

    # -- kept up to date; the caller has the lock

    def add(self, change: Change) -> None:
        """Add a Change."""
        self[change.seq] = change
        for path in change.touched_paths:
            self._at[path] = (*self._at.get(path, ()), change)

    def change_fields(self, change: Change, changed: Mapping[str, Any]) -> None:
        """Change fields of a Change. One that is done is added no more."""
        is_renamed = not changed.keys().isdisjoint(("target", "source"))
        if is_renamed:
            self._wake_waiters(change)
        self._remove(change)
        self._set_stage(change, changed.get("stage", change.stage))
        for name, value in changed.items():
            setattr(change, name, value)
        if change.stage is not Stage.DONE:
            self.add(change)
        if is_renamed:
            self.ready.append(change)  # the one it waited for may have its old name
        if is_renamed or ("stage" in changed and change.is_settled):
            self._wake_waiters(change)

    def _set_stage(self, change: Change, stage: Stage) -> None:
        """Bring a Change to a stage. If nothing more is placed by it, the queue has to clean up, unless it is running."""
        if stage is change.stage:
            return
        change.stage = stage
        if change.is_finished:
            change.finished_at = time.monotonic()
            if not change.is_running:
                self.ready.append(change)

    def end(self, change: Change) -> None:
        """End a Change: nothing is left to do for it."""
        self._remove(change)
        change.stage = Stage.DONE
        self._wake_waiters(change)
        if change.file is not None and change.file.change is change:
            change.file.change = None

    def _remove(self, change: Change) -> None:
        if self.pop(change.seq, None) is None:
            return
        for path in change.touched_paths:
            others = tuple(other for other in self._at.get(path, ()) if other is not change)
            if others:
                self._at[path] = others
            else:
                self._at.pop(path, None)

    def _wake_waiters(self, change: Change) -> None:
        """Have the Changes that wait at its names looked at again: they may not have to wait for it any more."""
        waiting = (other for path in change.touched_paths for other in self._at.get(path, ()))
        self.ready.extend(other for other in waiting if other is not change)
        self._lock.notify_all()


def _is_at_or_below(change: Change, paths: tuple[str, ...]) -> bool:
    """Return whether a Change has its target, or a name that it hides, at or below one of these paths."""
    return any(names.is_at_or_below(name, path) for name in (change.target, *change.shows) for path in paths)
