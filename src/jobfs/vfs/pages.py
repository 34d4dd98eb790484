"""What the kernel's pages of a file hold, and what is open at each of its nodes (vfs/semantics.md 3, Open files are pinned)."""

from __future__ import annotations

import itertools
import threading

from cachetools import LRUCache

from jobfs import names
from jobfs.nodes import Version
from jobfs.state.records import Handle

#: Paths whose pages are remembered.
_MOST = 16_384


class KernelPages:
    """What the kernel's own pages of a file may be trusted to hold when it is opened again (`keep_cache`).

    The kernel keeps pages by node. For libfuse a node is a path, until the node has lost that path. So the version opened last at
    a path is remembered, and only while neither another version nor a writer is open there.

    Thread-safe; its lock is a leaf. Every `opened` is followed by one `closed`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held: LRUCache[str, Version] = LRUCache(_MOST)
        self._handles: dict[str, list[Handle]] = {}
        self._numbers = itertools.count()

    def opened(self, handle: Handle, path: str, version: Version | None) -> bool:
        """A file is opened; None: to be written, or of unknown content. True if the kernel's pages of it hold this version."""
        with self._lock:
            there = self._handles.setdefault(path, [])
            there.append(handle)
            for each in there[-2:] if len(there) > 1 else ():
                each.served = each.readable  # the kernel gives one the pages that it has read for the other
            handle.at = path
            if version is None or not all(each.reads(version) for each in there):
                self._held.pop(path, None)
                return False
            if self._held.get(path) == version:
                return True
            self._held[path] = version
            return False

    def at(self, path: str) -> list[Handle]:
        """The handles that are open at a path."""
        return list(self._handles.get(path, ()))

    def part(self, path: str) -> None:
        """The kernel's node at a path has lost the path, with all handles there: another node will be at the path."""
        with self._lock:
            self._held.pop(path, None)
            if (there := self._handles.pop(path, None)) is not None:
                aside = f"{path}\0{next(self._numbers)}"  # no path
                self._handles[aside] = there
                for handle in there:
                    handle.at = aside

    def only(self, path: str, version: Version | None) -> bool:
        """True if no other version of the server than this is open at a path."""
        return all(handle.item is None or handle.item.version == version for handle in self.at(path))

    def closed(self, handle: Handle) -> None:
        """A file that was `opened` is closed."""
        with self._lock:
            self._handles[handle.at].remove(handle)
            if not self._handles[handle.at]:
                del self._handles[handle.at]

    def unsure(self, path: str) -> None:
        """An open file goes on with another version."""
        with self._lock:
            self._held.pop(path, None)

    def moved(self, old: str, new: str, *, directory: bool) -> None:
        """The kernel's node at `old`, and those below a `directory`, have moved to `new`; the node that was there has no path."""
        with self._lock:
            held, handles = self._held, self._handles
            self.part(new)
            below = [path for path in {**held, **handles} if names.under(path, old)] if directory else []
            for path in (old, *below):
                at = names.moved(path, old, new)
                self.part(at)
                if path in held:
                    held[at] = held.pop(path)
                if path in handles:
                    handles[at] = handles.pop(path)
                    for handle in handles[at]:
                        handle.at = at
