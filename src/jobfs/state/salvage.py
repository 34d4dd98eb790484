"""The unsent files of an ended mount, read without the server and without changing anything (vfs/semantics.md 6, Unsent files
without a server).

Which bytes belong to which name follows `save/recovery.py`, so that the copies are what the next mount would send.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jobfs import names
from jobfs.errors import UsageError
from jobfs.nodes import Kind
from jobfs.state.journal import Journal
from jobfs.state.localbytes import BOOT, generation_path
from jobfs.state.records import UNSET, File

#: What SQLite may keep beside the database: its log. Its index of the log is made again.
_JOURNAL = ("journal.db", "journal.db-wal")


@dataclass(frozen=True, slots=True)
class UnsentEntry:
    """A file or directory that the server does not have.

    `path`: its name, "" if only the number of its bytes is known. `source`: the file with its bytes, None for a directory.
    `size`: how many of these bytes count, None for all. `mode` is UNSET if it is not known. `reason`: why the name is not the one
    that a program gave it, "" if it is.
    """

    path: str
    source: Path | None = None
    size: int | None = None
    mode: int = UNSET
    mtime_ns: int = UNSET
    reason: str = ""


def read_unsent(place: Path) -> list[UnsentEntry]:
    """Return what the state directory `place` has unsent, directories first.

    Raises UsageError if its journal is damaged or of another version, OSError if this can't be found out.
    """
    files = [file for file in _read_files(place) if file.is_visible_to_job and file.path]
    directories = [UnsentEntry(str(file.path), mode=file.mode) for file in files if file.needs_create]
    written = [file for file in files if file.kind is Kind.FILE]
    return directories + [unsent for file in written for unsent in _entries_of(file, place / "bytes")]


def list_local_bytes(place: Path) -> list[UnsentEntry]:
    """Return all local bytes in the state directory `place`, without their names. Raises OSError."""
    directory = place / "bytes"
    return [UnsentEntry("", path) for path in sorted(directory.iterdir())] if directory.is_dir() else []


def _read_files(place: Path) -> list[File]:
    """Read the journal in a copy: SQLite writes even where it only reads. Raises UsageError, OSError if it can't be copied."""
    try:
        with tempfile.TemporaryDirectory(prefix="jobfs-recover-") as private:
            copy = Path(private)
            for name in _JOURNAL:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(place / name, copy / name)
            # A journal without records is a damaged one where there are local bytes: Journal looks beside it.
            (copy / "bytes").symlink_to(place.absolute() / "bytes")
            with contextlib.closing(Journal(copy / _JOURNAL[0])) as journal:
                return journal.load_records(File)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise UsageError(f"its journal can't be read: {error.strerror}") from None
    except UsageError as error:
        why = error.__cause__ or "another version of jobfs wrote it"
        raise UsageError(f"its journal can't be used: {why}") from None


def _entries_of(file: File, directory: Path) -> Iterator[UnsentEntry]:
    """Yield the bytes of a file that was closed, and those that were written and never closed."""
    path, draft = str(file.path), file.open_generation
    if file.needs_upload and file.boot in ("", BOOT):
        source = generation_path(directory, file.ino, file.generation)
        yield UnsentEntry(path, source, file.size, file.mode, file.mtime_ns)
        if not draft and _file_size(source) > file.size:
            draft = file.generation  # a program has added to it since it was closed
    elif file.needs_upload:
        yield from _recovered_entries(
            file, directory, file.generation, "was closed just before the power failed"
        )
    if draft:
        yield from _recovered_entries(file, directory, draft, "was never closed")


def _recovered_entries(file: File, directory: Path, generation: int, reason: str) -> Iterator[UnsentEntry]:
    """Yield bytes that may be half of a rewrite: they are beside their file, unless there are none."""
    source = generation_path(directory, file.ino, generation)
    if _file_size(source) <= 0:
        return
    written = source.stat().st_mtime_ns
    path = names.second_version_path(
        str(file.path), "recovered", datetime.fromtimestamp(written // 10**9, UTC)
    )
    yield UnsentEntry(path, source, None, file.mode, written, reason)


def _file_size(path: Path) -> int:
    """Return the size of a file in bytes, -1 if it is not there or can't be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
