"""The state of a mount: one lock over the index, the Changes and the store (design.md).

`FileIndex` (index.py) has what each path shows, `Changes` (changes.py) the unfinished Changes, `StateStore` (store.py) what is on
the disk. `State` does what concerns more than one of them: it begins and ends Files and Changes.

The life of a File, by what a program does to it::

                  write                 close                      the save is placed
    (none) ─────────────────► written ───────────► unsent ──────────────────────────────► clean ─────► (none)
    an item,          ▲       `local` is newer     `generation` > 0: the journal    │     0: the bytes are the item's;
    or a free name    │       than `generation`    has it, a Change will send it    │     attributes are remembered
                      └────────────────────── write ─────┴──────────────────────────┘
    Until written bytes are closed, they are an `open_generation` in the journal: after a kill, the next mount shows them beside
    the File (save/recovery.py). A scratch file or a link is `never_sent`. A directory without an item was made during an outage.
    A File without a row is only open, or has new times that could not be recorded.

The life of a Change; every arrow is one journal write if the Change has a row. STAGING and STAGED may also lead to DONE::

    (queued) ───► STAGING ◄───► STAGED ───► PLACED ───► DONE
                     │             │          ▲           ▲
                     └─────────────┴──► CANCELLED ────────┘
    save/protocol.md, The steps, defines the stages, and the stage at which each verb begins. A `put` that set nothing aside skips
    PLACED. A File has at most one Change. Newer bytes wait in the File, and get a Change when this one is placed or ends.

design.md says what a path shows, and in which order the locks are taken.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobfs.api import deadline
from jobfs.errors import FsError
from jobfs.nodes import Item, Kind
from jobfs.state.backlog import Backlog, collect_backlog, has_bytes_to_send, has_change_to_send
from jobfs.state.changes import Changes
from jobfs.state.copies import BASES, MOST_FILES, SAVES, SAVES_LIFETIME, CopyStore
from jobfs.state.index import FileIndex
from jobfs.state.journal import Journal
from jobfs.state.localbytes import LocalBytes
from jobfs.state.read_log import ReadLog
from jobfs.state.records import Change, File, Record, Stage, Verb
from jobfs.state.store import Edit, StateStore, edit


class State:
    """What this machine knows beyond the server. Every method may be called from any thread."""

    def __init__(self, directory: Path, keep_saves: int = MOST_FILES) -> None:
        """`directory`: the state directory of this mount. `keep_saves`: for how many files the last save is kept.

        Raises UsageError if the journal can't be used.
        """
        self.directory = directory
        self.saves = CopyStore(directory / SAVES, max_files=keep_saves, lifetime=SAVES_LIFETIME)
        self.bases = CopyStore(directory / BASES)
        self.journal = Journal(directory / "journal.db", (self.saves, self.bases))
        self.lock = self.journal.lock
        self.bytes = LocalBytes(directory / "bytes", directory / "trash", self.lock)
        self.index = FileIndex(self.lock)
        self.changes = Changes(self.lock)
        self.store = StateStore(self.journal, self.bytes, self.index, self.changes)
        self.reservations = self.changes.reservations
        self.read_log = ReadLog(self.lock, saved=directory / "notes")
        #: By number: the Files that programs have open.
        self.opened: dict[int, File] = {}
        #: Files whose close could not be recorded, for example on a full disk. The background tries again.
        self.unclosed: set[File] = set()

    def close(self) -> None:
        """Close the journal, the log of notes and the stores of copies; what they hold stays on the disk."""
        self.journal.close()
        self.read_log.close()
        self.saves.close()
        self.bases.close()

    @property
    def overrides_namespace(self) -> bool:
        """True if any path may show something other than the namespace has there."""
        return self.index.overrides_namespace or bool(self.changes)

    # -- one step

    def write(
        self, *edits: Edit, remove: Sequence[Record] = (), transaction_id: str = "", is_new: bool = False
    ) -> None:
        """Change records in one step, first in the journal and then in the tables: all of them, or none.

        `edits`: records with their changed fields (`edit`). `remove`: records whose rows are removed; a Change among them ends.
        `transaction_id`, `is_new`: see `Journal.write`. Raises FsError; ValueError for a transition that is not in `TRANSITIONS`.
        """
        self.store.write(*edits, remove=remove, transaction_id=transaction_id, is_new=is_new)

    def apply_in_memory(self, record: File | Change, **changed: Any) -> None:
        """Change a record in the tables only, because the journal has the change already, or does not need it.

        Raises ValueError for a transition that is not in `TRANSITIONS`; then nothing was changed.
        """
        self.store.apply_in_memory(record, **changed)

    # -- copies for a person who wants them back (copies.py)

    def forget_copies(self, path: str) -> None:
        """Remove the copies of a path."""
        for store in (self.saves, self.bases):
            store.drop(path)

    def rename_copies(self, old: str, new: str, *, directory: bool) -> None:
        """Move the copies of `old` to the path `new`; for a `directory`, those of all files below it."""
        for store in (self.saves, self.bases):
            store.rename(old, new, directory=directory)

    # -- the life of a File

    def get_or_add_file(self, item: Item) -> File:
        """Return the File of an item, made if necessary. `forget_if_unused` removes a new one that was not opened or recorded."""
        with self.lock:
            return self.index.get_or_add(item)

    def new_local_file(self, kind: Kind, path: str) -> File:
        """Return a new File without an item. It is not in the tables yet (`add_file`)."""
        return File(secrets.randbits(62) << 1 | 3, kind, path)

    def add_file(self, file: File) -> None:
        """Add a File to the index."""
        with self.lock:
            self.index.add(file)

    def drop_files(self, *files: File) -> None:
        """Remove Files and their rows; those that are open continue to serve their handles. Raises FsError(EIO)."""
        with self.lock:
            self.write(remove=files)
            for file in files:
                self.index.remove(file)

    def add_again_if_forgotten(self, file: File) -> bool:
        """Add a File again if `forget_if_unused` has just removed it; False if its number belongs to another File now."""
        with self.lock:
            if self.index.file_by_number(file.ino) is None:
                self.index.add(file)
            return self.index.file_by_number(file.ino) is file

    def forget_if_unused(self, file: File) -> None:
        """Remove a File that nothing needs: one without handle, row, Change and local content."""
        with self.lock:
            if file.handles or file.recorded or file.change is not None:
                return
            if file.path is None or not file.overrides_server:
                self.index.remove(file)

    def unlink_file(self, file: File) -> None:
        """Take the name from a File: remove its row and end its Change. An open one keeps its bytes. Raises FsError(EIO)."""
        with file.lock, self.lock:
            self.write(remove=[file] if file.change is None else [file, file.change])
            self.unclosed.discard(file)
            generation, local = file.generation, file.local
            if generation and (local is None or local.generation != generation):
                self.bytes.remove_after_sync(file.ino, generation)
            self.apply_in_memory(
                file, item_id="", ctime_ns=time.time_ns(), generation=0, size=0, open_generation=0, boot="", refused="",
                path=None,
            )  # fmt: skip
            if not file.handles:
                if local is not None:
                    file.local = None
                    self.bytes.remove_after_sync(file.ino, local.generation)
                self.drop_files(file)

    def forget_item(self, item_id: str) -> None:
        """Forget the remembered attributes of an item that is gone from the server. Raises FsError(EIO)."""
        with self.lock:
            if (file := self.index.file_by_item_id(item_id)) is None:
                return
            if file.has_only_attributes:
                self.drop_files(file)
                return
            # It is open or was changed here, and remains as a File without an item.
            self.apply_in_memory(file, item_id="")
            if not (file.generation or file.open_generation):
                self.write(remove=[file])

    # -- the life of a Change

    def plan_change(self, verb: Verb, target: str, file: File | None = None, **values: Any) -> Change:
        """Return a new Change, which is in the tables but has no row yet; it runs once it is queued.

        `values`: its other fields.
        """
        with self.lock:
            change = Change(
                self.journal.next_number(), verb, target, ino=file.ino if file is not None else 0,
                file=file, planned_at=time.time(), **values,
            )  # fmt: skip
            if file is not None:
                file.change = change
            self.changes.add(change)
            self.index.add_override(change)
            return change

    def end_change(self, change: Change) -> None:
        """End a Change: remove its row and its overrides. Raises FsError(EIO)."""
        self.write(remove=[change])

    def cancel_change(self, change: Change, *, remove: Sequence[Record] = (), **values: Any) -> None:
        """Cancel a Change that was started; cleanup undoes what it did on the server. Raises FsError(EIO).

        `remove`: records to remove in the same step; `values`: its other changed fields. If its File still has unsent bytes, they
        get another Change, which waits for this one.
        """
        with self.lock:
            file = change.file
            self.write(edit(change, stage=Stage.CANCELLED, file=None, **values), remove=remove)
            if file is None or file.change is not change:
                return
            file.change = None
            if change.generation not in (0, file.generation):
                # The File has newer bytes: nothing needs those of this Change.
                self.bytes.remove_after_sync(file.ino, change.generation)

    @contextmanager
    def plan_for_caller(self, verb: Verb, target: str, **values: Any) -> Iterator[Change]:
        """Plan a Change for the caller to run inside the block; afterwards, the queue does the cleanup that is left."""
        until = deadline.current_deadline() or deadline.Deadline(deadline.UNBOUNDED)
        change = self.plan_change(verb, target, started=True, deadline=until, **values)
        try:
            yield change
        finally:
            with self.lock:
                change.deadline = None
                if change.stage in (Stage.PLACED, Stage.CANCELLED):
                    self.changes.ready.append(change)
                self.lock.notify_all()

    # -- what the state says

    def backlog(self, under: str = "") -> Backlog:
        """Return the backlog at or below the path `under`."""
        with self.lock:
            return collect_backlog(self.index.all_files(), self.changes.values(), under, self.unclosed)

    def has_anything_to_send(self, under: str) -> bool:
        """Return whether a Change at or below the path `under` is pending, or a file has unsent bytes that were not refused.

        A drain asks this after each save: it must not look at every file.
        """
        with self.lock:
            return has_change_to_send(self.changes.values(), under) or any(
                has_bytes_to_send(file, under) for file in self.index.all_files()
            )

    # -- remembered attributes (vfs/semantics.md 2)

    def set_times(self, item: Item, *, content: bool = False, is_new: bool = False) -> int:
        """Set an item's ctime to now (`content`: and its mtime; `is_new`: all its times); return it, in ns since the epoch.

        The journal gets the times if the disk has room, but not those of an implicit directory. If the item's File overrides the
        server, its next close records them.
        """
        with self.lock:
            file = self.get_or_add_file(item)
            now = time.time_ns()
            touched = ("ctime_ns", "mtime_ns", "atime_ns")[: 3 if is_new else 2 if content else 1]
            changed = {**file.fields_to_reset(item), **dict.fromkeys(touched, now)}
            with suppress(FsError):
                if item.id and not file.overrides_server:
                    self.write(edit(file, **changed), is_new=True)
            self.apply_in_memory(file, **changed)
            return now
