"""Who may change which names now: operations reserve theirs, and all below them; changes of the server run meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

from jobfs import names
from jobfs.api import deadline
from jobfs.state.records import Change


class Reservations:
    """Held across requests; never asked for with a lock held. The state's lock is notified when anything is free again."""

    def __init__(self, lock: threading.Condition, changes: Mapping[int, Change]) -> None:
        """`changes`: those of the state, guarded by its lock."""
        self._lock = lock
        self._changes = changes
        #: Grows with every end of a reservation: who found a name reserved looks again.
        self.ended = 0
        self._held: list[tuple[frozenset[str], int]] = []

    @contextlib.contextmanager
    def held(self, *paths: str, resting: bool = False) -> Iterator[None]:
        """Keep these names, and everything below them, from other operations.

        `resting`: no change of the server runs there either. Raises OutOfTimeError(ETIMEDOUT).
        """
        wanted = frozenset(paths)
        with self._lock:
            deadline.wait_for(self._lock, lambda: not self._is_held(wanted), f"{paths[0]} is being changed")
            mine = (wanted, threading.get_ident())
            self._held.append(mine)
        try:
            if resting:
                with self._lock:
                    deadline.wait_for(
                        self._lock, lambda: not self._is_running(wanted), f"{paths[0]} is being saved"
                    )
            yield
        finally:
            with self._lock:
                self._held.remove(mine)
                self.ended += 1
                self._lock.notify_all()

    def _is_held(self, wanted: frozenset[str]) -> bool:
        return any(_touches(path, other) for held, _ in self._held for other in held for path in wanted)

    def _is_running(self, wanted: frozenset[str]) -> bool:
        return any(
            change.running and not change.settled and _touches(path, change.target)
            for change in self._changes.values()
            for path in wanted
        )

    def may_start(self, path: str) -> bool:
        """True if nobody else holds this name against a change of the server."""
        with self._lock:
            here = threading.get_ident()
            return not any(
                path == other or names.under(path, other)
                for held, holder in self._held
                if holder != here
                for other in held
            )


def _touches(one: str, other: str) -> bool:
    return one == other or names.under(one, other) or names.under(other, one)
