"""The floor: a file system in memory on fusepy, which costs only what fusepy itself costs.

It has lean callbacks, attributes that are packed once, the same kernel timeouts as jobfs, no `keep_cache`, and long-lived threads
in `fuse_loop`. It shares no code with jobfs: a slower jobfs would make such a floor slower, too. Run it as a process on a
directory, whose files it serves from memory, read-only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import fuse

from .lab import Lab
from .system import Mounted, System
from .tree import Tree, write

_THREADS = 32
_OPTIONS = "fsname=floor,use_ino,default_permissions,big_writes,attr_timeout=1,entry_timeout=1,ro"
_STAT_SIZE = ctypes.sizeof(fuse.c_stat)

_library = fuse._libfuse
_setup = CFUNCTYPE(
    c_void_p, c_int, c_void_p, c_void_p, c_size_t, POINTER(c_void_p), POINTER(c_int), c_void_p
)(("fuse_setup", _library))  # fmt: skip
_loop = CFUNCTYPE(c_int, c_void_p)(("fuse_loop", _library))
_teardown = CFUNCTYPE(None, c_void_p, c_void_p)(("fuse_teardown", _library))


class Memory:
    """Callbacks on dictionaries; a path is bytes, as libfuse passes it."""

    def __init__(self, directory: Path) -> None:
        self._stats: dict[bytes, bytes] = {}
        self._entries: dict[bytes, list[bytes]] = {}
        self._contents: dict[bytes, bytes] = {}
        self._handles: dict[int, bytes] = {}
        self._next = 0
        for above, directories, names in os.walk(directory):
            path = b"/" + os.fsencode(os.path.relpath(above, directory)) if above != str(directory) else b"/"
            self._add(path, os.stat(above))
            self._entries[path] = [os.fsencode(name) for name in [*directories, *names]]
            for name in names:
                place = Path(above, name)
                file = (b"" if path == b"/" else path) + b"/" + os.fsencode(name)
                self._contents[file] = place.read_bytes()
                self._add(file, place.stat())

    def _add(self, path: bytes, found: os.stat_result) -> None:
        packed = fuse.c_stat()
        packed.st_ino, packed.st_mode, packed.st_nlink = found.st_ino, found.st_mode, found.st_nlink
        packed.st_uid, packed.st_gid, packed.st_size = found.st_uid, found.st_gid, found.st_size
        packed.st_blocks, packed.st_blksize = found.st_blocks, 128 * 1024
        for field in (packed.st_atimespec, packed.st_mtimespec, packed.st_ctimespec):
            field.tv_sec = int(found.st_mtime)
        self._stats[path] = bytes(packed)

    def getattr(self, path: bytes, buffer: Any) -> int:
        found = self._stats.get(path)
        if found is None:
            return -errno.ENOENT
        ctypes.memmove(buffer, found, _STAT_SIZE)
        return 0

    def readdir(self, path: bytes, buffer: Any, fill: Any, offset: int, info: Any) -> int:
        fill(buffer, b".", None, 0)
        fill(buffer, b"..", None, 0)
        above = b"" if path == b"/" else path
        for name in self._entries[path]:
            fill(buffer, name, fuse.c_stat.from_buffer_copy(self._stats[above + b"/" + name]), 0)
        return 0

    def open(self, path: bytes, info: Any) -> int:
        content = self._contents.get(path)
        if content is None:
            return -errno.ENOENT
        self._next += 1
        self._handles[self._next] = content
        info.contents.fh = self._next
        return 0

    def read(self, path: bytes, buffer: Any, size: int, offset: int, info: Any) -> int:
        data = self._handles[info.contents.fh][offset : offset + size]
        ctypes.memmove(buffer, data, len(data))
        return len(data)

    def release(self, path: bytes, info: Any) -> int:
        self._handles.pop(info.contents.fh, None)
        return 0


def serve(directory: Path, mountpoint: str) -> None:
    """Mount the contents of `directory`, and serve them until SIGTERM."""
    memory, table = Memory(directory), fuse.fuse_operations()
    for name, kind, *_ in fuse.fuse_operations._fields_:
        if hasattr(memory, name):
            setattr(table, name, kind(getattr(memory, name)))
    words = [b"floor", b"-f", b"-o", _OPTIONS.encode(), os.fsencode(mountpoint)]
    place, threads = c_void_p(), c_int()
    session = _setup(
        len(words), (c_char_p * len(words))(*words), byref(table), ctypes.sizeof(table), byref(place),
        byref(threads), None,
    )  # fmt: skip
    if not session:
        sys.exit("the floor could not be mounted")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pool = [threading.Thread(target=_loop, args=(session,), daemon=True) for _ in range(_THREADS)]
    for thread in pool:
        thread.start()
    print("mounted", flush=True)
    signal.sigwait({signal.SIGTERM})
    subprocess.run(["fusermount", "-u", "-z", mountpoint], check=False)
    for thread in pool:
        thread.join(5)
    _teardown(session, place)


class Floor(System):
    """The empty file system as a system under test, without a network."""

    name = "floor"

    def __init__(self, lab: Lab, datasets: dict[str, Tree]) -> None:
        super().__init__(lab)
        self._source = lab.fresh("floor")
        for name, content in datasets.items():
            write(self._source / name, content)

    @contextmanager
    def mount(self, dataset: str, **options: Any) -> Iterator[Mounted]:
        """Mount one of the data sets that the constructor got."""
        with self.lab.mount_point() as directory:
            command = [sys.executable, "-m", "_bench.floor", self._source / dataset, directory]
            with self.lab.process(command) as process:
                self.lab.read_line(process)
                yield Mounted(directory, [process.pid])


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
