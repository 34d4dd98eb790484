"""What this process has of its system: its memory, its service manager (sd_notify(3)), and the place where its log goes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket

#: mallopt(3): the numbers of two parameters, and their values.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_ARENAS, _LARGE = 2, 1 << 20
#: Seconds that the service manager may take to read; after that it is not told.
_PATIENCE = 2.0


def limit_arenas() -> None:
    """Have all threads share two arenas; a block of a megabyte or more is returned as soon as it is free.

    By default, glibc gives each thread an arena of its own, which keeps all memory that it once needed.
    """
    with contextlib.suppress(AttributeError):  # it may be another library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def trim_memory() -> None:
    """Return whole pages that are free, wherever they lie; that takes a few milliseconds."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def notify_manager(address: str | None, *words: str) -> None:
    """Send words such as `READY=1` to the service manager at an address of NOTIFY_SOCKET, if there is one; never raises."""
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(_PATIENCE)
            line.sendto("\n".join(words).encode(), f"\0{address[1:]}" if address[0] == "@" else address)


def describe_log_target() -> str:
    """Where stderr goes, and the log with it: the path of a file or terminal, `journal`, or `stderr` if it can't be told."""
    with contextlib.suppress(OSError):
        if (target := os.readlink("/proc/self/fd/2")).startswith("/"):
            return target
    return "journal" if is_stderr_journal() else "stderr"


def is_stderr_journal() -> bool:
    """True if stderr is the stream to the journal that a unit was given (systemd.exec(5), JOURNAL_STREAM)."""
    with contextlib.suppress(OSError):
        info = os.fstat(2)
        return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"
    return False
