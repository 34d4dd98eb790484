"""KernelSizes: the size that the kernel has for each file, as far as this process can know it (fuse/notes.md, What the kernel
keeps).
"""

from __future__ import annotations

import threading
from collections import OrderedDict

#: The maximum number of nodes; beyond it, the node that was noted first is forgotten.
_MOST = 100_000


class KernelSizes:
    """Sizes in bytes by node. Thread-safe.

    The kernel drops a reply about a node if it has applied another one since it sent the request. This process can't see which of
    two overlapping replies was applied: if their sizes differ, the size is unknown.
    """

    def __init__(self, max_count: int = _MOST) -> None:
        #: A logical clock that counts changes. Its value when a request is read is passed to `note_sent`.
        self.logical_clock = 0
        self._max_count = max_count
        self._lock = threading.Lock()
        #: By node: the size, None if unknown, and the clock when it was last sent or changed.
        self._sizes: OrderedDict[int, tuple[int | None, int]] = OrderedDict()

    def get(self, node: int) -> int | None:
        """Return the size that the kernel has for a node; None if unknown."""
        return self._sizes.get(node, (None, 0))[0]

    def may_differ(self, node: int, size: int) -> bool:
        """Return whether the kernel may have a size other than `size`; False if it was never sent one."""
        return self._sizes.get(node, (size, 0))[0] != size

    def note_sent(self, node: int, size: int, began: int) -> None:
        """Note that a reply with a node's size is about to be sent; `began`: `logical_clock` when its request was read."""
        with self._lock:  # inlined: this is the busiest method of a mount
            self.logical_clock = now = self.logical_clock + 1
            last = self._sizes.get(node)
            overlaps = last is not None and last[1] > began and last[0] != size
            self._sizes[node] = None if overlaps else size, now
            if last is None and len(self._sizes) > self._max_count:
                self._sizes.popitem(last=False)

    def note_growth(self, node: int, end: int) -> None:
        """Note that the kernel has written bytes up to `end`."""
        with self._lock:
            known, _ = self._sizes.get(node, (None, 0))
            self._set(node, None if known is None else max(known, end))

    def note_end_read(self, node: int, end: int) -> None:
        """Note that a read reached the end of the file at `end`: the kernel may lower its size to `end`."""
        known = self.get(node)
        if known is not None and known > end:
            self.forget(node)

    def forget(self, node: int) -> None:
        """Note that the size of a node is unknown, for example because a reply did not arrive."""
        with self._lock:
            self._set(node, None)

    def _set(self, node: int, size: int | None) -> None:
        """Set a size. Call with the lock held."""
        self.logical_clock = now = self.logical_clock + 1
        self._sizes[node] = size, now
        if len(self._sizes) > self._max_count:
            self._sizes.popitem(last=False)
