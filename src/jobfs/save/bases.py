"""The merge bases of conflict copies: the version that the save replaced, kept for `jobfs merge` (vfs/semantics.md 4, Merging).

A base is stored under the hidden name of the aside before that becomes a conflict copy, and is renamed with it. So a kill between
the two steps loses no base.
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
    """Keeps the merge bases of a mount. Every method may be called from any thread, and raises nothing."""

    def __init__(self, state: State, content: ContentStore, namespace: Namespace) -> None:
        self._state, self._content, self._namespace = state, content, namespace

    def keep_last_save_as_base(self, change: Change) -> None:
        """Keep the last save of a Change's target as the merge base of its asides, if no other copy has the bytes of its base.

        The cache lacks these bytes where `updatedAt` has whole seconds. Call this before the last save is replaced.
        """
        kept, base = self._state.saves.find(change.target), change.base
        if kept is None or not base.sha256 or kept.sha256 != base.sha256:
            return
        if not change.asides or self._item_if_cached(base) is not None:
            return
        for aside in change.asides:
            self._store_copy(aside, self._state.saves.file_path(kept), base)

    def keep_as_last_save(self, change: Change, copy: Copy | None) -> None:
        """Keep what a Change has saved as the last save of its target, unless it is empty (vfs/semantics.md 4.52).

        After a shell has emptied a file by mistake, the save before that is the one to restore (4.55).
        """
        self.keep_last_save_as_base(change)
        if change.size:
            self._state.saves.commit(change.target, copy)

    def keep_merge_base(self, aside: Aside, base: Base) -> None:
        """Keep the base of a save as the merge base of an aside, if the cache has its bytes."""
        item = self._item_if_cached(base)
        if item is None or self._state.bases.find(names.basename(aside.path)) is not None:
            return
        with contextlib.suppress(JobfsError), self._content.open(item) as content:
            self._store_copy(aside, content.fetch_file(), base)

    def _store_copy(self, aside: Aside, source: Path, base: Base) -> None:
        bases, name = self._state.bases, names.basename(aside.path)
        with contextlib.suppress(OSError):
            bases.commit(name, bases.prepare(name, source, source.stat().st_size, base.sha256))

    def _item_if_cached(self, base: Base) -> Item | None:
        """Return an item of the base's version if all of its content is in the cache, else None."""
        # The base of a version that was saved here has a size, even where the server's items have none.
        for size in dict.fromkeys((base.size, None)):
            item = Item(base.id, Kind.FILE, "", updated_at=base.updated_at, size=size)
            if base.id and (size or 0) <= LARGEST and self._content.is_cached(item):
                return item
        return None

    def rename_base(self, hidden: str, path: str) -> None:
        """Rename the base of an aside that had the path `hidden`, if its new `path` is that of a second version."""
        if names.parse_second_version(path) is not None:
            self._state.bases.rename(names.basename(hidden), path)

    def drop_base_of_settled(self, aside: Aside) -> None:
        """Drop the base of an aside that is decided; a base that was renamed with its conflict copy stays."""
        self._state.bases.drop(names.basename(aside.path))

    def forget_vanished(self) -> None:
        """Forget the bases of conflict copies that the last listing does not show."""
        for path in self._state.bases.paths():
            # While the name is hidden, its Change still has to decide about the aside.
            hidden = names.parse_hidden_name(names.basename(path)) is not None
            if not (hidden or self._namespace.peek(path) or self._state.index.file_at(path)):
                self._state.bases.drop(path)
