"""Which version of a file a program has read: a save replaces that one (vfs/semantics.md 4.42).

A note is made at each open for reading, and at each write: process and path, and the version that was shown. A process is its
thread group with the time at which it began, so a number that is used again is another process. Its parents are looked up once,
at its first open: a reader that has ended by the time of the save still counts. Notes are in memory only, and bounded.
"""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Condition

from cachetools import LRUCache, TTLCache

from jobfs import names
from jobfs.nodes import Item
from jobfs.state.records import Base, Process

_NONE = Base()
#: Most notes, most of them on one path, and most paths at which a version of this mount is known.
_NOTES, _READERS, _PLACED = 10_000, 100, 10_000
#: Seconds for which the process of a thread is known, and most threads.
_RECENT, _THREADS = 1.0, 4096
#: Where `/proc/<process>/stat` has the parent and the start, counted from behind the name of the program.
_PARENT, _START = 1, 19


class _Note:
    """What a process knows at a path: the version `item`, if any; and if it `wrote`, or has `read` bytes that were not sent yet,
    what this mount placed last, or will place.

    `number` orders notes. `before` is the last note of the same process on another version.
    """

    __slots__ = ("before", "item", "number", "read", "wrote")

    def __init__(
        self, item: Item | None, number: int, before: _Note | None, *, wrote: bool, read: bool
    ) -> None:
        self.item, self.number, self.before, self.wrote, self.read = item, number, before, wrote, read

    def shows(self, item: Item) -> bool:
        """True if this is the item's version."""
        return self.item is not None and self.item.version == item.version


