"""The three tables, their indexes, and the one lock (design.md).

The life of a File, by what a program does to it::

                  write                 close                      the save is placed
    (none) ─────────────────► written ───────────► unsaved ─────────────────────────────► clean ─────► (none)
    an item,          ▲       `local` is newer     `generation` > 0: the journal    │     0: the bytes are the item's;
    or a free name    │       than `generation`    has it, a Change is to send it   │     what was set here is remembered
                      └────────────────────── write ─────┴──────────────────────────┘
    Written bytes are a `draft` in the journal until they are closed: after a kill before that, the next mount shows them beside
    the File (save/recovery.py). A scratch file or a link `stays`: its generation is never sent. A directory without an item was
    made while the server could not be asked. A File without a row is just open, or touched.

The life of a Change; every arrow is one journal write if it has a row. From STAGING and STAGED it may also be DONE::

    (queued) ───► STAGING ◄───► STAGED ───► PLACED ───► DONE
                     │             │          ▲           ▲
                     └─────────────┴──► CANCELLED ────────┘
    save/protocol.md, The steps, says what each stage is. A `put` and a `mkdir` begin as STAGING, a `move` and a `remove` as
    STAGED. A save that set nothing aside is DONE at once. A File has at most one Change: newer bytes wait in the File, and become
    the next one when this one is placed or ends.

What a path shows, and the order of the locks, are told in design.md.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobfs import names
from jobfs.api import deadline
from jobfs.errors import FsError
from jobfs.nodes import Item, Kind, inode_number
from jobfs.state.journal import Journal
from jobfs.state.left import Left, left_of
from jobfs.state.localbytes import BOOT, Local, LocalBytes
from jobfs.state.readers import Readers
from jobfs.state.records import TRANSITIONS, Change, File, Record, Stage, Verb

Edit = tuple[Record, dict[str, Any]]


@dataclass(eq=False)
class Reservation:
    """Names, and the thread that holds them; `waiting`: Changes to be looked at when the names are free."""

    names: frozenset[str]
    holder: int
    waiting: list[Change] = field(default_factory=list)


class Reservations:
    """An operation holds the names that it changes, and all below them, against other operations and new Changes.

    Held across requests; never asked for with a lock held. The state's lock is notified when anything is free again.
    """

    def __init__(self, lock: threading.Condition, awake: deque[Change]) -> None:
        self._lock = lock
        self._awake = awake
        self._held: list[Reservation] = []

    @contextmanager
    def held(self, *paths: str) -> Iterator[None]:
        """Keep these names, and everything below them, from other operations. Raises OutOfTimeError(ETIMEDOUT)."""
        mine = Reservation(frozenset(paths), threading.get_ident())
        with self._lock:
            while any(
                names.within(path, other) or names.under(other, path)
                for held in self._held
                for other in held.names
                for path in paths
            ):
                deadline.wait(self._lock, f"{paths[0]} is being changed")
            self._held.append(mine)
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(mine)
                self._awake.extend(mine.waiting)
                self._lock.notify_all()

    def against(self, path: str) -> Reservation | None:
        """The reservation by which somebody else holds this name against a change of the server; None if it may start."""
        with self._lock:
            others = [held for held in self._held if held.holder != threading.get_ident()]
            return next((h for h in others if any(names.within(path, other) for other in h.names)), None)


def edit(record: Record, **changed: Any) -> Edit:
    """A record with some fields changed, for `State.write`."""
    return record, changed


def _check(record: Record, changed: Mapping[str, Any]) -> None:
    """Raises ValueError for a stage that a Change can't go to."""
    if isinstance(record, Change):
        stage = changed.get("stage", record.stage)
        if stage is not record.stage and stage not in TRANSITIONS[record.stage]:
            raise ValueError(f"a change can't go from {record.stage} to {stage}")


