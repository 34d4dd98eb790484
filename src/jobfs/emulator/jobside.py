"""The other side of a workspace: what the job does to its files, and what a test puts there or checks.

Nothing here applies the API's rules: a test may seed hostile paths, two items at one path, or files whose directory has no item.
Paths are relative; a path without an item raises KeyError.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from .index import missing_parents
from .records import DIRECTORY, FILE, Job, StoredItem, new_id
from .workspace import Workspace

Lifecycle = Literal["application", "expertJob"]
Permission = Literal["readOnly", "readWrite"]


class JobSide:
    """Direct access to the items of one job. Every method is atomic and thread-safe.

    A caller that holds `lock` makes several calls atomic together.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._store = workspace.store
        self._index = workspace.index
        self.lock = workspace.lock

    def seed(
        self,
        tree: Mapping[str, bytes | str | None],
        *,
        lifecycle: Lifecycle = "expertJob",
        permission: Permission = "readWrite",
        owner: Literal["user", "expert"] = "expert",
        directories: bool = True,
        age: float = 0.0,
    ) -> list[StoredItem]:
        """Add a new item for each path, without checks: None is a directory, text is UTF-8; `age` in seconds.

        With `directories`, missing directories above the paths are added. Returns the items of `tree`.
        """
        with self.lock:
            made = []
            above = [p for p in missing_parents(self._index, tree) if p not in tree] if directories else []
            for path, content in {**dict.fromkeys(above), **tree}.items():
                moment = self._store.now_us() - int(age * 1_000_000)
                blob, size = ("", 0) if content is None else self._store_content(content)
                kind = DIRECTORY if content is None else FILE
                made.append(
                    StoredItem(new_id(), kind, path, owner, lifecycle, permission, moment, moment, size, blob)
                )
            self._workspace.commit(made)
            return [item for item in made if item.path in tree]

    def write(self, path: str, content: bytes | str) -> StoredItem:
        """Write new content in place, as the job does: the same id with a new updatedAt; or create the file."""
        with self.lock:
            item = self._index.shown_at(path)
            if item is None:
                return self.seed({path: content})[0]
            blob, size = self._store_content(content)
            return self._change_item(item, blob=blob, size=size)

    def append(self, path: str, content: bytes | str) -> StoredItem:
        """Append to a file in place, or create it."""
        with self.lock:
            old = self.read(path) if self._index.shown_at(path) else b""
            return self.write(path, old + _to_bytes(content))

    def replace(self, path: str, content: bytes | str) -> StoredItem:
        """Delete a file and create a new one, as the job may do: another id at the same path."""
        with self.lock:
            self.delete(path)
            return self.seed({path: content})[0]

    def mkdir(self, path: str) -> StoredItem:
        """Return the directory item at this path; create it if there is none."""
        with self.lock:
            found = [item for item in self._index.items_at(path) if item.is_dir]
            return found[0] if found else self.seed({path: None})[0]

    def delete(self, path: str) -> None:
        """Remove every item at this path and below."""
        with self.lock:
            self._workspace.commit(drops=self._tree_at(path))

    def clear(self) -> None:
        """Remove all items."""
        with self.lock:
            self._workspace.commit(drops=self._index)

    def move(self, old: str, new: str) -> None:
        """Rename as the job's own `mv` does: `new` is replaced, and everything below `old` moves along."""
        with self.lock:
            moving = self._tree_at(old)
            doomed = {item.id: item for item in [*self._index.items_at(new), *self._index.items_below(new)]}
            self._workspace.commit(drops=[i for i in doomed.values() if i not in moving])
            for item in self._index.items_at(old) or moving:
                if self._index.get(item.id) is item:
                    self._workspace.move(item, new + item.path[len(old) :])

    def read(self, path: str) -> bytes:
        """Return the bytes of the file shown at this path."""
        with self.lock:
            item = self.item_at(path)
            if item.is_dir:
                raise KeyError(path)
            return self._read_content(item)

    def content_of(self, item_id: str) -> bytes:
        """Return the bytes of one item, even if it is shadowed."""
        with self.lock:
            item = self.item_by_id(item_id)
            if item.is_dir:
                raise KeyError(item_id)
            return self._read_content(item)

    def item_at(self, path: str) -> StoredItem:
        """Return the item shown at this path: of several, the newest of the job's own; else the newest workspace default."""
        item = self._index.shown_at(path)
        if item is None:
            raise KeyError(path)
        return item

    def item_by_id(self, item_id: str) -> StoredItem:
        """Return the item with this id."""
        item = self._index.get(item_id)
        if item is None:
            raise KeyError(item_id)
        return item

    def items_at(self, path: str) -> list[StoredItem]:
        """Return all items at this path, oldest first."""
        with self.lock:
            return self._index.items_at(path)

    def exists(self, path: str) -> bool:
        """Return whether there is an item at this path."""
        return bool(self.items_at(path))

    def items(self) -> list[StoredItem]:
        """Return all items, oldest first."""
        with self.lock:
            return list(self._index)

    def tree(self) -> dict[str, bytes | None]:
        """Return path and bytes (None: a directory) of all items that are shown, sorted by path."""
        with self.lock:
            shown = [self.item_at(path) for path in sorted({item.path for item in self._index})]
            return {item.path: None if item.is_dir else self._read_content(item) for item in shown}

    def set_permission(self, path: str, permission: Permission) -> StoredItem:
        """Change the permission of the item shown at this path."""
        with self.lock:
            return self._change_item(self.item_at(path), permission=permission)

    def set_lifecycle(self, path: str, lifecycle: Lifecycle) -> StoredItem:
        """Change the lifecycle of the item shown at this path."""
        with self.lock:
            return self._change_item(self.item_at(path), lifecycle=lifecycle)

    def set_job(self, **changes: Any) -> Job:
        """Change the job's state: `status`, `current_step`, `max_steps`, `query`."""
        with self.lock:
            job = replace(self._workspace.job, updated_us=self._store.now_us(), **changes)
            self._store.save_job(job)
            self._workspace.job = job
            return job

    def job(self) -> Job:
        """Return the job's state."""
        return self._workspace.job

    def _change_item(self, item: StoredItem, **changes: Any) -> StoredItem:
        changed = replace(item, updated_us=self._store.now_us(), **changes)
        self._workspace.commit([changed])
        return changed

    def _tree_at(self, path: str) -> list[StoredItem]:
        found = [*self._index.items_at(path), *self._index.items_below(path)]
        if not found:
            raise KeyError(path)
        return found

    def _store_content(self, content: bytes | str) -> tuple[str, int]:
        blob = self._store.new_blob()
        try:
            blob.write(_to_bytes(content))
        except BaseException:
            blob.discard()
            raise
        blob.close()
        return blob.name, blob.size

    def _read_content(self, item: StoredItem) -> bytes:
        fd = self._store.open_blob(item.blob)
        with os.fdopen(fd, "rb") as file:
            return file.read()


def _to_bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content
