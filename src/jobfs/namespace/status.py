"""What the namespace says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from jobfs.namespace.cost import Cost
from jobfs.namespace.tree import Tree
from jobfs.nodes import Item


@dataclass(frozen=True, slots=True)
class NamespaceStatus:
    """The server's tree as it is known now (semantics.md section 1); times in seconds, sizes in bytes.

    `snapshot_age` is None before the first listing. `stale` is true while the server does not answer and
    known names are served all the same; `error` then says why. `shadowed` holds path, item id and reason,
    `hostile` path and reason of what is not shown.
    """

    items: int
    size: int
    snapshot_age: float | None
    effective_ttl: float
    listing_seconds: float
    listing_pages: int
    shadowed: list[tuple[str, str, str]]
    hostile: list[tuple[str, str]]
    hidden: list[Item]
    stale: bool
    error: str | None

    @classmethod
    def of(cls, tree: Tree, cost: Cost, age: float | None, error: str | None) -> NamespaceStatus:
        """The status of a tree whose snapshot is `age` seconds old; `error`: why the server can't be asked."""
        return cls(
            items=len(tree),
            size=sum(item.size or 0 for item in tree.items()),
            snapshot_age=age,
            effective_ttl=cost.effective_ttl,
            listing_seconds=cost.listing_seconds,
            listing_pages=cost.pages,
            shadowed=tree.shadowed(),
            hostile=tree.refused(),
            hidden=tree.hidden(),
            stale=error is not None and age is not None,
            error=error,
        )
