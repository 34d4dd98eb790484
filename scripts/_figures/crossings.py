"""What one operation crosses: the modules and functions of jobfs that run for it, in all threads.

Run it as a process whose PYTHONPATH names the tree to examine, so that a revision is measured with its own helpers of
`tests/support`. The operations go through the FUSE driver, without the kernel, to the local server; the results are printed as
JSON. Each operation runs once before it is counted, so that imports and questions that a mount asks once are not included. Rounds
of background threads are counted only for the save, which ends in them.

Code objects are counted, without comprehensions, lambdas and class bodies. The local server, which runs in the same process, is
left out.
"""

from __future__ import annotations

import inspect
import json
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

from tests.support.waiting import eventually
from tests.support.workspaces import Workspace, workspace

import jobfs
from jobfs.emulator import EmulatorConfig, Server, running
from jobfs.fuse.driver import FuseDriver

_ROOT = f"{Path(jobfs.__file__).parent}{os.sep}"
_LEFT_OUT = f"{_ROOT}emulator{os.sep}"
#: Seconds after which a name must be asked for again, by a single find.
_TTL = 0.5
#: Files in the directory: more than any prefetch covers.
_SIBLINGS = 150
#: Seconds without a new function after which an operation counts as finished; long enough for a round of every background thread.
_REST = 2.2


class Crossings:
    """The code objects below `root` that run while it counts, in every thread that was started under `installed`."""

    def __init__(self, root: str = _ROOT, left_out: str = _LEFT_OUT) -> None:
        self._root = root
        self._left_out = left_out
        self._seen: set[CodeType] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Observe this thread, and those that are started inside the block."""
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def await_rest(self) -> None:
        """Return when no new function has run for a while: other threads have finished their part."""
        known = -1
        while self._seen is not None and known != len(self._seen):
            known = len(self._seen)
            time.sleep(_REST)

    def _look(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._seen is not None and event == "call":
            self._seen.add(frame.f_code)

    @contextmanager
    def counting(self) -> Iterator[dict[str, list[str]]]:
        """Count what runs inside the block. At its end, fill the yielded dict: the functions by module path below the root."""
        found: dict[str, list[str]] = {}
        seen: set[CodeType] = set()
        self._seen = seen
        try:
            yield found
        finally:
            self._seen = None
        for code in seen:
            if self._counts(code):
                module = code.co_filename.removeprefix(self._root)
                found.setdefault(module, []).append(f"{code.co_qualname}:{code.co_firstlineno}")
        for functions in found.values():
            functions.sort()

    def _counts(self, code: CodeType) -> bool:
        inside = code.co_filename.startswith(self._root) and not code.co_filename.startswith(self._left_out)
        # A class body runs like a function, but its locals are not optimized.
        return inside and not code.co_name.startswith("<") and bool(code.co_flags & inspect.CO_OPTIMIZED)


def _opened(flags: int) -> SimpleNamespace:
    return SimpleNamespace(fh=0, writepage=0, flags=flags, direct_io=0, keep_cache=0)


def _save(driver: FuseDriver, server: Server, path: str, crossings: Crossings) -> dict[str, list[str]]:
    """Overwrite an existing file: from the write over fsync and close to the last DELETE, and the rest of the work."""
    items, deletes = len(server.store.items()), server.log.count("delete")
    fi = _opened(os.O_RDWR)
    _look_up(driver, path)
    driver("open", path, fi)
    driver("truncate", path, 0, fi)
    with crossings.counting() as found:
        driver("write", None, memoryview(b"new content\n"), 0, fi)
        driver("fsync", None, 0, fi)
        driver("flush", None, fi)
        driver("release", None, fi)
        # Asides and staged items are items, too, until the last DELETE.
        eventually(lambda: server.log.count("delete") > deletes and len(server.store.items()) == items)
        crossings.await_rest()
    return found


def _open(driver: FuseDriver, path: str, crossings: Crossings) -> dict[str, list[str]]:
    """Open a file for reading whose attributes and bytes are known."""
    with crossings.counting():
        _read(driver, path)
        crossings.await_rest()
    _look_up(driver, path)  # open need not repeat the requests that this makes
    fi = _opened(os.O_RDONLY)
    with crossings.counting() as found:
        driver("open", path, fi)
    driver("flush", None, fi)
    driver("release", None, fi)
    return found


def _look_up(driver: FuseDriver, path: str) -> None:
    """Look a file up as the kernel does before it opens it: from then on the kernel has its size."""
    driver("getattr", path)
    sizes = getattr(driver, "kernel_sizes", None)  # trees before KernelSizes have none
    if sizes is not None:
        note_sent = getattr(sizes, "note_sent", None) or sizes.sent  # its name in older trees
        note_sent(driver.node(), driver.vfs.getattr(path.removeprefix("/")).size, sizes.logical_clock)


def _read(driver: FuseDriver, path: str) -> None:
    _look_up(driver, path)
    fi = _opened(os.O_RDONLY)
    driver("open", path, fi)
    driver("read", None, 4096, 0, fi)
    driver("flush", None, fi)
    driver("release", None, fi)


def _getattr(driver: FuseDriver, server: Server, path: str, crossings: Crossings) -> dict[str, list[str]]:
    """Get the attributes of a name whose listing has expired. Raises AssertionError if the server was not asked for it."""
    driver("getattr", path)
    time.sleep(_TTL * 2)
    server.log.clear()
    with crossings.counting() as found:
        driver("getattr", path)
    assert server.log.count("find"), "getattr did not ask find"
    return found


def _journal(home: Path) -> dict[str, list[str]]:
    """Return the columns of each table of the journal that a mount has made below this directory."""
    (path,) = (path for path in home.rglob("*") if path.is_file() and _is_sqlite(path))
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        tables = [
            name
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        ]
        return {name: [row[1] for row in db.execute(f'PRAGMA table_info("{name}")')] for name in tables}


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def measure(home: Path) -> dict[str, dict[str, list[str]]]:
    """Return the functions of each module that a save, an open and a getattr cross, and the columns of the journal's tables."""
    crossings = Crossings()
    with running(EmulatorConfig(), home / "server") as server:
        server.store.seed({f"d/{number}": b"content" for number in range(_SIBLINGS)})
        with crossings.installed(), workspace(server, home / "mount", ttl=_TTL) as work:
            return _measured(work, server, crossings, home)


def _measured(
    work: Workspace, server: Server, crossings: Crossings, home: Path
) -> dict[str, dict[str, list[str]]]:
    driver = FuseDriver(work.vfs)
    names = [name for name, _ in work.vfs.listdir("d")]
    # Far from each other: two neighbouring files look like the beginning of a walk, and start a prefetch.
    for name in (names[-1], names[0]):
        asked = _getattr(driver, server, f"/d/{name}", crossings)
        opened = _open(driver, f"/d/{name}", crossings)
        saved = _save(driver, server, f"/d/{name}", crossings)
        work.drain()
    return {"save": saved, "open": opened, "getattr": asked, "journal": _journal(home / "mount" / "state")}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="jobfs-figures-") as directory:
        json.dump(measure(Path(directory)), sys.stdout)
