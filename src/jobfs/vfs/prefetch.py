"""Contents fetched ahead of programs that read one file after another: which one comes next is told from the last ones
(vfs/semantics.md 3, Prefetch).

Nothing here asks anybody: the tree is what the last listing said. Programs that go through a tree take the entries of a
directory as `readdir` gives them, which is by inode number here (see Vfs.listdir), or by name, as shells, `make` and `git`
do. So there are two ways on from a file, and a read of a file that comes soon on one of them is the sign of a walk.
"""

from __future__ import annotations

import itertools
import os.path
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from cachetools import LRUCache

from jobfs import names
from jobfs.content import Content, ContentStore
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.state import State

#: Larger files, in bytes, are left to their reader: what a round trip costs is little beside their transfer.
LARGE = 1 << 20
#: Of the files that come next, so many may be left out by a program that picks.
_NEXT = 8
#: Files that are looked at to find one that is to be fetched.
_SCAN = 64
#: Files that are fetched ahead of the reader: at first, more after each that it read, at most; and their bytes at most.
_WINDOW, _WINDOW_STEP, WINDOW_MAX = 16, 4, 128
_BYTES_MAX = 32 << 20
#: The reader has left out what it did not read before so many others that come later on its way.
_SLACK = 32
#: What has been left out so often, and more often than not, is no walk.
_WASTE = 16
#: Seconds without a read after which nothing more is fetched, and after which the walk is forgotten.
IDLE, _FORGOTTEN = 1.0, 10.0
#: Directories that are kept in order.
_KEPT = 64
#: Most walks at once, and most reads remembered of which each may be the beginning of one.
_WALKS, _STEPS = 4, 4


class Atlas:
    """The directories as the last listing showed them, in both orders; kept until there is another listing."""

    def __init__(self, namespace: Namespace, state: State) -> None:
        self._namespace = namespace
        self._state = state
        self._kept: LRUCache[tuple[int, str, bool], tuple[list[Item], dict[str, int]]] = LRUCache(_KEPT)

    def after(self, path: str, by_name: bool, top: str | None = "") -> Iterator[Item]:
        """The files that come after the one at `path`, below the directory `top`; None: in the same directory only."""
        directory = names.parent(path)
        yield from self.level(directory, by_name, path, deep=top is not None)
        while directory and top is not None and directory != top:
            directory, below = names.parent(directory), directory
            yield from self.level(directory, by_name, below)

    def level(
        self, directory: str, by_name: bool, after: str | None = None, *, deep: bool = True
    ) -> Iterator[Item]:
        """The files of a directory that come after a path, or all; `deep`: with what is below it, in its place."""
        items, places = self._sorted(directory, by_name)
        start = 0 if after is None else places.get(after, len(items) - 1) + 1
        for item in itertools.islice(items, start, None):
            if not item.is_dir:
                yield item
            elif deep:
                yield from self.level(item.path, by_name)

    def _sorted(self, directory: str, by_name: bool) -> tuple[list[Item], dict[str, int]]:
        key = self._namespace.snapshot_number, directory, by_name
        found = self._kept.get(key)
        if found is None:
            items = list((self._namespace.last_children(directory) or {}).values())
            items.sort(key=(lambda item: item.path) if by_name else self._state.number)
            found = self._kept[key] = items, {item.path: n for n, item in enumerate(items)}
        return found


