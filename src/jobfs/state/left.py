"""What is unsent: of a mount that runs (`State.left`), and of one that has ended, as its journal says."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from jobfs.document import Unsent
from jobfs.errors import REFUSALS
from jobfs.names import within
from jobfs.state.journal import Journal
from jobfs.state.localbytes import path_of
from jobfs.state.records import Change, File, Verb


class Left(NamedTuple):
    """What the server does not have, or has refused.

    `files`: closed files, and directories; `opened`: files that were written and not closed. `changes`: renames, removals and
    saves that are taken back, of none of these files.
    """

    files: list[File]
    opened: list[File]
    changes: list[Change]

    @property
    def waiting(self) -> bool:
        """True if something is to be sent that is not refused."""
        return bool(self.changes) or any(f.unsent and not f.refused for f in self.files)

    def told(self) -> list[Unsent]:
        """An entry for each."""
        opened = [_entry(file, "open and changed") for file in self.opened]
        return [*map(_entry, self.files), *opened, *map(_entry, self.changes)]


def left_of(
    files: Iterable[File], changes: Iterable[Change], under: str = "", unclosed: Collection[File] = ()
) -> Left:
    """What is left at or below `under`, but for cleanup. `unclosed`: see State."""
    here = [file for file in files if file.path and within(file.path, under)]
    closed = [file for file in here if file.unsent or file in unclosed]
    opened = [f for f in here if f.draft and not (f.stays or f.generation or f in unclosed)]
    rest = [change for change in changes if within(change.target, under) and _is_left(change)]
    return Left(sorted(closed, key=lambda file: file.generation), opened, rest)


def _is_left(change: Change) -> bool:
    """True if a Change is still to be done, but for cleanup; one that sends a File is told with the File."""
    if change.file is not None and change.file.unsent:
        return False
    if change.over or change.verb is Verb.REMOVE:
        # A refused unlink, or a refused attempt to take a save back, is tried now and then: no caller is left to be told.
        return (change.unfinished or not change.over) and not isinstance(change.error, REFUSALS)
    return True


def _entry(record: File | Change, reason: str = "") -> Unsent:
    change: Change | None
    size, refused = 0, ""
    if isinstance(record, File):
        path, refused = record.path or "", record.refused
        change = record.change if record.unsent else None
        size = record.size if record.generation or record.local is None else record.local.size
        waits = record.handles and not (change and change.attempts)
        reason = refused or reason or ("open in a program" if waits else "")
    else:
        path, change = record.target, record
    state = "dirty" if change is None else "uploading" if change.running else str(change.stage)
    return {
        "path": path,
        "size": size,
        "sent": min(change.sent, size) if change and change.running else 0,
        "age": age(change) if change else None,
        "attempts": change.attempts if change else 0,
        "reason": reason or str((change and change.error) or ""),
        "state": "failed" if refused else state,
    }


def age(change: Change) -> float:
    """Seconds since it was made."""
    return round(max(time.time() - change.made, 0.0), 1)


def left_in(directory: Path) -> Left:
    """What the next mount of a state directory has to do, by its journal. Raises UsageError if that can't be read."""
    path = directory / "journal.db"
    if not os.path.lexists(path):
        return Left([], [], [])
    with contextlib.closing(Journal(path)) as journal:
        files, changes = journal.load(File), journal.load(Change)
    known = {file.ino: file for file in files}
    for change in changes:
        change.file = known.get(change.ino)
    closed, drafts, _ = left_of(files, ())
    paths = [path_of(directory / "bytes", file.ino, file.draft) for file in drafts]
    opened = [f for f, path in zip(drafts, paths, strict=True) if path.exists() and path.stat().st_size]
    # Cleanup as well: the job's version of a file may still have a hidden name.
    return Left(closed, opened, [change for change in changes if not (change.file and change.file.unsent)])
