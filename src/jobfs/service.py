"""A service of systemd, or not: messages to the manager (sd_notify(3)), and whether the log goes to the journal.

The manager says in NOTIFY_SOCKET where it listens; without that nothing is told. Telling never raises: a mount does not end
because nobody listens.
"""

from __future__ import annotations

import contextlib
import os
import socket

#: Seconds that the manager may take to read; after that it is not told.
_PATIENCE = 2.0


class ServiceManager:
    """The listener at `address`: a socket's path, or after "@" its name in the abstract namespace; None if there is none."""

    def __init__(self, address: str | None) -> None:
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address

    @property
    def listens(self) -> bool:
        """True if there is a manager."""
        return bool(self._address)

    def tell(self, *words: str) -> None:
        """Send words such as `STATUS=…`, in one message."""
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.settimeout(_PATIENCE)
                line.sendto("\n".join(words).encode(), self._address)


def log_goes_to() -> str:
    """Where stderr goes, and the log with it: the path of a file or terminal, `journal`, or `stderr` if it can't be told."""
    try:
        target = os.readlink("/proc/self/fd/2")
    except OSError:
        return "stderr"
    if target.startswith("/"):
        return target
    return "journal" if in_journal() else "stderr"


def in_journal() -> bool:
    """True if stderr is the stream to the journal that a unit was given (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        info = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"
