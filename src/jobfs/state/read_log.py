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


class ReadRecord:
    """What a process knows at a path: the version `item`, if any; and if it `has_written`, or has `has_read_unsent` bytes that
    were not sent yet, what this mount placed last, or will place.

    `number` orders notes. `before` is the last note of the same process on another version.
    """

    __slots__ = ("before", "has_read_unsent", "has_written", "item", "number")

    def __init__(
        self, item: Item | None, number: int, before: ReadRecord | None, *, wrote: bool, read: bool
    ) -> None:
        self.item, self.number, self.before, self.has_written, self.has_read_unsent = (
            item,
            number,
            before,
            wrote,
            read,
        )

    def is_of_version(self, item: Item) -> bool:
        """True if this is the item's version."""
        return self.item is not None and self.item.version == item.version


#: In place of a note that was evicted: some version was read, and nobody knows which.
_FORGOTTEN = ReadRecord(None, 0, None, wrote=False, read=True)


class ReadRecords:
    """The notes, indexed by path and by process. The caller holds the lock."""

    def __init__(self) -> None:
        self.by_path: dict[str, dict[Process, ReadRecord]] = {}
        #: The process that has been idle longest comes first, and of each its oldest note. `_ended`: what stands for ended ones.
        self._running: OrderedDict[Process, OrderedDict[str, ReadRecord]] = OrderedDict()
        self._ended: OrderedDict[Process, OrderedDict[str, ReadRecord]] = OrderedDict()
        #: Processes with more than `_OWN` notes.
        self._large: set[Process] = set()
        self.count = 0

    def records_at(self, path: str) -> dict[Process, ReadRecord]:
        """Return the notes of a path by process; not to be changed."""
        return self.by_path.get(path, {})

    def records_of(self, process: Process) -> Mapping[str, ReadRecord]:
        """Return the notes of a process by path; not to be changed."""
        return self._table(process).get(process, {})

    def put(self, process: Process, path: str, note: ReadRecord) -> None:
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

    def pop(self, process: Process, path: str) -> ReadRecord:
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

    def over_limit(self, process: Process) -> Process | None:
        """Return the process that has most notes, if that is more than `_OWN`: this one before all others."""
        if process in self._large:
            return process
        return max(self._large, key=lambda large: len(self._running[large]), default=None)

    def least_active(self) -> Process:
        """Return the process that has been idle longest; what stands for ended ones comes first. There must be a note."""
        return next(iter(self._ended or self._running))

    def _table(self, process: Process) -> OrderedDict[Process, OrderedDict[str, ReadRecord]]:
        return self._ended if process.is_ended_descendants else self._running

    def _measure(self, process: Process, count: int) -> None:
        if count > _OWN and not process.is_ended_descendants:
            self._large.add(process)
        else:
            self._large.discard(process)


