"""A damaged journal is put aside with its local bytes, never thrown away and never taken for an empty one."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from jobfs.errors import FsError
from jobfs.state.journal import Journal, JournalDamagedError

_PREFIX = "damaged-"


def open_journal(directory: Path) -> tuple[Journal, str]:
    """The journal of a state directory, and one sentence if it was damaged and a new one had to be begun, else "".

    Raises UsageError if it can't be used, FsError if a damaged one can't be put aside.
    """
    path = directory / "journal.db"
    try:
        if emptied(path, directory / "bytes"):
            raise JournalDamagedError(f"the journal {path} is damaged: it is empty")
        return Journal(path), ""
    except JournalDamagedError as error:
        try:
            sentence = _put_aside(directory, str(error))
        except OSError as failure:
            raise FsError(
                failure.errno or errno.EIO, f"{error}, and can't be moved aside: {failure.strerror}"
            ) from error
        return Journal(path), sentence


def damaged(directory: Path) -> list[Path]:
    """What was put aside in this state directory, and not yet removed by a person."""
    return sorted(directory.glob(_PREFIX + "*"))


def emptied(journal: Path, local: Path) -> bool:
    """True for a journal that lost all its bytes while there is unsent work."""
    with contextlib.suppress(FileNotFoundError):
        log = Path(f"{journal}-wal")
        return not (journal.stat().st_size or (log.exists() and log.stat().st_size)) and any(local.iterdir())
    return False


def _put_aside(directory: Path, why: str) -> str:
    """Move journal and local bytes into a directory of their own; returns a sentence that says where they are."""
    place = directory / f"{_PREFIX}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
    place.mkdir(mode=0o700)
    local = directory / "bytes"
    count = sum(1 for path in local.iterdir() if path.stat().st_size) if local.is_dir() else 0
    if count:
        local.rename(place / "bytes")
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{directory / 'journal.db'}{suffix}").rename(place / f"journal.db{suffix}")
    kept = f"the bytes of {count} files, under their numbers" if count else "nothing unsent"
    return f"{why}; it was moved to {place} with {kept}"
