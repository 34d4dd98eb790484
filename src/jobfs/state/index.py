"""The index: Files by number, item and path, and the overrides of Changes (design.md, What a path shows). In memory only.

`State.write` and `State.apply_in_memory` keep it up to date. A reader of a single path needs no lock, because each entry is
replaced as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from jobfs import names
from jobfs.nodes import Item, inode_number
from jobfs.state.records import Change, File

#: The fields of a File that no path shows: those that concern its saves only.
_NOT_SHOWN = frozenset(
    ("generation", "size", "open_generation", "boot", "base", "sha256", "refused", "refused_errno")
)


class FileIndex:
    """Files by number, by item and by path, and the overrides of Changes."""

    def __init__(self, lock: threading.Condition) -> None:
        """`lock`: the state's."""
        self._lock = lock
        #: Grows after a path shows something else, or a shown field of a File has changed.
        self.edition = 1
        self._by_number: dict[int, File] = {}
        self._by_item: dict[str, File] = {}
        #: By directory and name: the Files that are shown.
        self._shown: dict[str, dict[str, File]] = {}
        #: By path: the Changes that override it, each with the item that it shows, or None for nothing. The last one counts.
        self._overrides: dict[str, tuple[tuple[Change, Item | None], ...]] = {}

    # -- what is shown

    @property
    def overrides_namespace(self) -> bool:
        """True if any path shows something other than the namespace has there."""
        return bool(self._shown or self._overrides)

    def file_at(self, path: str) -> File | None:
        """Return the File that is shown at a path, None if there is none."""
        shown = self._shown.get(names.parent(path))
        return shown.get(names.basename(path)) if shown else None

    def has_override(self, path: str) -> bool:
        """Return whether a Change overrides a path."""
        return path in self._overrides

    def is_decided_here(self, path: str) -> bool:
        """Return whether a File or an override decides what a path shows; a File that holds only attributes does not."""
        return path in self._overrides or self.file_at(path) is not None

    def item_shown_by_override(self, path: str) -> Item | None:
        """Return the item that an override shows at a path; None if it shows nothing there, or if there is no override."""
        overrides = self._overrides.get(path)
        return overrides[-1][1] if overrides else None

    def children_of(self, directory: str) -> tuple[dict[str, File], dict[str, Item | None]]:
        """Return the Files that are shown in a directory, and the overrides there, both by name."""
        with self._lock:
            overrides = {
                names.basename(path): found[-1][1]
                for path, found in self._overrides.items()
                if names.parent(path) == directory
            }
            return dict(self._shown.get(directory, {})), overrides

    def local_files_below(self, directory: str) -> list[File]:
        """Return the Files below a directory that are open, override the server or have closed bytes."""
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
        """Return the File with a number, None if there is none."""
        return self._by_number.get(ino)

    def all_files(self) -> list[File]:
        """Return every File."""
        with self._lock:
            return list(self._by_number.values())

    def file_of(self, item: Item) -> File | None:
        """Return the File that stands for an item, None if there is none.

        A File that overrides the server stands for its item only at its own path: after a rename by the job, they are two files.
        """
        if not item.id:
            return self._by_number.get(self.inode_of(item))
        file = self._by_item.get(item.id)
        return None if file is None or (file.overrides_server and file.path != item.path) else file

    def file_by_item_id(self, item_id: str) -> File | None:
        """Return the File with an item's id, wherever the item is now; None if there is none."""
        return self._by_item.get(item_id)

    def inode_of(self, item: Item) -> int:
        """Return the inode number of an item: that of its File, or else one derived from the item's id."""
        if item.id and (file := self.file_of(item)) is not None:
            return file.ino
        return self._unused_inode_number(item)

    def _unused_inode_number(self, item: Item) -> int:
        """Return a number derived from an item's id, or an implicit directory's path, that no File of another item has."""
        key = item.id or f"implicit:{item.path}"
        number, attempt = inode_number(key), 0
        while (file := self._by_number.get(number)) is not None and not _is_file_of_implicit(file, item):
            attempt += 1
            number = inode_number(key, attempt)
        return number

    def reindex(self, file: File) -> None:
        """Update where a File is shown: at its path if it overrides the server, else nowhere."""
        with self._lock:
            self._set_shown_path(file, file.path if file.path and file.overrides_server else None)

    # -- kept up to date; the caller has the lock

    def load(self, files: Iterable[File]) -> None:
        """Load the Files of an earlier mount; none of them is shown yet."""
        self._by_number = {file.ino: file for file in files}
        self._by_item = {file.item_id: file for file in files if file.item_id}

    def get_or_add(self, item: Item) -> File:
        """Return the File of an item, or add one. A File that does not override the server takes over `item` and its path."""
        file = self.file_of(item)
        if file is None:
            file = File(self._unused_inode_number(item), item.kind, item.path, item.id, item=item)
            self._by_number[file.ino] = file
            if file.item_id:
                self._by_item[file.item_id] = file
        elif not file.overrides_server:
            file.item, file.path = item, item.path
        return file

    def add(self, file: File) -> None:
        """Add a File, and show it at its path if it overrides the server."""
        self._by_number[file.ino] = file
        if file.item_id:
            self._by_item[file.item_id] = file
        self.reindex(file)

    def update(self, file: File, changed: Mapping[str, Any]) -> None:
        """Set fields of a File, and add it if it is not in the index."""
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
        """Remove a File from the index; handles may still hold it."""
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
            shown = self._shown.get(directory, {})
            if shown.get(name) is file:
                del shown[name]
                if not shown:
                    del self._shown[directory]
        if path is not None:
            self._shown.setdefault(names.parent(path), {})[names.basename(path)] = file
        file.shown_at = path
        self.edition += 1  # last, so that a thread which reads the new edition also finds the File

    def add_override(self, change: Change) -> None:
        """Add the overrides of a Change."""
        for path, item in change.shows.items():
            self._overrides[path] = (*self._overrides.get(path, ()), (change, item))
        self.edition += bool(change.shows)

    def remove_override(self, change: Change) -> None:
        """Remove the overrides of a Change."""
        for path in change.shows:
            others = tuple(found for found in self._overrides.get(path, ()) if found[0] is not change)
            if others:
                self._overrides[path] = others
            else:
                self._overrides.pop(path, None)
        self.edition += bool(change.shows)


def _is_file_of_implicit(file: File, item: Item) -> bool:
    """Return whether `item` is an implicit directory, and `file` the File for it."""
    return item.is_implicit and not file.item_id and not (file.overrides_server and file.path != item.path)
