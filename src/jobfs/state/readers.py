"""Which version of a file a program has read: a save replaces that one (vfs/semantics.md 4.42).

A note is made at each open for reading, and at each write: process and path, and the version that was shown. A reader that has
ended by the time of the save still counts: its notes move to its parent's `ended`, which stands for all ended processes below
that parent. This changes no answer, because no running process is nearer to the one than to the other; and a path has at most
two notes for each known process. Notes are in memory only, and bounded.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Condition

from cachetools import LRUCache

from jobfs import names
from jobfs.nodes import Item
from jobfs.state.processes import Process, Processes
from jobfs.state.records import Base

_NONE = Base()
#: Most notes; how many a process may have before its own are evicted first; most paths at which a version of this mount is known.
_NOTES, _OWN, _PLACED = 10_000, 1_000, 10_000
#: Most notes of an ended process that are moved while the lock is held.
_MOVED = 64


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


#: In place of a note that was evicted: some version was read, and nobody knows which.
_FORGOTTEN = _Note(None, 0, None, wrote=False, read=True)


class _Notes:
    """The notes, indexed by path and by process. The caller holds the lock."""

    def __init__(self) -> None:
        self.by_path: dict[str, dict[Process, _Note]] = {}
        #: The process that has been idle longest comes first, and of each its oldest note. `_ended`: what stands for ended ones.
        self._running: OrderedDict[Process, OrderedDict[str, _Note]] = OrderedDict()
        self._ended: OrderedDict[Process, OrderedDict[str, _Note]] = OrderedDict()
        #: Processes with more than `_OWN` notes.
        self._large: set[Process] = set()
        self.count = 0

    def at(self, path: str) -> dict[Process, _Note]:
        """Return the notes of a path by process; not to be changed."""
        return self.by_path.get(path, {})

    def paths_of(self, process: Process) -> Mapping[str, _Note]:
        """Return the notes of a process by path; not to be changed."""
        return self._table(process).get(process, {})

    def put(self, process: Process, path: str, note: _Note) -> None:
        """Make a note the newest one of its process, in place of the one that it has at this path."""
        table = self._table(process)
        own, there = table.setdefault(process, OrderedDict()), self.by_path.setdefault(path, {})
        self.count += process not in there
        there[process] = own[path] = note
        own.move_to_end(path)
        table.move_to_end(process)
        self._measure(process, len(own))

    def renew(self, process: Process, path: str) -> None:
        """Make a note that a process has the newest one of the process."""
        table = self._table(process)
        table[process].move_to_end(path)
        table.move_to_end(process)

    def pop(self, process: Process, path: str) -> _Note:
        """Take a note away. Raises KeyError."""
        table = self._table(process)
        own, there = table[process], self.by_path[path]
        note = there.pop(process)
        del own[path]
        self.count -= 1
        if not there:
            del self.by_path[path]
        if not own:
            del table[process]
        self._measure(process, len(own))
        return note

    def largest(self, process: Process) -> Process | None:
        """Return the process that has most notes, if that is more than `_OWN`: this one before all others."""
        if process in self._large:
            return process
        return max(self._large, key=lambda large: len(self._running[large]), default=None)

    def least_active(self) -> Process:
        """Return the process that has been idle longest; what stands for ended ones comes first. There must be a note."""
        return next(iter(self._ended or self._running))

    def _table(self, process: Process) -> OrderedDict[Process, OrderedDict[str, _Note]]:
        return self._ended if process.stands_for_ended else self._running

    def _measure(self, process: Process, count: int) -> None:
        if count > _OWN and not process.stands_for_ended:
            self._large.add(process)
        else:
            self._large.discard(process)


class Readers:
    """Notes of what was read. One for a mount; every method may be called from any thread, and raises nothing."""

    def __init__(self, lock: Condition, proc: Path = Path("/proc")) -> None:
        """`lock`: the state's."""
        self._lock = lock
        self._processes = Processes(lock, proc)
        self._numbers = itertools.count(1)
        self._notes = _Notes()
        #: Processes with a smaller `serial` were known when a note was evicted last that was not one too many of its process.
        self._evicted = 0
        self._placed: LRUCache[str, Base] = LRUCache(_PLACED)

    # -- processes

    def process(self, thread: int) -> Process | None:
        """Return the process of a thread that makes a call; None if it can't be seen from here (vfs/semantics.md 4.47)."""
        process = self._processes.of(thread)
        if self._processes.due:
            for ended in self._processes.ended():
                self._bequeath(ended)
        return process

    def _bequeath(self, process: Process) -> None:
        """Move notes of a process that has ended to its parent, a few at a time; forget the process once all have moved."""
        with self._lock:
            if process.uses:
                return
            for holder in process.holders:
                for path in [*itertools.islice(self._notes.paths_of(holder), _MOVED)]:
                    note = self._notes.pop(holder, path)
                    if process.parent is not None:
                        self._inherit(process.parent.ended, path, note)
            if any(self._notes.paths_of(holder) for holder in process.holders):
                self._processes.check_next(process)
            else:
                self._processes.forget(process)

    def _inherit(self, heir: Process, path: str, note: _Note) -> None:
        """Keep the newer of a note and the one that `heir` has; of the older only counts that it was a read."""
        other = self._notes.at(path).get(heir, note)
        newest = max(note, other, key=lambda each: each.number)
        newest.read, newest.before = note.read or other.read, None
        self._notes.put(heir, path, newest)

    def opened(self, process: Process | None) -> None:
        """Keep what a process has read apart while a file that it has opened is open: another may get its descriptor."""
        if process is not None:
            with self._lock:
                self._processes.keep(process)
                process.uses += 1

    def closed(self, process: Process | None) -> None:
        """Undo one `opened`."""
        if process is not None:
            with self._lock:
                process.uses -= 1

    # -- notes

    def read(self, process: Process | None, path: str, item: Item) -> None:
        """A process opens a version of the server for reading."""
        if process is not None:
            with self._lock:
                self._processes.keep(process)
                self._put(process, path, item, wrote=False, read=True)

    def wrote(
        self, process: Process | None, path: str, over: Item | None, base: Base, *, read: bool = False
    ) -> None:
        """A process writes bytes that are not sent yet, or opens them to `read`: it knows what this mount will place there, and
        `over` if that is the `base`, the version that they replace.
        """
        if process is None:
            return
        replaces = over is not None and base.is_version(over)
        with self._lock:
            self._processes.keep(process)
            self._put(process, path, over if replaces else None, wrote=True, read=read)

    def _put(self, process: Process, path: str, item: Item | None, *, wrote: bool, read: bool) -> None:
        known, number = self._notes.at(path).get(process), next(self._numbers)
        if known is not None:
            # It has still read what it had read before it wrote, or read what was written here.
            item, read = item or known.item, read or known.read
            known.before = None  # one step back is enough
        if known is not None and (known.item, known.wrote) == (item, wrote):
            known.number, known.read = number, read
            self._notes.renew(process, path)
            return
        self._notes.put(process, path, _Note(item, number, known, wrote=wrote, read=read))
        if self._notes.count > _NOTES:
            self._evict(process)

    def _evict(self, process: Process) -> None:
        """Evict a note after `process` has got one (vfs/semantics.md 4.46)."""
        loser = self._notes.largest(process)
        if loser is None:
            loser = self._notes.least_active()
            self._evicted = self._processes.next_serial
        loser.forgot = True
        self._notes.pop(loser, next(iter(self._notes.paths_of(loser))))

    def replaces_unread(self, process: Process | None, path: str) -> None:
        """Note that a process knows no version at a path that it is about to replace, unless one near it has read some."""
        with self._lock:
            if process is not None and self._nearest(process, self._notes.at(path)) is None:
                self.wrote(process, path, None, _NONE, read=True)

    def backs_up(self, process: Process | None, path: str) -> None:
        """A process makes a file: the read just before the making of a backup is not counted (section 4.45)."""
        name = names.basename(path)
        original = name.removesuffix("~") if name.endswith("~") else name.removeprefix(".~")
        with self._lock:
            path = names.join(names.parent(path), original)
            note = self._notes.at(path).get(process) if process is not None and original != name else None
            if process is not None and note is not None and note.before is not None and not note.wrote:
                self._notes.put(process, path, note.before)

    def placed(self, path: str, base: Base) -> None:
        """This mount has placed a version: no program of this machine has to read it before it replaces it."""
        with self._lock:
            self._placed[path] = base

    def carry(self, before: Item, after: Item) -> None:
        """A request of this mount has given a version another `updatedAt` or path: what was known of it holds for that."""
        with self._lock:
            base = self._placed.get(before.path)
            ours = base is not None and base.id == before.id
            if after.path != before.path:
                self._replace(after.path)
            if base is not None and ours:
                # If the job has written to it since, what was placed still is not what is there.
                carried = Base.of(after, sha256=base.sha256, young=base.young)
                self._placed[after.path] = carried if base.is_version(before) else base
            notes = self._notes.at(before.path)
            for process, note in sorted(notes.items(), key=lambda pair: pair[1].number):
                self._carry(process, note, before, after, ours=ours)

    def is_known(self, item: Item) -> bool:
        """Return whether a program has read what is at an item's path, as far as that is noted, or this mount has placed it."""
        with self._lock:
            placed = self._placed.get(item.path)
            is_ours = placed is not None and placed.is_version(item)
            return is_ours or any(note.read for note in self._notes.at(item.path).values())

    def _replace(self, path: str) -> None:
        """Another file gets a path: nobody who has written the one that was there knows what is there now."""
        self._placed.pop(path, None)
        self._drop(path, lambda note: note.item is None)
        for note in self._notes.at(path).values():
            note.wrote = False

    def _carry(self, process: Process, note: _Note, before: Item, after: Item, *, ours: bool) -> None:
        shows = note.shows(before)
        if after.path != before.path and (shows or (ours and note.wrote)):
            self._put(process, after.path, after if shows else None, wrote=note.wrote, read=note.read)
        elif shows:
            note.item = after
        elif after.path != before.path and note.item is not None and note.item.id == before.id:
            # The job has written to it since: what was read then is still not what is there.
            self._put(process, after.path, note.item, wrote=note.wrote, read=note.read)

    def renamed_directory(self, old: str, new: str) -> None:
        """This mount has renamed a directory: what is known of the files in it goes along."""
        with self._lock:
            paths = {**self._notes.by_path, **self._placed}
            for path in paths:
                if names.under(path, new):
                    self._placed.pop(path, None)
                    self._drop(path, lambda note: True)
            for path in paths:
                if names.under(path, old):
                    self._move(path, names.moved(path, old, new))

    def _move(self, old: str, new: str) -> None:
        for process in [*self._notes.at(old)]:
            self._notes.put(process, new, self._notes.pop(process, old))
        if old in self._placed:
            self._placed[new] = self._placed.pop(old)

    def _drop(self, path: str, which: Callable[[_Note], bool]) -> None:
        for process in [process for process, note in self._notes.at(path).items() if which(note)]:
            self._notes.pop(process, path)

    # -- what a save replaces

    def replaced(self, process: Process | None, item: Item) -> Item | Base | None:
        """The version that a save of this process replaces, where that is not the item which is shown; else None.

        An empty Base: the process knows only what it has written itself, and none of that is on the server; or what it had read
        was evicted.
        """
        with self._lock:
            placed = self._placed.get(item.path)
            if process is None or (placed is not None and placed.is_version(item)):
                return None
            note = self._nearest(process, self._notes.at(item.path))
            if note is None or note.shows(item):
                return None
            return (placed if note.wrote else None) or note.item or _NONE

    def _nearest(self, process: Process, notes: Mapping[Process, _Note]) -> _Note | None:
        """Return what a process knows of a path (vfs/semantics.md 4.43)."""
        own = notes.get(process)
        if own is not None and own.read:
            return own
        if own is None and process.forgot:
            return _FORGOTTEN
        common, newest = _nearest_family(process, notes)
        if common is process:
            return newest  # read by processes below it, since it has written itself
        if own is not None:
            return own
        return _FORGOTTEN if process.serial < self._evicted else newest


def _nearest_family(process: Process, notes: Mapping[Process, _Note]) -> tuple[Process | None, _Note | None]:
    """Return the process itself, or its nearest ancestor, below which one has read; and the newest note there.

    A program that has only written tells nothing of what those that started it have seen.
    """
    lineage = [*process.lineage()] if notes else []
    newest, read = _by_distance(lineage, notes)
    if not read:
        return None, None
    nearest = min(read)
    family = (note for distance, note in newest.items() if distance <= nearest)
    return lineage[nearest], max(family, key=lambda note: note.number)


def _by_distance(lineage: list[Process], notes: Mapping[Process, _Note]) -> tuple[dict[int, _Note], set[int]]:
    """Return the newest note at each distance, and the distances at which one has read.

    A distance is the number of steps up the `lineage` to the first common ancestor.
    """
    distances = {ancestor: distance for distance, ancestor in enumerate(lineage)}
    newest: dict[int, _Note] = {}
    read = set[int]()
    for other, note in notes.items():
        common: Process | None = other
        while common is not None and common not in distances:
            common = common.parent
        if common is None:
            continue
        distance = distances[common]
        if distance not in newest or newest[distance].number < note.number:
            newest[distance] = note
        if note.read:
            read.add(distance)
    return newest, read
