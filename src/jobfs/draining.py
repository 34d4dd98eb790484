"""Draining: send everything unsent, as long as that makes progress and somebody waits for it (vfs/semantics.md 6)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jobfs.document import REFUSED
from jobfs.nodes import Sent

if TYPE_CHECKING:
    from jobfs.vfs import Vfs

_log = logging.getLogger("jobfs.draining")


class _BrokenOffError(Exception):
    """Nobody waits for this drain any more."""


def drain(
    vfs: Vfs,
    path: str | None,
    timeout: float | None,
    progress: Callable[[Sent], None] | None,
    cancelled: Callable[[], bool],
    patience: float,
) -> list[Any]:
    """Send everything unsent (at or below `path`). Returns what is left when that ends, or after `timeout` seconds.

    It also ends once `cancelled()`, or after 1.25 times `patience` seconds without progress: an attempt fails after `patience`
    seconds without progress, and by then the next one has begun.
    """
    files, size, moved = 0, 0, time.monotonic()

    def going_on(sent: Sent) -> None:
        nonlocal files, size, moved
        # Once nothing is unsent, items that were set aside are cleaned up, which has a bound of its own.
        cleaning = sent.files == sent.all_files and not vfs.unsent(path)
        if sent.files > files or sent.bytes > size or cleaning:
            files, size, moved = max(sent.files, files), max(sent.bytes, size), time.monotonic()
        if cancelled() or time.monotonic() - moved >= 1.25 * patience:
            raise _BrokenOffError
        if progress is not None:
            progress(sent)

    try:
        return list(vfs.flush_all(path, timeout, going_on))
    except _BrokenOffError:
        return list(vfs.unsent(path))
    except Exception as error:
        _log.error("sending failed: %r", error)
        return [f"sending failed: {error}"]


def kept(left: Sequence[Any]) -> str:
    """What is left when a mount ends, in one line, "" if nothing is."""
    return f"{len(left)} unsent: kept for the next mount of this job: {describe(left)}" if left else ""


def describe(left: Sequence[Any], most: int = 10) -> str:
    """The paths in a list of unsent files, in one line; refused ones, which are not tried again by themselves, are marked."""
    names = [
        entry
        if isinstance(entry, str)
        else entry["path"] + (f" ({REFUSED})" * (entry.get("state") == "failed"))
        for entry in left
    ]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
