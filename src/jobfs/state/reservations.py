"""Who may change which names now: operations reserve theirs, and all below them; changes of the server run meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from jobfs import names
from jobfs.api import deadline


class Reservations:
    """Held across requests; never asked for with another lock held. `turn` is notified when anything is free again."""

    def __init__(self) -> None:
        self.turn = threading.Condition()
        #: Grows with every end of a reservation: who found a name reserved looks again.
        self.ended = 0
        self._held: list[tuple[frozenset[str], int]] = []
        self._running: dict[str, int] = {}

    @contextlib.contextmanager
    def held(self, *paths: str, resting: bool = False) -> Iterator[None]:
        """Keep these names, and everything below them, from other operations.

        `resting`: no change of the server runs there either. Raises OutOfTimeError(ETIMEDOUT).
        """
        wanted = frozenset(paths)
        with self.turn:
            deadline.wait_for(self.turn, lambda: not self._is_held(wanted), f"{paths[0]} is being changed")
            self._held.append((wanted, threading.get_ident()))
            try:
                if resting:
                    deadline.wait_for(
                        self.turn, lambda: not self._is_running(wanted), f"{paths[0]} is being saved"
                    )
            except BaseException:
                self._free(wanted)
                raise
        try:
            yield
        finally:
            with self.turn:
                self._free(wanted)

    def _free(self, wanted: frozenset[str]) -> None:
        self._held.remove((wanted, threading.get_ident()))
        self.ended += 1
        self.turn.notify_all()

    def _is_held(self, wanted: frozenset[str]) -> bool:
        return any(_touches(path, other) for held, _ in self._held for other in held for path in wanted)

    def _is_running(self, wanted: frozenset[str]) -> bool:
        return any(_touches(path, other) for other in self._running for path in wanted)

    def may_start(self, path: str) -> bool:
        """True if nobody else holds this name against a change of the server. The caller has `turn`."""
        if not self._held:
            return True
        here = threading.get_ident()
        return not any(
            path == other or names.under(path, other)
            for held, holder in self._held
            if holder != here
            for other in held
        )

    def start(self, path: str) -> None:
        """A change of the server runs at this name. The caller has `turn`, and has asked `may_start`."""
        self._running[path] = self._running.get(path, 0) + 1

    def end(self, path: str) -> None:
        """It rests. The caller has `turn`."""
        left = self._running[path] - 1
        if left:
            self._running[path] = left
        else:
            del self._running[path]
        self.turn.notify_all()


def _touches(one: str, other: str) -> bool:
    return one == other or names.under(one, other) or names.under(other, one)
