"""The items of one job in memory: by id, by path, and in the order of the list. No I/O, no lock."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from .behaviour import Behaviour
from .records import StoredItem, ancestors, parent

#: The group size within which items are shuffled in the "unstable" order.
_NEIGHBOURS = 4


class ItemIndex:
    """Items by id and by path; several may share a path. Iteration is in the order of creation."""

    def __init__(self) -> None:
        self._items: dict[str, StoredItem] = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        #: By path: the paths directly below that have an item, or something below them.
        self._below: dict[str, dict[str, None]] = {}
        self._order: list[StoredItem] | None = None
        self._order_kind = ""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[StoredItem]:
        return iter(self._items.values())

    def get(self, item_id: str) -> StoredItem | None:
        """Return the item with this id, or None."""
        return self._items.get(item_id)

    def items_at(self, path: str) -> list[StoredItem]:
        """Return all items at exactly this path, oldest first."""
        return [self._items[item_id] for item_id in self._paths.get(path, ())]

    def items_below(self, directory: str) -> list[StoredItem]:
        """Return all items below this path."""
        found: list[StoredItem] = []
        left = [directory]
        while left:
            inside = left.pop()
            # "/x", which a test may seed, has the parent "" like "x", but is not in the root.
            below = [path for path in self._below.get(inside, ()) if path.startswith(inside + "/")]
            for path in below:
                found += self.items_at(path)
            left += below
        return found

    def shown_at(self, path: str) -> StoredItem | None:
        """Return the item that is shown of those at this path: the newest of the job's own; else the newest workspace default."""
        return max(self.items_at(path), key=_precedence, default=None)

    def put(self, item: StoredItem) -> None:
        """Add the item, or replace the one with its id."""
        old = self._items.get(item.id)
        self._items[item.id] = item
        if old is None or old.path != item.path:
            if old is not None:
                self._unlink(old)
            self._link(item)
        if old is None and self._order_kind == "created" and self._order is not None:
            self._order.append(item)
        else:
            self._order = None

    def remove(self, item: StoredItem) -> None:
        """Remove the item."""
        del self._items[item.id]
        self._unlink(item)
        self._order = None

    def is_blocked(self, path: str) -> bool:
        """Return whether a path above `path` has a file and no directory."""
        return any(
            items and not any(i.is_dir for i in items) for items in map(self.items_at, ancestors(path))
        )

    def has_directory(self, path: str) -> bool:
        """Return whether a path is the root, or has a directory item."""
        return path == "" or any(item.is_dir for item in self.items_at(path))

    def in_list_order(self, behaviour: Behaviour, rng: random.Random) -> list[StoredItem]:
        """Return all items in the order of the list; the caller must not change the result."""
        kind = behaviour.list_order
        if self._order is None or self._order_kind != kind:
            self._order = _sort_items(self._items.values(), kind)
            self._order_kind = kind
        return _shuffle_neighbours(self._order, rng) if kind == "unstable" else self._order

    def _link(self, item: StoredItem) -> None:
        path = item.path
        self._paths[path] = (*self._paths.get(path, ()), item.id)
        while path and path not in (siblings := self._below.setdefault(parent(path), {})):
            siblings[path] = None
            path = parent(path)

    def _unlink(self, item: StoredItem) -> None:
        path = item.path
        left = tuple(item_id for item_id in self._paths[path] if item_id != item.id)
        if left:
            self._paths[path] = left
            return
        del self._paths[path]
        while path and path not in self._paths and path not in self._below:
            above = parent(path)
            del self._below[above][path]
            if not self._below[above]:
                del self._below[above]
            path = above


def _precedence(item: StoredItem) -> tuple[bool, int, int, str]:
    return (item.lifecycle == "expertJob", item.updated_us, item.created_us, item.id)


def _sort_items(items: Iterable[StoredItem], kind: str) -> list[StoredItem]:
    if kind == "path":
        return sorted(items, key=lambda item: (item.path, item.id))
    if kind == "updated":
        return sorted(items, key=lambda item: (-item.updated_us, item.id))
    return list(items)


def _shuffle_neighbours(items: list[StoredItem], rng: random.Random) -> list[StoredItem]:
    """Shuffle neighbouring items, as a database does that sorts by a key which is not unique."""
    start = rng.randrange(_NEIGHBOURS)
    result = items[:start]
    for first in range(start, len(items), _NEIGHBOURS):
        group = items[first : first + _NEIGHBOURS]
        rng.shuffle(group)
        result += group
    return result


def missing_parents(index: ItemIndex, paths: Iterable[str]) -> list[str]:
    """Return the directories above `paths` that have no item, outermost first."""
    wanted: dict[str, None] = {}
    seen: set[str] = set()
    for path in paths:
        above = parent(path)
        if above in seen:
            continue
        seen.add(above)
        for directory in ancestors(path):
            if not index.has_directory(directory):
                wanted.setdefault(directory)
    return list(wanted)
