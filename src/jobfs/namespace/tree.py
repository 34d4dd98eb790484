"""The tree: every item of the workspace by path, as a pure structure without I/O, clock or lock (vfs/semantics.md 1).

Items live in one of three places: at a path where they can be shown; hidden (a name of the save protocol, or below one); refused
(a path that is never shown). A directory exists as long as an item stands for it or anything lies below it, hidden items
included: a save does not make its implicit directory vanish for a moment.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import replace

from jobfs import names
from jobfs.nodes import Item, Lifecycle, implicit_directory

_HIDDEN_MARK = ".jobfs-"
_CONTROL_PREFIX = names.CONTROL_DIR + "/"

Rank = tuple[bool, int, str, str, str]


def rank(item: Item) -> Rank:
    """Sorts the shown item last: the job's own win over the workspace's defaults, then the newest wins, then the greatest id."""
    own = item.lifecycle is Lifecycle.EXPERT_JOB
    return (own, item.updated_ns, item.updated_at, item.created_at, item.id)


def shown(items: Iterable[Item]) -> Item | None:
    """Of the items at one path, the one that is shown if nothing lies below it; None if there are none (section 1)."""
    return max(items, key=rank, default=None)


def refusal(path: str) -> str | None:
    """Why an item's path is not shown though it is no hidden name, or None (section 1, Hostile paths)."""
    reason = names.hostile(path)
    if reason is None and (path == names.CONTROL_DIR or path.startswith(_CONTROL_PREFIX)):
        return "is where every mount shows its own state"
    return reason


def veil(path: str) -> str | None:
    """The directory that holds the outermost hidden name in `path`, or None if nothing in it is hidden."""
    if _HIDDEN_MARK not in path:
        return None
    directory = ""
    for part in path.split("/"):
        if names.parse_hidden(part) is not None:
            return directory
        directory = names.join(directory, part)
    return None


def never_shown(path: str) -> bool:
    """True if no item at `path` is ever shown, whatever the server has."""
    return refusal(path) is not None or veil(path) is not None


def differ(was: Item | None, now: Item | None) -> bool:
    """True if a program that looks would see a difference. Of directories only which they are is compared."""
    if was is None or now is None:
        return was is not now
    if was.is_dir or now.is_dir:
        return was.is_dir is not now.is_dir or was.id != now.id
    return was.id != now.id or was.updated_at != now.updated_at or was.size != now.size


ROOT = implicit_directory("")


