"""The unsent files of an ended mount, read without the server and without changing anything (vfs/semantics.md 6, Unsent files
without a server).

Names are matched with bytes by the rules of `save/recovery.py`, so that a copy is what the next mount would send.
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

#: The database and SQLite's write-ahead log. The index of the log (`-shm`) need not be copied: SQLite makes it again.
_JOURNAL = ("journal.db", "journal.db-wal")


@dataclass(frozen=True, slots=True)
class UnsentEntry:
    """A file or directory that the server does not have.

    `path`: its path, "" if it is not known. `source`: the file with its bytes, None for a directory. `size`: how many of these
    bytes count, None for all. `mode`, `mtime_ns`: UNSET if not known. `reason`: why `path` is not the name that a program gave
    it, "" if it is.
    """

    path: str
    source: Path | None = None
    size: int | None = None
    mode: int = UNSET
    mtime_ns: int = UNSET
    reason: str = ""


def read_unsent(place: Path) -> list[UnsentEntry]:
    """Return the unsent files and directories of the state directory `place`, directories first.

    Raises UsageError if its journal is damaged or of another version, OSError if the journal can't be copied.
    """
    files = [file for file in _read_files(place) if file.is_visible_to_job and file.path]
    directories = [UnsentEntry(str(file.path), mode=file.mode) for file in files if file.needs_create]
    written = [file for file in files if file.kind is Kind.FILE]
    return directories + [unsent for file in written for unsent in _entries_of(file, place / "bytes")]


def list_local_bytes(place: Path) -> list[UnsentEntry]:
    """Return an entry without a path for each file of local bytes in the state directory `place`. Raises OSError."""
    directory = place / "bytes"
    return [UnsentEntry("", path) for path in sorted(directory.iterdir())] if directory.is_dir() else []


def _read_files(place: Path) -> list[File]:
    """Return the Files of a journal. It is read from a copy, because SQLite writes even to read. Raises UsageError, OSError."""
    try:
        with tempfile.TemporaryDirectory(prefix="jobfs-recover-") as private:
            copy = Path(private)
            for name in _JOURNAL:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(place / name, copy / name)
            # `Journal` looks for local bytes beside the database: an empty database beside them is damaged.
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
    """Yield an entry for the closed bytes of a File, and one for those that were never closed; `directory`: the local bytes."""
    path, unclosed = str(file.path), file.open_generation
    if file.needs_upload and file.boot in ("", BOOT):
        source = generation_path(directory, file.ino, file.generation)
        yield UnsentEntry(path, source, file.size, file.mode, file.mtime_ns)
        if not unclosed and _file_size(source) > file.size:
            unclosed = file.generation  # a program has written behind the closed bytes
    elif file.needs_upload:
        yield from _recovered_entries(
            file, directory, file.generation, "was closed just before the power failed"
        )
    if unclosed:
        yield from _recovered_entries(file, directory, unclosed, "was never closed")


def _recovered_entries(file: File, directory: Path, generation: int, reason: str) -> Iterator[UnsentEntry]:
    """Yield an entry beside the File for bytes that may be half of a rewrite, unless there are none. Raises OSError."""
    source = generation_path(directory, file.ino, generation)
    if _file_size(source) <= 0:
        return
    written = source.stat().st_mtime_ns
    path = names.second_version_path(
        str(file.path), "recovered", datetime.fromtimestamp(written // 10**9, UTC)
    )
    yield UnsentEntry(path, source, None, file.mode, written, reason)


def _file_size(path: Path) -> int:
    """Return the size of a file in bytes, -1 if `stat` fails."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