class Walk:
    """A program on its way, and what was fetched ahead of it."""

    def __init__(self, atlas: Atlas, start: str, path: str, by_name: bool, now: float) -> None:
        self.last, self.read_at = start, now
        self._atlas = atlas
        #: The highest directory that it came through; None while it was in one only: who reads that need not go on to the next.
        self._top: str | None = None
        self._window = _WINDOW
        self._planned: dict[str, tuple[int, int]] = {}  # path to number and size, in order: not read yet
        self._count = self._read = self._wasted = 0
        self._suffixes = {_suffix(start)}
        self._left_out: set[str] = set()
        self.go_on(path, by_name, now)

    @property
    def over(self) -> bool:
        """True if this is no walk after all."""
        return self._wasted > max(_WASTE, self._read)

    def room(self, now: float) -> int:
        """How many files more may be fetched ahead."""
        ahead = sum(size for _, size in self._planned.values())
        if self.over or now - self.read_at > IDLE or ahead >= _BYTES_MAX:
            return 0
        return max(0, self._window - len(self._planned))

    def reached(self, path: str, now: float) -> bool:
        """A file was read: True if it had been fetched for this walk."""
        if path not in self._planned:
            return False
        number, _ = self._planned.pop(path)
        self._window = min(self._window + _WINDOW_STEP, WINDOW_MAX)
        self._note(path, now)
        for other, (earlier, _) in list(self._planned.items()):
            if earlier >= number - _SLACK:
                break
            del self._planned[other]
            self._wasted += 1
            if _suffix(other) not in self._suffixes:
                self._left_out.add(_suffix(other))  # nor does it want its like
        return True

    def go_on(self, path: str, by_name: bool, now: float) -> None:
        """The walk came to a file that was not fetched for it: fetch what comes after that."""
        directory, before = names.parent(path), names.parent(self.last)
        if self._top is not None or directory != before:
            self._top = os.path.commonpath((before if self._top is None else self._top, directory))
        self._note(path, now)
        self._coming = self._atlas.after(path, by_name, self._top)

    def take(self, wanted: Callable[[Item], bool], now: float) -> Item | None:
        """The next file to be fetched ahead; None for now."""
        if not self.room(now):
            return None
        for item in itertools.islice(self._coming, _SCAN):
            if item.path not in self._planned and _suffix(item.path) not in self._left_out and wanted(item):
                self._count += 1
                self._planned[item.path] = self._count, item.size or 0
                return item
        return None

    def _note(self, path: str, now: float) -> None:
        self.last, self.read_at = path, now
        self._read += 1
        self._suffixes.add(_suffix(path))
        self._left_out.discard(_suffix(path))


class Prefetch:
    """Watches which files are read from their start, and has the content store fetch what comes next.

    No request is made here, nor a listing: what is fetched ahead is what the last listing showed. Thread-safe; its lock
    comes before those of namespace and content.
    """

    def __init__(
        self,
        namespace: Namespace,
        content: ContentStore,
        state: State,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._content = content
        self._clock = clock
        self._lock = threading.Lock()
        self._atlas = Atlas(namespace, state)
        #: Those that are under way; while there is none, reads of what is on disk are of no interest.
        self.walks: list[Walk] = []
        #: Reads that may be the beginning of one, and the way on which each came soon after another one.
        self._steps: deque[tuple[str, bool | None]] = deque(maxlen=_STEPS)

    def reading(self, item: Item, content: object) -> None:
        """A file is being read from its start. Where its `content` is here it only tells how far a walk has come."""
        here = isinstance(content, Content) and content.whole
        if here and not self.walks:
            return
        with self._lock:
            now = self._clock()
            walk = self._walk(item, here, now)
            room = walk.room(now) if walk is not None else 0
        if room:
            self._content.prefetch(self._take, room)

    def _walk(self, item: Item, here: bool, now: float) -> Walk | None:
        """The walk that has come to this file, for which more may be fetched ahead."""
        path = item.path
        for walk in self.walks:
            if walk.reached(path, now):
                return walk
        self.walks = [walk for walk in self.walks if now - walk.read_at <= _FORGOTTEN]
        if here or not self._content.missing(item):
            return None  # nobody waits
        self.walks = [walk for walk in self.walks if not walk.over]
        for walk in self.walks:
            if (found := self._leads(walk.last, path)) is not None:
                walk.go_on(path, found[1], now)
                return walk
        return self._step(path, now)

    def _step(self, path: str, now: float) -> Walk | None:
        """Is this the second step of a walk? If it left out files, only the third is proof."""
        guess = None
        for step in list(self._steps):
            if (found := self._leads(step[0], path)) is None:
                continue
            self._steps.remove(step)
            left_out, guess = found
            if not left_out or step[1] is guess:
                walk = Walk(self._atlas, step[0], path, guess, now)
                self.walks = [*self.walks[1 - _WALKS :], walk]
                return walk
            break
        self._steps.append((path, guess))
        return None

    def _leads(self, before: str, path: str) -> tuple[int, bool] | None:
        """How many files are left out on the way from one file to another, and if that goes by name; None if it is far.

        Those between that are on disk do not count: they are read without our knowing.
        """
        places = []
        for by_name in (False, True):
            coming = itertools.islice(self._atlas.after(before, by_name), _SCAN)
            missing = (item.path for item in coming if item.path == path or self._content.missing(item))
            places += [
                (place, by_name) for place, at in enumerate(itertools.islice(missing, _NEXT)) if at == path
            ]
        return min(places) if places else None

    def _take(self) -> Item | None:
        with self._lock:
            now = self._clock()
            taken = (walk.take(self._wanted, now) for walk in self.walks)
            return next((item for item in taken if item is not None), None)

    def _wanted(self, item: Item) -> bool:
        size = self._content.size(item)
        small = size is not None and size <= LARGE
        return small and self._content.lasting(item) and self._content.missing(item)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1]