class State:
    """What this machine knows more than the server. Every method may be called from any thread."""

    def __init__(self, directory: Path) -> None:
        """`directory`: the state directory of this mount. Raises UsageError if its journal can't be used."""
        self.journal = Journal(directory / "journal.db")
        self.lock = self.journal.lock
        self.bytes = LocalBytes(directory / "bytes", directory / "trash", self.lock)
        #: Grows whenever a path shows something else, or a remembered attribute changes.
        self.edition = 1
        self.changes: dict[int, Change] = {}
        #: Changes for the queue to look at: only cleanup is left of them, or what they may have waited for is at rest.
        self.awake: deque[Change] = deque()
        self.reservations = Reservations(self.lock, self.awake)
        self.readers = Readers(self.lock)
        #: Files that programs have open, by number.
        self.opened: dict[int, File] = {}
        #: Files whose close could not be recorded because the disk was full: that is tried again.
        self.unclosed: set[File] = set()
        self._by_number: dict[int, File] = {}
        self._by_item: dict[str, File] = {}
        self._shown: dict[str, dict[str, File]] = {}
        #: By path: Changes that change its item, and those that say what it shows meanwhile. Of the latter the last one counts.
        self._there: dict[str, tuple[Change, ...]] = {}
        self._syncing = threading.Lock()

    def load(self) -> tuple[list[File], list[Change]]:
        """Take the rows of an earlier mount into the tables; nothing of them is shown or run yet."""
        with self.lock:
            files, changes = self.journal.load(File), self.journal.load(Change)
            self._by_number = {file.ino: file for file in files}
            self._by_item = {file.item_id: file for file in files if file.item_id}
            for change in changes:
                change.file = self._by_number.get(change.ino)
                if change.file is not None:
                    change.file.change = change
            return files, changes

    # -- what is shown

    def __bool__(self) -> bool:
        """True if any path shows something else than the namespace says."""
        return bool(self._shown or self._there)

    def at(self, path: str) -> File | None:
        """The File that is shown at a path."""
        here = self._shown.get(names.parent(path))
        return here.get(names.basename(path)) if here else None

    def hidden(self, path: str) -> bool:
        """True if a Change says what is shown at this path meanwhile."""
        return any(path in change.shows for change in self._there.get(path, ()))

    def meanwhile(self, path: str) -> Item | None:
        """What is shown at a path where `hidden` is true."""
        return next((c.shows[path] for c in reversed(self._there.get(path, ())) if path in c.shows), None)

    def children(self, directory: str) -> tuple[dict[str, File], dict[str, Item | None]]:
        """The Files shown in a directory, and what Changes say is shown there meanwhile, by name."""
        with self.lock:
            meanwhile = {
                names.basename(path): item
                for change in self.changes.values()
                for path, item in change.shows.items()
                if names.parent(path) == directory
            }
            return dict(self._shown.get(directory, {})), meanwhile

    def beneath(self, directory: str) -> list[File]:
        """Every File below a directory, if it is open or has something that is only here: its path is this machine's word."""
        with self.lock:
            return [
                file
                for file in self._by_number.values()
                if file.path is not None
                and names.under(file.path, directory)
                and (file.here or file.handles or file.generation)
            ]

    # -- which file is which

    def file(self, ino: int) -> File | None:
        """The File of a number."""
        return self._by_number.get(ino)

    def of(self, item: Item) -> File | None:
        """The File of an item. A File that was changed here while the job renamed its item is another file by now."""
        if not item.id:
            return self._by_number.get(self.number(item))
        file = self._by_item.get(item.id)
        return None if file is None or (file.here and file.path != item.path) else file

    def number(self, item: Item) -> int:
        """The item's inode number: that of its File; without a File, a number made from its id that no other File has."""
        if item.id and (file := self.of(item)) is not None:
            return file.ino
        # A directory that no item stands for goes by its path.
        key = item.id or f"implicit:{item.path}"
        number, other = inode_number(key), 0
        while (file := self._by_number.get(number)) is not None and (
            file.item_id or not item.implicit or (file.here and file.path != item.path)
        ):
            other += 1
            number = inode_number(key, other)
        return number

    def open(self, item: Item) -> File:
        """The File of an item, made if need be. Without a handle or a row it is forgotten again (`let_go`)."""
        with self.lock:
            file = self.of(item)
            if file is None:
                file = File(self.number(item), item.kind, item.path, item.id, item=item)
                self.add(file)
            elif not file.here:
                file.item, file.path = item, item.path
            return file

    def new(self, kind: Kind, path: str) -> File:
        """A File that is only here; not in the tables yet (`add`)."""
        return File(secrets.randbits(62) << 1 | 3, kind, path)

    def add(self, file: File) -> None:
        """Know a File."""
        with self.lock:
            self._by_number[file.ino] = file
            if file.item_id:
                self._by_item[file.item_id] = file
            self.show(file)

    def begin(self, file: File, local: Local, **values: Any) -> None:
        """Record local bytes of a File before they are written: until they are closed, the journal knows whose they are (w).

        `values`: its other changed fields. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        if file.path is None:
            self.apply(file, local=local, **values)
            return
        # After a restart a scratch file is shown as it was, closed or not.
        number = "generation" if file.stays and not file.generation else "draft"
        self.write(edit(file, local=local, **{number: local.generation}, **values), new=True)

    def close(
        self,
        file: File,
        local: Local,
        *edits: Edit,
        gone: Sequence[Record] = (),
        new: bool = False,
        **values: Any,
    ) -> None:
        """Close a File's bytes (w), in one step with `edits`, `gone` and its `values`; bytes that were closed before may go.

        Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        with file.lock, self.lock:
            before, change = file.generation, file.change
            self.bytes.cover(file.ino, local)
            values |= {"generation": local.generation, "size": local.size, "draft": 0, "boot": BOOT}
            # The lock is held since `cover`: a sync in between would not find the row that it has to mark.
            self.write(edit(file, **values), *edits, gone=gone, new=new)
            local.closed = local.size
            sending = change is not None and change.begun and change.generation == before
            if before not in (0, local.generation) and not sending:
                self.bytes.retire(file.ino, before)

    def set_apart(self, file: File) -> None:
        """Have the closed bytes of a File alone in their generation. If more was written behind them, they are copied to another
        one, and the mixed one is the draft then, unless a later one was begun.

        The caller has the File's lock, and not the state's. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        mixed, local = file.generation, file.local
        if not mixed or file.stays or self.bytes.length(file.ino, mixed) <= file.size:
            return
        closed = self.bytes.new(
            file.ino, self.journal.next_number(), self.bytes.path(file.ino, mixed), file.size
        )
        try:
            if not file.boot:
                closed.sync()  # no loss of power takes what is on the disk already
            with self.lock:
                if file.boot:
                    self.bytes.cover(file.ino, closed)
                draft = file.draft or mixed
                self.write(edit(file, generation=closed.generation, draft=draft), new=True)
                if draft != mixed:
                    self.bytes.retire(file.ino, mixed)  # the draft began with all of it
                elif local is not None:
                    local.closed = 0
        except FsError:
            closed.discard()
            raise
        closed.release()

    def end_draft(self, file: File, *edits: Edit) -> None:
        """The journal forgets what was written to a File and not closed, in one step with `edits`. Raises FsError(EIO)."""
        with self.lock:
            if file.generation or file.item_id:
                self.write(*edits, edit(file, draft=0))
            else:
                self.write(*edits, gone=[file])  # it was made here: the journal has nothing else of it
                file.draft = 0

    def drop(self, *files: File) -> None:
        """Forget Files with their rows (those that are open live on with their handles). Raises FsError(EIO)."""
        with self.lock:
            self.write(gone=files)
            for file in files:
                if self._by_number.get(file.ino) is file:
                    del self._by_number[file.ino]
                if self._by_item.get(file.item_id) is file:
                    del self._by_item[file.item_id]
                self.show(file, known=False)

    def let_go(self, file: File) -> None:
        """Forget a File that nothing needs: not open, without a row, and with nothing of its own."""
        with self.lock:
            shown = file.path is not None and file.here
            if not (file.handles or file.recorded or file.change is not None or shown):
                self.drop(file)

    def files(self) -> list[File]:
        """Every File."""
        with self.lock:
            return list(self._by_number.values())

    def left(self, under: str = "") -> Left:
        """What was acknowledged at or below a path and is not on the server."""
        with self.lock:
            return left_of(self._by_number.values(), self.changes.values(), under, self.unclosed)

    def unname(self, file: File) -> None:
        """A File has lost its name: its row goes, its Change ends; if open, it lives on with its handles. Raises FsError(EIO)."""
        with file.lock, self.lock:
            self.write(gone=[file] if file.change is None else [file, file.change])
            self.unclosed.discard(file)
            generation, local = file.generation, file.local
            if generation and (local is None or local.generation != generation):
                self.bytes.retire(file.ino, generation)
            self.apply(
                file, item_id="", ctime_ns=time.time_ns(), generation=0, size=0, draft=0, boot="", refused="",
                path=None,
            )  # fmt: skip
            if not file.handles:
                if local is not None:
                    file.local = None
                    self.bytes.retire(file.ino, local.generation)
                self.drop(file)

    # -- changes under the lock

    def write(self, *edits: Edit, gone: Sequence[Record] = (), used: str = "", new: bool = False) -> None:
        """One step: the journal has it, then the tables have it, all or nothing.

        `edits`: records with their changed fields; `gone`: records whose rows go, if they have one; a Change ends with its row.
        `used`, `new`: see Journal.write. Raises FsError; ValueError for a stage that a Change can't go to.
        """
        with self.lock:
            for record, changed in edits:
                _check(record, changed)
            rows = [record for record in gone if record.recorded]
            if edits or rows or used:
                self.journal.write(*edits, gone=rows, used=used, new=new)
            for old in gone:
                old.recorded = False
                if isinstance(old, Change):
                    self._end(old)
            for record, changed in edits:
                record.recorded = True
                self.apply(record, **changed)

    def apply(self, record: File | Change, **changed: Any) -> None:
        """Change a record in the tables only: the journal need not know of that, or knows it already.

        Raises ValueError for a stage that a Change can't go to; then nothing was changed.
        """
        with self.lock:
            _check(record, changed)
            if isinstance(record, Change):
                self._apply(record, changed)
                return
            if "item_id" in changed and record.item_id != changed["item_id"]:
                if self._by_item.get(record.item_id) is record:
                    del self._by_item[record.item_id]
                if changed["item_id"]:
                    self._by_item[changed["item_id"]] = record
            for name, value in changed.items():
                setattr(record, name, value)
            self._by_number[record.ino] = record
            self.edition += 1
            self.show(record)

    def _apply(self, change: Change, changed: dict[str, Any]) -> None:
        renamed = not changed.keys().isdisjoint(("target", "source"))
        if renamed:
            self._wake(change)
        self._forget(change)
        stage = changed.get("stage", change.stage)
        if stage is not change.stage:
            change.stage = stage
            if change.over:
                change.since = time.monotonic()
                if not change.running:
                    self.awake.append(change)
        for name, value in changed.items():
            setattr(change, name, value)
        if stage is not Stage.DONE:
            self._know(change)
        if renamed:
            self.awake.append(change)  # the one it waited for may have its old name
        if renamed or ("stage" in changed and change.settled):
            self._wake(change)

    def _wake(self, change: Change) -> None:
        """Have the Changes that wait at its names looked at again: they may not have to wait for it any more."""
        waiting = (other for path in change.ends for other in self._there.get(path, ()))
        self.awake.extend(other for other in waiting if other is not change)
        self.lock.notify_all()

    def show(self, file: File, *, known: bool = True) -> None:
        """Have the index say where this File is shown; nowhere, if it is not `known` any more."""
        with self.lock:
            path = file.path if known and file.path and file.here else None
            if path == file.shown_at:
                return
            self.edition += 1
            if file.shown_at is not None:
                directory, name = names.parent(file.shown_at), names.basename(file.shown_at)
                here = self._shown.get(directory, {})
                if here.get(name) is file:
                    del here[name]
                    if not here:
                        del self._shown[directory]
            if path is not None:
                self._shown.setdefault(names.parent(path), {})[names.basename(path)] = file
            file.shown_at = path

    def _know(self, change: Change) -> None:
        self.changes[change.seq] = change
        for path in change.ends | change.shows.keys():
            self._there[path] = (*self._there.get(path, ()), change)
        self.edition += 1

    def _forget(self, change: Change) -> None:
        if self.changes.pop(change.seq, None) is None:
            return
        for path in change.ends | change.shows.keys():
            self._there[path] = tuple(other for other in self._there.get(path, ()) if other is not change)
            if not self._there[path]:
                del self._there[path]
        self.edition += 1

    def change(self, verb: Verb, target: str, file: File | None = None, **values: Any) -> Change:
        """A Change in the tables, without a row; it runs once it is queued."""
        with self.lock:
            change = Change(
                self.journal.next_number(), verb, target, ino=file.ino if file is not None else 0,
                file=file, made=time.time(), **values,
            )  # fmt: skip
            if file is not None:
                file.change = change
            self._know(change)
            return change

    def end(self, change: Change) -> None:
        """Nothing is left to do for a Change: it shows nothing any more, and its row goes. Raises FsError(EIO)."""
        self.write(gone=[change])

    def _end(self, change: Change) -> None:
        self._forget(change)
        change.stage = Stage.DONE
        self._wake(change)
        if change.file is not None and change.file.change is change:
            change.file.change = None

    def cancel(self, change: Change, *, gone: Sequence[Record] = (), **values: Any) -> None:
        """Stop a Change that was begun: cleanup takes back what it did on the server. Raises FsError(EIO).

        `gone`, `values`: records that go, and its other changed fields, in the same step. If its File still has bytes to be sent,
        they are another Change, which waits for this one.
        """
        with self.lock:
            file = change.file
            self.write(edit(change, stage=Stage.CANCELLED, file=None, **values), gone=gone)
            if file is None or file.change is not change:
                return
            file.change = None
            if change.generation not in (0, file.generation):
                # Newer bytes waited behind it.
                self.bytes.retire(file.ino, change.generation)

    @contextmanager
    def running(self, verb: Verb, target: str, **values: Any) -> Iterator[Change]:
        """A Change that the caller carries out itself; cleanup that is left afterwards is the queue's."""
        until = deadline.current() or deadline.Deadline(deadline.UNBOUNDED)
        change = self.change(verb, target, begun=True, deadline=until, **values)
        try:
            yield change
        finally:
            with self.lock:
                change.deadline = None
                if change.stage in (Stage.PLACED, Stage.CANCELLED):
                    self.awake.append(change)
                self.lock.notify_all()

    def pending(self, path: str) -> Change | None:
        """A Change that hides a name and has sent no request yet: an operation that takes the name may void it."""
        there = (change for change in self._there.get(path, ()) if path in change.shows)
        return next((change for change in there if not change.begun and not change.settled), None)

    def under_way(self, *paths: str, verb: Verb | None = None) -> list[Change]:
        """Changes that keep `paths`, and names below, from being at rest; of one `verb`: those begun at these very names."""
        with self.lock:
            if verb is not None:
                there = (change for path in paths for change in self._there.get(path, ()))
                return [c for c in there if c.verb is verb and c.going]
            going = [change for change in self.changes.values() if change.under_way]
            return [c for c in going if any(names.within(n, p) for n in (c.target, *c.shows) for p in paths)]

    def before(self, change: Change) -> Change | None:
        """The Change of the same target that has to come to rest first: a cancelled one, else the oldest.

        A cancelled one may be the younger: a file may be older than the unlinked file to whose name it is renamed.
        """

        def order(one: Change) -> tuple[bool, int]:
            return one.stage is not Stage.CANCELLED, one.seq

        with self.lock:
            there = [other for other in self._there.get(change.target, ()) if not other.settled]
            return min((other for other in there if order(other) < order(change)), key=order, default=None)

    def sync(self) -> None:
        """The protocol's (S): local bytes and journal are on the disk; bytes that no row names go. Raises FsError(EIO)."""
        deadline.about_to_wait()
        with self._syncing:
            # Threads that waited here find their bytes on the disk: the first one has synced those of all.
            retired = list(self.bytes.retired)
            safe = self.bytes.sync()
            with self.lock:
                there = [(self._by_number.get(ino), generation) for ino, generation in safe]
                closed = [
                    file
                    for file, generation in there
                    if file and file.generation == generation and self.bytes.is_synced(file.ino, generation)
                ]
                try:
                    self.write(*(edit(file, boot="") for file in closed))
                except BaseException:
                    self.bytes.unsure(safe)
                    raise
            self.journal.sync()
            self.bytes.remove(retired)

    @property
    def unsynced(self) -> bool:
        """True if `sync` has something to do."""
        return self.bytes.waiting or self.journal.unsynced

    # -- remembered attributes (vfs/semantics.md 2)

    def touch(self, item: Item, *, content: bool = False, made: bool = False) -> int:
        """Set an item's change time to now (`content`: its mtime too; `made`: all its times); returns it, in ns since the epoch.

        The journal gets it too, if it has room; for a File whose bytes are here, once these are closed.
        """
        with self.lock:
            file = self.open(item)
            now = time.time_ns()
            touched = ("ctime_ns", "mtime_ns", "atime_ns")[: 3 if made else 2 if content else 1]
            changed = {**file.stale_times(item), **dict.fromkeys(touched, now)}
            with suppress(FsError):
                if item.id and not file.here:
                    self.write(edit(file, **changed), new=True)
            self.apply(file, **changed)
            return now

    def lose(self, item_id: str) -> None:
        """The item is gone from the server: forget what was remembered of it. Raises FsError(EIO)."""
        with self.lock:
            if (file := self._by_item.get(item_id)) is None:
                return
            if file.unneeded:
                self.drop(file)
                return
            # Open, or changed here: a file of its own from now on.
            self.apply(file, item_id="")
            if not (file.generation or file.draft):
                self.write(gone=[file])
