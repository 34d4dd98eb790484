"""A Vfs in memory, for tests of what lies above the Vfs; `hooks` let a test block, break or count a call."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobfs.errors import FsError
from jobfs.nodes import Attr, Sent
from jobfs.vfs import Caller, OpenResult


@dataclass
class Node:
    mode: int
    ino: int
    data: bytearray = field(default_factory=bytearray)
    atime: int = 0
    mtime: int = 0
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)


class MemoryVfs:
    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._inodes = itertools.count(2)
        self._handles = itertools.count(1)
        self.nodes: dict[str, Node] = {"": Node(stat.S_IFDIR | 0o755, 1)}
        self.open_files: dict[int, Node] = {}
        self.warnings: list[str] = []
        self.left_alone = 0
        self.callers: list[Caller] = []
        self.flags: list[int] = []
        self.calls: Counter[str] = Counter()
        self.hooks: dict[str, Callable[[str], None]] = {}
        self.waiting: list[str] = []
        self.direct_io = False
        #: True: what is opened is a version of the server, not written here.
        self.of_the_server = False

    def put(self, path: str, data: bytes = b"", mode: int = stat.S_IFREG | 0o644) -> Node:
        with self._lock:
            now = time.time_ns()
            node = Node(mode, next(self._inodes), bytearray(data), now, now)
            self.nodes[path] = node
            return node

    def _call(self, name: str, path: str = "") -> None:
        self.calls[name] += 1
        hook = self.hooks.get(name)
        if hook is not None:
            hook(path)

    def _node(self, path: str) -> Node:
        node = self.nodes.get(path)
        if node is None:
            raise FsError(errno.ENOENT)
        return node

    @staticmethod
    def _attr(node: Node) -> Attr:
        nlink = 2 if stat.S_ISDIR(node.mode) else 1
        size = len(node.data)
        return Attr(node.ino, node.mode, nlink, node.uid, node.gid, size, node.atime, node.mtime, node.mtime)

    def empty_trash(self) -> None:
        """Nothing was given up here."""

    def edition(self) -> int:
        return 0

    def getattr(self, path: str) -> Attr:
        self._call("getattr", path)
        return self._attr(self._node(path))

    def looked_up(self, path: str) -> Attr:
        """Of a name with "to-be-asked-for" in it nothing is known."""
        self._call("looked_up", path)
        if "to-be-asked-for" in path:
            raise FsError(errno.ENOENT)
        return self._attr(self._node(path))

    def others(self, path: str) -> list[Any]:
        return []

    def fgetattr(self, fh: int) -> Attr:
        self._call("fgetattr")
        return self._attr(self.open_files[fh])

    def listdir(self, path: str) -> list[tuple[str, Attr]]:
        self._call("listdir", path)
        prefix = path + "/" if path else ""
        with self._lock:
            self._node(path)
            return [
                (name[len(prefix) :], self._attr(node))
                for name, node in self.nodes.items()
                if name.startswith(prefix) and name and "/" not in name[len(prefix) :]
            ]

    def open(self, path: str, flags: int) -> OpenResult:
        self._call("open", path)
        self.flags.append(flags)
        return self._opened(self._node(path))

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> OpenResult:
        self._call("create", path)
        self.callers.append(caller)
        self.flags.append(flags)
        return self._opened(self.put(path, mode=stat.S_IFREG | mode))

    def _opened(self, node: Node) -> OpenResult:
        fh = next(self._handles)
        self.open_files[fh] = node
        return OpenResult(fh, self.direct_io, False, len(node.data) if self.of_the_server else -1)

    def read(self, fh: int, size: int, offset: int) -> bytes:
        self._call("read")
        return bytes(self.open_files[fh].data[offset : offset + size])

    def write(self, fh: int, data: bytes | memoryview, offset: int, *, mapped: bool = False) -> int:
        self._call("write")
        node = self.open_files[fh]
        with self._lock:
            if len(node.data) < offset:
                node.data.extend(bytes(offset - len(node.data)))
            node.data[offset : offset + len(data)] = data
            node.mtime = time.time_ns()
        return len(data)

    def written(self, fh: int) -> int:
        return len(self.open_files[fh].data)

    def flush(self, fh: int) -> None:
        self._call("flush")

    def fsync(self, fh: int) -> None:
        self._call("fsync")

    def release(self, fh: int) -> None:
        self._call("release")
        del self.open_files[fh]

    def fsyncdir(self) -> None:
        self._call("fsyncdir")

    def truncate(self, path: str, length: int) -> None:
        self._call("truncate", path)
        self._resize(self._node(path), length)

    @staticmethod
    def _resize(node: Node, length: int) -> None:
        del node.data[length:]
        node.data.extend(bytes(length - len(node.data)))

    def rename(self, old: str, new: str) -> None:
        self._call("rename", old)
        with self._lock:
            self._node(old)
            for name in [name for name in self.nodes if name == old or name.startswith(old + "/")]:
                self.nodes[new + name[len(old) :]] = self.nodes.pop(name)

    def unlink(self, path: str) -> None:
        self._call("unlink", path)
        self._node(path)
        del self.nodes[path]

    def statfs(self) -> dict[str, int]:
        self._call("statfs")
        return {"f_bsize": 4096, "f_blocks": 1000, "f_bfree": 600, "f_bavail": 500, "f_namemax": 255}

    def unsent(self, path: str | None = None) -> list[dict[str, Any]]:
        return [{"path": path} for path in self.waiting]

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[Sent], None] | None = None
    ) -> list[str]:
        self._call("flush_all", path or "")
        if progress is not None:
            progress(Sent(0, len(self.waiting)))
        return list(self.waiting)

    def start(self) -> None:
        self._call("start")

    def stop(self) -> None:
        self._call("stop")
