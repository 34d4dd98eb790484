"""What an ended mount has left to do, read from its journal without changing anything there."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from jobfs.document import Unsent, unsent
from jobfs.errors import JobfsError, UsageError
from jobfs.state.journal import Journal
from jobfs.state.localbytes import path_of
from jobfs.state.quarantine import emptied
from jobfs.state.records import Change, File, Stage

#: The files of a journal: SQLite has what was written last in the second.
_FILES = ("journal.db", "journal.db-wal")


class Left(NamedTuple):
    """What is unsent, and how many other changes of the server are not finished."""

    unsent: list[Unsent]
    unfinished: int = 0

    @property
    def bytes(self) -> int:
        """The size of what is unsent."""
        return sum(entry["size"] for entry in self.unsent)

    @property
    def changes(self) -> int:
        """All that the next mount, or `jobfs recover`, has to do."""
        return len(self.unsent) + self.unfinished


def left_in(directory: Path) -> Left:
    """What the journal of a state directory that no mount holds says is left. Raises UsageError if it can't be read."""
    try:
        return _look(directory)
    except OSError as error:
        raise UsageError(f"{directory} can't be read: {error.strerror}") from None


def _look(directory: Path) -> Left:
    """Opening a journal writes to it, and puts it aside if it is damaged: a copy is opened. Raises UsageError, OSError."""
    if emptied(directory / _FILES[0], directory / "bytes"):
        raise UsageError(f"the journal {directory / _FILES[0]} is damaged: it is empty")
    with tempfile.TemporaryDirectory(prefix="jobfs-") as place:
        copy = Path(place)
        for name in _FILES:
            if (directory / name).exists():
                shutil.copyfile(directory / name, copy / name)
        try:
            journal = Journal(copy / _FILES[0])
        except JobfsError as error:
            raise UsageError(str(error).replace(place, str(directory))) from None
        try:
            return count(journal.load(File), journal.load(Change), directory)
        finally:
            journal.close()


def count(files: list[File], changes: list[Change], directory: Path) -> Left:
    """What these records of a state directory say is left."""
    named = [file for file in files if file.path]
    left = [_entry(file, file.size) for file in named if file.unsaved or file.unmade]
    left += [
        _entry(file, size)
        for file in named
        if file.draft and not file.stays and (size := _written(directory, file))
    ]
    counted = {file.ino for file in named if file.unsaved or file.unmade}
    unfinished = sum(change.stage is not Stage.DONE and change.ino not in counted for change in changes)
    return Left(left, unfinished)


def _entry(file: File, size: int) -> Unsent:
    return unsent(file.path or "", size, file.refused, "failed" if file.refused else "dirty")


def _written(directory: Path, file: File) -> int:
    """How many bytes were written to a file and never closed."""
    with contextlib.suppress(OSError):
        return path_of(directory / "bytes", file.ino, file.draft).stat().st_size
    return 0
