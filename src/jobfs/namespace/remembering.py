"""The part of the namespace that asks nobody: what was last shown, and our own changes to it."""

from __future__ import annotations

import threading

from jobfs.namespace.knowledge import Knowledge
from jobfs.nodes import Item


class Remembering:
    """What is known of the server's tree, under the table lock (see remote.py)."""

    def __init__(self, known: Knowledge) -> None:
        self._lock = threading.Lock()
        self._known = known

    # looking

    def peek(self, path: str) -> Item | None:
        """What was last shown at `path`, however long ago; no request."""
        with self._lock:
            return self._known.tree.at(path)

    def known_children(self, path: str) -> dict[str, Item]:
        """What was last shown in a directory, by name, however long ago; no request."""
        with self._lock:
            return self._known.tree.children(path)

    def directories(self, path: str) -> int:
        """How many directories are known in the directory `path`; no request."""
        with self._lock:
            return self._known.tree.directories(path)

    def subtree(self, path: str) -> list[Item]:
        """Every known item at or below `path`, shadowed and hidden ones too; no request."""
        with self._lock:
            tree = self._known.tree
            return [*tree.candidates(path), *tree.below(path)]

    def hidden(self) -> list[Item]:
        """Every known item with a hidden name, or below one, of this mount and of others; no request."""
        with self._lock:
            return self._known.tree.hidden()

    def knows(self, item_id: str) -> bool:
        """True if an item of this id is known, shown or not; no request."""
        with self._lock:
            return self._known.tree.get(item_id) is not None

    def listed_since(self, moment: float) -> bool:
        """True if the snapshot began after `moment`, in seconds of the clock."""
        return self._known.snapshot_began > moment

    @property
    def snapshot_number(self) -> int:
        """How many snapshots have been read so far."""
        return self._known.snapshots

    # our own changes

    def publish(self, item: Item) -> None:
        """The answer to our own create or update: the item now is at its path, with all that was below it."""
        with self._lock:
            self._known.publish(item)

    def forget(self, item: Item) -> None:
        """Our own delete, or a 404: the item is gone with all below it; what it shadowed shows again."""
        with self._lock:
            self._known.forget(item)

    def touch(self, path: str) -> None:
        """Trust nothing known of `path`, or of what is below it: the next lookup asks."""
        with self._lock:
            self._known.touch(path)
