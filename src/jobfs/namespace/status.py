"""What the namespace says of itself."""

from __future__ import annotations

from dataclasses import dataclass

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