class Tree:
    """All items by id and by path; no method asks anybody anything. Not safe for threads by itself."""

    def __init__(self) -> None:
        self._by_id: dict[str, Item] = {}
        self._best: dict[str, Item] = {}
        #: The other items at a path, by rank, the last best.
        self._rest: dict[str, list[Item]] = {}
        #: Whole paths, the very strings that the items hold: names would cost a string each.
        self._children: dict[str, set[str]] = {}
        self._hidden: dict[str, str] = {}
        self._veiled: dict[str, set[str]] = {}
        self._refused: dict[str, str] = {}

    @classmethod
    def of(cls, items: Iterable[Item]) -> Tree:
        """A tree of these items."""
        tree = cls()
        for item in items:
            tree.put(item)
        return tree

    # what is there

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, item_id: str) -> Item | None:
        """The item with this id, shown or not."""
        return self._by_id.get(item_id)

    def items(self) -> list[Item]:
        """All items, shown or not."""
        return list(self._by_id.values())

    def at(self, path: str) -> Item | None:
        """What is shown at `path`: an item, an implicit directory, or None (section 1, Overlay)."""
        if path in self._children or not path:
            return self._directory(path)
        best = self._best.get(path)
        if best is None and path in self._veiled:
            return implicit_directory(path)
        return best

    def candidates(self, path: str) -> tuple[Item, ...]:
        """Every item at exactly `path` that could be shown there, by rank, the first best."""
        best = self._best.get(path)
        return () if best is None else (best, *reversed(self._rest.get(path, ())))

    def inhabited(self, path: str) -> bool:
        """True if anything is known to lie below `path`, hidden items included."""
        return path in self._children or path in self._veiled

    def children(self, path: str) -> dict[str, Item]:
        """What is shown in the directory `path`, by name."""
        start = len(path) + 1 if path else 0
        shown = ((child[start:], self.at(child)) for child in self._children.get(path, ()))
        return {name: item for name, item in shown if item is not None}

    def below(self, path: str) -> list[Item]:
        """Every item strictly below `path`: shown, shadowed, hidden and refused; no implicit directories."""
        found = list(self._walk(path))
        apart = [*self._refused]
        if path and veil(path) is not None:
            apart += self._hidden
        found += [item for item in map(self._by_id.__getitem__, apart) if names.under(item.path, path)]
        return found

    def hidden(self) -> list[Item]:
        """Items with a hidden name, and items below one."""
        return [self._by_id[item_id] for item_id in self._hidden]

    def refused(self) -> list[tuple[str, str]]:
        """Path and reason of every item whose path is never shown."""
        return [(self._by_id[item_id].path, reason) for item_id, reason in self._refused.items()]

    def shadowed(self) -> list[tuple[str, str]]:
        """Path and reason of every item that another one at its path keeps from being shown."""
        covered = {path for path in self._children if path in self._best and not self._best[path].is_dir}
        return [
            (path, "another item is shown at this path")
            for path in sorted(covered.union(self._rest))
            for item in self.candidates(path)
            if item is not self.at(path)
        ]

    def differing(self, before: Tree) -> dict[str, Item | None]:
        """Return the paths that show something else than in `before`, each with what `before` shows there."""
        shown = ((path, before.at(path)) for path in self._may_differ(before))
        return {path: was for path, was in shown if differ(was, self.at(path))}

    def _may_differ(self, before: Tree) -> set[str]:
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
        # Where several items are at a path, another than the best may stand for the directory.
        found |= (before._best.keys() - self._best.keys()) | before._rest.keys() | self._rest.keys()
        found |= self._children.keys() ^ before._children.keys()
        found |= self._veiled.keys() ^ before._veiled.keys()
        return found - {""}

    def has_implicit(self) -> bool:
        """True if some directory has no item that stands for it."""
        inhabited = (path for path in (*self._children, *self._veiled) if path)
        return any(self._directory(path).implicit for path in inhabited)

    # changes

    def put(self, item: Item) -> None:
        """Have `item` at its path and nowhere else; what lies below it stays where it is."""
        known = self._by_id.get(item.id)
        if not item.id or item == known:
            return
        if known is not None:
            self.drop(item.id)
        self._by_id[item.id] = item
        path = item.path
        reason = refusal(path)
        if reason is not None:
            self._refused[item.id] = reason
            return
        base = veil(path)
        if base is not None:
            self._hidden[item.id] = base
            self._veiled.setdefault(base, set()).add(item.id)
            self._link(base)
        else:
            self._add(path, item)
            self._link(path)

    def drop(self, item_id: str) -> None:
        """Take an item out; what it shadowed is shown again, what lies below it stays."""
        item = self._by_id.pop(item_id, None)
        if item is None or self._refused.pop(item_id, None) is not None:
            return
        base = self._hidden.pop(item_id, None)
        if base is None:
            self._take_out(item.path, item)
            self._unlink(item.path)
            return
        self._veiled[base].discard(item_id)
        if not self._veiled[base]:
            del self._veiled[base]
            self._unlink(base)

    def arrive(self, item: Item, old: str) -> None:
        """`item` now is at its path: a directory brings along what lies below its `old` one."""
        self.put(item)
        if item.is_dir and old != item.path:
            for other in self.below(old):
                # The new path may even lie below the old one.
                if other.path != item.path and not names.under(other.path, item.path):
                    self.put(replace(other, path=names.moved(other.path, old, item.path)))

    def settle(self, path: str, items: Iterable[Item]) -> None:
        """Exactly `items` are at `path`; what lies below them stays where it is."""
        there = list(items)
        kept = {item.id for item in there}
        for item in self.candidates(path):
            if item.id not in kept:
                self.drop(item.id)
        for item in there:
            self.put(item)

    def _directory(self, path: str) -> Item:
        for item in self.candidates(path):
            if item.is_dir:
                return item
        return implicit_directory(path) if path else ROOT

    def _walk(self, path: str) -> Iterator[Item]:
        pending = [path]
        while pending:
            directory = pending.pop()
            for item_id in self._veiled.get(directory, ()):
                yield self._by_id[item_id]
            for child in self._children.get(directory, ()):
                yield from self.candidates(child)
                pending.append(child)

    def _add(self, path: str, item: Item) -> None:
        best = self._best.get(path)
        if best is None:
            self._best[path] = item
            return
        other, self._best[path] = sorted((best, item), key=rank)
        insort(self._rest.setdefault(path, []), other, key=rank)

    def _take_out(self, path: str, item: Item) -> None:
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

    def _link(self, path: str) -> None:
        while path:
            directory = names.parent(path)
            siblings = self._children.get(directory)
            if siblings is not None:
                siblings.add(path)
                return
            self._children[directory] = {path}
            path = directory

    def _unlink(self, path: str) -> None:
        while path and path not in self._best and path not in self._children and path not in self._veiled:
            directory = names.parent(path)
            siblings = self._children[directory]
            siblings.discard(path)
            if siblings:
                return
            del self._children[directory]
            path = directory


#: The hidden items that a save puts beside its target.
_SAVES = (names.Role.STAGED, names.Role.ASIDE)


def missed_names(before: Tree, now: Tree) -> list[str]:
    """Paths that were shown and are not, while a hidden item of a save beside them has their new or old content."""
    hidden = [
        (names.parent(item.path), names.parse_hidden(names.basename(item.path))) for item in now.hidden()
    ]
    saved = {names.join(directory, name.name) for directory, name in hidden if name and name.role in _SAVES}
    return [path for path in saved if before.at(path) is not None and now.at(path) is None]
