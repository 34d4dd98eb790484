"""The processes that open files in the mount: their ancestors, and whether they have ended (vfs/semantics.md 4.43).

A process is identified by its thread-group id and start time, so a reused id is another process. Its ancestors are read once,
when the process is seen first. A process stays known while it runs, while it is the parent of a known process, and while a file
that it opened is open.
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

#: How long the process of a thread is remembered, in seconds.
_RECENT = 1.0
#: How many `/proc` entries are read at most to find the ancestors of one process.
_ANCESTORS = 1000
#: How many processes become due for `find_ended` with each look-up, and with each new process; how many one call checks.
_CHECKS, _AT_ONCE = 2, 8
#: The fields of `/proc/<process>/stat` with the parent and the start time, counted after the name of the program.
_PARENT, _START = 1, 19


class Process:
    """A process that has opened a file in the mount, or an ancestor of one.

    `parent`: None at the top. `serial` numbers processes in the order in which they were first seen. `uses` counts known children
    and open files.
    """

    __slots__ = ("_ended_descendants", "forgot", "key", "parent", "serial", "uses")

    def __init__(self, parent: Process | None, number: str = "", start: str = "", *, serial: int = 0) -> None:
        self.parent, self.key, self.serial = parent, (number, start), serial
        self.uses = 0
        #: True once a note of its own was evicted (read_log.py).
        self.forgot = False
        self._ended_descendants: Process | None = None

    @property
    def ended_descendants(self) -> Process:
        """A stand-in, made on demand, for all ended processes below this one."""
        if self._ended_descendants is None:
            self._ended_descendants = Process(self)
        return self._ended_descendants

    @property
    def is_ended_descendants(self) -> bool:
        """True if this is the `ended_descendants` of its parent."""
        return self.parent is not None and self.parent._ended_descendants is self

    @property
    def self_and_ended_descendants(self) -> list[Process]:
        """Its `ended_descendants` if it has one, then the process itself."""
        return [self] if self._ended_descendants is None else [self._ended_descendants, self]

    def self_and_ancestors(self) -> Iterator[Process]:
        """Yield the process, its parent, and so on upwards."""
        process: Process | None = self
        while process is not None:
            yield process
            process = process.parent


class _Facts(NamedTuple):
    """The fields that `/proc` has for a process."""

    number: str
    start: str
    parent: str


class ProcDirectory:
    """A `/proc`, read without a lock."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    @property
    def is_own_namespace(self) -> bool:
        """True if it belongs to this PID namespace; in another one, the numbers mean other processes."""
        try:
            return os.readlink(f"{self._path}/self") == str(os.getpid())
        except OSError:
            return True

    def read(self, pid: str, name: str) -> str:
        """Return the text of the file `name` of a process. Raises OSError."""
        with open(f"{self._path}/{pid}/{name}", errors="replace") as file:
            return file.read()

    def has(self, pid: str) -> bool:
        """Return whether any process has this number."""
        return os.path.exists(f"{self._path}/{pid}")


class Processes:
    """The known processes. Every method may be called from any thread, and raises nothing.

    `/proc` is read without the lock.
    """

    def __init__(self, lock: Condition, proc: ProcDirectory, *, max_threads: int = 4096) -> None:
        """`lock`: the state's. `max_threads`: for how many threads at most the process is remembered."""
        self._lock, self._proc, self._max_threads = lock, proc, max_threads
        self._is_own = proc.is_own_namespace
        #: By thread: its process, and until when that may be used, in monotonic seconds.
        self._recent: dict[int, tuple[Process | None, float]] = {}
        #: By number and start time; `find_ended` checks the first one next.
        self._known: OrderedDict[tuple[str, str], Process] = OrderedDict()
        #: How many processes `find_ended` should check.
        self.due = 0
        self.next_serial = 1

    def __len__(self) -> int:
        return len(self._known)

    def process_of(self, thread: int) -> Process | None:
        """Return the process of a thread; None if this mount can't see it (vfs/semantics.md 4.47)."""
        now = time.monotonic()
        process, until = self._recent.get(thread, (None, now))
        if now < until:
            return process
        process = self._look_up(thread) if thread > 0 and self._is_own else None
        with self._lock:
            if len(self._recent) >= self._max_threads:
                self._recent.clear()
            self._recent[thread] = process, now + _RECENT
            self.due += _CHECKS
        return process

    def find_heir(self, lineage: list[list[str]]) -> Process | None:
        """Return the process that has the notes of one that an earlier mount has seen (vfs/semantics.md 4.63).

        That is the process itself while it runs, else the `ended_descendants` of its nearest running ancestor, None if none runs.
        `lineage`: the keys of the process and its ancestors.
        """
        for distance, key in enumerate(map(tuple, lineage)):
            process = self.process_of(int(key[0] or 0))
            if process is not None and process.key == key:
                return process.ended_descendants if distance else process
        return None

    def _look_up(self, thread: int) -> Process | None:
        try:
            status = self._proc.read(str(thread), "status")
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
        """Read the facts of a process and its ancestors, up to the first known process; return the facts, and that process."""
        lineage: list[_Facts] = []
        unreadable = set[str]()
        for _ in range(_ANCESTORS):
            facts = self._read_facts(number)
            if facts is None:
                if not lineage or number in unreadable:
                    break
                # The parent has just ended, so read its child again, which has a new one; or the parent can't be seen.
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
            fields = self._proc.read(number, "stat").rpartition(") ")[2].split()
            return _Facts(number, fields[_START], fields[_PARENT])
        except (OSError, IndexError):
            return None

    def _add(self, parent: Process | None, key: tuple[str, str]) -> Process:
        process = Process(parent, *key, serial=self.next_serial)
        self.next_serial += 1
        self.add_with_ancestors(process)
        return process

    def add_with_ancestors(self, process: Process) -> None:
        """Add a process and its ancestors, ended or not, unless they are known. The caller holds the lock."""
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
        """Check the next processes that are due, `_AT_ONCE` at most; return those that have ended and have no `uses`."""
        with self._lock:
            count = min(self.due, _AT_ONCE, len(self._known))
            self.due = max(self.due - _AT_ONCE, 0)
            checked = [*itertools.islice(self._known.values(), count)]
            for process in checked:
                self._known.move_to_end(process.key)
        # If another process reuses the number, the end is noticed when that ends, too.
        return [process for process in checked if not process.uses and not self._proc.has(process.key[0])]

    def check_next(self, process: Process) -> None:
        """Make a process the next that `find_ended` checks. The caller holds the lock."""
        if process.key in self._known:
            self._known.move_to_end(process.key, last=False)
            self.due += 1

    def forget(self, process: Process) -> None:
        """Forget an ended process, and check its parent next, which may no longer be needed. The caller holds the lock."""
        if self._known.pop(process.key, None) is not None and process.parent is not None:
            process.parent.uses -= 1
            self.check_next(process.parent)
