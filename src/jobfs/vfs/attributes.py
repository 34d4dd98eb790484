"""Attributes: what goes to the server, what this machine remembers, and what `jobfs info` shows (vfs/semantics.md 2)."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from typing import Any

from jobfs import names
from jobfs.errors import FsError
from jobfs.nodes import Item, Lifecycle, Permission, clamp_ns
from jobfs.state import File, edit
from jobfs.vfs.view import Node, View

#: The uid or gid -1, which `chown` leaves as it is, as an unsigned number.
_NONE = 0xFFFFFFFF

#: The fields of an item that `jobfs info` shows beside its type.
_SHOWN = ("id", "owner", "lifecycle", "permission", "mime_type", "key", "created_at", "updated_at")


class AttributeOperations:
    """The operations on attributes. Every method may be called from any thread."""

    def __init__(self, view: View) -> None:
        self._view, self._write_back = view, view.write_back
        self._state, self._namespace = view.state, view.namespace

    def chmod(self, path: str, mode: int) -> None:
        """Set a mode: the owner's write bit is the permission on the server, others are remembered here (vfs/semantics.md 2.4).

        Raises FsError(ENOENT, EROFS, EPERM), ApiError.
        """
        self._view.check_may_change(path)
        mode &= 0o7777
        wanted = Permission.READ_WRITE if mode & 0o200 else Permission.READ_ONLY
        with self._hold_node_to_change(path, mode) as node:
            if isinstance(node, File):
                pending = {"pending_permission": wanted} if self._changes_permission(node, mode) else {}
                self._remember(node, {"mode": mode, **pending})
                return
            is_set_on_server = node.permission is not wanted
            if is_set_on_server:
                node = self._write_back.items.update_item(node, permission=wanted)
            self._remember(node, {"mode": mode, "permission": wanted}, is_new=not is_set_on_server)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Remember owner and group on this machine; -1 leaves either as it is (2.8). Raises as `chmod`."""
        self._view.check_may_change(path)
        values = {name: value for name, value in (("uid", uid), ("gid", gid)) if 0 <= value != _NONE}
        with self._hold_node_to_change(path) as node:
            self._remember(node, values)

    def utimens(self, path: str, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Remember times, in ns since the epoch, until the item changes; None leaves a time as it is (2.6). Raises as `chmod`."""
        self._view.check_may_change(path)
        given = {"atime_ns": atime_ns, "mtime_ns": mtime_ns}
        times = {name: clamp_ns(value) for name, value in given.items() if value is not None}
        with self._hold_node_to_change(path) as node:
            if isinstance(node, Item):
                now = self._view.attr_of_node(node)
                times = {"atime_ns": now.atime_ns, "mtime_ns": now.mtime_ns, **times}
                self._namespace.forget_names_changed(node)
            self._remember(node, times)

    # -- what `jobfs info` shows and `jobfs set` changes

    def info(self, path: str) -> dict[str, Any]:
        """Return what the API and this machine know about a path (2.9). Raises FsError(ENOENT), ApiError."""
        node = self._view.ensure_size_known(path, self._view.get(path))
        item = node if isinstance(node, Item) else node.item
        state, error = self._describe_state(node)
        facts: dict[str, Any] = {"path": path, "state": state, "error": error}
        if item is not None:
            facts |= {"type": str(item.kind), **{name: str(getattr(item, name)) for name in _SHOWN}}
        facts["size"] = self._view.attr_of_node(node).size
        return facts

    @staticmethod
    def _describe_state(node: Node) -> tuple[str, str]:
        """Return a node's state for `jobfs info`, and the error of its last save, "" if there is none."""
        if isinstance(node, Item):
            return "conflict" if names.parse_second_version(node.path) is not None else "clean", ""
        if node.never_sent:
            return "local", ""
        if node.refused:
            return "failed", node.refused
        change = node.change
        if change is not None:
            return "uploading" if change.is_running else "dirty", str(change.error or "")
        return "dirty" if node.local is not None or node.needs_create else "clean", ""

    def upload_then_set_attributes(self, path: str, values: dict[str, Any]) -> None:
        """Change permission and lifecycle on the server, once it has all unsent bytes (2.17).

        Raises FsError(EOPNOTSUPP) for a local only file, FsError(EBUSY) for a file that is not sent, ApiError.
        """
        self._view.check_may_change(path)
        types: dict[str, Any] = {"permission": Permission, "lifecycle": Lifecycle}
        wanted = {name: types[name](value) for name, value in values.items() if value is not None}
        node = self._create_if_implicit(path)
        if isinstance(node, File):
            if node.never_sent:
                raise FsError(errno.EOPNOTSUPP, f"{path} is on this machine only")
            self._write_back.wait_until_uploaded(node)
            if node.item is None:
                raise FsError(errno.EBUSY, f"{path} is not on the server yet: try again in a moment")
            node = node.item
        self._write_back.items.update_item(node, **wanted)

    def _remember(self, node: Node, values: dict[str, Any], *, is_new: bool = True) -> None:
        """Remember attributes of a node: an item's times for its present version, those of a File while the File exists.

        `is_new` as in `State.write`.
        """
        values = {**values, "ctime_ns": time.time_ns()}
        with self._state.lock:
            if isinstance(node, Item):
                file, lasting = self._state.get_or_add_file(node), bool(node.id)
                values = {**file.fields_to_reset(node), **values}
            else:
                file, lasting = node, node.recorded and node.path is not None
            if lasting:
                self._state.write(edit(file, **values), is_new=is_new)
            else:
                self._state.apply_in_memory(file, **values)

    @contextlib.contextmanager
    def _hold_node_to_change(self, path: str, mode: int | None = None) -> Iterator[Item | File]:
        """Yield the node whose attributes change: an item, or a File that still overrides the server, with its lock held.

        `mode`: the mode to set. If it means another permission on the server, wait until no save of the File is in flight.
        """
        node = self._create_if_implicit(path)
        if isinstance(node, File):
            if mode is not None and self._changes_permission(node, mode):
                self._write_back.wait_or_withdraw_save(node)
            with node.lock:
                if node.overrides_server or node.item is None:
                    yield node
                    return
                node = node.item
        yield node

    def _changes_permission(self, file: File, mode: int) -> bool:
        """Return whether `mode` means another permission on the server than the file has, or one is pending already."""
        writable = bool(self._view.attr_of_node(file).mode & 0o200)
        return not file.never_sent and (writable != bool(mode & 0o200) or file.pending_permission is not None)

    def _create_if_implicit(self, path: str) -> Item | File:
        """Return the node at a path; make a directory on the server if the path is an implicit one. Raises FsError, ApiError."""
        node = self._view.get(path)
        if not isinstance(node, Item) or not node.is_implicit:
            return node
        if not path:
            raise FsError(errno.EPERM)
        self._write_back.replacer.make_missing_directory(path)
        return self._view.get(path, max_age=0.0)
