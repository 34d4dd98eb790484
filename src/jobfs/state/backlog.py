"""The backlog: of a running mount (`State.backlog`), or of one that has ended, by its journal."""

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
    """What the server does not have yet, or has refused.

    `files`: closed files, and directories. `unclosed_files`: files that were written and never closed. `changes`: unfinished
    renames and removals, and cancelled saves that need their undo; none of them sends a file of `files`.
    """

    files: list[File]
    unclosed_files: list[File]
    changes: list[Change]

    def to_entries(self) -> list[Unsent]:
        """Return an entry of the status for each."""
        opened = [_entry_of_file(file, "open and changed") for file in self.unclosed_files]
        return [*map(_entry_of_file, self.files), *opened, *map(_entry_of_change, self.changes)]


def collect_backlog(
    files: Iterable[File], changes: Iterable[Change], under: str = "", unclosed: Collection[File] = ()
) -> Backlog:
    """Return the backlog at or below the path `under`. `unclosed`: see `State.unclosed`."""
    files = [file for file in files if _is_below(file.path, under)]
    closed = [file for file in files if file.is_unsent or file in unclosed]
    return Backlog(
        files=sorted(closed, key=lambda file: file.generation),
        unclosed_files=[file for file in files if _is_never_closed(file) and file not in unclosed],
        changes=_pending_changes(changes, under),
    )


def has_change_to_send(changes: Iterable[Change], under: str) -> bool:
    """Return whether a Change at or below the path `under` is pending, or sends bytes of a file that were not refused."""
    below = (change for change in changes if _is_below(change.target, under))
    return any(_is_pending(change) or has_bytes_to_send(change.file, under) for change in below)


def has_bytes_to_send(file: File | None, under: str) -> bool:
    """Return whether a file at or below the path `under` has unsent bytes that were not refused."""
    return file is not None and file.is_unsent and not file.refused and _is_below(file.path, under)


def _pending_changes(changes: Iterable[Change], under: str) -> list[Change]:
    return [change for change in changes if _is_below(change.target, under) and _is_pending(change)]


def _is_below(path: str | None, directory: str) -> bool:
    return path is not None and path != "" and is_at_or_below(path, directory)


def _is_never_closed(file: File) -> bool:
    """Return whether a file that should be sent has been written and never closed."""
    return bool(file.open_generation) and not (file.never_sent or file.generation)


def _is_pending(change: Change) -> bool:
    """Return whether a Change belongs in the backlog: if it or its undo is unfinished, and its File is not there."""
    if change.file is not None and change.file.is_unsent:
        return False
    if change.places_nothing_more or change.verb is Verb.REMOVE:
        # A refused one does not count: it is repeated in the background, and no program waits for it.
        return (change.needs_undo or not change.places_nothing_more) and not isinstance(
            change.error, REFUSALS
        )
    return True


def _entry_of_file(file: File, reason: str = "") -> Unsent:
    change = file.change if file.is_unsent else None
    entry = _make_entry(file.path or "", _unsent_size(file), change)
    waits = file.handles and not (change and change.attempts)
    entry["reason"] = file.refused or reason or ("open in a program" if waits else "") or entry["reason"]
    if file.refused:
        entry["state"] = "failed"
    return entry


def _entry_of_change(change: Change) -> Unsent:
    return _make_entry(change.target, 0, change)


def _unsent_size(file: File) -> int:
    """Return how many bytes are unsent: the closed ones, or if there are none, those written so far."""
    return file.size if file.generation or file.local is None else file.local.size


def _make_entry(path: str, size: int, change: Change | None) -> Unsent:
    """Return an entry of the status, with the progress of `change` if there is one."""
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
    """Return the seconds since a Change was planned."""
    return round(max(time.time() - change.planned_at, 0.0), 1)


def _has_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def read_backlog(directory: Path) -> Backlog:
    """Return the backlog that the next mount of a state directory will find. Raises UsageError if the journal can't be used."""
    path = directory / "journal.db"
    if not os.path.lexists(path):
        return Backlog([], [], [])
    with contextlib.closing(Journal(path)) as journal:
        files, changes = journal.load_records(File), journal.load_records(Change)
    known = {file.ino: file for file in files}
    for change in changes:
        change.file = known.get(change.ino)
    closed, unclosed, _ = collect_backlog(files, ())
    written = [
        file
        for file in unclosed
        if _has_bytes(generation_path(directory / "bytes", file.ino, file.open_generation))
    ]
    # Includes the Changes that only need cleanup: the job's version of a file may still have a hidden name.
    return Backlog(
        closed, written, [change for change in changes if not (change.file and change.file.is_unsent)]
    )
