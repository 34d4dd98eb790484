"""Who may use the connections, and in which order: room for people (semantics.md section 3).

What a program waits for goes before the background, small before large. At least a quarter of the connections (one of two
or three) is for small requests that a program waits for, and half of that for those which only look: a server may be silent
when it is asked to change something, and tell what it has all the same. Large transfers have half of the connections at
most, so that small work in the background goes on beside them; those of the background have a quarter, and share the
line's bandwidth among few. With one connection all take turns.
"""

from __future__ import annotations

import itertools
import threading
import time
from enum import IntEnum

from jobfs.api.deadline import Deadline, out_of_time
from jobfs.errors import UnavailableError

#: Bodies of more bytes than this are large.
LARGE = 256 * 1024

#: Seconds between looks whether a program waits by now for what waits in the background.
_LOOK = 0.5


class Rank(IntEnum):
    """The order in which requests get a connection."""

    LOOK = 0
    CHANGE = 1
    LARGE = 2
    BACKGROUND = 3
    BACKGROUND_LARGE = 4


class Slot:
    """The use of one connection, until `release`, which may be called again."""

    __slots__ = ("_line", "rank")

    def __init__(self, line: Line, rank: Rank) -> None:
        self._line: Line | None = line
        self.rank = rank

    def release(self) -> None:
        """Give the connection to whoever is next."""
        line, self._line = self._line, None
        if line is not None:
            line._released(self.rank)


class _Waiter:
    """A request that waits for its connection; its rank may change meanwhile."""

    def __init__(self, deadline: Deadline, number: int, *, large: bool, changing: bool) -> None:
        self.deadline = deadline
        self.large = large
        self.changing = changing
        self.number = number
        self.granted: Slot | None = None
        self.turn = threading.Event()

    @property
    def patience(self) -> float:
        """Seconds until it is looked at again."""
        return min(max(self.deadline.left(), 0.0), _LOOK) if self.deadline.waited else _LOOK

    @property
    def rank(self) -> Rank:
        if self.deadline.waited:
            return Rank.LARGE if self.large else Rank.CHANGE if self.changing else Rank.LOOK
        return Rank.BACKGROUND_LARGE if self.large else Rank.BACKGROUND


class Line:
    """The connections to one server; safe for many threads."""

    def __init__(self, connections: int) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._numbers = itertools.count()
        self._closed = False
        self._moved_at = 0.0
        self._used = dict.fromkeys(Rank, 0)
        reserved = -(-connections // 4) if connections > 1 else 0
        self._connections = connections
        #: Of the connections together: for all but looks, and for all that is not both small and waited for.
        self._most_but_looks = connections - connections // 8
        self._most_others = connections - reserved
        self._most_large = max(1, connections // 2)
        self._most_background_large = max(1, connections // 4)

    def take(self, deadline: Deadline, what: str, *, large: bool = False, changing: bool = False) -> Slot:
        """A connection for one request, as soon as it is its turn.

        Raises OutOfTimeError if a program waits and its time is over, which says nothing of the server; UnavailableError if the
        client is closed.
        """
        with self._lock:
            waiter = _Waiter(deadline, next(self._numbers), large=large, changing=changing)
            self._waiting.append(waiter)
            self._grant()
        began = looked = time.monotonic()
        while waiter.granted is None:
            waiter.turn.wait(waiter.patience)
            with self._lock:
                self._grant()
                if large and self._moved_at > looked and deadline.waited:
                    # It waits behind others of its kind, for which the line is just what it is.
                    deadline.extend(time.monotonic() - looked)
                looked = time.monotonic()
                if waiter.granted is None:
                    self._may_go_on(waiter, what)
        deadline.waited_in_line(time.monotonic() - began)
        return waiter.granted

    def _may_go_on(self, waiter: _Waiter, what: str) -> None:
        """Raises for a request that need not wait any more. The caller has the lock."""
        if self._closed:
            raise UnavailableError(f"{what}: the client is closed")
        if waiter.deadline.waited and waiter.deadline.left() <= 0:
            self._waiting.remove(waiter)
            raise out_of_time(f"{what}: no connection became free")

    def close(self) -> None:
        """Nobody gets a connection any more; who waits for one is told."""
        with self._lock:
            self._closed = True
            for waiter in self._waiting:
                waiter.turn.set()

    def wanted(self, before: int) -> bool:
        """True if a request waits whose rank comes before this one."""
        return bool(self._waiting) and any(waiter.rank < before for waiter in list(self._waiting))

    def moved(self) -> None:
        """Bytes of some body have gone over the line."""
        self._moved_at = time.monotonic()

    def _released(self, rank: Rank) -> None:
        with self._lock:
            self._used[rank] -= 1
            self._grant()

    def _grant(self) -> None:
        """Give out what is free, in order; who has to wait for room of its own rank holds up nobody else."""
        if not self._waiting or self._closed:
            return
        for waiter in sorted(self._waiting, key=lambda waiter: (waiter.rank, waiter.number)):
            rank = waiter.rank
            if not self._has_room(rank):
                continue
            self._used[rank] += 1
            self._waiting.remove(waiter)
            waiter.granted = Slot(self, rank)
            waiter.turn.set()

    def _has_room(self, rank: Rank) -> bool:
        used = self._used
        total = sum(used.values())
        if total >= self._connections:
            return False
        if rank is Rank.LOOK:
            return True
        if total - used[Rank.LOOK] >= self._most_but_looks:
            return False
        if rank is Rank.CHANGE:
            return True
        if total - used[Rank.LOOK] - used[Rank.CHANGE] >= self._most_others:
            return False
        large = used[Rank.LARGE] + used[Rank.BACKGROUND_LARGE]
        if rank is Rank.LARGE:
            return large < self._most_large
        if rank is Rank.BACKGROUND_LARGE:
            return large < self._most_large and used[rank] < self._most_background_large
        return True
