"""The bytes that a conflict copy and its file both began with, kept for `jobfs merge` (vfs/semantics.md 4, Merging).

They are kept under the hidden name of the item that was set aside, from the moment at which it is to become a conflict copy, and
go with that item to its new name: a kill in between loses none.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from jobfs import names
from jobfs.content import ContentStore
from jobfs.errors import JobfsError
from jobfs.namespace import Namespace
from jobfs.nodes import Item, Kind
from jobfs.state import Change, State
from jobfs.state.copies import LARGEST, Copy
from jobfs.state.records import Aside, Base

log = logging.getLogger("jobfs.save")


class BaseKeeper:
    """One for a mount. Every method may be called from any thread, and raises nothing."""

    def __init__(self, state: State, content: ContentStore, namespace: Namespace) -> None:
        self._state, self._content, self._namespace = state, content, namespace

    def keep_replaced_save(self, change: Change) -> None:
        """Keep the last save of a Change's target, which it is about to replace, if only that has the bytes of its base.

        Where `updatedAt` has whole seconds, the content cache does not have them.
        """
        kept, base = self._state.saves.find(change.target), change.base
        if kept is None or not base.sha256 or kept.sha256 != base.sha256:
            return
        if not change.asides or self._cached_item(base) is not None:
            return
        for aside in change.asides:
            self._store_copy(aside, self._state.saves.file_path(kept), base)

    def keep_save(self, change: Change, copy: Copy | None) -> None:
        """Keep what a Change has saved in the place of what was saved at its target before, but nothing empty: a shell has
        emptied a file by mistake before its owner asks for what was in it (vfs/semantics.md 4.55).
        """
        self.keep_replaced_save(change)
        if change.size:
            self._state.saves.commit(change.target, copy)

    def keep_base(self, aside: Aside, base: Base) -> None:
        """Keep the base of a save for an item that it has set aside, if the bytes are in the cache."""
        item = self._cached_item(base)
        if item is None or self._state.bases.find(names.basename(aside.path)) is not None:
            return
        with contextlib.suppress(JobfsError), self._content.open(item) as content:
            self._store_copy(aside, content.fetch_file(), base)

    def _store_copy(self, aside: Aside, source: Path, base: Base) -> None:
        bases, name = self._state.bases, names.basename(aside.path)
        with contextlib.suppress(OSError):
            bases.commit(name, bases.prepare(name, source, source.stat().st_size, base.sha256))

    def _cached_item(self, base: Base) -> Item | None:
        """Return an item of the base's version if its content is whole in the cache, else None."""
        # Of what was saved here the base has a size, although this server may tell none.
        for size in dict.fromkeys((base.size, None)):
            item = Item(base.id, Kind.FILE, "", updated_at=base.updated_at, size=size)
            if base.id and (size or 0) <= LARGEST and self._content.is_cached(item):
                return item
        return None

    def rename_base(self, hidden: str, path: str) -> None:
        """Rename the base of an item that had a hidden path, if it is a conflict copy now."""
        if names.parse_second_version(path) is not None:
            self._state.bases.rename(names.basename(hidden), path)

    def drop_settled(self, aside: Aside) -> None:
        """Drop the base of an item over which nothing is left to decide, unless it has another name by now."""
        self._state.bases.drop(names.basename(aside.path))

    def forget_vanished(self) -> None:
        """Forget the bases of conflict copies that the last listing does not show."""
        for path in self._state.bases.paths():
            # Of a hidden one, its Change still decides.
            hidden = names.parse_hidden_name(names.basename(path)) is not None
            if not (hidden or self._namespace.peek(path) or self._state.index.file_at(path)):
                self._state.bases.drop(path)
