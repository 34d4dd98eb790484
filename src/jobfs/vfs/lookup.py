"""What paths show: attributes, directories, and the changes of others (vfs/semantics.md 1, 2 and 7)."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from jobfs import names
from jobfs.errors import FsError
from jobfs.namespace.differences import Difference
from jobfs.nodes import Attr, Item
from jobfs.state.localbytes import free_bytes
from jobfs.vfs.handles import OpenFile, PageCacheTracker
from jobfs.vfs.report import Report
from jobfs.vfs.view import View

#: Bytes of a block, and how many files more there may be, as `statvfs` shows it.
_BLOCK, _FREE = 4096, 1 << 20


class LookupOperations:
    """Answers about paths. May be called from any thread."""

    def __init__(self, view: View, pages: PageCacheTracker, report: Report) -> None:
        self._view, self._pages, self._report = view, pages, report
        self._state, self._namespace = view.state, view.namespace
        self._health = view.write_back.client.health

    def getattr(self, path: str) -> Attr:
        """Attributes of a path. Raises FsError(ENOENT), ApiError (section 2)."""
        if path.startswith(names.CONTROL_DIR) and (name := names.control_name(path)) is not None:
            return self._report.attr(name)
        return self._view.attr_of_node(self._view.with_size(path, self._view.get(path)))

    def cached_getattr(self, path: str) -> Attr:
        """`getattr` of a directory's entry, for a listing. Raises FsError(ENOENT) also where a request would be needed."""
        node = self._view.find_cached(path)
        if (
            node is None
            or self._view.item_without_size(node) is not None
            or self.handles_on_other_versions(path)
        ):
            raise FsError(errno.ENOENT)
        return self._view.attr_of_node(node)

    def is_as_listed(self, path: str) -> bool:
        """Return whether `cached_getattr` shows what `listdir` has shown in this edition: an item of known size that is not
        open.
        """
        if (
            self._state.index.file_at(path)
            or self._state.index.has_override(path)
            or self._pages.handles_at(path)
        ):
            return False
        item = self._namespace.cached_lookup(path)
        # A size that the server does not tell may have been found out since.
        return item is not None and (item.is_dir or item.size is not None)

    def last_attr(self, path: str) -> Attr:
        """Attributes of a path as they were shown last, those of the version that is open there. Raises FsError(ENOENT)."""
        open_item = next((handle.item for handle in self.handles_on_other_versions(path)), None)
        node = open_item or self._view.find_known(path)
        if node is None or self._view.item_without_size(node) is not None:
            raise FsError(errno.ENOENT)
        return self._view.attr_of_node(node)

    def take_differences(self) -> list[Difference]:
        """What others have changed since this was asked last, and is shown (section 7)."""
        return [
            news
            for news in self._namespace.take_differences()
            if not any(map(self._is_shown_by_us, (news.path, news.old)))
        ]

    def _is_shown_by_us(self, path: str) -> bool:
        """True if a path shows what this machine says of it, or what it says is on its way to the server."""
        file = self._state.index.file_at(path) if path else None
        return self._state.index.has_override(path) or (
            file is not None and (file.overrides_server or file.change is not None)
        )

    def attr_of_item(self, item: Item, path: str = "") -> Attr:
        """Attributes of what the server shows or has shown, but of the version that is open at `path`, if one is."""
        return self._view.attr_of_node(
            next((each.item for each in self._pages.handles_at(path) if each.item), item)
        )

    def is_open(self, path: str) -> bool:
        """True if a program has a file at a path or below it open."""
        return self._pages.has_open_within(path)

    def refresh_if_stale(self) -> None:
        """Read the listing if it is older than the effective TTL, for who watches. Raises ApiError."""
        health = self._health
        before = health.requests
        self._namespace.children("")
        # With those that others have made meanwhile: it need not be exact.
        self._report.watching["requests"] += health.requests - before

    def handles_on_other_versions(self, path: str) -> Sequence[OpenFile]:
        """Handles at this path, if another version is shown there (section 3, Open files are pinned). No request is made."""
        there = self._pages.handles_at(path)
        node = self._view.find_known(path) if there else None
        return there if isinstance(node, Item) and not self._pages.is_only_version(path, node.version) else ()

    def edition(self) -> int:
        """A number that stays the same while every `getattr` would be answered as before; 0 if that can't be said."""
        edition = self._namespace.edition()
        return edition + self._state.index.edition if edition else 0

    def changes_with_edition(self, path: str) -> bool:
        """True if the attributes of this path change only with the edition: they are the server's."""
        known_here = self._state.index.file_at(path) or self._state.index.has_override(path)
        return not known_here and self._namespace.peek(path) is not None

    def statfs(self) -> dict[str, int]:
        """What `statvfs` shows: sum of known sizes; free space is that of the disk that holds unsent work (section 2)."""
        facts = self._namespace.status()
        used, room = -(-facts.size // _BLOCK), free_bytes(self._state.bytes.directory) // _BLOCK
        return {
            "f_bsize": _BLOCK, "f_frsize": _BLOCK, "f_blocks": used + room, "f_bfree": room, "f_bavail": room,
            "f_files": facts.items + _FREE, "f_ffree": _FREE, "f_favail": _FREE, "f_namemax": names.NAME_MAX,
        }  # fmt: skip

    def listdir(self, path: str) -> list[tuple[str, Attr]]:
        """Entries of a directory without `.` and `..`. Raises FsError(ENOENT, ENOTDIR), ApiError (section 1)."""
        if (name := names.control_name(path)) is not None:
            return self._report.list_entries(name)
        attr = self._view.attr_of_node
        # By inode number, as some programs sort them anyway: so all programs read files in one order (see prefetch.py).
        return sorted(
            ((name, attr(node)) for name, node in self._view.list(path).items()),
            key=lambda entry: entry[1].ino,
        )
