"""The TTL metadata cache: what is known of the server's tree, how old that is, and what may overwrite it.

All methods are called with the namespace's lock held.

A *ticket* is a number drawn when a request begins; every change of ours draws the next one. So a reply is older than a change
if and only if its ticket is smaller, whatever the clocks say. While a request is in flight, the changes since then are kept,
so that its reply can be rejected (find) or corrected by them (listing).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from typing import NamedTuple

from cachetools import FIFOCache, TTLCache

from jobfs import names
from jobfs.namespace.differences import Difference, list_differences
from jobfs.namespace.tree import ItemTree, hiding_parent, looks_different
from jobfs.nodes import Item, clamp_ns


class OwnChange(NamedTuple):
    """The items `ids` at `paths` were changed by us, or shown by a find; `with_descendants`: with everything below these paths.

    The change is newer than a reply whose request has a ticket below `ticket`. `deleted`: the items are gone, not moved.
    """

    ticket: int
    ids: Set[str]
    paths: Set[str]
    with_descendants: bool = False
    deleted: bool = False

    def invalidates(self, path: str, ids: Collection[str]) -> bool:
        """Return whether an older reply about `path`, which names `ids`, can't be believed."""
        if path in self.paths or not self.ids.isdisjoint(ids):
            return True
        return self.with_descendants and any(names.is_below(path, at) for at in self.paths)


def carry_into_listing(change: OwnChange, old: ItemTree, new: ItemTree) -> set[str]:
    """Correct `new`, a listing that began before `change`, by what `old` says of the changed items and of those below.

    Returns the paths that must be requested again: where the two trees disagree, and neither can be believed.
    """
    places = {*change.paths, *(item.path for item in filter(None, map(new.get, change.ids)))}
    if change.with_descendants and change.deleted:
        _drop_hidden_strangers(places, old, new)
    others = _ids_moved_here(_items_at(places, new, below=change.with_descendants), old) - change.ids
    unknown = _ids_not_in(change.ids, old)
    doubts = places if others or (unknown and not change.deleted) else set()
    # An item that `old` shows elsewhere may have existed throughout: it must not be lost.
    for item_id in others | change.ids:
        doubts |= _carry_item(item_id, old, new)
    for item_id in unknown if change.deleted else ():
        new.remove(item_id)
    return doubts


def _items_at(places: Collection[str], tree: ItemTree, *, below: bool) -> list[Item]:
    """Return the items at these paths, and with `below` those below them."""
    return [
        item for at in places for item in (*tree.candidates(at), *(tree.descendants(at) if below else ()))
    ]


def _ids_moved_here(items: Collection[Item], old: ItemTree) -> set[str]:
    """Return the ids of the items that `old` does not have at their path."""
    known = ((item, old.get(item.id)) for item in items)
    return {item.id for item, was in known if was is None or was.path != item.path}


def _ids_not_in(ids: Collection[str], tree: ItemTree) -> set[str]:
    return {item_id for item_id in ids if tree.get(item_id) is None}


def _drop_hidden_strangers(places: Collection[str], old: ItemTree, new: ItemTree) -> None:
    """Drop unknown hidden items below a deleted directory: they went with it, and would keep it shown."""
    for item in _items_at(places, new, below=True):
        if old.get(item.id) is None and hiding_parent(item.path) is not None:
            new.remove(item.id)


def _carry_item(item_id: str, old: ItemTree, new: ItemTree) -> set[str]:
    """Put an item into `new` as `old` has it, if `old` does; return both paths if they differ."""
    listed, known = new.get(item_id), old.get(item_id)
    if known is None:
        return set()
    new.put(known)
    return {listed.path, known.path} if listed is not None and listed.path != known.path else set()


#: The time of something that was never requested: older than any bound.
NEVER = -math.inf
#: The age of this many single paths is remembered; a path that was forgotten is just requested again.
_STAMPS = 20_000


class Stamp(NamedTuple):
    """How fresh a path or a snapshot is: when its request began, the request's ticket, and when it was last confirmed."""

    began: float = NEVER
    ticket: int = 0
    confirmed: float = NEVER


