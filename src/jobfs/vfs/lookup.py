"""Operations that only look: attributes, directory listings, and the changes of others (vfs/semantics.md 1, 2 and 7)."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from jobfs import names
from jobfs.errors import FsError
from jobfs.namespace.differences import Difference, DifferenceKind
from jobfs.nodes import Attr, Item
from jobfs.state.localbytes import free_bytes
from jobfs.vfs.handles import OpenFile, PageCacheTracker
from jobfs.vfs.report import Report
from jobfs.vfs.view import View

#: Bytes of a block, and number of free inodes, as `statvfs` shows them.
_BLOCK, _FREE = 4096, 1 << 20


class LookupOperations:
    """The lookups of a mount. Every method may be called from any thread."""

    def __init__(self, view: View, pages: PageCacheTracker, report: Report) -> None:
        self._view, self._pages, self._report = view, pages, report
        self._state, self._namespace = view.state, view.namespace
        self._health = view.write_back.client.health

    def getattr(self, path: str) -> Attr:
        """Return the attributes of a path (vfs/semantics.md 2). Raises FsError(ENOENT, ENOTDIR), ApiError."""
        if path.startswith(names.CONTROL_DIR) and (name := names.name_in_control_dir(path)) is not None:
            return self._report.attr(name)
        return self._view.attr_of_node(self._view.ensure_size_known(path, self._view.get(path)))

    def note_missing(self, path: str, pid: int) -> None:
        """Note that the thread `pid` has got ENOENT for a path: what it creates there replaces nothing unread (4.62).

        A name that only this mount has freed, on the server not yet, does not count: a file made there replaces the old one.
        """
        if not self._state.index.has_override(path):
            self._state.read_log.note_missing(pid, path)

    def cached_getattr(self, path: str) -> Attr:
        """Return the attributes of a directory entry for a listing.

        Raises FsError(ENOENT), also where a request would be needed.
        """
        node = self._view.find_cached(path)
        if (
            node is None
            or self._view.item_without_size(node) is not None
            or self.handles_on_other_versions(path)
        ):
            raise FsError(errno.ENOENT)
        return self._view.attr_of_node(node)

    def may_repeat_listed_attr(self, path: str) -> bool:
        """Return whether `cached_getattr` would repeat the attributes that `listdir` has returned in this edition.

        That is certain for an item without a File, an override or a handle, if it is a directory or has a size.
        """
        if self._state.index.is_decided_here(path) or self._pages.handles_at(path):
            return False
        item = self._namespace.cached_lookup(path)
        # A size that the item lacks may have been measured since.
        return item is not None and (item.is_dir or item.size is not None)

    def last_attr(self, path: str) -> Attr:
        """Return the attributes that a path has last shown, or those of the version that is open there; no request is made.

        Raises FsError(ENOENT).
        """
        open_item = next((handle.item for handle in self.handles_on_other_versions(path)), None)
        node = open_item or self._view.find_known(path)
        if node is None or self._view.item_without_size(node) is not None:
            raise FsError(errno.ENOENT)
        return self._view.attr_of_node(node)

    def take_differences(self) -> list[Difference]:
        """Return the changes of others since the last call, without those that a File or a Change here hides (section 7)."""
        found = map(self._visible_part, self._namespace.take_differences())
        return [difference for difference in found if difference is not None]

    def _visible_part(self, difference: Difference) -> Difference | None:
        """Return what programs see of a difference: of a rename, one end, if a File or a Change here hides the other."""
        path, old = difference.path, difference.old
        is_hidden, is_old_hidden = map(self._state.index.is_decided_here, (path, old))
        if is_hidden:
            deleted = Difference(DifferenceKind.DELETED, old, difference.item)
            return deleted if old and not is_old_hidden else None
        return Difference(DifferenceKind.CREATED, path, difference.item) if is_old_hidden else difference

    def attr_of_item(self, item: Item, path: str = "") -> Attr:
        """Return the attributes of the version that is open at `path`, or else those of `item`."""
        return self._view.attr_of_node(
            next((each.item for each in self._pages.handles_at(path) if each.item), item)
        )

    def is_open(self, path: str) -> bool:
        """Return whether a program has a file open at or below a path."""
        return self._pages.has_open_within(path)

    def refresh_if_stale(self) -> None:
        """Read the listing if it is older than the effective TTL, for programs that watch files. Raises ApiError."""
        health = self._health
        old_requests = health.requests
        self._namespace.children("")
        # This may count concurrent requests of other threads: the figure need not be exact.
        self._report.watching["requests"] += health.requests - old_requests

    def handles_on_other_versions(self, path: str) -> Sequence[OpenFile]:
        """Return the handles at a path if one shows another version than the path (section 3, Open files are pinned).

        No request is made.
        """
        found = self._pages.handles_at(path)
        node = self._view.find_known(path) if found else None
        return found if isinstance(node, Item) and not self._pages.is_only_version(path, node.version) else ()

    def edition_if_fresh(self) -> int:
        """Return a number that stays the same while every `getattr` has the same answer; 0 if that is not known."""
        edition = self._namespace.edition_if_fresh()
        return edition + self._state.index.edition if edition else 0

    def changes_only_with_edition(self, path: str) -> bool:
        """Return whether the attributes of a path change only with the edition, because they are the server's."""
        return not self._state.index.is_decided_here(path) and self._namespace.peek(path) is not None

    def statfs(self) -> dict[str, int]:
        """Return what `statvfs` shows: known sizes as used space, free space of the state directory's disk (section 2)."""
        facts = self._namespace.status()
        used, room = -(-facts.size // _BLOCK), free_bytes(self._state.bytes.directory) // _BLOCK
        return {
            "f_bsize": _BLOCK, "f_frsize": _BLOCK, "f_blocks": used + room, "f_bfree": room, "f_bavail": room,
            "f_files": facts.items + _FREE, "f_ffree": _FREE, "f_favail": _FREE, "f_namemax": names.NAME_MAX,
        }  # fmt: skip

    def listdir(self, path: str) -> list[tuple[str, Attr]]:
        """Return a directory's entries with their attributes, without `.` and `..` (section 1).

        Raises FsError(ENOENT, ENOTDIR), ApiError.
        """
        if (name := names.name_in_control_dir(path)) is not None:
            return self._report.list_entries(name)
        attr = self._view.attr_of_node
        # By inode number, by which some programs sort them anyway: then all programs read files in one order (prefetch.py).
        return sorted(
            ((name, attr(node)) for name, node in self._view.list(path).items()),
            key=lambda entry: entry[1].ino,
        )
