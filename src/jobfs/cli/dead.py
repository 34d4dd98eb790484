"""Mounts whose process is gone: whatever is asked of one fails with ENOTCONN, "Transport endpoint is not connected"."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from jobfs.mountpoint import BusyError, unmount

T = TypeVar("T")

#: Seconds after which what does not answer is taken for alive.
_STAT_LIMIT = 2.0


def gone(directory: str) -> str:
    """What is said of such a mount, wherever it is met."""
    return f"the process that served {directory} is gone"


def remedy(directory: str) -> str:
    """The same, with what to do about it."""
    return f"{gone(directory)}: mount the job there again, or jobfs umount {directory}"


def is_stale(path: str) -> bool:
    """True if the process that served the mount at `path` is gone."""
    try:
        bounded(lambda: os.stat(path), _STAT_LIMIT)
    except TimeoutError:
        return False
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def clear(directory: str) -> None:
    """Take such a mount away, whatever is still open there. Raises JobfsError if it can't be done."""
    try:
        unmount(directory)
    except BusyError:
        # What is open there gets nothing but errors.
        unmount(directory, lazy=True)


def bounded(work: Callable[[], T], seconds: float, meanwhile: Callable[[], object] = lambda: None) -> T:
    """The result of `work`; raises TimeoutError if that takes longer, and leaves it to itself.

    `meanwhile` is done in this thread.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    meanwhile()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
