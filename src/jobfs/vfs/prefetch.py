"""Contents fetched ahead of programs that read one file after another: the last files read tell which file comes next
(vfs/semantics.md 3, Prefetch).

Nothing here makes a request: the tree is that of the last listing. Programs that go through a tree take the entries of a
directory as `readdir` gives them, which is by inode number here (see LookupOperations.listdir), or by name, as shells, `make` and
`git` do. So there are two orders in which to go on from a file, and a read of a file that comes soon in one of them shows a walk.
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

#: Larger files, in bytes, are left to their reader: a round trip costs little beside their transfer.
LARGE = 1 << 20
#: A program that picks its files may leave out so many of those that come next.
_NEXT = 8
#: Files that are looked at to find one that is to be fetched.
_SCAN = 64
#: Files that are fetched ahead of the reader and not read yet, and their bytes, at most.
WINDOW, _BYTES_MAX = 64, 32 << 20
#: Seconds without a read after which a walk is forgotten.
_FORGOTTEN = 10.0
#: Directories that are kept in order, and walks that are known, at most.
_KEPT, _WALKS = 64, 8


class Walk:
    """A program on its way, and what was fetched ahead of it. Any read may begin a walk; the next reads show if it is one."""

    def __init__(self, path: str, now: float) -> None:
        self.last, self.read_at = path, now
        #: The files that come next, once it is known for a walk.
        self.coming: Iterator[Item] = iter(())
        #: The highest directory that it came through.
        self.top = names.parent(path)
        #: Paths and sizes of what was fetched for it and not read yet.
        self.ahead: dict[str, int] = {}

    def free_slots(self) -> int:
        """How many files more may be fetched ahead."""
        return WINDOW - len(self.ahead) if sum(self.ahead.values()) < _BYTES_MAX else 0

    def note_prefetched_read(self, path: str, now: float) -> bool:
        """A file was read: True if it had been fetched for this walk."""
        if path not in self.ahead:
            return False
        del self.ahead[path]
        self.last, self.read_at = path, now
        return True

    def note_other_read(self, path: str, now: float) -> None:
        """A file was read that had not been fetched for this walk. What was fetched and left out is counted no more."""
        self.last, self.read_at = path, now
        self.top = os.path.commonpath((self.top, names.parent(path)))
        self.ahead.clear()

    def next_item(self, wanted: Callable[[Item], bool]) -> Item | None:
        """The next file to be fetched ahead; None for now."""
        for item in itertools.islice(self.coming, _SCAN if self.free_slots() else 0):
            if item.path not in self.ahead and wanted(item):
                self.ahead[item.path] = item.size or 0
                return item
        return None


class Prefetch:
    """Watches which files are opened to be read, and has the content store fetch what comes next.

    Thread-safe; its lock comes before those of namespace and content.
    """

    def __init__(self, namespace: Namespace, content: ContentStore, state: State) -> None:
        self._namespace = namespace
        self._content = content
        self._state = state
        self._lock = threading.Lock()
        self._walks: list[Walk] = []
        #: Directories in order, with the place of each path in them, by number of the listing.
        self._sorted: LRUCache[tuple[int, str, bool], tuple[list[Item], dict[str, int]]] = LRUCache(_KEPT)

    def note_open(self, item: Item, *, is_cached: bool) -> None:
        """A file is opened to be read. If its content is `is_cached`, that only tells how far a walk has come."""
        if is_cached and not any(item.path in walk.ahead for walk in self._walks):
            return
        with self._lock:
            walk = self._find_walk(item, time.monotonic(), is_cached=is_cached)
            room = walk.free_slots() if walk is not None else 0
        if room:
            self._content.prefetch_items(self._next_item, room)

    def _find_walk(self, item: Item, now: float, *, is_cached: bool) -> Walk | None:
        """The walk that has come to this file."""
        path = item.path
        for walk in self._walks:
            if walk.note_prefetched_read(path, now):
                return walk
        if is_cached or not self._content.needs_download(item):
            return None  # nobody waits
        known = [walk for walk in self._walks if now - walk.read_at <= _FORGOTTEN]
        self._walks = sorted(known, key=lambda walk: walk.read_at)
        for walk in self._walks:
            if (by_name := self._order_between(walk.last, path)) is not None:
                walk.note_other_read(path, now)
                walk.coming = self.files_after(path, by_name, walk.top)
                return walk
        self._walks = [*self._walks[1 - _WALKS :], Walk(path, now)]
        return None

    def _order_between(self, before: str, path: str) -> bool | None:
        """True if one file comes soon after another by name, False if by inode number, else None; what is here does not count."""
        places = []
        for by_name in (False, True):
            coming = itertools.islice(self.files_after(before, by_name), _SCAN)
            missing = (
                item.path for item in coming if item.path == path or self._content.needs_download(item)
            )
            places += [
                (place, by_name) for place, at in enumerate(itertools.islice(missing, _NEXT)) if at == path
            ]
        return min(places)[1] if places else None

    def _next_item(self) -> Item | None:
        with self._lock:
            taken = (walk.next_item(self._is_wanted) for walk in self._walks)
            return next((item for item in taken if item is not None), None)

    def _is_wanted(self, item: Item) -> bool:
        size = self._content.known_size(item)
        small = size is not None and size <= LARGE
        return small and self._content.may_share_download(item) and self._content.needs_download(item)

    # -- the tree as the last listing showed it

    def files_after(self, path: str, by_name: bool, top: str = "") -> Iterator[Item]:
        """The files that come after the one at `path`, below the directory `top`."""
        while path and path != top:
            directory = names.parent(path)
            yield from self.files_below(directory, by_name, path)
            path = directory

    def files_below(self, directory: str, by_name: bool, after: str | None = None) -> Iterator[Item]:
        """The files below a directory, or those that come after a path in it."""
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
