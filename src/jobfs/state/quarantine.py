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


def keep_unnamed(local: Path, unnamed: list[Path]) -> str:
    """Put aside local bytes whose records the power may have taken; a sentence that says where they are, "" if there are none.

    Raises OSError.
    """
    kept = [path for path in unnamed if _holds_bytes(path)]
    if not kept:
        return ""
    place = _place(local.parent) / local.name
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in kept:
        path.rename(place / path.name)
    return f"the power may have taken the end of the journal: the bytes of {len(kept)} files that it does not name are in {place}"


def _place(directory: Path) -> Path:
    """Where something is put aside now."""
    return directory / f"{_PREFIX}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"


def _holds_bytes(path: Path) -> bool:
    """False for an empty file; what can't be looked at may hold some."""
    with contextlib.suppress(OSError):
        return path.stat().st_size > 0
    return True


def _put_aside(directory: Path, why: str) -> str:
    """Move journal and local bytes into a directory of their own; returns a sentence that says where they are."""
    place = _place(directory)
    place.mkdir(mode=0o700)
    local = directory / "bytes"
    count = sum(map(_holds_bytes, local.iterdir())) if local.is_dir() else 0
    if count:
        local.rename(place / "bytes")
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{directory / 'journal.db'}{suffix}").rename(place / f"journal.db{suffix}")
    kept = f"the bytes of {count} files, under their numbers" if count else "nothing unsent"
    return f"{why}; it was moved to {place} with {kept}"
