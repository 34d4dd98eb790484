"""Contents fetched ahead of a program that reads one file after another (semantics.md section 3, Prefetch).

There is one order: `grep -r`, `tar` and `cp -r` take a directory's entries as Vfs.listdir gives them, by inode number,
and go into a directory when they come to it. A read of a file that comes soon after another one is the sign of a walk.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from cachetools import LRUCache

from jobfs import names
from jobfs.content import Content, ContentStore
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.state import State

#: Larger files, in bytes, are left to their reader: what a round trip costs is little beside their transfer.
LARGE = 1 << 20
#: Of the files that come next, so many may be left out by a program that picks…
_NEXT = 8
#: …and so many are looked at to find them, since those that are on disk are read without our knowing.
_SCAN = 64
#: Files that are fetched ahead of the reader: at first, more after each that it read, at most; and their bytes at most.
_WINDOW, _WINDOW_STEP, WINDOW_MAX = 16, 4, 128
_BYTES_MAX = 32 << 20
#: The reader has left out what it did not read before so many others that come later.
_SLACK = 32
#: While a program has left out so many files, and more than it read, nothing is fetched ahead of it.
_WASTE = 16
#: Seconds without a read after which nothing more is fetched, and after which the walk is forgotten.
IDLE, _FORGOTTEN = 1.0, 10.0
#: Most reads remembered of which each may be part of a walk; most directories that are kept in order.
_WALKS, _KEPT = 8, 64


class Order:
    """The files in the order of the last listing. `edition` gives its number, `children` what it showed in a directory."""

    def __init__(
        self,
        children: Callable[[str], Mapping[str, Item]],
        number: Callable[[Item], int],
        edition: Callable[[], int],
    ) -> None:
        self._children = children
        self._number = number
        self._edition = edition
        self._kept: LRUCache[tuple[int, str], dict[str, tuple[int, Item]]] = LRUCache(_KEPT)

    def after(self, path: str, top: str | None = "") -> Iterator[Item]:
        """The files after the one at `path`: all below the directory `top`; None: only those beside it."""
        directory = names.parent(path)
        yield from self._entries(directory, path, deep=top is not None)
        while top is not None and directory not in ("", top):
            directory, below = names.parent(directory), directory
            yield from self._entries(directory, below)

    def _entries(self, directory: str, after: str | None = None, *, deep: bool = True) -> Iterator[Item]:
        key = self._edition(), directory
        if (entries := self._kept.get(key)) is None:
            items = sorted(self._children(directory).values(), key=self._number)
            entries = self._kept[key] = {item.path: (place, item) for place, item in enumerate(items)}
        start = 0 if after is None else entries[after][0] + 1 if after in entries else len(entries)
        for _, item in itertools.islice(entries.values(), start, None):
            if not item.is_dir:
                yield item
            elif deep:
                yield from self._entries(item.path)


class Walk:
    """A program that may be on its way through the tree, and what was fetched ahead of it once it is known to be."""

    def __init__(self, order: Order, path: str, now: float) -> None:
        self.followed = False
        self.read_at = now
        self._order = order
        self._last = path
        self._top: str | None = (
            None  # not before it went on to another directory is it followed beyond its own
        )
        self._suspected = False
        self._coming: Iterator[Item] = iter(())
        self._window = _WINDOW
        self._ahead: dict[str, tuple[int, int]] = {}  # path to number and size of what it has not read yet
        self._count = self._read = self._wasted = 0

    def room(self, now: float) -> int:
        """How many files more may be fetched ahead."""
        if not self.followed or now - self.read_at > IDLE or self._wasted > max(_WASTE, self._read):
            return 0
        if sum(size for _, size in self._ahead.values()) >= _BYTES_MAX:
            return 0
        return max(0, self._window - len(self._ahead))

    def reached(self, path: str, now: float) -> bool:
        """A file is read: True if it was fetched ahead of this walk."""
        if (found := self._ahead.pop(path, None)) is None:
            return False
        while self._ahead:
            other, (number, _) = next(iter(self._ahead.items()))
            if number >= found[0] - _SLACK:
                break
            del self._ahead[other]
            self._wasted += 1
        self._window = min(self._window + _WINDOW_STEP, WINDOW_MAX)
        self._note(path, now)
        return True

    def comes_to(self, path: str, missing: Callable[[Item], bool], now: float) -> bool:
        """A file is read that was not fetched ahead: True if it comes soon after the last one.

        A step that leaves out files begins a walk only if the next one is short as well.
        """
        coming = filter(missing, itertools.islice(self._order.after(self._last), _SCAN))
        places = (place for place, item in enumerate(itertools.islice(coming, _NEXT)) if item.path == path)
        if (place := next(places, None)) is None:
            return False
        self.followed = self.followed or self._suspected or place == 0
        self._suspected = True
        above = names.parent(path)
        if above != names.parent(self._last):
            self._top = names.parent(self._last) if self._top is None else self._top
            while self._top and self._top != above and not names.under(above, self._top):
                self._top = names.parent(self._top)
        self._coming = self._order.after(path, self._top)
        self._note(path, now)
        return True

    def take(self, wanted: Callable[[Item], bool], now: float) -> Item | None:
        """The next file to be fetched ahead; None for now."""
        if not self.room(now):
            return None
        for item in itertools.islice(self._coming, _SCAN):
            if item.path not in self._ahead and wanted(item):
                self._count += 1
                self._ahead[item.path] = self._count, item.size or 0
                return item
        return None

    def _note(self, path: str, now: float) -> None:
        self._last, self.read_at = path, now
        self._read += 1


class Walks:
    """The walks that are under way. Not safe for threads by itself.

    `missing` tells whether a file's content would have to be downloaded, `small` whether it is worth fetching ahead.
    """

    def __init__(
        self,
        order: Order,
        missing: Callable[[Item], bool],
        small: Callable[[Item], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._order = order
        self._missing = missing
        self._wanted: Callable[[Item], bool] = lambda item: small(item) and missing(item)
        self._clock = clock
        self._walks: list[Walk] = []

    def __bool__(self) -> bool:
        return any(walk.followed for walk in self._walks)

    def read(self, path: str, item: Item) -> int:
        """A file is being read from its start: how many files may be fetched ahead now."""
        now = self._clock()
        self._walks = [walk for walk in self._walks if now - walk.read_at <= _FORGOTTEN]
        found = next((walk for walk in self._walks if walk.reached(path, now)), None)
        if found is None:
            if not self._missing(item):
                return 0  # on disk: nobody waits
            found = next((walk for walk in self._walks if walk.comes_to(path, self._missing, now)), None)
            found = found or Walk(self._order, path, now)
        self._walks = [found, *(walk for walk in self._walks if walk is not found)][:_WALKS]
        return found.room(now)

    def take(self) -> Item | None:
        """The next file to be fetched ahead; None for now."""
        now = self._clock()
        return next((item for walk in self._walks if (item := walk.take(self._wanted, now))), None)


class Prefetch:
    """Watches which files are read from their start, and has the content store fetch what comes next.

    No request is made here, nor a listing: what is fetched ahead is what the last listing showed. Thread-safe; its lock
    comes before those of namespace and content.
    """

    def __init__(self, namespace: Namespace, content: ContentStore, state: State) -> None:
        self._content = content
        self._lock = threading.Lock()
        order = Order(namespace.known_children, state.number, lambda: namespace.snapshot_number)
        self._walks = Walks(order, content.missing, self._worth_it)

    def concerned(self, content: object) -> bool:
        """False if it makes no difference that this content is read: it is here, and nobody is fetched ahead of."""
        return bool(self._walks) or not (isinstance(content, Content) and content.here)

    def reading(self, path: str, item: Item) -> None:
        """A file is being read from its start."""
        with self._lock:
            room = self._walks.read(path, item)
        if room:
            self._content.prefetch(self._take, room)

    def _take(self) -> Item | None:
        with self._lock:
            return self._walks.take()

    def _worth_it(self, item: Item) -> bool:
        size = self._content.learned_size(item.version)
        return size is not None and size <= LARGE and self._content.lasting(item)
