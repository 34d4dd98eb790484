"""The store: journal and local bytes, and the one step that changes the journal and the tables together (design.md)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from jobfs.api import deadline
from jobfs.errors import FsError
from jobfs.state.changes import Changes
from jobfs.state.index import Index
from jobfs.state.journal import Journal
from jobfs.state.localbytes import BOOT, Local, LocalBytes
from jobfs.state.records import TRANSITIONS, Change, File, Record, Stage

Edit = tuple[Record, dict[str, Any]]


def edit(record: Record, **changed: Any) -> Edit:
    """A record with some fields changed, for `State.write`."""
    return record, changed


def _check(record: Record, changed: Mapping[str, Any]) -> None:
    """Raises ValueError for a stage that a Change can't go to."""
    if isinstance(record, Change):
        stage = changed.get("stage", record.stage)
        if stage is not record.stage and stage not in TRANSITIONS[record.stage]:
            raise ValueError(f"a change can't go from {record.stage} to {stage}")


class Store:
    """Journal, local bytes, and the tables that follow the journal."""

    def __init__(self, journal: Journal, local: LocalBytes, index: Index, changes: Changes) -> None:
        """All four have one lock, the state's."""
        self.journal = journal
        self.bytes = local
        self._lock = journal.lock
        self._index = index
        self._changes = changes
        #: Held while the disk is synced; taken before the state's lock.
        self._syncing = threading.Lock()

    def load(self) -> tuple[list[File], list[Change]]:
        """Take the rows of an earlier mount into the tables; nothing of them is shown or run yet."""
        with self._lock:
            files, changes = self.journal.load(File), self.journal.load(Change)
            self._index.load(files)
            for change in changes:
                change.file = self._index.file(change.ino)
                if change.file is not None:
                    change.file.change = change
            return files, changes

    # -- one step

    def write(self, *edits: Edit, gone: Sequence[Record] = (), used: str = "", new: bool = False) -> None:
        """Change records in one step: the journal has it, then the tables have it, all or nothing (`State.write`)."""
        with self._lock:
            for record, changed in edits:
                _check(record, changed)
            rows = [record for record in gone if record.recorded]
            if edits or rows or used:
                self.journal.write(*edits, gone=rows, used=used, new=new)
            for old in gone:
                old.recorded = False
                if isinstance(old, Change):
                    self._index.end_override(old)
                    self._changes.end(old)
            for record, changed in edits:
                record.recorded = True
                self.apply(record, **changed)

    def apply(self, record: Record, **changed: Any) -> None:
        """Change a record in the tables only (`State.apply`)."""
        with self._lock:
            _check(record, changed)
            if isinstance(record, File):
                self._index.update(record, changed)
                return
            self._index.end_override(record)
            self._changes.alter(record, changed)
            if record.stage is not Stage.DONE:
                self._index.override(record)

    # -- the bytes of a File, from the first write until a save sends them

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
        with file.lock, self._lock:
            before, change = file.generation, file.change
            self.bytes.cover(file.ino, local)
            values |= {"generation": local.generation, "size": local.size, "draft": 0, "boot": BOOT}
            # The lock is held since `cover`: a sync in between would not find the row that it has to mark.
            self.write(edit(file, **values), *edits, gone=gone, new=new)
            local.closed = local.size
            file.closes += 1
            sending = change is not None and change.begun and change.generation == before
            if before not in (0, local.generation) and not sending:
                self.bytes.retire(file.ino, before)

    def set_apart(self, file: File) -> None:
        """Have the closed bytes of a File alone in their generation. If more was written behind them, they are copied to another
        one, and the mixed one is the draft then, unless a later one was begun. What was closed of it still never changes.

        The caller has the File's lock, and not the state's. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        mixed = file.generation
        if not mixed or file.stays or self.bytes.length(file.ino, mixed) <= file.size:
            return
        closed = self.bytes.new(
            file.ino, self.journal.next_number(), self.bytes.path(file.ino, mixed), file.size
        )
        try:
            if not file.boot:
                closed.sync()  # no loss of power takes what is on the disk already
            with self._lock:
                if file.boot:
                    self.bytes.cover(file.ino, closed)
                draft = file.draft or mixed
                self.write(edit(file, generation=closed.generation, draft=draft), new=True)
                if draft != mixed:
                    self.bytes.retire(file.ino, mixed)  # the draft began with all of it
                # `local.closed` stays: a loss of power may bring back the row that names the mixed bytes.
        except FsError:
            closed.discard()
            raise
        closed.release()

    def end_draft(self, file: File, *edits: Edit) -> None:
        """The journal forgets what was written to a File and not closed, in one step with `edits`. Raises FsError(EIO)."""
        with self._lock:
            if file.generation or file.item_id:
                self.write(*edits, edit(file, draft=0))
            else:
                self.write(*edits, gone=[file])  # it was made here: the journal has nothing else of it
                file.draft = 0

    def sync(self) -> None:
        """The protocol's (S): local bytes and journal are on the disk; bytes that no row names go. Raises FsError(EIO)."""
        deadline.about_to_wait()
        with self._syncing:
            # Threads that waited here find their bytes on the disk: the first one has synced those of all.
            retired = list(self.bytes.retired)
            safe = self.bytes.sync()
            with self._lock:
                there = [(self._index.file(ino), generation) for ino, generation in safe]
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
