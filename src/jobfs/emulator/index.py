"""The items of one job in memory: by id, by path, and in the order of the list. No I/O, no lock."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from .behaviour import Behaviour
from .records import StoredItem, ancestors, parent

#: How far apart items may be that change places in the "unstable" order.
_NEIGHBOURS = 4


class Index:
    """Items by id and by path; several may share a path. Iteration is in the order of creation."""

    def __init__(self) -> None:
        self._items: dict[str, StoredItem] = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._order: list[StoredItem] | None = None
        self._order_kind = ""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[StoredItem]:
        return iter(self._items.values())

    def get(self, item_id: str) -> StoredItem | None:
        """The item of this id."""
        return self._items.get(item_id)

    def at(self, path: str) -> list[StoredItem]:
        """All items at exactly this path, oldest first."""
        return [self._items[item_id] for item_id in self._paths.get(path, ())]

    def under(self, directory: str) -> list[StoredItem]:
        """All items below this path."""
        prefix = directory + "/"
        return [item for item in self._items.values() if item.path.startswith(prefix)]

    def shown(self, path: str) -> StoredItem | None:
        """The item that wins at this path: the job's own before a default, then the newest."""
        return max(self.at(path), key=_precedence, default=None)

    def put(self, item: StoredItem) -> None:
        """Adds the item, or takes it in place of the one with its id."""
        old = self._items.get(item.id)
        self._items[item.id] = item
        if old is None or old.path != item.path:
            if old is not None:
                self._unlink(old)
            self._paths[item.path] = (*self._paths.get(item.path, ()), item.id)
        if old is None and self._order_kind == "created" and self._order is not None:
            self._order.append(item)
        else:
            self._order = None

    def drop(self, item: StoredItem) -> None:
        """Removes the item."""
        del self._items[item.id]
        self._unlink(item)
        self._order = None

    def blocked(self, path: str) -> bool:
        """True if something above `path` is a file and not a directory as well."""
        return any(items and not any(i.is_dir for i in items) for items in map(self.at, ancestors(path)))

    def has_directory(self, path: str) -> bool:
        """True for the root and for a path where a directory item stands."""
        return path == "" or any(item.is_dir for item in self.at(path))

    def ordered(self, behaviour: Behaviour, rng: random.Random) -> list[StoredItem]:
        """All items in the order that the list shows; not to be changed by the caller."""
        kind = behaviour.list_order
        if self._order is None or self._order_kind != kind:
            self._order = _sorted(self._items.values(), kind)
            self._order_kind = kind
        return _perturbed(self._order, rng) if kind == "unstable" else self._order

    def _unlink(self, item: StoredItem) -> None:
        left = tuple(item_id for item_id in self._paths[item.path] if item_id != item.id)
        if left:
            self._paths[item.path] = left
        else:
            del self._paths[item.path]


def _precedence(item: StoredItem) -> tuple[bool, int, int, str]:
    return (item.lifecycle == "expertJob", item.updated_us, item.created_us, item.id)


def _sorted(items: Iterable[StoredItem], kind: str) -> list[StoredItem]:
    if kind == "path":
        return sorted(items, key=lambda item: (item.path, item.id))
    if kind == "updated":
        return sorted(items, key=lambda item: (-item.updated_us, item.id))
    return list(items)


def _perturbed(items: list[StoredItem], rng: random.Random) -> list[StoredItem]:
    """`items` with neighbours shuffled, as a database does that sorts by a key which is not unique."""
    start = rng.randrange(_NEIGHBOURS)
    result = items[:start]
    for first in range(start, len(items), _NEIGHBOURS):
        group = items[first : first + _NEIGHBOURS]
        rng.shuffle(group)
        result += group
    return result


def missing_parents(index: Index, paths: Iterable[str]) -> list[str]:
    """The directories that `paths` need and that have no item, outermost first."""
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
