"""KernelSizes: the size of each file in the kernel, as far as this process can know it (fuse/notes.md, What the kernel keeps)."""

from __future__ import annotations

import threading
from collections import OrderedDict

#: Nodes whose sizes are remembered, at most; those that were first heard of longest ago are forgotten.
_MOST = 100_000


class KernelSizes:
    """Sizes in bytes by node. Thread-safe.

    The kernel drops an answer if another one about the same node was applied since it asked. This process can't see which of two
    overlapping answers was applied: if their sizes differ, the size is unknown.
    """

    def __init__(self, most: int = _MOST) -> None:
        #: The time, counted in changes: when a request is read, it is noted for `note_sent`.
        self.now = 0
        self._most = most
        self._lock = threading.Lock()
        #: The size, None if it is unknown; and the time at which it was last sent or changed.
        self._sizes: OrderedDict[int, tuple[int | None, int]] = OrderedDict()

    def get(self, node: int) -> int | None:
        """Return the size that the kernel has for a node, None if that is unknown."""
        return self._sizes.get(node, (None, 0))[0]

    def may_differ(self, node: int, size: int) -> bool:
        """Return whether the kernel may have another size: not if it has never been sent one."""
        return self._sizes.get(node, (size, 0))[0] != size

    def note_sent(self, node: int, size: int, began: int) -> None:
        """Note that an answer with the size of a node is about to be sent; its request was read when `now` was `began`."""
        with self._lock:  # without another call: this is the busiest method of a mount
            self.now = now = self.now + 1
            last = self._sizes.get(node)
            overlaps = last is not None and last[1] > began and last[0] != size
            self._sizes[node] = None if overlaps else size, now
            if last is None and len(self._sizes) > self._most:
                self._sizes.popitem(last=False)

    def note_growth(self, node: int, end: int) -> None:
        """Note that the kernel has written bytes up to `end`."""
        with self._lock:
            known, _ = self._sizes.get(node, (None, 0))
            self._set(node, None if known is None else max(known, end))

    def note_end_read(self, node: int, end: int) -> None:
        """Note that a read met the end of the file at `end`: the kernel may lower its size to that."""
        known = self.get(node)
        if known is not None and known > end:
            self.forget(node)

    def forget(self, node: int) -> None:
        """Note that the size of a node is unknown, for example because an answer did not arrive."""
        with self._lock:
            self._set(node, None)

    def _set(self, node: int, size: int | None) -> None:
        """Set a size. Call with the lock held."""
        self.now = now = self.now + 1
        self._sizes[node] = size, now
        if len(self._sizes) > self._most:
            self._sizes.popitem(last=False)
