"""What changed while answers were under way, and how to carry it over into a newer tree (the write counter).

Each entry can be replayed on a tree that was read while the change happened, in whatever order the server
and the listing's pages saw it. Where the two can't be told apart (something of the job's stands where we
moved or deleted) the listing's word is kept and the path is returned as doubtful: the next one who wants it
asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from jobfs import names
from jobfs.namespace.tree import Tree
from jobfs.nodes import Item


@dataclass(frozen=True, slots=True)
class Arrived:
    """We created or changed `item`; `carried` are the ids that moved along with it from below `old`."""

    item: Item
    old: str | None
    carried: frozenset[str]
    beside: frozenset[str]

    def concerns(self, path: str, ids: Collection[str]) -> bool:
        """True if an older answer about `path`, naming `ids`, can't be believed."""
        if self.item.id in ids or path in (self.item.path, self.old):
            return True
        return self.old is not None and any(names.under(path, at) for at in (self.item.path, self.old))

    def replay(self, tree: Tree) -> Iterator[str]:
        """Make `tree` show this change; yields what is now in doubt."""
        item = self.item
        if any(other.id != item.id and other.id not in self.beside for other in tree.candidates(item.path)):
            yield item.path
        sources = _sources(tree, item.id, self.old) - {item.path}
        tree.put(item)
        if self.old is None or not item.is_dir:
            return
        for source in sources:
            for other in tree.carried(source, item.path):
                # Read before it moved along, or made here since, or never below our directory at all.
                yield source
                yield item.path
                if other.id in self.carried:
                    tree.put(replace(other, path=names.moved(other.path, source, item.path)))


@dataclass(frozen=True, slots=True)
class Gone:
    """We deleted the item at `path`, or learned that it is gone; `whole`: with everything below it."""

    item_id: str
    path: str
    beside: frozenset[str]
    whole: bool

    def concerns(self, path: str, ids: Collection[str]) -> bool:
        """True if an older answer about `path`, naming `ids`, can't be believed."""
        return path == self.path or self.item_id in ids or (self.whole and names.under(path, self.path))

    def replay(self, tree: Tree) -> Iterator[str]:
        """Make `tree` show this change; yields what is now in doubt."""
        sources = _sources(tree, self.item_id, self.path)
        tree.drop(self.item_id)
        if any(other.id not in self.beside for other in tree.candidates(self.path)):
            yield self.path
        if not self.whole:
            return
        for source in sources:
            if tree.below(source):
                # Read before it went, or made here since.
                yield source


@dataclass(frozen=True, slots=True)
class Found:
    """An answer of the server that began at `ticket`: exactly `items` were at `path`."""

    ticket: int
    path: str
    items: tuple[Item, ...]

    def apply(self, tree: Tree) -> Iterator[str]:
        """Make `tree`, older than this answer, show it; yields what is now in doubt: a directory from
        elsewhere.

        What was below it probably came along, but only the server knows.
        """
        yield from self._came_from_elsewhere(tree, directories_only=True)
        tree.settle(self.path, self.items)

    def replay(self, tree: Tree) -> Iterator[str]:
        """Add this answer to a `tree` read at the same time; yields what is now in doubt: where the two
        differ.
        """
        yield from self._came_from_elsewhere(tree)
        ids = {item.id for item in self.items}
        if any(other.id not in ids for other in tree.candidates(self.path)):
            yield self.path
        for item in self.items:
            tree.put(item)

    def _came_from_elsewhere(self, tree: Tree, *, directories_only: bool = False) -> Iterator[str]:
        for item in self.items:
            known = tree.get(item.id)
            if known is not None and known.path != self.path and (item.is_dir or not directories_only):
                yield known.path
                yield self.path


Change = Arrived | Gone | Found


def _sources(tree: Tree, item_id: str, path: str | None) -> set[str]:
    """Where an item and what is below it may stand: where we knew it, and where this tree has it."""
    known = tree.get(item_id)
    return {at for at in (path, known.path if known is not None else None) if at is not None}
