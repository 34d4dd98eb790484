"""This process and its system: memory, the service manager (sd_notify(3)), and the target of the log."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket

#: Parameters of mallopt(3): their numbers, and the values set here.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_ARENAS, _LARGE = 2, 1 << 20


def limit_arenas() -> None:
    """Make all threads share two malloc arenas, and return blocks of 1 MiB or more to the system when they are freed.

    By default, glibc gives threads arenas of their own, which keep all memory that they ever needed.
    """
    with contextlib.suppress(AttributeError):  # the C library may not be glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def trim_memory() -> None:
    """Return all free pages of the heap to the system; that takes a few milliseconds."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def notify_manager(address: str | None, *words: str, patience: float = 2.0) -> None:
    """Send assignments such as `READY=1` to the service manager at `address`, that of NOTIFY_SOCKET, if any; never raises.

    The message is dropped if the manager does not receive it within `patience` seconds.
    """
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(patience)
            line.sendto("\n".join(words).encode(), f"\0{address[1:]}" if address[0] == "@" else address)


def describe_log_target() -> str:
    """Return where stderr and the log go: the path of a file or terminal, `journal`, or `stderr` if that is not known."""
    with contextlib.suppress(OSError):
        if (target := os.readlink("/proc/self/fd/2")).startswith("/"):
            return target
    return "journal" if is_stderr_journal() else "stderr"


def is_stderr_journal() -> bool:
    """Return whether stderr is connected to the systemd journal (systemd.exec(5), JOURNAL_STREAM)."""
    with contextlib.suppress(OSError):
        info = os.fstat(2)
        return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"
    return False
