"""The processes that open files here: who started them, and which of them have ended (vfs/semantics.md 4.43).

A process is its thread group with the time at which that started, so a number that the system uses again is another process. Its
ancestors are read once, when it is seen first. It stays known while it runs, while it is the parent of a known process, and while
a file that it has opened is open.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Condition
from typing import NamedTuple

#: Seconds for which the process of a thread is remembered, and most threads of which it is.
_RECENT, _THREADS = 1.0, 4096
#: Most ancestors that are read for one process.
_ANCESTORS = 1000
#: Processes checked for their end after each look-up, and for each process that is new; and most of them at once.
_CHECKS, _AT_ONCE = 2, 8
#: Where `/proc/<process>/stat` has the parent and the start, counted from behind the name of the program.
_PARENT, _START = 1, 19


class Process:
    """A thread group that has opened a file here, or an ancestor of one; `parent` is None at the top.

    `serial` numbers processes in the order in which they were seen. `uses` counts known children and open files.
    """

    __slots__ = ("_ended_descendants", "forgot", "key", "parent", "serial", "uses")

    def __init__(self, parent: Process | None, number: str = "", start: str = "", *, serial: int = 0) -> None:
        self.parent, self.key, self.serial = parent, (number, start), serial
        self.uses = 0
        #: True once a note of what it has read itself was evicted.
        self.forgot = False
        self._ended_descendants: Process | None = None

    @property
    def ended_descendants(self) -> Process:
        """Its child that stands for all processes below it that have ended."""
        if self._ended_descendants is None:
            self._ended_descendants = Process(self)
        return self._ended_descendants

    @property
    def is_ended_descendants(self) -> bool:
        """True for the `ended_descendants` of another process."""
        return self.parent is not None and self.parent._ended_descendants is self

    @property
    def note_holders(self) -> list[Process]:
        """The process, and before it its `ended_descendants`, if there is one yet."""
        return [self] if self._ended_descendants is None else [self._ended_descendants, self]

    def self_and_ancestors(self) -> Iterator[Process]:
        """Yield the process, its parent, and so on upwards."""
        process: Process | None = self
        while process is not None:
            yield process
            process = process.parent


class _Facts(NamedTuple):
    """What `/proc` says of a process."""

    number: str
    start: str
    parent: str


class Processes:
    """The known processes. Every method may be called from any thread, and raises nothing.

    `/proc` is read without the lock.
    """

    def __init__(self, lock: Condition, proc: Path) -> None:
        """`lock`: the state's."""
        self._lock, self._proc = lock, str(proc)
        self._is_own = _is_own_namespace(proc)
        #: By thread: its process, and when that is looked up again, in monotonic seconds.
        self._recent: dict[int, tuple[Process | None, float]] = {}
        #: By number and start; the first is checked next.
        self._known: OrderedDict[tuple[str, str], Process] = OrderedDict()
        #: How many processes are to be checked for their end.
        self.due = 0
        self.next_serial = 1

    def __len__(self) -> int:
        return len(self._known)

    def process_of(self, thread: int) -> Process | None:
        """Return the process of a thread that makes a call; None if the mount can't see it (vfs/semantics.md 4.47)."""
        now = time.monotonic()
        process, until = self._recent.get(thread, (None, now))
        if now < until:
            return process
        process = self._look_up(thread) if thread > 0 and self._is_own else None
        with self._lock:
            if len(self._recent) >= _THREADS:
                self._recent.clear()
            self._recent[thread] = process, now + _RECENT
            self.due += _CHECKS
        return process

    def _look_up(self, thread: int) -> Process | None:
        try:
            status = self._read_text(str(thread), "status")
            number = status.partition("\nTgid:")[2].split(None, 1)[0]
        except (OSError, IndexError):
            return None
        lineage, known = self._read_lineage(number)
        with self._lock:
            for facts in reversed(lineage):
                key = facts.number, facts.start
                known = self._known.get(key) or self._add(known, key)
            return known

    def _read_lineage(self, number: str) -> tuple[list[_Facts], Process | None]:
        """Read a process and those above it, as far as the first known one, which is the second result."""
        lineage: list[_Facts] = []
        unreadable = set[str]()
        for _ in range(_ANCESTORS):
            facts = self._read_facts(number)
            if facts is None:
                if not lineage or number in unreadable:
                    break
                # A parent that has just ended: its child has another one by now. Or one that can't be seen.
                unreadable.add(number)
                number = lineage.pop().number
                continue
            with self._lock:
                known = self._known.get((facts.number, facts.start))
            if known is not None:
                return lineage, known
            lineage.append(facts)
            if facts.parent == "0":
                break
            number = facts.parent
        return lineage, None

    def _read_facts(self, number: str) -> _Facts | None:
        try:
            fields = self._read_text(number, "stat").rpartition(") ")[2].split()
            return _Facts(number, fields[_START], fields[_PARENT])
        except (OSError, IndexError):
            return None

    def _read_text(self, number: str, name: str) -> str:
        with open(f"{self._proc}/{number}/{name}", errors="replace") as file:
            return file.read()

    def _add(self, parent: Process | None, key: tuple[str, str]) -> Process:
        process = Process(parent, *key, serial=self.next_serial)
        self.next_serial += 1
        self.add_with_ancestors(process)
        return process

    def add_with_ancestors(self, process: Process) -> None:
        """Know a process and its ancestors, also those that have ended. The caller holds the lock."""
        if process.key in self._known:
            return
        for each in process.self_and_ancestors():
            if each.key in self._known:
                break
            self._known[each.key] = each
            self.due += _CHECKS
            if each.parent is not None:
                each.parent.uses += 1

    def find_ended(self) -> list[Process]:
        """Return unused processes that have ended. At most `_AT_ONCE` are checked."""
        with self._lock:
            count = min(self.due, _AT_ONCE, len(self._known))
            self.due = max(self.due - _AT_ONCE, 0)
            checked = [*itertools.islice(self._known.values(), count)]
            for process in checked:
                self._known.move_to_end(process.key)
        return [process for process in checked if not process.uses and not self._is_running(process)]

    def _is_running(self, process: Process) -> bool:
        """True if a process has this number: of another one that has it by now, the end is found later."""
        return os.path.exists(f"{self._proc}/{process.key[0]}")

    def check_first(self, process: Process) -> None:
        """Have `find_ended` check a process next. The caller holds the lock."""
        if process.key in self._known:
            self._known.move_to_end(process.key, last=False)
            self.due += 1

    def forget(self, process: Process) -> None:
        """Forget a process that has ended; its parent may have been kept for it alone. The caller holds the lock."""
        if self._known.pop(process.key, None) is not None and process.parent is not None:
            process.parent.uses -= 1
            self.check_first(process.parent)


def _is_own_namespace(proc: Path) -> bool:
    """True unless `proc` belongs to another process-id namespace, where a number is another process's."""
    try:
        return os.readlink(proc / "self") == str(os.getpid())
    except OSError:
        return True
