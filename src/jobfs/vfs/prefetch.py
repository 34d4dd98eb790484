"""Contents fetched ahead of programs that read one file after another: which one comes next is told from the last ones
(semantics.md section 3, Prefetch).

Nothing here asks anybody: the tree is what the last listing said. `grep -r` and `tar` take the entries of a directory as
`readdir` gives them, `cp -r` by inode number (the same here, see Vfs.listdir); shells, `make` and `git` take them by
name. Some go into a directory when they come to it, others after all the files beside it. So there are four ways on from
a file, and a read of the file to which one of them leads is the sign of a walk.
"""

from __future__ import annotations

import itertools
import os.path
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from jobfs import names
from jobfs.content import Content, ContentStore
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.state import State

#: Larger files, in bytes, are left to their reader: what a round trip costs is little beside their transfer.
LARGE = 1 << 20
#: Of the files that come next on one of the ways, so many may be left out by a program that picks…
_NEXT = 8
#: …and so many are looked at to find them, since those that are on disk are read without our knowing.
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
#: Entries of directories that are kept in order.
_KEPT = 20_000
#: Most walks at once, and most reads remembered of which each may be the beginning of one.
_WALKS, _STEPS = 4, 4


class Way(NamedTuple):
    """How a program goes through a tree."""

    by_name: bool
    files_first: bool


WAYS = tuple(Way(by_name, files_first) for by_name in (False, True) for files_first in (False, True))


class Node(NamedTuple):
    """An entry of a directory."""

    path: str
    item: Item


class _Directory(NamedTuple):
    nodes: list[Node]
    places: dict[str, int]


class Atlas:
    """The directories as the last listing showed them, in both orders; kept until there is another listing.

    `children` gives a directory's entries by name, `number` an item's inode number, `edition` the listing's number.
    """

    def __init__(
        self,
        children: Callable[[str], Mapping[str, Item]],
        number: Callable[[Item], int],
        edition: Callable[[], int],
    ) -> None:
        self._children = children
        self._number = number
        self._edition = edition
        self._of = -1
        self._nodes = 0
        self._kept: dict[tuple[str, bool], _Directory] = {}

    def after(self, path: str, way: Way, top: str = "") -> Iterator[Node]:
        """The files that come after the one at `path`, on this way, below the directory `top`."""
        directory = names.parent(path)
        yield from self._level(directory, path, way)
        while directory and directory != top:
            directory, below = names.parent(directory), directory
            yield from self._level(directory, below, way, visited=way.files_first)

    def beside(self, path: str, way: Way) -> Iterator[Node]:
        """The files of the same directory that come after the one at `path`."""
        entries = self._entries(names.parent(path), way, path)
        return (node for node in entries if not node.item.is_dir)

    def _level(self, directory: str, after: str | None, way: Way, *, visited: bool = False) -> Iterator[Node]:
        """The rest of a directory with what is below it; `visited`: its files have been read before."""
        if not way.files_first:
            for node in self._entries(directory, way, after):
                if node.item.is_dir:
                    yield from self._level(node.path, None, way)
                else:
                    yield node
            return
        if not visited:
            yield from (node for node in self._entries(directory, way, after) if not node.item.is_dir)
            after = None
        for node in self._entries(directory, way, after):
            if node.item.is_dir:
                yield from self._level(node.path, None, way)

    def _entries(self, directory: str, way: Way, after: str | None) -> Iterator[Node]:
        edition = self._edition()
        if edition != self._of or self._nodes > _KEPT:
            self._kept.clear()
            self._of, self._nodes = edition, 0
        found = self._kept.get((directory, way.by_name))
        if found is None:
            found = self._kept[directory, way.by_name] = self._sorted(directory, way.by_name)
            self._nodes += len(found.nodes)
        start = 0 if after is None else found.places.get(after, len(found.nodes) - 1) + 1
        return itertools.islice(found.nodes, start, None)

    def _sorted(self, directory: str, by_name: bool) -> _Directory:
        nodes = [Node(names.join(directory, name), item) for name, item in self._children(directory).items()]
        if by_name:
            nodes.sort(key=lambda node: node.path)
        else:
            nodes.sort(key=lambda node: self._number(node.item))
        return _Directory(nodes, {node.path: place for place, node in enumerate(nodes)})


