"""Notes of the versions that programs have read: a save replaces the one that its program read last (vfs/semantics.md 4.42).

Each open for reading, and each write, makes a note of the process, the path and the version that was shown. A process that has
ended by the time of the save still counts: its notes move to `ended_descendants` of its parent, which stands for all ended
processes below that parent. No running process is nearer to the ended process than to its parent, so this changes no answer, and
it limits a path to two notes for each known process. Notes are bounded. `NoteLog` keeps them on the disk: the next mount repeats
what its predecessor has noted.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any

from cachetools import LRUCache

from jobfs import names
from jobfs.nodes import Item
from jobfs.state.note_log import GROWTH, Entry, NoteLog
from jobfs.state.processes import ProcDirectory, Process, Processes
from jobfs.state.records import Base

_NONE = Base()
#: Limits: of the paths in `ReadLog._placed`; of the look-ups in `ReadLog._missing`.
_PLACED, _MISSING = 10_000, 10_000
#: How many notes of an ended process are moved at most while the lock is held once.
_MOVED = 64


@dataclass(frozen=True)
class NoteLimits:
    """The limits of the notes: of all; of one process, before its own are evicted first.

    `threads`: see `Processes`. `log_growth`: see `NoteLog`, in bytes.
    """

    total: int = 10_000
    own: int = 1_000
    threads: int = 4096
    log_growth: int = GROWTH


LIMITS = NoteLimits()


class ReadRecord:
    """A note: what a process knows of the file at a path.

    `item`: the version that it knows, if any. `has_written`: it has written the file, so it also knows the version that this
    mount placed last or will place. `has_read_unsent`: it has read the file, sent or unsent; False if it has only written.
    `number` orders notes. `previous`: the previous note of the process here, which was of another version.
    """

    __slots__ = ("before", "has_read_unsent", "has_written", "item", "number")

    def __init__(
        self, item: Item | None, number: int, previous: ReadRecord | None, *, wrote: bool, read: bool
    ) -> None:
        self.item, self.number, self.before, self.has_written, self.has_read_unsent = (
            item,
            number,
            previous,
            wrote,
            read,
        )

    @property
    def knows(self) -> tuple[Item | None, bool, bool]:
        """What `ReadLog` saves of the note."""
        return self.item, self.has_written, self.has_read_unsent

    def is_of_version(self, item: Item) -> bool:
        """Return whether the note is of the version that `item` shows."""
        return self.item is not None and self.item.version == item.version


#: Stands for an evicted note: a version was read, but it is not known which.
_FORGOTTEN = ReadRecord(None, 0, None, wrote=False, read=True)


class ReadRecords:
    """The notes, indexed by path and by process. The caller holds the lock."""

    def __init__(self, max_own: int = LIMITS.own) -> None:
        """`max_own`: the most notes of a process before its own are evicted first."""
        self._max_own = max_own
        self.by_path: dict[str, dict[Process, ReadRecord]] = {}
        #: Notes by process and path: the process that has been idle longest first, and of each process its oldest note first.
        self._running: OrderedDict[Process, OrderedDict[str, ReadRecord]] = OrderedDict()
        #: The same for `ended_descendants`.
        self._ended: OrderedDict[Process, OrderedDict[str, ReadRecord]] = OrderedDict()
        #: Processes with more than `max_own` notes.
        self._large: set[Process] = set()
        self.count = 0

    def records_at(self, path: str) -> dict[Process, ReadRecord]:
        """Return the notes of a path by process. The caller must not change them."""
        return self.by_path.get(path, {})

    def own_records_of(self, process: Process) -> Mapping[str, ReadRecord]:
        """Return the notes of this process alone, without its ancestors', by path. The caller must not change them."""
        return self._table(process).get(process, {})

    def put(self, process: Process, path: str, note: ReadRecord) -> None:
        """Add a note as the newest of its process; it replaces the one that the process has at this path, if any."""
        table = self._table(process)
        own, at_path = table.setdefault(process, OrderedDict()), self.by_path.setdefault(path, {})
        self.count += process not in at_path
        at_path[process] = own[path] = note
        own.move_to_end(path)
        table.move_to_end(process)
        self._update_large(process, len(own))

    def mark_newest(self, process: Process, path: str) -> None:
        """Make an existing note the newest of its process. Raises KeyError."""
        table = self._table(process)
        table[process].move_to_end(path)
        table.move_to_end(process)

    def pop(self, process: Process, path: str) -> ReadRecord:
        """Remove and return a note. Raises KeyError."""
        table = self._table(process)
        own, at_path = table[process], self.by_path[path]
        note = at_path.pop(process)
        del own[path]
        self.count -= 1
        if not at_path:
            del self.by_path[path]
        if not own:
            del table[process]
        self._update_large(process, len(own))
        return note

    def process_over_limit(self, process: Process) -> Process | None:
        """Return a process with more than `max_own` notes, None if there is none: `process` first, else the one with the most."""
        if process in self._large:
            return process
        return max(self._large, key=lambda large: len(self._running[large]), default=None)

    def least_active_process(self) -> Process:
        """Return the process that has been idle longest, `ended_descendants` first. There must be a note."""
        return next(iter(self._ended or self._running))

    def _table(self, process: Process) -> OrderedDict[Process, OrderedDict[str, ReadRecord]]:
        return self._ended if process.is_ended_descendants else self._running

    def _update_large(self, process: Process, count: int) -> None:
        if count > self._max_own and not process.is_ended_descendants:
            self._large.add(process)
        else:
            self._large.discard(process)


