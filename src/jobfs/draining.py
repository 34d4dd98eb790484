"""Draining: bring what is unsent to the server, as long as that gets on and somebody waits for it (semantics.md section 6)."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobfs.nodes import Sent

if TYPE_CHECKING:
    from jobfs.vfs import Vfs

_log = logging.getLogger("jobfs.draining")

#: Seconds between looks whether a drain is still wanted, and whether it gets on.
_LOOK, _LOOK_AT_ALL = 0.1, 1.0
#: Seconds that it may take longer than it was given.
_INSTANT = 0.5


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
    """Send what is unsent (at or below `path`); what is left when that ends, or after `timeout` seconds.

    It also ends once `cancelled()`, or when it has not got on for `patience` seconds and a quarter.
    """
    results: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
    broken_off = threading.Event()

    def going_on(sent: Sent) -> None:
        if broken_off.is_set():
            raise _BrokenOffError
        if progress is not None:
            progress(sent)

    def flush() -> None:
        try:
            results.put(list(vfs.flush_all(path, timeout, going_on)))
        except _BrokenOffError:
            pass
        except Exception as error:
            _log.error("sending failed: %r", error)
            results.put([f"sending failed: {error}"])

    threading.Thread(target=flush, name="drain", daemon=True).start()
    end = None if timeout is None else time.monotonic() + timeout + _INSTANT
    stillness = _Stillness(1.25 * patience)
    while True:
        with contextlib.suppress(queue.Empty):
            return results.get(timeout=_LOOK)
        late = end is not None and time.monotonic() > end
        if late or cancelled() or stillness.seen(lambda: vfs.unsent(path)):
            broken_off.set()
            return list(vfs.unsent(path))


class _Stillness:
    """Tells when nothing was sent for `patience` seconds and nothing is on its way for so long.

    An attempt fails when it has not got on for `--timeout`: one that has been under way for longer gets on.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._looked = self._moved = time.monotonic()
        self._number = -1
        self._under_way: dict[tuple[str, int], float] = {}

    def seen(self, unsent: Callable[[], Sequence[Mapping[str, Any]]]) -> bool:
        """Look, once a second; True if it stands still."""
        now = time.monotonic()
        if now - self._looked < min(_LOOK_AT_ALL, self._patience / 10):
            return False
        self._looked, entries = now, unsent()
        if len(entries) != self._number:
            self._number, self._moved = len(entries), now
        running = {
            (entry["path"], entry.get("attempts", 0))
            for entry in entries
            if entry.get("state") == "uploading"
        }
        self._under_way = {which: self._under_way.get(which, now) for which in running}
        # Without any, what was set aside is cleaned up, which has a bound of its own.
        still = bool(entries) and now - self._moved >= self._patience
        return still and all(now - since < self._patience for since in self._under_way.values())


def describe(left: Sequence[Any], most: int = 10) -> str:
    """The paths in a list of what is unsent, in one line."""
    names = [str(entry.get("path", entry)) if isinstance(entry, dict) else str(entry) for entry in left]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
