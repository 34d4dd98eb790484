"""What is unsent: of a mount that runs (`State.backlog`), and of one that has ended, as its journal says."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from jobfs.document import Unsent
from jobfs.errors import REFUSALS
from jobfs.names import is_at_or_below
from jobfs.state.journal import Journal
from jobfs.state.localbytes import generation_path
from jobfs.state.records import Change, File, Verb


class Backlog(NamedTuple):
    """What the server does not have, or has refused.

    `files`: closed files, and directories; `unclosed_files`: files that were written and not closed. `changes`: renames, removals
    and saves that are taken back, of none of these files.
    """

    files: list[File]
    unclosed_files: list[File]
    changes: list[Change]

    @property
    def has_waiting(self) -> bool:
        """True if something is to be sent that is not refused."""
        return bool(self.changes) or any(f.is_unsent and not f.refused for f in self.files)

    def to_entries(self) -> list[Unsent]:
        """An entry for each."""
        opened = [_entry_of_file(file, "open and changed") for file in self.unclosed_files]
        return [*map(_entry_of_file, self.files), *opened, *map(_entry_of_change, self.changes)]


def collect_backlog(
    files: Iterable[File], changes: Iterable[Change], under: str = "", unclosed: Collection[File] = ()
) -> Backlog:
    """What is left at or below `under`, but for cleanup. `unclosed`: see State."""
    here = [file for file in files if _is_below(file.path, under)]
    closed = [file for file in here if file.is_unsent or file in unclosed]
    return Backlog(
        files=sorted(closed, key=lambda file: file.generation),
        unclosed_files=[file for file in here if _is_never_closed(file) and file not in unclosed],
        changes=_pending_changes(changes, under),
    )


def _pending_changes(changes: Iterable[Change], under: str) -> list[Change]:
    return [change for change in changes if _is_below(change.target, under) and _is_pending(change)]


def _is_below(path: str | None, directory: str) -> bool:
    return path is not None and path != "" and is_at_or_below(path, directory)


def _is_never_closed(file: File) -> bool:
    """Return whether the only bytes of a file that is meant for the server are those of a program that has it open."""
    return bool(file.open_generation) and not (file.never_sent or file.generation)


def _is_pending(change: Change) -> bool:
    """True if a Change is still to be done, but for cleanup; one that sends a File is told with the File."""
    if change.file is not None and change.file.is_unsent:
        return False
    if change.is_finished or change.verb is Verb.REMOVE:
        # A refused unlink, or a refused attempt to take a save back, is tried now and then: no caller is left to be told.
        return (change.needs_undo or not change.is_finished) and not isinstance(change.error, REFUSALS)
    return True


def _entry_of_file(file: File, reason: str = "") -> Unsent:
    change = file.change if file.is_unsent else None
    entry = _entry(file.path or "", _unsent_size(file), change)
    waits = file.handles and not (change and change.attempts)
    entry["reason"] = file.refused or reason or ("open in a program" if waits else "") or entry["reason"]
    if file.refused:
        entry["state"] = "failed"
    return entry


def _entry_of_change(change: Change) -> Unsent:
    return _entry(change.target, 0, change)


def _unsent_size(file: File) -> int:
    """Return how many bytes are to be sent: those that were closed, else those that a program has written so far."""
    return file.size if file.generation or file.local is None else file.local.size


def _entry(path: str, size: int, change: Change | None) -> Unsent:
    """Return an entry with what its change says, if one is under way."""
    entry: Unsent = {
        "path": path, "size": size, "sent": 0, "age": None, "attempts": 0, "reason": "", "state": "dirty"
    }  # fmt: skip
    if change is not None:
        sent = min(change.sent, size) if change.is_running else 0
        state = "uploading" if change.is_running else str(change.stage)
        entry |= {
            "sent": sent, "age": age_of(change), "attempts": change.attempts, "reason": str(change.error or ""),
            "state": state,
        }  # fmt: skip
    return entry


def age_of(change: Change) -> float:
    """Seconds since it was made."""
    return round(max(time.time() - change.planned_at, 0.0), 1)


def _has_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def read_backlog(directory: Path) -> Backlog:
    """What the next mount of a state directory has to do, by its journal. Raises UsageError if that can't be read."""
    path = directory / "journal.db"
    if not os.path.lexists(path):
        return Backlog([], [], [])
    with contextlib.closing(Journal(path)) as journal:
        files, changes = journal.load_records(File), journal.load_records(Change)
    known = {file.ino: file for file in files}
    for change in changes:
        change.file = known.get(change.ino)
    closed, drafts, _ = collect_backlog(files, ())
    opened = [
        file
        for file in drafts
        if _has_bytes(generation_path(directory / "bytes", file.ino, file.open_generation))
    ]
    # Cleanup as well: the job's version of a file may still have a hidden name.
    return Backlog(
        closed, opened, [change for change in changes if not (change.file and change.file.is_unsent)]
    )