class _Step:
    """A read that may be the beginning of a walk: what would come next, by path, and on which way at which place."""

    def __init__(
        self, atlas: Atlas, path: str, missing: Callable[[Item], bool], guess: Way | None = None
    ) -> None:
        self.path = path
        self.guess = guess  # the way on which this read came next after another one
        self._next: dict[str, tuple[int, Way]] = {}
        for way in WAYS:
            coming = (
                node.path for node in itertools.islice(atlas.after(path, way), _SCAN) if missing(node.item)
            )
            for place, following in enumerate(itertools.islice(coming, _NEXT)):
                if place < self._next.get(following, (_NEXT, way))[0]:
                    self._next[following] = place, way

    def way_to(self, path: str) -> tuple[int, Way] | None:
        """How many files are left out on the way to `path`, and which way that is; None if it leads nowhere near."""
        return self._next.get(path)


class Walk:
    """A program on its way, and what was fetched ahead of it."""

    def __init__(self, atlas: Atlas, start: str, path: str, way: Way, now: float) -> None:
        self.last, self.read_at = start, now
        self._atlas = atlas
        self._top = names.parent(start)
        self._crossed = False
        self._window = _WINDOW
        self._planned: OrderedDict[str, tuple[int, int]] = (
            OrderedDict()
        )  # path to number and size: not read yet
        self._bytes = 0
        self._count = self._read = self._wasted = 0
        self._suffixes: set[str] = {_suffix(start)}
        self._left_out: set[str] = set()
        self.go_on(path, way, now)

    @property
    def over(self) -> bool:
        """True if this is no walk after all."""
        return self._wasted > max(_WASTE, self._read)

    def room(self, now: float) -> int:
        """How many files more may be fetched ahead."""
        if self.over or now - self.read_at > IDLE or self._bytes >= _BYTES_MAX:
            return 0
        return max(0, self._window - len(self._planned))

    def reached(self, path: str, now: float) -> bool:
        """A file was read: True if it had been fetched for this walk."""
        planned = self._planned.pop(path, None)
        if planned is None:
            return False
        number, size = planned
        self._bytes -= size
        self._window = min(self._window + _WINDOW_STEP, WINDOW_MAX)
        self._note(path, now)
        while self._planned:
            other, (earlier, size) = next(iter(self._planned.items()))
            if earlier >= number - _SLACK:
                break
            self._leave_out(other)
        return True

    def go_on(self, path: str, way: Way, now: float) -> None:
        """The walk came to a file that was not fetched for it: fetch what comes after that."""
        directory = names.parent(path)
        if directory != names.parent(self.last):
            # Not before: who reads the files of one directory need not go on to the next.
            self._crossed = True
            self._top = _common(self._top, directory)
        self._note(path, now)
        self._coming = (
            self._atlas.after(path, way, self._top) if self._crossed else self._atlas.beside(path, way)
        )

    def take(self, wanted: Callable[[Item], bool], now: float) -> Item | None:
        """The next file to be fetched ahead; None for now."""
        if not self.room(now):
            return None
        for node in itertools.islice(self._coming, _SCAN):
            if node.path in self._planned or _suffix(node.path) in self._left_out or not wanted(node.item):
                continue
            self._count += 1
            self._planned[node.path] = self._count, node.item.size or 0
            self._bytes += node.item.size or 0
            return node.item
        return None

    def _leave_out(self, path: str) -> None:
        """The reader did not want this one, nor its like if it never read any."""
        _, size = self._planned.pop(path)
        self._bytes -= size
        self._wasted += 1
        suffix = _suffix(path)
        if suffix not in self._suffixes:
            self._left_out.add(suffix)

    def _note(self, path: str, now: float) -> None:
        self.last, self.read_at = path, now
        self._read += 1
        suffix = _suffix(path)
        self._suffixes.add(suffix)
        self._left_out.discard(suffix)