class ReadLog:
    """Notes of what was read. One for a mount; every method may be called from any thread, and raises nothing."""

    def __init__(self, lock: Condition, proc: Path = Path("/proc")) -> None:
        """`lock`: the state's."""
        self._lock = lock
        self._processes = Processes(lock, proc)
        self._numbers = itertools.count(1)
        self._notes = ReadRecords()
        #: Processes with a smaller `serial` were known when a note was evicted last that was not one too many of its process.
        self._evicted = 0
        self._placed: LRUCache[str, Base] = LRUCache(_PLACED)

    # -- processes

    def process_of(self, thread: int) -> Process | None:
        """Return the process of a thread that makes a call; None if it can't be seen from here (vfs/semantics.md 4.47)."""
        process = self._processes.process_of(thread)
        if self._processes.due:
            for ended in self._processes.find_ended():
                self._hand_to_parent(ended)
        return process

    def _hand_to_parent(self, process: Process) -> None:
        """Move notes of a process that has ended to its parent, a few at a time; forget the process once all have moved."""
        with self._lock:
            if process.uses:
                return
            for holder in process.note_holders:
                for path in [*itertools.islice(self._notes.records_of(holder), _MOVED)]:
                    note = self._notes.pop(holder, path)
                    if process.parent is not None:
                        self._merge_record(process.parent.ended_descendants, path, note)
            if any(self._notes.records_of(holder) for holder in process.note_holders):
                self._processes.check_first(process)
            else:
                self._processes.forget(process)

    def _merge_record(self, heir: Process, path: str, note: ReadRecord) -> None:
        """Keep the newer of a note and the one that `heir` has; of the older only counts that it was a read."""
        other = self._notes.records_at(path).get(heir, note)
        newest = max(note, other, key=lambda each: each.number)
        newest.has_read_unsent, newest.before = note.has_read_unsent or other.has_read_unsent, None
        self._notes.put(heir, path, newest)

    def add_open(self, process: Process | None) -> None:
        """Keep what a process has read apart while a file that it has opened is open: another may get its descriptor."""
        if process is not None:
            with self._lock:
                self._processes.add_with_ancestors(process)
                process.uses += 1

    def remove_open(self, process: Process | None) -> None:
        """Undo one `add_open`."""
        if process is not None:
            with self._lock:
                process.uses -= 1

    # -- notes

    def note_read(self, process: Process | None, path: str, item: Item) -> None:
        """A process opens a version of the server for reading."""
        if process is not None:
            with self._lock:
                self._processes.add_with_ancestors(process)
                self._put(process, path, item, wrote=False, read=True)

    def note_write(
        self, process: Process | None, path: str, over: Item | None, base: Base, *, read: bool = False
    ) -> None:
        """A process writes bytes that are not sent yet, or opens them to `read`: it knows what this mount will place there, and
        `over` if that is the `base`, the version that they replace.
        """
        if process is None:
            return
        replaces = over is not None and base.matches_version(over)
        with self._lock:
            self._processes.add_with_ancestors(process)
            self._put(process, path, over if replaces else None, wrote=True, read=read)

    def _put(self, process: Process, path: str, item: Item | None, *, wrote: bool, read: bool) -> None:
        known, number = self._notes.records_at(path).get(process), next(self._numbers)
        if known is not None:
            # It has still read what it had read before it wrote, or read what was written here.
            item, read = item or known.item, read or known.has_read_unsent
            known.before = None  # one step back is enough
        if known is not None and (known.item, known.has_written) == (item, wrote):
            known.number, known.has_read_unsent = number, read
            self._notes.renew(process, path)
            return
        self._notes.put(process, path, ReadRecord(item, number, known, wrote=wrote, read=read))
        if self._notes.count > _NOTES:
            self._evict(process)

    def _evict(self, process: Process) -> None:
        """Evict a note after `process` has got one (vfs/semantics.md 4.46)."""
        loser = self._notes.over_limit(process)
        if loser is None:
            loser = self._notes.least_active()
            self._evicted = self._processes.next_serial
        loser.forgot = True
        self._notes.pop(loser, next(iter(self._notes.records_of(loser))))

    def note_unread_replace(self, process: Process | None, path: str) -> None:
        """Note that a process knows no version at a path that it is about to replace, unless one near it has read some."""
        with self._lock:
            if process is not None and self._closest_reader(process, self._notes.records_at(path)) is None:
                self.note_write(process, path, None, _NONE, read=True)

    def ignore_backup_read(self, process: Process | None, path: str) -> None:
        """A process makes a file: the read just before the making of a backup is not counted (section 4.45)."""
        name = names.basename(path)
        original = name.removesuffix("~") if name.endswith("~") else name.removeprefix(".~")
        with self._lock:
            path = names.join(names.parent(path), original)
            note = (
                self._notes.records_at(path).get(process)
                if process is not None and original != name
                else None
            )
            if process is not None and note is not None and note.before is not None and not note.has_written:
                self._notes.put(process, path, note.before)

    def note_placed(self, path: str, base: Base) -> None:
        """This mount has placed a version: no program of this machine has to read it before it replaces it."""
        with self._lock:
            self._placed[path] = base

    def carry_notes(self, before: Item, after: Item) -> None:
        """A request of this mount has given a version another `updatedAt` or path: what was known of it holds for that."""
        with self._lock:
            base = self._placed.get(before.path)
            ours = base is not None and base.id == before.id
            if after.path != before.path:
                self._forget_writers(after.path)
            if base is not None and ours:
                # If the job has written to it since, what was placed still is not what is there.
                carried = Base.from_item(after, sha256=base.sha256, racy=base.racy)
                self._placed[after.path] = carried if base.matches_version(before) else base
            notes = self._notes.records_at(before.path)
            for process, note in sorted(notes.items(), key=lambda pair: pair[1].number):
                self._carry_record(process, note, before, after, ours=ours)

    def is_known(self, item: Item) -> bool:
        """Return whether a program has read what is at an item's path, as far as that is noted, or this mount has placed it."""
        with self._lock:
            placed = self._placed.get(item.path)
            is_ours = placed is not None and placed.matches_version(item)
            return is_ours or any(note.has_read_unsent for note in self._notes.records_at(item.path).values())

    def _forget_writers(self, path: str) -> None:
        """Another file gets a path: nobody who has written the one that was there knows what is there now."""
        self._placed.pop(path, None)
        self._drop_records(path, lambda note: note.item is None)
        for note in self._notes.records_at(path).values():
            note.has_written = False

    def _carry_record(
        self, process: Process, note: ReadRecord, before: Item, after: Item, *, ours: bool
    ) -> None:
        shows = note.is_of_version(before)
        if after.path != before.path and (shows or (ours and note.has_written)):
            self._put(
                process,
                after.path,
                after if shows else None,
                wrote=note.has_written,
                read=note.has_read_unsent,
            )
        elif shows:
            note.item = after
        elif after.path != before.path and note.item is not None and note.item.id == before.id:
            # The job has written to it since: what was read then is still not what is there.
            self._put(process, after.path, note.item, wrote=note.has_written, read=note.has_read_unsent)

    def move_directory(self, old: str, new: str) -> None:
        """This mount has renamed a directory: what is known of the files in it goes along."""
        with self._lock:
            paths = {**self._notes.by_path, **self._placed}
            for path in paths:
                if names.is_below(path, new):
                    self._placed.pop(path, None)
                    self._drop_records(path, lambda note: True)
            for path in paths:
                if names.is_below(path, old):
                    self._move_records(path, names.path_after_rename(path, old, new))

    def _move_records(self, old: str, new: str) -> None:
        for process in [*self._notes.records_at(old)]:
            self._notes.put(process, new, self._notes.pop(process, old))
        if old in self._placed:
            self._placed[new] = self._placed.pop(old)

    def _drop_records(self, path: str, which: Callable[[ReadRecord], bool]) -> None:
        for process in [process for process, note in self._notes.records_at(path).items() if which(note)]:
            self._notes.pop(process, path)

    # -- what a save replaces

    def version_read_by(self, process: Process | None, item: Item) -> Item | Base | None:
        """The version that a save of this process replaces, where that is not the item which is shown; else None.

        An empty Base: the process knows only what it has written itself, and none of that is on the server; or what it had read
        was evicted.
        """
        with self._lock:
            placed = self._placed.get(item.path)
            if process is None or (placed is not None and placed.matches_version(item)):
                return None
            note = self._closest_reader(process, self._notes.records_at(item.path))
            if note is None or note.is_of_version(item):
                return None
            return (placed if note.has_written else None) or note.item or _NONE

    def _closest_reader(self, process: Process, notes: Mapping[Process, ReadRecord]) -> ReadRecord | None:
        """Return what a process knows of a path (vfs/semantics.md 4.43)."""
        own = notes.get(process)
        if own is not None and own.has_read_unsent:
            return own
        if own is None and process.forgot:
            return _FORGOTTEN
        common, newest = _closest_relative(process, notes)
        if common is process:
            return newest  # read by processes below it, since it has written itself
        if own is not None:
            return own
        return _FORGOTTEN if process.serial < self._evicted else newest


def _closest_relative(
    process: Process, notes: Mapping[Process, ReadRecord]
) -> tuple[Process | None, ReadRecord | None]:
    """Return the process itself, or its nearest ancestor, below which one has read; and the newest note there.

    A program that has only written tells nothing of what those that started it have seen.
    """
    lineage = [*process.self_and_ancestors()] if notes else []
    newest, read = _records_by_distance(lineage, notes)
    if not read:
        return None, None
    nearest = min(read)
    family = (note for distance, note in newest.items() if distance <= nearest)
    return lineage[nearest], max(family, key=lambda note: note.number)


def _records_by_distance(
    lineage: list[Process], notes: Mapping[Process, ReadRecord]
) -> tuple[dict[int, ReadRecord], set[int]]:
    """Return the newest note at each distance, and the distances at which one has read.

    A distance is the number of steps up the `lineage` to the first common ancestor.
    """
    distances = {ancestor: distance for distance, ancestor in enumerate(lineage)}
    newest: dict[int, ReadRecord] = {}
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
        if note.has_read_unsent:
            read.add(distance)
    return newest, read