class MetadataCache:
    """The tree, the age of the snapshot and of single paths (kept for `remember` seconds), and the counter of tickets."""

    def __init__(
        self,
        remember: float,
        clock: Callable[[], float],
        is_decided_here: Callable[[str], bool] = lambda _path: False,
    ) -> None:
        self._clock, self._is_decided_here = clock, is_decided_here
        self.tree = ItemTree()
        self.snapshot_count = 0
        self.snapshot = Stamp()
        self.implicit_seen = False
        self._stamps: TTLCache[str, Stamp] = TTLCache(_STAMPS, remember, timer=clock)
        #: The ticket of the last request or change; each later one has a greater ticket.
        self.last_ticket = 0
        self._in_flight: set[int] = set()
        self._changes: deque[tuple[int, OwnChange]] = deque()
        self._doubts: dict[str, int] = {}
        self._names_changed: FIFOCache[str, int] = FIFOCache(_STAMPS)
        #: What was shown at the paths that others have changed, until `take_differences` reports them.
        self._pending_differences: dict[str, Item | None] = {}

    # requests

    def begin_request(self) -> int:
        """Draw a ticket for a request that begins now; `finish_request` must follow."""
        ticket = self._next_ticket()
        self._in_flight.add(ticket)
        return ticket

    def finish_request(self, ticket: int) -> None:
        """Note that a request has ended, with or without success; forget the changes that only it needed."""
        self._in_flight.discard(ticket)
        oldest = min(self._in_flight, default=self.last_ticket)
        while self._changes and self._changes[0][0] <= oldest:
            self._changes.popleft()

    def record_find(self, ticket: int, began: float, path: str, items: list[Item]) -> None:
        """Record the reply to a find, unless something newer is known of this path or of these items."""
        ids = {item.id for item in items}
        if self._is_outdated(ticket, path, ids):
            return
        self._doubt_arrived_directories(ticket, path, items)
        before = self._shown_at_affected_paths(path, items)
        self.tree.replace_at(path, items)
        self._note_differences(before)
        self._note_changed_names(before)
        self._record_change(OwnChange(ticket, ids, {path}))
        if any(item.is_dir for item in items) or not self.tree.has_descendants(path):
            self._stamps[path] = Stamp(began, ticket, self._clock())

    def _shown_at_affected_paths(self, path: str, items: Collection[Item]) -> dict[str, Item | None]:
        """Return what is shown at each path where `items` at `path` may change it.

        An item leaves the path where it was known, and implicit directories appear and vanish with their contents.
        """
        known = filter(None, (self.tree.get(item.id) for item in items))
        paths = (path, *(item.path for item in known))
        return {above: self.tree.shown_at(above) for at in paths for above in _path_and_ancestors(at)}

    def _is_outdated(self, ticket: int, path: str, ids: Collection[str]) -> bool:
        """Return whether something newer than a request with this ticket is known of `path` or of these items."""
        newer = (change for _, change in self._changes if change.ticket > ticket)
        return self.snapshot.ticket > ticket or any(change.invalidates(path, ids) for change in newer)

    def _doubt_arrived_directories(self, ticket: int, path: str, items: Collection[Item]) -> None:
        """Doubt what is below directories that are new at `path`: only the server knows what they contain."""
        for item in items:
            known = self.tree.get(item.id)
            if item.is_dir and (known is None or known.path != path):
                self._mark_doubtful(path, ticket)
                self._mark_doubtful(path if known is None else known.path, ticket)

    def _note_differences(self, before: Mapping[str, Item | None]) -> None:
        """Note for `take_differences` the paths that no longer show what they showed `before`."""
        for path, was in before.items():
            if looks_different(was, self.tree.shown_at(path)):
                self._pending_differences.setdefault(path, was)

    def record_listing(self, ticket: int, began: float, tree: ItemTree) -> None:
        """Replace the tree by a newer one, except for changes since the listing of that one began."""
        self._doubts = {path: number for path, number in self._doubts.items() if number > ticket}
        for change in [change for _, change in self._changes if change.ticket > ticket]:
            for path in carry_into_listing(change, self.tree, tree):
                self._mark_doubtful(path, self._next_ticket())
        old, self.tree = self.tree, tree
        if self.snapshot_count:
            self._note_changed_names(changed := tree.items_before_differences(old))
            self._pending_differences = changed | self._pending_differences
        self.snapshot_count += 1
        self.snapshot = Stamp(began, ticket, began)
        self.implicit_seen = self.implicit_seen or tree.has_implicit_directory()

    def _note_changed_names(self, before: Mapping[str, Item | None]) -> None:
        """Note in which directories names have appeared or vanished.

        `before`: what each path showed that may show something else now.
        """
        came_or_went = (path for path, was in before.items() if self._came_or_went(path, was))
        for directory in set(map(names.parent, came_or_went)):
            item = self.tree.shown_at(directory)
            # A new directory has the time of its item, if it has an item.
            if item is not None and (before.get(directory, item) is not None or item.is_implicit):
                self.note_names_changed(directory, time.time_ns())

    def _came_or_went(self, path: str, was: Item | None) -> bool:
        """Return whether a name has appeared or vanished, for programs too: `path` showed `was` before."""
        return (was is None) is not (self.tree.shown_at(path) is None) and not self._is_decided_here(path)

    def take_differences(self) -> list[Difference]:
        """Return what others have changed since the last call, as far as a listing or a find has shown it."""
        pending, self._pending_differences = self._pending_differences, {}
        return list_differences(pending, self.tree.shown_at)

    # when the names in a directory change

    def names_changed_at(self, directory: Item) -> int:
        """Return when the names in a directory were last seen to change, in ns since the epoch.

        Returns 0 if that was not seen, or not since `forget_names_changed`.
        """
        return self._names_changed.get(directory.id or directory.path, 0)

    def note_names_changed(self, path: str, now: int) -> None:
        """Note that names in a directory changed: its time becomes later than the last one shown, whatever the clocks say."""
        directory = self.tree.shown_at(path)
        if directory is not None:
            last_shown = max(self.names_changed_at(directory), directory.updated_ns)
            self._names_changed[directory.id or path] = clamp_ns(max(now, last_shown + 1))
            self._next_ticket()

    def forget_names_changed(self, directory: Item) -> None:
        """Forget when the names in a directory changed."""
        self._names_changed.pop(directory.id or directory.path, None)
        self._next_ticket()

    # our own changes

    def record_own_change(self, item: Item, old_path: str = "", *, is_reported: bool = False) -> None:
        """Record our own change: `item` is now at its path, with everything that was below `old_path`.

        `old_path`: the path that we moved the item from, if we did. A listing may show the item at its new path, without
        everything below it, before the reply to our request comes. `is_reported`: the item is a second version that is kept
        beside its file; unlike our other changes, it is reported by `take_differences`.
        """
        known = self.tree.get(item.id)
        old = old_path or item.path
        whole = item.is_dir and old != item.path
        beside = any(other.id != item.id for other in self.tree.candidates(item.path))
        self.tree.put_moved(item, old)
        self._record_change(OwnChange(0, {item.id}, {item.path, old, known.path if known else old}, whole))
        if known is not None and known.path not in (item.path, old):
            self._doubt_directory_moved_by_others(item, known.path)
        if is_reported:
            self._pending_differences[item.path] = None
        if whole:
            self._carry_doubts(old, item.path)
        if beside:
            # The item can't be at a path that is still taken: what is known of this path is outdated.
            self.invalidate(item.path)
        # If the server falls silent, our own change counts as a confirmation.
        stamp = self._stamps.get(item.path, Stamp())
        self._stamps[item.path] = stamp._replace(confirmed=self._clock())

    def _doubt_directory_moved_by_others(self, item: Item, known_path: str) -> None:
        """Doubt what is below a directory where it is now and was known: only the server knows what others took along."""
        if item.is_dir:
            self.invalidate(known_path)
            self.invalidate(item.path)

    def _carry_doubts(self, old: str, new: str) -> None:
        """Give what is below a moved directory the doubts of its `old` path, instead of the ages known at the `new` one."""
        for below in [path for path in self._stamps if names.is_below(path, new)]:
            self._stamps.pop(below, None)
        if any(names.is_at_or_below(path, old) or names.is_at_or_below(old, path) for path in self._doubts):
            self.invalidate(new)

    def record_deleted(self, item: Item) -> None:
        """Record our own delete, or a 404: `item`, in its last state, is gone, and a directory with everything below it."""
        known = self.tree.get(item.id) or item
        path = known.path
        self.tree.remove(known.id)
        if known.is_dir and any(other.is_dir for other in self.tree.candidates(path)):
            # Two directories share the items below: only the server knows which of these were deleted with this one.
            self.invalidate(path)
        elif known.is_dir:
            for other in self.tree.descendants(path):
                self.tree.remove(other.id)
        self._record_change(
            OwnChange(0, {known.id}, {path, item.path}, with_descendants=known.is_dir, deleted=True)
        )

    def invalidate(self, path: str) -> None:
        """Stop trusting what was learned before now of `path` and of what is below it."""
        self._mark_doubtful(path, self._next_ticket())

    def ids_changed_since(self, ticket: int) -> set[str]:
        """Return the ids of items that this mount changed since a request in flight, with this ticket, began.

        Empty if a directory was renamed: its items may be anywhere in the list, and need not be known.
        """
        since = [change for number, change in self._changes if number == change.ticket > ticket]
        if any(change.with_descendants and not change.deleted for change in since):
            return set()
        return {item_id for change in since for item_id in change.ids}

    # age

    def is_fresh(self, path: str, not_before: float = NEVER) -> bool:
        """Return whether what the tree says of `path` was requested at `not_before` or later, and is not in doubt."""
        needed = self.minimum_ticket(path) if self._doubts else 0
        snapshot = self.snapshot
        if snapshot.began >= not_before and snapshot.ticket >= needed:
            return True
        stamp = self._stamps.get(path)
        return stamp is not None and stamp.began >= not_before and stamp.ticket >= needed

    def is_directory_listed_since(self, directory: str, not_before: float) -> bool:
        """Return whether a directory's children come from a listing that began at `not_before` or later.

        Single children may be in doubt even so.
        """
        return self.snapshot.began >= not_before and self.snapshot.ticket >= self.minimum_ticket(directory)

    def doubtful_children(self, directory: str) -> list[str]:
        """Return the paths in a directory that are in doubt, even if the directory is not."""
        doubts = [path for path in self._doubts if path and names.parent(path) == directory]
        return [path for path in doubts if not self.is_fresh(path)]

    def minimum_ticket(self, path: str) -> int:
        """Return the least ticket that a reply about `path` must have."""
        return (
            max((self._doubts.get(at, 0) for at in _path_and_ancestors(path)), default=0)
            if self._doubts
            else 0
        )

    def confirmed_at(self, path: str) -> float:
        """Return when `path` was last confirmed to be as it is known, in seconds of the clock."""
        return max(stamp.confirmed for stamp in self._stamps_for(path))

    def last_seen_at(self, item: Item) -> float:
        """Return when this version of an item was last known to be at its path, in seconds of the clock.

        Returns NEVER if that is in doubt, or if another version is known.
        """
        known = self.tree.get(item.id)
        same = known is not None and (known.path, known.version) == (item.path, item.version)
        is_certain = same and self.is_fresh(item.path)
        return self.confirmed_at(item.path) if is_certain else NEVER

    def _stamps_for(self, path: str) -> tuple[Stamp, ...]:
        """Return the stamps that count for a path: the snapshot's, and its own."""
        stamp = self._stamps.get(path)
        return (self.snapshot,) if stamp is None else (self.snapshot, stamp)

    def _record_change(self, change: OwnChange) -> None:
        """Keep a change for the requests in flight; a change without a ticket is ours, and newer than all of them."""
        number = self._next_ticket()
        if not change.ticket:
            self._exclude_from_differences(change)
        if self._in_flight:
            self._changes.append((number, change._replace(ticket=change.ticket or number)))

    def _exclude_from_differences(self, change: OwnChange) -> None:
        """Drop what we have changed ourselves from the differences to report."""
        for path in change.paths:
            self._pending_differences.pop(path, None)
        if change.with_descendants:
            below = (
                path
                for path in self._pending_differences
                if any(names.is_below(path, at) for at in change.paths)
            )
            for path in [*below]:
                del self._pending_differences[path]

    def _mark_doubtful(self, path: str, number: int) -> None:
        self._doubts[path] = max(number, self._doubts.get(path, 0))

    def _next_ticket(self) -> int:
        self.last_ticket += 1
        return self.last_ticket


def _path_and_ancestors(path: str) -> Iterator[str]:
    """Yield `path`, the directories above it, and the root."""
    while path:
        yield path
        path = names.parent(path)
    yield ""