class ReadLog:
    """The notes of one mount, and the versions that it has placed. Methods may be called from any thread, and raise nothing."""

    def __init__(
        self,
        lock: Condition,
        proc: Path = Path("/proc"),
        saved: Path | None = None,
        limits: NoteLimits = LIMITS,
    ) -> None:
        """`lock`: the state's. `saved`: the file with the log of the notes, None if they end with the mount."""
        self._lock = lock
        self._limits = limits
        self._processes = Processes(lock, ProcDirectory(proc), max_threads=limits.threads)
        self._numbers = itertools.count(1)
        self._notes = ReadRecords(limits.own)
        #: Processes with a smaller `serial` were known when a note was last evicted for the limit of all notes.
        self._evicted = 0
        #: By path: the version that this mount placed last.
        self._placed: LRUCache[str, Base] = LRUCache(_PLACED)
        #: The processes that have looked up a missing name, with that path.
        self._missing: LRUCache[tuple[Process, str], None] = LRUCache(_MISSING)
        self._log = NoteLog(saved, limits.log_growth)
        self._restore_notes()

    # -- the log

    def _restore_notes(self) -> None:
        """Repeat what earlier mounts have noted (vfs/semantics.md 4.63)."""
        repeat: dict[str, Callable[..., None]] = {
            "note": self._repeat_note, "backup": self.ignore_backup_read, "placed": self.note_placed,
            "carried": self.carry_notes, "moved": self.move_notes_below,
        }  # fmt: skip
        for entry in self._log.load(self._processes.find_heir):
            with suppress(LookupError, TypeError, AttributeError):  # another version of jobfs has written it
                repeat[entry[0]](*entry[1:])
        while self._notes.count > self._limits.total:
            self._evict_note(self._notes.least_active_process())
        self._log.compact(self._entries())

    def _repeat_note(
        self, process: Process | None, path: str, item: Item | None, wrote: bool, read: bool
    ) -> None:
        if process is not None and process.is_ended_descendants:
            self._merge_record(
                process, path, ReadRecord(item, next(self._numbers), None, wrote=wrote, read=read)
            )
        elif process is not None:
            self._put(process, path, item, wrote=wrote, read=read)

    def _entries(self) -> Iterator[Entry]:
        """Yield the entries from which the present notes can be restored."""
        notes = [
            (note, process, path) for path, at in self._notes.by_path.items() for process, note in at.items()
        ]
        for note, process, path in sorted(notes, key=lambda each: each[0].number):
            yield "note", process, path, *note.knows
        yield from (("placed", path, base) for path, base in self._placed.items())

    def _save(self, *entry: Any) -> None:
        """Add an entry to the log, for a change of the notes that is made next. The caller holds the lock."""
        if self._log.needs_compaction:
            self._log.compact(self._entries())
        self._log.append(entry)

    def close(self) -> None:
        """Close the log."""
        with self._lock:
            self._log.close()

    # -- processes

    def process_of(self, thread: int) -> Process | None:
        """Return the process of a thread; None if this mount can't see it (vfs/semantics.md 4.47)."""
        process = self._processes.process_of(thread)
        if self._processes.due:
            for ended in self._processes.find_ended():
                self._hand_notes_to_parent(ended)
        return process

    def _hand_notes_to_parent(self, process: Process) -> None:
        """Move some notes of an ended process to its parent, and forget the process once all have moved."""
        with self._lock:
            if process.uses:
                return
            for holder in process.self_and_ended_descendants:
                for path in [*itertools.islice(self._notes.own_records_of(holder), _MOVED)]:
                    note = self._notes.pop(holder, path)
                    if process.parent is not None:
                        self._merge_record(process.parent.ended_descendants, path, note)
            if any(self._notes.own_records_of(holder) for holder in process.self_and_ended_descendants):
                self._processes.check_next(process)
            else:
                self._processes.forget(process)

    def _merge_record(self, heir: Process, path: str, note: ReadRecord) -> None:
        """Keep the newer of a note and the one that `heir` has at a path; it counts as a read if either does."""
        other = self._notes.records_at(path).get(heir, note)
        newest = max(note, other, key=lambda each: each.number)
        newest.has_read_unsent, newest.before = note.has_read_unsent or other.has_read_unsent, None
        self._notes.put(heir, path, newest)

    def hold_process(self, process: Process | None) -> None:
        """Keep a process known, with its own notes, while a file that it opened is open: a child may inherit the descriptor."""
        if process is not None:
            with self._lock:
                self._processes.add_with_ancestors(process)
                process.uses += 1

    def release_process(self, process: Process | None) -> None:
        """Undo one `hold_process`."""
        if process is not None:
            with self._lock:
                process.uses -= 1

    # -- notes

    def note_read(self, process: Process | None, path: str, item: Item) -> None:
        """Note that a process opens `item`, a version on the server, for reading."""
        if process is not None:
            with self._lock:
                self._processes.add_with_ancestors(process)
                self._put(process, path, item, wrote=False, read=True)

    def note_missing(self, thread: int, path: str) -> None:
        """Note that a thread has looked up a path at which nothing was: its process knows no version there (section 4.62)."""
        process = self.process_of(thread)
        if process is not None:
            with self._lock:
                self._missing[process, path] = None

    def note_write(
        self,
        process: Process | None,
        path: str,
        replaced_item: Item | None,
        base: Base,
        *,
        opened_for_read: bool = False,
    ) -> None:
        """Note that a process writes unsent bytes, or opens them for reading (`opened_for_read`).

        It then knows the version that this mount will place there. It also knows `replaced_item`, if that is the `base` which
        these bytes replace.
        """
        if process is None:
            return
        replaces = replaced_item is not None and base.matches_version(replaced_item)
        with self._lock:
            self._processes.add_with_ancestors(process)
            self._put(process, path, replaced_item if replaces else None, wrote=True, read=opened_for_read)

    def _put(self, process: Process, path: str, item: Item | None, *, wrote: bool, read: bool) -> None:
        there, number = self._notes.records_at(path), next(self._numbers)
        known = there.get(process)
        if known is not None:
            # What the process read before this write still counts as read.
            item, read = item or known.item, read or known.has_read_unsent
            known.before = None  # no note needs more than one predecessor
        newest = max(there.values(), key=lambda note: note.number, default=None)
        if known is None or known is not newest or known.knows != (item, wrote, read):
            self._save("note", process, path, item, wrote, read)
        if known is not None and (known.item, known.has_written) == (item, wrote):
            known.number, known.has_read_unsent = number, read
            self._notes.mark_newest(process, path)
            return
        self._notes.put(process, path, ReadRecord(item, number, known, wrote=wrote, read=read))
        if self._notes.count > self._limits.total:
            self._evict_note(process)

    def _evict_note(self, process: Process) -> None:
        """Evict one note, because `process` has just got one (vfs/semantics.md 4.46)."""
        loser = self._notes.process_over_limit(process)
        if loser is None:
            loser = self._notes.least_active_process()
            self._evicted = self._processes.next_serial
        loser.forgot = True
        self._notes.pop(loser, next(iter(self._notes.own_records_of(loser))))

    def note_unread_replace(self, process: Process | None, path: str) -> None:
        """Note that a process replaces a path without having read it, unless a process near it has."""
        with self._lock:
            if process is not None and self._closest_reader(process, self._notes.records_at(path)) is None:
                self.note_write(process, path, None, _NONE, opened_for_read=True)

    def inherit_note(self, process: Process | None, path: str) -> bool:
        """Give a process that is about to rename a file its closest reader's note, to be carried; False if none has read."""
        with self._lock:
            if (
                process is None
                or (note := self._closest_reader(process, self._notes.records_at(path))) is None
            ):
                return False
            self._put(process, path, note.item, wrote=note.has_written, read=True)
            return True

    def ignore_backup_read(self, process: Process | None, path: str) -> None:
        """Undo a process's last read of a file, if the `path` that it creates is a backup of that (vfs/semantics.md 4.45)."""
        name = names.basename(path)
        original = name.removesuffix("~") if name.endswith("~") else name.removeprefix(".~")
        if process is None or original == name:
            return
        with self._lock:
            original_path = names.join(names.parent(path), original)
            note = self._notes.records_at(original_path).get(process)
            if note is not None and note.before is not None and not note.has_written:
                self._save("backup", process, path)
                self._notes.put(process, original_path, note.before)

    def note_placed(self, path: str, base: Base) -> None:
        """Note that this mount has placed a version: programs on this machine may replace it without reading it."""
        with self._lock:
            self._save("placed", path, base)
            self._placed[path] = base

    def carry_notes(self, before: Item, after: Item) -> None:
        """Carry the notes of a version over to `after`, which it became by a rename or a `chmod` of this mount."""
        with self._lock:
            self._save("carried", before, after)
            base = self._placed.get(before.path)
            ours = base is not None and base.id == before.id
            if after.path != before.path:
                self._forget_writers(after.path)
            if base is not None and ours:
                # If the job has written to the item since it was placed, the placed version is an older one, and stays the base.
                carried = Base.from_item(after, sha256=base.sha256, racy=base.racy)
                self._placed[after.path] = carried if base.matches_version(before) else base
            notes = self._notes.records_at(before.path)
            for process, note in sorted(notes.items(), key=lambda pair: pair[1].number):
                self._carry_record(process, note, before, after, ours=ours)

    def has_note_of(self, item: Item) -> bool:
        """Return whether there is a note that a program has read at the item's path, or this mount has placed the item."""
        with self._lock:
            placed = self._placed.get(item.path)
            is_ours = placed is not None and placed.matches_version(item)
            return is_ours or any(note.has_read_unsent for note in self._notes.records_at(item.path).values())

    def _forget_writers(self, path: str) -> None:
        """Forget who has written the file at a path, and what was placed there, because another file takes the path."""
        self._placed.pop(path, None)
        self._drop_records(path, lambda note: note.item is None)
        for note in self._notes.records_at(path).values():
            note.has_written = False

    def _carry_record(
        self, process: Process, note: ReadRecord, before: Item, after: Item, *, ours: bool
    ) -> None:
        # If the job has written to the item since, or replaced it, the note keeps the version that was read.
        item = after if note.is_of_version(before) else note.item
        if after.path == before.path:
            note.item = item
        elif (
            ours or note.has_read_unsent or item is not None
        ):  # else the process has only written another item here
            self._put(process, after.path, item, wrote=note.has_written, read=note.has_read_unsent)

    def move_notes_below(self, old: str, new: str) -> None:
        """Carry the notes below `old` over to `new`, to which this mount has renamed the directory; drop those below `new`."""
        with self._lock:
            self._save("moved", old, new)
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
        """Drop the notes at `path` for which `which` is true."""
        for process in [process for process, note in self._notes.records_at(path).items() if which(note)]:
            self._notes.pop(process, path)

    # -- what a save replaces

    def version_read_by(self, process: Process | None, item: Item) -> Item | Base | None:
        """Return the version that a save by `process` replaces; None if that is the `item` shown (vfs/semantics.md 4.42).

        An empty Base means that it is not known: the process replaced the file without reading it, has only written bytes that
        are not on the server yet, has lost its note, or has read nothing and found the name missing (4.62).
        """
        with self._lock:
            placed = self._placed.get(item.path)
            if placed is not None and placed.matches_version(item):
                return placed if placed.racy else None
            return None if process is None else self._version_known_to(process, item, placed)

    def _version_known_to(self, process: Process, item: Item, placed: Base | None) -> Item | Base | None:
        """Return what `version_read_by` does. `placed`: what this mount has placed there last, if not `item`."""
        note = self._closest_reader(process, self._notes.records_at(item.path))
        if note is None:
            return _NONE if (process, item.path) in self._missing else None
        if note.is_of_version(item):
            return None
        return (placed if note.has_written else None) or note.item or _NONE

    def _closest_reader(self, process: Process, notes: Mapping[Process, ReadRecord]) -> ReadRecord | None:
        """Return the note that says what a process knows of a path, None if there is none (vfs/semantics.md 4.43).

        `notes`: those of the path.
        """
        own = notes.get(process)
        if own is not None and own.has_read_unsent:
            return own
        if own is None and process.forgot:
            return _FORGOTTEN
        common, newest = _closest_relative(process, notes)
        if common is process:
            return newest  # the process has written at most, and its descendants have read
        if own is not None:
            return own
        return _FORGOTTEN if process.serial < self._evicted else newest


def _closest_relative(
    process: Process, notes: Mapping[Process, ReadRecord]
) -> tuple[Process | None, ReadRecord | None]:
    """Find the nearest of `process` and its ancestors that has read, or has a descendant that has.

    Returns it, and the newest note of it and its descendants. (None, None) if nobody has read: a process that has only written
    shows nothing about what its relatives have seen.
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
    """Return the newest note at each distance, and the distances at which a process has read.

    The distance of a process is the number of steps up the `lineage` to the first common ancestor.
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
