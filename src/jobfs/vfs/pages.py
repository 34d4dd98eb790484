"""What the kernel's own pages of a file may be trusted to hold when it is opened again (`keep_cache`).

The kernel keeps pages by node, and a node is a path as far as libfuse goes. So what is remembered is the version opened
last at a path, and only while nothing else can have come into those pages: no other version open there, no writer, and
nobody who had a file open when a name was last changed here, since its node may be another path's by now.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from jobfs.nodes import Version

#: Paths remembered; all are forgotten when there are more.
_MOST = 16_384


class KernelPages:
    """Thread-safe; its lock is a leaf. Every `opened` is followed by one `closed`, with what it returned."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Version] = {}
        self._open: dict[str, tuple[Version | None, int]] = {}  # None: several, or one that is written
        self._count = 0
        self._epoch = 0
        self._older = 0  # files open now that were open when a name was last changed

    def opened(self, path: str, version: Version | None) -> tuple[bool, int]:
        """A file is opened, None: to be written, or of unknown content.

        True if the kernel's pages of it hold this version; and a number for `closed`.
        """
        with self._lock:
            self._count += 1
            before, count = self._open.get(path, (version, 0))
            sole = version if before == version else None
            self._open[path] = sole, count + 1
            if sole is None or self._older:
                self._held.pop(path, None)
                return False, self._epoch
            kept = self._held.get(path) == sole
            if not kept:
                if len(self._held) >= _MOST:
                    self._held.clear()
                self._held[path] = sole
            return kept, self._epoch

    def closed(self, path: str, epoch: int) -> None:
        """A file that was opened at `path` is closed."""
        with self._lock:
            self._count -= 1
            version, count = self._open[path]
            if count > 1:
                self._open[path] = version, count - 1
            else:
                del self._open[path]
            if epoch != self._epoch:
                self._older -= 1

    def unsure(self, path: str) -> None:
        """An open file goes on with another version."""
        with self._lock:
            self._held.pop(path, None)
            if path in self._open:
                self._open[path] = None, self._open[path][1]

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """While a name is changed: nothing opened before the end of it is trusted."""
        self.renamed()
        try:
            yield
        finally:
            self.renamed()

    def renamed(self) -> None:
        """A name was changed: nodes are other paths' now."""
        with self._lock:
            self._held.clear()
            self._epoch += 1
            self._older = self._count
