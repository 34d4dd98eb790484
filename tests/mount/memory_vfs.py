"""A Vfs in memory, for tests of the layers above the Vfs; `hooks` let a test break a call."""

from __future__ import annotations

import errno
import itertools
import stat
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobfs.errors import FsError
from jobfs.nodes import Attr, SendProgress
from jobfs.vfs import Caller, KernelFile, OpenResult


@dataclass
class Node:
    mode: int
    ino: int
    data: bytearray = field(default_factory=bytearray)
    mtime: int = 0


class MemoryVfs:
    def __init__(self) -> None:
        self._inodes = itertools.count(2)
        self._handles = itertools.count(1)
        self.nodes: dict[str, Node] = {"": Node(stat.S_IFDIR | 0o755, 1)}
        self.open_files: dict[int, Node] = {}
        self.calls: Counter[str] = Counter()
        self.hooks: dict[str, Callable[[str], None]] = {}
        #: The kernel's state that the last open received.
        self.kernel: KernelFile | None = None

    def put(self, path: str, data: bytes = b"", mode: int = stat.S_IFREG | 0o644) -> Node:
        node = Node(mode, next(self._inodes), bytearray(data), time.time_ns())
        self.nodes[path] = node
        return node

    def _call(self, name: str, path: str = "") -> None:
        self.calls[name] += 1
        if (hook := self.hooks.get(name)) is not None:
            hook(path)

    def _node(self, path: str) -> Node:
        if (node := self.nodes.get(path)) is None:
            raise FsError(errno.ENOENT)
        return node

    @staticmethod
    def _attr(node: Node) -> Attr:
        return Attr(node.ino, node.mode, 1, 0, 0, len(node.data), node.mtime, node.mtime, node.mtime)

    def edition_if_fresh(self) -> int:
        return 0

    def getattr(self, path: str) -> Attr:
        self._call("getattr", path)
        return self._attr(self._node(path))

    def note_missing(self, path: str, pid: int) -> None:
        """Nothing is saved here."""

    def cached_getattr(self, path: str) -> Attr:
        """Of a name with "to-be-asked-for" in it nothing is known."""
        self._call("cached_getattr", path)
        if "to-be-asked-for" in path:
            raise FsError(errno.ENOENT)
        return self._attr(self._node(path))

    def last_attr(self, path: str) -> Attr:
        return self._attr(self._node(path))

    def handles_on_other_versions(self, path: str) -> list[Any]:
        return []

    def open(self, path: str, flags: int, pid: int = 0, kernel: KernelFile | None = None) -> OpenResult:
        self.kernel = kernel
        self._call("open", path)
        return self._opened(self._node(path))

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> OpenResult:
        self._call("create", path)
        return self._opened(self.put(path, mode=stat.S_IFREG | mode))

    def _opened(self, node: Node) -> OpenResult:
        fh = next(self._handles)
        self.open_files[fh] = node
        return OpenResult(fh)

    def read(self, fh: int, size: int, offset: int) -> bytes:
        return bytes(self.open_files[fh].data[offset : offset + size])

    def shown_size(self, fh: int) -> int:
        return len(self.open_files[fh].data)

    def write(self, fh: int, data: bytes | memoryview, offset: int, *, mapped: bool = False) -> int:
        self.open_files[fh].data[offset : offset + len(data)] = data
        return len(data)

    def flush(self, fh: int) -> None:
        self._call("flush")

    def release(self, fh: int) -> None:
        del self.open_files[fh]

    def list_unsent(self, under: str | None = None) -> list[dict[str, Any]]:
        return []

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[SendProgress], None] | None = None
    ) -> list[str]:
        self._call("flush_all", path or "")
        if progress is not None:
            progress(SendProgress(0, 0))
        return []
