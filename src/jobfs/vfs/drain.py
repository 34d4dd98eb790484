"""Bringing everything to the server, and what mounts have left hidden there (vfs/semantics.md 4 and 6)."""

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

_DRAIN = 24 * 3600.0
#: Seconds between looks at what is still hidden on the server.
_LOOK = 0.3


class Drain:
    """What `jobfs flush`, an unmount and `jobfs recover` do. May be called from any thread."""

    def __init__(self, view: View) -> None:
        self._settings, self._write_back = view.settings, view.write_back
        self._state, self._namespace = view.state, view.namespace

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[SendProgress], None] | None
    ) -> list[Unsent]:
        """Bring everything written (at or below `path`) to the server; returns what is left after `timeout` seconds.

        `progress` is called several times a second; an error that it raises breaks it off.
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
            left = self._state.backlog(under)
            progress(_progress(count, size, left.files))
            if done or remaining <= 0:
                break
        if not left.files:
            self._wait_for_asides(deadline, lambda: progress(_progress(count, size, [])))
        return left._replace(unclosed_files=[], changes=[] if done else left.changes).to_entries()

    def _record_open_files(self) -> None:
        """Make due now what was written to open files, and what could not be recorded when it was closed."""
        for file in {*self._state.opened.values(), *self._state.unclosed}:
            if file.local is not None and not file.never_sent and file.path is not None:
                try:
                    self._write_back.record_closed(file)
                except JobfsError as error:
                    # A file that can't be recorded keeps no other from being sent.
                    log.error("%s: what was written to it can't be recorded: %s", file.path, error)
                self._write_back.queue.schedule(file, 0.0)

    def _wait_for_asides(self, deadline: float, going_on: Callable[[], None]) -> None:
        """Wait until the asides of saves are off the server, `--timeout` seconds at most; not for those that R7 keeps waiting."""
        end = min(deadline, time.monotonic() + self._settings.timeout)
        queue = self._write_back.queue
        while queue.count_uncleaned(max(min(end - time.monotonic(), 0.25), 0.0), waiting=False):
            going_on()
            if time.monotonic() >= end:
                return

    def wait_for_cleanup(self, timeout: float) -> list[str]:
        """Wait until own hidden items are judged or exposed (R4, R7); the paths left after `timeout` seconds. Raises ApiError."""
        end = time.monotonic() + timeout
        self._write_back.queue.count_uncleaned(timeout, waiting=True)
        while True:
            self._namespace.refresh()
            left = self.hidden_items_of(self._write_back.context.mount)
            if not left or time.monotonic() > end:
                return [item.path for item in left]
            time.sleep(_LOOK)

    def hidden_items_of(self, mount: str) -> list[Item]:
        """The hidden items that a mount has left on the server, as of the last listing."""
        found = [
            (item, names.parse_hidden_name(names.basename(item.path)))
            for item in self._namespace.hidden_items()
        ]
        return [item for item, parts in found if parts is not None and parts.mount == mount]

    def expose_hidden_items(self, mount: str) -> list[str]:
        """Give every hidden item of a mount whose state is lost a visible name (R4); returns what was done. Raises ApiError."""
        self._namespace.refresh()
        done = [self._write_back.cleanup.expose(item, anyway=True) for item in self.hidden_items_of(mount)]
        return [line for line in done if line]


def _progress(count: int, size: int, left: Sequence[File]) -> SendProgress:
    """Progress when `left` of `count` files with `size` bytes are not sent yet; bytes on their way count as sent."""
    on_their_way = (min(file.change.sent, file.size) for file in left if file.change is not None)
    missing = sum(file.size for file in left) - sum(on_their_way)
    return SendProgress(max(count - len(left), 0), count, max(size - missing, 0), size)
