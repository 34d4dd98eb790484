"""A damaged journal is put aside with its local bytes, never thrown away and never taken for an empty one."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from jobfs.errors import FsError
from jobfs.writeback.journal import Journal, JournalDamagedError
from jobfs.writeback.localbytes import label_of

_PREFIX = "damaged-"
_MOST_NAMED = 10


def open_journal(directory: Path) -> tuple[Journal, str]:
    """The journal of a slot, and one sentence if it was damaged and a new one had to be begun, else "".

    Raises UsageError if it can't be used, FsError if a damaged one can't be put aside.
    """
    path = directory / "journal.db"
    try:
        if _emptied(path, directory / "bytes"):
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
    """What was put aside in this slot, and not yet removed by a person."""
    return sorted(directory.glob(_PREFIX + "*"))


def _emptied(journal: Path, local: Path) -> bool:
    """True for a journal that lost all its bytes while there is unsent work."""
    with contextlib.suppress(FileNotFoundError):
        return journal.stat().st_size == 0 and not _has_log(journal) and any(local.iterdir())
    return False


def _has_log(journal: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"{journal}-wal").stat().st_size > 0
    return False


def _put_aside(directory: Path, why: str) -> str:
    """Move journal and local bytes into a directory of their own, the bytes under names that people know."""
    place = directory / f"{_PREFIX}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
    files = place / "files"
    files.mkdir(mode=0o700, parents=True)
    saved = []
    local = directory / "bytes"
    for path in sorted(local.iterdir()) if local.is_dir() else ():
        if path.stat().st_size == 0 and not label_of(path)[1]:
            continue
        saved.append(_keep(path, files))
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{directory / 'journal.db'}{suffix}").rename(place / f"journal.db{suffix}")
    found = ", ".join(saved[:_MOST_NAMED]) + (
        f" and {len(saved) - _MOST_NAMED} more" if len(saved) > _MOST_NAMED else ""
    )
    return f"{why}; it was moved to {place} with {f'the unsent {found}' if saved else 'nothing unsent'}"


def _keep(path: Path, files: Path) -> str:
    """Move one file of local bytes to where its name says, beneath `files`; returns that name."""
    name = label_of(path)[1].strip("/")
    parts = name.split("/")
    if not name or {"", ".", ".."} & set(parts):
        name = path.name
    target = files / name
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if target.exists():
            target = target.with_name(f"{target.name}.{path.name}")
        path.rename(target)
    except OSError:
        target = files / path.name
        path.rename(target)
    target.chmod(0o600)
    return str(target.relative_to(files))
