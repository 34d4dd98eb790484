"""Reservations: an operation holds the names that it changes, and all below them, against other operations and new Changes."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from jobfs import names
from jobfs.api import deadline
from jobfs.state.records import Change


@dataclass(eq=False)
class Reservation:
    """Names, and the thread that holds them; `waiting`: Changes to be looked at when the names are free."""

    names: frozenset[str]
    holder: int
    waiting: list[Change] = field(default_factory=list)


class Reservations:
    """Held across requests; never asked for with a lock held. The state's lock is notified when anything is free again."""

    def __init__(self, lock: threading.Condition, awake: deque[Change]) -> None:
        self._lock = lock
        self._awake = awake
        self._held: list[Reservation] = []

    @contextlib.contextmanager
    def held(self, *paths: str) -> Iterator[None]:
        """Keep these names, and everything below them, from other operations. Raises OutOfTimeError(ETIMEDOUT)."""
        wanted = frozenset(paths)
        with self._lock:
            while self._is_held(wanted):
                deadline.wait(self._lock, f"{paths[0]} is being changed")
            mine = Reservation(wanted, threading.get_ident())
            self._held.append(mine)
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(mine)
                self._awake.extend(mine.waiting)
                self._lock.notify_all()

    def _is_held(self, wanted: frozenset[str]) -> bool:
        return any(
            names.within(path, other) or names.under(other, path)
            for held in self._held
            for other in held.names
            for path in wanted
        )

    def against(self, path: str) -> Reservation | None:
        """The reservation by which somebody else holds this name against a change of the server; None if it may start."""
        with self._lock:
            here = threading.get_ident()
            others = (held for held in self._held if held.holder != here)
            return next((h for h in others if any(names.within(path, other) for other in h.names)), None)
