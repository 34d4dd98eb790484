"""The store: the journal, the local bytes, and the one step that changes the journal and the tables together (design.md)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from jobfs.api import deadline
from jobfs.errors import FsError
from jobfs.state.changes import Changes
from jobfs.state.index import FileIndex
from jobfs.state.journal import Journal
from jobfs.state.localbytes import BOOT, LocalBytes, LocalGeneration
from jobfs.state.records import TRANSITIONS, Change, File, Record, Stage

Edit = tuple[Record, dict[str, Any]]


def edit(record: Record, **changed: Any) -> Edit:
    """Return an argument for `State.write`: a record, and its fields to change."""
    return record, changed


def _check_transition(record: Record, changed: Mapping[str, Any]) -> None:
    """Raise ValueError for a change of stage that is not in `TRANSITIONS`."""
    if isinstance(record, Change):
        stage = changed.get("stage", record.stage)
        if stage is not record.stage and stage not in TRANSITIONS[record.stage]:
            raise ValueError(f"a change can't go from {record.stage} to {stage}")


class StateStore:
    """The journal, the local bytes, and the tables that follow the journal."""

    def __init__(self, journal: Journal, local: LocalBytes, index: FileIndex, changes: Changes) -> None:
        """All four share one lock, the state's."""
        self.journal = journal
        self.bytes = local
        self._lock = journal.lock
        self._index = index
        self._changes = changes
        #: Held while the disk is synced; taken before the state's lock.
        self._syncing = threading.Lock()

    def load_records(self) -> tuple[list[File], list[Change]]:
        """Load the rows of an earlier mount, and return them. Its Files are in the index; nothing is shown or run yet."""
        with self._lock:
            files, changes = self.journal.load_records(File), self.journal.load_records(Change)
            self._index.load(files)
            for change in changes:
                change.file = self._index.file_by_number(change.ino)
                if change.file is not None:
                    change.file.change = change
            return files, changes

    # -- one step

    def write(
        self, *edits: Edit, remove: Sequence[Record] = (), transaction_id: str = "", is_new: bool = False
    ) -> None:
        """Change records in one step, first in the journal and then in the tables: all of them, or none (`State.write`)."""
        with self._lock:
            for record, changed in edits:
                _check_transition(record, changed)
            rows = [record for record in remove if record.recorded]
            if edits or rows or transaction_id:
                self.journal.write(*edits, remove=rows, transaction_id=transaction_id, is_new=is_new)
            for old in remove:
                old.recorded = False
                if isinstance(old, Change):
                    self._index.remove_override(old)
                    self._changes.end(old)
            for record, changed in edits:
                record.recorded = True
                self.apply_in_memory(record, **changed)

    def apply_in_memory(self, record: Record, **changed: Any) -> None:
        """Change a record in the tables only (`State.apply_in_memory`)."""
        with self._lock:
            _check_transition(record, changed)
            if isinstance(record, File):
                self._index.update(record, changed)
                return
            self._index.remove_override(record)
            self._changes.change_fields(record, changed)
            if record.stage is not Stage.DONE:
                self._index.add_override(record)

    # -- the bytes of a File, from the first write until a save sends them

    def begin_generation(self, file: File, local: LocalGeneration, **values: Any) -> None:
        """Record a File's new generation before its first write, so that the journal knows whose bytes these are (w).

        `values`: other fields of the File to change. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        if file.path is None:
            self.apply_in_memory(file, local=local, **values)
            return
        # A local-only file counts as closed from the start, because a restart must show its bytes, closed or not.
        number = "generation" if file.never_sent and not file.generation else "open_generation"
        self.write(edit(file, local=local, **{number: local.generation}, **values), is_new=True)

    def close_generation(
        self,
        file: File,
        local: LocalGeneration,
        *edits: Edit,
        remove: Sequence[Record] = (),
        is_new: bool = False,
        **values: Any,
    ) -> None:
        """Record that a File's bytes are closed (w), in one step with `edits`, `remove` and `values`, other fields of the File.

        The earlier generation is retired, unless a save is sending it. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        with file.lock, self._lock:
            earlier, change = file.generation, file.change
            self.bytes.mark_unsynced(file.ino, local)
            values |= {"generation": local.generation, "size": local.size, "open_generation": 0, "boot": BOOT}
            # Both under the lock: a sync between `mark_unsynced` and this write would not find the row whose `boot` it resets.
            self.write(edit(file, **values), *edits, remove=remove, is_new=is_new)
            local.closed_size = local.size
            file.close_count += 1
            sending = change is not None and change.started and change.generation == earlier
            if earlier not in (0, local.generation) and not sending:
                self.bytes.remove_after_sync(file.ino, earlier)

    def separate_closed_bytes(self, file: File) -> None:
        """Give the closed bytes of a File a generation of their own, if others were written behind them.

        The closed bytes are copied to a new generation. The mixed one becomes the open generation, unless a later one is open
        already. The closed bytes in the mixed generation still never change.

        The caller holds the File's lock, but not the state's. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        mixed = file.generation
        if not mixed or file.never_sent or self.bytes.file_size(file.ino, mixed) <= file.size:
            return
        closed = self.bytes.create(
            file.ino, self.journal.next_number(), self.bytes.generation_path(file.ino, mixed), file.size
        )
        try:
            if not file.boot:
                closed.sync()  # the row says that the bytes are on the disk, and must stay true
            with self._lock:
                if file.boot:
                    self.bytes.mark_unsynced(file.ino, closed)
                still_open = file.open_generation or mixed
                self.write(edit(file, generation=closed.generation, open_generation=still_open), is_new=True)
                if still_open != mixed:
                    # The open generation began with a copy of all its bytes.
                    self.bytes.remove_after_sync(file.ino, mixed)
                # `local.closed_size` stays: a loss of power may bring back the row that names the mixed generation.
        except FsError:
            closed.discard()
            raise
        closed.release()

    def forget_open_generation(self, file: File, *edits: Edit) -> None:
        """Remove a File's unclosed bytes from the journal, in one step with `edits`. Raises FsError(EIO)."""
        with self._lock:
            if file.generation or file.item_id:
                self.write(*edits, edit(file, open_generation=0))
            else:
                self.write(*edits, remove=[file])  # a new file: the journal has nothing else of it
                file.open_generation = 0

    def sync(self) -> None:
        """Sync the local bytes and the journal (S), then remove retired bytes, which no row names. Raises FsError(EIO)."""
        deadline.call_blocking_hook()
        with self._syncing:
            # A thread that waited here usually finds its bytes synced: the thread before it synced the bytes of all.
            retired = list(self.bytes.retired)
            synced = self.bytes.sync()
            with self._lock:
                owners = [(self._index.file_by_number(ino), generation) for ino, generation in synced]
                closed = [
                    file
                    for file, generation in owners
                    if file and file.generation == generation and self.bytes.is_synced(file.ino, generation)
                ]
                try:
                    self.write(*(edit(file, boot="") for file in closed))
                except BaseException:
                    self.bytes.mark_unsynced_again(synced)
                    raise
            self.journal.sync()
            self.bytes.remove_retired(retired)

    @property
    def needs_sync(self) -> bool:
        """True if `sync` has something to do."""
        return self.bytes.needs_sync or self.journal.needs_sync
