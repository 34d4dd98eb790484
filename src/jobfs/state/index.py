"""The index: which File is which, and what a path shows (design.md, What a path shows). In memory only.

`State.write` and `State.apply_in_memory` keep it up to date. Readers that look up a single path need no lock: each entry is
replaced whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from jobfs import names
from jobfs.nodes import Item, inode_number
from jobfs.state.records import Change, File

#: Fields of a File of which nothing is shown: what is under way with its bytes, and what a save has to know.
_NOT_SHOWN = frozenset(
    ("generation", "size", "open_generation", "boot", "base", "sha256", "refused", "refused_errno")
)


class FileIndex:
    """Files by number, by item and by path, and what Changes show instead of the server's items."""

    def __init__(self, lock: threading.Condition) -> None:
        """`lock`: the state's."""
        self._lock = lock
        #: Grows once a path shows something else, or a remembered attribute has changed.
        self.edition = 1
        self._by_number: dict[int, File] = {}
        self._by_item: dict[str, File] = {}
        #: By directory: the Files that are shown there, by name.
        self._shown: dict[str, dict[str, File]] = {}
        #: By path: each Change that says what it shows, with that item or None for nothing. The last one counts.
        self._overrides: dict[str, tuple[tuple[Change, Item | None], ...]] = {}

    # -- what is shown

    @property
    def overrides_namespace(self) -> bool:
        """True if any path shows something else than the namespace says."""
        return bool(self._shown or self._overrides)

    def file_at(self, path: str) -> File | None:
        """Return the File that is shown at a path."""
        here = self._shown.get(names.parent(path))
        return here.get(names.basename(path)) if here else None

    def has_override(self, path: str) -> bool:
        """Return whether a Change says what is shown at this path."""
        return path in self._overrides

    def override_at(self, path: str) -> Item | None:
        """Return what is shown at a path where `has_override` is true."""
        overrides = self._overrides.get(path)
        return overrides[-1][1] if overrides else None

    def children_of(self, directory: str) -> tuple[dict[str, File], dict[str, Item | None]]:
        """Return the Files shown in a directory, and what Changes say is shown there, by name."""
        with self._lock:
            overrides = {
                names.basename(path): found[-1][1]
                for path, found in self._overrides.items()
                if names.parent(path) == directory
            }
            return dict(self._shown.get(directory, {})), overrides

    def local_files_below(self, directory: str) -> list[File]:
        """Return every File below a directory that is open, or has something that is only here."""
        with self._lock:
            return [
                file
                for file in self._by_number.values()
                if file.path is not None
                and names.is_below(file.path, directory)
                and (file.overrides_server or file.handles or file.generation)
            ]

    # -- which file is which

    def file_by_number(self, ino: int) -> File | None:
        """Return the File of a number."""
        return self._by_number.get(ino)

    def all_files(self) -> list[File]:
        """Return every File."""
        with self._lock:
            return list(self._by_number.values())

    def file_of(self, item: Item) -> File | None:
        """Return the File of an item. A File that was changed here while the job renamed its item is another file by now."""
        if not item.id:
            return self._by_number.get(self.inode_of(item))
        file = self._by_item.get(item.id)
        return None if file is None or (file.overrides_server and file.path != item.path) else file

    def file_by_item_id(self, item_id: str) -> File | None:
        """Return the File of an item's id, wherever the item is by now."""
        return self._by_item.get(item_id)

    def inode_of(self, item: Item) -> int:
        """Return the item's inode number: that of its File; without a File, one made from its id that no other File has."""
        if item.id and (file := self.file_of(item)) is not None:
            return file.ino
        return self._free_number(item)

    def _free_number(self, item: Item) -> int:
        """Return a number made from an item's id that no File of another item has."""
        # A directory that no item stands for goes by its path.
        key = item.id or f"implicit:{item.path}"
        number, other = inode_number(key), 0
        while (file := self._by_number.get(number)) is not None and not _is_implicit(file, item):
            other += 1
            number = inode_number(key, other)
        return number

    def reindex(self, file: File) -> None:
        """Update where this File is shown."""
        with self._lock:
            self._set_shown_path(file, file.path if file.path and file.overrides_server else None)

    # -- kept up to date; the caller has the lock

    def load(self, files: Iterable[File]) -> None:
        """Take Files of an earlier mount; none of them is shown yet."""
        self._by_number = {file.ino: file for file in files}
        self._by_item = {file.item_id: file for file in files if file.item_id}

    def open(self, item: Item) -> File:
        """Return the File of an item, made if need be: nothing of it is shown instead of the item."""
        file = self.file_of(item)
        if file is None:
            file = File(self._free_number(item), item.kind, item.path, item.id, item=item)
            self._by_number[file.ino] = file
            if file.item_id:
                self._by_item[file.item_id] = file
        elif not file.overrides_server:
            file.item, file.path = item, item.path
        return file

    def add(self, file: File) -> None:
        """Add a File."""
        self._by_number[file.ino] = file
        if file.item_id:
            self._by_item[file.item_id] = file
        self.reindex(file)

    def update(self, file: File, changed: Mapping[str, Any]) -> None:
        """Change fields of a File, which is added if need be."""
        item_id = changed.get("item_id", file.item_id)
        if item_id != file.item_id:
            self._remove_item(file)
            if item_id:
                self._by_item[item_id] = file
        for name, value in changed.items():
            setattr(file, name, value)
        self._by_number[file.ino] = file
        self.reindex(file)
        if not _NOT_SHOWN.issuperset(changed):
            self.edition += 1

    def remove(self, file: File) -> None:
        """Forget a File; if it is open, it lives on with its handles."""
        if self._by_number.get(file.ino) is file:
            del self._by_number[file.ino]
        if file.item_id:
            self._remove_item(file)
        if file.shown_at is not None:
            self._set_shown_path(file, None)

    def _remove_item(self, file: File) -> None:
        if self._by_item.get(file.item_id) is file:
            del self._by_item[file.item_id]

    def _set_shown_path(self, file: File, path: str | None) -> None:
        if path == file.shown_at:
            return
        if file.shown_at is not None:
            directory, name = names.parent(file.shown_at), names.basename(file.shown_at)
            here = self._shown.get(directory, {})
            if here.get(name) is file:
                del here[name]
                if not here:
                    del self._shown[directory]
        if path is not None:
            self._shown.setdefault(names.parent(path), {})[names.basename(path)] = file
        file.shown_at = path
        self.edition += 1  # afterwards: who finds this number finds the File too

    def add_override(self, change: Change) -> None:
        """Show what a Change says is shown at its names."""
        for path, item in change.shows.items():
            self._overrides[path] = (*self._overrides.get(path, ()), (change, item))
        self.edition += bool(change.shows)

    def remove_override(self, change: Change) -> None:
        """Show at the names of a Change what is shown without it."""
        for path in change.shows:
            others = tuple(found for found in self._overrides.get(path, ()) if found[0] is not change)
            if others:
                self._overrides[path] = others
            else:
                self._overrides.pop(path, None)
        self.edition += bool(change.shows)


def _is_implicit(file: File, item: Item) -> bool:
    """Return whether the number of a File is that of a directory that no item stands for."""
    return item.is_implicit and not file.item_id and not (file.overrides_server and file.path != item.path)
