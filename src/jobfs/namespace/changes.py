"""What changed while answers were under way (the write counter), and a listing that was overtaken by it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

from jobfs import names
from jobfs.namespace.tree import Tree


class Change(NamedTuple):
    """We changed `ids`, or an answer told of them, at `paths`; `whole`: with everything below these paths.

    It is newer than an answer whose request has a ticket below `ticket`.
    """

    ticket: int
    ids: frozenset[str]
    paths: frozenset[str]
    whole: bool

    def concerns(self, path: str, ids: Collection[str]) -> bool:
        """True if an older answer about `path`, naming `ids`, can't be believed."""
        if path in self.paths or not self.ids.isdisjoint(ids):
            return True
        return self.whole and any(names.under(path, at) for at in self.paths)


def keep(changes: Collection[Change], old: Tree, new: Tree) -> set[str]:
    """Have `new`, a listing that began before `changes`, keep what `old` says of the items they name.

    Returns the paths to be asked for again: where the listing shows such an item in another place, or others at the
    paths that changed. Those are kept, since an item that existed throughout must not be lost.
    """
    doubts: set[str] = set()
    ours = {item_id for change in changes for item_id in change.ids}
    moved: dict[str, str] = {}
    for change in changes:
        there = set(change.paths)
        for listed in filter(None, map(new.get, change.ids)):
            there.add(listed.path)
            mine = old.get(listed.id)
            if mine is not None and mine.path != listed.path:
                doubts |= {mine.path, listed.path}
        for at in there:
            for other in (*new.candidates(at), *(new.below(at) if change.whole else ())):
                known = old.get(other.id)
                if other.id in ours or (known is not None and known.path == other.path):
                    continue
                doubts |= there
                if known is not None:
                    doubts.add(known.path)
                    moved[other.id] = known.path
    for item_id in ours:
        new.drop(item_id)
        if (mine := old.get(item_id)) is not None:
            new.put(mine)
    for other in filter(None, map(new.get, moved)):
        new.put(replace(other, path=moved[other.id]))
    return doubts
