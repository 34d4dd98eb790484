"""Flushes: sends what is unsent, and deals with hidden items that mounts have left (vfs/semantics.md 4 and 6)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from jobfs import names
from jobfs.document import Unsent
from jobfs.errors import JobfsError
from jobfs.nodes import Item, SendProgress
from jobfs.state import File
from jobfs.vfs.view import View

log = logging.getLogger("jobfs.vfs")

#: Seconds that a flush without a time limit takes at most.
_DRAIN = 24 * 3600.0
#: Seconds between listings that show which hidden items are still on the server.
_POLL_INTERVAL = 0.3


class Drain:
    """What `jobfs flush`, an unmount and `jobfs recover` do. Every method may be called from any thread."""

    def __init__(self, view: View) -> None:
        self._settings, self._write_back = view.settings, view.write_back
        self._state, self._namespace = view.state, view.namespace

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[SendProgress], None] | None
    ) -> list[Unsent]:
        """Send everything that was written (at or below `path`); return what is unsent or refused after `timeout` seconds.

        `progress` is called several times a second; an error that it raises ends the flush.
        """
        under, queue = path or "", self._write_back.queue
        progress = progress or (lambda sent: None)
        self._record_open_files()
        deadline = time.monotonic() + (_DRAIN if timeout is None else timeout)
        whole = self._state.backlog(under).files
        count, size = len(whole), sum(file.size for file in whole)
        while True:
            remaining = deadline - time.monotonic()
            done = queue.drain(max(min(remaining, 0.25), 0.0), under)
            unsent = self._state.backlog(under)
            progress(_progress(count, size, unsent.files))
            if done or remaining <= 0:
                break
        if not unsent.files:
            self._wait_for_asides(deadline, lambda: progress(_progress(count, size, [])))
        return unsent._replace(unclosed_files=[], changes=[] if done else unsent.changes).to_entries()

    def _record_open_files(self) -> None:
        """Record the bytes of open files, and closes that could not be recorded before; make their saves due now."""
        for file in {*self._state.opened.values(), *self._state.unclosed}:
            if file.local is not None and not file.never_sent and file.path is not None:
                try:
                    self._write_back.record_closed(file)
                except JobfsError as error:
                    # The other files must be sent all the same.
                    log.error("%s: what was written to it can't be recorded: %s", file.path, error)
                self._write_back.queue.schedule(file, 0.0)

    def _wait_for_asides(self, deadline: float, on_wait: Callable[[], None]) -> None:
        """Wait for the cleanup of asides, `--timeout` seconds at most, but not for asides that must wait longer (R7)."""
        end = min(deadline, time.monotonic() + self._settings.timeout)
        queue = self._write_back.queue
        while queue.wait_and_count_uncleaned(
            max(min(end - time.monotonic(), 0.25), 0.0), includes_waiting=False
        ):
            on_wait()
            if time.monotonic() >= end:
                return

    def wait_for_cleanup(self, timeout: float) -> list[str]:
        """Wait until this mount's hidden items are gone or have visible names (R4, R7). Raises ApiError.

        Return the paths of those that are left after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        self._write_back.queue.wait_and_count_uncleaned(timeout, includes_waiting=True)
        while True:
            self._namespace.refresh()
            left = self.hidden_items_of(self._write_back.context.mount)
            if not left or time.monotonic() > end:
                return [item.path for item in left]
            time.sleep(_POLL_INTERVAL)

    def hidden_items_of(self, mount: str) -> list[Item]:
        """Return the hidden items of a mount in the last listing."""
        found = [
            (item, names.parse_hidden_name(names.basename(item.path)))
            for item in self._namespace.hidden_items()
        ]
        return [item for item, parts in found if parts is not None and parts.mount == mount]

    def expose_hidden_items(self, mount: str) -> list[str]:
        """Give every hidden item of a mount a visible name, although its state directory is lost (R4). Raises ApiError.

        Return what was done, a sentence for each item.
        """
        self._namespace.refresh()
        done = [
            self._write_back.cleanup.expose(item, even_if_explained=True)
            for item in self.hidden_items_of(mount)
        ]
        return [line for line in done if line]


def _progress(count: int, size: int, unsent: Sequence[File]) -> SendProgress:
    """Return the progress while the files `unsent` remain of `count` with `size` bytes; bytes being sent count as sent."""
    being_sent = (min(file.change.sent, file.size) for file in unsent if file.change is not None)
    missing = sum(file.size for file in unsent) - sum(being_sent)
    return SendProgress(max(count - len(unsent), 0), count, max(size - missing, 0), size)