class Readers:
    """Notes of what was read. One for a mount; every method may be called from any thread, and raises nothing."""

    def __init__(self, lock: Condition, proc: Path = Path("/proc")) -> None:
        """`lock`: the state's."""
        self._lock, self._proc = lock, proc
        self._threads: TTLCache[int, Process | None] = TTLCache(_THREADS, _RECENT)
        self._processes: weakref.WeakValueDictionary[tuple[str, str], Process] = weakref.WeakValueDictionary()
        self._numbers = itertools.count(1)
        self._notes: OrderedDict[str, dict[Process, _Note]] = OrderedDict()
        self._count = 0
        self._placed: LRUCache[str, Base] = LRUCache(_PLACED)

    # -- processes

    def process(self, thread: int) -> Process | None:
        """The process of a thread that makes a call; None if it can't be told: of a namespace that is not seen from here."""
        with self._lock:
            try:
                return self._threads[thread]
            except KeyError:
                found = self._threads[thread] = self._look_up(thread) if thread > 0 else None
                return found

    def _look_up(self, thread: int) -> Process | None:
        try:
            status = (self._proc / str(thread) / "status").read_text(errors="replace")
            number = status.partition("\nTgid:")[2].split(None, 1)[0]
            fields = (self._proc / number / "stat").read_text(errors="replace").rpartition(") ")[2].split()
            key, parent = (number, fields[_START]), int(fields[_PARENT])
        except (OSError, IndexError, ValueError):
            return None
        known = self._processes.get(key)
        if known is None:
            known = self._processes[key] = Process(self.process(parent))
        return known

    # -- notes

    def read(self, process: Process | None, path: str, item: Item) -> None:
        """A process opens a version of the server for reading."""
        self._note(process, path, item, wrote=False, read=True)

    def wrote(
        self, process: Process | None, path: str, over: Item | None, base: Base, *, read: bool = False
    ) -> None:
        """A process writes bytes that are not sent yet, or opens them to `read`: it knows what this mount will place there, and
        `over` if that is the `base`, the version that they replace.
        """
        replaces = over is not None and base.is_version(over)
        self._note(process, path, over if replaces else None, wrote=True, read=read)

    def _note(
        self, process: Process | None, path: str, item: Item | None, *, wrote: bool, read: bool
    ) -> None:
        if process is None:
            return
        with self._lock:
            notes = self._notes.setdefault(path, {})
            self._notes.move_to_end(path)
            known, number = notes.get(process), next(self._numbers)
            if known is not None:
                # It has still read what it had read before it wrote, or read what was written here.
                item, read = item or known.item, read or known.read
            if known is not None and (known.item, known.wrote) == (item, wrote):
                known.number, known.before, known.read = number, None, read
                return
            if known is None:
                self._count += 1
                if len(notes) >= _READERS:
                    del notes[min(notes, key=lambda other: notes[other].number)]
                    self._count -= 1
            else:
                known.before = None  # one step back is enough
            notes[process] = _Note(item, number, known, wrote=wrote, read=read)
            while self._count > _NOTES:
                self._count -= len(self._notes.popitem(last=False)[1])

    def backs_up(self, process: Process | None, path: str) -> None:
        """A process makes a file: the read just before the making of a backup is not counted (section 4.45)."""
        name = names.basename(path)
        original = name.removesuffix("~") if name.endswith("~") else name.removeprefix(".~")
        with self._lock:
            notes = self._notes.get(names.join(names.parent(path), original), {}) if original != name else {}
            note = notes.get(process) if process is not None else None
            if process is not None and note is not None and note.before is not None and not note.wrote:
                notes[process] = note.before

    def placed(self, path: str, base: Base) -> None:
        """This mount has placed a version: no program of this machine has to read it before it replaces it."""
        with self._lock:
            self._placed[path] = base

    def carry(self, before: Item, after: Item) -> None:
        """A request of this mount has given a version another `updatedAt` or path: what was known of it holds for that."""
        with self._lock:
            base = self._placed.get(before.path)
            ours = base is not None and base.is_version(before)
            if after.path != before.path:
                # Another file was there, of which nobody who has written it knows what is there now.
                self._placed.pop(after.path, None)
                self._drop(after.path, lambda note: note.item is None)
                for note in self._notes.get(after.path, {}).values():
                    note.wrote = False
            if base is not None and ours:
                self._placed[after.path] = Base.of(after, sha256=base.sha256, young=base.young)
            notes = self._notes.get(before.path, {})
            for process, note in sorted(notes.items(), key=lambda pair: pair[1].number):
                shows = note.shows(before)
                if after.path != before.path and (shows or (ours and note.wrote)):
                    self._note(
                        process, after.path, after if shows else None, wrote=note.wrote, read=note.read
                    )
                elif shows:
                    note.item = after

    def renamed_directory(self, old: str, new: str) -> None:
        """This mount has renamed a directory: what is known of the files in it goes along."""
        with self._lock:
            for path in [path for path in {**self._notes, **self._placed} if names.under(path, new)]:
                self._placed.pop(path, None)
                self._drop(path, lambda note: True)
            for path in [path for path in self._notes if names.under(path, old)]:
                self._notes[names.moved(path, old, new)] = self._notes.pop(path)
            for path in [path for path in self._placed if names.under(path, old)]:
                self._placed[names.moved(path, old, new)] = self._placed.pop(path)

    def _drop(self, path: str, which: Callable[[_Note], bool]) -> None:
        notes = self._notes.get(path, {})
        for process in [process for process, note in notes.items() if which(note)]:
            del notes[process]
            self._count -= 1

    # -- what a save replaces

    def replaced(self, process: Process | None, item: Item) -> Item | Base | None:
        """The version that a save of this process replaces, where that is not the item which is shown; else None.

        An empty Base: the process knows only what it has written itself, and none of that is on the server.
        The process's own note counts first. Else it knows what was read last by the processes that it has started; then by its
        parent and all that were started by that; and so on upwards.
        """
        with self._lock:
            placed = self._placed.get(item.path)
            if process is None or (placed is not None and placed.is_version(item)):
                return None
            note = self._nearest(process, self._notes.get(item.path, {}))
            if note is None or note.shows(item):
                return None
            return (placed if note.wrote else None) or note.item or _NONE

    @staticmethod
    def _nearest(process: Process, notes: dict[Process, _Note]) -> _Note | None:
        if process in notes:
            return notes[process]
        above: Process | None = process
        while above is not None and notes:
            family = [note for other, note in notes.items() if other.descends(above)]
            # A program that has only written tells nothing of what those that started it have seen.
            if any(note.read for note in family):
                return max(family, key=lambda note: note.number)
            above = above.parent
        return None
