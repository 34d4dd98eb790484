"""The tree: every item of the workspace by path, as a pure structure without I/O, clock or lock (vfs/semantics.md 1).

Each item is in one of three places: at a path where it can be shown; hidden (a hidden name, or below one); refused (a path
that is never shown). A directory exists while an item stands for it or anything lies below it, hidden items included: so a
save does not make its implicit directory vanish for a moment.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import replace

from jobfs import names
from jobfs.nodes import Item, Lifecycle, implicit_directory

_HIDDEN_MARK = ".jobfs-"
_CONTROL_PREFIX = names.CONTROL_DIR + "/"

SortKey = tuple[bool, int, str, str, str]


def sort_key(item: Item) -> SortKey:
    """Return a key that sorts the shown item last.

    The job's own items win over the workspace's defaults, then the newest wins, then the one with the greatest id.
    """
    own = item.lifecycle is Lifecycle.EXPERT_JOB
    return (own, item.updated_ns, item.updated_at, item.created_at, item.id)


def pick_shown(items: Iterable[Item]) -> Item | None:
    """Return which of the items at a path is shown if nothing lies below it; None if there are none (vfs/semantics.md 1)."""
    return max(items, key=sort_key, default=None)


def never_shown_reason(path: str) -> str | None:
    """Return why a path that is not hidden is never shown, or None (vfs/semantics.md 1, Hostile paths)."""
    reason = names.hostile_reason(path)
    if reason is None and (path == names.CONTROL_DIR or path.startswith(_CONTROL_PREFIX)):
        return "is where every mount shows its own state"
    return reason


def hiding_parent(path: str) -> str | None:
    """Return the directory of the outermost hidden name in `path`, or None if no name in it is hidden."""
    if _HIDDEN_MARK not in path:
        return None
    directory = ""
    for part in path.split("/"):
        if names.parse_hidden_name(part) is not None:
            return directory
        directory = names.join(directory, part)
    return None


def is_never_shown(path: str) -> bool:
    """Return whether no item at `path` is ever shown, whatever the server has."""
    return never_shown_reason(path) is not None or hiding_parent(path) is not None


def looks_different(before: Item | None, now: Item | None) -> bool:
    """Return whether a program would see a difference; between two directories, whether they are different items."""
    if before is None or now is None:
        return before is not now
    if before.is_dir or now.is_dir:
        return before.is_dir is not now.is_dir or before.id != now.id
    return before.id != now.id or before.updated_at != now.updated_at or before.size != now.size


ROOT = implicit_directory("")


class ItemTree:
    """All items by id and by path; no method makes a request. Not thread-safe by itself."""

    def __init__(self) -> None:
        self._by_id: dict[str, Item] = {}
        self._best: dict[str, Item] = {}
        #: The other items at a path in order of rank, the best last.
        self._rest: dict[str, list[Item]] = {}
        #: Whole paths, as the strings that the items hold anyway: each name would cost another string.
        self._children: dict[str, set[str]] = {}
        self._hidden: dict[str, str] = {}
        self._hidden_below: dict[str, set[str]] = {}
        self._never_shown: dict[str, str] = {}

    @classmethod
    def from_items(cls, items: Iterable[Item]) -> ItemTree:
        """Return a tree of these items."""
        tree = cls()
        for item in items:
            tree.put(item)
        return tree

    # queries

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, item_id: str) -> Item | None:
        """Return the item with this id, shown or not."""
        return self._by_id.get(item_id)

    def items(self) -> list[Item]:
        """Return all items, shown or not."""
        return list(self._by_id.values())

    def shown_at(self, path: str) -> Item | None:
        """Return what is shown at `path`: an item, an implicit directory, or None (vfs/semantics.md 1, Overlay)."""
        if path in self._children or not path:
            return self._directory_item(path)
        best = self._best.get(path)
        if best is None and path in self._hidden_below:
            return implicit_directory(path)
        return best

    def candidates(self, path: str) -> tuple[Item, ...]:
        """Return every item at exactly `path` that could be shown there, in order of rank, the best first."""
        best = self._best.get(path)
        return () if best is None else (best, *reversed(self._rest.get(path, ())))

    def has_descendants(self, path: str) -> bool:
        """Return whether any item is known below `path`, hidden items included."""
        return path in self._children or path in self._hidden_below

    def children(self, path: str) -> dict[str, Item]:
        """Return what is shown in the directory `path`, by name."""
        start = len(path) + 1 if path else 0
        shown = ((child[start:], self.shown_at(child)) for child in self._children.get(path, ()))
        return {name: item for name, item in shown if item is not None}

    def descendants(self, path: str) -> list[Item]:
        """Return every item strictly below `path`: shown, shadowed, hidden and refused; no implicit directories."""
        found = list(self._walk_descendants(path))
        apart = [*self._never_shown]
        if path and hiding_parent(path) is not None:
            apart += self._hidden
        found += [item for item in map(self._by_id.__getitem__, apart) if names.is_below(item.path, path)]
        return found

    def hidden_items(self) -> list[Item]:
        """Return the items with a hidden name, and the items below one."""
        return [self._by_id[item_id] for item_id in self._hidden]

    def never_shown_paths(self) -> list[tuple[str, str]]:
        """Return path and reason of every item whose path is never shown."""
        return [(self._by_id[item_id].path, reason) for item_id, reason in self._never_shown.items()]

    def shadowed_paths(self) -> list[tuple[str, str]]:
        """Return path and reason of every item that is not shown because another item at its path is."""
        covered = {path for path in self._children if path in self._best and not self._best[path].is_dir}
        return [
            (path, "another item is shown at this path")
            for path in sorted(covered.union(self._rest))
            for item in self.candidates(path)
            if item is not self.shown_at(path)
        ]

    def items_before_differences(self, before: ItemTree) -> dict[str, Item | None]:
        """Return, by path, the item that `before` shows wherever this tree shows another; None where `before` shows nothing."""
        shown = ((path, before.shown_at(path)) for path in self._possible_differences(before))
        return {path: was for path, was in shown if looks_different(was, self.shown_at(path))}

    def _possible_differences(self, before: ItemTree) -> set[str]:
        """Return a superset of the paths that show something else than in `before`, in one cheap pass."""
        others = before._best.get
        found = {
            path
            for path, item in self._best.items()
            if (other := others(path)) is None
            or other.updated_at != item.updated_at
            or other.id != item.id
            or other.size != item.size
        }
        # If several items are at a path, one that is not the best may stand for the directory.
        found |= (before._best.keys() - self._best.keys()) | before._rest.keys() | self._rest.keys()
        found |= self._children.keys() ^ before._children.keys()
        found |= self._hidden_below.keys() ^ before._hidden_below.keys()
        return found - {""}

    def has_implicit_directory(self) -> bool:
        """Return whether some directory has no item that stands for it."""
        directories = (path for path in (*self._children, *self._hidden_below) if path)
        return any(self._directory_item(path).is_implicit for path in directories)

    # changes

    def put(self, item: Item) -> None:
        """Put `item` at its path and nowhere else; what lies below it stays where it is."""
        known = self._by_id.get(item.id)
        if not item.id or item == known:
            return
        if known is not None:
            self.remove(item.id)
        self._by_id[item.id] = item
        path = item.path
        reason = never_shown_reason(path)
        if reason is not None:
            self._never_shown[item.id] = reason
            return
        base = hiding_parent(path)
        if base is not None:
            self._hidden[item.id] = base
            self._hidden_below.setdefault(base, set()).add(item.id)
            self._link_to_parent(base)
        else:
            self._add_at(path, item)
            self._link_to_parent(path)

    def remove(self, item_id: str) -> None:
        """Remove an item; what it shadowed is shown again, and what lies below it stays."""
        item = self._by_id.pop(item_id, None)
        if item is None or self._never_shown.pop(item_id, None) is not None:
            return
        base = self._hidden.pop(item_id, None)
        if base is None:
            self._remove_at(item.path, item)
            self._unlink_from_parent(item.path)
            return
        self._hidden_below[base].discard(item_id)
        if not self._hidden_below[base]:
            del self._hidden_below[base]
            self._unlink_from_parent(base)

    def put_moved(self, item: Item, old: str) -> None:
        """Put `item` at its path; a directory takes along what lies below its `old` path."""
        self.put(item)
        if item.is_dir and old != item.path:
            for other in self.descendants(old):
                # The new path may even lie below the old one.
                if other.path != item.path and not names.is_below(other.path, item.path):
                    self.put(replace(other, path=names.path_after_rename(other.path, old, item.path)))

    def replace_at(self, path: str, items: Iterable[Item]) -> None:
        """Make `items` the only items at `path`; what lies below them stays where it is."""
        new_items = list(items)
        kept = {item.id for item in new_items}
        for item in self.candidates(path):
            if item.id not in kept:
                self.remove(item.id)
        for item in new_items:
            self.put(item)

    def _directory_item(self, path: str) -> Item:
        for item in self.candidates(path):
            if item.is_dir:
                return item
        return implicit_directory(path) if path else ROOT

    def _walk_descendants(self, path: str) -> Iterator[Item]:
        pending = [path]
        while pending:
            directory = pending.pop()
            for item_id in self._hidden_below.get(directory, ()):
                yield self._by_id[item_id]
            for child in self._children.get(directory, ()):
                yield from self.candidates(child)
                pending.append(child)

    def _add_at(self, path: str, item: Item) -> None:
        best = self._best.get(path)
        if best is None:
            self._best[path] = item
            return
        other, self._best[path] = sorted((best, item), key=sort_key)
        insort(self._rest.setdefault(path, []), other, key=sort_key)

    def _remove_at(self, path: str, item: Item) -> None:
        rest = self._rest.get(path)
        if rest is None:
            del self._best[path]
            return
        if item is self._best[path]:
            self._best[path] = rest.pop()
        else:
            rest.remove(item)
        if not rest:
            del self._rest[path]

    def _link_to_parent(self, path: str) -> None:
        while path:
            directory = names.parent(path)
            siblings = self._children.get(directory)
            if siblings is not None:
                siblings.add(path)
                return
            self._children[directory] = {path}
            path = directory

    def _unlink_from_parent(self, path: str) -> None:
        while (
            path and path not in self._best and path not in self._children and path not in self._hidden_below
        ):
            directory = names.parent(path)
            siblings = self._children[directory]
            siblings.discard(path)
            if siblings:
                return
            del self._children[directory]
            path = directory


#: The roles of the hidden items that a save puts beside its target.
_SAVES = (names.Role.STAGED, names.Role.ASIDE)


def missing_save_targets(before: ItemTree, now: ItemTree) -> list[str]:
    """Return the paths that are no longer shown, while a hidden item of a save beside them has their new or old content."""
    hidden = [
        (names.parent(item.path), names.parse_hidden_name(names.basename(item.path)))
        for item in now.hidden_items()
    ]
    saved = {names.join(directory, name.name) for directory, name in hidden if name and name.role in _SAVES}
    return [path for path in saved if before.shown_at(path) is not None and now.shown_at(path) is None]
