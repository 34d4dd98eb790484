"""Prefetch: fetches the files that come next for programs that read one file after another (vfs/semantics.md 3, Prefetch).

Nothing in this module makes a request: the tree is that of the last listing. Programs that walk a tree read the entries of a
directory in the order of `readdir`, which is by inode number here (see LookupOperations.listdir), or by name, as shells, `make`
and `git` do. So a file has successors in two orders. A read of a file that soon follows the last one in either order shows a
walk.
"""

from __future__ import annotations

import itertools
import os.path
import threading
import time
from collections.abc import Callable, Iterator

from cachetools import LRUCache

from jobfs import names
from jobfs.content import ContentStore
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.state import State

#: Largest file, in bytes, that is prefetched: beside the transfer of a larger one, a round trip costs little.
LARGE = 1 << 20
#: Among how many of the next files, without those in the cache, a read must be to show a walk: programs may skip files.
_NEXT = 8
#: How many files are examined to find one to prefetch.
_SCAN = 64
#: Most files that are prefetched for a walk and not read yet; their bytes at which prefetching pauses.
WINDOW, _BYTES_MAX = 64, 32 << 20
#: Seconds without a read after which a walk is forgotten.
_FORGOTTEN = 10.0
#: Most sorted directories that are kept, and most walks that are known.
_KEPT, _WALKS = 64, 8


class Walk:
    """A walk of a program through the tree, and what was prefetched for it. Any read may begin one; later reads confirm it.

    `last` is the file read last, `read_at` the time of that (monotonic seconds).
    """

    def __init__(self, path: str, now: float) -> None:
        self.last, self.read_at = path, now
        #: The files that come next; empty until a second read confirms the walk.
        self.coming: Iterator[Item] = iter(())
        #: The lowest directory above all files of the walk: prefetching stays below it.
        self.top = names.parent(path)
        #: Paths and sizes of files that were prefetched for the walk and not read yet.
        self.ahead: dict[str, int] = {}

    def free_slots(self) -> int:
        """Return how many more files may be prefetched."""
        return WINDOW - len(self.ahead) if sum(self.ahead.values()) < _BYTES_MAX else 0

    def note_read_if_prefetched(self, path: str, now: float) -> bool:
        """Note that a file was read, and return True, if it was prefetched for this walk; else return False."""
        if path not in self.ahead:
            return False
        del self.ahead[path]
        self.last, self.read_at = path, now
        return True

    def note_other_read(self, path: str, now: float) -> None:
        """Note that the walk has read a file that was not prefetched for it. Prefetched files that it skipped no longer count."""
        self.last, self.read_at = path, now
        self.top = os.path.commonpath((self.top, names.parent(path)))
        self.ahead.clear()

    def take_next_item(self, wanted: Callable[[Item], bool]) -> Item | None:
        """Return the next file to prefetch, and count it as prefetched; None if there is none, or no room."""
        for item in itertools.islice(self.coming, _SCAN if self.free_slots() else 0):
            if item.path not in self.ahead and wanted(item):
                self.ahead[item.path] = item.size or 0
                return item
        return None


class Prefetch:
    """Watches which files are opened for reading, and makes the content store fetch the files that come next.

    Thread-safe; its lock is taken before those of namespace and content.
    """

    def __init__(self, namespace: Namespace, content: ContentStore, state: State) -> None:
        self._namespace = namespace
        self._content = content
        self._state = state
        self._lock = threading.Lock()
        self._walks: list[Walk] = []
        #: By listing number, directory and order (by name or not): its sorted items, and the position of each path.
        self._sorted: LRUCache[tuple[int, str, bool], tuple[list[Item], dict[str, int]]] = LRUCache(_KEPT)

    def note_open(self, item: Item, *, is_cached: bool) -> None:
        """Note that a file is opened for reading. One that `is_cached` only shows how far a walk has come."""
        if is_cached and not any(item.path in walk.ahead for walk in self._walks):
            return
        with self._lock:
            walk = self._find_walk(item, time.monotonic(), is_cached=is_cached)
            room = walk.free_slots() if walk is not None else 0
        if room:
            self._content.prefetch_items(self._take_next_item, room)

    def _find_walk(self, item: Item, now: float, *, is_cached: bool) -> Walk | None:
        """Return the walk that has come to this file, else None; then a file that must be downloaded begins a new walk."""
        path = item.path
        for walk in self._walks:
            if walk.note_read_if_prefetched(path, now):
                return walk
        if is_cached or not self._content.needs_download(item):
            return None  # the program does not wait for a download
        known = [walk for walk in self._walks if now - walk.read_at <= _FORGOTTEN]
        self._walks = sorted(known, key=lambda walk: walk.read_at)
        for walk in self._walks:
            if (by_name := self._detect_order(walk.last, path)) is not None:
                walk.note_other_read(path, now)
                walk.coming = self.files_after(path, by_name, walk.top)
                return walk
        self._walks = [*self._walks[1 - _WALKS :], Walk(path, now)]
        return None

    def _detect_order(self, last: str, path: str) -> bool | None:
        """Return True if `path` soon follows `last` by name, False if by inode number, else None; cached files don't count."""
        places = []
        for by_name in (False, True):
            coming = itertools.islice(self.files_after(last, by_name), _SCAN)
            missing = (
                item.path for item in coming if item.path == path or self._content.needs_download(item)
            )
            places += [
                (place, by_name) for place, at in enumerate(itertools.islice(missing, _NEXT)) if at == path
            ]
        return min(places)[1] if places else None

    def _take_next_item(self) -> Item | None:
        with self._lock:
            taken = (walk.take_next_item(self._should_prefetch) for walk in self._walks)
            return next((item for item in taken if item is not None), None)

    def _should_prefetch(self, item: Item) -> bool:
        size = self._content.known_size(item)
        small = size is not None and size <= LARGE
        return small and self._content.may_share_download(item) and self._content.needs_download(item)

    # -- the tree as the last listing showed it

    def files_after(self, path: str, by_name: bool, top: str = "") -> Iterator[Item]:
        """Yield the files that come after `path` in one order, as far as they are below the directory `top`."""
        while path and path != top:
            directory = names.parent(path)
            yield from self.files_below(directory, by_name, path)
            path = directory

    def files_below(self, directory: str, by_name: bool, after: str | None = None) -> Iterator[Item]:
        """Yield the files below a directory in one order; `after`: only those that come after this entry."""
        items, places = self._sorted_files(directory, by_name)
        for item in items[0 if after is None else places.get(after, len(items)) + 1 :]:
            if item.is_dir:
                yield from self.files_below(item.path, by_name)
            else:
                yield item

    def _sorted_files(self, directory: str, by_name: bool) -> tuple[list[Item], dict[str, int]]:
        key = self._namespace.snapshot_number, directory, by_name
        found = self._sorted.get(key)
        if found is None:
            items = list((self._namespace.peek_children(directory) or {}).values())
            items.sort(key=(lambda item: item.path) if by_name else self._state.index.inode_of)
            found = self._sorted[key] = items, {item.path: n for n, item in enumerate(items)}
        return found
