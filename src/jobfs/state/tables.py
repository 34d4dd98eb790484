"""The state of a mount: one lock over the index, the Changes and the store (design.md).

`FileIndex` (index.py) knows what is shown where, `Changes` (changes.py) what is under way, `StateStore` (store.py) what is on the
disk. `State` has what concerns more than one of them: how a File and a Change come and go.

The life of a File, by what a program does to it::

                  write                 close                      the save is placed
    (none) ─────────────────► written ───────────► unsaved ─────────────────────────────► clean ─────► (none)
    an item,          ▲       `local` is newer     `generation` > 0: the journal    │     0: the bytes are the item's;
    or a free name    │       than `generation`    has it, a Change is to send it   │     what was set here is remembered
                      └────────────────────── write ─────┴──────────────────────────┘
    Written bytes are an `open_generation` in the journal until they are closed: after a kill before that, the next mount shows
    them beside the File (save/recovery.py). A scratch file or a link is `never_sent`. A directory without an item was made while
    the server could not be asked. A File without a row is just open, or touched.

The life of a Change; every arrow is one journal write if it has a row. From STAGING and STAGED it may also be DONE::

    (queued) ───► STAGING ◄───► STAGED ───► PLACED ───► DONE
                     │             │          ▲           ▲
                     └─────────────┴──► CANCELLED ────────┘
    save/protocol.md, The steps, says what each stage is, and at which of them each verb begins. A `put` that set nothing aside is
    DONE at once. A File has at most one Change: newer bytes wait in the File, and become the next one when this one is placed or
    ends.

What a path shows, and the order of the locks, are told in design.md.
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
from jobfs.state.backlog import Backlog, collect_backlog
from jobfs.state.changes import Changes
from jobfs.state.copies import BASES, MOST_FILES, SAVES, SAVES_LIFETIME, CopyStore
from jobfs.state.index import FileIndex
from jobfs.state.journal import Journal
from jobfs.state.localbytes import LocalBytes
from jobfs.state.read_log import ReadLog
from jobfs.state.records import Change, File, Record, Stage, Verb
from jobfs.state.store import Edit, StateStore, edit


class State:
    """What this machine knows more than the server. Every method may be called from any thread."""

    def __init__(self, directory: Path, keep_saves: int = MOST_FILES) -> None:
        """`directory`: the state directory of this mount; `keep_saves`: of how many files the last save is kept.

        Raises UsageError if its journal can't be used.
        """
        self.saves = CopyStore(directory / SAVES, most=keep_saves, lifetime=SAVES_LIFETIME)
        self.bases = CopyStore(directory / BASES)
        self.journal = Journal(directory / "journal.db", (self.saves, self.bases))
        self.lock = self.journal.lock
        self.bytes = LocalBytes(directory / "bytes", directory / "trash", self.lock)
        self.index = FileIndex(self.lock)
        self.changes = Changes(self.lock)
        self.store = StateStore(self.journal, self.bytes, self.index, self.changes)
        self.reservations = self.changes.reservations
        self.read_log = ReadLog(self.lock)
        #: Files that programs have open, by number.
        self.opened: dict[int, File] = {}
        #: Files whose close could not be recorded because the disk was full: that is tried again.
        self.unclosed: set[File] = set()

    def close(self) -> None:
        """Close the journal and what is kept; the records and the copies stay."""
        self.journal.close()
        self.saves.close()
        self.bases.close()

    @property
    def overrides_namespace(self) -> bool:
        """True if any path may show something else than the namespace says."""
        return self.index.overrides_namespace or bool(self.changes)

    # -- one step

    def write(
        self, *edits: Edit, remove: Sequence[Record] = (), transaction_id: str = "", is_new: bool = False
    ) -> None:
        """One step: the journal has it, then the tables have it, all or nothing.

        `edits`: records with their changed fields; `remove`: records whose rows go, if they have one; a Change ends with its row.
        `transaction_id`, `is_new`: see Journal.write. Raises FsError; ValueError for a stage that a Change can't go to.
        """
        self.store.write(*edits, remove=remove, transaction_id=transaction_id, is_new=is_new)

    def apply_in_memory(self, record: File | Change, **changed: Any) -> None:
        """Change a record in the tables only: the journal need not know of that, or knows it already.

        Raises ValueError for a stage that a Change can't go to; then nothing was changed.
        """
        self.store.apply_in_memory(record, **changed)

    # -- copies for a person who wants them back (copies.py)

    def forget_copies(self, path: str) -> None:
        """Remove the copies that are kept of a path."""
        for store in (self.saves, self.bases):
            store.drop(path)

    def rename_copies(self, old: str, new: str, *, directory: bool) -> None:
        """Give the copies of a path, or of all below a `directory`, its new path."""
        for store in (self.saves, self.bases):
            store.rename(old, new, directory=directory)

    # -- the life of a File

    def file_for_item(self, item: Item) -> File:
        """The File of an item, made if need be. Without a handle or a row it is forgotten again (`forget_if_unused`)."""
        with self.lock:
            return self.index.open(item)

    def new_local_file(self, kind: Kind, path: str) -> File:
        """A File that is only here; not in the tables yet (`add_file`)."""
        return File(secrets.randbits(62) << 1 | 3, kind, path)

    def add_file(self, file: File) -> None:
        """Know a File."""
        with self.lock:
            self.index.add(file)

    def drop_files(self, *files: File) -> None:
        """Forget Files with their rows (those that are open live on with their handles). Raises FsError(EIO)."""
        with self.lock:
            self.write(remove=files)
            for file in files:
                self.index.remove(file)

    def ensure_known(self, file: File) -> bool:
        """Know a File again that may just have been let go of; False if its item has another File by now."""
        with self.lock:
            if self.index.file_by_number(file.ino) is None:
                self.index.add(file)
            return self.index.file_by_number(file.ino) is file

    def forget_if_unused(self, file: File) -> None:
        """Forget a File that nothing needs: not open, without a row, and with nothing of its own."""
        with self.lock:
            if file.handles or file.recorded or file.change is not None:
                return
            if file.path is None or not file.overrides_server:
                self.index.remove(file)

    def unlink_file(self, file: File) -> None:
        """A File has lost its name: its row goes, its Change ends; if open, it lives on with its handles. Raises FsError(EIO)."""
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
        """The item is gone from the server: forget what was remembered of it. Raises FsError(EIO)."""
        with self.lock:
            if (file := self.index.file_by_item_id(item_id)) is None:
                return
            if file.has_only_attributes:
                self.drop_files(file)
                return
            # Open, or changed here: a file of its own from now on.
            self.apply_in_memory(file, item_id="")
            if not (file.generation or file.open_generation):
                self.write(remove=[file])

    # -- the life of a Change

    def plan_change(self, verb: Verb, target: str, file: File | None = None, **values: Any) -> Change:
        """A Change in the tables, without a row; it runs once it is queued."""
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
        """Nothing is left to do for a Change: it shows nothing any more, and its row goes. Raises FsError(EIO)."""
        self.write(remove=[change])

    def cancel_change(self, change: Change, *, remove: Sequence[Record] = (), **values: Any) -> None:
        """Stop a Change that was begun: cleanup takes back what it did on the server. Raises FsError(EIO).

        `remove`, `values`: records that go, and its other changed fields, in the same step. If its File still has bytes to be
        sent, they are another Change, which waits for this one.
        """
        with self.lock:
            file = change.file
            self.write(edit(change, stage=Stage.CANCELLED, file=None, **values), remove=remove)
            if file is None or file.change is not change:
                return
            file.change = None
            if change.generation not in (0, file.generation):
                # Newer bytes waited behind it.
                self.bytes.remove_after_sync(file.ino, change.generation)

    @contextmanager
    def run_here(self, verb: Verb, target: str, **values: Any) -> Iterator[Change]:
        """A Change that the caller carries out itself; cleanup that is left afterwards is the queue's."""
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
        """What was acknowledged at or below a path and is not on the server."""
        with self.lock:
            return collect_backlog(self.index.all_files(), self.changes.values(), under, self.unclosed)

    # -- remembered attributes (vfs/semantics.md 2)

    def set_times(self, item: Item, *, content: bool = False, is_new: bool = False) -> int:
        """Set an item's change time to now (`content`: its mtime too; `is_new`: all its times); returns it, in ns since the
        epoch.

        The journal gets it too, if it has room; for a File whose bytes are here, once these are closed.
        """
        with self.lock:
            file = self.file_for_item(item)
            now = time.time_ns()
            touched = ("ctime_ns", "mtime_ns", "atime_ns")[: 3 if is_new else 2 if content else 1]
            changed = {**file.stale_fields(item), **dict.fromkeys(touched, now)}
            with suppress(FsError):
                if item.id and not file.overrides_server:
                    self.write(edit(file, **changed), is_new=True)
            self.apply_in_memory(file, **changed)
            return now
