"""What the eight endpoints do to one job's items: each method is one endpoint's work, atomic under the lock."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

from .behaviour import Behaviour
from .index import ItemIndex
from .records import (
    PATH_MAX,
    BadPath,
    Job,
    Missing,
    Refused,
    StoredItem,
    checked_path,
    new_id,
    parent,
    utf16_length,
)
from .store import EmulatorStore
from .texts import make_matcher
from .wire import item_json, shown_path

#: How names are stored, by the switch `name_form`.
_KEPT: dict[str, Callable[[str], str]] = {
    "as_sent": lambda path: path,
    "nfc": lambda path: unicodedata.normalize("NFC", path),
    "nfd": lambda path: unicodedata.normalize("NFD", path),
    "lower": str.lower,
    "trimmed": lambda path: "/".join(name.rstrip() for name in path.split("/")),
}


class Workspace:
    """The items of one job, as the API shows and changes them."""

    def __init__(self, store: EmulatorStore, job: Job, items: Iterable[StoredItem]) -> None:
        self.store = store
        self.lock = store.lock
        self.index = ItemIndex()
        self._rng = random.Random(store.seed)
        self._rendered: dict[str, bytes] = {}
        self._rendered_for = store.behaviour
        self.job = job
        for item in items:
            self.index.put(item)

    def create(
        self, kind: Literal["file", "directory"], path: str, permission: str, blob: str = "", size: int = 0
    ) -> StoredItem:
        """POST items/: create an item, which takes over the content. Raises Refused as the reference's table for 400 says."""
        with self.lock:
            behaviour = self.store.behaviour
            path = self._check_destination(path)
            existing = self._find_existing(path, "expertJob")
            if existing and behaviour.create_existing != "duplicate":
                return self._overwrite(existing, kind, permission, blob, size)
            now = self.store.now_us()
            item = StoredItem(new_id(), kind, path, "user", "expertJob", permission, now, now, size, blob)
            self.commit([item])
            return item

    def get(self, item_id: str) -> StoredItem:
        """GET items/{id}. Raises Missing if there is no such item."""
        item = self.index.get(item_id)
        if item is None:
            raise Missing("Workspace item not found")
        return item

    def update(
        self, item_id: str, path: str | None, permission: str | None, lifecycle: str | None
    ) -> StoredItem:
        """POST items/{id}: change what is not None. A directory moves with its contents, unless `move_carries` is off."""
        with self.lock:
            self.begin_update(item_id, path, permission, lifecycle)
            return self.carry_out_update(item_id, path, permission, lifecycle)

    def begin_update(
        self, item_id: str, path: str | None, permission: str | None, lifecycle: str | None
    ) -> None:
        """Do the first half of `update`: raise Refused or Missing if it is not possible."""
        with self.lock:
            item = self.get(item_id)
            if path is None and permission is None and lifecycle is None:
                raise Refused("At least one field is required")
            self._check_writable(item, moves=path is not None or lifecycle is not None)
            target = item.path if path is None else self._check_destination(path, item)
            self._refuse_or_delete_at_target(item, target, lifecycle or item.lifecycle)

    def carry_out_update(
        self, item_id: str, path: str | None, permission: str | None, lifecycle: str | None
    ) -> StoredItem:
        """Do the second half of `update`, even if another item has taken the path since `begin_update`. Raises Missing."""
        with self.lock:
            item = self.get(item_id)
            target = item.path if path is None else self._check_destination(path, item)
            return self.move(
                item,
                target,
                permission=permission or item.permission,
                lifecycle=lifecycle or item.lifecycle,
            )

    def delete(self, item_id: str) -> StoredItem:
        """DELETE items/{id}: remove the item, and a directory's contents."""
        with self.lock:
            item = self.get(item_id)
            self._check_writable(item)
            self.commit(drops=[item, *(self.index.items_below(item.path) if item.is_dir else ())])
            return item

    def find(self, path: str) -> list[StoredItem]:
        """GET items/find: return the items whose path matches, as the switch `find` says."""
        with self.lock:
            mode = self.store.behaviour.find
            wanted = path.removeprefix("/")
            if mode == "exact":
                return self.index.items_at(wanted)
            if mode == "prefix":
                return [item for item in self.index if item.path.startswith(wanted)]
            if mode == "glob":
                matches = make_matcher(wanted)
                return [item for item in self.index if matches(item.path)]
            return [item for item in self.index if wanted in item.path]

    def page(self, take: int, skip: int) -> tuple[list[StoredItem], int]:
        """GET items/: return one page, and the number of all items."""
        with self.lock:
            items = self.index.in_list_order(self.store.behaviour, self._rng)
            return items[skip : skip + take], len(items)

    def open_content(self, item_id: str) -> tuple[StoredItem, int]:
        """GET items/{id}/download: return the item and a descriptor of its bytes. Raises Missing for a directory."""
        with self.lock:
            item = self.get(item_id)
            if item.is_dir:
                raise Missing("File not found")
            return item, self.store.open_blob(item.blob)

    def path_of(self, item_id: str) -> str:
        """Return the item's current path; "" if there is no such item."""
        item = self.index.get(item_id)
        return item.path if item else ""

    def render(self, item: StoredItem) -> bytes:
        """Return the JSON of an item under the current behaviour, cached until either changes."""
        with self.lock:
            behaviour = self.store.behaviour
            if self._rendered_for is not behaviour:
                self._rendered.clear()
                self._rendered_for = behaviour
            if self.index.get(item.id) is not item:
                return item_json(item, self.job.id, behaviour)
            text = self._rendered.get(item.id)
            if text is None:
                text = self._rendered[item.id] = item_json(item, self.job.id, behaviour)
            return text

    def commit(self, puts: Iterable[StoredItem] = (), drops: Iterable[StoredItem] = ()) -> None:
        """Commit to the store, then change the memory, then remove content files that no item names any longer."""
        puts, drops = list(puts), list(drops)
        self.store.commit(self.job.id, puts, drops)
        stale = [item.blob for item in drops if item.blob]
        for item in puts:
            old = self.index.get(item.id)
            if old is not None and old.blob and old.blob != item.blob:
                stale.append(old.blob)
            self.index.put(item)
            self._rendered.pop(item.id, None)
        for item in drops:
            self.index.remove(item)
            self._rendered.pop(item.id, None)
        for blob in stale:
            self.store.remove_blob(blob)

    def move(self, item: StoredItem, target: str, **changes: Any) -> StoredItem:
        """Move an item to `target`, with `changes`, unchecked; a directory moves with its contents if `move_carries`."""
        now = self.store.now_us()
        touches = self.store.behaviour.move_touches
        is_move = target != item.path
        touched = not is_move or touches != "no" or _differs(item, changes)
        moved = replace(item, path=target, updated_us=now if touched else item.updated_us, **changes)
        puts = [moved]
        if item.is_dir and is_move and self.store.behaviour.move_carries:
            puts += [
                replace(
                    below,
                    path=target + below.path[len(item.path) :],
                    updated_us=now if touches == "tree" else below.updated_us,
                )
                for below in self.index.items_below(item.path)
            ]
        self.commit(puts)
        return moved

    def _overwrite(
        self, existing: list[StoredItem], kind: str, permission: str, blob: str, size: int
    ) -> StoredItem:
        shown = self.index.shown_at(existing[0].path)
        item = shown if shown in existing else existing[-1]
        if self.store.behaviour.create_existing == "reject" or item is None or item.kind != kind:
            raise Refused("Path already exists")
        now = self.store.now_us()
        changed = replace(item, permission=permission, updated_us=now, size=size, blob=blob)
        self.commit([changed])
        return changed

    def _refuse_or_delete_at_target(self, item: StoredItem, target: str, lifecycle: str) -> None:
        """Raise Refused if another item is at the target; with `move_existing=replace`, delete that item instead."""
        if (target, lifecycle) == (item.path, item.lifecycle):
            return
        others = [other for other in self._find_existing(target, lifecycle) if other.id != item.id]
        if others and self.store.behaviour.move_existing == "reject":
            raise Refused("Path already exists")
        for other in others:
            self.delete(other.id)

    def _check_writable(self, item: StoredItem, *, moves: bool = True) -> None:
        if moves and item.permission == "readOnly" and self.store.behaviour.read_only == "enforced":
            raise Refused("Workspace item is read only")

    def _find_existing(self, path: str, lifecycle: str) -> list[StoredItem]:
        everywhere = self.store.behaviour.path_scope == "all"
        return [item for item in self.index.items_at(path) if everywhere or item.lifecycle == lifecycle]

    def _check_destination(self, path: str, item: StoredItem | None = None) -> str:
        """Return the relative path of a destination. Raises Refused if it is not valid."""
        behaviour = self.store.behaviour
        if behaviour.input_spelling == "own" and path.startswith("/") != (behaviour.path_style == "slash"):
            raise BadPath
        path = checked_path(_KEPT[behaviour.name_form](path))
        if item is not None and item.is_dir and path.startswith(item.path + "/"):
            raise BadPath
        if self._is_too_long(path, item, behaviour):
            raise BadPath
        if not self._has_parent(path, behaviour):
            raise Refused("Directory not found")
        return path

    def _is_too_long(self, path: str, item: StoredItem | None, behaviour: Behaviour) -> bool:
        """Return whether the path, or that of an item in a moved directory, would be too long as shown."""
        longest = utf16_length(shown_path(path, behaviour))
        if item is not None and item.is_dir and behaviour.move_carries:
            ends = (
                utf16_length(below.path) - utf16_length(item.path)
                for below in self.index.items_below(item.path)
            )
            longest += max(ends, default=0)
        return longest > PATH_MAX

    def _has_parent(self, path: str, behaviour: Behaviour) -> bool:
        if behaviour.implicit_directories == "allowed":
            return not self.index.is_blocked(path)
        return self.index.has_directory(parent(path))


class Workspaces(dict[str, Workspace]):
    """The workspaces of all jobs in a store, by the job's id."""

    def __init__(self, store: EmulatorStore) -> None:
        super().__init__((job.id, Workspace(store, job, items)) for job, items in store.saved)
        self._store = store

    def add(self, job_id: str) -> Workspace:
        """Return the workspace of this job; create the job if it does not exist."""
        with self._store.lock:
            if job_id not in self:
                self[job_id] = Workspace(self._store, self._store.new_job(job_id), [])
            return self[job_id]


class MissingWorkspace(Workspace):
    """The workspace of a job that does not exist: it is empty, and has no directory to create anything in."""

    def __init__(self, store: EmulatorStore, job_id: str) -> None:
        super().__init__(store, Job(job_id, "", "", "", 0, 0), ())

    def _has_parent(self, path: str, behaviour: Behaviour) -> bool:
        return False


def _differs(item: StoredItem, changes: dict[str, Any]) -> bool:
    return any(getattr(item, name) != value for name, value in changes.items())
