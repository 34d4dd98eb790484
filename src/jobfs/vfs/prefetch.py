"""Contents fetched ahead of a program that reads one file after another (semantics.md section 3, Prefetch)."""

from __future__ import annotations

import threading

from jobfs.content import Content, ContentStore
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.state import State
from jobfs.vfs.walk import Atlas, Walks

#: Larger files, in bytes, are left to their reader: what a round trip costs is little beside their transfer.
LARGE = 1 << 20


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

    def concerned(self, content: object) -> bool:
        """False if it makes no difference that this content is read: it is here, and nobody is fetched ahead of."""
        return bool(self._walks) or not (isinstance(content, Content) and content.here)

    def reading(self, path: str, item: Item) -> None:
        """A file is being read from its start."""
        with self._lock:
            room = self._walks.read(path, item)
        if room:
            self._content.prefetch(self._take, room)

    def _take(self) -> Item | None:
        with self._lock:
            return self._walks.take()

    def _worth_it(self, item: Item) -> bool:
        size = self._content.learned_size(item.version)
        return size is not None and size <= LARGE and self._content.lasting(item)