class Walks:
    """The walks that are under way. Not safe for threads by itself.

    `missing` tells whether a file's content would have to be downloaded, `small` whether it is worth fetching ahead.
    """

    def __init__(
        self,
        atlas: Atlas,
        missing: Callable[[Item], bool],
        small: Callable[[Item], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._atlas = atlas
        self._missing = missing
        self._small = small
        self._clock = clock
        #: Nobody is fetched ahead of where there is none.
        self.walks: list[Walk] = []
        self._steps: deque[_Step] = deque(maxlen=_STEPS)

    def read(self, path: str, item: Item, *, here: bool = False) -> int:
        """A file is being read from its start: how many files may be fetched ahead now. `here`: all of it is on disk."""
        now = self._clock()
        for walk in self.walks:
            if walk.reached(path, now):
                return walk.room(now)
        self.walks = [walk for walk in self.walks if now - walk.read_at <= _FORGOTTEN]
        if here or not self._missing(item):
            return 0  # nobody waits
        return self._met(path, now)

    def _met(self, path: str, now: float) -> int:
        """A file was read for which somebody waits: a walk may have gone on with it, or begun."""
        self.walks = [walk for walk in self.walks if not walk.over]
        for walk in self.walks:
            if (found := _Step(self._atlas, walk.last, self._missing).way_to(path)) is not None:
                walk.go_on(path, found[1], now)
                return walk.room(now)
        return self._step(path, now)

    def take(self) -> Item | None:
        """The next file to be fetched ahead; None for now."""
        now = self._clock()
        for walk in self.walks:
            if (item := walk.take(self._wanted, now)) is not None:
                return item
        return None

    def _wanted(self, item: Item) -> bool:
        return self._small(item) and self._missing(item)

    def _step(self, path: str, now: float) -> int:
        """Is this the second step of a walk? If it left out files, only the third is proof."""
        guess = None
        for step in self._steps:
            if (found := step.way_to(path)) is None:
                continue
            left_out, way = found
            if not left_out or step.guess == way:
                self._steps.remove(step)
                walk = Walk(self._atlas, step.path, path, way, now)
                self.walks = [*self.walks[1 - _WALKS :], walk]
                return walk.room(now)
            guess = way
            self._steps.remove(step)
            break
        self._steps.append(_Step(self._atlas, path, self._missing, guess))
        return 0


class Prefetch:
    """Watches which files are read from their start, and has the content store fetch what comes next.

    No request is made here, nor a listing: what is fetched ahead is what the last listing showed. Thread-safe; its lock
    comes before those of namespace and content.
    """

    def __init__(self, namespace: Namespace, content: ContentStore, state: State) -> None:
        self._content = content
        self._lock = threading.Lock()
        atlas = Atlas(namespace.known_children, state.number, lambda: namespace.snapshot_number)
        self._walks = Walks(atlas, content.missing, self._worth_it)

    def reading(self, item: Item, content: object) -> None:
        """A file is being read from its start. Where its `content` is here it only tells how far a walk has come."""
        here = isinstance(content, Content) and content.here
        if here and not self._walks.walks:
            return
        with self._lock:
            room = self._walks.read(item.path, item, here=here)
        if room:
            self._content.prefetch(self._take, room)

    def _take(self) -> Item | None:
        with self._lock:
            return self._walks.take()

    def _worth_it(self, item: Item) -> bool:
        size = self._content.learned_size(item.version)
        return size is not None and size <= LARGE and self._content.lasting(item)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1]


def _common(one: str, other: str) -> str:
    """The directory that both lie in, or are."""
    parts = itertools.takewhile(
        lambda pair: pair[0] == pair[1], zip(one.split("/"), other.split("/"), strict=False)
    )
    return "/".join(part for part, _ in parts)
