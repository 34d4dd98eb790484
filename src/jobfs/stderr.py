"""Where stderr goes, and with it the log of a mount: a process in the background has turned it to its file."""

from __future__ import annotations

import os


def goes_to() -> str:
    """A path (of a file, or of a terminal), `journal`, or `stderr` where nothing can be said of it."""
    try:
        target = os.readlink("/proc/self/fd/2")
    except OSError:
        return "stderr"
    if target.startswith("/"):
        return target
    return "journal" if in_journal() else "stderr"


def in_journal() -> bool:
    """True if it goes to the systemd journal: it is the stream that a unit was given (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        info = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"
